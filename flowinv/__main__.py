"""The command line: fit models to your own images and use them (fit, predict), and the paper's
experiments by name (list, train, evaluate, choose, reproduce, report).

Results are stored with provenance. On several GPUs or hosts the same, of train and fit:
`accelerate launch --multi_gpu -m flowinv train cifar10 --profile full`.
"""

import os
import pkgutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch

from .data import DataError
from .deployment.folders import fit_folder, predict_folder
from .files import atomic_write
from .lab import report as tables
from .lab import results, runs
from .lab.experiments import EXPERIMENTS
from .training import CheckpointError, Settings, pick_device

try:
    import tyro
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
    )
    from rich.table import Column, Table
except ModuleNotFoundError as error:
    sys.exit(f"error: {results.how_to_install(error)}")

Name = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
Folder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
Model = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
Profile = Literal["ci", "quick", "part", "reduced", "long", "full"]
BOOK = Path("book/results")
WORKERS = min(8, os.cpu_count() or 1)  # that read images
EXPECTED = (
    DataError,
    ValueError,
    FloatingPointError,
    results.RunError,
    CheckpointError,
    OSError,
    torch.cuda.OutOfMemoryError,
)


@dataclass(frozen=True)
class Folders:
    """Where things lie."""

    out: Path = BOOK if BOOK.is_dir() else Path("results")
    """Results: book/results of a checkout, else ./results."""
    runs: Path = Path("runs")
    """Of each run its weights, and what it needs to go on."""


@dataclass(frozen=True)
class Changes:
    """Settings other than the profile's.

    Such results go to custom.json, and never replace a profile's.
    """

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


FlatFolders = tyro.conf.OmitArgPrefixes[Folders]
FlatChanges = tyro.conf.OmitArgPrefixes[Changes]


