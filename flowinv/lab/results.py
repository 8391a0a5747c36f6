"""Runs of the named experiments, and what came out of them, with provenance.

A result file, book/results/<experiment>/<profile>.json, holds one entry a row and seed; the wheel carries the same
files, so that a chapter finds them with and without a checkout. Beside some lie the weights, which `trained` loads. What a run needs to go on after a stop, and the
weights it ends with, lie in the folder of runs, runs/<experiment>/<profile>/.
"""

import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from copy import deepcopy
from dataclasses import asdict, replace
from datetime import date
from functools import lru_cache
from itertools import count
from pathlib import Path

import pyro
import torch
from filelock import FileLock, Timeout
from torch.nn.functional import cross_entropy

from .. import __version__
from ..checks import Registry
from ..data import Dataset
from ..model import InvariantClassifier
from ..training import Settings, fit, pick_device, step
from ..training.checkpoints import finished_epochs, load_weights, save_weights
from .experiments import EXPERIMENTS, Experiment

SEEDS = (0, 1, 2)


class RunError(RuntimeError):
    """A run cannot start, or its result cannot be stored."""


def run(
    name: str,
    profile: str,
    row: str,
    seed: int,
    out: Path,
    runs: Path,
    changes: dict | None = None,
    accelerator=None,
    progress: Callable[[int, int], None] = lambda done, epochs: None,
    keep: bool = False,
) -> dict | None:
    """Train and measure one row with one seed, store the entry under `out`, and return it.

    A run that was stopped goes on from its last epoch. One that ended starts anew and replaces its own entry.
    changes: settings other than the profile's. Such an entry goes to custom.json, beside those of other changes.
    accelerator: as `fit` has it; all but the first of its processes return None.
    progress: called with the epochs done and those in all.
    keep: whether the weights are stored beside the entry too, where `trained` finds them.
    Raises RunError if another process runs the same, or if something cannot be written.
    """
    experiment, first = EXPERIMENTS[name], accelerator is None or accelerator.is_main_process
    processes = accelerator.num_processes if accelerator else 1
    settings = changed(name, profile, row, seed, changes)
    path, made_by = weights_file(runs, name, profile, row, settings), provenance()
    checkpoint = path.with_suffix(".checkpoint")
    with _only_one(path.with_suffix(".lock")) if first else nullcontext():
        data = experiment.data(profile)
        model = experiment.build(row, profile, data, seed)
        epochs = count(finished_epochs(checkpoint))
        report = lambda model: progress(next(epochs), settings.epochs) or {}  # noqa: E731
        report(model)
        history = fit(
            model, data.train.images, data.train.labels, settings,
            checkpoint=checkpoint, accelerator=accelerator, each_epoch=report, progress=False,
        )  # fmt: skip
        entry = None
        if first:
            seconds = sum(epoch["seconds"] for epoch in history)
            entry = {
                "guide": row,
                "options": list(experiment.guides[row][:2]),
                "family": experiment.family_of(row),
                "profile": profile,
                "seed": seed,
                "metrics": measured(experiment, model, data),
                "epochs": settings.epochs,
                "wall_seconds": round(seconds, 1),
                "images_per_second": round(settings.epochs * len(data.train.labels) / seconds),
                "share_outside_classifier": outside_classifier(model, data, settings, processes),
                "final_loss": history[-1]["loss"],
                "final_entropy_nats": history[-1]["entropy"],
                "data": str(data),
                "settings": asdict(settings),
                "processes": processes,
                "bfloat16": model.bfloat16,
            } | made_by
            # Weights, result, and only then no checkpoint: stopped in between, the run measures again.
            about = {"settings": asdict(settings), "bfloat16": model.bfloat16}
            for folder in (runs, out) if keep else (runs,):
                save_weights(weights_file(folder, name, profile, row, settings), model, about)
            store(entry, result_file(out, name, profile, settings, row), list(experiment.guides))
            checkpoint.unlink(missing_ok=True)
    if accelerator:
        accelerator.wait_for_everyone()
    return entry


def changed(name: str, profile: str, row: str, seed: int, changes: dict | None) -> Settings:
    """The profile's settings, with the changes."""
    return replace(EXPERIMENTS[name].settings(profile, row, seed), **(changes or {}))


def measured(experiment: Experiment, model: InvariantClassifier, data: Dataset) -> dict:
    """The experiment's metrics, the same numbers whatever was drawn before."""
    torch.manual_seed(0)
    return experiment.measure(model.eval(), data)


