"""Alignment: move an image to where its own q(T | I) is centred, by mean-shift.

::

    M_k = M_{k−1} · M(γ · E_{T ~ q(·; I_{k−1})} T),      I_k = I_0(M_k p),      M_0 = 1.

The maps are multiplied: a step is taken from where the image stands, in its own coordinates. The
paper adds coefficients instead, T_k = T_{k−1} + γ E[T] with I_k = A_{T_k}(I_0); the two agree where
maps commute (rotations alone, translations alone) and differ elsewhere. Means of angles are
circular. Where q has several modes, the mean lies between them and leads nowhere; a step towards
the most probable sample does not.

Source: Singhal et al. 2023 (mean-shift); Mardia & Jupp 2000 (circular means).
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import pi

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from .checks import check_count, check_images, told
from .model import InvariantClassifier
from .transforms import compose

BATCH = 500  # images at a time


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
        return mean(T, angles) if towards == "mean" else _most_probable(q, T)

    parts = []
    for part in images.to(model.device).split(BATCH):
        with told(part, model.q):
            parts.append(_mean_shift(model, part, target, steps, step_size, tolerance, on_group))
    return Alignment(
        images=torch.cat([part.images for part in parts]),
        matrices=torch.cat([part.matrices for part in parts], 1),
        converged=torch.cat([part.converged for part in parts]),
    )


def _most_probable(q: TorchDistribution, T: Tensor) -> Tensor:
    """Of samples (S, B, D) the one that q likes best: (B, D)."""
    best = q.log_prob(T).argmax(0)
    return T[best, torch.arange(T.shape[1], device=T.device)]


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
