"""Mario-Iggy: two pictures, upright and upside-down, turned by known angles.

Because the angle of every image is known, so is what q(T | I) should be: the turns that bring it
to any angle of its class.

Source: Benton et al. 2020 (Augerino); Singhal et al. 2023.
"""

from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..files import atomic_write
from ..transforms import FAMILIES
from .catalogue import (
    BAD_CACHE,
    BAD_DOWNLOAD,
    SAMPLES,
    cache_file,
    check_sums,
    download_url,
    read_arrays,
)
from .dataset import DataError, Dataset, Split, principal, uniform

# The two images of Augerino's code release, which the paper's own experiments use too; their sums.
URL = (
    "https://raw.githubusercontent.com/g-benton/learning-invariances"
    "/7de74fea165a195a467bbc8c0aece17fbfa45634/experiments/mario-iggy/data/images.npz"
)
SHA256 = {
    "mario": "37079c3bddcb529aa9d54f04e746a40203dd8fddf4d40eb8dde5da65bed50b33",
    "iggy": "995a164eb8c8ff23fb5f7a8091806bd55fd6fe3096a7e3f380cf8c2a424f7b52",
}


class Pictures(NamedTuple):
    """Two pictures (2, 3, 32, 32), the name of their source and theirs."""

    images: Tensor
    source: str
    names: tuple[str, str]


def mario_poses(modes: int = 1) -> Tensor:
    """The poses of Mario-Iggy's four classes, (4, modes), in degrees.

    Those of upright and upside-down alternate round the circle.

    Args:
        modes: poses of each class.

    Example:
        >>> mario_poses(3)[:2]
        tensor([[   0.,  120., -120.],
                [  60.,  180.,  -60.]])
    """
    step = 360 / modes
    upright = step * torch.arange(modes)
    return principal(torch.stack([upright, upright + step / 2])).repeat(2, 1)


def mario_iggy(
    degrees: float = 45.0,
    modes: int = 1,
    train: int = 10000,
    test: int = 5000,
    seed: int = 0,
    sample: bool = False,
    validation: int = 0,
    stand_in: bool = True,
) -> Dataset:
    """Two 32×32 images, upright and upside-down: four classes, every image turned around a pose.

    Args:
        degrees: how far to each side of its pose, up to 90 / modes.
        modes: poses of each class, see ``mario_poses``.
        train: how many training images.
        test: how many test images.
        seed: fixes them all.
        sample: take this project's own two sprites in place of Mario and Iggy. They are taken too
            where the originals are neither in the cache nor to be downloaded; the title says
            which it was.
        validation: how many validation images. They are drawn last, so that the others do not
            depend on it.
        stand_in: whether the sprites may be taken where the originals are not to be had; else that
            is an error.

    Raises:
        ValueError: a number is out of its range.
        DataError: the file of the originals is damaged, or not there and nothing may stand in.

    Example:
        >>> data = mario_iggy(train=100, test=40, sample=True)
        >>> data.title
        "Mario-Iggy (this project's sprites), ±45°"
        >>> data.classes
        ('rocket up', 'rocket down', 'fir up', 'fir down')
    """
    if modes < 1 or not 0 < degrees <= 90 / modes or min(train, test) < 1 or validation < 0:
        raise ValueError(
            "mario_iggy: expected modes, train and test of 1 or more, validation of 0 or more and"
            f" degrees up to 90 / modes, got {modes}, {train}, {test}, {validation} and {degrees}"
        )
    pictures = _sprites() if sample else _mario_and_iggy(stand_in)
    title = f"Mario-Iggy ({pictures.source}), ±{degrees:g}°"
    if modes > 1:
        title += f" around each of {modes} poses"
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for name, number in (("train", train), ("test", test), ("validation", validation)):
        drawn[name] = _draw(pictures.images, number, degrees, modes, generator)
    classes = tuple(f"{name} {way}" for name in pictures.names for way in ("up", "down"))
    return Dataset(title, classes, **drawn)


def _draw(
    images: Tensor, number: int, degrees: float, modes: int, generator: torch.Generator
) -> Split:
    """So many images, as many of each class as can be."""
    labels = torch.randperm(number, generator=generator) % 4
    mode = torch.randint(modes, (number,), generator=generator)
    pose = mario_poses(modes)[labels, mode]
    angles = principal(pose + uniform(degrees, number, generator))
    turned = FAMILIES["rotation"].warp(images[labels // 2], angles[:, None] / 180)
    return Split(turned, labels, angles)


def _sprites() -> Pictures:
    """This project's own, side by side in one file."""
    with Image.open(SAMPLES / "sprites.png") as sheet:
        pixels = torch.from_numpy(np.array(sheet.convert("RGB")))
    pixels = pixels.permute(2, 0, 1).float() / 255
    return Pictures(torch.stack(pixels.chunk(2, -1)), "this project's sprites", ("rocket", "fir"))


def _mario_and_iggy(stand_in: bool) -> Pictures:
    """The originals from the cache or the net; where they are in neither, maybe the sprites."""
    path = cache_file("mario_iggy")
    if not path.exists():
        try:
            with atomic_write(path) as written:
                download_url(URL, str(written.parent), written.name)
                _read(written, BAD_DOWNLOAD)
        except (OSError, HTTPException) as error:
            if stand_in:
                return _sprites()
            raise DataError(
                f"Mario-Iggy's pictures are not in {path}, nor to be downloaded ({error}): connect"
                " to the net, or take this project's sprites (sample=True; experiments: quick)"
            ) from None
    return Pictures(_read(path, BAD_CACHE), "original images", ("Mario", "Iggy"))


def _read(path: Path, remedy: str) -> Tensor:
    arrays = read_arrays(path, tuple(SHA256), remedy)
    check_sums(path, arrays, SHA256, remedy)
    return torch.from_numpy(np.concatenate(list(arrays.values()))).float()