def evaluate(
    name: str, profile: str, row: str, seed: int, runs: Path, changes: dict | None = None
) -> dict:
    """The metrics of a run's stored weights, measured again."""
    data = EXPERIMENTS[name].data(profile)
    return measured(EXPERIMENTS[name], trained(name, profile, row, data, seed, runs, changes), data)


def trained(
    name: str,
    profile: str,
    row: str,
    data: Dataset,
    seed: int = 0,
    folder: Path | None = None,
    changes: dict | None = None,
) -> InvariantClassifier:
    """The model of a run that ended, on pick_device(). data: any with its channels and classes.

    folder: of runs; None takes the weights that the book carries, those stored with `train --keep`.

    >>> from flowinv.data import mario_iggy
    >>> model = trained("mario-90", "quick", "flow", mario_iggy(90, train=1, test=1, sample=True))
    >>> model.predict(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 4])
    """
    settings = changed(name, profile, row, seed, changes)
    path = weights_file(folder or results_folder(), name, profile, row, settings)
    if not path.exists():
        keep = "" if folder else " --keep"
        raise RunError(
            f"{path} is not there: train it with python -m flowinv train {name} --profile {profile} --guide {row!r} --seed {seed}{keep}"
        )
    model = EXPERIMENTS[name].build(row, profile, data, seed).to(pick_device())
    about = load_weights(path, model)
    if about["settings"] != json.loads(json.dumps(asdict(settings))):
        raise RunError(
            f"{path} was trained with settings that the profile no longer has: train it again"
        )
    model.bfloat16 = about["bfloat16"]
    return model.eval()


def _is_profiles(name: str, profile: str, row: str, settings: Settings) -> bool:
    return settings == EXPERIMENTS[name].settings(profile, row, settings.seed)


def weights_file(runs: Path, name: str, profile: str, row: str, settings: Settings) -> Path:
    """Where a run's weights lie; settings other than the profile's have a place of their own."""
    mark = ""
    if not _is_profiles(name, profile, row, settings):
        mark = "-" + hashlib.sha256(json.dumps(asdict(settings)).encode()).hexdigest()[:8]
    return (
        runs
        / name
        / profile
        / f"{re.sub(r'[^a-z0-9_]+', '-', row)}-{settings.seed}{mark}.safetensors"
    )


def result_file(out: Path, name: str, profile: str, settings: Settings, row: str) -> Path:
    """Where its entry is stored."""
    return (
        out / name / f"{profile if _is_profiles(name, profile, row, settings) else 'custom'}.json"
    )


