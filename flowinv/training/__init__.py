"""Training: settings, one loop for every method, checkpoints with exact resume."""

from .checkpoints import CheckpointError, finished_epochs, load_weights, save_weights
from .loop import TrainingWarning, compiled, fit, make_optimizers, pick_device, step
from .settings import Cosine, EntropyControl, Schedule, Settings, Steps

__all__ = [
    "CheckpointError",
    "Cosine",
    "EntropyControl",
    "Schedule",
    "Settings",
    "Steps",
    "TrainingWarning",
    "compiled",
    "finished_epochs",
    "fit",
    "load_weights",
    "make_optimizers",
    "pick_device",
    "save_weights",
    "step",
]
