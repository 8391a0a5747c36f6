"""Transformation families and the differentiable augmenter: T → matrix → warp.

A family spans a subspace of the Lie algebra of the plane's affine maps. Coefficients T in the box
[−1, 1]^D weigh its generators G_d, and the matrix exponential turns the sum into a map:

    M(T) = exp(Σ_d T_d G_d),      A_T(I)(p) = I(M(T) p).

One after the other is one product: A_b(A_a(I)) = I(M(a) M(b) p), which `compose` computes.

Convention (the one of torch's affine_grid and grid_sample):
    shapes       images (B, C, H, W); T (S, B, D) or (B, D); matrices (…, 2, 3)
    coordinates  x to the right, y down, −1 and +1 at the picture's outer edges (align_corners=False)
    direction    M maps a point p of the output to the point of the input that is shown there, so a
                 positive rotation turns what one sees counter-clockwise, a positive x translation
                 moves it to the left, a positive scale makes it smaller
    padding      what comes from outside the picture is 0
    not square   a rotation is rigid in pixels, and a translation by 1 is half the longer side

Source: Singhal et al. 2023, with the six affine generators, and its equation 20 (decoupled); Hall 2015
(Lie groups).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
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
    # One entry of the matrix each, as equation 20 has it. b = −d = −r and the rest 0 is a rotation by r.
    "a": [[0.5, 0, 0], [0, 0, 0], [0, 0, 0]],  # x by exp(0.5)
    "b": [[0, pi, 0], [0, 0, 0], [0, 0, 0]],
    "c": [[0, 0, 1], [0, 0, 0], [0, 0, 0]],  # a translation in x
    "d": [[0, 0, 0], [pi, 0, 0], [0, 0, 0]],
    "e": [[0, 0, 0], [0, 0.5, 0], [0, 0, 0]],  # y by exp(0.5)
    "f": [[0, 0, 0], [0, 0, 1], [0, 0, 0]],  # a translation in y
}


def exponential(A: Tensor) -> Tensor:
    """exp(A)'s upper two rows, for A (…, 3, 3) whose last row is 0 and whose norm is at most 20.

    exp(A) = exp(A/8)^8. With A/8 = [[B, t], [0, 0]] it is [[exp B, φ(B) t]], where φ(B) = Σ_k B^k / (k + 1)! and
    exp B = 1 + B φ(B). B is a multiple s of the identity plus a matrix N without trace, whose square
    is a number: N² = δ. So powers of B stay of the form p + q N, and Horner's rule needs numbers
    only. Unlike torch.linalg.matrix_exp it makes no GPU wait, and large batches are faster.
    """
    A = A / 8
    a, b, d, e = A[..., 0, 0], A[..., 0, 1], A[..., 1, 0], A[..., 1, 1]
    s, n = (a + e) / 2, (a - e) / 2
    δ = n * n + b * d
    p, q = torch.full_like(s, 1 / factorial(TERMS)), torch.zeros_like(s)
    for k in range(TERMS - 1, 0, -1):  # φ ← φ B + 1/k!
        p, q = torch.addcmul(q * δ, p, s) + 1 / factorial(k), torch.addcmul(p, q, s)
    φ = torch.stack([p + q * n, q * b, q * d, p - q * n], -1).unflatten(-1, (2, 2))
    M = torch.eye(2, 3, dtype=A.dtype, device=A.device) + φ @ A[..., :2, :]
    for _ in range(3):
        M = compose(M, M)
    return M


TERMS = 16  # of the exponential's series: for norms of A up to 8 what is left out is below 1e-14, up to 20 below 1e-8


def rigid_exponential(A: Tensor) -> Tensor:
    """exp(A)'s upper two rows in closed form, for A (…, 3, 3) made of rotation and translation.

    With angle θ and translation t: rotation R(θ), translation V t with
    V = [[sin θ, −(1 − cos θ)], [1 − cos θ, sin θ]] / θ, both written so that θ = 0 is no exception.
    """
    θ, t = A[..., 1, 0], A[..., :2, 2]
    cos, sin = torch.cos(θ), torch.sin(θ)
    a = torch.sinc(θ / pi)  # sin θ / θ
    b = torch.sin(θ / 2) * torch.sinc(θ / (2 * pi))  # (1 − cos θ) / θ
    x = a * t[..., 0] - b * t[..., 1]
    y = b * t[..., 0] + a * t[..., 1]
    return torch.stack([cos, -sin, x, sin, cos, y], -1).unflatten(-1, (2, 3))


def compose(first: Tensor, second: Tensor) -> Tensor:
    """The matrix (…, 2, 3) of one map after the other: warping by it is warping by `first`, then `second`.

    >>> quarter = FAMILIES["rotation"].matrix(torch.tensor([0.5]))
    >>> compose(quarter, quarter).round(decimals=3) + 0.0
    tensor([[-1.,  0.,  0.],
            [ 0., -1.,  0.]])
    """
    linear = first[..., :2] @ second
    return torch.cat([linear[..., :2], linear[..., 2:] + first[..., 2:]], -1)


def warp(images: Tensor, matrices: Tensor, isotropic: bool = True) -> Tensor:
    """I(M p), bilinear: images (B, C, H, W) by matrices (B, 2, 3) or, S for each, (S, B, 2, 3).

    isotropic: the matrices are in units in which a circle is round, also where the picture is not square;
        otherwise −1 and +1 are the edges in either direction.

    >>> warp(torch.ones(8, 1, 28, 28), torch.eye(2, 3).expand(20, 8, 2, 3)).shape
    torch.Size([20, 8, 1, 28, 28])
    """
    C, H, W = images.shape[1:]
    if isotropic and H != W:  # to normalised units, and back
        matrices = matrices * _aspect(H, W, matrices.device, matrices.dtype)
    # What torch's affine_grid computes, as one product for all pictures, in less time: x and y of the centres apart.
    with torch.autocast(images.device.type, enabled=False):
        grid = matrices.flatten(0, -2) @ _centres(H, W, matrices.device, matrices.dtype)
    grid = grid.view(-1, 2, H, W).movedim(1, -1)
    images = images.expand(*matrices.shape[:-2], C, H, W)
    warped = F.grid_sample(
        images.flatten(0, -4), grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return warped.view(images.shape)


@dataclass(frozen=True, eq=False)
class TransformFamily:
    """Transformations with D coefficients T in the box [−1, 1]^D.

    names: of the coefficients, D strings.
    generators: (D, 3, 3) float64, in units such that 1 is the largest transformation meant.
    periodic: for each coefficient, whether −1 and 1 are one map, whatever the others are: true of a
        rotation that stands alone. Beside a translation t, (t, 1) is the map of (−t, −1): the turn is the
        same and the shift is the opposite, so the ends of the box do not join.
    exp: (…, 3, 3) → (…, 2, 3), the matrix exponential or a closed form of it.

    A subclass may compute `matrix` in another way, and say at which coefficients it is the identity and
    whether its units are isotropic.

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
        """For each coefficient, whether it is an angle, to be averaged and measured on the circle."""
        return tuple(name == "rotation" for name in self.names)

    @property
    def identity(self) -> Tensor:
        """The coefficients (D,) that change nothing."""
        return torch.zeros(self.dim)

    def matrix(self, T: Tensor) -> Tensor:
        """M(T) = exp(Σ T_d G_d), (…, D) → (…, 2, 3): from output to input coordinates."""
        return self.exp(torch.einsum("...d,dij->...ij", T, _generators(self, T.device, T.dtype)))

    def warp(self, images: Tensor, T: Tensor, validate: bool = True) -> Tensor:
        """The transformed images A_T(I), bilinear, differentiable in both arguments.

        images: (B, C, H, W), floats in [0, 1].
        T: (B, D) gives (B, C, H, W); (S, B, D) gives (S, B, C, H, W), S transformations of each.
        validate: look for values outside [0, 1] and outside the box (on a GPU this waits for it).
        Raises ValueError if shapes or values are not as said.

        >>> FAMILIES["translation"].warp(torch.eye(4)[None, None], torch.tensor([[0.5, 0.0]]))[0, 0]
        tensor([[0., 0., 0., 0.],
                [1., 0., 0., 0.],
                [0., 1., 0., 0.],
                [0., 0., 1., 0.]])
        """
        check_images(images, values=validate)
        if T.ndim not in (2, 3) or T.shape[-2:] != (len(images), self.dim):
            raise ValueError(
                f"T: expected shape (S, B, D) or (B, D) with B = {len(images)} and D = {self.dim}, got {tuple(T.shape)}"
            )
        if validate:
            check_coefficients(T, self.dim)
        with torch.autocast(
            images.device.type, enabled=False
        ):  # half precision is too coarse for places
            matrices = self.matrix(T)
        return warp(images, matrices, self.isotropic)


