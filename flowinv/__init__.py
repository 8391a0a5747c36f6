"""Instance-wise invariance: conditional normalizing flows over image transformations."""

__version__ = "0.1.0"
