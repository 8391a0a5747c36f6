"""Alignment: move an image to where its own q(T | I) is centred, or to each of its modes.

``mean_shift`` follows the mean::

    M_k = M_{k−1} · M(γ · E_{T ~ q(·; I_{k−1})} T),      I_k = I_0(M_k p),      M_0 = 1.

The maps are multiplied: a step is taken from where the image stands, in its own coordinates. The
paper adds coefficients instead, T_k = T_{k−1} + γ E[T] with I_k = A_{T_k}(I_0); the two agree where
maps commute (rotations alone, translations alone) and differ elsewhere. Means of angles are
circular. Where q has several modes, the mean lies between them and leads nowhere.

``poses`` gives all of them: the modes of q at a scale h, each with its share of q. A mode at that
scale is a maximum of q smoothed by a Gaussian kernel of standard deviation h, to which the
mean-shift of the textbooks climbs::

    T ← T + Σ_j m_j K(T_j − T) (T_j − T) / Σ_j m_j K(T_j − T),      K(d) = exp(−|d|² / 2h²).

Its points T_j, with masses m_j, are a grid weighed by q's exact density where T is one number, and
samples elsewhere. A mode's share is the mass of the points that climb to it. ``canonical`` chooses
among the poses by what the classifier makes of them.

Source: Singhal et al. 2023 (mean-shift on q); Comaniciu & Meer 2002 (with a kernel); Sheikh et al.
2007 (from point to point); Mardia & Jupp 2000 (circular means); Liu et al. 2020 (energy); Lee et
al. 2018 (distance to training images).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import ceil, log2, pi
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import MultivariateNormal

from .checks import check_count, check_images, told
from .distributions import draw, wrap
from .model import InvariantClassifier
from .transforms import Family, compose
from .transforms.sampling import centres

BATCH = 500  # images at a time
PAIRS = 2**24  # numbers that tell points apart, at a time


@dataclass(frozen=True)
class Alignment:
    """What ``mean_shift`` returns.

    Args:
        images: (B, C, H, W), aligned.
        matrices: (K + 1, B, 2, 3), the way there: warping the originals by ``matrices[k]`` gives
            the images after k steps.
        converged: (B,), whose steps became shorter than the tolerance.
    """

    images: Tensor
    matrices: Tensor
    converged: Tensor


def mean(T: Tensor, angles: tuple[bool, ...]) -> Tensor:
    """The mean of T over its samples; of angles, the direction of their resultant.

    Args:
        T: (S, …, D), samples in the box.
        angles: for each coefficient, whether it is an angle.

    Returns:
        (…, D).

    Example:
        >>> T = torch.tensor([[0.9, 0.9], [-0.9, -0.9]])
        >>> mean(T, (False, True))
        tensor([0., 1.])
    """
    sin = torch.sin(pi * T).mean(0)
    cos = torch.cos(pi * T).mean(0)
    circular = torch.atan2(sin, cos) / pi
    return torch.where(torch.tensor(angles, device=T.device), circular, T.mean(0))


@torch.no_grad()
def mean_shift(
    model: InvariantClassifier,
    images: Tensor,
    steps: int = 10,
    step_size: float = 0.1,
    samples: int = 100,
    tolerance: float = 0.0,
    towards: str = "mean",
    on_group: bool = True,
) -> Alignment:
    """Images aligned by the model's q(T | I), with the way there.

    Args:
        model: its q says where an image should go.
        images: (B, C, H, W).
        steps: K.
        step_size: γ, in (0, 1].
        samples: of q, for each step.
        tolerance: an image whose step is shorter in every coefficient stays where it is from then
            on. Means of samples are noisy: below γ · (standard deviation of q) / √samples it is
            never met.
        towards: "mean", or "mode", the most probable of the samples.
        on_group: multiply maps; False adds coefficients and averages angles as numbers, as the
            paper does.

    Raises:
        ValueError: for images or options that are not as said, and for families whose maps are no
            matrices: steps can be multiplied in affine ones, crop and projective.

    Example:
        >>> model = InvariantClassifier.build("flow", "rotation_translation", 1, classes=5)
        >>> aligned = mean_shift(model, torch.rand(8, 1, 28, 28), steps=3)
        >>> aligned.images.shape, aligned.matrices.shape
        (torch.Size([8, 1, 28, 28]), torch.Size([4, 8, 2, 3]))
    """
    check_images(images)
    check_count("steps", steps)
    check_count("samples", samples)
    if towards not in ("mean", "mode") or not 0 < step_size <= 1:
        raise ValueError(
            "mean_shift: expected towards 'mean' or 'mode', and a step_size in (0, 1],"
            f" got {towards!r} and {step_size}"
        )
    family = model.family
    angles = family.angles if on_group else (False,) * family.dim

    def target(q: TorchDistribution) -> Tensor:
        T = q.sample((samples,))
        if towards == "mean":
            return mean(T, angles)
        return most_probable(q.log_prob(T), T, family.identity.to(T))

    parts = []
    for part in images.to(model.device).split(BATCH):
        with told(part, model.q):
            parts.append(_mean_shift(model, part, target, steps, step_size, tolerance, on_group))
    return Alignment(
        images=torch.cat([part.images for part in parts]),
        matrices=torch.cat([part.matrices for part in parts], 1),
        converged=torch.cat([part.converged for part in parts]),
    )


def most_probable(log_q: Tensor, T: Tensor, identity: Tensor) -> Tensor:
    """Of samples (S, B, D) the one that q likes best, the nearest to the identity of equals.

    Args:
        log_q: (S, B), the samples' log-densities.
        T: (S, B, D).
        identity: (D,).

    Returns:
        (B, D).
    """
    equal = log_q >= log_q.amax(0) - 1e-4
    distance = torch.where(equal, (T - identity).norm(dim=-1), torch.inf)
    return T.gather(0, distance.argmin(0)[None, :, None].expand(1, -1, T.shape[-1]))[0]


def _mean_shift(
    model: InvariantClassifier,
    originals: Tensor,
    target: Callable[[TorchDistribution], Tensor],
    steps: int,
    step_size: float,
    tolerance: float,
    on_group: bool,
) -> Alignment:
    family = model.family
    identity = family.identity.to(originals)
    T = identity.expand(len(originals), -1)  # the sum, for the paper's way
    M = family.matrix(T)
    images = originals
    path = [M]
    moving = torch.ones(len(originals), dtype=torch.bool, device=originals.device)
    for _ in range(steps):
        step = step_size * (target(model.q(images)) - identity)
        moving = moving & (step.abs() >= tolerance).any(-1)
        step = torch.where(moving[:, None], step, 0.0)
        T = T + step
        M = compose(M, family.matrix(identity + step)) if on_group else family.matrix(T)
        images = family.apply(originals, M)
        path.append(M)
    return Alignment(images, torch.stack(path), ~moving)


def prototypes(images: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The average image of each class: the sharper, the better images agree in pose.

    Args:
        images: (B, C, H, W).
        labels: (B,).
        classes: how many there are; one without images gets NaN.

    Returns:
        (classes, C, H, W).

    Example:
        >>> prototypes(torch.rand(8, 1, 28, 28), torch.arange(8) % 2, classes=2).shape
        torch.Size([2, 1, 28, 28])
    """
    labels = labels.to(images.device)
    return torch.stack([images[labels == c].mean(0) for c in range(classes)])


