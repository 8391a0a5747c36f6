"""Runs: one row of an experiment is trained with one seed, measured, and its result stored.

What a run needs to go on after a stop, and the weights it ends with, lie in the folder of runs,
``runs/<experiment>/<profile>/``.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path

from ..data import Dataset
from ..files import atomic_write
from ..model import InvariantClassifier
from ..training import Settings, fit, pick_device
from ..training.checkpoints import finished_epochs, load_weights, save_weights
from ..training.loop import channels_last
from .experiments import EXPERIMENTS, Experiment, seeded
from .results import (
    CHOICES,
    CUSTOM,
    RunError,
    entries_of,
    from_extra,
    provenance,
    results_folder,
    store,
)


@dataclass(frozen=True)
class Job:
    """One row of an experiment, to be trained at one profile with one seed.

    Args:
        name: of the experiment.
        profile: how much of it.
        row: of the comparison.
        seed: of the first weights and of training.
        changes: settings other than the profile's. Such results go to ``custom.json``, and their
            weights have names of their own.
        trial: whether a choice is made by it; its result goes to ``choices.json``.

    Its ``settings`` are the profile's and the row's, with the changes.

    Raises:
        ValueError: a name is not there, or a setting is wrong.

    Example:
        >>> job = Job("mario-90", "quick", "flow", seed=1)
        >>> print(job, job.settings.epochs, job.weights_file(Path("runs")).as_posix())
        mario-90 flow, seed 1 25 runs/mario-90/quick/flow-1.safetensors
    """

    name: str
    profile: str
    row: str
    seed: int = 0
    changes: dict = field(default_factory=dict)
    trial: bool = False
    settings: Settings = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        # Here, so that what cannot be run is refused before anything starts.
        object.__setattr__(self, "settings", replace(self._profiles_settings, **self.changes))

    def __str__(self) -> str:
        return f"{self.name} {self.row}, seed {self.seed}"

    @property
    def experiment(self) -> Experiment:
        return EXPERIMENTS[self.name]

    @property
    def _profiles_settings(self) -> Settings:
        return self.experiment.settings(self.profile, self.row, self.seed)

    @property
    def is_profiles(self) -> bool:
        """Whether the settings are the profile's; a change may be to what it has."""
        return self.settings == self._profiles_settings

    @property
    def stem(self) -> str:
        """Row and seed as part of a file's name, each its own."""
        row = self.row.replace("÷", "by")
        return re.sub(r"[^a-z0-9_]+", "-", row) + f"-{self.seed}"

    @property
    def digest(self) -> str:
        """A short name of the settings."""
        settings = json.dumps(asdict(self.settings)).encode()
        return hashlib.sha256(settings).hexdigest()[:8]

    def weights_file(self, folder: Path) -> Path:
        """Where the weights lie in a folder of runs or results."""
        stem = self.stem
        if not self.is_profiles:
            stem += f"-{self.digest}"
        return folder / self.name / self.profile / f"{stem}.safetensors"

    def result_file(self, folder: Path) -> Path:
        """Where the entry lies in a folder of results."""
        stem = self.profile if self.is_profiles else CUSTOM
        if self.trial:
            stem = CHOICES
        return folder / self.name / f"{stem}.json"

    def made(self, entry: dict) -> bool:
        """Whether a stored entry is this job's, with the settings and options of now."""
        own = (self.profile, self.row, self.seed)
        if (entry["profile"], entry["row"], entry["seed"]) != own:
            return False
        model = self.experiment.model_of(self.row)
        then = {key: entry[key] for key in model}
        return json.dumps(then) == json.dumps(model) and self.has(entry["settings"])

    def has(self, settings: dict) -> bool:
        """Whether stored settings are those of now."""
        # One that did not exist then had its default.
        then = json.dumps(asdict(Settings()) | settings)
        return then == json.dumps(asdict(self.settings))


