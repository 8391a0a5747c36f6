"""Data sets: where they come from, their cache, their checks, and versions of them made by a seed.

`load("mnist")` reads $FLOWINV_DATA/mnist.npz, by default ~/.cache/flowinv/mnist.npz; if that is
missing it downloads the data set and writes it there. `load("mnist", sample=True)` reads the sample
inside the package and needs no network. Every array is checked against its SHA-256, and nothing is
unpickled.

A cache file holds train_images, train_labels, test_images and test_labels, uint8, images (N, 28, 28)
or (N, 32, 32, 3).

`load_folder` reads images of your own.
"""

import hashlib
import os
import tarfile
import tempfile
import zipfile
import zlib
from functools import lru_cache
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..checks import Registry
from ..files import atomic_write
from .dataset import Dataset, Split

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")

# SHA-256 of each array's bytes, in the order of ARRAYS: the full set and the embedded sample, which
# `write_sample` draws from it.
SHA256 = Registry(
    "data set",
    mnist=(
        "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
        "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
        "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
        "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
    ),
    fashion_mnist=(
        "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
        "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
        "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
        "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
    ),
    cifar10=(
        "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
        "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
        "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
        "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
    ),
)
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
SAMPLE_SIZES = {
    "mnist": (1000, 200),
    "cifar10": (200, 100),
}  # training and test images of each class
TITLES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}
CLASSES = {
    "mnist": tuple("0123456789"),
    "fashion_mnist": (
        "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
    ),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}  # fmt: skip

CIFAR10_URL = (
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"  # the version without pickles
)

SAMPLES = Path(__file__).parent / "samples"


class DataError(RuntimeError):
    """A data set is missing, or is not what it should be."""


def cache_file(name: str) -> Path:
    """Where the full data set lies, or will lie: $FLOWINV_DATA or ~/.cache/flowinv."""
    return (
        Path(os.environ.get("FLOWINV_DATA") or Path.home() / ".cache" / "flowinv") / f"{name}.npz"
    )


def load(name: str, sample: bool = False) -> Dataset:
    """The data set `name`, full or (sample=True) the sample inside the package.

    Raises DataError if a file is damaged, or if it is missing and cannot be downloaded.

    >>> load("mnist", sample=True)
    MNIST (embedded sample): 9,000 training, 1,000 validation and 2,000 test images of 10 classes (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
    """
    sums = SHA256[name]
    if sample:
        if name not in SAMPLE_SHA256:
            raise DataError(
                f"{name} has no embedded sample: use load({name!r}), or one of {', '.join(SAMPLE_SHA256)}"
            )
        path, sums, remedy = SAMPLES / f"{name}.npz", SAMPLE_SHA256[name], "install flowinv again"
    else:
        path = cache_file(name)
        remedy = "delete the file; the next call downloads it again"
        if not path.exists():
            _download(name, path)
    arrays = _read(path, sums, remedy, path.stat().st_mtime_ns)
    train = _as_split(arrays["train_images"], arrays["train_labels"])
    test = _as_split(arrays["test_images"], arrays["test_labels"])
    title = TITLES[name] + (" (embedded sample)" if sample else "")
    return Dataset(title, CLASSES[name], train, train[:0], test).held_out()


def _as_split(images: np.ndarray, labels: np.ndarray) -> Split:
    """What a file holds, bytes, as what a network takes."""
    pixels = torch.from_numpy(images)
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
    return Split(pixels.float().contiguous() / 255, torch.from_numpy(labels).long())


def load_folder(path: str | Path, size: int = 32) -> Dataset:
    """Images of your own, in path/train/<class>/… and path/test/<class>/…, as torchvision's ImageFolder has them.

    Those in path/validation/<class>/… are the validation images; without that folder a tenth of the
    training images is.

    size: the shorter side is brought to it and the middle cut out, (N, 3, size, size). All images are held
    in memory, so this is for sets of some ten thousand small ones.
    """
    path = Path(path)
    train, classes = _read_folder(path / "train", size)
    test, test_classes = _read_folder(path / "test", size)
    own = (path / "validation").exists()
    validation, validation_classes = (
        _read_folder(path / "validation", size) if own else (train[:0], classes)
    )
    if not classes == test_classes == validation_classes:
        found = f"{classes}, {validation_classes} and {test_classes}"
        raise DataError(
            f"{path}: expected the same classes in train, validation and test, got {found}"
        )
    data = Dataset(path.name, classes, train, validation, test)
    return data if own else data.held_out()


def _read_folder(path: Path, size: int) -> tuple[Split, tuple[str, ...]]:
    """The images of one folder, and its classes."""
    import torchvision

    transform = torchvision.transforms.Compose(
        [
            torchvision.transforms.Resize(size),
            torchvision.transforms.CenterCrop(size),
            torchvision.transforms.ToTensor(),
        ]
    )
    try:
        folder = torchvision.datasets.ImageFolder(path, transform)
        images, labels = zip(*folder)
    except OSError as error:  # no folder, no classes, no images, or one that is none
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{path} is not a folder of images ({reason}): put them in {path}/<class>/"
        ) from None
    return Split(torch.stack(images), torch.tensor(labels)), tuple(folder.classes)


@lru_cache(maxsize=2)
def _read(path: Path, sums: tuple[str, ...], remedy: str, modified: int) -> dict[str, np.ndarray]:
    """The arrays of a file, checked; once for each state of the file, whatever is asked of it later."""
    arrays = read_arrays(path, ARRAYS, remedy)
    check_sums(path, arrays, dict(zip(ARRAYS, sums, strict=True)), remedy)
    return arrays


