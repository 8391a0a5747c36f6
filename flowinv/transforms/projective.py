"""Turns in depth: the picture as a card before a pinhole camera, tilted and seen in perspective.

A card with the picture stands at distance d before the camera, whose focal length is d too, so that
upright it fills the view exactly. It turns in its own plane by the roll θ and is then tilted about
its centre, by the yaw b about the vertical axis and the pitch a about the horizontal one. A ray
through p meets the card at M p, in closed form::

        ⎡ cos θ  −sin θ  0 ⎤ ⎡ 1/cos b           0         0 ⎤
    M = ⎢ sin θ   cos θ  0 ⎥ ⎢ −tan a tan b      1/cos a   0 ⎥
        ⎣ 0       0      1 ⎦ ⎣ −tan b/(d cos a)  tan a/d   1 ⎦

The last row is w = 1 − x tan b/(d cos a) + y tan a/d, which is 0 at the card's horizon. For angles
up to 45° (``TILT``), d = 3 (``DISTANCE``) and x and y in [−1, 1] it is at least 0.195: the horizon
is never in view.

Source: Hartley & Zisserman 2004 (the homography of a plane).
"""

from math import pi

import torch
from torch import Tensor

from .matrices import MatrixFamily

TILT = pi / 4  # the largest, either way
DISTANCE = 3.0  # in halves of the longer side


class Projective(MatrixFamily):
    """The card's turns: T = (pitch, yaw, roll), up to 45°, 45° and 180°; homographies (…, 3, 3).

    A positive pitch tips the upper edge away, a positive yaw the right one, and a positive roll
    turns what one sees counter-clockwise, as a rotation does. The roll comes first, so its circle
    closes whatever the tilt is. Inverses and products of these maps are homographies, too.

    Args:
        roll: whether the card rolls; without, T = (pitch, yaw).

    Example:
        >>> Projective().matrix(torch.tensor([0.0, 1.0, 0.0]))  # by 45° to the right
        tensor([[ 1.4142,  0.0000,  0.0000],
                [ 0.0000,  1.0000,  0.0000],
                [-0.3333,  0.0000,  1.0000]])
    """

    def __init__(self, roll: bool = True):
        self.names = ("pitch", "yaw", "roll") if roll else ("pitch", "yaw")
        self.periodic = (False, False, True)[: self.dim]

    def matrix(self, T: Tensor) -> Tensor:
        a, b = (TILT * T[..., :2]).unbind(-1)
        theta = pi * T[..., 2] if self.dim == 3 else torch.zeros_like(a)
        zero = torch.zeros_like(theta)
        one = torch.ones_like(theta)
        cos = torch.cos(theta)
        sin = torch.sin(theta)
        roll = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], -1)
        rows = (
            (1 / b.cos(), zero, zero),
            (0 - a.tan() * b.tan(), 1 / a.cos(), zero),
            (0 - b.tan() / (DISTANCE * a.cos()), a.tan() / DISTANCE, one),
        )
        tilt = torch.stack([entry for row in rows for entry in row], -1)
        return roll.unflatten(-1, (3, 3)) @ tilt.unflatten(-1, (3, 3))
