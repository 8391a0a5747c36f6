"""Models in use: around classifiers that exist, saved and loaded, exported, on folders."""

from .building import from_classifier, from_config

__all__ = ["from_classifier", "from_config"]
