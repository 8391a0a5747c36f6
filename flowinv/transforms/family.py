"""What every family of image transformations is: names, an identity, prepare and apply.

::

    T ∈ [−1, 1]^D  ──prepare──►  parameters  ──apply──►  A_T(I)

``prepare`` turns coefficients into what images are changed by: matrices, displacements, factors. It
sees no image, so that it is compiled together with what samples T; ``apply`` sees no T.
"""

from typing import Any

import torch
from torch import Tensor

from ..checks import check_coefficients, check_images

Parameters = Any  # what a family's own `prepare` returns: a tensor, or a tuple of a product's parts


class Family:
    """Image transformations A_T with D coefficients T in the box [−1, 1]^D.

    A subclass says ``names`` and ``periodic``, and has ``prepare`` and ``apply``.

    Attributes:
        names: of the coefficients, D strings.
        periodic: for each coefficient, whether −1 and 1 are one map, whatever the others are.

    Example:
        >>> class Exposure(Family):
        ...     names, periodic = ("exposure",), (False,)
        ...
        ...     def prepare(self, T):
        ...         return T.exp2()
        ...
        ...     def apply(self, images, parameters):
        ...         return (images * parameters[..., None, None]).clamp(0, 1)
        >>> Exposure().warp(torch.ones(8, 3, 4, 4), -torch.ones(20, 8, 1)).unique()
        tensor([0.5000])
    """

    names: tuple[str, ...]
    periodic: tuple[bool, ...]

    @property
    def dim(self) -> int:
        """D, the number of coefficients."""
        return len(self.names)

    @property
    def angles(self) -> tuple[bool, ...]:
        """For each coefficient, whether it is an angle, to be averaged on the circle."""
        return self.periodic

    @property
    def identity(self) -> Tensor:
        """The coefficients (D,) that change nothing."""
        return torch.zeros(self.dim)

    def prepare(self, T: Tensor) -> Parameters:
        """The parameters of coefficients T (…, D), with the same first axes (…)."""
        raise NotImplementedError

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        """A_T(I) for what ``prepare`` made of T, in [0, 1] for images in [0, 1].

        Args:
            images: (B, C, H, W), or (S, B, C, H, W) if they were transformed before.
            parameters: of T (B, D), or (S, B, D) for S transformations of each image.

        Returns:
            (B, C, H, W) or (S, B, C, H, W).
        """
        raise NotImplementedError

    def matrix(self, T: Tensor) -> Tensor:
        """M(T), where maps are matrices (see ``MatrixFamily``).

        Raises:
            ValueError: where they are not.
        """
        raise ValueError(
            f"matrix: expected a family whose maps are matrices (affine ones, crop, projective),"
            f" got {type(self).__name__}"
        )

    def warp(self, images: Tensor, T: Tensor, validate: bool = True) -> Tensor:
        """The transformed images A_T(I), in [0, 1], differentiable in both arguments.

        Args:
            images: (B, C, H, W), floats in [0, 1].
            T: (B, D), or (S, B, D) for S transformations of each image.
            validate: look for values outside [0, 1] and outside the box. On a GPU this waits for
                the device, so training does without.

        Returns:
            (B, C, H, W) or (S, B, C, H, W).

        Raises:
            ValueError: if shapes or values are not as said.
        """
        check_images(images, values=validate)
        like = (images.shape[0], self.dim)
        if isinstance(T, Tensor) and (T.ndim not in (2, 3) or T.shape[-2:] != like):
            raise ValueError(
                f"T: expected shape (S, B, D) or (B, D) with B = {len(images)} and"
                f" D = {self.dim}, got {tuple(T.shape)}"
            )
        check_coefficients(T, self.dim, values=validate)
        if T.dtype != images.dtype:
            raise ValueError(
                f"T: expected {images.dtype}, as the images, got {T.dtype}; convert with"
                " T.to(images.dtype)"
            )
        # Half precision is too coarse for places.
        with torch.autocast(images.device.type, enabled=False):
            return self.apply(images, self.prepare(T))