def jobs(
    names: Sequence[str],
    profile: str,
    seeds: Sequence[int],
    rows: Sequence[str] = (),
    changes: dict | None = None,
) -> list[Job]:
    """The jobs of some experiments: each with one seed before any with two.

    Args:
        names: of experiments; none takes all that have the profile.
        profile: how much of each.
        seeds: one job each.
        rows: of the comparison; none takes all that the profile compares.
        changes: settings other than the profile's.

    Raises:
        ValueError: a name is not there, or a setting is wrong.
    """
    names = names or [name for name, e in EXPERIMENTS.items() if profile in e.profiles]
    found = []
    for seed in seeds:
        for name in names:
            for row in rows or EXPERIMENTS[name].rows_of(profile):
                found.append(Job(name, profile, row, seed, changes or {}))
    return found


def trials(names: Sequence[str], profile: str, rows: Sequence[str] = ()) -> list[Job]:
    """What the choices of some experiments are made by: each row of which a setting is tried.

    Every value is tried with seed 0, and the same values for every row.

    Args:
        names: of experiments.
        profile: how much of each.
        rows: of the comparison; none takes all that learn a q(T | I).
    """
    found = []
    for name in names:
        experiment = EXPERIMENTS[name]
        for alpha in experiment.alphas:
            for row in rows or experiment.rows:
                if experiment.learns(row):
                    found.append(Job(name, profile, row, 0, {"alpha": alpha}, trial=True))
    return found


def adopt(job: Job, out: Path, runs: Path) -> dict | None:
    """The result of a trial that had the settings of now is the job's own: it is not run twice.

    Args:
        job: with the settings that were chosen.
        out: folder of results.
        runs: folder of runs; the weights stay, under the job's own name.

    Returns:
        The entry, which is stored; None if there was no such trial.
    """
    for entry in entries_of(out / job.name / f"{CHOICES}.json"):
        if job.made(entry):
            for tried in job.weights_file(runs).parent.glob(f"{job.stem}-{job.digest}.safetensors"):
                with atomic_write(job.weights_file(runs)) as partial:
                    shutil.copyfile(tried, partial)
            store(entry, job.result_file(out), list(job.experiment.rows))
            return entry
    return None


def missing(some: Sequence[Job], out: Path) -> list[Job]:
    """Those jobs that have no result with the settings of now in a folder of results."""
    return [job for job in some if not any(map(job.made, entries_of(job.result_file(out))))]


def run(
    job: Job,
    out: Path,
    runs: Path,
    *,
    keep: bool = False,
    compile: bool = False,
    accelerator=None,
    progress: Callable[[int, int], None] = lambda done, epochs: None,
) -> dict | None:
    """Train and measure, store the entry, and return it.

    A run that was stopped goes on from its last epoch. One that ended starts anew, and replaces
    its own entry.

    Args:
        job: what to run.
        out: folder of results.
        runs: folder of runs.
        keep: whether the weights are stored beside the result too, where ``trained`` finds them.
        compile: as ``fit`` has it.
        accelerator: as ``fit`` has it; all but the first of its processes return None.
        progress: called with the epochs done and those in all.

    Raises:
        RunError: another process runs the same, or something cannot be written.
    """
    made_by = provenance()
    first = accelerator is None or accelerator.is_main_process
    checkpoint = job.weights_file(runs).with_suffix(".checkpoint")
    done = count(finished_epochs(checkpoint))

    def tell(model: InvariantClassifier) -> dict:
        progress(next(done), job.settings.epochs)
        return {}

    entry = None
    with _only_one(checkpoint.with_suffix(".lock")) if first else nullcontext():
        data = job.experiment.data(job.profile)
        model = job.experiment.build(job.row, job.profile, data, job.seed)
        images, labels = data.train
        tell(model)
        history = fit(
            model,
            images,
            labels,
            job.settings,
            checkpoint=checkpoint,
            accelerator=accelerator,
            each_epoch=tell,
            progress=False,
            compile=compile,
        )
        if first:
            processes = accelerator.num_processes if accelerator else 1
            entry = _entry(job, model, data, history) | {
                "processes": processes,
                "bfloat16": model.autocast,
                **made_by,
            }
            # Weights, result, and only then no checkpoint: stopped in between, it measures again.
            about = {"settings": entry["settings"], "bfloat16": model.autocast}
            for folder in (runs, out) if keep else (runs,):
                save_weights(job.weights_file(folder), model, about)
            store(entry, job.result_file(out), list(job.experiment.rows))
            checkpoint.unlink(missing_ok=True)
    if accelerator:
        accelerator.wait_for_everyone()
    return entry


