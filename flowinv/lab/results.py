"""Stored results: where they lie, how an entry is put there, how they are read, and what made them.

A result file, ``book/results/<experiment>/<profile>.json``, holds one entry for each row and seed.
Beside some lie the weights, which ``flowinv.lab.trained`` loads. The wheel carries the same files,
so that a chapter finds them with and without a checkout.
"""

import json
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pyro
import torch

from .. import __version__
from ..checks import with_extra
from ..files import atomic_write
from ..training import pick_device
from .experiments import EXPERIMENTS

SEEDS = (0, 1, 2)
CUSTOM = "custom"  # the file of results whose settings are no profile's
CHOICES = "choices"  # the file of those that a choice was made by


class RunError(RuntimeError):
    """A run cannot start, or its result cannot be stored or found."""


def from_extra(name: str) -> ModuleType:
    """The module of that name, which comes with the extra ``lab``.

    Raises:
        ModuleNotFoundError: it is not installed; the message says how to install it.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(how_to_install(error), name=error.name) from None


def how_to_install(error: ModuleNotFoundError) -> str:
    """What to do about a module of the extra ``lab`` that is not there."""
    return f"{error.name} is missing: {with_extra('lab')}"


# Reading


def results_folder() -> Path:
    """``book/results`` of the checkout, or the copy that an installed flowinv carries."""
    package = Path(__file__).parents[1]
    installed = package / "results"
    return installed if installed.exists() else package.parent / "book" / "results"


def stored(name: str, profile: str, folder: Path | None = None) -> list[dict]:
    """The stored entries of an experiment and profile: one for each row and seed.

    Args:
        name: of the experiment.
        profile: how much of it was run.
        folder: of results; None takes those that the book shows.

    Raises:
        ValueError: there is no such experiment, or it has no such profile.
        FileNotFoundError: it was not run; the message says how to.

    Example:
        >>> sorted({entry["seed"] for entry in stored("mnist-selective", "quick")})
        [0, 1, 2]
    """
    EXPERIMENTS[name].profiles[profile]  # refuses a name that is not there
    path = (folder or results_folder()) / name / f"{profile}.json"
    if not path.exists():
        raise FileNotFoundError(
            f"no stored results of {name} at profile {profile}: make them with"
            f" python -m flowinv train {name} --profile {profile}"
        )
    return entries_of(path)


class Spread(NamedTuple):
    """Of a metric over seeds.

    Args:
        mean: over them.
        deviation: the standard deviation; None for a single seed.
        seeds: how many.

    Example:
        >>> print(f"{Spread(91.83, 0.24, 3):.1f} and {Spread(91.83, None, 1):.1f}")
        91.8 ± 0.2 and 91.8
    """

    mean: float
    deviation: float | None
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of one value a seed."""
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.mean(values), deviation, len(values))

    def __format__(self, spec: str) -> str:
        if self.deviation is None:
            return format(self.mean, spec)
        return f"{self.mean:{spec}} ± {self.deviation:{spec}}"


def summary(name: str, profile: str, metric: str, folder: Path | None = None) -> dict[str, Spread]:
    """A metric of each row that was run, over its seeds.

    Args:
        name: of the experiment.
        profile: how much of it was run.
        metric: its name; a dot leads into one that has parts, as in ``width_degrees.6``.
        folder: of results; None takes those that the book shows.

    Raises:
        ValueError: there is no such experiment, profile or metric.
        FileNotFoundError: it was not run; the message says how to.

    Example:
        >>> widths = summary("mnist-selective", "quick", "width_degrees.6")
        >>> widths["flow"].seeds, round(widths["flow"].mean)
        (3, 78)
    """
    values: dict[str, list[float]] = {}
    for entry in stored(name, profile, folder):
        found = number_in(entry["metrics"], metric, f"{name}/{profile}")
        values.setdefault(entry["row"], []).append(found)
    return {row: Spread.of(own) for row, own in values.items()}


def number_in(metrics: dict, metric: str, where: str) -> float:
    """A metric by its name, in which a dot leads into one that has parts.

    Args:
        metrics: of an entry.
        metric: its name.
        where: the entry's experiment and profile, for the message.

    Raises:
        ValueError: it is not there; the message says what is.
    """
    value: Any = metrics
    for key in metric.split("."):
        there = value if isinstance(value, dict) else {}
        if key not in there:
            known = ", ".join(there) or "no parts"
            raise ValueError(f"metric: no {key!r} in {where}; there are {known}")
        value = there[key]
    if isinstance(value, dict):
        raise ValueError(
            f"metric: {metric} of {where} has parts: name one, as {metric}.{next(iter(value))}"
        )
    return value


def entries_of(path: Path) -> list[dict]:
    """The entries of a result file; none if it is not there.

    Raises:
        RunError: it is damaged.
    """
    if not path.exists():
        return []
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(
            f"{path} is no file of results ({error}): mend it, or move it away"
        ) from None


# Storing


def store(entry: dict, path: Path, order: Sequence[str]) -> None:
    """Put an entry into a result file, in place of the one that it repeats.

    The file is whole at any moment, and of two processes that store at once neither loses the
    other's entry.

    Args:
        entry: with its row and its seed.
        path: of the file.
        order: of the rows. A row that is not in it, of another branch maybe, comes after them.

    Raises:
        RunError: the file cannot be written.
    """
    file_lock = from_extra("filelock").FileLock
    entry = json.loads(json.dumps(entry))  # tuples become lists, as in what is read
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(path.with_suffix(".lock")):
            entries = [other for other in entries_of(path) if not _repeats(entry, other, path)]
            entries.append(entry)
            entries.sort(key=lambda e: (_position(e["row"], order), e["row"], e["seed"]))
            with atomic_write(path) as partial:
                partial.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise RunError(
            f"{path} could not be written ({error}): free some space or choose another"
            " --out folder; then the same command goes on"
        ) from None


def _repeats(entry: dict, other: dict, path: Path) -> bool:
    """Whether an entry takes the other's place. Under other settings it has a place of its own."""
    keys = ["row", "seed"]
    if path.stem in (CUSTOM, CHOICES):
        keys += ["profile", "settings"]
    return all(entry[key] == other[key] for key in keys)


def _position(row: str, order: Sequence[str]) -> int:
    return order.index(row) if row in order else len(order)


# What made a result


def provenance() -> dict:
    """Device, threads, versions, git revision, command line and date."""
    return {
        "device": _device(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "pyro": pyro.__version__,
            "flowinv": __version__,
        },
        "revision": _revision(),
        "command": _command(),
        "date": date.today().isoformat(),
    }


def _device() -> str:
    device = pick_device()
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"{device.type.upper()}, {torch.get_num_threads()} threads"


def _command() -> str:
    if Path(sys.argv[0]).name not in ("__main__.py", "flowinv"):
        return "from Python"
    return shlex.join(["python", "-m", "flowinv", *sys.argv[1:]])


@lru_cache  # that of the code when this process began to use it
def _revision() -> str:
    if not shutil.which("git"):
        return "unknown"
    revision = _git("rev-parse", "--short", "HEAD").stdout.strip()
    tracked = not _git("ls-files", "--error-unmatch", "__init__.py").returncode
    if not (revision and tracked):  # a repository around the package need not be its own
        return "unknown"
    # Of the package alone: results may change.
    changed = _git("diff", "--quiet", "HEAD", "--", ".").returncode
    return f"{revision}-dirty" if changed else revision


def _git(*command: str) -> subprocess.CompletedProcess[str]:
    package = Path(__file__).parents[1]
    return subprocess.run(["git", *command], capture_output=True, text=True, cwd=package)
