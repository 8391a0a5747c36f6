"""The paper's tables: named experiments, their runs, and what came out of them."""

from .experiments import EXPERIMENTS, LIMITS, Experiment, Row
from .results import SEEDS, RunError, provenance, results_folder, run, stored, trained

__all__ = [
    "EXPERIMENTS", "LIMITS", "SEEDS", "Experiment", "Row", "RunError", "provenance", "results_folder", "run", "stored",
    "trained",
]  # fmt: skip