def _entry(job: Job, model: InvariantClassifier, data: Dataset, history: list[dict]) -> dict:
    """What came out of a run."""
    epochs = job.settings.epochs
    seconds = sum(epoch["seconds"] for epoch in history)
    return {
        "row": job.row,
        **job.experiment.model_of(job.row),
        "profile": job.profile,
        "seed": job.seed,
        "metrics": measured(job.experiment, model, data),
        "epochs": epochs,
        "wall_seconds": round(seconds, 1),
        "images_per_second": round(epochs * len(data.train) / seconds),
        "final_loss": history[-1]["loss"],
        "final_entropy_nats": history[-1]["entropy"],
        "data": str(data),
        "settings": asdict(job.settings),
    }


def _only_one(path: Path) -> AbstractContextManager:
    """A lock that the operating system frees when its process ends, however that happens."""
    filelock = from_extra("filelock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(path).acquire(timeout=0)
    except filelock.Timeout:
        raise RunError(
            f"another process is running {path.with_suffix('')}: wait for it, or choose another"
            " --runs folder"
        ) from None
    except OSError as error:
        raise RunError(
            f"{path.parent} cannot be written ({error}): choose another --runs folder"
        ) from None


def measured(experiment: Experiment, model: InvariantClassifier, data: Dataset) -> dict:
    """The experiment's metrics, the same numbers whatever was drawn before."""
    with seeded(0), channels_last(model, model.device):
        return experiment.measure(model.eval(), data)


def evaluate(job: Job, runs: Path, out: Path | None = None) -> dict:
    """The metrics of a run's stored weights, measured again.

    Args:
        job: that was run.
        runs: folder of runs.
        out: folder of results, where the metrics replace those of the job's entry. That then says
            under ``measured`` by which code and where.

    Raises:
        RunError: it was not run, or its settings or data have changed since.
    """
    data = job.experiment.data(job.profile)
    entry = _stored(job, out, data) if out else None
    found = measured(job.experiment, _load(job, runs, data), data)
    if out and entry:
        again = entry | {"metrics": found, "measured": provenance()}
        store(again, job.result_file(out), list(job.experiment.rows))
    return found


def _stored(job: Job, out: Path, data: Dataset) -> dict:
    """The job's own entry, with the settings and of the data of now."""
    for entry in entries_of(job.result_file(out)):
        if job.made(entry) and entry["data"] == str(data):
            return entry
    raise RunError(
        f"{job.result_file(out)} has no result of {job} with these settings and data, to measure"
        " again: train it"
    )


def trained(
    name: str, profile: str, row: str, data: Dataset, seed: int = 0, folder: Path | None = None
) -> InvariantClassifier:
    """The model of a run that ended, on ``pick_device()``.

    Args:
        name: of the experiment.
        profile: how much of it.
        row: of the comparison.
        data: any with its channels and classes.
        seed: of the run.
        folder: of runs; None takes the weights that the book carries, those of ``train --keep``.

    Raises:
        ValueError: a name is not there.
        RunError: it was not run, or its settings have changed since.

    Example:
        >>> from flowinv.data import mario_iggy
        >>> import torch
        >>> data = mario_iggy(90, train=1, test=1, sample=True)
        >>> model = trained("mario-90", "quick", "flow", data)
        >>> model.predict(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 4])
    """
    return _load(Job(name, profile, row, seed), folder, data)


def _load(job: Job, folder: Path | None, data: Dataset) -> InvariantClassifier:
    path = job.weights_file(folder or results_folder())
    if not path.exists():
        more = "" if folder else " --keep"
        for key, value in job.changes.items():
            more += f" --{key.replace('_', '-')} {value}"
        raise RunError(
            f"{path} is not there: train it with python -m flowinv train {job.name}"
            f" --profile {job.profile} --row {job.row!r} --seed {job.seed}{more}"
        )
    model = job.experiment.build(job.row, job.profile, data, job.seed).to(pick_device())
    about = load_weights(path, model)
    if not job.has(about["settings"]):
        raise RunError(
            f"{path} was trained with settings that the profile no longer has: train it again"
        )
    model.autocast = about["bfloat16"]
    return model.eval()
