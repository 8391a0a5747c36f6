"""Measures of what was learned: how far q reaches, and how invariant the classifier became.

Angles are in the box's units where they are coefficients (1 is 180 degrees), in degrees where the
name says so.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .alignment import mean
from .checks import check_count, check_images, check_labels, check_some, told
from .data.reading import Images
from .distributions import wrap
from .model import InvariantClassifier
from .transforms import FAMILIES, sampling

MASS = 0.99  # the share of the samples by which q's reach is told


def half_width(values: Tensor, periodic: bool) -> Tensor:
    """Half the length of the shortest interval (or arc) that holds 99% of the values.

    For a uniform distribution on ±w it is 0.99 w.

    Args:
        values: (S, …), S samples of one coefficient in [−1, 1].
        periodic: whether −1 and 1 are the same point, so that an arc may pass through it.

    Returns:
        (…), in the units of the values.

    Example:
        >>> half_width(torch.linspace(-0.5, 0.5, 1001), periodic=False)
        tensor(0.4950)
    """
    inside = math.ceil(MASS * len(values))
    ordered = values.sort(0).values
    if periodic:
        once_more = ordered[: inside - 1] + 2
        ordered = torch.cat([ordered, once_more])
    first = ordered[: len(ordered) - inside + 1]
    last = ordered[inside - 1 :]
    return (last - first).amin(0) / 2


@torch.no_grad()
def invariance_width(
    model: InvariantClassifier,
    images: Tensor,
    coefficient: str = "rotation",
    samples: int = 400,
) -> Tensor:
    """The half-width of q(T | I) in one coefficient, for each image.

    Half the shortest interval (arc) that holds 99% of the samples.

    Args:
        model: its q is measured.
        images: (B, C, H, W).
        coefficient: a name of the model's family.
        samples: of q for each image.

    Returns:
        (B,), in units of the box: times 180 it is degrees for a rotation.

    Raises:
        ValueError: if the family has no such coefficient.
    """
    check_images(images)
    names = model.family.names
    if coefficient not in names:
        raise ValueError(f"coefficient: expected one of {', '.join(names)}, got {coefficient!r}")
    d = names.index(coefficient)
    return half_width(_samples(model, images, samples)[..., d], model.family.angles[d])


def _distance(values: Tensor, centres: Tensor, periodic: bool) -> Tensor:
    """From values (S, B) to centres (n, B): (S, n, B)."""
    difference = values.unsqueeze(1) - centres
    return (wrap(difference) if periodic else difference).abs()


def coverage(
    values: Tensor,
    centres: Tensor,
    half_width: float,
    periodic: bool,
    bins: int = 72,
) -> tuple[Tensor, Tensor]:
    """How well q fills an ideal range: shares of the range that q reaches, of q that is inside.

    A uniform q of the ideal range has both near 1; too narrow a q lacks the first, too wide a q
    the second.

    Args:
        values: (S, B), samples of one coefficient.
        centres: (n, B), of the n arcs that make the ideal range of each image.
        half_width: of each arc.
        periodic: whether −1 and 1 are the same point.
        bins: of [−1, 1]. q reaches those, fullest first, that hold 99% of its samples.

    Returns:
        Two tensors (B,).

    Raises:
        ValueError: if an ideal range may fall between two bins.

    Example:
        >>> T = torch.linspace(-0.25, 0.25, 1001)[:, None]
        >>> reached, inside = coverage(T, torch.zeros(1, 1), 0.5, periodic=True)
        >>> round(reached.item(), 2), inside.item()
        (0.5, 1.0)
    """
    S, B = values.shape
    near = (_distance(values, centres, periodic) <= half_width).any(1)
    inside = near.float().mean(0)

    index = ((values + 1) / 2 * bins).long().clamp(0, bins - 1)
    counts = values.new_zeros(bins, B).scatter_add_(0, index, torch.ones_like(values))
    ordered, order = counts.sort(0, descending=True)
    needed = ordered.cumsum(0) - ordered < MASS * S  # those before it do not yet hold as many
    reached = torch.zeros_like(needed).scatter_(0, order, needed)

    middles = sampling.centres(bins, bins, like=values)[:, None].expand(-1, B)
    ideal = (_distance(middles, centres, periodic) <= half_width).any(1)
    if not ideal.any(0).all():
        raise ValueError(
            f"coverage: an ideal range of ±{half_width} may fall between {bins} bins;"
            " take more bins"
        )
    return (reached & ideal).sum(0) / ideal.sum(0), inside


def effective_modes(values: Tensor, centres: Tensor, periodic: bool) -> Tensor:
    """exp of the entropy of the modes' shares, for each image: from 1 to n.

    Args:
        values: (S, B), samples of one coefficient, each counted for the nearest centre.
        centres: (n, B), of the n modes.
        periodic: whether −1 and 1 are the same point.

    Returns:
        (B,).

    Example:
        >>> thirds = torch.tensor([-2 / 3, 0, 2 / 3])[:, None]
        >>> effective_modes(thirds + 0.1, thirds, periodic=True).round(decimals=3)
        tensor([3.])
    """
    nearest = _distance(values, centres, periodic).argmin(1)
    shares = F.one_hot(nearest, len(centres)).float().mean(0)
    return torch.special.entr(shares).sum(-1).exp()


def circular_deviation(degrees: Tensor) -> Tensor:
    """How far some angles (…), in degrees, are from one another: their standard deviation, ().

    For angles close together it is the usual one; infinite where they prefer no direction.
    Source: Mardia & Jupp 2000.

    Example:
        >>> circular_deviation(torch.tensor([350.0, 10.0, 370.0, -10.0]))
        tensor(10.0256)
    """
    radians = degrees.deg2rad()
    length = torch.hypot(radians.sin().mean(), radians.cos().mean()).clamp(max=1)
    return (-2 * length.log()).sqrt().rad2deg()


def circular_distance(degrees: Tensor) -> Tensor:
    """How far each of some angles, in degrees, is from the direction of their mean: of their shape.

    Where they prefer no direction, as four quarter turns do, it is from an arbitrary one.

    Example:
        >>> circular_distance(torch.tensor([350.0, 0.0, 370.0])).round()
        tensor([10.,  0., 10.])
    """
    T = degrees / 180
    return (180 * wrap(T - mean(T.flatten()[:, None], (True,)))).abs()


def rotation_error(matrices: Tensor) -> Tensor:
    """min over rotations R of ‖A − R‖ / ‖A‖, Frobenius norms, for the linear part A.

    The nearest rotation has the angle atan2(A₁₀ − A₀₁, A₀₀ + A₁₁), which gives the minimum in
    closed form.

    Args:
        matrices: (…, 2, 3).

    Returns:
        (…).

    Example:
        >>> rotation_error(torch.tensor([[0.0, -1.0, 0.3], [1.0, 0.0, 0.0]]))
        tensor(0.)
    """
    a, b, _, c, d, _ = matrices.flatten(-2).unbind(-1)
    square = a**2 + b**2 + c**2 + d**2
    distance = square + 2 - 2 * torch.hypot(a + d, c - b)
    return (distance.clamp(min=0) / square).sqrt()


def class_widths(
    model: InvariantClassifier, images: Tensor, labels: Tensor, classes: int
) -> list[float]:
    """The median half-width of the rotation in each class, in degrees.

    Args:
        model: its q is measured.
        images: (B, C, H, W).
        labels: (B,).
        classes: how many there are; one without images gets NaN.
    """
    widths = 180 * invariance_width(model, images).cpu()
    labels = labels.cpu()
    return [widths[labels == c].median().item() for c in range(classes)]


@torch.no_grad()
def accuracy(
    model: InvariantClassifier,
    images: Images,
    labels: Tensor,
    samples: int = 20,
    workers: int = 0,
) -> float:
    """The share of images whose most probable class is right.

    Args:
        model: whose prediction is measured.
        images: (B, C, H, W), or a Dataset, as ``predict`` has it.
        labels: (B,).
        samples: of q that a prediction averages; 0 for the plain classifier.
        workers: processes that read a Dataset.
    """
    check_some(len(images))  # type: ignore[arg-type]  # a Dataset's type has no length
    log_p = model.predict(images, samples, workers=workers)
    check_labels(labels, *log_p.shape)
    return (log_p.argmax(-1).cpu() == labels.cpu()).double().mean().item()


def quality(log_p: Tensor, labels: Tensor) -> dict[str, float]:
    """How good predictions are: accuracy in percent, log-likelihood in nats, calibration error.

    Args:
        log_p: (B, classes), log-probabilities as ``predict`` returns them.
        labels: (B,).

    Returns:
        ``accuracy``, ``log_likelihood`` (the mean of log p of the labels), ``standard_error`` (of
        that mean) and ``calibration_error``.

    Example:
        >>> sure_and_right = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).log()
        >>> quality(sure_and_right, torch.tensor([0, 1]))["calibration_error"]
        0.0
    """
    labels = labels.to(log_p.device)
    right = log_p.argmax(-1) == labels
    of_labels = log_p.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return {
        "accuracy": 100 * right.double().mean().item(),
        "log_likelihood": of_labels.mean().item(),
        "standard_error": (of_labels.std() / len(labels) ** 0.5).item(),
        "calibration_error": calibration_error(log_p, labels),
    }


def calibration_error(log_p: Tensor, labels: Tensor, bins: int = 15) -> float:
    """The expected calibration error: how far confidence is from the share that is right.

    Predictions go into equal bins of their confidence. The error is the mean over predictions of
    the distance of the share that is right from the mean confidence, in their bin.

    Source: Naeini et al. 2015; Guo et al. 2017.

    Args:
        log_p: (B, classes), log-probabilities.
        labels: (B,).
        bins: how many.

    Example:
        >>> unsure = torch.full((4, 2), 0.5).log()
        >>> calibration_error(unsure, torch.tensor([0, 1, 0, 1]))
        0.0
    """
    confidence, predicted = log_p.exp().max(-1)
    excess = confidence - (predicted == labels).to(confidence)
    index = (confidence * bins).long().clamp(0, bins - 1)
    sums = excess.new_zeros(bins).index_add_(0, index, excess)
    return (sums.abs().sum() / len(labels)).item()


class OfAnother(nn.Module):
    """A guide that gives each image of a batch the q(T | I) of the next one, the last the first's.

    What a prediction loses by it is what q knew about the image itself; nothing, if q is global.

    Args:
        guide: whose distributions are exchanged.

    Example:
        >>> from flowinv.guides import GUIDES
        >>> from flowinv.transforms import FAMILIES
        >>> other = OfAnother(GUIDES["flow"](FAMILIES["rotation"], 1))
        >>> other(torch.rand(2, 1, 28, 28)).sample((20,)).shape
        torch.Size([20, 2, 1])
    """

    def __init__(self, guide: nn.Module):
        super().__init__()
        self.guide = guide

    def forward(self, images: Tensor) -> TorchDistribution:
        """q(T | the next image), batch shape (B,)."""
        return self.guide(images.roll(-1, 0))


def with_guide(model: InvariantClassifier, guide: nn.Module) -> InvariantClassifier:
    """The same classifier, with another q(T | I)."""
    return InvariantClassifier(
        model.classifier, guide, model.family, model.original, model.draw, model.autocast
    ).to(model.device)


@torch.no_grad()
def share_between(model: InvariantClassifier, images: Tensor, samples: int = 200) -> Tensor:
    """Which share of each coefficient's variance lies between images: 0 for a global q.

    By the law of total variance, Var T = Var E[T | I] + E Var[T | I]; the share is that of the
    first term. For a coefficient that wraps it is the same of the circular variance, 1 − R with R
    the length of the mean of (cos πT, sin πT). It sees where q is centred, not how wide it is:
    for that see ``information``.

    Args:
        model: its q is measured.
        images: (B, C, H, W), at least two.
        samples: of q for each image. What chance adds with finitely many is taken off.

    Returns:
        (D,), in [0, 1]; 0 where q does not move.
    """
    check_some(len(images), least=2)
    check_count("samples", samples, least=2)
    T = _samples(model, images, samples)
    within = T.var(0).mean(0)
    between = (T.mean(0).var(0) - within / samples).clamp(min=0)
    shares = between / (between + within)

    angle = math.pi * T
    points = torch.stack([angle.cos(), angle.sin()])  # (2, S, B, D)
    square = points.mean(1).square().sum(0)
    length = ((samples * square - 1) / (samples - 1)).clamp(min=0).sqrt().mean(0)
    of_all = points.mean((1, 2)).norm(dim=0)
    on_circle = (length - of_all) / (1 - of_all)
    wraps = torch.tensor(model.family.periodic, device=T.device)
    return torch.where(wraps, on_circle, shares).nan_to_num(0.0).clamp(0, 1)


@torch.no_grad()
def information(
    model: InvariantClassifier, images: Tensor, samples: int = 10
) -> tuple[float, float]:
    """The mutual information of T and the image in nats, and its standard error: 0 for a global q.

    ::

        I(T; I) = E_I KL(q(T | I) ‖ q̄(T)),      q̄ the mean of q(T | I) over the images.

    Estimated with exact densities, from samples of each image's q, of which q̄ is made too: so it
    is at most log B, for B images.

    Args:
        model: its q is measured.
        images: (B, C, H, W), at least two; a hundred are a good number.
        samples: of q for each image.

    Example:
        >>> model = InvariantClassifier.build("augerino", "rotation", in_channels=1, classes=2)
        >>> round(information(model, torch.rand(10, 1, 28, 28))[0], 5)
        0.0
    """
    check_some(len(images), least=2)
    images = images.to(model.device)
    q = model.q(images)
    T = q.sample((samples,))
    B = len(images)
    per_image = []
    for i in range(B):
        log_q = q.log_prob(T[:, i : i + 1].expand(-1, B, -1))  # of image i's samples, by all
        log_mean = log_q.logsumexp(-1) - math.log(B)
        per_image.append((log_q[:, i] - log_mean).mean())
    values = torch.stack(per_image)
    return values.mean().item(), (values.std() / B**0.5).item()


def _samples(model: InvariantClassifier, images: Tensor, samples: int) -> Tensor:
    """Of q for each image: (S, B, D)."""
    check_count("samples", samples)
    parts = []
    for part in images.split(500):
        with told(part, model.q):
            parts.append(model.q(part.to(model.device)).sample((samples,)))
    return torch.cat(parts, 1)


def rotate_within(images: Tensor, limits: Tensor, generator: torch.Generator) -> Tensor:
    """Each image turned by an angle uniform within ± its own limit.

    Args:
        images: (B, C, H, W).
        limits: (B,), in degrees, at most 180.
        generator: of the angles.

    Returns:
        (B, C, H, W).
    """
    u = 2 * torch.rand(len(images), 1, generator=generator) - 1
    T = u * limits[:, None] / 180
    return FAMILIES["rotation"].warp(images, T.to(images))


def accuracy_under_rotation(
    model: InvariantClassifier,
    images: Tensor,
    labels: Tensor,
    degrees: list[float],
    samples: int = 20,
    align: Callable[[Tensor], Tensor] | None = None,
) -> list[float]:
    """Accuracy on images all turned by each of the angles.

    Args:
        model: whose prediction is measured.
        images: (B, C, H, W).
        labels: (B,).
        degrees: the angles.
        samples: of q that a prediction averages; 0 for the plain classifier.
        align: images → images before they are classified, for example
            ``lambda x: mean_shift(model, x).images``.
    """
    accuracies = []
    for angle in degrees:
        T = images.new_full((len(images), 1), angle / 180)
        turned = FAMILIES["rotation"].warp(images, wrap(T))
        if align:
            turned = align(turned)
        accuracies.append(accuracy(model, turned, labels, samples))
    return accuracies


@torch.no_grad()
def under_rotations(model: InvariantClassifier, images: Tensor, number: int = 36) -> Tensor:
    """The plain classifier's logits of each image turned all the way round, in steps.

    What the simplest rivals of a learned q are made of: the mean of the probabilities is averaging
    over the circle, and the turn that scores best is vary-and-rank. Each costs as many passes as
    there are turns.

    Args:
        model: whose classifier is asked.
        images: (B, C, H, W).
        number: of the turns, by 360° / number each; the first is none.

    Returns:
        (number, B, classes).

    Example:
        >>> model = InvariantClassifier.build("none", "rotation", in_channels=1, classes=5)
        >>> under_rotations(model, torch.rand(2, 1, 28, 28)).shape
        torch.Size([36, 2, 5])
    """
    turns = []
    for turn in range(number):
        T = wrap(images.new_full((len(images), 1), 2 * turn / number))
        turned = FAMILIES["rotation"].warp(images, T).to(model.device)
        turns.append(torch.cat([model.classify(part) for part in turned.split(500)]))
    return torch.stack(turns)


@contextmanager
def passes(model: InvariantClassifier) -> Iterator[dict[str, int]]:
    """Within, images are counted that the classifier and the encoder of q look at.

    Args:
        model: whose parts are watched.

    Returns:
        ``classifier`` and ``encoder``, so far; a q without an encoder looks at none.

    Example:
        >>> model = InvariantClassifier.build("flow", "rotation", in_channels=1, classes=5)
        >>> with passes(model) as seen:
        ...     _ = model.predict(torch.rand(2, 1, 28, 28), samples=20)
        >>> seen
        {'classifier': 40, 'encoder': 2}
    """
    seen = {"classifier": 0, "encoder": 0}
    encoders = (getattr(module, "encoder", None) for module in model.q.modules())
    parts = {"classifier": model.classifier, "encoder": next(filter(None, encoders), None)}

    def watch(name: str, module: nn.Module) -> RemovableHandle:
        def count(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            seen[name] += len(inputs[0])

        return module.register_forward_hook(count)

    hooks = [watch(name, module) for name, module in parts.items() if module is not None]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def ekld(
    model: InvariantClassifier,
    images: Tensor,
    labels: Tensor,
    classes: int,
    degrees: float,
    generator: torch.Generator,
    samples: int = 20,
) -> list[float]:
    """Expected KL divergence under rotation, for each class, in nats: 0 is invariant.

    The mean over a class's images of KL(p(· | I) ‖ p(· | I turned)), with p the averaged
    prediction. Two averages over few samples differ by themselves, so it is biased upwards, the
    less the more samples.

    Source: Singhal et al. 2023, after Zhou et al. 2022.

    Args:
        model: whose prediction is measured.
        images: (B, C, H, W).
        labels: (B,).
        classes: how many there are; one without images gets NaN.
        degrees: the angles are uniform in ± this.
        generator: of the angles.
        samples: of q that a prediction averages; 0 for the plain classifier.
    """
    turned = rotate_within(images, torch.full((len(images),), float(degrees)), generator)
    log_p = model.predict(images, samples)
    log_q = model.predict(turned, samples)
    divergence = (log_p.exp() * (log_p - log_q)).sum(-1).cpu()
    labels = labels.cpu()
    return [divergence[labels == c].mean().item() for c in range(classes)]


@torch.no_grad()
def invariance_bound(
    model: InvariantClassifier, images: Tensor, degrees: float, points: int = 360
) -> tuple[Tensor, Tensor]:
    """Both sides of the bound on how much a rotation can change a prediction.

    ::

        |p(C | I) − p(C | A_D(I))| ≤ 2 (M − m) TV[g(T − D; A_D(I)), g(T; I)]

    D is the rotation, p is f averaged over g, and M and m are the extremes of f(C; A_T(I)) where
    either density is not 0. An image that is turned twice is warped once, by the sum of the
    angles. That takes the family ``rotation``, whose maps commute.

    Source: Singhal et al. 2023.

    Args:
        model: of the family ``rotation``.
        images: (B, C, H, W).
        degrees: the angle of D.
        points: angles of the quadrature; g must be wider than their distance.

    Returns:
        The left and the right side, (B, classes) each.

    Raises:
        ValueError: if the family is another, or no point has any density.
    """
    check_images(images)
    if model.family.names != ("rotation",):
        names = ", ".join(model.family.names)
        raise ValueError(f"invariance_bound: expected the family rotation, got {names}")
    images = images.to(model.device)
    t = sampling.centres(points, points, like=images)[:, None, None]
    sides = [_bound(model, part, t, degrees / 180) for part in images.split(10)]
    left, right = zip(*sides)
    return torch.cat(left), torch.cat(right)


def _bound(
    model: InvariantClassifier, images: Tensor, t: Tensor, D: float
) -> tuple[Tensor, Tensor]:
    """Both sides, (B, classes) each, by quadrature over the angles t (points, 1, 1)."""
    points, B = len(t), len(images)
    turned = model.family.warp(images, wrap(images.new_full((B, 1), D)))
    log_g = model.q(images).log_prob(t.expand(-1, B, -1))
    log_g_turned = model.q(turned).log_prob(wrap(t - D).expand(-1, B, -1))
    if not (log_g.isfinite().any(0) & log_g_turned.isfinite().any(0)).all():
        raise ValueError(
            f"invariance_bound: q has no density at any of {points} angles; take more points"
        )
    here = log_g.softmax(0)  # probabilities of the angles
    there = log_g_turned.softmax(0)

    f = model.logits(images, t.expand(-1, B, -1)).softmax(-1)
    left = ((here - there)[..., None] * f).sum(0).abs()

    support = ((here > 0) | (there > 0))[..., None]
    M = f.where(support, -math.inf).amax(0)
    m = f.where(support, math.inf).amin(0)
    TV = (here - there).abs().sum(0) / 2
    return left, 2 * (M - m) * TV[:, None]
