"""Alignment: move an image to where its own q(T | I) is centred, by mean-shift.

    M_k = M_{k−1} · M(γ · E_{T ~ q(·; I_{k−1})} T),      I_k = I_0(M_k p),      M_0 = 1.

The maps are multiplied: a step is taken from where the image stands, in its own coordinates. The
paper adds coefficients instead, T_k = T_{k−1} + γ E[T] with I_k = A_{T_k}(I_0); the two agree where maps
commute (rotations alone, translations alone) and differ elsewhere. Means of angles are circular. Where q
has several modes, the mean lies between them and leads nowhere; a step towards the most probable
sample does not.

Source: Singhal et al. 2023 (mean-shift); Mardia & Jupp 2000 (circular means).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import check_images
from .model import InvariantClassifier
from .transforms import compose, warp

BATCH = 500  # images at a time


@dataclass(frozen=True)
class Alignment:
    """What mean_shift returns.

    images: (B, C, H, W), aligned. matrices: (K + 1, B, 2, 3), the way there: warping the originals by
    matrices[k] gives the images after k steps. converged: (B,), whose steps became shorter than the
    tolerance.
    """

    images: Tensor
    matrices: Tensor
    converged: Tensor


def mean(T: Tensor, angles: tuple[bool, ...]) -> Tensor:
    """The mean of T (S, …, D) over its S samples; of angles, the direction of their resultant.

    >>> T = torch.tensor([[0.9, 0.9], [-0.9, -0.9]])
    >>> mean(T, (False, True))
    tensor([0., 1.])
    """
    turns = math.pi * T
    circular = torch.atan2(turns.sin().mean(0), turns.cos().mean(0)) / math.pi
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
    """Align images (B, C, H, W) by the model's q(T | I).

    steps, step_size: K and γ. samples: of q, for each step.
    tolerance: an image whose step is shorter in every coefficient stays where it is from then on. Means
        of samples are noisy: below γ · (standard deviation of q) / √samples it is never met.
    towards: "mean", or "mode", the most probable of the samples.
    on_group: multiply maps; False adds coefficients and averages angles as numbers, as the paper does.

    >>> model = InvariantClassifier.build("flow", "rotation_translation", in_channels=1, classes=5)
    >>> aligned = mean_shift(model, torch.rand(8, 1, 28, 28), steps=3)
    >>> aligned.images.shape, aligned.matrices.shape
    (torch.Size([8, 1, 28, 28]), torch.Size([4, 8, 2, 3]))
    """
    check_images(images)
    if towards not in ("mean", "mode") or steps < 1 or not 0 < step_size <= 1:
        raise ValueError(
            f"mean_shift: expected towards 'mean' or 'mode', steps of 1 or more and a step_size in (0, 1], got {towards!r}, {steps} and {step_size}"
        )
    images = images.to(model.device)
    parts = [
        _mean_shift(model, part, steps, step_size, samples, tolerance, towards, on_group)
        for part in images.split(BATCH)
    ]
    return Alignment(*(torch.cat(values, dim) for values, dim in zip(zip(*parts), (0, 1, 0))))


def _mean_shift(model, originals, steps, step_size, samples, tolerance, towards, on_group):
    family, B = model.family, len(originals)
    identity = family.identity.to(originals)
    angles = family.angles if on_group else (False,) * family.dim
    T = identity.expand(B, -1)  # the sum, for the paper's way
    M = family.matrix(T)
    images, path, moving = originals, [M], torch.ones(B, dtype=torch.bool, device=originals.device)
    for _ in range(steps):
        q = model.q(images)
        draws = q.sample((samples,))
        if towards == "mean":
            target = mean(draws, angles)
        else:
            best = q.log_prob(draws).argmax(0)
            target = draws.gather(0, best[None, :, None].expand(1, B, family.dim))[0]
        step = step_size * (target - identity)
        moving = moving & (step.abs() >= tolerance).any(-1)
        step = torch.where(moving[:, None], step, 0.0)
        T = T + step
        M = compose(M, family.matrix(identity + step)) if on_group else family.matrix(T)
        images = warp(originals, M, family.isotropic).clamp(0, 1)
        path.append(M)
    return images, torch.stack(path), ~moving


def prototypes(images: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The average image of each class, (classes, C, H, W): the sharper, the better images agree in pose.

    NaN for a class without images.

    >>> prototypes(torch.rand(8, 1, 28, 28), torch.arange(8) % 2, classes=2).shape
    torch.Size([2, 1, 28, 28])
    """
    return torch.stack([images[labels.to(images.device) == c].mean(0) for c in range(classes)])
