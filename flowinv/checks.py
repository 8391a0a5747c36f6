"""Checks of what callers hand in: one-line errors that say what was expected and what to do."""

from math import isnan
from typing import NoReturn, TypeVar

import torch
from torch import Tensor

Part = TypeVar("Part")


class Registry(dict[str, Part]):
    """A dict of named parts whose failed look-up lists the names there are.

    Args:
        kind: what the parts are, for the error.
        parts: the parts by name.

    Example:
        >>> Registry("guide", flow=1)["flwo"]
        Traceback (most recent call last):
        ValueError: unknown guide 'flwo': expected one of flow
    """

    def __init__(self, kind: str, **parts: Part):
        super().__init__(**parts)
        self.kind = kind

    def __missing__(self, name: str) -> NoReturn:
        raise ValueError(f"unknown {self.kind} {name!r}: expected one of {', '.join(self)}")


def check_images(images: Tensor, values: bool = True, or_bytes: bool = False) -> None:
    """Check that images are floats in [0, 1] with shape (B, C, H, W).

    Args:
        images: what was handed in.
        values: look at the numbers too. On a GPU that waits for the device, so training looks
            once at the whole data set and never inside a step.
        or_bytes: whether uint8 will do, too.

    Raises:
        ValueError: if they are not.
    """
    if not isinstance(images, Tensor) or images.ndim != 4:
        got = f"shape {tuple(images.shape)}" if hasattr(images, "shape") else type(images).__name__
        raise ValueError(
            f"images: expected a tensor (B, C, H, W), got {got};"
            " add the missing axes with images[None] or images[:, None]"
        )
    if or_bytes and images.dtype == torch.uint8:
        return
    if not images.is_floating_point():
        raise ValueError(
            f"images: expected floats in [0, 1]{' or uint8' if or_bytes else ''}, got"
            f" {images.dtype}; convert with images.float() / 255"
        )
    if not values or not images.numel():
        return
    low, high = (bound.item() for bound in images.detach().aminmax())
    if isnan(low) or isnan(high):
        raise ValueError(
            "images: expected numbers in [0, 1], got NaN; find them with images.isnan().nonzero()"
        )
    if low < 0 or high > 1:
        raise ValueError(
            f"images: expected values in [0, 1], got {low:.3g} to {high:.3g};"
            " rescale them, and leave normalisation to the network"
        )


def check_some(number: int) -> None:
    """Check that there are images at all.

    Raises:
        ValueError: there are none.
    """
    if not number:
        raise ValueError("images: expected at least one, got none; look at what selected them")


def check_labels(labels: Tensor, count: int, classes: int) -> None:
    """Check that labels are int64 numbers from 0 to classes − 1.

    Args:
        labels: what was handed in.
        count: how many there must be, one for each image.
        classes: how many there are.

    Raises:
        ValueError: if they are not.
    """
    if not isinstance(labels, Tensor):
        got = type(labels).__name__
        raise ValueError(f"labels: expected a tensor of int64, got {got}; use torch.tensor(labels)")
    if labels.dtype != torch.int64 or labels.shape != (count,):
        raise ValueError(
            f"labels: expected int64 with shape ({count},), one for each image,"
            f" got {labels.dtype} {tuple(labels.shape)}; convert with labels.long()"
        )
    if count and (labels.min() < 0 or labels.max() >= classes):
        raise ValueError(
            f"labels: expected 0 to {classes - 1} for {classes} classes,"
            f" got {labels.min()} to {labels.max()}; renumber them"
        )


def check_coefficients(T: Tensor, dim: int) -> None:
    """Check that T lies in the box [−1, 1]^dim.

    Args:
        T: what was handed in, (…, dim).
        dim: D, the number of coefficients.

    Raises:
        ValueError: if it does not, or has another shape.
    """
    if T.ndim < 1 or T.shape[-1] != dim:
        raise ValueError(
            f"T: expected coefficients with shape (…, {dim}), got {tuple(T.shape)};"
            " the family's names say which they are"
        )
    if not (T.detach().abs() <= 1).all():
        raise ValueError(
            "T: expected coefficients in the box [-1, 1],"
            f" got {T.min():.3g} to {T.max():.3g}; scale them, or wrap periodic ones"
        )
