"""The answer for people: how far an image may be moved, in degrees, pixels and shares.

For each coefficient the central interval of q(T | I), and where q is highest; beside it how sure
the classifier is over the whole of q. ``explain`` says it of one image, ``table`` of a data set.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .alignment import mean, most_probable
from .checks import check_count, check_images, check_labels, check_some, told, with_extra
from .data.reading import Images, as_floats, parts
from .distributions import wrap
from .model import InvariantClassifier
from .transforms import Crop
from .transforms.projective import TILT

BATCH = 64  # images at a time
CLASSIFIED = 20  # samples of an image that the classifier looks at


@dataclass(frozen=True)
class Unit:
    """What a coefficient means to a person.

    Args:
        name: of the unit, with the direction of positive numbers where there are two.
        of: from coefficients in the box, and the longer side in pixels, to numbers in the unit.
    """

    name: str
    of: Callable[[Tensor, int], Tensor]


def _angle(degrees: float, name: str = "°") -> Unit:
    return Unit(name, lambda T, side: degrees * T)


def _factor(base: float, name: str) -> Unit:
    return Unit(name, lambda T, side: base**T)


UNITS = {
    "rotation": _angle(180, "° counter-clockwise"),
    "roll": _angle(180, "° counter-clockwise"),
    "pitch": _angle(math.degrees(TILT), "° upper edge away"),
    "yaw": _angle(math.degrees(TILT), "° right edge away"),
    "hue": _angle(180),
    "translation x": Unit("pixels to the left", lambda T, side: side / 2 * T),
    "translation y": Unit("pixels up", lambda T, side: side / 2 * T),
    "scale": _factor(math.exp(-0.5), "× as large"),
    "stretch": _factor(math.exp(-0.5), "× as wide"),
    "shear": Unit("of the picture", lambda T, side: (T / 2).sinh()),
    "width": Unit("of the picture", lambda T, side: Crop.MIN_SIZE ** ((1 - T) / 2)),
    "height": Unit("of the picture", lambda T, side: Crop.MIN_SIZE ** ((1 - T) / 2)),
    "centre x": Unit("of the room to the right", lambda T, side: T),
    "centre y": Unit("of the room downwards", lambda T, side: T),
    "brightness": _factor(2, "× as bright"),
    "contrast": _factor(2, "× the contrast"),
    "saturation": _factor(2, "× the saturation"),
    "gamma": _factor(2, "as gamma"),
}
BOX = Unit("of the box", lambda T, side: T)


def unit(name: str) -> Unit:
    """The unit of a coefficient; shares of the box for those that have none of their own.

    Each tells what the coefficient does alone.

    Args:
        name: of the coefficient, as a family has it.

    Example:
        >>> unit("rotation").of(torch.tensor(0.5), 28), unit("rotation").name
        (tensor(90.), '° counter-clockwise')
    """
    return UNITS.get(re.sub(r"^\d+ ", "", name), BOX)


def interval(T: Tensor, angles: Sequence[bool], share: float = 0.9) -> tuple[Tensor, Tensor]:
    """The central interval of each coefficient: as many samples lie below it as above.

    An angle's is central about its circular mean, or about 0 where the samples prefer no direction;
    its ends may lie beyond ±1, so that the lower is always the smaller.

    Args:
        T: (S, …, D), samples in the box.
        angles: for each coefficient, whether it is an angle.
        share: of the samples that lie inside, in (0, 1).

    Returns:
        The lower and the upper ends, (…, D) each.

    Raises:
        ValueError: if the share is none.

    Example:
        >>> T = torch.linspace(-0.5, 0.5, 1001)[:, None]
        >>> interval(T, angles=[False], share=0.8)
        (tensor([-0.4000]), tensor([0.4000]))
    """
    if not 0 < share < 1:
        raise ValueError(f"share: expected a number in (0, 1), got {share}")
    angle = math.pi * T
    length = torch.stack([angle.cos().mean(0), angle.sin().mean(0)]).norm(dim=0)
    # The mean of S directions that prefer none is about 1 / √S long; that of any at most 1.
    turned = torch.tensor(angles, device=T.device) & (length > min(3 / len(T) ** 0.5, 0.9))
    centre = torch.where(turned, mean(T, tuple(angles)), 0.0)
    apart = torch.where(turned, wrap(T - centre), T)
    ends = torch.tensor([(1 - share) / 2, (1 + share) / 2], dtype=T.dtype, device=T.device)
    low, high = apart.quantile(ends, dim=0)
    return centre + low, centre + high


@dataclass(frozen=True)
class Ranges:
    """What is said of B images, in each coefficient's own unit.

    Args:
        names, units: of the D coefficients.
        low, high: (B, D), the ends of the central interval.
        pose: (B, D), the most probable transformation.
        probabilities: (B, classes), averaged over 20 samples of q(T | I).
        agreement: (B,), the share of these transformed images that are given the class that is the
            most probable on average.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    low: Tensor
    high: Tensor
    pose: Tensor
    probabilities: Tensor
    agreement: Tensor

    def columns(self, classes: Sequence[str] | None = None) -> dict[str, list]:
        """A table's columns by name, B entries each.

        Args:
            classes: their names; None: their numbers.
        """
        probability, number = self.probabilities.max(-1)
        named = [classes[c] if classes else c for c in number.tolist()]
        columns: dict[str, list] = {
            "predicted": named,
            "probability": probability.tolist(),
            "agreement": self.agreement.tolist(),
        }
        for d, (name, unit) in enumerate(zip(self.names, self.units)):
            for part in ("low", "high", "pose"):
                columns[f"{name} {part} ({unit})"] = getattr(self, part)[:, d].tolist()
        return columns


