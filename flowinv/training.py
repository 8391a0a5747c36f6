"""Training: one loop for every method, with a progress bar, checkpoints and exact resume."""

import math
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from .checkpoints import CheckpointError, identity, load_checkpoint, random_state, save_checkpoint, set_random_state
from .checks import check_images, check_labels
from .model import InvariantClassifier
from .networks import ConvNet, FixupResNet
from .transforms import FAMILIES

__all__ = ["CheckpointError", "EntropyControl", "Schedule", "Settings", "TrainingWarning", "fit", "pick_device"]


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
            raise ValueError(f"schedule: expected positive alphas and a share in (0, 1], got {self}")

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
            raise ValueError(f"entropy control: expected a positive start, rate and bound, got {self}")

    def at(self, progress: float, state: Tensor) -> Tensor:
        return self.start * (self.gain * state[0] + state[1]).exp()

    def observe(self, entropy: Tensor, state: Tensor) -> None:
        state[0] = (self.target - entropy.detach()).clamp(-1, 1)
        state[1] = (state[1] + self.rate * state[0]).clamp(-self.bound, self.bound)


@dataclass(frozen=True)
class Settings:
    """How to train.

    alpha: price of entropy, 1/λ: a number, a Schedule or an EntropyControl.
    samples: S, transformations an image and step.
    lr, guide_lr: Adam's rates for the classifier and for q(T | I); both follow half a cosine to 0.
    burn_in: epochs in which the classifier alone learns, from images as they are.
    freeze: whether the classifier then stays as it is.
    smoothing: share of each label that is spread over all classes.
    clip: the largest norm of a step's gradient. seed: of everything random in training.
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

    def __post_init__(self):
        for name in ("epochs", "batch_size", "samples", "lr", "guide_lr", "clip", "chunk"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected a positive number, got {getattr(self, name)}")
        if not self.burn_in >= 0 or not (isinstance(self.alpha, Schedule | EntropyControl) or self.alpha >= 0):
            raise ValueError(f"alpha and burn_in: expected 0 or more, got {self.alpha} and {self.burn_in}")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing: expected a share in [0, 1), got {self.smoothing}")


class TrainingWarning(UserWarning):
    """Training goes on, but something looks wrong."""


def pick_device() -> torch.device:
    """CUDA if there is one, else Apple's MPS if its PyTorch can do what training needs, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() and _trains_on("mps") else "cpu")


def _trains_on(device: str) -> bool:
    """Whether the warp and its gradient exist there: on MPS, PyTorch gained them one by one."""
    try:
        T = torch.zeros(1, 6, device=device, requires_grad=True)
        FAMILIES["affine"].warp(torch.zeros(1, 1, 4, 4, device=device), T).sum().backward()
    except (NotImplementedError, RuntimeError):
        return False
    return True


