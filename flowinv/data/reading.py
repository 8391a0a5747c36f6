"""Images for training and prediction, from memory or read as they are needed, by one door.

``source`` takes a pair of tensors or any map-style Dataset of (image, label), and gives batches of
them on the device. A Dataset's are read by a DataLoader, with workers where asked. Images that are
bytes stay bytes until they are on the device.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from ..checks import check_count, check_images, check_labels, check_some
from .dataset import DataError, Split

Images = Tensor | Dataset | Split

READ = 64  # images at a time, for those who need few at once
NO_LABEL = -1


def as_floats(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Bytes as floats in [0, 1], the same on every device; floats as they are.

    Example:
        >>> as_floats(torch.tensor([0, 51, 255], dtype=torch.uint8))
        tensor([0.0000, 0.2000, 1.0000])
    """
    if images.dtype != torch.uint8:
        return images
    # By a tensor: for a number a GPU would multiply with its inverse, and be off in the last bit.
    return images.to(dtype) / torch.full((), 255.0, dtype=dtype, device=images.device)


def source(
    images: Images,
    labels: Tensor | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    workers: int = 0,
    seed: int = 0,
) -> "Source":
    """Where batches come from.

    Args:
        images: (N, C, H, W), floats in [0, 1] or bytes; or a map-style Dataset, of which item i is
            an image (C, H, W) and its label. A ``Split`` is one, too.
        labels: (N,), int64; None beside a Dataset.
        device: where batches are to lie.
        dtype: of the floats that bytes become.
        workers: processes that read a Dataset; 0: this one does.
        seed: of what a Dataset draws from the generators of torch, NumPy and random.

    Raises:
        ValueError: they are not as said.

    Example:
        >>> pictures = torch.rand(5, 1, 28, 28), torch.arange(5)
        >>> dataset = torch.utils.data.TensorDataset(*pictures)
        >>> for found in (source(*pictures), source(dataset)):
        ...     (images, labels), *_ = found.batches(0, torch.arange(5).split(2))
        ...     print(images.shape, labels)
        torch.Size([2, 1, 28, 28]) tensor([0, 1])
        torch.Size([2, 1, 28, 28]) tensor([0, 1])
    """
    device = torch.device(device)
    if isinstance(images, Split) and images.in_memory and labels is None:
        images, labels = images
    if not is_dataset(images):
        return InMemory(images, labels, device, dtype)  # type: ignore[arg-type]
    if labels is not None:
        raise ValueError(
            "labels: expected none beside a Dataset, whose items are (image, label),"
            f" got {type(labels).__name__}"
        )
    return Items(images, device, dtype, workers, seed)  # type: ignore[arg-type]


def is_dataset(images: object) -> bool:
    """Whether images are to be read item by item; else they are looked at as a tensor."""
    if isinstance(images, IterableDataset):
        raise ValueError(
            "images: expected a map-style Dataset, with a length and items by number, got"
            f" {type(images).__name__}, which is iterable; give it __len__ and __getitem__ instead"
        )
    if isinstance(images, Split):
        return not images.in_memory
    if isinstance(images, Tensor | np.ndarray | list | tuple):
        return False
    return hasattr(images, "__getitem__") and hasattr(images, "__len__")


def shape_of(images: Images) -> tuple[int, ...]:
    """Of one image, (C, H, W).

    Raises:
        ValueError: they are no images.
    """
    if is_dataset(images):
        return Items(images, torch.device("cpu")).shape  # type: ignore[arg-type]
    return tuple(_tensor(images).shape[1:])


