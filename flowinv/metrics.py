"""Measures of what was learned: how far q reaches, and how invariant the classifier became.

Angles are in the box's units where they are coefficients (1 is 180 degrees), in degrees where the
name says so.
"""

import math

import torch
from torch import Tensor

from .bases import wrap
from .checks import check_images
from .model import InvariantClassifier
from .transforms import FAMILIES, warp


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
    images = images.to(model.device)
    names = model.family.names
    if coefficient not in names:
        raise ValueError(f"coefficient: expected one of {', '.join(names)}, got {coefficient!r}")
    d = names.index(coefficient)
    T = torch.cat([model.q(part).sample((samples,))[..., d] for part in images.split(500)], 1)
    return half_width(T, model.family.angles[d])


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
    mass: float = 0.99,
) -> tuple[Tensor, Tensor]:
    """How well q fills an ideal range: (share of the range that q reaches, share of q that is inside).

    values: (S, B), samples of one coefficient. centres: (n, B), of the n arcs of ± half_width that make
    the ideal range of each image. q reaches the bins, of `bins` in [−1, 1], that hold `mass` of its samples,
    fullest first. Both are (B,). A uniform q of the ideal range has both near 1; too narrow a q lacks
    the first, too wide a q the second.

    >>> T = torch.linspace(-0.25, 0.25, 1001)[:, None]
    >>> reached, inside = coverage(T, torch.zeros(1, 1), 0.5, periodic=True)
    >>> round(reached.item(), 2), inside.item()
    (0.5, 1.0)
    """
    S, B = values.shape
    inside = (_distance(values, centres, periodic) <= half_width).any(1).float().mean(0)
    index = ((values + 1) / 2 * bins).long().clamp(0, bins - 1)
    counts = values.new_zeros(bins, B).scatter_add_(0, index, torch.ones_like(values))
    ordered, order = counts.sort(0, descending=True)
    needed = ordered.cumsum(0) - ordered < mass * S  # those before it do not yet hold the mass
    reached = torch.zeros_like(needed).scatter_(0, order, needed)
    middles = ((torch.arange(bins, device=values.device) + 0.5) * 2 / bins - 1)[:, None].expand(
        -1, B
    )
    ideal = (_distance(middles, centres, periodic) <= half_width).any(1)
    if not ideal.any(0).all():
        raise ValueError(
            f"coverage: an ideal range of ±{half_width} may fall between {bins} bins; take more bins"
        )
    return (reached & ideal).sum(0) / ideal.sum(0), inside


def effective_modes(values: Tensor, centres: Tensor, periodic: bool) -> Tensor:
    """exp of the entropy of the modes' shares, for each image: (B,), from 1 to n.

    values: (S, B), samples of one coefficient, each counted for the nearest of the n centres (n, B).

    >>> thirds = torch.tensor([-2 / 3, 0, 2 / 3])[:, None]
    >>> effective_modes(thirds + 0.1, thirds, periodic=True).round(decimals=3)
    tensor([3.])
    """
    nearest = _distance(values, centres, periodic).argmin(1)
    shares = torch.nn.functional.one_hot(nearest, len(centres)).float().mean(0)
    return torch.special.entr(shares).sum(-1).exp()


def rotation_error(matrices: Tensor) -> Tensor:
    """min over rotations R of ‖A − R‖ / ‖A‖, Frobenius norms, for the linear part A of (…, 2, 3): (…).

    The nearest rotation has the angle atan2(A₁₀ − A₀₁, A₀₀ + A₁₁), which gives the minimum in closed form.

    >>> rotation_error(torch.tensor([[0.0, -1.0, 0.3], [1.0, 0.0, 0.0]]))
    tensor(0.)
    """
    a, b, c, d = matrices[..., 0, 0], matrices[..., 0, 1], matrices[..., 1, 0], matrices[..., 1, 1]
    square = a * a + b * b + c * c + d * d
    distance = (square + 2 - 2 * torch.hypot(a + d, c - b)).clamp(min=0)
    return (distance / square).sqrt()


def class_widths(
    model: InvariantClassifier, images: Tensor, labels: Tensor, classes: int
) -> list[float]:
    """The median half-width of the rotation in each class, in degrees; NaN for a class without images."""
    widths = 180 * invariance_width(model, images).cpu()
    return [widths[labels.cpu() == c].median().item() for c in range(classes)]