def read_arrays(path: Path, keys: tuple[str, ...], remedy: str) -> dict[str, np.ndarray]:
    """Named arrays of an .npz; images may be a lossless WebP sheet beside it instead."""
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {key: file[key] if key in file else _unpack(path, key) for key in keys}
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise DataError(f"{path} is damaged ({error}): {remedy}") from None


def check_sums(
    path: Path, arrays: dict[str, np.ndarray], sums: dict[str, str], remedy: str
) -> None:
    for key, expected in sums.items():
        found = _sha256(arrays[key])
        if found != expected:
            raise DataError(
                f"{path} is damaged ({key} has SHA-256 {found[:12]}…, expected {expected[:12]}…): {remedy}"
            )


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def download_url(url: str, folder: str, name: str) -> None:
    """torchvision's. Like all of torchvision it is imported where it is needed, as that takes a second."""
    from torchvision.datasets import utils

    utils.download_url(url, folder, name)


def _fetch_torchvision(kind: str, folder: str) -> dict[str, np.ndarray]:
    import torchvision

    arrays = {}
    for split in ("train", "test"):
        part = getattr(torchvision.datasets, kind)(folder, train=split == "train", download=True)
        arrays[f"{split}_images"] = part.data.numpy()
        arrays[f"{split}_labels"] = part.targets.numpy().astype(np.uint8)
    return arrays


def _fetch_cifar10(folder: str) -> dict[str, np.ndarray]:
    """From the binary version: torchvision would unpickle the other one."""
    download_url(CIFAR10_URL, folder, "cifar10.tar.gz")
    parts = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
    arrays = {}
    with tarfile.open(Path(folder) / "cifar10.tar.gz") as tar:
        for split, names in parts.items():
            raw = b"".join(
                tar.extractfile(f"cifar-10-batches-bin/{name}.bin").read() for name in names
            )
            rows = np.frombuffer(raw, np.uint8).reshape(
                -1, 1 + 3 * 32 * 32
            )  # label, then red, green, blue planes
            arrays[f"{split}_labels"] = rows[:, 0].copy()
            arrays[f"{split}_images"] = (
                rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).copy()
            )
    return arrays


FETCH = {
    "mnist": lambda folder: _fetch_torchvision("MNIST", folder),
    "fashion_mnist": lambda folder: _fetch_torchvision("FashionMNIST", folder),
    "cifar10": _fetch_cifar10,
}


def _download(name: str, path: Path) -> None:
    """Fetch, check, and write path in one step: it is whole or absent."""
    try:
        with atomic_write(path) as partial:
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                arrays = FETCH[name](folder)
            remedy = "the download is not what it should be; try again later"
            check_sums(path, arrays, dict(zip(ARRAYS, SHA256[name], strict=True)), remedy)
            np.savez_compressed(partial, **arrays)
    except (OSError, RuntimeError, HTTPException, KeyError, ValueError, tarfile.TarError) as error:
        if isinstance(error, DataError):
            raise
        reason = str(error).splitlines()[0].rstrip(":") if str(error) else type(error).__name__
        sample = (
            f", or use the embedded sample, load({name!r}, sample=True)"
            if name in SAMPLE_SHA256
            else ""
        )
        raise DataError(
            f"{path} is missing and {TITLES[name]} could not be downloaded ({reason}): try again with a network,"
            f" copy {path.name} there from another machine{sample}"
        ) from None


COLUMNS = 50  # images in a row of a sheet


def _unpack(path: Path, key: str) -> np.ndarray:
    """Images (N, 32, 32, 3) of the sheet <name>-<key>.webp beside an .npz that lacks them."""
    with Image.open(path.with_name(f"{path.stem}-{key}.webp")) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    return pixels.reshape(-1, 32, COLUMNS, 32, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 32, 32, 3)


def draw_sample(name: str) -> dict[str, np.ndarray]:
    """The embedded sample, drawn from the full set with seed 0: so many images of each class."""
    load(name)
    path = cache_file(name)
    full = _read(path, SHA256[name], "", path.stat().st_mtime_ns)
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in zip(("train", "test"), SAMPLE_SIZES[name]):
        labels = full[f"{split}_labels"]
        drawn = [
            rng.choice(np.flatnonzero(labels == c), count, replace=False)
            for c in range(labels.max() + 1)
        ]
        order = rng.permutation(np.concatenate(drawn))
        arrays[f"{split}_images"] = full[f"{split}_images"][order]
        arrays[f"{split}_labels"] = labels[order]
    return arrays


def write_sample(name: str, folder: Path = SAMPLES) -> list[str]:
    """Write the embedded sample, colour images as WebP sheets, and return its sums. For a maintainer."""
    arrays = draw_sample(name)
    sums = [_sha256(arrays[key]) for key in ARRAYS]
    for key in [key for key in arrays if arrays[key].ndim == 4]:
        tiles = arrays.pop(key).reshape(-1, COLUMNS, 32, 32, 3)
        sheet = tiles.transpose(0, 2, 1, 3, 4).reshape(-1, COLUMNS * 32, 3)
        Image.fromarray(sheet).save(
            folder / f"{name}-{key}.webp", lossless=True, method=6, quality=100
        )
    np.savez_compressed(folder / f"{name}.npz", **arrays)
    return sums