def parts(images: Images, size: int, workers: int = 0) -> Iterator[Tensor]:
    """All images in order, so many at a time, as they are stored: floats or bytes.

    Args:
        images: (B, C, H, W), or a Dataset; labels are not looked at.
        size: how many at a time.
        workers: processes that read a Dataset.

    Raises:
        ValueError: an image is none.
        DataError: a file cannot be read.
    """
    if not is_dataset(images):
        yield from _tensor(images).split(size)
        return
    items = Items(images, torch.device("cpu"), workers=workers)  # type: ignore[arg-type]
    at_once = size * -(-READ // size)
    for several, _ in items.batches(0, torch.arange(len(items)).split(at_once)):
        yield from several.split(size)


def _tensor(images: Images) -> Tensor:
    """Images in memory, checked."""
    tensor = images.images if isinstance(images, Split) else images
    check_images(tensor, or_bytes=True)  # type: ignore[arg-type]
    return tensor  # type: ignore[return-value]


class Source:
    """Images and labels by their numbers, 0 to N − 1.

    Args:
        shape: of one image, (C, H, W).
        labels: (N,) of all, where they are known without reading the images; else None.
    """

    shape: tuple[int, ...]
    labels: Tensor | None

    def __len__(self) -> int:
        raise NotImplementedError

    def take(self, numbers: Tensor) -> Tensor:
        """Those images, on the device, as floats."""
        raise NotImplementedError

    def batches(self, epoch: int, numbers: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels of each batch, on the device, images as floats.

        Args:
            epoch: says with the seed and each image's number what a Dataset draws.
            numbers: of the images, one tensor a batch; a batch may be empty.
        """
        raise NotImplementedError

    def expect(self, classes: int) -> None:
        """Check that labels are numbers of so many classes: now, or as they are read."""
        raise NotImplementedError

    def some(self, count: int) -> Tensor:
        """About so many images, evenly apart."""
        return self.take(torch.arange(0, len(self), max(1, len(self) // count)))

    def per_class(self) -> list[int] | str:
        """How many images each class has, or how many there are if that would have to be read."""
        if self.labels is None:
            return f"{len(self)} in all"
        return torch.bincount(self.labels).tolist()


class InMemory(Source):
    """A pair of tensors, on the device whole."""

    labels: Tensor

    def __init__(self, images: Tensor, labels: Tensor, device: torch.device, dtype: torch.dtype):
        check_images(images, or_bytes=True)
        check_some(len(images))
        self.images = images.to(device)
        self.shape = tuple(images.shape[1:])
        self.labels = labels
        self.dtype = dtype

    def __len__(self) -> int:
        return len(self.images)

    def expect(self, classes: int) -> None:
        check_labels(self.labels, len(self), classes)
        self.labels = self.labels.to(self.images.device)

    def take(self, numbers: Tensor) -> Tensor:
        return as_floats(self.images[numbers.to(self.images.device)], self.dtype)

    def batches(self, epoch: int, numbers: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.cat(list(numbers)).to(self.images.device)  # at once: a copy makes a GPU wait
        for batch in order.split([len(some) for some in numbers]):
            yield as_floats(self.images[batch], self.dtype), self.labels[batch]


class Items(Source):
    """A map-style Dataset, read batch by batch."""

    def __init__(
        self,
        dataset: Dataset,
        device: torch.device,
        dtype: torch.dtype | None = None,
        workers: int = 0,
        seed: int = 0,
    ):
        self.reader = _Reader(dataset, seed)
        check_some(len(self))
        check_count("workers", workers, least=0)
        self.device = device
        self.dtype = dtype  # None leaves bytes as they are
        self.labels = dataset.labels if isinstance(dataset, Split) else None
        self.classes: int | None = None
        self.seen: dict[int, Tensor] = {}
        self.shape = self.reader.shape = tuple(self._read(0, torch.arange(1))[0].shape[1:])
        self.plan: list[tuple[int, Tensor]] = []  # epoch and numbers of each batch to come
        self.loader = DataLoader(
            self.reader,
            batch_size=None,  # an item is a batch
            sampler=self.plan,
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,
            generator=torch.Generator(),  # else it would draw from the global one
        )

    def __len__(self) -> int:
        return len(self.reader)

    def expect(self, classes: int) -> None:
        self.classes = classes
        if self.labels is not None:
            check_labels(self.labels, len(self), classes)

    def some(self, count: int) -> Tensor:
        if count not in self.seen:  # kept: they are looked at in each epoch
            numbers = torch.arange(0, len(self), max(1, len(self) // count))
            self.seen[count], _ = self._read(0, numbers)
        return self._moved(self.seen[count])

    def take(self, numbers: Tensor) -> Tensor:
        return self._moved(self._read(0, numbers)[0])

    def batches(self, epoch: int, numbers: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        self.plan[:] = [(epoch, some) for some in numbers]
        for read in self.loader:
            images, labels = self._checked(read)
            yield self._moved(images), labels.to(self.device, non_blocking=True)

    def _read(self, epoch: int, numbers: Tensor) -> tuple[Tensor, Tensor]:
        return self._checked(self.reader[epoch, numbers])

    def _checked(self, read: tuple[Tensor, Tensor] | Exception) -> tuple[Tensor, Tensor]:
        if isinstance(read, Exception):
            raise read
        images, labels = read
        if self.classes is not None:
            check_labels(labels, len(images), self.classes)
        return images, labels

    def _moved(self, images: Tensor) -> Tensor:
        images = images.to(self.device, non_blocking=True)
        return images if self.dtype is None else as_floats(images, self.dtype)


class _Reader(Dataset):
    """What a worker runs: reads and stacks a batch, given its epoch and the images' numbers."""

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset = dataset
        self.seed = seed
        self.shape: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, key: tuple[int, Tensor]) -> tuple[Tensor, Tensor] | Exception:
        """The batch, or what is wrong with it: an exception from a worker is no one-line error."""
        epoch, numbers = key
        if not len(numbers):
            return torch.zeros(0, *self.shape, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64)
        try:
            with generators_given_back():
                items = [self._item(epoch, i) for i in numbers.tolist()]
        except DataError as error:
            return error
        try:
            return _stacked(items, numbers)
        except ValueError as error:
            return error

    def _item(self, epoch: int, i: int) -> Any:
        seed_generators(seed_of(self.seed, epoch, i, 0, 1))  # no step's: theirs are shorter
        return self.dataset[i]


def _as_it_is(batch: Any) -> Any:
    return batch


def _stacked(items: list, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Items as one batch.

    Raises:
        ValueError: they are no images with labels, or not of one shape.
    """
    pairs = []
    for item in items:
        image, label = (item, NO_LABEL) if isinstance(item, Tensor) else _pair(item)
        pairs.append((torch.Tensor.as_subclass(image, Tensor), label))
    shapes = [tuple(image.shape) for image, _ in pairs]
    dtypes = [image.dtype for image, _ in pairs]
    for i, shape, dtype in zip(numbers.tolist(), shapes, dtypes):
        if (shape, dtype) != (shapes[0], dtypes[0]):
            raise ValueError(
                f"images: expected one shape and dtype, got {shape} {dtype} as number {i} and"
                f" {shapes[0]} {dtypes[0]} as number {numbers[0]}; resize or crop in the Dataset"
            )
    images, labels = default_collate(pairs)
    check_images(images, or_bytes=True)
    return images, labels


def _pair(item: Any) -> tuple[Tensor, int]:
    """An image with its label as a number."""
    try:
        image, label = item
    except (TypeError, ValueError):
        raise ValueError(
            f"images: expected items (image, label) of the Dataset, got {type(item).__name__}"
        ) from None
    if not isinstance(image, Tensor):
        raise ValueError(
            "images: expected items (image, label) whose image is a tensor (C, H, W), got"
            f" {type(image).__name__}; convert with torchvision.transforms.v2.functional"
            ".pil_to_tensor or torch.from_numpy"
        )
    try:
        return image, int(label)
    except (TypeError, ValueError):
        raise ValueError(
            f"labels: expected items (image, label) whose label is a number, got {label!r}"
        ) from None


def seed_of(*key: int) -> int:
    """A seed that follows from the key, and from nothing else."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def seed_generators(seed: int) -> None:
    """Seed the global generators of random, NumPy and, on the CPU, torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)


@contextmanager
def generators_given_back() -> Iterator[None]:
    """A block that may seed those; after it they are as they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
