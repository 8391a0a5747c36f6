"""Settings of training: batches, optimisers, and how learning rates and α move."""

import math
from dataclasses import dataclass
from numbers import Real

from torch import Tensor

from ..checks import check_count


@dataclass(frozen=True)
class Constant:
    """α that stays as it is; a number as ``alpha`` says the same."""

    alpha: float

    def at(self, progress: float, state: Tensor | None = None) -> float:
        """α."""
        return self.alpha

    def observe(self, entropy: Tensor, state: Tensor) -> None:
        """A constant looks at nothing."""


@dataclass(frozen=True)
class Schedule:
    """α that moves evenly in its logarithm, then stays.

    Args:
        start: α at the end of burn-in.
        end: α later on.
        share: of the epochs after burn-in, in which it moves.

    Example:
        >>> moving = Schedule(1.0, 0.01, share=1.0)
        >>> [round(moving.at(progress), 3) for progress in (0, 0.5, 1)]
        [1.0, 0.1, 0.01]
    """

    start: float
    end: float
    share: float = 0.5

    def __post_init__(self):
        if not (self.start > 0 and self.end > 0 and 0 < self.share <= 1):
            raise ValueError(
                f"schedule: expected positive alphas and a share in (0, 1], got {self}"
            )

    def at(self, progress: float, state: Tensor | None = None) -> float:
        """α when the share ``progress`` of the epochs after burn-in is over."""
        return self.start * (self.end / self.start) ** min(1.0, progress / self.share)

    def observe(self, entropy: Tensor, state: Tensor) -> None:
        """A schedule looks at nothing."""


@dataclass(frozen=True)
class EntropyControl:
    """α that steers the mean entropy to a target, by the error e = target − entropy within ±1::

        log α = log start + gain · e + Σ rate · e        (the sum kept within ± bound)

    After a target out of reach the sum takes at most 2 bound / rate steps at full error to come
    back. α only pays for entropy, so the entropy comes down no faster than the classifier pushes
    it, and neither way once the learning rates have decayed.

    Args:
        target: in nats, at most D log 2.
        start: α at the end of burn-in.
        gain: weight of the latest error.
        rate: weight of each error in the sum.
        bound: of the sum.
    """

    target: float
    start: float = 0.1
    gain: float = 2.0
    rate: float = 0.01
    bound: float = 4.0

    def __post_init__(self):
        if not (self.start > 0 and self.gain >= 0 and self.rate > 0 and self.bound > 0):
            raise ValueError(
                f"entropy control: expected a positive start, rate and bound, got {self}"
            )

    def at(self, progress: float, state: Tensor) -> Tensor:
        """α after what was observed; a new state is two zeros, the error and the sum."""
        error, total = state
        return self.start * (self.gain * error + total).exp()

    def observe(self, entropy: Tensor, state: Tensor) -> None:
        """Change the state in place by a step's mean entropy."""
        state[0] = (self.target - entropy.detach()).clamp(-1, 1)
        state[1] = (state[1] + self.rate * state[0]).clamp(-self.bound, self.bound)


@dataclass(frozen=True)
class Cosine:
    """Learning rates along half a cosine, from their peak at the first step to a share of it.

    Args:
        to: that share, in [0, 1].

    Example:
        >>> [round(Cosine(to=0.1).at(epoch, epochs=10), 3) for epoch in (0, 5, 10)]
        [1.0, 0.55, 0.1]
    """

    to: float = 0.0

    def __post_init__(self):
        if not 0 <= self.to <= 1:
            raise ValueError(f"cosine: expected a share in [0, 1], got {self.to}")

    def at(self, epoch: float, epochs: int) -> float:
        """The share of the peak after so many of the epochs."""
        return self.to + (1 - self.to) * (1 + math.cos(math.pi * epoch / epochs)) / 2


