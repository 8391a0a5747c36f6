"""Images of your own, in folders: found now, read when they are asked for."""

import copy
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .dataset import DataError, Dataset, Split
from .reading import as_floats

Broken = Literal["read", "refuse", "skip"]

# What Pillow raises for files that are no images, or not whole.
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

REMEDY = "remove what is broken, or leave it out (broken='skip', --broken skip)"


class DataWarning(UserWarning):
    """Some data are left out."""


class ImageFiles(torch.utils.data.Dataset):
    """Image files as squares of one size: a map-style Dataset that reads when it is asked.

    ``files[3]`` is an image, (C, size, size) in bytes; with a slice, a mask or a tensor of numbers
    it is those files, not yet read.

    Args:
        paths: of the files. Their sides are brought upright as the file says (EXIF).
        size: in pixels.
        pad: False brings the shorter side to size and cuts out the middle; True brings the longer
            one there and fills the rest up with black, evenly, so that all of the image is there.
        channels: 3, or 1 for grey.

    Example:
        >>> path = getfixture("tmp_path") / "a.png"
        >>> Image.new("RGB", (60, 40), "red").save(path)
        >>> for pad in (False, True):
        ...     red = ImageFiles([path], size=24, pad=pad)[0][0]
        ...     print(red.shape, "rows that are black:", int((red == 0).all(1).sum()))
        torch.Size([24, 24]) rows that are black: 0
        torch.Size([24, 24]) rows that are black: 8
    """

    def __init__(
        self, paths: Sequence[str | Path], size: int, pad: bool = False, channels: int = 3
    ):
        # One array: a list of a million strings would be copied by each worker, bit by bit.
        self.paths = np.array([os.fsencode(path) for path in paths], dtype=np.bytes_)
        self.size = size
        self.pad = pad
        self.channels = channels
        self.bring = _bring(size, pad)  # made once, here: a worker would import torchvision anew

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, size, size)."""
        return len(self), self.channels, self.size, self.size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, int):
            return self._image(self.path(index))
        index = index.numpy() if isinstance(index, Tensor) else index
        return self._with(self.paths[index])

    def __add__(self, other: "ImageFiles") -> "ImageFiles":  # type: ignore[override]
        return self._with(np.concatenate([self.paths, other.paths]))

    def path(self, index: int) -> Path:
        """Of one file."""
        return Path(os.fsdecode(bytes(self.paths[index])))

    def read(self) -> Tensor:
        """All images, (N, C, size, size), as floats."""
        if not len(self):
            return torch.zeros(self.shape)
        return as_floats(torch.stack([self[i] for i in range(len(self))]))

    def readable(self, within: Path, skip: bool) -> Tensor:
        """Which files can be read, (N,): each is read once.

        Args:
            within: the folder by which they are named.
            skip: whether others are warned of, else they are an error.

        Raises:
            DataError: some cannot, and are not to be skipped.
        """

        def why(i: int) -> str | None:
            try:
                self._open(self.path(i))
            except UNREADABLE as error:
                return f"{self.path(i).relative_to(within)} ({_reason(error)})"
            return None

        with ThreadPoolExecutor() as threads:  # Pillow lets others run while it decodes
            reasons = list(threads.map(why, range(len(self))))
        found = [reason for reason in reasons if reason]
        told = f"{within}: {len(found)} of {len(self)} files"
        names = ", ".join(found[:3]) + (", …" if len(found) > 3 else "")
        if found and not skip:
            raise DataError(f"{told} are no readable images: {names}; {REMEDY}")
        if found:
            words = f"{told} are left out, since they cannot be read: {names}"
            warnings.warn(words, DataWarning, stacklevel=4)  # where load_folder was called
        return torch.tensor([reason is None for reason in reasons], dtype=torch.bool)

    def _with(self, paths: np.ndarray) -> "ImageFiles":
        others = copy.copy(self)
        others.paths = paths
        return others

    def _open(self, path: Path) -> Image.Image:
        with Image.open(path) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return _opaque(image).convert("RGB" if self.channels == 3 else "L")

    def _image(self, path: Path) -> Tensor:
        try:
            return self.bring(self._open(path))
        except UNREADABLE as error:
            raise DataError(f"{path} is no readable image ({_reason(error)}): {REMEDY}") from None


def _opaque(image: Image.Image) -> Image.Image:
    """In 8 bits, on black where it is transparent."""
    if image.mode.startswith("I;16"):  # Pillow would cut off all above 255
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise OSError(f"its pixels are numbers of 32 bits (mode {image.mode}); convert to 8 or 16")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image


def _reason(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _bring(size: int, pad: bool) -> Callable[[Image.Image], Tensor]:
    """An image of any size as bytes (C, size, size)."""
    # torchvision is imported where it is needed, since that takes a second.
    from torchvision.transforms import v2

    if pad:
        return v2.Compose([partial(_padded, size=size), v2.PILToTensor()])
    return v2.Compose([v2.Resize(size), v2.CenterCrop(size), v2.PILToTensor()])


def _padded(image: Image.Image, size: int) -> Image.Image:
    """All of the image in a square."""
    from torchvision.transforms.v2 import functional as F

    longer = max(image.size)
    width, height = (max(1, round(side * size / longer)) for side in image.size)
    left, top = (size - width) // 2, (size - height) // 2
    padding = [left, top, size - width - left, size - height - top]
    return F.pad(F.resize(image, [height, width]), padding)


def load_folder(
    path: str | Path, size: int = 32, *, pad: bool = False, broken: Broken = "read"
) -> Dataset:
    """Images of your own, laid out as torchvision's ``ImageFolder`` has them.

    They lie in ``path/train/<class>/`` and ``path/test/<class>/``. Validation images are those in
    ``path/validation/<class>/`` or, without that folder, a tenth of the training images. They are
    read when they are asked for: ``fit(model, data.train, settings)`` reads batch by batch, so that
    sets of any size will do; ``data.train.images`` is all of them in memory.

    Args:
        path: the folder.
        size: side of the images, (N, 3, size, size).
        pad: as ``ImageFiles`` has it: cut out the middle, or keep all and fill up.
        broken: what becomes of files that cannot be read. "read": they are not looked for, and an
            error names the first that is asked for; "refuse": all files are read once now, and an
            error names the first; "skip": likewise, and a warning names those that are left out.

    Raises:
        DataError: a folder is missing or holds no images, the splits have other classes, or a file
            is broken.
        ValueError: the size is none.

    Warns:
        DataWarning: files are left out.
    """
    if size < 1:
        raise ValueError(f"size: expected 1 or more pixels, got {size}")
    path = Path(path)
    splits = {}
    classes = {}
    for name in ("train", "validation", "test"):
        if name != "validation" or (path / name).exists():
            splits[name], classes[name] = _found(path / name, size, pad)
    for name, found in classes.items():
        if found != classes["train"]:
            more = sorted(set(found) - set(classes["train"]))
            fewer = sorted(set(classes["train"]) - set(found))
            raise DataError(
                f"{path}: expected the same classes in every split, but {name} has"
                f" {', '.join(more) or 'nothing'} that train has not, and lacks"
                f" {', '.join(fewer) or 'nothing'}: rename folders, or add the missing ones"
            )
    if broken != "read":
        for name, split in splits.items():
            splits[name] = _sound(split, broken == "skip", path / name)
    train = splits["train"]
    validation = splits.get("validation", train[:0])
    data = Dataset(path.resolve().name, classes["train"], train, validation, splits["test"])
    return data if "validation" in splits else data.held_out()


def _found(path: Path, size: int, pad: bool) -> tuple[Split, tuple[str, ...]]:
    """The files of one split's folder, and its classes."""
    from torchvision.datasets import ImageFolder

    try:
        folder = ImageFolder(path)
    except OSError as error:  # no folder, no classes, or a class without images
        reason = _reason(error)
        raise DataError(
            f"{path} is not a folder of images ({reason}): put them in {path}/<class>/, and remove"
            " folders without images"
        ) from None
    paths = [file for file, _ in folder.samples]
    return Split(ImageFiles(paths, size, pad), torch.tensor(folder.targets)), tuple(folder.classes)


def _sound(split: Split, skip: bool, path: Path) -> Split:
    """Without the files that cannot be read."""
    left = split[split.source.readable(path, skip)]  # type: ignore[union-attr]
    empty = set(split.labels.tolist()) - set(left.labels.tolist())
    if empty:
        raise DataError(f"{path}: no image of {len(empty)} classes can be read: add some")
    return left
