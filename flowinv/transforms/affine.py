"""Affine families: subspaces of the Lie algebra of the plane's affine maps, T → matrix.

Coefficients T in the box [−1, 1]^D weigh a family's generators G_d, and the matrix exponential
turns the sum into a map::

    M(T) = exp(Σ_d T_d G_d),      A_T(I)(p) = I(M(T) p).

Source: Singhal et al. 2023, with the six affine generators, and its equation 20 (decoupled);
Hall 2015 (Lie groups).
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import factorial, pi

import torch
from torch import Tensor

from .matrices import MatrixFamily, compose

# One generator a row: what the coefficient 1, alone, means is in the comment.
GENERATORS = {
    "translation x": [[0, 0, 1], [0, 0, 0], [0, 0, 0]],  # half the picture's width
    "translation y": [[0, 0, 0], [0, 0, 1], [0, 0, 0]],  # half the picture's height
    "rotation": [[0, -pi, 0], [pi, 0, 0], [0, 0, 0]],  # 180 degrees: the box is the full circle
    "scale": [[0.5, 0, 0], [0, 0.5, 0], [0, 0, 0]],  # both axes by exp(0.5)
    "stretch": [[0.5, 0, 0], [0, -0.5, 0], [0, 0, 0]],  # x by exp(0.5), y by exp(−0.5)
    "shear": [[0, 0.5, 0], [0.5, 0, 0], [0, 0, 0]],  # the stretch along the diagonals
    # One entry of the matrix each, as equation 20 has it: b = −d = −r alone is a rotation by r.
    "a": [[0.5, 0, 0], [0, 0, 0], [0, 0, 0]],  # x by exp(0.5)
    "b": [[0, pi, 0], [0, 0, 0], [0, 0, 0]],
    "c": [[0, 0, 1], [0, 0, 0], [0, 0, 0]],  # a translation in x
    "d": [[0, 0, 0], [pi, 0, 0], [0, 0, 0]],
    "e": [[0, 0, 0], [0, 0.5, 0], [0, 0, 0]],  # y by exp(0.5)
    "f": [[0, 0, 0], [0, 0, 1], [0, 0, 0]],  # a translation in y
}

# Of the exponential's series. What is left out is below 1e-14 for norms of A up to 8, below 1e-8
# for norms up to 20.
TERMS = 16


def exponential(A: Tensor) -> Tensor:
    """exp(A)'s upper two rows, for A whose last row is 0.

    exp(A) = exp(A/8)^8. With A/8 = [[B, t], [0, 0]] it is::

        exp(A/8) = [[1 + φ(B) B, φ(B) t], [0, 1]],      φ(B) = Σ_k B^k / (k + 1)!

    B = s + N with a number s and a matrix N = [[n, b], [d, −n]], whose square is a number: N² = δ.
    So φ(B) is of the form p + q N, and Horner's rule needs numbers only. Unlike
    ``torch.linalg.matrix_exp`` it makes no GPU wait, and large batches are faster.

    Args:
        A: (…, 3, 3), with a norm of at most 20.

    Returns:
        (…, 2, 3).
    """
    Bt = A[..., :2, :] / 8
    a, b, _, d, e, _ = Bt.flatten(-2).unbind(-1)
    s = (a + e) / 2
    n = (a - e) / 2
    delta = n * n + b * d
    p = torch.full_like(s, 1 / factorial(TERMS))
    q = torch.zeros_like(s)
    for k in range(TERMS - 1, 0, -1):
        # φ ← φ B + 1/k!, where (p + q N) (s + N) = (p s + q δ) + (p + q s) N
        p_before = p
        p = torch.addcmul(q * delta, p, s) + 1 / factorial(k)
        q = torch.addcmul(p_before, q, s)
    N = torch.stack([n, b, d, -n], -1).unflatten(-1, (2, 2))
    one = torch.eye(2, 3, dtype=A.dtype, device=A.device)
    phi = p[..., None, None] * one[:, :2] + q[..., None, None] * N
    M = one + phi @ Bt
    for _ in range(3):
        M = compose(M, M)
    return M


def rigid_exponential(A: Tensor) -> Tensor:
    """exp(A)'s upper two rows in closed form, for A made of rotation and translation.

    With angle θ and translation t it is (R(θ), V t)::

        R(θ) = [[cos θ, −sin θ], [sin θ, cos θ]]
        V = [[a, −b], [b, a]],      a = sin θ / θ,      b = (1 − cos θ) / θ

    Both a and b are written so that θ = 0 is no exception.

    Args:
        A: (…, 3, 3).

    Returns:
        (…, 2, 3).
    """
    _, _, t_x, theta, _, t_y = A[..., :2, :].flatten(-2).unbind(-1)
    cos = torch.cos(theta)
    sin = torch.sin(theta)
    a = torch.sinc(theta / pi)
    b = torch.sin(theta / 2) * torch.sinc(theta / (2 * pi))
    x = a * t_x - b * t_y
    y = b * t_x + a * t_y
    return torch.stack([cos, -sin, x, sin, cos, y], -1).unflatten(-1, (2, 3))


@dataclass(frozen=True, eq=False)
class TransformFamily(MatrixFamily):
    """Transformations with D coefficients T in the box [−1, 1]^D.

    Args:
        names: of the coefficients, D strings.
        generators: (D, 3, 3) float64, in units such that 1 is the largest transformation meant.
        periodic: for each coefficient, whether −1 and 1 are one map, whatever the others are: true
            of a rotation that stands alone. Beside a translation t, (t, 1) is the map of (−t, −1):
            the turn is the same and the shift is the opposite, so the box's ends do not join.
        exp: (…, 3, 3) → (…, 2, 3), the matrix exponential or a closed form of it.

    Example:
        >>> from flowinv.transforms import FAMILIES
        >>> family = FAMILIES["rotation"]
        >>> family.matrix(torch.tensor([0.5])).round(decimals=3) + 0.0  # a quarter turn
        tensor([[ 0., -1.,  0.],
                [ 1.,  0.,  0.]])
        >>> family.warp(torch.rand(8, 1, 28, 28), torch.zeros(20, 8, 1)).shape
        torch.Size([20, 8, 1, 28, 28])
    """

    names: tuple[str, ...]
    generators: Tensor
    periodic: tuple[bool, ...]
    exp: Callable[[Tensor], Tensor] = exponential

    @property
    def angles(self) -> tuple[bool, ...]:
        """For each coefficient, whether it is an angle, to be averaged on the circle."""
        return tuple(name == "rotation" for name in self.names)

    def matrix(self, T: Tensor) -> Tensor:
        """M(T) = exp(Σ_d T_d G_d): from places in the output to places in the input.

        Args:
            T: (…, D).

        Returns:
            (…, 2, 3).
        """
        # In this order, as MPS knows no float64. So small a copy does not make a GPU wait.
        G = self.generators.to(T.dtype).to(T.device, non_blocking=True)
        A = (T @ G.flatten(1)).unflatten(-1, (3, 3))
        return self.exp(A)


class Crop(MatrixFamily):
    """Crops, enlarged to the full picture: T = (centre x, centre y, width, height).

    Width and height go from ``MIN_SIZE`` of the picture's at −1 to all of it at 1, evenly in their
    logarithm. The centre is a share of the room that is left, so no crop leaves the picture. That
    puts the identity on the box's edge, at (0, 0, 1, 1): a crop can be smaller than the picture,
    never larger. Crops are no Lie group: they have no generators.

    Source: Singhal et al. 2023 (TinyImageNet); Miao et al. 2023 (InstaAug).
    """

    names = ("centre x", "centre y", "width", "height")
    periodic = (False,) * 4
    isotropic = False
    MIN_SIZE = 0.2

    @property
    def identity(self) -> Tensor:
        return torch.tensor([0.0, 0.0, 1.0, 1.0])

    def matrix(self, T: Tensor) -> Tensor:
        centre = T[..., :2]
        size = self.MIN_SIZE ** ((1 - T[..., 2:]) / 2)
        shift = centre * (1 - size)
        return torch.cat([torch.diag_embed(size), shift.unsqueeze(-1)], -1)
