"""Families of transformations and the differentiable augmenter: T → parameters → image."""

from .affine import GENERATORS, Crop, TransformFamily, exponential, rigid_exponential
from .colour import Colour
from .elastic import Elastic
from .family import Family, Parameters
from .matrices import MatrixFamily, compose, warp
from .product import Product
from .projective import Projective
from .registry import FAMILIES
from .sampling import sample

__all__ = [
    "FAMILIES",
    "GENERATORS",
    "Colour",
    "Crop",
    "Elastic",
    "Family",
    "MatrixFamily",
    "Parameters",
    "Product",
    "Projective",
    "TransformFamily",
    "compose",
    "exponential",
    "rigid_exponential",
    "sample",
    "warp",
]
