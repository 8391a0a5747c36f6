"""Maps of the plane as matrices: one after the other, and the warp by one.

One after the other is one product, A_b(A_a(I)) = I(M(a) M(b) p), which ``compose`` computes. Affine
maps are stored as their upper two rows. Of a homography all three are needed: M p is (x, y) / w for
M (p, 1) = (x, y, w).

Convention (the one of torch's ``affine_grid`` and ``grid_sample``)::

    shapes       images (B, C, H, W); T (S, B, D) or (B, D); matrices (…, 2, 3) or (…, 3, 3)
    coordinates  x to the right, y down, −1 and +1 at the picture's outer edges
                 (align_corners=False)
    direction    M maps a point p of the output to the point of the input that is shown there, so
                 a positive rotation turns what one sees counter-clockwise, a positive x
                 translation moves it to the left, a positive scale makes it smaller
    padding      what comes from outside the picture, or from behind the camera, is 0
    values       images in [0, 1] stay in [0, 1]
    not square   a rotation is rigid in pixels, and a translation by 1 is half the longer side
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .family import Family
from .sampling import centres, sample


def compose(first: Tensor, second: Tensor) -> Tensor:
    """The matrix of one map after the other: warping by ``first``, then by ``second``.

    Args:
        first: (…, 2, 3), or (…, 3, 3) for homographies.
        second: likewise.

    Returns:
        (…, 2, 3) or (…, 3, 3).

    Example:
        >>> quarter = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])
        >>> compose(quarter, quarter)
        tensor([[-1.,  0.,  0.],
                [ 0., -1.,  0.]])
    """
    if first.shape[-2] == 3:
        return first @ second
    linear, shift = first[..., :2], first[..., 2:]
    return linear @ second + F.pad(shift, (2, 0))


def warp(images: Tensor, matrices: Tensor, isotropic: bool = True) -> Tensor:
    """I(M p), bilinear, in [0, 1] for images in [0, 1].

    Args:
        images: (B, C, H, W), or (S, B, C, H, W) for other images in each sample.
        matrices: (B, 2, 3) or, S for each image, (S, B, 2, 3); (…, 3, 3) for homographies.
        isotropic: the matrices are in units in which a circle is round, also where the picture is
            not square; otherwise −1 and +1 are the edges in either direction.

    Returns:
        (B, C, H, W) or (S, B, C, H, W).

    Example:
        >>> warp(torch.ones(8, 1, 28, 28), torch.eye(2, 3).expand(20, 8, 2, 3)).shape
        torch.Size([20, 8, 1, 28, 28])
    """
    H, W = images.shape[-2:]
    grid = _grid(matrices.flatten(0, -3), H, W, isotropic)
    return sample(images, grid.unflatten(0, matrices.shape[:-2]))


def _grid(matrices: Tensor, H: int, W: int, isotropic: bool) -> Tensor:
    """M p of every pixel's centre p, in the units of grid_sample: (N, 2 or 3, 3) → (N, H, W, 2).

    What torch's affine_grid computes, in less time: the parts of x and y are added at the end.
    """
    unit_x, unit_y = W, H
    if isotropic and H != W:
        unit_x = unit_y = max(H, W)
        x_row, y_row, *w_row = matrices.unbind(-2)
        matrices = torch.stack([x_row * (unit_x / W), y_row * (unit_y / H), *w_row], -2)
    x = centres(W, unit_x, like=matrices)
    y = centres(H, unit_y, like=matrices)
    a, b, c = matrices.unsqueeze(-1).unbind(-2)  # the columns, (N, 2 or 3, 1) each
    along_x = a * x
    along_y = torch.addcmul(c, b, y)
    grid = along_x[..., None, :] + along_y[..., :, None]  # (N, 2 or 3, H, W)
    if grid.shape[1] == 3:
        w = grid[:, 2:].clamp(min=1e-6)  # what is not in front of the camera is far away
        grid = grid[:, :2] / w
    return grid.movedim(1, -1)


class MatrixFamily(Family):
    """A family whose maps are matrices M(T), which can be composed: a subclass has ``matrix``.

    Attributes:
        isotropic: whether its units are those in which a circle is round (see ``warp``).
    """

    isotropic = True

    def matrix(self, T: Tensor) -> Tensor:
        """M(T), from places in the output to places in the input.

        Args:
            T: (…, D).

        Returns:
            (…, 2, 3), or (…, 3, 3) for homographies.
        """
        raise NotImplementedError

    def prepare(self, T: Tensor) -> Tensor:
        return self.matrix(T)

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        return warp(images, parameters, self.isotropic)
