"""Checkpoints: everything that a run needs to go on, in one safetensors file, whole or not at all."""

import dataclasses
import functools
import hashlib
import inspect
import json
import math
import os
import re
import types
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..model import InvariantClassifier


class CheckpointError(RuntimeError):
    """A checkpoint does not fit the model or the settings, or cannot be read."""


# What nn.Module itself keeps in every module: parameters, buffers, children, hooks, the mode.
MACHINERY = frozenset(vars(nn.Module()))


def describe(thing: object, above: tuple[int, ...] = ()) -> Any:
    """What a thing was built from, as plain JSON data, without addresses: alike in every process.

    Numbers and strings are told as they are, containers by what they hold, tensors by a hash. Named
    functions go by their names; lambdas and nested functions by their code, defaults and what they
    close over. Modules and other objects go by their class and their attributes, private ones too.
    Parameters and the buffers of a module's state change in training, and are no part of it.

    Args:
        thing: a model, or whatever it holds.
        above: identities of the things that hold this one, so that a circle ends.

    Example:
        >>> describe(nn.Sequential(nn.Dropout(0.1)))["0"]
        {'class': 'torch.nn.modules.dropout.Dropout', 'p': 0.1, 'inplace': False}
        >>> describe(functools.partial(round, ndigits=1))
        {'partial of': 'builtins.round', 'arguments': [], 'keywords': {'ndigits': 1}}
    """
    if thing is None or isinstance(thing, bool | int | str):
        return thing
    if isinstance(thing, float):
        return thing if math.isfinite(thing) else repr(thing)
    if id(thing) in above:
        return "one of those that hold it"
    inner = functools.partial(describe, above=(*above, id(thing)))
    if isinstance(thing, dict):
        return {_key(key, inner): inner(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [inner(value) for value in thing]
    if isinstance(thing, set | frozenset):
        return sorted((inner(value) for value in thing), key=json.dumps)
    if isinstance(thing, Tensor | np.ndarray):
        return _describe_array(torch.as_tensor(thing))
    if isinstance(thing, nn.Module):
        return _describe_module(thing, inner)
    if isinstance(thing, functools.partial | types.MethodType | types.FunctionType):
        return _describe_callable(thing, inner)
    if isinstance(thing, types.CodeType):
        parts = [thing.co_code.hex(), thing.co_names, thing.co_consts]
        return _hash(json.dumps(inner(parts)).encode())
    if isinstance(thing, type | types.BuiltinFunctionType):
        return _name(thing)
    if isinstance(thing, types.ModuleType):
        return thing.__name__
    return _describe_object(thing, inner)


def _key(key: object, inner: Callable) -> str:
    return key if isinstance(key, str) else json.dumps(inner(key))


def _name(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _describe_array(tensor: Tensor) -> dict:
    told = {"dtype": str(tensor.dtype), "shape": list(tensor.shape)}
    if not isinstance(tensor, nn.Parameter):
        # Copied, as bytes can only be read where numbers lie side by side.
        numbers = tensor.detach().cpu().flatten().repeat(1)
        told["sha256"] = _hash(numbers.view(torch.uint8).numpy().tobytes())
    return told


def _describe_module(module: nn.Module, inner: Callable) -> dict:
    told = {"class": _name(type(module))}
    told |= _attributes(module, inner)
    state = module.state_dict()
    for name, buffer in module.named_buffers(recurse=False):
        if name not in state:  # a constant
            told[name] = inner(buffer)
    for name, child in module.named_children():
        told[name] = inner(child)
    return told


def _describe_callable(thing: Callable, inner: Callable) -> Any:
    if isinstance(thing, functools.partial):
        return {
            "partial of": inner(thing.func),
            "arguments": inner(thing.args),
            "keywords": inner(thing.keywords),
        }
    if isinstance(thing, types.MethodType):
        return {"method": thing.__name__, "of": inner(thing.__self__)}
    function = inspect.unwrap(thing)  # compiled or not is the same
    if not isinstance(function, types.FunctionType):
        return inner(function)
    name = _name(function)
    if "<" not in name:  # neither <lambda> nor <locals>: the name says it all
        return name
    return {
        "function": name,
        "code": inner(function.__code__),
        "defaults": inner([function.__defaults__, function.__kwdefaults__]),
        "closure": inner(inspect.getclosurevars(function).nonlocals),
    }


def _describe_object(thing: object, inner: Callable) -> Any:
    if dataclasses.is_dataclass(thing):
        names = [field.name for field in dataclasses.fields(thing)]
        fields = {name: inner(getattr(thing, name)) for name in names}
    elif hasattr(thing, "__dict__"):
        fields = _attributes(thing, inner)
    else:
        return re.sub(" at 0x[0-9A-Fa-f]+", "", repr(thing))
    return {"class": _name(type(thing)), **fields}


def _attributes(thing: object, inner: Callable) -> dict:
    """The instance's own attributes: no caches, and none of what torch keeps for itself."""
    kind = type(thing)
    if kind.__module__.startswith("torch._"):  # a compiled module's wrapper
        return {}
    told = {}
    for name, value in vars(thing).items():
        cache = isinstance(getattr(kind, name, None), functools.cached_property)
        torchs = isinstance(thing, nn.Module) and name in MACHINERY
        torchs |= kind.__module__.startswith("torch.") and name.startswith("_")
        if not (cache or torchs):
            told[name] = inner(value)
    return told


def _difference(there: Any, here: Any, path: str = "") -> str | None:
    """Where two descriptions differ first, and how, in one line; None if they do not."""
    if there == here:
        return None
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        there = dict(enumerate(there))
        here = dict(enumerate(here))
    if isinstance(there, dict) and isinstance(here, dict):
        for key in here | there:
            inside = f"{path}.{key}" if path else str(key)
            found = _difference(there.get(key, "nothing"), here.get(key, "nothing"), inside)
            if found:
                return found
    at = f" at {path}" if path else ""
    return f"{at}: {_short(there)} there, {_short(here)} here"


def _short(told: Any) -> str:
    text = json.dumps(told)
    return text if len(text) <= 60 else text[:57] + "..."


def identity(model: InvariantClassifier, images: Tensor, labels: Tensor) -> dict:
    """What a checkpoint must share with the run that goes on from it, beside shapes and settings."""
    some = images[:: max(1, len(images) // 64)].cpu().numpy()
    return {
        "model": describe(model),
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
        difference = _difference(whose.get(key), value)
        if difference:
            raise CheckpointError(
                f"{path} is of another run (its {key} differs{difference}):"
                " use the same one, or another file"
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
