"""Mario-Iggy: two pictures, upright and upside-down, turned by known angles.

Because the angle of every image is known, so is what q(T | I) should be: the turns that bring it to any
angle of its class. Source: Benton et al. 2020 (Augerino); Singhal et al. 2023.
"""

from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..files import atomic_write
from ..transforms import FAMILIES
from .catalogue import SAMPLES, cache_file, check_sums, download_url, read_arrays
from .dataset import Dataset, Split

# The two images of Augerino's code release, which the paper's own experiments use too; and their sums.
URL = (
    "https://raw.githubusercontent.com/g-benton/learning-invariances"
    "/7de74fea165a195a467bbc8c0aece17fbfa45634/experiments/mario-iggy/data/images.npz"
)
SHA256 = {
    "mario": "37079c3bddcb529aa9d54f04e746a40203dd8fddf4d40eb8dde5da65bed50b33",
    "iggy": "995a164eb8c8ff23fb5f7a8091806bd55fd6fe3096a7e3f380cf8c2a424f7b52",
}


def mario_poses(modes: int = 1) -> Tensor:
    """The poses of Mario-Iggy's classes, (4, modes), in degrees: those of the two kinds alternate.

    >>> mario_poses(3)[:2]
    tensor([[   0.,  120., -120.],
            [  60.,  180.,  -60.]])
    """
    step = 360 / modes
    poses = step * torch.arange(modes) + torch.tensor([[0.0], [step / 2]])
    return (180 - (180 - poses) % 360).repeat(2, 1)


def mario_iggy(
    degrees: float = 45.0,
    modes: int = 1,
    train: int = 10000,
    test: int = 5000,
    seed: int = 0,
    sample: bool = False,
    validation: int = 0,
) -> Dataset:
    """Two 32×32 images, each upright and upside-down: four classes, every image turned around a pose.

    degrees: how far to each side of its pose. modes: poses of a class; with more than one, those of
    upright and upside-down alternate round the circle, and degrees must be 90 / modes or less.
    sample: take this project's own two sprites in place of Mario and Iggy. They are taken too where the
    originals are neither in the cache nor to be downloaded; the title says which it was.

    >>> mario_iggy(train=100, test=40, sample=True)
    Mario-Iggy (this project's sprites), ±45°: 100 training and 40 test images of 4 classes (rocket up, rocket down, fir up, fir down)
    """
    if modes < 1 or not 0 < degrees <= 90 / modes or min(train, test) < 1 or validation < 0:
        raise ValueError(
            f"mario_iggy: expected modes, train and test of 1 or more and degrees up to 90 / modes, got {modes}, {train}, {test} and {degrees}"
        )
    images, who, kinds = _sprites() if sample else _mario_and_iggy()
    generator = torch.Generator().manual_seed(seed)

    def draw(n: int) -> Split:
        labels = torch.randperm(n, generator=generator) % 4
        pose = mario_poses(modes)[labels, torch.randint(modes, (n,), generator=generator)]
        angles = pose + degrees * (2 * torch.rand(n, generator=generator) - 1)
        angles = 180 - (180 - angles) % 360
        turned = FAMILIES["rotation"].warp(images[labels // 2], angles[:, None] / 180).clamp(0, 1)
        return Split(turned, labels, angles)

    drawn = {"train": draw(train), "test": draw(test)}
    drawn["validation"] = draw(validation)  # last, so that the others are what they are without
    title = f"Mario-Iggy ({who}), ±{degrees:g}°"
    if modes > 1:
        title += f" around each of {modes} poses"
    classes = tuple(f"{kind} {way}" for kind in kinds for way in ("up", "down"))
    return Dataset(title, classes, **drawn)


def _sprites() -> tuple[Tensor, str, tuple[str, str]]:
    with Image.open(SAMPLES / "sprites.png") as sheet:  # side by side
        pixels = torch.from_numpy(np.array(sheet.convert("RGB"))).permute(2, 0, 1).float() / 255
    return torch.stack(pixels.chunk(2, -1)), "this project's sprites", ("rocket", "fir")


def _mario_and_iggy() -> tuple[Tensor, str, tuple[str, str]]:
    """The original images (2, 3, 32, 32) from the cache or the net, else the sprites; which, and their names."""
    path = cache_file("mario_iggy")
    if not path.exists():
        try:
            with atomic_write(path) as partial:
                download_url(URL, str(partial.parent), partial.name)
                _read_mario_and_iggy(
                    partial, "the download is not what it should be; try again later"
                )
        except (OSError, HTTPException):
            return _sprites()
    images = _read_mario_and_iggy(path, "delete the file; the next call downloads it again")
    return images, "original images", ("Mario", "Iggy")


def _read_mario_and_iggy(path: Path, remedy: str) -> Tensor:
    arrays = read_arrays(path, tuple(SHA256), remedy)
    check_sums(path, arrays, SHA256, remedy)
    return torch.from_numpy(np.concatenate(list(arrays.values()))).float()