def _only_one(path: Path):
    """A lock that the operating system frees when its process ends, however that happens."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path).acquire(timeout=0)
    except Timeout:
        raise RunError(
            f"another process is running {path.with_suffix('')}: wait for it, or choose another --runs folder"
        ) from None
    except OSError as error:
        raise RunError(
            f"{path.parent} cannot be written ({error}): choose another --runs folder"
        ) from None


def outside_classifier(
    model: InvariantClassifier, data: Dataset, settings: Settings, processes: int = 1
) -> float:
    """The share of a training step's time that is not the classifier's own, on as many images: of a few steps each.

    processes: that share a batch; what is timed is the work of one.
    """
    model = deepcopy(model).to(memory_format=torch.channels_last).train()  # laid out as in training
    model.classifier.requires_grad_(not settings.freeze)
    size = max(1, settings.batch_size // processes)
    images, labels = (x[:size].to(model.device) for x in (data.train.images, data.train.labels))
    samples = len(
        model.draw(model.q(images[:1]), settings.samples)[0]
    )  # a point mass gives one, whatever is asked for
    copies = samples + model.original
    still = [torch.optim.SGD(model.parameters(), 0.0)]
    at_once = settings.chunk or copies * len(images)
    shown = images.repeat(copies, 1, 1, 1).requires_grad_(
        any(p.requires_grad for p in model.q.parameters())
    )

    def classify() -> None:
        for x, y in zip(shown.split(at_once), labels.repeat(copies).split(at_once)):
            loss = cross_entropy(model.classify(x), y)
            if loss.requires_grad:
                loss.backward()

    calls = [lambda: step(model, still, images, labels, settings, 0.1), classify]
    times: list[list[float]] = [[], []]
    for _ in range(6):  # in turn, so that whatever else the machine does disturbs both
        for call, taken in zip(calls, times):
            start = time.perf_counter()
            call()
            if images.is_cuda:
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - start)
    whole, alone = (statistics.median(taken[1:]) for taken in times)  # the first is to warm up
    return round(1 - alone / whole, 2)


def store(entry: dict, path: Path, order: list[str]) -> None:
    """Put an entry into a result file, in place of the one that it repeats; the file is whole at any moment."""
    key = lambda e: (
        (e["guide"], e["seed"])
        + ((e["profile"], str(e["settings"])) if path.stem == "custom" else ())
    )  # noqa: E731
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(
            path.with_suffix(".lock")
        ):  # so that of two processes neither loses the other's entry
            entry = json.loads(json.dumps(entry))  # tuples become lists, as in what was read
            entries = json.loads(path.read_text()) if path.exists() else []
            entries = [e for e in entries if key(e) != key(entry)] + [entry]
            # A row that this code does not know, of another branch maybe, stays, at the end.
            entries.sort(
                key=lambda e: ([*order, e["guide"]].index(e["guide"]), e["guide"], e["seed"])
            )
            part.write_text(json.dumps(entries, indent=1) + "\n")
            os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise RunError(
            f"{path} could not be written ({error}): free some space or choose another --out folder; then the same command goes on"
        ) from None


def provenance() -> dict:
    """Device, threads, versions, git revision, command line and date."""
    device = pick_device()
    name = (
        torch.cuda.get_device_name()
        if device.type == "cuda"
        else f"{device.type.upper()}, {torch.get_num_threads()} threads"
    )
    called = Path(sys.argv[0]).name in ("__main__.py", "flowinv")
    return {
        "device": name,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "pyro": pyro.__version__,
            "flowinv": __version__,
        },
        "revision": _revision(),
        "command": shlex.join(["python", "-m", "flowinv", *sys.argv[1:]])
        if called
        else "from Python",
        "date": date.today().isoformat(),
    }


@lru_cache  # that of the code when this process began to use it
def _revision() -> str:
    revision = ""
    if shutil.which("git"):
        git = lambda *command: subprocess.run(  # noqa: E731
            ["git", *command], capture_output=True, text=True, cwd=Path(__file__).parents[1]
        )
        revision = git("rev-parse", "--short", "HEAD").stdout.strip()
        if (
            revision and git("diff", "--quiet", "HEAD", "--", ".").returncode
        ):  # the package; results may change
            revision += "-dirty"
    return revision or "unknown"


def results_folder() -> Path:
    """book/results of the checkout, or the copy that an installed flowinv carries."""
    installed = Path(__file__).parents[1] / "results"
    return installed if installed.exists() else Path(__file__).parents[2] / "book" / "results"


def stored(name: str, profile: str, folder: Path | None = None) -> list[dict]:
    """The stored entries of an experiment and profile: one a row and seed.

    >>> sorted({entry["seed"] for entry in stored("mnist-selective", "quick")})
    [0, 1, 2]
    """
    Registry("profile", **EXPERIMENTS[name].profiles)[profile]
    path = (folder or results_folder()) / name / f"{profile}.json"
    if not path.exists():
        raise FileNotFoundError(
            f"no stored results of {name} at profile {profile}: make them with python -m flowinv train {name} --profile {profile}"
        )
    return json.loads(path.read_text())


def jobs(
    profile: str, seeds: tuple[int, ...], names: tuple[str, ...] = ()
) -> list[tuple[str, str, int]]:
    """(experiment, row, seed) of all that has the profile: every experiment with one seed before any with two."""
    for name in names:
        Registry("profile", **EXPERIMENTS[name].profiles)[profile]
    return [
        (name, row, seed)
        for seed in seeds
        for name, experiment in EXPERIMENTS.items()
        if profile in experiment.profiles and (not names or name in names)
        for row in experiment.guides
    ]


def missing(
    some: list[tuple[str, str, int]], profile: str, out: Path, changes: dict | None = None
) -> list:
    """Those jobs that have no result with the settings of now."""
    left = []
    for name, row, seed in some:
        settings = changed(name, profile, row, seed, changes)
        path = result_file(out, name, profile, settings, row)
        entries = json.loads(path.read_text()) if path.exists() else []
        if not any(
            e["guide"] == row and e["seed"] == seed and current(name, settings, e) for e in entries
        ):
            left.append((name, row, seed))
    return left


def current(name: str, settings: Settings, entry: dict) -> bool:
    """Whether an entry has these settings, and its row's options; a setting that did not exist then had its default."""
    experiment, row = EXPERIMENTS[name], entry["guide"]
    if row not in experiment.guides:
        return False
    now = [asdict(settings), experiment.guides[row][:2], experiment.family_of(row)]
    then = [asdict(Settings()) | entry["settings"], entry["options"], entry["family"]]
    return json.dumps(then) == json.dumps(now)
