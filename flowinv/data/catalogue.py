"""The catalogue: names, sums, cache and downloads; the samples in the package.

``load("mnist")`` reads ``$FLOWINV_DATA/mnist.npz``, by default ``~/.cache/flowinv/mnist.npz``. If
that is missing it downloads the data set and writes it there. ``load("mnist", sample=True)`` reads
the sample inside the package and needs no network. Every array is checked against its SHA-256, and
nothing is unpickled.

A cache file holds train_images, train_labels, test_images and test_labels as uint8, with images
(N, 28, 28) or (N, 32, 32, 3).
"""

import hashlib
import os
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from functools import lru_cache, partial
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..checks import Registry
from ..files import atomic_write
from .dataset import DataError, Dataset, Split

Arrays = dict[str, np.ndarray]

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")

TITLES = Registry(
    "data set",
    mnist="MNIST",
    fashion_mnist="Fashion-MNIST",
    cifar10="CIFAR-10",
)

# SHA-256 of each array's bytes, in the order of ARRAYS: of the full set, and of the embedded
# sample, which `write_sample` draws from it.
SHA256 = {
    "mnist": (
        "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
        "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
        "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
        "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
    ),
    "fashion_mnist": (
        "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
        "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
        "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
        "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
    ),
    "cifar10": (
        "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
        "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
        "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
        "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
    ),
}
SAMPLE_SHA256 = {
    "mnist": (
        "53328d4e7dd2fc785f0eae818902047586fc8f112f36b19009a58f1f93434513",
        "b65d8a23de3fd807fbe56ef2f3d29073db63e830dae3ba1dc0cdaf7b3a54cc73",
        "438d6b8fa58c4d00637b6b4b4fd75164abd1dc758c717680a2c955b80550fecc",
        "bcde0c523d76ce99cad57a12194313cb63f1901ec1adb06d2c41c4d241fb87f4",
    ),
    "cifar10": (
        "5c7f59ed90cfe76d9b4870271b107294541783180656d25ed6543a9288ec5cbf",
        "7182103e24583c5a02e84d114dd1458f1495d5db75b31b539f4b9df89b644409",
        "305086ebe2dd8da92c584d6fe0a00d82bc5ddf2170a9f88e5ce504648c0d0b46",
        "60e46ceaa0f95b90d0c5d10e98e3e58d6c5bca8f10e04c46bfc0e18e11922950",
    ),
}
# Training and test images of each class.
SAMPLE_SIZES = {"mnist": (1000, 200), "cifar10": (200, 100)}

CLASSES = {
    "mnist": tuple("0123456789"),
    "fashion_mnist": (
        "T-shirt",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    ),
    "cifar10": (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ),
}

# The version without pickles.
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_FILES = {
    "train": [f"data_batch_{i}.bin" for i in range(1, 6)],
    "test": ["test_batch.bin"],
}

SAMPLES = Path(__file__).parent / "samples"
COLUMNS = 50  # images in a row of a sheet

BAD_DOWNLOAD = "the download is not what it should be; try again later"
BAD_CACHE = "delete the file; the next call downloads it again"


def cache_file(name: str) -> Path:
    """Where the full data set lies or will lie: ``$FLOWINV_DATA``, else ``~/.cache/flowinv``."""
    folder = os.environ.get("FLOWINV_DATA") or Path.home() / ".cache" / "flowinv"
    return Path(folder) / f"{name}.npz"


def load(name: str, sample: bool = False) -> Dataset:
    """A data set of the catalogue, with a tenth of the training images held out for validation.

    Args:
        name: mnist, fashion_mnist or cifar10.
        sample: take the smaller one inside the package, of mnist or cifar10.

    Raises:
        DataError: a file is damaged, or it is missing and cannot be downloaded.
        ValueError: there is no such data set.

    Example:
        >>> digits = load("mnist", sample=True)
        >>> len(digits.train), len(digits.validation), len(digits.test)
        (9000, 1000, 2000)
    """
    title = TITLES[name]
    if sample:
        title += " (embedded sample)"
        arrays = _embedded(name)
    else:
        arrays = _full(name)
    train = _as_split(arrays["train_images"], arrays["train_labels"])
    test = _as_split(arrays["test_images"], arrays["test_labels"])
    return Dataset(title, CLASSES[name], train, train[:0], test).held_out()


def _as_split(images: np.ndarray, labels: np.ndarray) -> Split:
    """What a file holds, bytes, as what a network takes."""
    pixels = torch.from_numpy(images)
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
    return Split(pixels.float().contiguous() / 255, torch.from_numpy(labels).long())


def _full(name: str) -> Arrays:
    """The full set's arrays, from the cache, where they are put first if need be."""
    path = cache_file(name)
    if not path.exists():
        _download(name, path)
    return _read(path, SHA256[name], BAD_CACHE, path.stat().st_mtime_ns)


