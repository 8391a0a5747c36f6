"""The families by name."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..checks import Registry
from .affine import GENERATORS, Crop, TransformFamily, exponential, rigid_exponential
from .colour import CHANGES, Colour
from .elastic import Elastic
from .family import Family
from .product import Product
from .projective import Projective


def _family(*names: str, exp: Callable[[Tensor], Tensor] = exponential) -> TransformFamily:
    """The family of these generators; angles are periodic where nothing stands beside them."""
    generators = torch.tensor([GENERATORS[name] for name in names], dtype=torch.float64)
    periodic = (names == ("rotation",),) * len(names)
    return TransformFamily(names, generators, periodic, exp)


AFFINE = _family("translation x", "translation y", "rotation", "scale", "stretch", "shear")
COLOUR = Colour(*CHANGES)

FAMILIES: Registry[Family] = Registry(
    "family",
    rotation=_family("rotation", exp=rigid_exponential),
    translation=_family("translation x", "translation y", exp=rigid_exponential),
    rotation_translation=_family(
        "translation x", "translation y", "rotation", exp=rigid_exponential
    ),
    similarity=_family("translation x", "translation y", "rotation", "scale"),
    affine=AFFINE,
    decoupled=_family("a", "b", "c", "d", "e", "f"),
    rotation_discovery=_family("b", "d"),
    crop=Crop(),
    projective=Projective(),
    tilt=Projective(roll=False),
    elastic=Elastic(4),
    colour=COLOUR,
    hue=Colour("hue"),
    tone=Colour("brightness", "contrast", "gamma"),  # of grey images, too
    affine_colour=Product(AFFINE, COLOUR),
)
