"""Data sets: files and their sums, folders of your own, versions made by a seed, Mario-Iggy."""

from .catalogue import CLASSES, cache_file, load
from .dataset import DataError, Dataset, Split
from .files import DataWarning, ImageFiles, load_folder
from .sprites import mario_iggy, mario_poses

__all__ = [
    "CLASSES",
    "DataError",
    "DataWarning",
    "Dataset",
    "ImageFiles",
    "Split",
    "cache_file",
    "load",
    "load_folder",
    "mario_iggy",
    "mario_poses",
]
