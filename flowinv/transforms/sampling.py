"""Pictures at places: bilinear sampling that every warp ends in, and where pixels are."""

import torch
import torch.nn.functional as F
from torch import Tensor


def sample(images: Tensor, grid: Tensor) -> Tensor:
    """The images at the places of a grid: bilinear, 0 outside, in [0, 1] for images in [0, 1].

    Args:
        images: (…, C, H, W), broadcast against the grid's first axes.
        grid: (…, H, W, 2), x and y with −1 and +1 at the picture's outer edges.

    Returns:
        (…, C, H, W), with the grid's first axes.

    Example:
        >>> sample(torch.ones(8, 1, 28, 28), torch.zeros(20, 8, 28, 28, 2)).shape
        torch.Size([20, 8, 1, 28, 28])
    """
    # The weights of four pixels, as rounded, can add up to 1 + 3.5 eps. So that white does not
    # become whiter, images are darkened by as little once, rather than clamped S times.
    images = images * (1 - 4 * torch.finfo(images.dtype).eps)
    images = images.expand(*grid.shape[:-3], *images.shape[-3:])
    warped = F.grid_sample(
        images.flatten(0, -4),
        grid.flatten(0, -4),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )
    return warped.view(images.shape)


def centres(pixels: int, unit: int, like: Tensor) -> Tensor:
    """Where the centres of a row of pixels are, in units of half as many pixels as ``unit`` says.

    Args:
        pixels: how many.
        unit: so many pixels are 2 long.
        like: a tensor of the dtype and device meant.

    Returns:
        (pixels,), from left to right.

    Example:
        >>> centres(4, 4, like=torch.zeros(()))
        tensor([-0.7500, -0.2500,  0.2500,  0.7500])
    """
    last = (pixels - 1) / unit
    return torch.linspace(-last, last, pixels, dtype=like.dtype, device=like.device)