class Crop(TransformFamily):
    """Crops, enlarged to the full picture: T = (centre x, centre y, width, height).

    Width and height go from MIN_SIZE of the picture's at −1 to all of it at 1, evenly in their
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
        size = self.MIN_SIZE ** ((1 - T[..., 2:]) / 2)
        return torch.cat([torch.diag_embed(size), (T[..., :2] * (1 - size)).unsqueeze(-1)], -1)


@lru_cache  # moved to a device once, not at every step
def _generators(family: TransformFamily, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # whoever calls first: it is kept
        return family.generators.to(dtype).to(device)  # in this order: MPS knows no float64


@lru_cache
def _aspect(H: int, W: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    L = max(H, W)
    with torch.inference_mode(False):
        return torch.tensor([[1, H / W, L / W], [W / H, 1, L / H]], dtype=dtype, device=device)


@lru_cache
def _centres(H: int, W: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(x, y, 1) of each pixel's centre: (3, H W)."""
    with torch.inference_mode(False):
        x, y = (torch.arange(1 - n, n, 2, dtype=dtype, device=device) / n for n in (W, H))
        y, x = torch.meshgrid(y, x, indexing="ij")
        return torch.stack([x, y, torch.ones_like(x)]).flatten(1)


def _family(*names: str, exp=exponential) -> TransformFamily:
    generators = torch.tensor([GENERATORS[name] for name in names], dtype=torch.float64)
    return TransformFamily(names, generators, tuple(names == ("rotation",) for _ in names), exp)


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
    crop=Crop(("centre x", "centre y", "width", "height"), torch.zeros(0, 3, 3), (False,) * 4),
)
