"""Instance-wise invariance: conditional normalizing flows over image transformations.

The names that most work begins with are here; the rest stands in the rooms of the package.
"""

from .alignment import mean_shift
from .data import Dataset, load, load_folder
from .deployment import from_classifier, load_model, save_model
from .distributions import ConditionalFlow
from .explanation import explain
from .guides import GUIDES, Guide
from .metrics import invariance_width
from .model import InvariantClassifier
from .training import Settings, fit, load_weights, save_weights
from .transforms import FAMILIES, TransformFamily

__version__ = "0.1.0"

__all__ = [
    "FAMILIES",
    "GUIDES",
    "ConditionalFlow",
    "Dataset",
    "Guide",
    "InvariantClassifier",
    "Settings",
    "TransformFamily",
    "explain",
    "fit",
    "from_classifier",
    "invariance_width",
    "load",
    "load_folder",
    "load_model",
    "load_weights",
    "mean_shift",
    "save_model",
    "save_weights",
]
