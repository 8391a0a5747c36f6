"""Named experiments: what is trained on what, how it is measured, and results with provenance.

A result file, book/results/<experiment>/<profile>.json, holds one entry a guide and seed. The
wheel carries the same files, so that a chapter finds them with and without a checkout.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path

import pyro
import torch

from . import __version__, metrics
from .checks import Registry
from .data import Dataset, load
from .model import InvariantClassifier
from .training import Settings, fit, pick_device

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Experiment:
    """What is trained on what.

    dataset, classes, family: by name and number. profiles: settings of each profile.
    guides: for each row of the comparison the name of its guide and the options.
    limits: the rotation, in degrees, that each class's test images are turned within.
    """

    dataset: str
    classes: list[int]
    family: str
    profiles: dict[str, Settings]
    guides: dict[str, tuple[str, dict]]
    limits: list[float]
    in_channels: int = 1

    def data(self, profile: str) -> Dataset:
        """The full data set for the profile `full`, the embedded sample for the others."""
        return load(self.dataset, sample=profile != "full").only(self.classes)

    def build(self, row: str, seed: int = 0) -> InvariantClassifier:
        """An untrained model for one row of the comparison."""
        torch.manual_seed(seed)
        guide, options = Registry("row", **self.guides)[row]
        return InvariantClassifier.build(guide, self.family, self.in_channels, len(self.classes), **options)

    def settings(self, profile: str, seed: int = 0) -> Settings:
        """The settings of a profile, the same for all rows."""
        return replace(Registry("profile", **self.profiles)[profile], seed=seed)


def evaluate(experiment: Experiment, model: InvariantClassifier, data: Dataset) -> dict:
    """Widths by class and accuracies, in percent, on the test images as they are and turned."""
    images, labels = data.test_images, data.test_labels
    turned = metrics.rotate_within(images, torch.tensor(experiment.limits)[labels], torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    return {
        "width_degrees": dict(zip(data.classes, metrics.class_widths(model, images, labels, len(data.classes)))),
        "accuracy_plain": 100 * metrics.accuracy(model, images, labels, samples=0),
        "accuracy_averaged": 100 * metrics.accuracy(model, images, labels),
        "accuracy_turned_plain": 100 * metrics.accuracy(model, turned, labels, samples=0),
        "accuracy_turned_averaged": 100 * metrics.accuracy(model, turned, labels),
    }


def run(name: str, profile: str, row: str, seed: int, folder: Path) -> dict:
    """Train and measure one row with one seed; the entry is also written into the result file."""
    experiment = EXPERIMENTS[name]
    settings, data = experiment.settings(profile, seed), experiment.data(profile)
    model, start = experiment.build(row, seed), time.perf_counter()
    history = fit(model, data.train_images, data.train_labels, settings)
    seconds = time.perf_counter() - start
    entry = {
        "guide": row,
        "options": experiment.guides[row],
        "family": experiment.family,
        "seed": seed,
        "metrics": evaluate(experiment, model, data),
        "epochs": settings.epochs,
        "wall_seconds": round(seconds, 1),
        "images_per_second": round(settings.epochs * len(data.train_labels) / seconds),
        "final_loss": history[-1]["loss"],
        "final_entropy_nats": history[-1]["entropy"],
        "data": str(data),
        "settings": asdict(settings),
    } | provenance()
    path = folder / name / f"{profile}.json"
    entries = json.loads(path.read_text()) if path.exists() else []
    entries = [e for e in entries if (e["guide"], e["seed"]) != (row, seed)] + [entry]
    order = list(experiment.guides)
    entries = [e for e in entries if e["guide"] in order]  # a row that is no more goes
    entries.sort(key=lambda e: (order.index(e["guide"]), e["seed"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.part")
    partial.write_text(json.dumps(entries, indent=1) + "\n")
    os.replace(partial, path)
    return entry


def provenance() -> dict:
    """Device, threads, versions, git revision, command line and date."""
    device = pick_device()
    name = (
        torch.cuda.get_device_name()
        if device.type == "cuda"
        else f"{device.type.upper()}, {torch.get_num_threads()} threads"
    )
    revision = ""
    if shutil.which("git"):
        git = lambda *command: subprocess.run(  # noqa: E731
            ["git", *command], capture_output=True, text=True, cwd=Path(__file__).parent
        )
        revision = git("rev-parse", "--short", "HEAD").stdout.strip()
        if revision and git("diff", "--quiet", "HEAD", "--", ".").returncode:  # the package; results may change
            revision += "-dirty"
    return {
        "device": name,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "pyro": pyro.__version__,
            "flowinv": __version__,
        },
        "revision": revision or "unknown",
        "command": " ".join(["python -m flowinv", *sys.argv[1:]]),
        "date": date.today().isoformat(),
    }


def results_folder() -> Path:
    """book/results of the checkout, or the copy that an installed flowinv carries."""
    installed = Path(__file__).parent / "results"
    return installed if installed.exists() else Path(__file__).parents[1] / "book" / "results"


def stored(name: str, profile: str) -> list[dict]:
    """The stored entries of an experiment and profile: one a guide and seed.

    >>> sorted({entry["seed"] for entry in stored("mnist-selective", "quick")})
    [0, 1, 2]
    """
    EXPERIMENTS[name]
    path = results_folder() / name / f"{profile}.json"
    if not path.exists():
        raise FileNotFoundError(
            f"no stored results of {name} at profile {profile}: make them with python -m flowinv {name} --profile {profile}"
        )
    return json.loads(path.read_text())


EXPERIMENTS = Registry(
    "experiment",
    **{
        # The paper's five digits: three that may turn all the way round, and two that may not.
        "mnist-selective": Experiment(
            dataset="mnist",
            classes=[0, 1, 5, 6, 9],
            family="rotation_translation",
            profiles={
                "ci": Settings(epochs=3, burn_in=1),
                "quick": Settings(epochs=40),
                "full": Settings(epochs=12),
            },
            guides={
                "none": ("none", {}),
                # All that the flow could do, and two boxes that a person who knows digits would choose.
                "whole box": ("fixed", {"half_width": 1.0}),
                "fixed ±90°": ("fixed", {"half_width": [0.1, 0.1, 0.5]}),
                "fixed ±180°": ("fixed", {"half_width": [0.1, 0.1, 1.0]}),
                "flow": ("flow", {"scale": [0.2, 0.2, 0.6]}),
            },
            limits=[180.0, 180.0, 180.0, 60.0, 60.0],
        ),
    },
)
