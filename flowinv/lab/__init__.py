"""The paper's tables: named experiments, their runs, and what came out of them.

Starting a run and the command line need the extra ``lab``; the rest does not.
"""

from .experiments import EXPERIMENTS, LIMITS, Experiment, Row
from .results import SEEDS, RunError, Spread, provenance, results_folder, stored, summary
from .runs import Job, run, trained

__all__ = [
    "EXPERIMENTS",
    "LIMITS",
    "SEEDS",
    "Experiment",
    "Job",
    "Row",
    "RunError",
    "Spread",
    "provenance",
    "results_folder",
    "run",
    "stored",
    "summary",
    "trained",
]