def _embedded(name: str) -> Arrays:
    """The embedded sample's arrays."""
    if name not in SAMPLE_SHA256:
        raise DataError(
            f"{name} has no embedded sample: use load({name!r}), or one of"
            f" {', '.join(SAMPLE_SHA256)}"
        )
    path = SAMPLES / f"{name}.npz"
    return _read(path, SAMPLE_SHA256[name], "install flowinv again", path.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _read(path: Path, sums: tuple[str, ...], remedy: str, modified: int) -> Arrays:
    """A file's arrays, checked once for each time that it was ``modified``."""
    arrays = read_arrays(path, ARRAYS, remedy)
    check_sums(path, arrays, dict(zip(ARRAYS, sums, strict=True)), remedy)
    return arrays


def read_arrays(path: Path, keys: tuple[str, ...], remedy: str) -> Arrays:
    """Named arrays of an .npz; images may lie in a lossless WebP sheet beside it instead."""
    damage = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {key: file[key] if key in file else _unpack(path, key) for key in keys}
    except damage as error:
        raise DataError(f"{path} is damaged ({error}): {remedy}") from None


def check_sums(path: Path, arrays: Arrays, sums: dict[str, str], remedy: str) -> None:
    """Raise DataError unless every array has its SHA-256."""
    for key, expected in sums.items():
        found = sha256(arrays[key])
        if found != expected:
            raise DataError(
                f"{path} is damaged ({key} has SHA-256 {found[:12]}…,"
                f" expected {expected[:12]}…): {remedy}"
            )


def sha256(array: np.ndarray) -> str:
    """The sum of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def download_url(url: str, folder: str, name: str) -> None:
    """torchvision's, which shows progress and tries again."""
    from torchvision.datasets import utils

    utils.download_url(url, folder, name)


def _fetch_torchvision(kind: str, folder: str) -> Arrays:
    """From torchvision's data set of this name."""
    import torchvision

    arrays = {}
    for split in ("train", "test"):
        part = getattr(torchvision.datasets, kind)(folder, train=split == "train", download=True)
        arrays[f"{split}_images"] = part.data.numpy()
        arrays[f"{split}_labels"] = part.targets.numpy().astype(np.uint8)
    return arrays


def _fetch_cifar10(folder: str) -> Arrays:
    """From the binary version: torchvision would unpickle the other one."""
    download_url(CIFAR10_URL, folder, "cifar10.tar.gz")
    arrays = {}
    with tarfile.open(Path(folder) / "cifar10.tar.gz") as tar:
        for split, names in CIFAR10_FILES.items():
            raw = b""
            for name in names:
                file = tar.extractfile(f"cifar-10-batches-bin/{name}")
                raw += file.read()  # type: ignore[union-attr]  # None for a folder only
            # A row is a label, then the red, green and blue planes.
            rows = np.frombuffer(raw, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
            planes = rows[:, 1:].reshape(-1, 3, 32, 32)
            arrays[f"{split}_labels"] = rows[:, 0].copy()
            arrays[f"{split}_images"] = planes.transpose(0, 2, 3, 1).copy()
    return arrays


FETCH: dict[str, Callable[[str], Arrays]] = {
    "mnist": partial(_fetch_torchvision, "MNIST"),
    "fashion_mnist": partial(_fetch_torchvision, "FashionMNIST"),
    "cifar10": _fetch_cifar10,
}


def _download(name: str, path: Path) -> None:
    """Fetch, check, and write path in one step: it is whole or absent."""
    failure = (OSError, RuntimeError, HTTPException, KeyError, ValueError, tarfile.TarError)
    try:
        with atomic_write(path) as written:
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                arrays = FETCH[name](folder)
            check_sums(path, arrays, dict(zip(ARRAYS, SHA256[name], strict=True)), BAD_DOWNLOAD)
            np.savez_compressed(written, **arrays)  # type: ignore[arg-type]
    except DataError:
        raise
    except failure as error:
        reason = str(error).splitlines()[0].rstrip(":") if str(error) else type(error).__name__
        message = (
            f"{path} is missing and {TITLES[name]} could not be downloaded ({reason}):"
            f" try again with a network, copy {path.name} there from another machine"
        )
        if name in SAMPLE_SHA256:
            message += f", or use the embedded sample, load({name!r}, sample=True)"
        raise DataError(message) from None


def _unpack(path: Path, key: str) -> np.ndarray:
    """Images (N, 32, 32, 3) of the sheet <name>-<key>.webp beside an .npz that lacks them."""
    with Image.open(path.with_name(f"{path.stem}-{key}.webp")) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    tiles = pixels.reshape(-1, 32, COLUMNS, 32, 3).transpose(0, 2, 1, 3, 4)
    return tiles.reshape(-1, 32, 32, 3)


def _pack(images: np.ndarray, path: Path) -> None:
    """Write images (N, 32, 32, 3) as a sheet."""
    tiles = images.reshape(-1, COLUMNS, 32, 32, 3).transpose(0, 2, 1, 3, 4)
    sheet = Image.fromarray(tiles.reshape(-1, COLUMNS * 32, 3))
    with atomic_write(path) as written:
        sheet.save(written, lossless=True, method=6, quality=100)


def draw_sample(name: str) -> Arrays:
    """The embedded sample, drawn from the full set with seed 0: so many images of each class."""
    full = _full(name)
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in zip(("train", "test"), SAMPLE_SIZES[name]):
        labels = full[f"{split}_labels"]
        drawn = [
            rng.choice(np.flatnonzero(labels == c), count, replace=False)
            for c in range(len(CLASSES[name]))
        ]
        order = rng.permutation(np.concatenate(drawn))
        arrays[f"{split}_images"] = full[f"{split}_images"][order]
        arrays[f"{split}_labels"] = labels[order]
    return arrays


def write_sample(name: str, folder: Path = SAMPLES) -> tuple[str, ...]:
    """Write the embedded sample, colour images as sheets; returns its sums. For a maintainer."""
    arrays = draw_sample(name)
    sums = tuple(sha256(arrays[key]) for key in ARRAYS)
    for key in ("train_images", "test_images"):
        if arrays[key].ndim == 4:
            _pack(arrays.pop(key), folder / f"{name}-{key}.webp")
    with atomic_write(folder / f"{name}.npz") as written:
        np.savez_compressed(written, **arrays)  # type: ignore[arg-type]
    return sums
