"""Transformation families and the differentiable augmenter: T → matrix → warp.

A family spans a subspace of the Lie algebra of the plane's affine maps. Coefficients T in the box
[−1, 1]^D weigh its generators G_d, and the matrix exponential turns the sum into a map::

    M(T) = exp(Σ_d T_d G_d),      A_T(I)(p) = I(M(T) p).

One after the other is one product, A_b(A_a(I)) = I(M(a) M(b) p), which ``compose`` computes.

Convention (the one of torch's ``affine_grid`` and ``grid_sample``)::

    shapes       images (B, C, H, W); T (S, B, D) or (B, D); matrices (…, 2, 3)
    coordinates  x to the right, y down, −1 and +1 at the picture's outer edges
                 (align_corners=False)
    direction    M maps a point p of the output to the point of the input that is shown there, so
                 a positive rotation turns what one sees counter-clockwise, a positive x
                 translation moves it to the left, a positive scale makes it smaller
    padding      what comes from outside the picture is 0
    values       images in [0, 1] stay in [0, 1]
    not square   a rotation is rigid in pixels, and a translation by 1 is half the longer side

Source: Singhal et al. 2023, with the six affine generators, and its equation 20 (decoupled);
Hall 2015 (Lie groups).
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import factorial, pi

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import Registry, check_coefficients, check_images

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


def compose(first: Tensor, second: Tensor) -> Tensor:
    """The matrix of one map after the other: warping by ``first``, then by ``second``.

    Args:
        first: (…, 2, 3).
        second: (…, 2, 3).

    Returns:
        (…, 2, 3).

    Example:
        >>> quarter = FAMILIES["rotation"].matrix(torch.tensor([0.5]))
        >>> compose(quarter, quarter).round(decimals=3) + 0.0
        tensor([[-1.,  0.,  0.],
                [ 0., -1.,  0.]])
    """
    linear, shift = first[..., :2], first[..., 2:]
    return linear @ second + F.pad(shift, (2, 0))


def warp(images: Tensor, matrices: Tensor, isotropic: bool = True) -> Tensor:
    """I(M p), bilinear, in [0, 1] for images in [0, 1].

    Args:
        images: (B, C, H, W).
        matrices: (B, 2, 3) or, S for each image, (S, B, 2, 3).
        isotropic: the matrices are in units in which a circle is round, also where the picture is
            not square; otherwise −1 and +1 are the edges in either direction.

    Returns:
        (B, C, H, W) or (S, B, C, H, W).

    Example:
        >>> warp(torch.ones(8, 1, 28, 28), torch.eye(2, 3).expand(20, 8, 2, 3)).shape
        torch.Size([20, 8, 1, 28, 28])
    """
    C, H, W = images.shape[1:]
    # The weights of four pixels, as rounded, can add up to 1 + 3.5 eps. So that white does not
    # become whiter, images are darkened by as little once, rather than clamped S times.
    images = images * (1 - 4 * torch.finfo(images.dtype).eps)
    images = images.expand(*matrices.shape[:-2], C, H, W)
    warped = F.grid_sample(
        images.flatten(0, -4),
        _grid(matrices.flatten(0, -3), H, W, isotropic),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )
    return warped.view(images.shape)


def _grid(matrices: Tensor, H: int, W: int, isotropic: bool) -> Tensor:
    """M p of every pixel's centre p, in the units of grid_sample: (N, 2, 3) → (N, H, W, 2).

    What torch's affine_grid computes, in less time: the parts of x and y are added at the end.
    """
    unit_x, unit_y = W, H
    if isotropic and H != W:
        unit_x = unit_y = max(H, W)
        x_row, y_row = matrices.unbind(-2)
        matrices = torch.stack([x_row * (unit_x / W), y_row * (unit_y / H)], -2)
    x = _centres(W, unit_x, like=matrices)
    y = _centres(H, unit_y, like=matrices)
    a, b, c = matrices.unsqueeze(-1).unbind(-2)  # the columns, (N, 2, 1) each
    along_x = a * x
    along_y = torch.addcmul(c, b, y)
    grid = along_x[..., None, :] + along_y[..., :, None]  # (N, 2, H, W)
    return grid.movedim(1, -1)


def _centres(pixels: int, unit: int, like: Tensor) -> Tensor:
    """Where the centres of a row of pixels are, in units of half as many pixels as `unit` says."""
    last = (pixels - 1) / unit
    return torch.linspace(-last, last, pixels, dtype=like.dtype, device=like.device)


@dataclass(frozen=True, eq=False)
class TransformFamily:
    """Transformations with D coefficients T in the box [−1, 1]^D.

    A subclass may compute ``matrix`` in another way, and say at which coefficients it is the
    identity and whether its units are isotropic.

    Args:
        names: of the coefficients, D strings.
        generators: (D, 3, 3) float64, in units such that 1 is the largest transformation meant.
        periodic: for each coefficient, whether −1 and 1 are one map, whatever the others are: true
            of a rotation that stands alone. Beside a translation t, (t, 1) is the map of (−t, −1):
            the turn is the same and the shift is the opposite, so the box's ends do not join.
        exp: (…, 3, 3) → (…, 2, 3), the matrix exponential or a closed form of it.

    Example:
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

    isotropic = True  # see `warp`

    @property
    def dim(self) -> int:
        """D, the number of coefficients."""
        return len(self.names)

    @property
    def angles(self) -> tuple[bool, ...]:
        """For each coefficient, whether it is an angle, to be averaged on the circle."""
        return tuple(name == "rotation" for name in self.names)

    @property
    def identity(self) -> Tensor:
        """The coefficients (D,) that change nothing."""
        return torch.zeros(self.dim)

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

    def warp(self, images: Tensor, T: Tensor, validate: bool = True) -> Tensor:
        """The transformed images A_T(I), bilinear, in [0, 1], differentiable in both arguments.

        Args:
            images: (B, C, H, W), floats in [0, 1].
            T: (B, D), or (S, B, D) for S transformations of each image.
            validate: look for values outside [0, 1] and outside the box. On a GPU this waits for
                the device, so training does without.

        Returns:
            (B, C, H, W) or (S, B, C, H, W).

        Raises:
            ValueError: if shapes or values are not as said.

        Example:
            >>> corner = torch.eye(3)[None, None]
            >>> T = torch.tensor([[2 / 3, 0.0]])  # a pixel of three is 2/3 of half the width
            >>> FAMILIES["translation"].warp(corner, T)[0, 0].round(decimals=3)
            tensor([[0., 0., 0.],
                    [1., 0., 0.],
                    [0., 1., 0.]])
        """
        check_images(images, values=validate)
        if T.ndim not in (2, 3) or T.shape[-2:] != (len(images), self.dim):
            raise ValueError(
                f"T: expected shape (S, B, D) or (B, D) with B = {len(images)} and"
                f" D = {self.dim}, got {tuple(T.shape)}"
            )
        if validate:
            check_coefficients(T, self.dim)
        # Half precision is too coarse for places.
        with torch.autocast(images.device.type, enabled=False):
            return warp(images, self.matrix(T), self.isotropic)