@dataclass(frozen=True)
class Explanation:
    """What ``explain`` returns; printing it says it in words.

    Args:
        ranges: of the one image, B = 1.
        share: of q(T | I) that lies in a range.
        image: (C, H, W).
        T: (S, D), samples of q(T | I).
        samples: (n, C, H, W), the first of them as transformed images.
        classes: the classes' names, or None.
    """

    ranges: Ranges
    share: float
    image: Tensor
    T: Tensor
    samples: Tensor
    classes: tuple[str, ...] | None = None

    def grid(self, columns: int = 5) -> Tensor:
        """The image and then its samples, in rows: (C, height, width)."""
        from torchvision.utils import make_grid  # importing it takes a second

        return make_grid(torch.cat([self.image[None], self.samples]), columns, pad_value=1.0)

    def __str__(self) -> str:
        r = self.ranges
        probability, number = r.probabilities[0].max(-1)
        c = int(number)
        lines = [
            f"class {self.classes[c] if self.classes else c} with probability {probability:.2f};"
            f" {r.agreement[0]:.0%} of the transformed images are given it"
        ]
        for name, unit, low, high, pose in zip(r.names, r.units, r.low[0], r.high[0], r.pose[0]):
            lines.append(
                f"{name}: {self.share:.0%} between {low:.3g} and {high:.3g}, most probable"
                f" {pose:.3g} ({unit})"
            )
        return "\n".join(lines)


@torch.no_grad()
def ranges(
    model: InvariantClassifier,
    images: Images,
    samples: int = 400,
    share: float = 0.9,
    workers: int = 0,
) -> Ranges:
    """The range of each image in each coefficient, and how sure the classifier is over it.

    Args:
        model: whose q and classifier are asked.
        images: (B, C, H, W), or a Dataset, as ``predict`` has it.
        samples: of q for each image.
        share: of them that lie inside.
        workers: processes that read a Dataset.

    Raises:
        ValueError: for images or numbers that are not as said.

    Example:
        >>> model = InvariantClassifier.build("fixed", "rotation", 1, classes=5, half_width=0.5)
        >>> found = ranges(model, torch.rand(2, 1, 28, 28))
        >>> found.names, found.low.shape, bool((found.high - found.low - 162).abs().max() < 20)
        (('rotation',), torch.Size([2, 1]), True)
    """
    check_count("samples", samples)
    found = []
    for part in parts(images, BATCH, workers):
        check_some(len(part))
        some = as_floats(part, model.dtype)
        with told(some, model.q, model.classifier):
            found.append(_ranges(model, some, samples, share)[0])
    tensors = ("low", "high", "pose", "probabilities", "agreement")
    whole = {name: torch.cat([getattr(part, name) for part in found]) for name in tensors}
    return Ranges(found[0].names, found[0].units, **whole)


def _ranges(
    model: InvariantClassifier, images: Tensor, samples: int, share: float
) -> tuple[Ranges, Tensor, Tensor]:
    """With the samples (S, B, D), and the first of them as images (n, B, C, H, W)."""
    images = images.to(model.device)
    family = model.family
    q = model.q(images)
    T = q.sample((samples,))
    low, high = interval(T, family.angles, share)
    pose = most_probable(q.log_prob(T), T, family.identity.to(T))
    warped = family.warp(images, T[:CLASSIFIED], validate=False)
    logits = model.classify(warped.flatten(0, 1)).unflatten(0, warped.shape[:2])
    probabilities = logits.softmax(-1)
    averaged = probabilities.mean(0)
    same = probabilities.argmax(-1) == averaged.argmax(-1)
    units = [unit(name) for name in family.names]
    side = max(images.shape[-2:])

    def in_units(T: Tensor) -> Tensor:
        columns = [u.of(column, side) for u, column in zip(units, T.unbind(-1))]
        return torch.stack(columns, -1).cpu()

    ends = torch.stack([in_units(low), in_units(high)])  # some units fall as the coefficient rises
    found = Ranges(
        tuple(family.names),
        tuple(u.name for u in units),
        low=ends.amin(0),
        high=ends.amax(0),
        pose=in_units(pose),
        probabilities=averaged.cpu(),
        agreement=same.to(averaged).mean(0).cpu(),
    )
    return found, T, warped


