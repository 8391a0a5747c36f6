"""Settings of training: batches, optimisers, and how learning rates and α move."""

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Schedule:
    """α from `start` to `end`, evenly in its logarithm, over a `share` of the epochs after burn-in.

    >>> [round(Schedule(1.0, 0.01, share=1.0).at(progress, None), 3) for progress in (0, 0.5, 1)]
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

    def at(self, progress: float, state: Tensor | None) -> float:
        return self.start * (self.end / self.start) ** min(1.0, progress / self.share)

    def observe(self, entropy: Tensor, state: Tensor) -> None:
        """A schedule looks at nothing."""


@dataclass(frozen=True)
class EntropyControl:
    """α that steers the mean entropy to `target` (nats, at most D log 2).

    log α is that of `start` plus the error, target − entropy clipped to ±1, times `gain`, plus the
    integral of the error, weighted by `rate` at each step. The integral stays within ± `bound`: after a target
    out of reach it takes at most 2 bound / rate steps at full error to come back. α only pays for
    entropy, so the entropy comes down no faster than the classifier pushes it, and neither way once the
    rates have decayed.
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
        return self.start * (self.gain * state[0] + state[1]).exp()

    def observe(self, entropy: Tensor, state: Tensor) -> None:
        state[0] = (self.target - entropy.detach()).clamp(-1, 1)
        state[1] = (state[1] + self.rate * state[0]).clamp(-self.bound, self.bound)


@dataclass(frozen=True)
class Cosine:
    """Learning rates along half a cosine, from their peak at the first step to the share `to` of it at the last.

    >>> [round(Cosine(to=0.1).at(epoch, epochs=10), 3) for epoch in (0, 5, 10)]
    [1.0, 0.55, 0.1]
    """

    to: float = 0.0

    def __post_init__(self):
        if not 0 <= self.to <= 1:
            raise ValueError(f"cosine: expected a share in [0, 1], got {self.to}")

    def at(self, epoch: float, epochs: int) -> float:
        return self.to + (1 - self.to) * (1 + math.cos(math.pi * epoch / epochs)) / 2


@dataclass(frozen=True)
class Steps:
    """Learning rates multiplied by `factor` every so many epochs.

    >>> [round(Steps(every=80, factor=0.1).at(epoch, epochs=200), 3) for epoch in (79.9, 80, 160)]
    [1.0, 0.1, 0.01]
    """

    every: int
    factor: float = 0.1

    def __post_init__(self):
        if not (self.every > 0 and 0 < self.factor <= 1):
            raise ValueError(
                f"steps: expected a positive number of epochs and a factor in (0, 1], got {self}"
            )

    def at(self, epoch: float, epochs: int) -> float:
        return self.factor ** (epoch // self.every)


@dataclass(frozen=True)
class Settings:
    """How to train.

    alpha: price of entropy, 1/λ: a number, a Schedule or an EntropyControl.
    samples: S, transformations an image and step.
    lr, guide_lr: learning rates of the classifier and of q(T | I). decay: how both go down.
    optimizer: the classifier's, "adam" or "sgd" (momentum 0.9); q(T | I) always has Adam.
    weight_decay: of the classifier, apart from Adam's gradient (AdamW).
    burn_in: epochs in which the classifier alone learns, from images as they are.
    freeze: whether the classifier then stays as it is.
    smoothing: share of each label that is spread over all classes.
    clip: the largest norm of a step's gradient.
    seed: of everything random in training, 0 or more. What a step draws follows from it, the epoch, the step and the part
        of the batch alone.
    chunk: transformed images at once. A batch then goes in parts, whose gradients add up to the whole one's, in less
        memory. (Batch normalisation would see the parts; a mixture of K components has at least K samples.)
        None: all at once.
    """

    epochs: int = 32
    batch_size: int = 64
    alpha: float | Schedule | EntropyControl = 0.3
    samples: int = 2
    lr: float = 3e-3
    guide_lr: float = 3e-3
    burn_in: int = 2
    freeze: bool = False
    smoothing: float = 0.0
    clip: float = 1.0
    seed: int = 0
    chunk: int | None = None
    optimizer: str = "adam"
    weight_decay: float = 0.0
    decay: Cosine | Steps = Cosine()

    def __post_init__(self):
        for name in ("epochs", "batch_size", "samples", "lr", "guide_lr", "clip", "chunk"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected a positive number, got {getattr(self, name)}")
        if not self.burn_in >= 0 or not (
            isinstance(self.alpha, Schedule | EntropyControl) or self.alpha >= 0
        ):
            raise ValueError(
                f"alpha and burn_in: expected 0 or more, got {self.alpha} and {self.burn_in}"
            )
        if self.optimizer not in ("adam", "sgd"):
            raise ValueError(f"optimizer: expected adam or sgd, got {self.optimizer!r}")
        if self.seed < 0 or self.weight_decay < 0:
            raise ValueError(
                f"seed and weight_decay: expected 0 or more, got {self.seed} and {self.weight_decay}"
            )
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing: expected a share in [0, 1), got {self.smoothing}")
