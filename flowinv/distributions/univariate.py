"""Monotone functions of one coefficient, each with the logarithm of its slope.

A function owns the number of parameters that it takes for each coefficient (``count``), the space
that it maps onto itself (``space``), and goes both ways: ``forward(x, params)`` and
``inverse(y, params)``. A new one is a subclass of ``Univariate`` with these four.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn


def wrap(x: Tensor) -> Tensor:
    """x on the circle of length 2, as a number in [−1, 1].

    Example:
        >>> wrap(torch.tensor([0.5, 1.5, -3.0]))
        tensor([ 0.5000, -0.5000, -1.0000])
    """
    return torch.remainder(x + 1, 2) - 1


@dataclass(frozen=True)
class Space:
    """Where coefficients live: on the line or in the box, and which of them on a circle.

    Args:
        bounded: whether they lie in [−1, 1]; else on the whole line.
        periodic: for each coefficient, whether it lives on the circle [−1, 1) instead, whose ends
            are one point; None if none does.

    Example:
        >>> Space.of(False, [False, False]) == Space(bounded=False)
        True
    """

    bounded: bool
    periodic: tuple[bool, ...] | None = None

    @classmethod
    def of(cls, bounded: bool, periodic: Sequence[bool] | None) -> "Space":
        """The space, with ``periodic`` None if nothing wraps."""
        return cls(bounded, tuple(periodic) if periodic and any(periodic) else None)

    def __str__(self) -> str:
        name = "the box" if self.bounded else "the line"
        return f"{name}, periodic {self.periodic}" if self.periodic else name


LINE = Space(bounded=False)
BOX = Space(bounded=True)


class Mapped(NamedTuple):
    """What a map makes of a value, and the logarithm of how much it stretches there.

    ``log_slope`` is log dy/dx of each coefficient for a univariate function, and the sum over
    coefficients, the logarithm of the Jacobian's determinant, for a layer.
    """

    value: Tensor
    log_slope: Tensor


class Univariate(nn.Module):
    """A monotone function of one coefficient: ``count``, ``space``, ``forward`` and ``inverse``.

    Both ways return the value and the logarithm of their own slope, for values (…, D) and
    parameters (…, D, count). Zeros should give the identity, so that new layers start near it.
    """

    count: int
    space: Space

    def forward(self, x: Tensor, params: Tensor) -> Mapped:
        """y and log dy/dx."""
        raise NotImplementedError

    def inverse(self, y: Tensor, params: Tensor) -> Mapped:
        """x and log dx/dy."""
        raise NotImplementedError


class Affine(Univariate):
    """The affine function of the line onto itself::

        y = x · exp(s) + t,      log dy/dx = s.

    The scale s is kept within ±2 smoothly, so that no context, however extreme, makes a layer
    overflow. Parameters, (…, 2), are raw s and t; zeros give the identity.

    Source: Dinh et al. 2017.

    Example:
        >>> Affine()(torch.tensor([1.0]), torch.tensor([[0.0, 2.0]])).value
        tensor([3.])
    """

    count = 2
    space = LINE

    def forward(self, x: Tensor, params: Tensor) -> Mapped:
        """y and log dy/dx, both (…), for x (…) and parameters (…, 2)."""
        s, t = self._scale_and_shift(params)
        return Mapped(x * torch.exp(s) + t, s)

    def inverse(self, y: Tensor, params: Tensor) -> Mapped:
        """x and log dx/dy."""
        s, t = self._scale_and_shift(params)
        return Mapped((y - t) * torch.exp(-s), -s)

    def _scale_and_shift(self, params: Tensor) -> tuple[Tensor, Tensor]:
        raw, t = params.unbind(-1)
        return 2 * torch.tanh(raw / 2), t


class Bin(NamedTuple):
    """The bin of a spline that a value lies in: its lower left corner, its size, its end slopes."""

    x: Tensor
    y: Tensor
    width: Tensor
    height: Tensor
    left: Tensor
    right: Tensor


class Spline(Univariate):
    """A monotone rational-quadratic spline from [−1, 1] onto itself.

    Between two knots, with z = (x − x_k) / w, s = h / w and slopes δ_k, δ_{k+1} at the knots::

        y     = y_k + h (s z² + δ_k z (1 − z)) / (s + (δ_{k+1} + δ_k − 2 s) z (1 − z))
        dy/dx = s² (δ_{k+1} z² + 2 s z (1 − z) + δ_k (1 − z)²)
                / (s + (δ_{k+1} + δ_k − 2 s) z (1 − z))².

    Parameters, (…, D, 3K + 1), are raw widths (K), heights (K) and slopes (K + 1) of K bins; zeros
    give the identity. Where a coefficient is periodic, −1 and 1 are one point with one slope, and
    the last raw slope is a turn instead, in units of the box: y = spline(x) + turn, wrapped.

    Args:
        bins: K.
        periodic: for each of the D coefficients, whether it wraps; None if none does.

    Source: Durkan et al. 2019, equations 4 to 8; Rezende et al. 2020 (circular splines).

    Example:
        >>> spline = Spline(bins=4)
        >>> x = torch.linspace(-1, 1, 5)
        >>> spline(x, torch.zeros(5, spline.count)).value
        tensor([-1.0000, -0.5000,  0.0000,  0.5000,  1.0000])
    """

    periodic: Tensor | None
    MIN_SIZE = 1e-3  # the least width and height of a bin, as a share of the box's
    MAX_LOG_SLOPE = 6.0  # of the slopes at the knots

    def __init__(self, bins: int = 12, periodic: Sequence[bool] | None = None):
        super().__init__()
        if bins < 1:
            raise ValueError(f"bins: expected 1 or more, got {bins}")
        self.bins = bins
        self.count = 3 * bins + 1
        self.space = Space.of(True, periodic)
        mask = torch.tensor(self.space.periodic) if self.space.periodic else None
        self.register_buffer("periodic", mask, persistent=False)

    def forward(self, x: Tensor, params: Tensor) -> Mapped:
        """y and log dy/dx, both (…, D), for x (…, D) in the box."""
        sizes, slopes, turn = self._knots(params)
        at = self._find(x, sizes, slopes, axis=0)
        # Rounding alone could leave the bin, and with it the box.
        z = ((x - at.x) / at.width).clamp(0, 1)
        s = at.height / at.width
        denominator = s + (at.right + at.left - 2 * s) * z * (1 - z)
        y = at.y + at.height * (s * z**2 + at.left * z * (1 - z)) / denominator
        return Mapped(self._turned(y.clamp(-1, 1), turn), self._slope(at, z).log())

    def inverse(self, y: Tensor, params: Tensor) -> Mapped:
        """x and log dx/dy."""
        sizes, slopes, turn = self._knots(params)
        y = self._turned(y, -turn)
        at = self._find(y, sizes, slopes, axis=1)
        # Of equation 4, solved for z: the root of a z² + b z + c in the form that does not cancel.
        s = at.height / at.width
        r = y - at.y
        bend = r * (at.right + at.left - 2 * s)
        a = at.height * (s - at.left) + bend
        b = at.height * at.left - bend
        c = -s * r
        z = 2 * c / (-b - (b**2 - 4 * a * c).clamp(min=0).sqrt())
        z = z.clamp(0, 1)
        x = (at.x + at.width * z).clamp(-1, 1)
        return Mapped(x, -self._slope(at, z).log())

    @staticmethod
    def _slope(at: Bin, z: Tensor) -> Tensor:
        s = at.height / at.width
        numerator = s**2 * (at.right * z**2 + 2 * s * z * (1 - z) + at.left * (1 - z) ** 2)
        denominator = s + (at.right + at.left - 2 * s) * z * (1 - z)
        return numerator / denominator**2

    def _turned(self, y: Tensor, turn: Tensor) -> Tensor:
        return y if self.periodic is None else torch.where(self.periodic, wrap(y + turn), y)

    def _knots(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sizes of the bins (…, 2, K), along x and y; slopes (…, K + 1) at the knots; the turn."""
        K = self.bins
        sizes, slopes = params.split([2 * K, K + 1], -1)
        turn = slopes[..., K]  # of the periodic ones; of the others it is a slope
        if self.periodic is not None:
            last = torch.where(self.periodic, slopes[..., 0], slopes[..., K])
            slopes = torch.cat([slopes[..., :K], last.unsqueeze(-1)], -1)
        share = sizes.unflatten(-1, (2, K)).softmax(-1)
        sizes = 2 * self.MIN_SIZE + 2 * (1 - K * self.MIN_SIZE) * share
        slopes = torch.exp(self.MAX_LOG_SLOPE * torch.tanh(slopes / self.MAX_LOG_SLOPE))
        return sizes, slopes, turn

    def _find(self, value: Tensor, sizes: Tensor, slopes: Tensor, axis: int) -> Bin:
        """The bin that each value lies in, along x (axis 0) or y (axis 1)."""
        K = self.bins
        ends = sizes.cumsum(-1) - 1
        # So many inner ends lie at or below the value.
        k = (value.unsqueeze(-1) >= ends[..., axis, :-1]).sum(-1, keepdim=True)
        both = k.unsqueeze(-1).expand(*value.shape, 2, 1)
        size = sizes.expand(*value.shape, 2, K).gather(-1, both).squeeze(-1)
        end = ends.expand(*value.shape, 2, K).gather(-1, both).squeeze(-1)
        slope = slopes.expand(*value.shape, K + 1).gather(-1, torch.cat([k, k + 1], -1))
        return Bin(*(end - size).unbind(-1), *size.unbind(-1), *slope.unbind(-1))
