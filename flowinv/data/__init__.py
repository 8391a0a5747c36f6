"""Data sets: files and their sums, versions of them made by a seed, Mario-Iggy."""

from .catalogue import CLASSES, DataError, cache_file, load, load_folder
from .dataset import Dataset, Split
from .sprites import mario_iggy, mario_poses

__all__ = [
    "CLASSES",
    "DataError",
    "Dataset",
    "Split",
    "cache_file",
    "load",
    "load_folder",
    "mario_iggy",
    "mario_poses",
]
