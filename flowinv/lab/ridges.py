"""A known set in D numbers: where q(T | I) should lie is a formula, for any D.

A picture has two tones, the cosine of a phase c on its left and the sine on its right. T is written
beside it, and the classifier is no network but a formula: T is right with probability::

    f(T; c) = exp(−r² / 2σ²),      r² = Σ_{d > 0} (T_d − g_d(T_0; c))²,
    g_d(t; c) = A sin(ω_d t + φ_d + c),      A = 0.6.

So the right T form a curve through the box, a ridge: T_0 is free, and the other D − 1 numbers
follow from it and from the picture. The loss E[−log f] + α KL(q ‖ uniform) is least, for α = 1, at
q* = f / Z, whose normaliser is known: what is left, KL(q ‖ q*), is how wrong q is, in nats.
"""

from math import log, pi

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from ..data import Dataset, Split
from ..distributions import draw
from ..model import InvariantClassifier
from ..transforms import Family

SIDE = 8  # of the pictures, in pixels
SIGMA = 0.1  # how far from the curve T may be
AMPLITUDE = 0.6


def curve(t: Tensor, c: Tensor, dim: int) -> Tensor:
    """g_d(t; c) for d = 1, …, D − 1: (…) and (…) → (…, D − 1).

    Example:
        >>> curve(torch.zeros(()), torch.tensor(pi / 2 - 2.4), dim=2)
        tensor([0.6000])
    """
    d = torch.arange(1, dim, device=t.device)
    omega = pi * (2 + d % 4) / 8
    return AMPLITUDE * torch.sin(omega * t[..., None] + 2.4 * d + c[..., None])


def squared_distance(T: Tensor, c: Tensor) -> Tensor:
    """r², (…), of T (…, D) from the ridge of the phase c (…)."""
    return (T[..., 1:] - curve(T[..., 0], c, T.shape[-1])).square().sum(-1)


def on_ridge(T: Tensor, c: Tensor) -> Tensor:
    """Whether T (…, D) lies as near the ridge as 99.5% of the best q's samples do: (…)."""
    freedom = T.new_tensor((T.shape[-1] - 1) / 2)
    return torch.special.gammainc(freedom, squared_distance(T, c) / (2 * SIGMA**2)) <= 0.995


def log_normaliser(dim: int) -> float:
    """log Z of q* = f / Z. (What of f lies outside the box is left out: nothing at this width.)"""
    return log(2) + (dim - 1) / 2 * log(2 * pi * SIGMA**2)


def pictures(number: int, seed: int) -> tuple[Tensor, Tensor]:
    """So many pictures (number, 1, 8, 8), and their phases (number,)."""
    c = 2 * pi * torch.rand(number, generator=torch.Generator().manual_seed(seed))
    tones = (1 + torch.stack([c.cos(), c.sin()], -1)) / 2
    return tones.repeat_interleave(SIDE // 2, -1)[:, None, None].repeat(1, 1, SIDE, 1), c


def phases(images: Tensor) -> Tensor:
    """The phase of each picture, with or without T beside it: (…)."""
    first_row = 2 * images[..., 0, 0, :SIDE] - 1
    return torch.atan2(first_row[..., -1], first_row[..., 0])


class Beside(Family):
    """T written after the picture's pixels, in [0, 1]: (B, 1, 8, 8) → (B, 1, 1, 64 + D).

    Args:
        dim: D.

    Example:
        >>> Beside(3).warp(torch.rand(5, 1, 8, 8), torch.zeros(20, 5, 3)).shape
        torch.Size([20, 5, 1, 1, 67])
    """

    def __init__(self, dim: int):
        self.names = tuple(f"T {d}" for d in range(dim))
        self.periodic = (False,) * dim

    def prepare(self, T: Tensor) -> Tensor:
        """The coefficients (…, D)."""
        return T

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        pixels = images.flatten(-3)
        written = (1 + parameters) / 2
        row = torch.cat([pixels.expand(*written.shape[:-1], -1), written], -1)
        return row[..., None, None, :]


class OnRidge(nn.Module):
    """f as a classifier of two classes, on the ridge and off it; there is nothing to learn.

    A picture with nothing beside it counts as T = 0.
    """

    def forward(self, images: Tensor) -> Tensor:
        """The logits (N, 2) of pictures (N, 1, 1, 64 + D): log f − log(1 − f), and 0."""
        T = 2 * images[:, 0, 0, SIDE * SIDE :] - 1
        if T.shape[-1] == 0:
            T = images.new_zeros(len(images), 2)
        e = squared_distance(T, phases(images)) / (2 * SIGMA**2)
        e = e.clamp(min=1e-6)  # f = 1 has no finite logit
        logit = -e - torch.log(-torch.expm1(-e))
        return torch.stack([logit, torch.zeros_like(logit)], -1)


def ridge_data(train: int, test: int) -> Dataset:
    """Pictures of phases from the whole circle; all have the label 0, on the ridge."""
    drawn = {}
    for name, number, seed in (("train", train, 0), ("test", test, 1), ("validation", 0, 2)):
        images, _ = pictures(number, seed)
        drawn[name] = Split(images, torch.zeros(number, dtype=torch.int64))
    return Dataset("Pictures of two tones", ("on the ridge", "off the ridge"), **drawn)


@torch.no_grad()
def quality(q: TorchDistribution, c: Tensor, samples: int = 1000, bins: int = 20) -> dict:
    """How well q(T | I) fits the ridges of pictures.

    Args:
        q: batch shape (B,), event shape (D,).
        c: (B,), phases of the pictures.
        samples: of q for each.
        bins: of T_0. One is reached if its samples on the ridge are a quarter of an even share.

    Returns:
        ``on_ridge`` (share of the samples), ``coverage`` (share of the bins), ``kl_nats`` (of q
        from q*), ``entropy_deviation`` (standard deviation of −log q over samples, in nats).
    """
    T, log_q, _ = draw(q, samples)
    right = on_ridge(T, c)
    log_best = -squared_distance(T, c) / (2 * SIGMA**2) - log_normaliser(T.shape[-1])
    index = ((T[..., 0] + 1) / 2 * bins).long().clamp(0, bins - 1)
    counts = T.new_zeros(bins, len(c)).scatter_add_(0, index, right.to(T))
    return {
        "on_ridge": right.double().mean().item(),
        "coverage": (counts >= len(T) / bins / 4).double().mean().item(),
        "kl_nats": (log_q - log_best).mean().item(),
        "entropy_deviation": log_q.std(0).mean().item(),
    }


def measure_ridge(model: InvariantClassifier, data: Dataset) -> dict:
    """The quality of the model's q on the test pictures."""
    images = data.test.images.to(model.device)
    return quality(model.q(images), phases(images))
