"""A data set and its three splits, and versions of it that are made by a seed.

The paper's other sets are made from those in the catalogue. ``load("cifar10").long_tail()`` is
CIFAR10-LT, ``load("mnist").rotated()`` is RotMNIST, ``load("mnist").long_tail().rotated()`` is
RotMNIST-LT.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil
from numbers import Integral
from typing import Any, Protocol

import torch
from torch import Tensor

from ..transforms import FAMILIES


class DataError(RuntimeError):
    """A data set or a file is missing, or is not what it should be."""


class Stored(Protocol):
    """Images that are read when they are asked for, as ``ImageFiles``."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, H, W)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> Any:
        """For a number the image (C, H, W), as bytes; else some of them, not yet read."""

    def __add__(self, other: Any) -> Any:
        """These, and after them the others."""

    def read(self) -> Tensor:
        """All of them, (N, C, H, W), as floats."""


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Images with their labels, into which it unpacks: ``fit(model, *data.train, settings)``.

    It is a map-style Dataset as well: ``split[3]`` is an image with its label. Those of a folder
    are read when they are asked for: ``fit(model, data.train, settings)`` reads a batch at a time,
    ``split.images`` all of them, which are then kept.

    Args:
        source: (N, C, H, W), float32 in [0, 1], or images in files.
        labels: (N,), int64.
        angles: (N,), by how many degrees each image was turned counter-clockwise, where known.
        places: (N,), where each image stood before some were held out; see ``Dataset.joined``.

    Raises:
        ValueError: there are not as many labels, angles or places as images.

    Example:
        >>> few = Split(torch.rand(5, 1, 28, 28), torch.arange(5))[:2]
        >>> few
        Split of 2 images (1, 28, 28)
        >>> images, labels = few
        >>> image, label = few[1]
    """

    source: Tensor | Stored
    labels: Tensor
    angles: Tensor | None = None
    places: Tensor | None = None

    def __post_init__(self):
        for name in ("labels", "angles", "places"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.source):
                raise ValueError(
                    f"{name}: expected as many as images, {len(self.source)}, got {len(values)}"
                )

    @cached_property
    def images(self) -> Tensor:
        """(N, C, H, W), float32 in [0, 1]. Those in files are read now, and kept."""
        return self.source if isinstance(self.source, Tensor) else self.source.read()

    @property
    def in_memory(self) -> bool:
        """Whether the images are a tensor, and not files."""
        return isinstance(self.source, Tensor)

    def __len__(self) -> int:
        return len(self.source)

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.images, self.labels))

    def __getitem__(self, index: Any) -> Any:
        """An image and its label by number; a ``Split`` by a slice, a mask or a tensor of numbers.

        Images come in the order that the index names.
        """
        if isinstance(index, Integral):  # NumPy's, too
            return self.source[int(index)], int(self.labels[int(index)])
        return Split(
            self.source[index],
            self.labels[index],
            None if self.angles is None else self.angles[index],
            None if self.places is None else self.places[index],
        )

    def __add__(self, other: "Split") -> "Split":
        """These images, and after them the others; with their angles where both are known."""
        angles = None
        if self.angles is not None and other.angles is not None:
            angles = torch.cat([self.angles, other.angles])
        if isinstance(self.source, Tensor):
            source = torch.cat([self.source, other.images])
        else:
            source = self.source + other.source
        return Split(source, torch.cat([self.labels, other.labels]), angles)

    def __repr__(self) -> str:
        where = "" if self.in_memory else " in files"
        return f"Split of {len(self):,} images {tuple(self.source.shape[1:])}{where}"


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Images to train on, to choose by and to test with; printing it says what it is.

    Args:
        title: its name.
        classes: the classes' names, in the order of their numbers.
        train: what a model learns from.
        validation: what choices are made by, so that none is made by the test. May be empty.
        test: what is reported.
    """

    title: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split

    def held_out(self, share: float = 0.1, seed: int = 0) -> "Dataset":
        """A share of the training images becomes the validation images.

        Args:
            share: of the images that training and validation have now, from 0 up to less than 1.
            seed: chooses which.

        Raises:
            ValueError: the share is none.

        Example:
            >>> from flowinv.data import load
            >>> len(load("mnist", sample=True).held_out(0.25).validation)
            2500
        """
        if not 0 <= share < 1:
            raise ValueError(f"held_out: expected a share in [0, 1), got {share}")
        whole = self.joined().train
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randperm(len(whole), generator=generator)[: round(share * len(whole))]
        held = torch.zeros(len(whole), dtype=torch.bool)
        held[drawn] = True
        whole = replace(whole, places=torch.arange(len(whole)))
        return replace(self, train=whole[~held], validation=whole[held])

    def joined(self) -> "Dataset":
        """The same data with the validation images back among the training images.

        For the last run, when all choices are made. Images that were held out return to their
        places; any others follow the training images.

        Example:
            >>> from flowinv.data import load
            >>> load("mnist", sample=True).joined().only([1, 6])
            MNIST (embedded sample): 2,000 training and 400 test images of 2 classes (1, 6)
        """
        joined = (self.train + self.validation)[self._ranks().argsort()]
        return replace(self, train=joined, validation=joined[:0])

    def _ranks(self) -> Tensor:
        """Where each training image, and after them each validation image, stands when joined."""
        if self.train.places is None or self.validation.places is None:
            return torch.arange(len(self.train) + len(self.validation))
        return torch.cat([self.train.places, self.validation.places]).argsort().argsort()

    def only(self, classes: list[int]) -> "Dataset":
        """The images of these classes, renumbered 0, 1, … in the order given.

        Args:
            classes: numbers of classes.

        Raises:
            ValueError: there is no such class.

        Example:
            >>> from flowinv.data import load
            >>> load("mnist", sample=True).only([1, 6]).classes
            ('1', '6')
        """
        if not classes or not set(classes) <= set(range(len(self.classes))):
            raise ValueError(
                f"classes: expected numbers from 0 to {len(self.classes) - 1}, got {classes}"
            )
        number = torch.full((len(self.classes),), -1)
        number[classes] = torch.arange(len(classes))

        def keep(split: Split) -> Split:
            kept = split[number[split.labels] >= 0]
            return replace(kept, labels=number[kept.labels])

        return replace(
            self,
            classes=tuple(self.classes[c] for c in classes),
            train=keep(self.train),
            validation=keep(self.validation),
            test=keep(self.test),
        )

    def first(self, train: int, test: int) -> "Dataset":
        """The first images of each split; its title says so.

        As large a share of the validation images stays as of the training images.

        Args:
            train: how many training images.
            test: how many test images.

        Raises:
            ValueError: there are fewer.

        Example:
            >>> from flowinv.data import load
            >>> few = load("mnist", sample=True).first(90, 50)
            >>> few.title, len(few.train), len(few.validation), len(few.test)
            ('MNIST (embedded sample), the first 90 and 50', 90, 10, 50)
        """
        if not (1 <= train <= len(self.train) and 1 <= test <= len(self.test)):
            raise ValueError(
                f"first: expected up to {len(self.train)} and {len(self.test)} images,"
                f" got {train} and {test}"
            )
        validation = ceil(train * len(self.validation) / len(self.train))
        return replace(
            self,
            title=f"{self.title}, the first {train:,} and {test:,}",
            train=self.train[:train],
            validation=self.validation[:validation],
            test=self.test[:test],
        )

    def long_tail(self, ratio: float = 10.0, seed: int = 0) -> "Dataset":
        """Fewer and fewer training images from class to class; validation and test stay whole.

        Of class c = 0, …, K − 1 there remain, n being the size of the smallest class::

            n ratio^(−c / (K − 1))

        so that CIFAR-10's classes, joined, go from 5,000 to 500.

        Args:
            ratio: of the largest class to the smallest.
            seed: chooses which images stay.

        Raises:
            ValueError: the ratio is below 1, or there is one class.

        Example:
            >>> from flowinv.data import load
            >>> tail = load("mnist", sample=True).joined().long_tail()
            >>> tail.train.labels.bincount().tolist()
            [1000, 774, 599, 464, 359, 278, 215, 167, 129, 100]
        """
        if not ratio >= 1 or len(self.classes) < 2:
            raise ValueError(
                "long_tail: expected a ratio of 1 or more and two classes,"
                f" got {ratio} and {self.classes}"
            )
        generator = torch.Generator().manual_seed(seed)
        labels = self.train.labels
        smallest = int(labels.bincount().min())
        last = len(self.classes) - 1
        kept = []
        for c in range(last + 1):
            members = (labels == c).nonzero().squeeze(1)
            order = torch.randperm(len(members), generator=generator)
            size = round(smallest * ratio ** (-c / last))
            kept.append(members[order[:size]])
        index = torch.cat(kept).sort().values
        return replace(self, title=f"{self.title}, long tail", train=self.train[index])

    def rotated(self, degrees: float = 180.0, seed: int = 0) -> "Dataset":
        """Every image turned once, by an angle uniform within ± degrees.

        An image turns by the same angle whether validation is joined before or after.

        Args:
            degrees: in (0, 180].
            seed: fixes the angles.

        Raises:
            ValueError: degrees is out of its range.

        Example:
            >>> from flowinv.data import load
            >>> rotated = load("mnist", sample=True).only([1]).rotated(90)
            >>> rotated.test.images.shape, rotated.test.angles.abs().max() <= 90
            (torch.Size([200, 1, 28, 28]), tensor(True))
        """
        if not 0 < degrees <= 180:
            raise ValueError(f"rotated: expected degrees in (0, 180], got {degrees}")
        generator = torch.Generator().manual_seed(seed)
        ranks = self._ranks()
        angles = uniform(degrees, len(ranks), generator)[ranks]
        number = len(self.train)
        return replace(
            self,
            title=f"{self.title}, rotated by up to ±{degrees:g}°",
            train=_turn(self.train, angles[:number]),
            validation=_turn(self.validation, angles[number:]),
            test=_turn(self.test, uniform(degrees, len(self.test), generator)),
        )

    def __str__(self) -> str:
        counts = f"{len(self.train):,} training"
        if len(self.validation):
            counts += f", {len(self.validation):,} validation"
        return (
            f"{self.title}: {counts} and {len(self.test):,} test images"
            f" of {len(self.classes)} classes ({', '.join(self.classes)})"
        )

    __repr__ = __str__


def uniform(degrees: float, number: int, generator: torch.Generator) -> Tensor:
    """So many angles, uniform within ± degrees."""
    return degrees * (2 * torch.rand(number, generator=generator) - 1)


def principal(angles: Tensor) -> Tensor:
    """The same turns by angles in (−180, 180]."""
    return 180 - (180 - angles) % 360


def _turn(split: Split, angles: Tensor) -> Split:
    """Each image turned by its angle, in degrees, on top of what it was turned by before."""
    images = FAMILIES["rotation"].warp(split.images, angles[:, None] / 180)
    if split.angles is not None:
        angles = principal(split.angles + angles)
    return replace(split, source=images, angles=angles)