@dataclass(frozen=True)
class Steps:
    """Learning rates multiplied by a factor every so many epochs.

    Args:
        every: how many.
        factor: in (0, 1].

    Example:
        >>> [round(Steps(every=80).at(epoch, epochs=200), 3) for epoch in (79.9, 80, 160)]
        [1.0, 0.1, 0.01]
    """

    every: int
    factor: float = 0.1

    def __post_init__(self):
        if not (self.every > 0 and 0 < self.factor <= 1):
            raise ValueError(
                "steps: expected a positive number of epochs and a factor in (0, 1],"
                f" got {self.every} and {self.factor}"
            )

    def at(self, epoch: float, epochs: int) -> float:
        """The share of the peak after so many of the epochs."""
        return self.factor ** (epoch // self.every)


# Settings that count something, and the least that each may be.
WHOLE = {
    "epochs": 1,
    "batch_size": 1,
    "samples": 1,
    "chunk": 1,
    "burn_in": 0,
    "settle": 0,
    "seed": 0,
}


def _number(name: str, value: object) -> float:
    if not isinstance(value, Real):
        raise ValueError(f"{name}: expected a number, got {value!r}")
    return float(value)


@dataclass(frozen=True)
class Settings:
    """How to train.

    Args:
        epochs: in all, those of burn-in included.
        batch_size: images in a step.
        alpha: price of entropy, 1/λ: a number, a ``Schedule`` or an ``EntropyControl``.
        samples: S, transformations an image and step.
        lr: learning rate of the classifier.
        guide_lr: learning rate of q(T | I).
        burn_in: epochs in which the classifier alone learns, from images as they are.
        freeze: whether the classifier then stays as it is.
        held_out: share of the images that teach q(T | I) alone; the others then teach the
            classifier alone. On images that it has learned by heart a classifier is sure of
            everything, and q learns what is safe for those.
        settle: the last epochs, in which q stays as it is and the classifier learns from all.
        smoothing: share of each label that is spread over all classes.
        clip: the largest norm of a step's gradient.
        seed: of everything random in training, 0 or more. What a step draws follows from it, the
            epoch, the step and the part of the batch alone.
        chunk: transformed images at once; None: all. A batch then goes in parts, whose gradients
            add up to the whole one's, in less memory. Batch normalisation would see the parts, and
            a mixture of K components has at least K samples.
        optimizer: the classifier's, "adam" or "sgd" (momentum 0.9); q(T | I) always has Adam.
        weight_decay: of the classifier, apart from Adam's gradient (AdamW).
        decay: how both learning rates go down.

    Raises:
        ValueError: a setting makes no sense.
    """

    epochs: int = 32
    batch_size: int = 64
    alpha: float | Schedule | EntropyControl = 0.3
    samples: int = 2
    lr: float = 3e-3
    guide_lr: float = 3e-3
    burn_in: int = 2
    freeze: bool = False
    held_out: float = 0.0
    settle: int = 0
    smoothing: float = 0.0
    clip: float = 1.0
    seed: int = 0
    chunk: int | None = None
    optimizer: str = "adam"
    weight_decay: float = 0.0
    decay: Cosine | Steps = Cosine()

    def __post_init__(self):
        for name, least in WHOLE.items():
            if getattr(self, name) is not None or name != "chunk":
                check_count(name, getattr(self, name), least)
        for name in ("lr", "guide_lr", "clip"):
            if not _number(name, getattr(self, name)) > 0:
                raise ValueError(f"{name}: expected a positive number, got {getattr(self, name)}")
        for name in ("alpha", "weight_decay"):
            value = getattr(self, name)
            if not isinstance(value, Schedule | EntropyControl) and not _number(name, value) >= 0:
                raise ValueError(f"{name}: expected 0 or more, got {value}")
        for name in ("lr", "guide_lr", "alpha", "weight_decay"):
            value = getattr(self, name)
            if not isinstance(value, Schedule | EntropyControl) and math.isinf(value):
                raise ValueError(f"{name}: expected a finite number, got inf")
        for name in ("smoothing", "held_out"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: expected a share in [0, 1), got {getattr(self, name)}")
        for name in ("lr", "guide_lr", "clip", "alpha", "weight_decay", "smoothing", "held_out"):
            if isinstance(getattr(self, name), int):  # 1 and 1.0 are one setting
                object.__setattr__(self, name, float(getattr(self, name)))
        if self.optimizer not in ("adam", "sgd"):
            raise ValueError(f"optimizer: expected adam or sgd, got {self.optimizer!r}")

    @property
    def price(self) -> Constant | Schedule | EntropyControl:
        """``alpha`` as a rule, also where it is a number."""
        if isinstance(self.alpha, Schedule | EntropyControl):
            return self.alpha
        return Constant(self.alpha)
