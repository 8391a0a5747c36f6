"""Models in use: around classifiers that exist, saved and loaded, exported.

``folders`` stands apart, as it draws figures.
"""

from .building import from_classifier, from_config
from .export import Exportable, export_model
from .storage import load_model, save_model

__all__ = [
    "Exportable",
    "export_model",
    "from_classifier",
    "from_config",
    "load_model",
    "save_model",
]