@torch.no_grad()
def explain(
    model: InvariantClassifier,
    image: Tensor,
    samples: int = 1000,
    share: float = 0.9,
    classes: Iterable[str] | None = None,
) -> Explanation:
    """How far one image may be moved, and how sure the classifier is of it.

    Args:
        model: a trained one.
        image: (C, H, W), floats in [0, 1] or bytes.
        samples: of q(T | I).
        share: of them that lie in a range.
        classes: the classes' names.

    Raises:
        ValueError: for an image or numbers that are not as said.

    Example:
        >>> model = InvariantClassifier.build("none", "rotation", in_channels=1, classes=2)
        >>> _ = [p.data.zero_() for p in model.classifier.parameters()]
        >>> print(explain(model, torch.rand(1, 28, 28), classes=["six", "nine"]))
        class six with probability 0.50; 100% of the transformed images are given it
        rotation: 90% between 0 and 0, most probable 0 (° counter-clockwise)
    """
    if isinstance(image, np.ndarray):
        check_images(image[None])  # which says how to convert it
    if not isinstance(image, Tensor) or image.ndim != 3:
        got = f"shape {tuple(image.shape)}" if hasattr(image, "shape") else type(image).__name__
        raise ValueError(f"image: expected a tensor (C, H, W), got {got}; for many, call `table`")
    check_images(image[None], or_bytes=True)
    check_count("samples", samples)
    image = as_floats(image, model.dtype)
    with told(image[None], model.q, model.classifier):
        found, T, warped = _ranges(model, image[None], samples, share)
    names = tuple(classes) if classes is not None else None
    image, T, warped = image.cpu(), T[:, 0].cpu(), warped[:, 0].cpu()
    return Explanation(found, share, image, T, warped, names)


def table(
    model: InvariantClassifier,
    images: Tensor,
    labels: Tensor,
    classes: Sequence[str] | None = None,
    samples: int = 400,
    share: float = 0.9,
):
    """A row an image, the odd ones out first: a ``pandas.DataFrame``.

    Beside what ``Ranges.columns`` has there are the class and each range's width, and ``oddness``:
    how far the image's widths are from the medians of its class, in robust standard deviations of
    their logarithms, the largest over the coefficients. ``by_class`` sums the table up.

    Args:
        model: a trained one.
        images: (B, C, H, W), floats in [0, 1].
        labels: (B,).
        classes: the classes' names.
        samples: of q for each image.
        share: of them that lie in a range.

    Raises:
        ValueError: for images, labels or numbers that are not as said.
        ModuleNotFoundError: pandas is not installed.
    """
    pandas = _pandas()
    found = ranges(model, images, samples, share)
    check_labels(labels, len(images), found.probabilities.shape[-1])
    widths = found.high - found.low
    frame = pandas.DataFrame({"class": [classes[c] if classes else c for c in labels.tolist()]})
    frame["oddness"] = oddness(widths, labels.cpu()).tolist()
    for d, (name, unit) in enumerate(zip(found.names, found.units)):
        frame[f"{name} width ({unit})"] = widths[:, d].tolist()
    frame = frame.join(pandas.DataFrame(found.columns(classes)))
    frame.index.name = "image"
    return frame.sort_values("oddness", ascending=False, kind="stable")


def by_class(table):
    """The number of images and the median widths of each class, narrow classes first.

    Args:
        table: what ``table`` returns.
    """
    widths = [name for name in table.columns if " width (" in name]
    medians = table.groupby("class")[widths].median()
    medians.insert(0, "images", table.groupby("class").size())
    return medians.sort_values(widths[0])


def oddness(widths: Tensor, labels: Tensor) -> Tensor:
    """How far each image's widths are from the medians of its class, (B,).

    In robust standard deviations of their logarithms, the largest over the coefficients.

    Args:
        widths: (B, D), above 0.
        labels: (B,).

    Example:
        >>> odd = oddness(torch.tensor([1.0, 1.1, 0.9, 4.0])[:, None], torch.zeros(4).long())
        >>> odd.argmax()
        tensor(3)
    """
    logs = widths.clamp(min=1e-6).log()
    odd = logs.new_zeros(len(logs))
    for c in labels.unique():
        own = labels == c
        apart = (logs[own] - logs[own].quantile(0.5, dim=0)).abs()
        usual = 1.4826 * apart.quantile(0.5, dim=0)  # the standard deviation of a Gaussian
        odd[own] = (apart / (usual + 0.05)).amax(-1)  # 5% more or less is never odd
    return odd


def _pandas():
    try:
        import pandas
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"pandas is missing: {with_extra('table')}") from None
    return pandas
