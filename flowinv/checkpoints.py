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

from .model import InvariantClassifier


class CheckpointError(RuntimeError):
    """A checkpoint does not fit the model or the settings, or cannot be read."""


def random_state(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    elif "mps" in state:
        torch.mps.set_rng_state(state["mps"])


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
    path: str | Path, model: InvariantClassifier, optimizer, control: Tensor, settings, about_run: dict, history: list
) -> None:
    """Model, optimiser, entropy control's state, random state and history, written whole or not at all."""
    path = Path(path)
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
    tensors |= {f"random.{key}": value for key, value in random_state(model.device).items()}
    tensors["control"] = control
    about = {"settings": asdict(settings), "identity": about_run, "history": history}
    partial = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(
            {key: value.clone().contiguous() for key, value in tensors.items()}, partial, {"flowinv": json.dumps(about)}
        )
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
    path: str | Path, model: InvariantClassifier, optimizer, control: Tensor, settings, about_run: dict
) -> list[dict]:
    """Put everything back and return the history; nothing is changed unless all of it fits."""
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["flowinv"])
            then, whose, history = about["settings"], about["identity"], about["history"]
            tensors = {key: file.get_tensor(key) for key in file.keys()}
            state_of_control = tensors["control"]
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
    for key, value in about_run.items():
        if whose.get(key) != value:
            raise CheckpointError(f"{path} is of another run (its {key} differs): use the same one, or another file")
    model.load_state_dict(weights)
    control.copy_(state_of_control)
    state: dict[int, dict] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            state.setdefault(int(index), {})[name] = value
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, values in state.items():  # laid out in memory as the parameter is, which fused optimisers rely on
        like = parameters[index]
        for name, value in values.items():
            if value.shape == like.shape:
                values[name] = torch.empty_like(like, dtype=value.dtype).copy_(value)
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    device = model.device
    kinds = random_state(device)  # a checkpoint from another kind of device has no state for this one
    saved = {kind: tensors[f"random.{kind}"] for kind in kinds if f"random.{kind}" in tensors}
    set_random_state(saved, device)
    return history
