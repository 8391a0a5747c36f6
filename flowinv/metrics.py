"""Measures of what was learned."""

import math

import torch
from torch import Tensor

from .checks import check_images
from .model import InvariantClassifier
from .transforms import FAMILIES


def half_width(values: Tensor, periodic: bool, mass: float = 0.99) -> Tensor:
    """Half the length of the shortest interval (or arc) that holds `mass` of the values.

    values: (S, …), samples of one coefficient in [−1, 1], S of them.
    periodic: whether −1 and 1 are the same point, so that an arc may pass through it.
    Returns (…), in the units of the values: mass × w for a uniform distribution on ±w.

    >>> half_width(torch.linspace(-0.5, 0.5, 1001), periodic=False)
    tensor(0.4950)
    """
    S = len(values)
    inside = math.ceil(mass * S)
    ordered = values.sort(0).values
    if periodic:
        ordered = torch.cat([ordered, ordered[: inside - 1] + 2])
    return (ordered[inside - 1 :] - ordered[: len(ordered) - inside + 1]).amin(0) / 2


@torch.no_grad()
def invariance_width(
    model: InvariantClassifier, images: Tensor, coefficient: str = "rotation", samples: int = 400
) -> Tensor:
    """The half-width of q(T | I) in one coefficient, for each image: (B,), in units of the box.

    The shortest interval (arc) with 99% of the samples, halved; of a rotation, times 180 it is degrees.
    """
    check_images(images)
    images = images.to(next(model.parameters()).device)
    names = model.family.names
    if coefficient not in names:
        raise ValueError(f"coefficient: expected one of {', '.join(names)}, got {coefficient!r}")
    d = names.index(coefficient)
    T = torch.cat([model.q(part).sample((samples,))[..., d] for part in images.split(500)], 1)
    return half_width(T, model.family.periodic[d])


def class_widths(model: InvariantClassifier, images: Tensor, labels: Tensor, classes: int) -> list[float]:
    """The median half-width of the rotation in each class, in degrees."""
    widths = 180 * invariance_width(model, images).cpu()
    return [widths[labels.cpu() == c].median().item() for c in range(classes)]


@torch.no_grad()
def accuracy(model: InvariantClassifier, images: Tensor, labels: Tensor, samples: int = 20) -> float:
    """The share of images whose most probable class is right; samples = 0: the plain classifier."""
    pairs = zip(images.split(500), labels.split(500))
    return sum((model.predict(x, samples).argmax(-1).cpu() == y.cpu()).sum().item() for x, y in pairs) / len(labels)


def rotate_within(images: Tensor, limits: Tensor, generator: torch.Generator) -> Tensor:
    """Each image turned by an angle uniform within ± its own limit, (B,) in degrees."""
    T = (2 * torch.rand(len(images), 1, generator=generator) - 1) * limits[:, None] / 180
    return FAMILIES["rotation"].warp(images, T.to(images))
