"""Checks of what callers hand in: one-line errors that say what was expected and what to do."""

import torch
from torch import Tensor


class Registry(dict):
    """A dict of named parts whose failed look-up lists the names there are.

    >>> Registry("guide", flow=1)["flwo"]
    Traceback (most recent call last):
    ValueError: unknown guide 'flwo': expected one of flow
    """

    def __init__(self, kind: str, **parts):
        super().__init__(**parts)
        self.kind = kind

    def __missing__(self, name):
        raise ValueError(f"unknown {self.kind} {name!r}: expected one of {', '.join(self)}")


def check_images(images: Tensor, values: bool = True) -> None:
    """Raise ValueError unless images are float in [0, 1] with shape (B, C, H, W).

    values: look at the numbers too. On a GPU that waits for the device, so training looks once
    at the whole data set and never inside a step.
    """
    if not isinstance(images, Tensor) or images.ndim != 4:
        got = f"shape {tuple(images.shape)}" if hasattr(images, "shape") else type(images).__name__
        raise ValueError(
            f"images: expected a tensor (B, C, H, W), got {got}; add the missing axes with images[None] or images[:, None]"
        )
    if not images.is_floating_point():
        raise ValueError(
            f"images: expected floats in [0, 1], got {images.dtype}; convert with images.float() / 255"
        )
    if values and images.numel():
        low, high = (bound.item() for bound in images.detach().aminmax())
        if low != low or high != high:
            raise ValueError(
                "images: expected numbers in [0, 1], got NaN; find them with images.isnan().nonzero()"
            )
        if low < 0 or high > 1:
            raise ValueError(
                f"images: expected values in [0, 1], got {low:.3g} to {high:.3g}; rescale them, and leave normalisation to the network"
            )


def check_labels(labels: Tensor, count: int, classes: int) -> None:
    """Raise ValueError unless labels are `count` int64 numbers from 0 to classes − 1."""
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != (count,):
        got = (
            f"{labels.dtype} {tuple(labels.shape)}"
            if isinstance(labels, Tensor)
            else type(labels).__name__
        )
        raise ValueError(
            f"labels: expected int64 with shape ({count},), one for each image, got {got}; convert with labels.long()"
        )
    if count and (labels.min() < 0 or labels.max() >= classes):
        raise ValueError(
            f"labels: expected 0 to {classes - 1} for {classes} classes, got {labels.min()} to {labels.max()}; renumber them"
        )


def check_coefficients(T: Tensor, dim: int) -> None:
    """Raise ValueError unless T has shape (…, dim) and lies in the box [−1, 1]^dim."""
    if T.ndim < 1 or T.shape[-1] != dim:
        raise ValueError(
            f"T: expected coefficients with shape (…, {dim}), got {tuple(T.shape)}; the family's names say which they are"
        )
    if not (T.detach().abs() <= 1).all():
        raise ValueError(
            f"T: expected coefficients in the box [-1, 1], got {T.min():.3g} to {T.max():.3g}; scale them, or wrap periodic ones"
        )
