"""Named experiments run, store their results whole, and what is stored holds what the book says."""

import json
import math
import sys
from dataclasses import asdict, replace

import pytest
import torch

from flowinv.__main__ import main, summary
from flowinv.bases import wrap
from flowinv.experiments import EXPERIMENTS, SEEDS, results_folder, run, stored
from flowinv.mario_iggy import mario_poses
from flowinv.training import Settings

EXPERIMENT = "mnist-selective"


@pytest.fixture
def short(monkeypatch):
    """The experiment with a handful of images, so that a run takes a second."""
    whole = EXPERIMENTS[EXPERIMENT]

    def few(profile):
        digits = whole.data("ci")
        return replace(
            digits,
            train_images=digits.train_images[:128],
            train_labels=digits.train_labels[:128],
            test_images=digits.test_images[:100],
            test_labels=digits.test_labels[:100],
        )

    monkeypatch.setitem(EXPERIMENTS, EXPERIMENT, replace(whole, data=few))


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["flowinv", *map(str, arguments)])
    main()


def test_the_command_trains_every_row_and_stores_it_with_provenance(short, tmp_path, monkeypatch, capsys):
    call(monkeypatch, EXPERIMENT, "--profile", "ci", "--seeds", 5, 3, "--out", tmp_path)
    entries = json.loads((tmp_path / EXPERIMENT / "ci.json").read_text())
    assert [(e["guide"], e["seed"]) for e in entries] == [
        (row, s) for row in EXPERIMENTS[EXPERIMENT].guides for s in (3, 5)
    ]
    for entry in entries:
        assert entry.keys() >= {
            "metrics",
            "settings",
            "epochs",
            "wall_seconds",
            "device",
            "versions",
            "revision",
            "command",
            "date",
        }
        assert entry["command"].startswith(f"python -m flowinv {EXPERIMENT} --profile ci")
        assert set(entry["metrics"]["width_degrees"]) == {"0", "1", "5", "6", "9"}
    assert "width degrees (0: 0, 1: 0," in capsys.readouterr().out


def test_a_second_run_replaces_its_own_entry_and_repeats_its_numbers(short, tmp_path, monkeypatch):
    results = []
    for _ in range(2):
        call(monkeypatch, EXPERIMENT, "--profile", "ci", "--guides", "flow", "--seeds", 0, "--out", tmp_path)
        results.append(json.loads((tmp_path / EXPERIMENT / "ci.json").read_text()))
    (first,), (second,) = results
    if not torch.cuda.is_available():  # a GPU adds in any order
        assert first["metrics"] == second["metrics"]


def test_unknown_names_are_one_line_errors(monkeypatch, capsys):
    for arguments in (["mnist"], [EXPERIMENT, "--profile", "huge"], [EXPERIMENT, "--guides", "flw"]):
        with pytest.raises(SystemExit):
            call(monkeypatch, *arguments)
        assert "choose from" in (message := capsys.readouterr().err) or "expected one of none" in message
    with pytest.raises(ValueError, match="unknown experiment 'mnist': expected one of"):
        stored("mnist", "quick")
    with pytest.raises(FileNotFoundError, match="make them with python -m flowinv"):
        stored(EXPERIMENT, "none")


@pytest.mark.parametrize(("name", "row"), [(name, row) for name, e in EXPERIMENTS.items() for row in e.guides])
@pytest.mark.filterwarnings("ignore::flowinv.training.TrainingWarning")
def test_every_row_of_every_experiment_runs_and_its_metrics_are_numbers(name, row, short, tmp_path):
    entry = run(name, "ci", row, 0, tmp_path)
    values = [
        number
        for value in entry["metrics"].values()
        for number in (value.values() if isinstance(value, dict) else [value])
    ]
    assert all(math.isfinite(value) for value in values) and summary(entry["metrics"])
    assert json.loads((tmp_path / name / "ci.json").read_text())[0]["metrics"] == entry["metrics"]


def test_the_ideal_range_of_mario_iggy_is_where_its_class_stays(tmp_path):
    """A q that knows each image's angle, and covers just that range, has all of it and nothing else."""
    for name, modes in (("mario-90", 1), ("mario-3mode", 3)):
        experiment = EXPERIMENTS[name]
        data = experiment.data("ci")
        first = {image.numpy().tobytes(): i for i, image in enumerate(data.test_images)}

        class Oracle(torch.nn.Module):
            def forward(self, images):
                index = [first[image.cpu().numpy().tobytes()] for image in images]  # noqa: B023
                angle, label = data.test_angles[index], data.test_labels[index]  # noqa: B023
                pose = mario_poses(modes)[label, torch.randint(modes, (len(index),))]  # noqa: B023
                return Around(wrap((pose - angle) / 180), pose.new_tensor(90 / modes / 180))  # noqa: B023

        class Around(torch.distributions.Distribution):
            def __init__(self, centre, reach):
                self.centre, self.reach = centre, reach
                super().__init__(centre.shape, torch.Size([1]), validate_args=False)

            def sample(self, shape=()):
                other = 2 / modes * torch.randint(modes, (*shape, *self.centre.shape))  # noqa: B023
                offset = self.reach * (2 * torch.rand(*shape, *self.centre.shape) - 1)
                return wrap(self.centre + other + offset).unsqueeze(-1)

        model = experiment.build("flow")
        model.q = Oracle()
        found = experiment.measure(model, data)
        assert found["range_reached"] > 0.97 and found["share_inside"] > 0.99
        assert found["effective_modes"] == pytest.approx(modes, abs=0.05)


STORED = [
    (path.parent.name, path.stem) for path in sorted(results_folder().glob("*/*.json")) if path.parent.name != "speed"
]
assert {(EXPERIMENT, "quick"), (EXPERIMENT, "full")} <= set(STORED)


@pytest.mark.parametrize(("name", "profile"), STORED)
def test_stored_results_are_complete_and_traceable(name, profile):
    experiment = EXPERIMENTS[name]
    entries = stored(name, profile)
    assert [(e["guide"], e["seed"]) for e in entries] == [(row, s) for row in experiment.guides for s in SEEDS]
    for entry in entries:
        settings = experiment.settings(profile, entry["seed"])
        now = [asdict(settings), list(experiment.guides[entry["guide"]]), experiment.family]
        # A setting that did not exist then had its default.
        then = [asdict(Settings()) | entry["settings"], entry["options"], entry["family"]]
        assert then == now, "these changed: run the experiment again"
        assert entry["revision"] != "unknown" and "dirty" not in entry["revision"] and entry["device"] and entry["date"]
        assert entry["wall_seconds"] < 20 * 60
        assert (
            name != EXPERIMENT
            or {"quick": "embedded sample): 5,000", "full": "MNIST: 29,953"}[profile] in entry["data"]
        )


@pytest.mark.parametrize("profile", ["quick", "full"])
def test_stored_results_show_selective_invariance(profile):
    for entry in stored(EXPERIMENT, profile):
        if entry["guide"] == "flow":
            width = entry["metrics"]["width_degrees"]
            assert all(width[d] > 140 for d in "015") and all(70 < width[d] < 115 for d in "69"), (entry["seed"], width)
