"""Training: one loop for every method, with a progress bar, checkpoints and exact resume."""

import json
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from .checks import check_images, check_labels
from .model import InvariantClassifier
from .transforms import FAMILIES


@dataclass(frozen=True)
class Settings:
    """How to train.

    alpha: price of entropy, 1/λ. samples: S, transformations an image and step.
    lr, guide_lr: Adam's rates for the classifier and for q(T | I); both follow half a cosine to 0.
    burn_in: epochs in which the classifier alone learns, from images as they are.
    clip: the largest norm of a step's gradient. seed: of everything random in training.
    """

    epochs: int = 32
    batch_size: int = 64
    alpha: float = 0.3
    samples: int = 2
    lr: float = 3e-3
    guide_lr: float = 3e-3
    burn_in: int = 2
    clip: float = 1.0
    seed: int = 0

    def __post_init__(self):
        for name in ("epochs", "batch_size", "samples", "lr", "guide_lr", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected a positive number, got {getattr(self, name)}")
        if not (self.alpha >= 0 and self.burn_in >= 0):
            raise ValueError(f"alpha and burn_in: expected 0 or more, got {self.alpha} and {self.burn_in}")


class CheckpointError(RuntimeError):
    """A checkpoint does not fit the model or the settings, or cannot be read."""


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
    """Train the model in place; returns one dict an epoch: epoch, loss, entropy (nats), seconds.

    images (N, C, H, W), floats in [0, 1]; labels (N,), int64. They move to the device whole.
    settings: its seed goes to torch's global generator, so a run repeats whatever came before it.
    device: None takes pick_device(). The model stays there afterwards.
    checkpoint: a file written after each epoch, whole or not at all. If it is there already, training
        goes on where it stopped and ends, on a CPU, at the same bits as if it had not stopped.
    each_epoch: called with the model after each epoch; what it returns joins that epoch's dict. Its own random
        draws do not change training.
    progress: a bar with the loss, the entropy and images per second.

    Raises ValueError for images, labels or settings that do not fit, CheckpointError for a
    checkpoint of another model or other settings, FloatingPointError when the loss is not finite.

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
    optimizer = torch.optim.Adam(groups, lr=settings.lr)
    torch.manual_seed(settings.seed)
    history: list[dict] = []
    if checkpoint and Path(checkpoint).exists():
        history = load_checkpoint(checkpoint, model, optimizer, settings, labels)

    N, steps = len(images), math.ceil(len(images) / settings.batch_size)
    quiet = {} if progress else {"disable": True}  # unset, so that the variable TQDM_DISABLE can speak
    with tqdm(total=settings.epochs * N, initial=len(history) * N, unit="image", **quiet) as bar:
        for epoch in range(len(history), settings.epochs):
            start = time.perf_counter()
            model.train()
            total = torch.zeros(2, device=device)  # loss, entropy: summed there, read once an epoch
            for i, batch in enumerate(torch.randperm(N).to(device).split(settings.batch_size)):
                decay = (1 + math.cos(math.pi * (epoch * steps + i) / (settings.epochs * steps))) / 2
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * decay
                x, y = images[batch], labels[batch]
                if epoch < settings.burn_in:
                    loss, entropy = cross_entropy(model.classifier(x), y), total.new_zeros(())
                else:
                    nll, kl, entropy = model.loss_terms(x, y, settings.alpha, settings.samples)
                    loss = nll + kl
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
                optimizer.step()
                total += len(batch) / N * torch.stack([loss.detach(), entropy.detach()])
                bar.update(len(batch))
            loss, entropy = total.tolist()
            _check_health(epoch, loss, entropy, model.family.dim)
            row = {"epoch": epoch + 1, "loss": loss, "entropy": entropy if epoch >= settings.burn_in else None}
            row["seconds"] = time.perf_counter() - start
            if each_epoch:
                model.eval()
                state = _random_state(device)
                row |= each_epoch(model)
                _set_random_state(state, device)
            history.append(row)
            bar.set_postfix(loss=f"{loss:.3f}", entropy=f"{entropy:.2f}")
            if checkpoint:
                save_checkpoint(checkpoint, model, optimizer, settings, labels, history)
    model.eval()
    return history


def _check_health(epoch: int, loss: float, entropy: float, dim: int) -> None:
    """Stop a run that has gone wrong before it spoils the checkpoint."""
    if not math.isfinite(loss + entropy):
        raise FloatingPointError(
            f"epoch {epoch + 1}: loss {loss}, entropy {entropy}; try a lower guide_lr or clip, or a longer burn_in"
        )
    if entropy > dim * math.log(2) + 0.1:  # the box's own entropy, and room for sampling noise
        raise FloatingPointError(
            f"epoch {epoch + 1}: entropy {entropy:.2f} is above D log 2 = {dim * math.log(2):.2f} nats,"
            " which no density on the box has; the guide's log_prob is not that of its samples"
        )


def _random_state(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def _set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    elif "mps" in state:
        torch.mps.set_rng_state(state["mps"])


def _identity(model: InvariantClassifier, labels: Tensor) -> dict:
    """What a checkpoint must share with the run that goes on from it, beside shapes and settings."""
    return {
        "model": repr(model),
        "family": list(model.family.names),
        "images per class": torch.bincount(labels).tolist(),
    }


def save_checkpoint(
    path: str | Path, model: InvariantClassifier, optimizer, settings: Settings, labels: Tensor, history: list[dict]
) -> None:
    """Model, optimiser, random state and history in one safetensors file, written whole or not at all."""
    path = Path(path)
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
    tensors |= {f"random.{key}": value for key, value in _random_state(next(model.parameters()).device).items()}
    about = {"settings": asdict(settings), "identity": _identity(model, labels), "history": history}
    partial = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous() for key, value in tensors.items()}, partial, {"flowinv": json.dumps(about)})
        os.replace(partial, path)
    except TypeError as error:
        raise CheckpointError(
            f"{path} was not written ({error}): let each_epoch return plain numbers, lists and strings"
        ) from None
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            partial.unlink()
        raise CheckpointError(
            f"{path} could not be written ({error}): free some space or choose another folder; the last one is as it was"
        ) from None


def load_checkpoint(
    path: str | Path, model: InvariantClassifier, optimizer, settings: Settings, labels: Tensor
) -> list[dict]:
    """Put everything back and return the history; nothing is changed unless all of it fits."""
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["flowinv"])
            then, identity, history = about["settings"], about["identity"], about["history"]
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is not a readable checkpoint ({error}): delete it to start afresh") from None
    now = asdict(settings)
    changed = [f"{key} {then.get(key)} (now {now[key]})" for key in now if then.get(key) != now[key]]
    if changed:
        raise CheckpointError(f"{path} was trained with {', '.join(changed)}: use those settings, or another file")
    own = model.state_dict()
    weights = {key.removeprefix("model."): value for key, value in tensors.items() if key.startswith("model.")}
    for key in own.keys() | weights.keys():
        here, there = (tuple(w[key].shape) if key in w else "nothing" for w in (own, weights))
        if here != there:
            raise CheckpointError(
                f"{path} holds another model ({key}: {there} there, {here} here): build the same one, or use another file"
            )
    for key, value in _identity(model, labels).items():
        if identity.get(key) != value:
            raise CheckpointError(f"{path} is of another run (its {key} differs): use the same one, or another file")
    model.load_state_dict(weights)
    state: dict[int, dict] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    device = next(model.parameters()).device
    kinds = _random_state(device)  # a checkpoint from another kind of device has no state for this one
    saved = {kind: tensors[f"random.{kind}"] for kind in kinds if f"random.{kind}" in tensors}
    _set_random_state(saved, device)
    return history