class Crop(TransformFamily):
    """Crops, enlarged to the full picture: T = (centre x, centre y, width, height).

    Width and height go from ``MIN_SIZE`` of the picture's at −1 to all of it at 1, evenly in their
    logarithm. The centre is a share of the room that is left, so no crop leaves the picture. That
    puts the identity on the box's edge, at (0, 0, 1, 1): a crop can be smaller than the picture,
    never larger. Crops are no Lie group: they have no generators.

    Source: Singhal et al. 2023 (TinyImageNet); Miao et al. 2023 (InstaAug).
    """

    MIN_SIZE = 0.2
    isotropic = False

    @property
    def identity(self) -> Tensor:
        return torch.tensor([0.0, 0.0, 1.0, 1.0])

    def matrix(self, T: Tensor) -> Tensor:
        centre = T[..., :2]
        size = self.MIN_SIZE ** ((1 - T[..., 2:]) / 2)
        shift = centre * (1 - size)
        return torch.cat([torch.diag_embed(size), shift.unsqueeze(-1)], -1)


def _family(*names: str, exp: Callable[[Tensor], Tensor] = exponential) -> TransformFamily:
    """The family of these generators; angles are periodic where nothing stands beside them."""
    generators = torch.tensor([GENERATORS[name] for name in names], dtype=torch.float64)
    periodic = (names == ("rotation",),) * len(names)
    return TransformFamily(names, generators, periodic, exp)


FAMILIES = Registry(
    "family",
    rotation=_family("rotation", exp=rigid_exponential),
    translation=_family("translation x", "translation y", exp=rigid_exponential),
    rotation_translation=_family(
        "translation x", "translation y", "rotation", exp=rigid_exponential
    ),
    similarity=_family("translation x", "translation y", "rotation", "scale"),
    affine=_family("translation x", "translation y", "rotation", "scale", "stretch", "shear"),
    decoupled=_family("a", "b", "c", "d", "e", "f"),
    rotation_discovery=_family("b", "d"),
    crop=Crop(
        names=("centre x", "centre y", "width", "height"),
        generators=torch.zeros(0, 3, 3),
        periodic=(False,) * 4,
    ),
)