def fit(
    folder: Folder,
    out: Path,
    family: str = "affine",
    guide: str = "flow",
    classifier: str = "convnet",
    weights: Path | None = None,
    size: int = 64,
    epochs: int = 32,
    alpha: float = 0.3,
    batch_size: int = 64,
    pad: bool = False,
    broken: Literal["refuse", "skip"] = "refuse",
    workers: int = WORKERS,
    seed: int = 0,
) -> int:
    """Fit a model to your own images; a page of results is written beside it.

    Stopped at any moment, the same command goes on from the last epoch.

    Args:
        folder: with train/<class>/ and test/<class>/; what is not test is learned from.
        out: the model's file, which ends in .safetensors.
        family: of transformations.
        guide: the method.
        classifier: convnet (small), or a torchvision network, as resnet18.
        weights: safetensors of that network's state, with as many classes as the folder has. It
            then stays as it is; else it starts from random numbers, and learns, too.
        size: of the images, in pixels.
        epochs: in all.
        alpha: price of entropy: more makes ranges wider.
        batch_size: images in a step.
        pad: keep all of each image, filled up to a square; else the middle is cut out.
        broken: what becomes of files that cannot be read; skip leaves them out.
        workers: processes that read images.
        seed: of everything random.
    """
    # A classifier that has to learn does so alone in the first epochs.
    burn_in = 0 if weights else min(2, epochs // 2)
    settings = Settings(epochs, batch_size, alpha, burn_in=burn_in, seed=seed)
    accelerator = None
    launched = os.environ.get("WORLD_SIZE", "1") != "1"  # by `accelerate launch`
    if launched or "ACCELERATE_MIXED_PRECISION" in os.environ:
        accelerator = _accelerator()
    first = accelerator is None or accelerator.is_main_process
    page = fit_folder(
        folder,
        out,
        settings,
        family=family,
        guide=guide,
        classifier=classifier,
        weights=weights,
        size=size,
        pad=pad,
        broken=broken,
        workers=workers,
        progress=first and sys.stderr.isatty(),
        accelerator=accelerator,
    )
    if first:
        print(f"written: {out}\nwritten: {page}")
    return 0


def predict(
    model: Model,
    folder: Folder,
    out: Path = Path("ranges.csv"),
    broken: Literal["refuse", "skip"] = "refuse",
    workers: int = WORKERS,
    seed: int = 0,
    network: str | None = None,
) -> int:
    """Say of every image of a folder its class, and how far it may be moved: a table as CSV.

    Args:
        model: as fit or save_model has written it.
        folder: with images anywhere below.
        out: the table's file.
        broken: what becomes of files that cannot be read; skip leaves them out.
        workers: processes that read images.
        seed: of the samples.
        network: module:function of yours that makes the classifier's network, as shop:network;
            for a model that was built around a network instead of a name.
    """
    made = _made(network) if network else None
    with _bars(sys.stderr.isatty()) as bars:
        # How many there are is found out.
        show = partial(_show, bars, bars.add_task("images", total=None))
        number = predict_folder(model, folder, out, show, seed, broken, workers, made)
    print(f"written: {out}, {number} images")
    return 0


def list_(folders: FlatFolders = Folders()) -> int:  # noqa: B008
    """The experiments, their rows, and how many results each profile has."""
    table = Table(Column("experiment", no_wrap=True), "what", "rows", "results stored")
    for name, experiment in EXPERIMENTS.items():
        counts = []
        for profile in experiment.profiles:
            if (folders.out / name / f"{profile}.json").exists():
                counts.append(f"{profile} {len(results.stored(name, profile, folders.out))}")
        rows = ", ".join(experiment.rows)
        table.add_row(name, experiment.about, rows, ", ".join(counts) or "none yet")
    Console().print(table)
    return 0


def train(
    name: Name,
    profile: Profile = "quick",
    row: tuple[str, ...] = (),
    seed: tuple[int, ...] = results.SEEDS,
    missing: bool = False,
    keep: bool = False,
    compile: bool = False,
    folders: FlatFolders = Folders(),  # noqa: B008
    changes: FlatChanges = Changes(),  # noqa: B008
) -> int:
    """Train and measure rows of one experiment. A run that was stopped goes on from its last epoch.

    Args:
        name: of the experiment; `list` shows them.
        profile: how much of it: ci (seconds), quick (minutes on two cores), full (the paper's).
        row: of the comparison (default: all).
        seed: one run each.
        missing: only what has no stored result with the settings of now.
        keep: store the weights beside the results too, as the book's chapters load them.
        compile: faster steps on a GPU, after a minute or two in which they are compiled.
    """
    jobs = runs.jobs([name], profile, seed, row, changes.made())
    return _run_all(jobs, folders, missing, keep, compile)


def reproduce(
    names: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
    profile: Profile = "quick",
    missing: bool = False,
    compile: bool = False,
    seed: tuple[int, ...] | None = None,
    folders: FlatFolders = Folders(),  # noqa: B008
) -> int:
    """Run every row of every experiment, shortest first, one seed of all before the next.

    Stopped at any moment, it goes on with --missing.

    Args:
        names: of experiments (default: all).
        profile: how much of each.
        missing: only what has no stored result with the settings of now.
        compile: as train has it.
        seed: default: 0 at ci, else 0 1 2.
    """
    seeds = seed or ((0,) if profile == "ci" else results.SEEDS)
    return _run_all(runs.jobs(names, profile, seeds), folders, missing, compile=compile)


def evaluate(
    name: Name,
    profile: Profile = "quick",
    row: tuple[str, ...] = (),
    seed: tuple[int, ...] = results.SEEDS,
    store: bool = False,
    folders: FlatFolders = Folders(),  # noqa: B008
    changes: FlatChanges = Changes(),  # noqa: B008
) -> int:
    """Measure trained runs again, from their weights.

    Args:
        name: of the experiment.
        profile: that it was trained with.
        row: of the comparison (default: all).
        seed: of the runs.
        store: replace the metrics of the stored results.
    """
    out = folders.out if store else None
    for job in runs.jobs([name], profile, seed, row, changes.made()):
        print(f"{job}: {summary(runs.evaluate(job, folders.runs, out))}")
    return 0


def choose(
    name: Name,
    profile: Profile = "reduced",
    row: tuple[str, ...] = (),
    folders: FlatFolders = Folders(),  # noqa: B008
) -> int:
    """Try every α of an experiment with every row that learns one, and say what the rule takes.

    The results go to choices.json, each with what it measured on validation images. A trial whose
    settings are the profile's of now also becomes the profile's result: it is not run twice.

    Args:
        name: of the experiment; `list` shows them.
        profile: how much of it.
        row: of the comparison (default: all).
    """
    experiment = EXPERIMENTS[name]
    tries = runs.trials([name], profile, row)
    if not tries:
        raise ValueError(f"{name}: expected rows and an experiment of which several α are tried")
    if not len(experiment.data(profile).validation):
        raise ValueError(f"{name} keeps no validation images at {profile}: choose at another")
    code = _run_all(tries, folders, missing=True)
    tried = results.entries_of(folders.out / name / f"{results.CHOICES}.json")
    left = {job.row for job in runs.missing(tries, folders.out)}
    for one, alpha in tables.by_rule(tried, profile, experiment.judge).items():
        if one not in left:
            print(f"{name} {one}: alpha {alpha:g}")
    for job in runs.jobs([name], profile, [0], row):
        if runs.missing([job], folders.out) and runs.adopt(job, folders.out, folders.runs):
            print(f"{job}: taken from its trial")
    return code


def report(folders: FlatFolders = Folders()) -> int:  # noqa: B008
    """Write the tables of results and of choices, and the book's drawn figures.

    They go to results.md, choices.md and the folder _static beside the folder of results. The words
    around the tables stay as they are.
    """
    if not folders.out.is_dir():
        raise ValueError(
            f"{folders.out} is no folder: expected one of results; choose it with --out"
        )
    for name, make in tables.PAGES.items():
        path = folders.out.with_name(name)
        if path.exists():
            page = tables.renewed(path.read_text(encoding="utf-8"), folders.out, make)
        else:
            page = tables.generated(folders.out, make) + "\n"
        with atomic_write(path) as written:
            written.write_text(page, encoding="utf-8")
        print(f"written: {path}")
    for path in tables.save_figures(folders.out, folders.out.with_name("_static")):
        print(f"written: {path}")
    return 0


def _run_all(
    jobs: Sequence[runs.Job],
    folders: Folders,
    missing: bool,
    keep: bool = False,
    compile: bool = False,
) -> int:
    """One run after the other.

    Those that cannot be run are named at the end, and the exit code is then 1.
    """
    if missing:
        jobs = runs.missing(jobs, folders.out)
    if not jobs:
        print("nothing to run: every result is stored")
        return 0
    accelerator = _accelerator()
    failed = []
    with _bars(accelerator.is_main_process and sys.stderr.isatty()) as bars:
        overall = bars.add_task("runs", total=len(jobs))
        for job in jobs:
            bar = bars.add_task(str(job))
            try:
                entry = runs.run(
                    job,
                    folders.out,
                    folders.runs,
                    keep=keep,
                    compile=compile,
                    accelerator=accelerator,
                    progress=partial(_show, bars, bar),
                )
                if entry:
                    seconds = f"{entry['wall_seconds']:.0f} s"
                    print(f"{job}: {seconds}, {summary(entry['metrics'])}", flush=True)
            except EXPECTED as error:
                failed.append(str(job))
                first_line = str(error).partition("\n")[0]
                print(f"{job}: error: {first_line}", file=sys.stderr, flush=True)
                if accelerator.num_processes > 1:
                    break  # the others may wait for this process, which they then end with
            bars.remove_task(bar)
            bars.advance(overall)
    if failed:
        print(f"{len(failed)} of {len(jobs)} runs failed: {'; '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _made(name: str) -> torch.nn.Module:
    """The network that a function of the reader's own makes, by module:function."""
    try:
        made = pkgutil.resolve_name(name)()
    except (AttributeError, ImportError, ValueError) as error:
        raise ValueError(f"network: expected module:function, got {name!r} ({error})") from None
    if not isinstance(made, torch.nn.Module):
        raise ValueError(
            f"network: expected that {name} makes a torch.nn.Module, got a {type(made).__name__}"
        )
    return made


def _accelerator():
    """Of the processes that were launched together. Importing it takes two seconds."""
    return results.from_extra("accelerate").Accelerator(cpu=pick_device().type == "cpu")


def _show(bars: Progress, bar: TaskID, done: int, epochs: int) -> None:
    bars.update(bar, completed=done, total=epochs)


def _bars(shown: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not shown,
    )


def summary(metrics: dict) -> str:
    """Metrics in one line."""
    parts = []
    for name, value in metrics.items():
        words = name.replace("_", " ")
        if isinstance(value, dict):
            inner = ", ".join(f"{key}: {number:.3g}" for key, number in value.items())
            parts.append(f"{words} ({inner})")
        else:
            parts.append(f"{words} {value:.3g}")
    return ", ".join(parts)


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says, and return the exit code."""
    commands: dict[str, Callable[..., int]] = {
        "fit": fit,
        "predict": predict,
        "list": list_,
        "train": train,
        "evaluate": evaluate,
        "choose": choose,
        "reproduce": reproduce,
        "report": report,
    }
    try:
        return tyro.extras.subcommand_cli_from_dict(
            commands, prog="python -m flowinv", description=__doc__, args=arguments
        )
    except (*EXPECTED, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "stopped; the same command goes on from the last epoch (train, reproduce: --missing)",
            file=sys.stderr,
        )
        return 130


if __name__ == "__main__":
    sys.exit(main())