def fit(
    model: InvariantClassifier,
    images: Tensor,
    labels: Tensor,
    settings: Settings,
    *,
    device: torch.device | str | None = None,
    checkpoint: str | Path | None = None,
    each_epoch: Callable[[InvariantClassifier], dict] | None = None,
    progress: bool = True,
) -> list[dict]:
    """Train the model in place; returns one dict an epoch: epoch, loss, entropy (nats), alpha, seconds.

    images (N, C, H, W), floats in [0, 1]; labels (N,), int64. They move to the device whole.
    settings: its seed goes to torch's global generator, so a run repeats whatever came before it.
    device: None takes pick_device(). The model stays there afterwards.
    checkpoint: a file written after each epoch, whole or not at all. If it is there already, training
        goes on where it stopped and ends, on a CPU, at the same bits as if it had not stopped.
    each_epoch: called with the model after each epoch; what it returns joins that epoch's dict. Its own random
        draws do not change training.
    progress: a bar with the loss, the entropy and images per second.

    Raises ValueError for images, labels or settings that do not fit, CheckpointError for a
    checkpoint of another model or other settings, FloatingPointError when the loss or a gradient is
    not finite or the entropy is above the box's. Warns (TrainingWarning) when the guide's encoder
    gives all images one embedding.

    >>> from flowinv.data import load
    >>> digits = load("mnist", sample=True).only([1, 6])
    >>> model = InvariantClassifier.build("flow", "rotation", in_channels=1, classes=2)
    >>> settings = Settings(epochs=2, burn_in=1)
    >>> history = fit(model, digits.train_images[:256], digits.train_labels[:256], settings, progress=False)
    >>> [row["epoch"] for row in history]
    [1, 2]
    """
    check_images(images)
    device = torch.device(device) if device else pick_device()
    model.to(device).eval()
    images, labels = images.to(device), labels.to(device)
    with torch.no_grad():
        check_labels(labels, len(images), model.classifier(images[:1]).shape[-1])
    guide_parameters = list(model.q.parameters())
    groups = [{"params": list(model.classifier.parameters()), "peak": settings.lr}]
    if guide_parameters:
        groups.append({"params": guide_parameters, "peak": settings.guide_lr})
    torch.manual_seed(settings.seed)
    history: list[dict] = []
    control = torch.zeros(2, device=device)  # error and integral of an EntropyControl
    about = identity(model, images, labels)
    if settings.burn_in >= settings.epochs and guide_parameters:
        warnings.warn(
            f"q(T | I) will not be trained: all {settings.epochs} epochs are burn-in; raise epochs or lower burn_in",
            TrainingWarning,
            stacklevel=2,
        )
    learning = [p for p in model.classifier.parameters() if p.requires_grad]
    known = device.type in ("cpu", "cuda")  # that channels last and a fused optimiser are right there, and faster
    own = [module for module in model.modules() if known and isinstance(module, ConvNet | FixupResNet)]

    N, steps = len(images), math.ceil(len(images) / settings.batch_size)
    # Read here: tqdm's bar for notebooks heeds the variable too late, and leaves an empty widget behind.
    quiet = not progress or os.environ.get("TQDM_DISABLE", "0") not in ("", "0")
    try:
        for network in own:  # a network of the reader's may rely on the usual layout
            network.to(memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(groups, lr=settings.lr, fused=known)
        if checkpoint and Path(checkpoint).exists():
            history = load_checkpoint(checkpoint, model, optimizer, control, settings, about)
        with tqdm(total=settings.epochs * N, initial=len(history) * N, unit="image", disable=quiet) as bar:
            for epoch in range(len(history), settings.epochs):
                start, burning_in = time.perf_counter(), epoch < settings.burn_in
                for parameter in learning:
                    parameter.requires_grad_(burning_in or not settings.freeze)
                loss, entropy, alpha, broken = _epoch(model, images, labels, settings, optimizer, control, epoch, bar)
                _check_health(epoch, loss, entropy, int(broken), steps, model.family.dim)
                row = {"epoch": epoch + 1, "loss": loss, "entropy": None, "alpha": None}
                if not burning_in:
                    row |= {"entropy": entropy, "alpha": alpha, **_embedding_spread(model, images)}
                row["seconds"] = time.perf_counter() - start
                if each_epoch:
                    model.eval()
                    state = random_state(device)
                    row |= each_epoch(model)
                    set_random_state(state, device)
                history.append(row)
                bar.set_postfix(loss=f"{loss:.3f}", entropy=f"{entropy:.2f}")
                if checkpoint:
                    save_checkpoint(checkpoint, model, optimizer, control, settings, about, history)
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
        for network in own:
            network.to(memory_format=torch.contiguous_format)
    model.eval()
    return history


def _epoch(
    model: InvariantClassifier, images: Tensor, labels: Tensor, settings: Settings, optimizer, control: Tensor,
    epoch: int, bar,
) -> list[float]:  # fmt: skip
    """One pass over the data: mean loss, entropy and α, and the number of steps whose gradient alone was not finite."""
    burning_in, rule, alpha = epoch < settings.burn_in, settings.alpha, None
    steered = isinstance(rule, Schedule | EntropyControl)
    model.train()
    model.classifier.train(burning_in or not settings.freeze)
    N, steps = len(images), math.ceil(len(images) / settings.batch_size)
    total = torch.zeros(4, device=images.device)  # summed on the device, read once
    for i, batch in enumerate(torch.randperm(N).to(images.device).split(settings.batch_size)):
        decay = (1 + math.cos(math.pi * (epoch * steps + i) / (settings.epochs * steps))) / 2
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * decay
        if not burning_in:
            share = (epoch - settings.burn_in + i / steps) / (settings.epochs - settings.burn_in)
            alpha = rule.at(share, control) if steered else rule
        loss, entropy, norm = step(model, optimizer, images[batch], labels[batch], settings, alpha)
        if steered and not burning_in:
            rule.observe(entropy, control)
        paid = alpha if isinstance(alpha, Tensor) else total.new_full((), alpha or 0.0)
        total[:3] += len(batch) / N * torch.stack([loss, entropy, paid])
        total[3] += loss.isfinite() & ~norm.isfinite()
        bar.update(len(batch))
    return total.tolist()


def step(
    model: InvariantClassifier,
    optimizer,
    images: Tensor,
    labels: Tensor,
    settings: Settings,
    alpha: float | Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of gradient descent: the loss and entropy before it, and the gradient's norm, on the device.

    alpha: price of entropy; None: the classifier alone learns, from images as they are. Nothing here waits for
    a GPU.
    """
    optimizer.zero_grad()
    loss = entropy = images.new_zeros(())
    shown = 1 if alpha is None else settings.samples  # of each image
    n = max(1, settings.chunk // shown) if settings.chunk else len(images)
    for x, y in zip(images.split(n), labels.split(n)):
        weight = len(x) / len(images)
        if alpha is None:
            part = cross_entropy(model.classify(x), y, label_smoothing=settings.smoothing)
        else:
            nll, part_entropy = model.loss_terms(x, y, settings.samples, settings.smoothing)
            part = model.weigh(nll, part_entropy, alpha)
            entropy = entropy + weight * part_entropy.detach()
        if part.requires_grad:  # nothing learns where the classifier is frozen and q has no parameters
            (weight * part).backward()
        loss = loss + weight * part.detach()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
    optimizer.step()
    return loss, entropy, norm


def _check_health(epoch: int, loss: float, entropy: float, broken: int, steps: int, dim: int) -> None:
    """Stop a run that has gone wrong before it spoils the checkpoint."""
    if broken:
        raise FloatingPointError(
            f"epoch {epoch + 1}: the gradient was not finite in {broken} of {steps} steps while the loss was;"
            " look for a square root, logarithm or division at 0 in the classifier, the guide or the transformation"
        )
    if not math.isfinite(loss + entropy):
        raise FloatingPointError(
            f"epoch {epoch + 1}: loss {loss}, entropy {entropy}; try a lower guide_lr or clip, or a longer burn_in"
        )
    if entropy > dim * math.log(2) + 0.1:  # the box's own entropy, and room for sampling noise
        raise FloatingPointError(
            f"epoch {epoch + 1}: entropy {entropy:.2f} is above D log 2 = {dim * math.log(2):.2f} nats,"
            " which no density on the box has; the guide's log_prob is not that of its samples"
        )


@torch.no_grad()
def _embedding_spread(model: InvariantClassifier, images: Tensor) -> dict:
    """How much the encoder's embedding varies over images: its standard deviation over its size."""
    encoder = getattr(model.q, "encoder", None)
    if encoder is None or len(images) < 2:
        return {}
    encoder.eval()  # looking must not change it
    embedding = encoder(images[:: max(1, len(images) // 256)])
    size = embedding.pow(2).mean(0).sqrt().norm()
    spread = (embedding.std(0).norm() / size).nan_to_num().item()  # all zero: 0
    if spread < 0.003:  # early in healthy runs it was 0.016 to 0.06, later 0.4 to 1
        warnings.warn(
            f"the encoder has collapsed: its embedding varies by {spread:.1e} of its size over images, so q(T | I) is one"
            " for all; try a lower guide_lr, another seed, or an encoder of LeakyReLU",
            TrainingWarning,
            stacklevel=3,
        )
    return {"embedding_spread": spread}
