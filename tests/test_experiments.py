"""Named experiments run, store their results whole, and what is stored holds what the book says."""

import json
import sys
from dataclasses import asdict

import pytest
import torch

from flowinv import experiments
from flowinv.__main__ import main
from flowinv.experiments import EXPERIMENTS, SEEDS, stored
from flowinv.training import Settings

EXPERIMENT = "mnist-selective"


@pytest.fixture
def short(monkeypatch):
    """The experiment with a handful of images, so that a run takes a second."""
    data = experiments.Experiment.data

    def few(self, profile):
        digits = data(self, "ci")
        return experiments.replace(
            digits,
            train_images=digits.train_images[:128],
            train_labels=digits.train_labels[:128],
            test_images=digits.test_images[:100],
            test_labels=digits.test_labels[:100],
        )

    monkeypatch.setattr(experiments.Experiment, "data", few)


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
    assert "half-widths 0: 0°" in capsys.readouterr().out


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


@pytest.mark.parametrize("profile", ["quick", "full"])
def test_stored_results_are_complete_and_traceable(profile):
    experiment = EXPERIMENTS[EXPERIMENT]
    entries = stored(EXPERIMENT, profile)
    assert [(e["guide"], e["seed"]) for e in entries] == [(row, s) for row in experiment.guides for s in SEEDS]
    for entry in entries:
        settings = experiment.settings(profile, entry["seed"])
        now = [asdict(settings), list(experiment.guides[entry["guide"]]), experiment.family]
        # A setting that did not exist then had its default.
        then = [asdict(Settings()) | entry["settings"], entry["options"], entry["family"]]
        assert then == now, "these changed: run the experiment again"
        assert ("embedded sample): 5,000" if profile == "quick" else "MNIST: 29,953") in entry["data"]
        assert entry["revision"] != "unknown" and "dirty" not in entry["revision"] and entry["device"] and entry["date"]
        assert entry["wall_seconds"] < 20 * 60


@pytest.mark.parametrize("profile", ["quick", "full"])
def test_stored_results_show_selective_invariance(profile):
    for entry in stored(EXPERIMENT, profile):
        if entry["guide"] == "flow":
            width = entry["metrics"]["width_degrees"]
            assert all(width[d] > 140 for d in "015") and all(70 < width[d] < 115 for d in "69"), (entry["seed"], width)
