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
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path

import pyro
import torch
from torch import Tensor

from . import __version__, metrics
from .bases import wrap
from .checks import Registry
from .data import Dataset, load
from .mario_iggy import mario_iggy, mario_poses
from .model import InvariantClassifier
from .training import Settings, fit, pick_device

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Experiment:
    """What is trained on what, and how it is measured.

    data: profile → Dataset. family: by name.
    guides: for each row of the comparison the name of its guide and the options.
    profiles: settings of each profile, the same for all rows.
    measure: (model, dataset) → metrics. width: of the classifier.
    """

    data: Callable[[str], Dataset]
    family: str
    guides: dict[str, tuple[str, dict]]
    profiles: dict[str, Settings]
    measure: Callable[[InvariantClassifier, Dataset], dict]
    in_channels: int
    classes: int
    width: int = 16

    def build(self, row: str, seed: int = 0) -> InvariantClassifier:
        """An untrained model for one row of the comparison."""
        torch.manual_seed(seed)
        guide, options = Registry("row", **self.guides)[row]
        return InvariantClassifier.build(guide, self.family, self.in_channels, self.classes, self.width, **options)

    def settings(self, profile: str, seed: int = 0) -> Settings:
        """The settings of a profile."""
        return replace(Registry("profile", **self.profiles)[profile], seed=seed)


def accuracies(model: InvariantClassifier, images: Tensor, labels: Tensor) -> dict:
    """In percent, of the plain classifier and averaged over 20 samples."""
    samples = {"accuracy_plain": 0, "accuracy_averaged": 20}
    return {name: 100 * metrics.accuracy(model, images, labels, n) for name, n in samples.items()}


def run(name: str, profile: str, row: str, seed: int, folder: Path) -> dict:
    """Train and measure one row with one seed; the entry is also written into the result file."""
    experiment = EXPERIMENTS[name]
    settings, data = experiment.settings(profile, seed), experiment.data(profile)
    model, start = experiment.build(row, seed), time.perf_counter()
    history = fit(model, data.train_images, data.train_labels, settings)
    seconds = time.perf_counter() - start
    torch.manual_seed(0)  # of the metrics, whatever training drew
    entry = {
        "guide": row,
        "options": experiment.guides[row],
        "family": experiment.family,
        "seed": seed,
        "metrics": experiment.measure(model, data),
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
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(entries, indent=1) + "\n")
    os.replace(part, path)
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


# How far each class of mnist-selective is turned in the test, in degrees.
LIMITS = {"0": 180.0, "1": 180.0, "5": 180.0, "6": 60.0, "9": 60.0}


def _five_digits(profile: str) -> Dataset:
    return load("mnist", sample=profile != "full").only([int(digit) for digit in LIMITS])


def _selective_invariance(model: InvariantClassifier, data: Dataset) -> dict:
    """Widths by class, and accuracies on the test images as they are and turned as their class allows."""
    images, labels = data.test_images, data.test_labels
    limits = torch.tensor([LIMITS[name] for name in data.classes])
    turned = metrics.rotate_within(images, limits[labels], torch.Generator().manual_seed(0))
    return {
        "width_degrees": dict(zip(data.classes, metrics.class_widths(model, images, labels, len(data.classes)))),
        **accuracies(model, images, labels),
        **{name.replace("accuracy_", "accuracy_turned_"): x for name, x in accuracies(model, turned, labels).items()},
    }


def _mario(degrees: float, modes: int, sizes: dict[str, int]) -> Callable[[str], Dataset]:
    """profile → Mario-Iggy with as many training images, and half as many to test."""
    return lambda profile: mario_iggy(degrees, modes, sizes[profile], sizes[profile] // 2, sample=profile == "ci")


@torch.no_grad()
def _mario_ranges(modes: int, model: InvariantClassifier, data: Dataset) -> dict:
    """How q(T | I) fills the turns that keep an image's class, up to the boundary, half way to another class's pose."""
    images, labels = data.test_images[:1000], data.test_labels[:1000]
    centres = wrap((mario_poses(modes)[labels] - data.test_angles[:1000, None]).T / 180)
    T = torch.cat([model.q(part.to(model.device)).sample((400,))[..., 0].cpu() for part in images.split(500)], 1)
    reached, inside = metrics.coverage(T, centres, 0.5 / modes, periodic=True)
    return {
        "half_width_degrees": 180 * metrics.half_width(T, periodic=True).median().item(),
        "range_reached": reached.mean().item(),
        "share_inside": inside.mean().item(),
        "effective_modes": metrics.effective_modes(T, centres, periodic=True).mean().item(),
        **accuracies(model, images, labels),
    }


def _mario_experiment(degrees: float, modes: int, quick: Settings, guides: dict) -> Experiment:
    return Experiment(
        data=_mario(degrees, modes, {"ci": 200, "quick": 3000, "full": 10000}),
        family="rotation",
        guides=guides,
        profiles={
            "ci": replace(quick, epochs=3, burn_in=1),
            "quick": quick,
            "full": replace(quick, epochs=2 * quick.epochs),
        },
        measure=partial(_mario_ranges, modes),
        in_channels=3,
        classes=4,
        width=8,
    )


ONE_RANGE = {"augerino": ("augerino", {}), "instaaug": ("instaaug", {}), "flow": ("flow", {})}

EXPERIMENTS = Registry(
    "experiment",
    **{
        # The paper's five digits: three that may turn all the way round, and two that may not.
        "mnist-selective": Experiment(
            data=_five_digits,
            family="rotation_translation",
            guides={
                "none": ("none", {}),
                # All that the flow could do, and two boxes that a person who knows digits would choose.
                "whole box": ("fixed", {"half_width": 1.0}),
                "fixed ±90°": ("fixed", {"half_width": [0.1, 0.1, 0.5]}),
                "fixed ±180°": ("fixed", {"half_width": [0.1, 0.1, 1.0]}),
                "flow": ("flow", {"scale": [0.2, 0.2, 0.6]}),
            },
            profiles={
                "ci": Settings(epochs=3, burn_in=1),
                "quick": Settings(epochs=40),
                "full": Settings(epochs=12),
            },
            measure=_selective_invariance,
            in_channels=1,
            classes=5,
        ),
        # Classes whose poses are half a turn apart: whatever the data's own range, ±90° is where a class ends.
        "mario-45": _mario_experiment(45, 1, Settings(epochs=25), ONE_RANGE),
        "mario-90": _mario_experiment(90, 1, Settings(epochs=25), ONE_RANGE),
        # Each class in three poses, 120° apart, those of upright and upside-down in turn: three ranges of ±30°.
        "mario-3mode": _mario_experiment(
            30,
            3,
            Settings(epochs=25, batch_size=32, alpha=0.4, samples=8, burn_in=3, freeze=True, smoothing=0.1),
            ONE_RANGE | {"flow": ("flow", {"base": "mixture", "components": 8, "scale": 0.2, "layers": 0})},
        ),
    },
)
