"""Checkpoints: all that a run needs to go on, in one safetensors file, whole or not at all."""

import dataclasses
import functools
import hashlib
import inspect
import json
import math
import re
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..data.reading import Source
from ..files import atomic_write
from ..model import InvariantClassifier
from .settings import Settings

UNREADABLE = (OSError, SafetensorError, KeyError, ValueError, TypeError)


class CheckpointError(RuntimeError):
    """A checkpoint does not fit the model or the settings, or cannot be read."""


@dataclasses.dataclass
class Run:
    """A run of training: what it needs to go on.

    Args:
        model: in training.
        settings: how.
        optimizers: of the classifier and, if it has anything to learn, of q(T | I).
        control: (2,), the state of an ``EntropyControl``.
        identity: what it must share with a checkpoint, beside shapes and settings.
        history: one dict for each epoch that is over.
    """

    model: InvariantClassifier
    settings: Settings
    optimizers: list[torch.optim.Optimizer]
    control: Tensor
    identity: dict[str, Any]
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def save_checkpoint(path: str | Path, run: Run) -> None:
    """Write all of the run, whole or not at all.

    Raises:
        CheckpointError: the file cannot be written, or the history is no plain data.
    """
    tensors = {f"model.{key}": value for key, value in run.model.state_dict().items()}
    for number, optimizer in enumerate(run.optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                tensors[f"optimizer.{number}.{index}.{key}"] = value
    tensors["control"] = run.control
    about = {
        "settings": dataclasses.asdict(run.settings),
        "identity": run.identity,
        "history": run.history,
    }
    _write(path, tensors, about)


def load_checkpoint(path: str | Path, run: Run) -> None:
    """Put everything back into the run; nothing is changed unless all of it fits.

    Raises:
        CheckpointError: the checkpoint cannot be read, or is of another run.
    """
    try:
        about, tensors = _read(path)
        settings = about["settings"]
        identity = about["identity"]
        history = about["history"]
        control = tensors["control"]
    except UNREADABLE as error:
        raise CheckpointError(
            f"{path} is not a readable checkpoint ({error}): delete it to start afresh"
        ) from None
    weights = _under("model.", tensors)
    _check_settings(path, settings, dataclasses.asdict(run.settings))
    _check_weights(path, weights, run.model.state_dict())
    _check_identity(path, identity, run.identity)
    run.model.load_state_dict(weights)
    run.control.copy_(control)
    for number, optimizer in enumerate(run.optimizers):
        _put_back(_under(f"optimizer.{number}.", tensors), optimizer)
    run.history = history


def finished_epochs(path: str | Path) -> int:
    """How far a checkpoint's run has come; 0 without one, or with one that cannot be read."""
    try:
        with safe_open(path, "pt") as file:
            return len(json.loads(file.metadata()["flowinv"])["history"])
    except UNREADABLE:
        return 0


def save_weights(path: str | Path, model: InvariantClassifier, about: dict[str, Any]) -> None:
    """A trained model's weights alone, written whole or not at all.

    Args:
        path: the file.
        model: the model.
        about: a word about them: plain numbers, lists and strings.

    Raises:
        CheckpointError: the file cannot be written.
    """
    _write(path, model.state_dict(), about)


def load_weights(path: str | Path, model: InvariantClassifier) -> dict[str, Any]:
    """Put stored weights into a model built in the same way, and return the word about them.

    Raises:
        CheckpointError: the file cannot be read, or the model is another.
    """
    try:
        about, weights = _read(path)
    except UNREADABLE as error:
        raise CheckpointError(f"{path} has no readable weights ({error}): train again") from None
    _check_weights(path, weights, model.state_dict())
    model.load_state_dict(weights)
    return about


def identity(model: InvariantClassifier, data: Source) -> dict[str, Any]:
    """What a checkpoint shares with the run that goes on from it, beside shapes and settings."""
    some = data.some(64).cpu().numpy()
    return {
        "model": describe(model),
        "images per class": data.per_class(),
        "images": _hash(some.tobytes()),
    }


# What nn.Module itself keeps in every module: parameters, buffers, children, hooks, the mode.
MACHINERY = {"training"} | {name for name in dir(nn.Module()) if name.startswith("_")}


def describe(thing: object) -> Any:
    """What a thing was built from, as plain JSON data, without addresses: alike in every process.

    Numbers and strings are told as they are, containers by what they hold, tensors by a hash. Named
    functions go by their names; lambdas and nested functions by their code, defaults and what they
    close over. Modules and other objects go by their class and their attributes, private ones too.
    Parameters and the buffers of a module's state change in training, and are no part of it.

    Args:
        thing: a model, or whatever it holds.

    Example:
        >>> describe(nn.Sequential(nn.Dropout(0.1)))["0"]
        {'class': 'torch.nn.modules.dropout.Dropout', 'p': 0.1, 'inplace': False}
        >>> describe(functools.partial(round, ndigits=1))
        {'partial of': 'builtins.round', 'arguments': [], 'keywords': {'ndigits': 1}}
    """
    return _describe(thing, ())


def _describe(thing: object, above: tuple[int, ...]) -> Any:
    """``above``: the ids of the things that hold this one, so that a circle ends."""
    if thing is None or isinstance(thing, bool | int | str):
        return thing
    if isinstance(thing, float):
        return thing if math.isfinite(thing) else repr(thing)
    if id(thing) in above:
        return "one of those that hold it"
    inner = functools.partial(_describe, above=(*above, id(thing)))
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


def _check_settings(path: str | Path, there: dict, here: dict) -> None:
    changed = [
        f"{key} {there.get(key)} (now {value})"
        for key, value in here.items()
        if there.get(key) != value
    ]
    if changed:
        raise CheckpointError(
            f"{path} was trained with {', '.join(changed)}: use those settings or another"
            " file, or delete it to start afresh"
        )


def _check_weights(path: str | Path, there: dict[str, Tensor], here: dict[str, Tensor]) -> None:
    for key in here | there:
        shapes = [tuple(w[key].shape) if key in w else "nothing" for w in (there, here)]
        if shapes[0] != shapes[1]:
            raise CheckpointError(
                f"{path} holds another model ({key}: {shapes[0]} there, {shapes[1]} here):"
                " build the same one, or use another file"
            )


def _check_identity(path: str | Path, there: dict, here: dict) -> None:
    for key, value in here.items():
        difference = _difference(there.get(key), value)
        if difference:
            raise CheckpointError(
                f"{path} is of another run (its {key} differs{difference}):"
                " use the same one or another file, or delete it to start afresh"
            )


def _put_back(stored: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    """The optimiser's state, stored as index.name, one parameter after the other."""
    parameters = optimizer.param_groups[0]["params"]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in stored.items():
        index, name = key.split(".")
        like = parameters[int(index)]
        if value.shape == like.shape:  # fused optimisers rely on one layout for both
            value = torch.empty_like(like, dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those whose names begin so, by the rest of their names."""
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }


def _read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["flowinv"])
        return about, {key: file.get_tensor(key) for key in file.keys()}


def _write(path: str | Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    try:
        metadata = {"flowinv": json.dumps(about)}
    except TypeError as error:
        raise CheckpointError(
            f"{path} was not written ({error}): use plain numbers, lists and strings,"
            " in what each_epoch returns, too"
        ) from None
    apart = {key: value.clone().contiguous() for key, value in tensors.items()}
    try:
        with atomic_write(path) as partial:
            save_file(apart, partial, metadata)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} could not be written ({error}):"
            " free some space or choose another folder; the last one is as it was"
        ) from None
