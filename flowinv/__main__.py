"""The command line: train, measure and reproduce the named experiments. Results are stored with provenance.

On several GPUs or hosts the same: `accelerate launch --multi_gpu -m flowinv train cifar10 --profile full`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from .data import DataError
from .lab import results
from .lab.experiments import EXPERIMENTS
from .lab.report import page
from .training import CheckpointError, pick_device

Name = Annotated[Literal[tuple(EXPERIMENTS)], tyro.conf.Positional]
Profile = Literal["ci", "quick", "reduced", "full"]
BOOK = Path("book/results")
EVERYWHERE = (DataError, ValueError, FloatingPointError)  # in all processes alike
EXPECTED = (*EVERYWHERE, results.RunError, CheckpointError, OSError, torch.cuda.OutOfMemoryError)


@dataclass
class Folders:
    """Where things lie."""

    out: Path = BOOK if BOOK.is_dir() else Path("results")
    """Results: book/results of a checkout, else ./results."""
    runs: Path = Path("runs")
    """Of each run its weights, and what it needs to go on."""


@dataclass
class Changes:
    """Settings other than the profile's; such results go to custom.json, and never replace a profile's."""

    epochs: int | None = None
    batch_size: int | None = None
    alpha: float | None = None
    """Price of entropy."""
    samples: int | None = None
    """Transformations an image and step."""
    lr: float | None = None
    """Learning rate of the classifier."""
    guide_lr: float | None = None
    """Learning rate of q(T | I)."""
    burn_in: int | None = None
    """Epochs of the classifier alone."""
    chunk: int | None = None
    """Transformed images at once: less memory."""

    def made(self) -> dict:
        return {key: value for key, value in vars(self).items() if value is not None}


Flat = tyro.conf.OmitArgPrefixes


def list_(folders: Flat[Folders] = Folders()) -> int:  # noqa: B008
    """The experiments, their rows, and how many results each profile has."""
    table = Table(Column("experiment", no_wrap=True), "what", "rows", "results stored")
    for name, experiment in EXPERIMENTS.items():
        counts = []
        for profile in experiment.profiles:
            if (folders.out / name / f"{profile}.json").exists():
                counts.append(f"{profile} {len(results.stored(name, profile, folders.out))}")
        table.add_row(
            name, experiment.about, ", ".join(experiment.guides), ", ".join(counts) or "none yet"
        )
    Console().print(table)
    return 0


def train(
    name: Name,
    profile: Profile = "quick",
    guide: tuple[str, ...] = (),
    seed: tuple[int, ...] = results.SEEDS,
    missing: bool = False,
    keep: bool = False,
    folders: Flat[Folders] = Folders(),  # noqa: B008
    changes: Flat[Changes] = Changes(),  # noqa: B008
) -> int:
    """Train and measure the rows of one experiment. A run that was stopped goes on from its last epoch.

    Args:
        name: of the experiment; `list` shows them.
        profile: how much of it: ci (seconds), quick (minutes on two cores), full (the paper's scale).
        guide: rows of the comparison (default: all).
        seed: one run each.
        missing: only what has no stored result with the settings of now.
        keep: store the weights beside the results too, as the book's chapters load them.
    """
    rows = EXPERIMENTS[name].guides
    for row in guide:
        if row not in rows:
            raise ValueError(f"unknown guide {row!r}: expected one of {', '.join(rows)}")
    jobs = [(name, row, s) for s in seed for row in guide or rows]
    return _run_all(jobs, profile, folders, changes.made(), missing, keep)


def reproduce(
    names: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
    profile: Profile = "quick",
    missing: bool = False,
    seed: tuple[int, ...] | None = None,
    folders: Flat[Folders] = Folders(),  # noqa: B008
) -> int:
    """Run every row of every experiment, shortest first, one seed of all before the next.

    Stopped at any moment, it goes on with --missing.

    Args:
        names: of experiments (default: all).
        profile: how much of each.
        missing: only what has no stored result with the settings of now.
        seed: default: 0 at ci, else 0 1 2.
    """
    seeds = seed or ((0,) if profile == "ci" else results.SEEDS)
    return _run_all(results.jobs(profile, seeds, names), profile, folders, {}, missing)


def evaluate(
    name: Name,
    profile: Profile = "quick",
    guide: tuple[str, ...] = (),
    seed: tuple[int, ...] = results.SEEDS,
    folders: Flat[Folders] = Folders(),  # noqa: B008
    changes: Flat[Changes] = Changes(),  # noqa: B008
) -> int:
    """Measure trained runs again, from their weights; nothing is stored.

    Args:
        name: of the experiment.
        profile: that it was trained with.
        guide: rows of the comparison (default: all).
        seed: of the runs.
    """
    for s in seed:
        for row in guide or EXPERIMENTS[name].guides:
            metrics = results.evaluate(name, profile, row, s, folders.runs, changes.made())
            print(f"{name} {row}, seed {s}: {summary(metrics)}")
    return 0


def report(folders: Flat[Folders] = Folders()) -> int:  # noqa: B008
    """Write the table of the paper's figures against this project's: results.md beside the folder of results."""
    path = folders.out.with_suffix(".md")
    if not folders.out.is_dir():
        raise ValueError(
            f"{folders.out} is no folder: expected one of results; choose it with --out"
        )
    path.write_text(page(folders.out))
    print(f"written: {path}")
    return 0


def _run_all(
    jobs: list, profile: str, folders: Folders, changes: dict, missing: bool, keep: bool = False
) -> int:
    """One run after the other; those that cannot be run are named at the end, and the exit code is then 1."""
    from accelerate import Accelerator  # two seconds, so only where something is trained

    if missing:
        jobs = results.missing(jobs, profile, folders.out, changes)
    if not jobs:
        print("nothing to run: every result is stored")
        return 0
    accelerator = Accelerator(cpu=pick_device().type == "cpu")
    failed = []
    bars = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=Console(stderr=True), disable=not (accelerator.is_main_process and sys.stderr.isatty()),
    )  # fmt: skip
    with bars:
        overall = bars.add_task("runs", total=len(jobs))
        for name, row, seed in jobs:
            label = f"{name} {row}, seed {seed}"
            task = bars.add_task(label)
            show = lambda done, epochs, task=task: bars.update(task, completed=done, total=epochs)  # noqa: E731
            try:
                entry = results.run(
                    name,
                    profile,
                    row,
                    seed,
                    folders.out,
                    folders.runs,
                    changes,
                    accelerator,
                    show,
                    keep,
                )
                if entry:
                    print(
                        f"{label}: {entry['wall_seconds']:.0f} s, {summary(entry['metrics'])}",
                        flush=True,
                    )
            except EXPECTED as error:
                failed.append(label)
                print(
                    f"{label}: error: {str(error).partition(chr(10))[0]}",
                    file=sys.stderr,
                    flush=True,
                )
                if accelerator.num_processes > 1 and not isinstance(error, EVERYWHERE):
                    break  # the other processes would wait for this one
            bars.remove_task(task)
            bars.advance(overall)
    if failed:
        print(f"{len(failed)} of {len(jobs)} runs failed: {'; '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def summary(metrics: dict) -> str:
    """Metrics in one line."""
    parts = []
    for name, value in metrics.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key}: {x:.3g}" for key, x in value.items())
            parts.append(f"{name.replace('_', ' ')} ({value})")
        else:
            parts.append(f"{name.replace('_', ' ')} {value:.3g}")
    return ", ".join(parts)


def main(arguments: list[str] | None = None) -> int:
    commands = {
        "list": list_,
        "train": train,
        "evaluate": evaluate,
        "reproduce": reproduce,
        "report": report,
    }
    try:
        return tyro.extras.subcommand_cli_from_dict(
            commands, prog="python -m flowinv", description=__doc__, args=arguments
        )
    except EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "stopped; the same command with --missing goes on from the last epoch", file=sys.stderr
        )
        return 130


if __name__ == "__main__":
    sys.exit(main())
