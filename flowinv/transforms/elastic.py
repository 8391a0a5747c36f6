"""Elastic maps: a smooth displacement by control points, so small that nothing folds.

n×n control points c_ij lie evenly over the picture, its edges included, h = 2 / (n − 1) apart. With
the cubic B-spline β the displacement is::

    M p = p + u(p),      u(x, y) = Σ_ij c_ij β((x − x_j) / h) β((y − y_i) / h).

It is computed at every pixel, not interpolated, and is twice continuously differentiable.

**No folding.** Let no component of any c_ij exceed A. As Σ_j β(t − j) ≤ 1 and Σ_j abs β′(t − j) is
at most 3/2, every partial derivative of u is at most ρ = 3A / (2h). For ρ < 1/2 the row sums of ∂u
stay below 2ρ < 1: u is a contraction in the maximum norm, so p + u(p) is one-to-one, and the
Jacobian's determinant is at least (1 − ρ)² − ρ² = 1 − 2ρ. Here A = ``SHARE`` · h = 0.3 h, so for
every T in the box ρ is at most 0.45, and the determinant at least 0.1.

Source: Rueckert et al. 1999 (free-form deformations); Choi & Lee 2000, who allow A up to 0.4 h.
"""

import torch
from torch import Tensor

from .family import Family
from .sampling import centres, sample

SHARE = 0.3  # of the control points' distance: the largest displacement of one, either way


def cubic(t: Tensor) -> Tensor:
    """β(t), the cubic B-spline: ((2 − abs t)₊³ − 4 (1 − abs t)₊³) / 6.

    Example:
        >>> 6 * cubic(torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]))
        tensor([0., 1., 4., 1., 0.])
    """
    wide = (2 - t.abs()).clamp(min=0)
    narrow = (1 - t.abs()).clamp(min=0)
    return (wide**3 - 4 * narrow**3) / 6


class Elastic(Family):
    """Displacements by n×n control points, 2 n² coefficients: all of x, then of y, row by row.

    As with a translation, a positive coefficient moves what one sees to the left, or up. Units are
    the picture's own: −1 and +1 are the edges in either direction, whatever its shape.

    Args:
        n: control points a side; the more, the finer and the smaller the displacement.

    Raises:
        ValueError: for fewer than 2.

    Example:
        >>> family = Elastic(4)
        >>> family.dim, family.names[5]
        (32, 'x 1 1')
        >>> family.warp(torch.rand(8, 1, 28, 28), 2 * torch.rand(20, 8, 32) - 1).shape
        torch.Size([20, 8, 1, 28, 28])
    """

    def __init__(self, n: int = 4):
        if n < 2:
            raise ValueError(f"n: expected 2 control points a side or more, got {n}")
        self.n = n
        self.names = tuple(f"{axis} {i} {j}" for axis in "xy" for i in range(n) for j in range(n))
        self.periodic = (False,) * self.dim

    @property
    def spacing(self) -> float:
        """h, the distance of control points."""
        return 2 / (self.n - 1)

    def prepare(self, T: Tensor) -> Tensor:
        """The control points' displacements c, (…, 2, n, n)."""
        return SHARE * self.spacing * T.unflatten(-1, (2, self.n, self.n))

    def displacement(self, c: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """u at each x and y: (…, 2, n, n), (W,) and (H,) → (…, 2, H, W)."""
        return self._weights(y) @ c @ self._weights(x).T

    def _weights(self, x: Tensor) -> Tensor:
        """β((x − x_j) / h), what each control point weighs at each place: (W,) → (W, n)."""
        at = torch.linspace(-1, 1, self.n, dtype=x.dtype, device=x.device)
        return cubic((x[:, None] - at) / self.spacing)

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        H, W = images.shape[-2:]
        x = centres(W, W, like=parameters)
        y = centres(H, H, like=parameters)
        with torch.autocast(images.device.type, enabled=False):
            u = self.displacement(parameters, x, y)
        upright = torch.stack(torch.meshgrid(x, y, indexing="xy"))  # (2, H, W)
        return sample(images, (upright + u).movedim(-3, -1))
