"""Models in use: around classifiers that exist, saved and loaded, exported, on folders."""

from .building import from_classifier, from_config
from .export import Exportable, export_model
from .folders import fit_folder, predict_folder
from .storage import load_model, save_model

__all__ = [
    "Exportable",
    "export_model",
    "fit_folder",
    "from_classifier",
    "from_config",
    "load_model",
    "predict_folder",
    "save_model",
]
