"""Trained models in one file: weights, and the names and options to build them by. No pickle.

The file is safetensors. Its metadata hold, as JSON under ``flowinv``, what built the model (the
names of guide and family, their options, the classifier's) and what is kept beside it.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn

from ..model import InvariantClassifier
from ..training import CheckpointError, load_weights, save_weights
from ..training.checkpoints import UNREADABLE
from .building import from_config

FORMAT = 1


def save_model(
    model: InvariantClassifier, path: str | Path, about: dict[str, Any] | None = None
) -> None:
    """Write a model that was built by name, whole or not at all.

    Args:
        model: of ``InvariantClassifier.build`` or ``from_classifier``.
        path: the file.
        about: what to keep beside it, plain data: the classes' names, for example.

    Raises:
        ValueError: the model was put together by hand, or with options that are no plain data.
        CheckpointError: the file cannot be written.

    Example:
        >>> model = InvariantClassifier.build("flow", "rotation", in_channels=1, classes=2)
        >>> path = getfixture("tmp_path") / "model.safetensors"
        >>> save_model(model, path, {"classes": ["six", "nine"]})
        >>> load_model(path).about["classes"]
        ['six', 'nine']
    """
    if model.config is None:
        raise ValueError(
            "save_model: expected a model of InvariantClassifier.build or from_classifier, got one"
            " put together by hand; for that there are save_weights and export_model"
        )
    try:
        json.dumps(model.config)
    except TypeError as error:
        raise ValueError(
            f"save_model: expected options of plain numbers, lists and strings ({error})"
        ) from None
    saved = {"format": FORMAT, "config": model.config, "about": about or model.about}
    save_weights(path, model, saved)


def load_model(path: str | Path, network: nn.Module | None = None) -> InvariantClassifier:
    """A saved model, ready to predict: in evaluation mode, on the CPU.

    What was saved beside it is its ``about``.

    Args:
        path: the file.
        network: the classifier's network, where ``from_classifier`` was given one instead of a
            name. Its weights are replaced by the stored ones.

    Raises:
        ValueError: the network is needed and was not given, or the other way round.
        CheckpointError: the file cannot be read, or is not of a model that was saved so.
    """
    try:
        with safe_open(path, "pt") as file:
            saved = json.loads(file.metadata()["flowinv"])
        config = saved["config"]
        if saved["format"] != FORMAT:
            raise ValueError(f"format {saved['format']}, of a later version")
    except (*UNREADABLE, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{path} is no saved model ({type(error).__name__}: {reason}):"
            " expected a file that save_model has written"
        ) from None
    model = from_config(config, network)
    load_weights(path, model)
    model.about = saved["about"]
    return model.eval()
