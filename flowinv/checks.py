"""Checks of what callers hand in: one-line errors that say what was expected and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import isnan
from operator import index
from typing import NoReturn, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

Part = TypeVar("Part")


ADDRESS = "https://github.com/flowinv/flowinv"


def with_extra(name: str) -> str:
    """How to install what an extra of this package brings."""
    return f"install it with pip install 'flowinv[{name}] @ git+{ADDRESS}'"


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
    if isinstance(images, np.ndarray):
        last = images.ndim == 4 and images.shape[-1] in (1, 3) and images.shape[1] not in (1, 3)
        raise ValueError(
            f"images: expected a tensor (B, C, H, W), got a NumPy array {images.shape}; convert"
            f" with torch.from_numpy(images){'.permute(0, 3, 1, 2)' if last else ''}"
        )
    if not isinstance(images, Tensor) or images.ndim != 4:
        got = f"shape {tuple(images.shape)}" if hasattr(images, "shape") else type(images).__name__
        raise ValueError(
            f"images: expected a tensor (B, C, H, W), got {got}; {_how_to_shape(images)}"
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


def _how_to_shape(images: object) -> str:
    if not isinstance(images, Tensor):
        return "stack them with torch.stack(list(images))"
    if images.ndim > 4:
        return "join the first axes with images.flatten(0, -4)"
    return "add the missing axes with images[None] or images[:, None]"


@contextmanager
def told(images: Tensor, *networks: nn.Module) -> Iterator[None]:
    """In here what PyTorch says of images that networks cannot take becomes one line.

    Args:
        images: (B, C, H, W), that go in.
        networks: into which.

    Raises:
        ValueError: in place of PyTorch's error.
    """
    try:
        yield
    except RuntimeError as error:
        if type(error) is not RuntimeError or "alloca" in str(error):  # out of memory
            raise
        reason = str(error).splitlines()[0]
        got = f"(C, H, W) = {tuple(images.shape[1:])}, {images.dtype}"
        raise ValueError(
            f"images: expected such as the networks take, got {got} ({reason});"
            f" {_what_to_do(images, networks)}"
        ) from error


def _what_to_do(images: Tensor, networks: tuple[nn.Module, ...]) -> str:
    """A word on images that some network cannot take."""
    C = images.shape[1]
    for network in networks:
        for parameter in network.parameters():
            if parameter.is_floating_point() and parameter.dtype != images.dtype:
                return f"convert with images.to({parameter.dtype})"
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and module.in_channels != C:
                n = module.in_channels
                how = {
                    (3, 1): ": images.mean(1, keepdim=True) makes one of three",
                    (1, 3): ": images.expand(-1, 3, -1, -1) makes three of one",
                }
                return f"{n} channels are expected{how.get((C, n), '')}"
            if isinstance(module, nn.Conv2d):
                break  # the first one sees the images
    return "make them larger, or as large as the network was made for"


def check_count(name: str, value: object, least: int = 1) -> None:
    """Check that a number is whole, and not too small.

    Raises:
        ValueError: if it is not.

    Example:
        >>> check_count("samples", 2.5)
        Traceback (most recent call last):
        ValueError: samples: expected a whole number of 1 or more, got 2.5
    """
    try:
        right = index(value) >= least  # type: ignore[arg-type]
    except TypeError:
        right = False
    if not right:
        raise ValueError(f"{name}: expected a whole number of {least} or more, got {value!r}")


def check_device(name: torch.device | str) -> torch.device:
    """The device of that name.

    Raises:
        ValueError: there is none.

    Example:
        >>> check_device("cpu")
        device(type='cpu')
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        there = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        if torch.backends.mps.is_available():
            there.append("mps")
        raise ValueError(
            f"device: expected one that is there, {' or '.join(there)}, got {str(name)!r}"
        ) from None
    return device


def check_context(context: Tensor, size: int | None) -> None:
    """Check that a context is (…, C), numbers of the right count.

    Args:
        context: what was handed in.
        size: C; None: any.

    Raises:
        ValueError: if it is not.
    """
    if size is not None and (context.ndim < 1 or context.shape[-1] != size):
        raise ValueError(
            f"context: expected shape (…, {size}), got {tuple(context.shape)}; build the flow with"
            " context_dim as large as the context"
        )
    if not context.isfinite().all():
        raise ValueError(
            "context: expected finite numbers, got NaN or infinite ones; look at what made it:"
            " (~context.isfinite()).nonzero() says where they are"
        )


def check_some(number: int, least: int = 1) -> None:
    """Check that there are images enough.

    Raises:
        ValueError: there are too few.
    """
    if number < least:
        raise ValueError(
            f"images: expected at least {least}, got {number}; look at what selected them"
        )


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
        how = "one for each image" if labels.dtype == torch.int64 else "convert with labels.long()"
        raise ValueError(
            f"labels: expected int64 with shape ({count},),"
            f" got {labels.dtype} {tuple(labels.shape)}; {how}"
        )
    if count and (labels.min() < 0 or labels.max() >= classes):
        raise ValueError(
            f"labels: expected 0 to {classes - 1} for {classes} classes,"
            f" got {labels.min()} to {labels.max()}; renumber them"
        )


def check_coefficients(T: Tensor, dim: int, values: bool = True) -> None:
    """Check that T lies in the box [−1, 1]^dim.

    Args:
        T: what was handed in, (…, dim).
        dim: D, the number of coefficients.
        values: look at the numbers too, which waits for a GPU.

    Raises:
        ValueError: if it does not, or has another shape.
    """
    if not isinstance(T, Tensor):
        raise ValueError(
            f"T: expected a tensor (…, {dim}), got {type(T).__name__}; convert with"
            " torch.as_tensor(T, dtype=torch.float32)"
        )
    if T.ndim < 1 or T.shape[-1] != dim:
        raise ValueError(
            f"T: expected coefficients with shape (…, {dim}), got {tuple(T.shape)};"
            " the family's names say which they are"
        )
    if values and not (T.detach().abs() <= 1).all():
        nan = bool(T.isnan().any())
        got = "NaN" if nan else f"{T.min():.3g} to {T.max():.3g}"
        how = "look at what made it" if nan else "scale them, or wrap periodic ones"
        raise ValueError(f"T: expected coefficients in the box [-1, 1], got {got}; {how}")
