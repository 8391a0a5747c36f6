"""Products: one family after the other, with the coefficients of all."""

from collections import Counter

import torch
from torch import Tensor

from .family import Family


class Product(Family):
    """A_T(I) = A_c(… A_b(A_a(I))) for T = (a, b, …, c): families from left to right.

    Names stay as they are; those that occur more than once get their family's place before them.

    Args:
        families: the parts.

    Raises:
        ValueError: without any.

    Example:
        >>> from flowinv.transforms import FAMILIES
        >>> Product(FAMILIES["rotation"], FAMILIES["tone"]).names
        ('rotation', 'brightness', 'contrast', 'gamma')
        >>> Product(FAMILIES["rotation"], FAMILIES["similarity"]).names[2:]
        ('translation y', '2 rotation', 'scale')
    """

    def __init__(self, *families: Family):
        if not families:
            raise ValueError("product: expected one family or more, got none")
        self.families = families
        times = Counter(name for family in families for name in family.names)
        self.names = tuple(
            f"{place} {name}" if times[name] > 1 else name
            for place, family in enumerate(families, 1)
            for name in family.names
        )
        self.periodic = tuple(wraps for family in families for wraps in family.periodic)

    @property
    def angles(self) -> tuple[bool, ...]:
        return tuple(angle for family in self.families for angle in family.angles)

    @property
    def identity(self) -> Tensor:
        return torch.cat([family.identity for family in self.families])

    def prepare(self, T: Tensor) -> tuple:
        """The parameters of each family, in a tuple."""
        parts = T.split([family.dim for family in self.families], -1)
        return tuple(family.prepare(part) for family, part in zip(self.families, parts))

    def apply(self, images: Tensor, parameters: tuple) -> Tensor:
        for family, part in zip(self.families, parameters):
            images = family.apply(images, part)
        return images