@torch.no_grad()
def modes(
    q: TorchDistribution,
    angles: tuple[bool, ...],
    width: float = 1 / 9,
    points: int = 180,
    most: int = 8,
    least: float = 0.05,
) -> tuple[Tensor, Tensor]:
    """The modes of a distribution over the box, and each one's share of it.

    Args:
        q: batch shape (B,), event shape (D,).
        angles: for each coefficient, whether it is an angle.
        width: h, the scale at which modes are looked for, in units of the box (1/9 is 20 degrees
            of a rotation). Two that are nearer to each other than 2h are one.
        points: by which q is represented.
        most: K, if there are as many points. Of more modes the lightest are left out.
        least: a mode with a smaller share is left out, unless it is the heaviest.

    Returns:
        T (K, B, D) and shares (K, B), the heaviest first. The shares sum to 1 over the K; where
        there are fewer modes, 0, and T is the first one's again.

    Example:
        >>> from flowinv.distributions import GaussianMixture
        >>> loc, scale = torch.tensor([[[0.9], [-0.2]]]), torch.full((1, 2, 1), 0.05)
        >>> logits = torch.tensor([[0.7, 0.3]]).log()
        >>> q = GaussianMixture(logits, loc, scale, periodic=torch.tensor([True]))
        >>> T, shares = modes(q, angles=(True,), most=3)
        >>> T[:, 0, 0].round(decimals=3), shares[:, 0].round(decimals=3)
        (tensor([ 0.9000, -0.2000,  0.9000]), tensor([0.7000, 0.3000, 0.0000]))
    """
    T, mass = _weighed_points(q, points)
    S, B = mass.shape
    at_once = max(1, PAIRS // (S**2 * T.shape[-1]))
    found = []
    for some, m in zip(T.expand(S, B, -1).split(at_once, 1), mass.split(at_once, 1)):
        some = some[:, :1] if T.shape[1] == 1 else some
        found.append(_modes(some, m, angles, width, min(most, S)))
    best = torch.cat([T for T, _ in found], 1)
    shares = torch.cat([share for _, share in found], 1)

    shares = shares.where((shares >= least) | (shares == shares[0]), 0.0)
    shares = shares / shares.sum(0)
    return best.where(shares[..., None] > 0, best[0]), shares


def _weighed_points(q: TorchDistribution, number: int) -> tuple[Tensor, Tensor]:
    """Points T (S, B, D) and masses (S, B), which sum to 1, that stand for q.

    Where they are a grid for all images it is one: (S, 1, 1).
    """
    T, _, weights = draw(q, number)
    if q.event_shape != (1,) or len(T) < number:  # a point mass is drawn once
        return T, weights
    number = len(T)
    grid = centres(number, number, like=T)[:, None, None]
    density = q.log_prob(grid.expand(-1, *q.batch_shape, -1)).exp()
    total = density.mean(0)  # times 2, the integral of q
    resolved = (2 * total - 1).abs() < 0.1  # not so where q is as narrow as the grid
    if resolved.all():
        return grid, density / (number * total)
    return (
        grid.where(resolved[:, None], T),
        (density / (number * total)).where(resolved, weights),
    )


def _from_to(start: Tensor, end: Tensor, angles: tuple[bool, ...]) -> Tensor:
    """end − start, along the shorter arc where it is an angle."""
    difference = end - start
    return wrap(difference).where(torch.tensor(angles, device=start.device), difference)


def _modes(
    T: Tensor, mass: Tensor, angles: tuple[bool, ...], width: float, most: int
) -> tuple[Tensor, Tensor]:
    """The heaviest modes (K, B, D) of points (S, B, D), and their masses (K, B)."""
    square = (_from_to(T[:, None], T, angles) / width).square().sum(-1)  # (S, S, B)
    density = ((-0.5 * square).exp() * mass).sum(1)
    # Of equals the nearest to the middle of the box is the best, and not what rounding says: a q
    # that is flat has one mode, there.
    density = density * (1 - 1e-3 * T.norm(dim=-1) / T.shape[-1] ** 0.5)
    # Each point leaps to the best one within h, and so on from there. Smoothed by h, q has no
    # valley that is narrower. Leaps of leaps end where all of them would.
    end = density.where(square <= 1, -1.0).argmax(1)
    for _ in range(ceil(log2(len(T)))):
        end = end.gather(0, end)
    shares, top = torch.zeros_like(mass).scatter_add_(0, end, mass).topk(most, 0)
    top = top[..., None].expand(-1, -1, T.shape[-1])
    best = T.expand(-1, mass.shape[1], -1).gather(0, top)
    for _ in range(30):  # from the best of the points to the maximum between them
        step = _from_to(best[:, None], T, angles)  # (K, S, B, D)
        kernel = mass * (-0.5 * (step / width).square().sum(-1)).exp()
        best = best + (kernel[..., None] * step).sum(1) / kernel.sum(1)[..., None]
        best = wrap(best).where(torch.tensor(angles, device=T.device), best)
    return best, shares


class Poses(NamedTuple):
    """All the poses of some images, the heaviest first: what ``poses`` returns.

    Args:
        matrices: (K, B, 2, 3), the way there: warping the originals by them gives the images.
        weights: (K, B), each pose's share of q(T | I). They sum to 1 over the K; 0 where an image
            has fewer poses, and the first one stands there again.
        images: (K, B, C, H, W), the poses.
    """

    matrices: Tensor
    weights: Tensor
    images: Tensor


@torch.no_grad()
def poses(
    model: InvariantClassifier,
    images: Tensor,
    looks: int = 1,
    width: float = 1 / 9,
    most: int = 4,
    least: float = 0.05,
) -> Poses:
    """Images in all the poses that the model's q(T | I) has for them, with weights.

    The first look goes to each of the modes of q(T | I). Each further one is at the images there,
    and goes on to the nearest mode: to a fixed point, as mean-shift does, with one for each mode.

    Args:
        model: its q says where an image should go.
        images: (B, C, H, W).
        looks: one pass of q at each image, and one more for each pose in every further look.
        width, most, least: as ``modes`` has them.

    Raises:
        ValueError: for images or looks that are not as said, and for families whose maps are no
            matrices.

    Example:
        >>> model = InvariantClassifier.build("mixture_flow", "rotation", 1, classes=5)
        >>> found = poses(model, torch.rand(8, 1, 28, 28))
        >>> found.matrices.shape, found.weights.shape, found.images.shape
        (torch.Size([4, 8, 2, 3]), torch.Size([4, 8]), torch.Size([4, 8, 1, 28, 28]))
    """
    check_images(images)
    check_count("looks", looks)
    check_count("most", most)
    find = partial(modes, angles=model.family.angles, width=width, least=least)
    parts = []
    for part in images.to(model.device).split(BATCH):
        with told(part, model.q):
            T, weights = find(model.q(part), most=most)
        M = model.family.matrix(T)
        there = weights > 0
        for _ in range(looks - 1):
            seen = model.family.apply(part, M)[there]
            T, shares = find(model.q(seen))
            M[there] = compose(M[there], model.family.matrix(_nearest(model.family, T, shares)))
        M = M.where(there[..., None, None], M[0])
        parts.append(Poses(M, weights, model.family.apply(part, M)))
    return Poses(*(torch.cat(some, 1) for some in zip(*parts)))


def _nearest(family: Family, T: Tensor, shares: Tensor) -> Tensor:
    """Of modes (K, B, D) that have a share the one nearest to the identity: (B, D)."""
    way = _from_to(family.identity.to(T), T, family.angles).norm(dim=-1)
    nearest = way.where(shares > 0, torch.inf).argmin(0)
    return T[nearest, torch.arange(len(nearest), device=T.device)]


def energy(logits: Tensor) -> Tensor:
    """log Σ exp of logits (…, classes): the higher, the more like what the classifier learned.

    Its negative is what Liu et al. 2020 call the energy.
    """
    return logits.logsumexp(-1)


def confidence(logits: Tensor) -> Tensor:
    """log p of the most probable class, for logits (…, classes)."""
    return logits.log_softmax(-1).amax(-1)


Score = Callable[[Tensor], Tensor]  # of logits (…, classes), the higher the better


def mahalanobis(logits: Tensor, labels: Tensor) -> Score:
    """A score: how near logits are to those of training images.

    It is max_C log N(z; μ_C, Σ), with a mean for each class and one covariance: up to a constant
    −½ of the Mahalanobis distance squared to the nearest class. Source: Lee et al. 2018.

    Args:
        logits: (B, classes), of training images: the features by which images are compared.
        labels: (B,).

    Raises:
        ValueError: a class has no image.

    Example:
        >>> seen = torch.eye(3).repeat(4, 1) + 0.1 * torch.randn(12, 3)
        >>> near = mahalanobis(seen, torch.arange(12) % 3)
        >>> near(torch.eye(3)).min() > near(torch.full((3,), 1 / 3))
        tensor(True)
    """
    z = logits.detach().cpu().double()
    belongs = F.one_hot(labels.cpu(), z.shape[-1]).double()
    number = belongs.sum(0)
    if not number.all():
        absent = number.argmin().item()
        raise ValueError(f"labels: expected images of every class, got none of class {absent}")
    means = belongs.T @ z / number[:, None]
    around = z - belongs @ means
    covariance = around.T @ around / len(z)
    ridge = 1e-6 * covariance.diagonal().mean() + 1e-12  # no spread at all must not mean no metric
    of_class = MultivariateNormal(means, covariance + ridge * torch.eye(len(covariance)))

    def score(logits: Tensor) -> Tensor:
        return of_class.log_prob(logits[..., None, :].cpu().double()).amax(-1).to(logits)

    return score


@torch.no_grad()
def logits_of(model: InvariantClassifier, found: Poses) -> Tensor:
    """The classifier's logits of every pose, (K, B, classes); 0 where a pose has no weight.

    Args:
        model: whose classifier looks: once at each pose that has a weight.
        found: what ``poses`` returned.
    """
    there = found.weights > 0
    seen = torch.cat([model.classify(part) for part in found.images[there].split(BATCH)])
    logits = seen.new_zeros(*there.shape, seen.shape[-1])
    logits[there] = seen
    return logits


class Choice(NamedTuple):
    """One pose of each image: what ``canonical`` returns.

    Args:
        matrices: (B, 2, 3), the way there; the identity where the image stayed.
        images: (B, C, H, W).
        logits: (B, classes), of the classifier, at no further cost.
        moved: (B,), whether the image is not as it was.
    """

    matrices: Tensor
    images: Tensor
    logits: Tensor
    moved: Tensor


@torch.no_grad()
def canonical(
    model: InvariantClassifier,
    images: Tensor,
    found: Poses,
    score: Score = energy,
    gate: float | None = None,
) -> Choice:
    """Each image in that of its poses which the classifier likes best.

    q has proposed a few poses, the score judges. That takes as many passes of the classifier as
    there are poses, where trying all angles takes one for each.

    Args:
        model: its classifier judges.
        images: (B, C, H, W).
        found: their poses, as ``poses`` gives them.
        score: of logits, ``energy``, ``confidence`` or what ``mahalanobis`` makes.
        gate: an image stays as it is, bit for bit, unless the score is better than its own by more
            than this; below 0, it moves unless its own is better by more than that. None: it always
            moves.

    Example:
        >>> model = InvariantClassifier.build("mixture_flow", "rotation", 1, classes=5)
        >>> images = torch.rand(8, 1, 28, 28)
        >>> chosen = canonical(model, images, poses(model, images), gate=float("inf"))
        >>> chosen.images.shape, chosen.moved.any()
        (torch.Size([8, 1, 28, 28]), tensor(False))
    """
    images = images.to(model.device)
    logits = logits_of(model, found)
    best = score(logits).where(found.weights > 0, -torch.inf).argmax(0)
    at_best = best, torch.arange(len(best), device=best.device)
    chosen = Choice(
        found.matrices[at_best],
        found.images[at_best],
        logits[at_best],
        torch.ones_like(best, dtype=torch.bool),
    )
    if gate is None:
        return chosen
    as_it_is = torch.cat([model.classify(part) for part in images.split(BATCH)])
    moved = score(chosen.logits) > score(as_it_is) + gate
    identity = model.family.matrix(model.family.identity.to(images))
    return Choice(
        chosen.matrices.where(moved[:, None, None], identity),
        chosen.images.where(moved[:, None, None, None], images),
        chosen.logits.where(moved[:, None], as_it_is),
        moved,
    )
