"""Checkpoints: everything that a run needs to go on, in one safetensors file, whole or not at all."""

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..model import InvariantClassifier


class CheckpointError(RuntimeError):
    """A checkpoint does not fit the model or the settings, or cannot be read."""


def identity(model: InvariantClassifier, images: Tensor, labels: Tensor) -> dict:
    """What a checkpoint must share with the run that goes on from it, beside shapes and settings."""
    some = images[:: max(1, len(images) // 64)].cpu().numpy()
    return {
        "model": repr(model),
        "family": list(model.family.names),
        "images per class": torch.bincount(labels).tolist(),
        "images": hashlib.sha256(some.tobytes()).hexdigest(),
    }


def save_checkpoint(
    path: str | Path,
    model: InvariantClassifier,
    optimizers: list,
    control: Tensor,
    settings,
    about_run: dict,
    history: list,
) -> None:
    """Model, optimisers, entropy control's state and history, written whole or not at all."""
    path = Path(path)
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    for number, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{index}.{key}": value for key, value in state.items()}
    tensors["control"] = control
    about = {"settings": asdict(settings), "identity": about_run, "history": history}
    try:
        metadata = {"flowinv": json.dumps(about)}
    except TypeError as error:
        raise CheckpointError(
            f"{path} was not written ({error}): let each_epoch return plain numbers, lists and strings"
        ) from None
    _write(path, tensors, metadata)


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    partial = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(
            {key: value.clone().contiguous() for key, value in tensors.items()}, partial, metadata
        )
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            partial.unlink()
        raise CheckpointError(
            f"{path} could not be written ({error}): free some space or choose another folder; the last one is as it was"
        ) from None


def save_weights(path: str | Path, model: InvariantClassifier, about: dict) -> None:
    """A trained model's weights alone, with a word about them, written whole or not at all."""
    _write(Path(path), model.state_dict(), {"flowinv": json.dumps(about)})


def load_weights(path: str | Path, model: InvariantClassifier) -> dict:
    """Put them into a model built in the same way, and return the word about them.

    Raises CheckpointError if the file or the model is another.
    """
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["flowinv"])
            weights = {key: file.get_tensor(key) for key in file.keys()}
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} has no readable weights ({error}): train again") from None
    _check_weights(path, model, weights)
    model.load_state_dict(weights)
    return about


def finished_epochs(path: str | Path) -> int:
    """How far a checkpoint's run has come; 0 without one, or with one that cannot be read."""
    try:
        with safe_open(path, "pt") as file:
            return len(json.loads(file.metadata()["flowinv"])["history"])
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        return 0


def _check_weights(
    path: str | Path, model: InvariantClassifier, weights: dict[str, Tensor]
) -> None:
    own = model.state_dict()
    for key in own.keys() | weights.keys():
        here, there = (tuple(w[key].shape) if key in w else "nothing" for w in (own, weights))
        if here != there:
            raise CheckpointError(
                f"{path} holds another model ({key}: {there} there, {here} here): build the same one, or use another file"
            )


def load_checkpoint(
    path: str | Path,
    model: InvariantClassifier,
    optimizers: list,
    control: Tensor,
    settings,
    about_run: dict,
) -> list[dict]:
    """Put everything back and return the history; nothing is changed unless all of it fits."""
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["flowinv"])
            then, whose, history = about["settings"], about["identity"], about["history"]
            tensors = {key: file.get_tensor(key) for key in file.keys()}
            state_of_control = tensors["control"]
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path} is not a readable checkpoint ({error}): delete it to start afresh"
        ) from None
    now = asdict(settings)
    changed = [
        f"{key} {then.get(key)} (now {now[key]})" for key in now if then.get(key) != now[key]
    ]
    if changed:
        raise CheckpointError(
            f"{path} was trained with {', '.join(changed)}: use those settings, or another file"
        )
    weights = {
        key.removeprefix("model."): value
        for key, value in tensors.items()
        if key.startswith("model.")
    }
    _check_weights(path, model, weights)
    for key, value in about_run.items():
        if whose.get(key) != value:
            raise CheckpointError(
                f"{path} is of another run (its {key} differs): use the same one, or another file"
            )
    model.load_state_dict(weights)
    control.copy_(state_of_control)
    states: dict[int, dict[int, dict]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, number, index, name = key.split(".")
            states.setdefault(int(number), {}).setdefault(int(index), {})[name] = value
    for number, state in states.items():
        parameters = optimizers[number].param_groups[0]["params"]
        for (
            index,
            values,
        ) in (
            state.items()
        ):  # laid out in memory as the parameter is, which fused optimisers rely on
            like = parameters[index]
            for name, value in values.items():
                if value.shape == like.shape:
                    values[name] = torch.empty_like(like, dtype=value.dtype).copy_(value)
        optimizers[number].load_state_dict(optimizers[number].state_dict() | {"state": state})
    return history