@torch.no_grad()
def accuracy(
    model: InvariantClassifier, images: Tensor, labels: Tensor, samples: int = 20
) -> float:
    """The share of images whose most probable class is right; samples = 0: the plain classifier."""
    return (model.predict(images, samples).argmax(-1).cpu() == labels.cpu()).double().mean().item()


def rotate_within(images: Tensor, limits: Tensor, generator: torch.Generator) -> Tensor:
    """Each image turned by an angle uniform within ± its own limit, (B,) in degrees."""
    T = (2 * torch.rand(len(images), 1, generator=generator) - 1) * limits[:, None] / 180
    return FAMILIES["rotation"].warp(images, T.to(images)).clamp(0, 1)


def accuracy_under_rotation(
    model: InvariantClassifier,
    images: Tensor,
    labels: Tensor,
    degrees: list[float],
    samples: int = 20,
    align=None,
) -> list[float]:
    """Accuracy on images all turned by each of the angles.

    align: images → images before they are classified, for example
        lambda x: mean_shift(model, x).images.
    """
    accuracies = []
    for angle in degrees:
        T = images.new_full((len(images), 1), angle / 180)
        turned = FAMILIES["rotation"].warp(images, wrap(T)).clamp(0, 1)
        accuracies.append(accuracy(model, align(turned) if align else turned, labels, samples))
    return accuracies


def ekld(
    model: InvariantClassifier, images: Tensor, labels: Tensor, classes: int, degrees: float, generator: torch.Generator,
    samples: int = 20,
) -> list[float]:  # fmt: skip
    """Expected KL divergence, for each class, in nats: 0 is invariant. NaN for a class without images.

    The mean over a class's images of KL(p(· | I) ‖ p(· | I turned)), by an angle uniform in ± degrees,
    with p the prediction averaged over samples (0: the plain classifier's). Two averages over few samples
    differ by themselves, so it is biased upwards, the less the more samples. Source: Singhal et al. 2023,
    after Zhou et al. 2022.
    """
    turned = rotate_within(images, torch.full((len(images),), float(degrees)), generator)
    p, q = (model.predict(x, samples) for x in (images, turned))
    divergence = (p.exp() * (p - q)).sum(-1).cpu()
    return [divergence[labels.cpu() == c].mean().item() for c in range(classes)]


@torch.no_grad()
def invariance_bound(
    model: InvariantClassifier, images: Tensor, degrees: float, points: int = 360
) -> tuple[Tensor, Tensor]:
    """Both sides, (B, classes) each, of  |p(C | I) − p(C | A_D(I))| ≤ 2 (M − m) TV[g(T − D; A_D(I)), g(T; I)].

    D: a rotation by `degrees`. p: f averaged over g by quadrature over `points` angles, so g must be
    wider than their distance. M, m: the extremes of f(C; A_T(I)) where either density is not 0. An image
    that is turned twice is warped once, by the sum of the angles. Only for the family `rotation`, whose
    maps commute.
    Source: Singhal et al. 2023.
    """
    check_images(images)
    if model.family.names != ("rotation",):
        raise ValueError(
            f"invariance_bound: expected the family rotation, got {', '.join(model.family.names)}"
        )
    images = images.to(model.device)
    D = degrees / 180
    t = ((torch.arange(points, device=images.device, dtype=images.dtype) + 0.5) * 2 / points - 1)[
        :, None, None
    ]
    matrices = model.family.matrix(t)
    sides = []
    for part in images.split(10):
        B = len(part)
        turned = model.family.warp(part, wrap(part.new_full((B, 1), D))).clamp(0, 1)
        here, there = (
            model.q(part).log_prob(t.expand(-1, B, -1)),
            model.q(turned).log_prob(wrap(t - D).expand(-1, B, -1)),
        )
        if not (here.isfinite().any(0) & there.isfinite().any(0)).all():
            raise ValueError(
                f"invariance_bound: q has no density at any of {points} angles; take more points"
            )
        here, there = here.softmax(0), there.softmax(0)  # probabilities of the angles
        logits = model.classify(warp(part, matrices.expand(-1, B, -1, -1)).flatten(0, 1))
        f = logits.softmax(-1).unflatten(0, (points, B))
        left = ((here - there)[..., None] * f).sum(0).abs()
        support = ((here > 0) | (there > 0))[..., None]
        spread = f.where(support, -math.inf).amax(0) - f.where(support, math.inf).amin(0)
        variation = (here - there).abs().sum(0) / 2
        sides.append((left, 2 * spread * variation[:, None]))
    return tuple(torch.cat(side) for side in zip(*sides))
