"""Data sets: where they come from, their cache and their checks.

`load("mnist")` reads $FLOWINV_DATA/mnist.npz, by default ~/.cache/flowinv/mnist.npz; if that is
missing it downloads MNIST with torchvision and writes it there. `load("mnist", sample=True)` reads
the sample inside the package and needs no network. Every array is checked against its SHA-256, and
nothing is unpickled.

A cache file holds train_images, train_labels, test_images and test_labels, uint8, images (N, 28, 28).
"""

import hashlib
import os
import tempfile
import zipfile
import zlib
from dataclasses import dataclass, replace
from functools import lru_cache
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import Tensor

from .checks import Registry

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")

# SHA-256 of each array's bytes, in the order of ARRAYS: the full set and the embedded sample, which
# `make_sample` draws from it.
SHA256 = Registry(
    "data set",
    mnist=(
        "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
        "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
        "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
        "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
    ),
)
SAMPLE_SHA256 = {
    "mnist": (
        "53328d4e7dd2fc785f0eae818902047586fc8f112f36b19009a58f1f93434513",
        "b65d8a23de3fd807fbe56ef2f3d29073db63e830dae3ba1dc0cdaf7b3a54cc73",
        "438d6b8fa58c4d00637b6b4b4fd75164abd1dc758c717680a2c955b80550fecc",
        "bcde0c523d76ce99cad57a12194313cb63f1901ec1adb06d2c41c4d241fb87f4",
    ),
}
TITLES = {"mnist": "MNIST"}


class DataError(RuntimeError):
    """A data set is missing, or is not what it should be."""


@dataclass(frozen=True)
class Dataset:
    """Images (N, C, H, W), float32 in [0, 1], and labels (N,), int64; printing it says what it is."""

    title: str
    classes: tuple[str, ...]
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    def only(self, classes: list[int]) -> "Dataset":
        """The images of these classes, renumbered 0, 1, … in the order given.

        >>> load("mnist", sample=True).only([1, 6]).classes
        ('1', '6')
        """
        if not classes or not set(classes) <= set(range(len(self.classes))):
            raise ValueError(f"classes: expected numbers from 0 to {len(self.classes) - 1}, got {classes}")
        parts = {}
        for split in ("train", "test"):
            labels = getattr(self, f"{split}_labels")
            chosen = torch.isin(labels, torch.tensor(classes))
            number = torch.full((len(self.classes),), -1)
            number[classes] = torch.arange(len(classes))
            parts[f"{split}_images"] = getattr(self, f"{split}_images")[chosen]
            parts[f"{split}_labels"] = number[labels[chosen]]
        return replace(self, classes=tuple(self.classes[c] for c in classes), **parts)

    def __str__(self) -> str:
        return (
            f"{self.title}: {len(self.train_labels):,} training and {len(self.test_labels):,} test images"
            f" of {len(self.classes)} classes ({', '.join(self.classes)})"
        )

    __repr__ = __str__


def cache_file(name: str) -> Path:
    """Where the full data set lies, or will lie: $FLOWINV_DATA or ~/.cache/flowinv."""
    return Path(os.environ.get("FLOWINV_DATA") or Path.home() / ".cache" / "flowinv") / f"{name}.npz"


def load(name: str, sample: bool = False) -> Dataset:
    """The data set `name`, full or (sample=True) the sample inside the package.

    Raises DataError if a file is damaged, or if it is missing and cannot be downloaded.

    >>> load("mnist", sample=True)
    MNIST (embedded sample): 10,000 training and 2,000 test images of 10 classes (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
    """
    sums = SHA256[name]
    if sample:
        path = Path(__file__).parent / "samples" / f"{name}.npz"
        remedy, sums = "install flowinv again", SAMPLE_SHA256[name]
    else:
        path = cache_file(name)
        remedy = "delete the file; the next call downloads it again"
        if not path.exists():
            _download(name, path)
    arrays = _read(path, sums, remedy, path.stat().st_mtime_ns)
    tensors = {}
    for key, array in arrays.items():
        tensor = torch.from_numpy(array)
        tensors[key] = tensor.long() if key.endswith("labels") else tensor[:, None].float() / 255
    title = TITLES[name] + (" (embedded sample)" if sample else "")
    return Dataset(title, tuple(str(c) for c in range(10)), **tensors)


@lru_cache(maxsize=2)
def _read(path: Path, sums: tuple[str, ...], remedy: str, modified: int) -> dict[str, np.ndarray]:
    """The arrays of a file, checked; once for each state of the file, whatever is asked of it later."""
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {key: file[key] for key in ARRAYS}
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged ({error}): {remedy}") from None
    _check(path, arrays, sums, remedy)
    return arrays


def _check(path: Path, arrays: dict[str, np.ndarray], sums: tuple[str, ...], remedy: str) -> None:
    for key, expected in zip(ARRAYS, sums, strict=True):
        found = _sha256(arrays[key])
        if found != expected:
            raise DataError(f"{path} is damaged ({key} has SHA-256 {found[:12]}…, expected {expected[:12]}…): {remedy}")


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _download(name: str, path: Path) -> None:
    """Fetch with torchvision, check, and write path in one step: it is whole or absent."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            arrays = {}
            for split in ("train", "test"):
                part = torchvision.datasets.MNIST(folder, train=split == "train", download=True)
                arrays[f"{split}_images"] = part.data.numpy()
                arrays[f"{split}_labels"] = part.targets.numpy().astype(np.uint8)
            _check(path, arrays, SHA256[name], "the download is not what it should be; try again later")
            partial = Path(folder) / path.name
            np.savez_compressed(partial, **arrays)
            os.replace(partial, path)
    except (OSError, RuntimeError, HTTPException) as error:
        if isinstance(error, DataError):
            raise
        reason = str(error).splitlines()[0].rstrip(":") if str(error) else type(error).__name__
        raise DataError(
            f"{path} is missing and {TITLES[name]} could not be downloaded ({reason}): try again with a network,"
            f" copy {path.name} there from another machine, or use the embedded sample, load({name!r}, sample=True)"
        ) from None


def make_sample(name: str, train: int = 1000, test: int = 200) -> dict[str, np.ndarray]:
    """The embedded sample, drawn from the full set with seed 0: so many images of each class.

    Run once by a maintainer: np.savez_compressed("flowinv/samples/mnist.npz", **make_sample("mnist")).
    """
    load(name)
    path = cache_file(name)
    full = _read(path, SHA256[name], "", path.stat().st_mtime_ns)
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", train), ("test", test)):
        labels = full[f"{split}_labels"]
        drawn = [rng.choice(np.flatnonzero(labels == c), count, replace=False) for c in range(labels.max() + 1)]
        order = rng.permutation(np.concatenate(drawn))
        arrays[f"{split}_images"] = full[f"{split}_images"][order]
        arrays[f"{split}_labels"] = labels[order]
    return arrays
