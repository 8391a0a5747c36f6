"""Colours: brightness, contrast, saturation, hue and gamma, one set of factors for each image.

One after the other, in this order, each kept in [0, 1]::

    brightness   k I                        contrast     k I + (1 − k) mean of luma(I)
    saturation   k I + (1 − k) luma(I)      hue          the angle h of HSV becomes h + φ
    gamma        I^k

with k = 2^T, from a half to the double, and φ = 180° T, the full circle. luma is 0.299 R + 0.587 G
+ 0.114 B, or the mean over channels where there are not three. These are torchvision's, with a
coefficient for each image and with gradients. Gamma differs in black, where the slope of I^k may be
infinite: below one level of 256 it is a straight line.

Source: ITU-R BT.601 (luma); Smith 1978 (HSV).
"""

import torch
from torch import Tensor

from .family import Family

TOE = 1 / 256  # below it, gamma is a straight line
LUMA = (0.299, 0.587, 0.114)


def luma(images: Tensor) -> Tensor:
    """How light each pixel is: (…, C, H, W) → (…, 1, H, W)."""
    if images.shape[-3] != 3:
        return images.mean(-3, keepdim=True)
    r, g, b = images.split(1, -3)
    return LUMA[0] * r + LUMA[1] * g + LUMA[2] * b


def brightness(images: Tensor, T: Tensor) -> Tensor:
    """k I: lighter for T > 0."""
    return (T.exp2() * images).clamp(0, 1)


def contrast(images: Tensor, T: Tensor) -> Tensor:
    """k I + (1 − k) m: away from the mean luma m for T > 0."""
    k = T.exp2()
    return (k * images + (1 - k) * luma(images).mean((-2, -1), keepdim=True)).clamp(0, 1)


def saturation(images: Tensor, T: Tensor) -> Tensor:
    """k I + (1 − k) luma(I): away from grey for T > 0."""
    k = T.exp2()
    return (k * images + (1 - k) * luma(images)).clamp(0, 1)


def hue(images: Tensor, T: Tensor) -> Tensor:
    """h + 180° T: from red to green for T = 2/3; −1 and 1 are one map.

    A colour with largest channel V, span C and hue h has the channels V − C ramp(h). Turning it
    adds C (ramp(h) − ramp(h + φ)), which is exactly nothing for φ = 0.
    """
    r, g, b = images.split(1, -3)
    V = images.amax(-3, keepdim=True)
    C = V - images.amin(-3, keepdim=True)
    span = torch.where(C > 0, C, 1.0)  # grey has no hue
    sixths = torch.where(
        V == r,
        (g - b) / span,
        torch.where(V == g, (b - r) / span + 2, (r - g) / span + 4),
    )
    change = _ramps(sixths) - _ramps(sixths + 3 * T)
    return (images + C * change).clamp(0, 1)


def _ramps(sixths: Tensor) -> Tensor:
    """How far R, G and B lie below the largest, in spans: (…, 1, H, W) → (…, 3, H, W)."""
    first = torch.tensor([5.0, 3.0, 1.0], device=sixths.device).to(sixths.dtype)
    k = (sixths + first[:, None, None]).remainder(6)
    return torch.minimum(k, 4 - k).clamp(0, 1)


def gamma(images: Tensor, T: Tensor) -> Tensor:
    """I^k: darker for T > 0, black and white as they are."""
    return (images * images.clamp(min=TOE) ** (T.exp2() - 1)).clamp(0, 1)


CHANGES = {
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "hue": hue,
    "gamma": gamma,
}


class Colour(Family):
    """Changes of colour by name, in the order given; at T = 0 every image is exactly itself.

    Args:
        names: of ``CHANGES``. Saturation and hue need images of three channels.

    Raises:
        ValueError: for a name that is none.

    Example:
        >>> red = torch.tensor([1.0, 0.0, 0.0])[None, :, None, None]
        >>> Colour("hue").warp(red, torch.tensor([[2 / 3]])).flatten().round(decimals=3)
        tensor([0., 1., 0.])
    """

    def __init__(self, *names: str):
        unknown = [name for name in names if name not in CHANGES]
        if unknown or not names:
            raise ValueError(f"colour: expected some of {', '.join(CHANGES)}, got {names}")
        self.names = names
        self.periodic = tuple(name == "hue" for name in names)

    def prepare(self, T: Tensor) -> Tensor:
        """The coefficients (…, D): each change makes of its own what it needs."""
        return T

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        coloured = {"saturation", "hue"} & set(self.names)
        if coloured and images.shape[-3] != 3:
            raise ValueError(
                f"{' and '.join(sorted(coloured))}: expected images of 3 channels,"
                f" got {images.shape[-3]}; for others take the family tone"
            )
        for name, T in zip(self.names, parameters.split(1, -1)):
            images = CHANGES[name](images, T[..., None, None])
        return images
