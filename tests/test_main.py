"""The command line does what it says, and says in one line what it cannot do."""

import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from flowinv.__main__ import main
from flowinv.checks import with_extra
from flowinv.lab import EXPERIMENTS, report, runs

ROOT = Path(__file__).parents[1]
NAME = "mario-45"  # two epochs of 200 images at ci
ROWS = ("augerino", "instaaug", "flow")
FLOW = [NAME, "--profile", "ci", "--row", "flow", "--seed", 0]
pytestmark = pytest.mark.filterwarnings("ignore::flowinv.training.TrainingWarning")


@pytest.fixture
def folders(tmp_path):
    return ["--out", tmp_path / "out", "--runs", tmp_path / "runs"]


@pytest.fixture
def call(monkeypatch):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["flowinv", *map(str, arguments)])
        return main()

    return call


def entries(tmp_path, profile="ci"):
    return json.loads((tmp_path / "out" / NAME / f"{profile}.json").read_text())


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def command_line(*arguments, code="", **options):
    start = ["-c", code] if code else ["-m", "flowinv"]
    command = [sys.executable, *start, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, **options)


def test_the_command_trains_every_row_and_stores_it_with_provenance(
    tmp_path, folders, call, capsys
):
    assert call("train", NAME, "--profile", "ci", "--seed", 5, 3, *folders) == 0
    found = entries(tmp_path)
    expected = [(row, seed) for row in ROWS for seed in (3, 5)]
    assert [(entry["row"], entry["seed"]) for entry in found] == expected
    made_by = {"device", "versions", "revision", "command", "date", "processes"}
    measured = {"metrics", "epochs", "wall_seconds", "images_per_second"}
    for entry in found:
        assert entry.keys() >= made_by | measured | {"options", "family", "settings"}
        assert entry["command"].startswith(f"python -m flowinv train {NAME} --profile ci")
    assert "half width degrees" in capsys.readouterr().out
    left = [path.suffix for path in files(tmp_path / "runs")]
    assert set(left) <= {".safetensors", ".lock"} and left.count(".safetensors") == 6


@pytest.mark.parametrize("asked", [[], ["--compile"]])
def test_a_run_is_compiled_where_that_is_asked_for(asked, folders, call, monkeypatch):
    compiled = []

    def fit(*data, compile, **rest):
        compiled.append(compile)
        return train(*data, **rest)

    train = runs.fit
    monkeypatch.setattr(runs, "fit", fit)
    assert call("train", *FLOW, *asked, *folders) == 0
    assert compiled == [bool(asked)]


WRONG = [
    (["train", NAME, "--epochs", -1], "epochs: expected a whole number of 1 or more, got -1"),
    (["train", NAME, "--lr", "inf"], "lr: expected a finite number, got inf"),
    (["train", NAME, "--alpha", "inf"], "alpha: expected a finite number, got inf"),
    (["train", NAME, "--seed", 0, -1], "seed: expected a whole number of 0 or more, got -1"),
    (["train", NAME, "--row", "flow", "flw"], "unknown row 'flw': expected one of none, "),
    (["reproduce", NAME, "mnst"], "unknown experiment 'mnst': expected one of mario-45, "),
    (["reproduce", NAME, "--seed", 0, -1], "seed: expected a whole number of 0 or more, got -1"),
    (["evaluate", NAME, "--row", "flow", "flw"], "unknown row 'flw': expected one of none, "),
    (["evaluate", NAME, "--epochs", -1], "epochs: expected a whole number of 1 or more, got -1"),
]


@pytest.mark.parametrize(("arguments", "error"), WRONG)
def test_a_wrong_setting_is_named_once_before_the_first_run(
    arguments, error, tmp_path, folders, call, capsys
):
    assert call(*arguments, "--profile", "ci", *folders) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith(f"error: {error}") and shown.err.count("\n") == 1
    assert not shown.out and not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["train", "reproduce", "evaluate"])
def test_a_profile_that_an_experiment_lacks_is_named_once(command, tmp_path, folders, call, capsys):
    assert call(command, NAME, "--profile", "long", *folders) == 1
    error = "error: unknown profile 'long': expected one of ci, quick, full, reduced\n"
    assert capsys.readouterr().err == error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "mnst"],
        ["train", NAME, "--profile", "huge"],
        ["retrain"],
        ["reproduce", "--missing", "1"],
    ],
    ids=" ".join,
)
def test_what_the_command_does_not_know_is_refused(arguments, call):
    with pytest.raises(SystemExit) as stopped:
        raise SystemExit(call(*arguments))
    assert stopped.value.code in (1, 2)


def test_what_cannot_run_is_named_and_the_rest_runs(tmp_path, folders, call, monkeypatch, capsys):
    monkeypatch.setenv("FLOWINV_DATA", str(tmp_path / "nothing"))
    name = "tinyimagenet-crop"
    mario = replace(EXPERIMENTS[NAME], data=lambda profile: EXPERIMENTS["mario-90"].data("ci"))
    for experiment, rows in ((mario, ["augerino"]), (EXPERIMENTS[name], ["none", "flow"])):
        few = replace(
            experiment,
            rows={row: experiment.rows[row] for row in rows},
            profiles={"full": experiment.profiles["ci"]},
        )
        monkeypatch.setitem(EXPERIMENTS, NAME if experiment is mario else name, few)
    assert call("reproduce", NAME, name, "--profile", "full", "--seed", 0, *folders) == 1
    error = capsys.readouterr().err
    assert "tiny-imagenet" in error and "is not a folder of images" in error
    assert f"2 of 3 runs failed: {name} none, seed 0; {name} flow, seed 0\n" in error
    assert len(entries(tmp_path, "full")) == 1


def test_stopping_has_its_own_exit_code_and_the_same_command_goes_on(
    tmp_path, folders, call, monkeypatch, capsys
):
    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runs, "save_weights", stop)
        assert call("train", *FLOW, *folders) == 130
    assert "the same command goes on from the last epoch" in capsys.readouterr().err
    assert call("train", *FLOW, *folders, "--missing") == 0
    assert len(entries(tmp_path)) == 1
    assert call("train", *FLOW, *folders, "--missing") == 0
    assert "nothing to run" in capsys.readouterr().out


def test_a_failure_that_only_one_run_has_is_said_with_its_name(tmp_path, folders, call, capsys):
    (tmp_path / "file").write_text("")
    assert call("train", *FLOW, "--out", tmp_path / "file" / "out", *folders[2:]) == 1
    error = capsys.readouterr().err
    assert error.startswith("mario-45 flow, seed 0: error: ")
    assert "choose another --out folder" in error


def test_evaluate_prints_what_train_did(folders, call, capsys):
    assert call("evaluate", *FLOW, *folders) == 1
    assert "is not there: train it with" in capsys.readouterr().err
    call("train", *FLOW, *folders)
    trained = capsys.readouterr().out.split(" s, ", 1)[1]
    assert call("evaluate", *FLOW, *folders) == 0
    assert capsys.readouterr().out.split("seed 0: ", 1)[1] == trained


def test_list_names_every_experiment(folders, call, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    call("train", *FLOW, *folders)
    capsys.readouterr()
    assert call("list", *folders) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in EXPERIMENTS)
    assert "ci 1" in out and out.count("none yet") == len(EXPERIMENTS) - 1


def test_the_report_is_computed_from_the_results(tmp_path, folders, call, capsys):
    call("train", *FLOW, *folders)
    (entry,) = entries(tmp_path)
    made = []
    for seed, width in enumerate((80.0, 90.0, 100.0)):
        metrics = {"half_width_degrees": width}
        made.append(entry | {"seed": seed, "profile": "quick", "metrics": metrics})
    (tmp_path / "out" / NAME / "quick.json").write_text(json.dumps(made))
    assert call("report", *folders) == 0
    path = tmp_path / "results.md"
    text = path.read_text()
    assert "| row | quick |" in text and "| flow | 90.0 ± 10.0, n = 3 |" in text
    assert f"revision {entry['revision']}" in text and "(ci)" not in text

    path.write_text(f"My words.\n\n{text}")
    full = [entry | {"profile": "full"} for entry in made[:1]]
    (tmp_path / "out" / NAME / "full.json").write_text(json.dumps(full))
    call("report", *folders)
    assert "| flow | 80.0, n = 1 | 90.0 ± 10.0, n = 3 |" in path.read_text()
    assert path.read_text().startswith(f"My words.\n\n{report.START}")

    path.write_text("My words.")
    assert call("report", *folders) == 1 and path.read_text() == "My words."
    assert "expected a page with two marks" in capsys.readouterr().err
    assert call("report", "--out", tmp_path / "none") == 1


def test_choose_tries_every_alpha_and_says_what_the_rule_takes(tmp_path, folders, call, capsys):
    assert call("choose", "mnist-dial-2", "--profile", "ci", "--row", "augerino", *folders) == 0
    assert "mnist-dial-2 augerino: alpha " in capsys.readouterr().out
    call("report", *folders)
    assert report.START in (tmp_path / "choices.md").read_text()


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (["depth", "--profile", "ci"], "of which several α are tried"),
        (["mnist-dial-2", "--profile", "ci", "--row", "none"], "of which several α are tried"),
        (["mnist-selective", "--profile", "quick"], "keeps no validation images at quick"),
    ],
)
def test_where_there_is_nothing_to_choose_by_it_is_refused(
    tmp_path, folders, call, capsys, asked, reason
):
    assert call("choose", *asked, *folders) == 1
    assert reason in capsys.readouterr().err and not files(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="needs limits on the size of files")
def test_a_full_disk_ends_with_a_word_and_nothing_half_written(tmp_path, folders):
    """Files may grow to 20 kB, as if no more were left: less than a checkpoint."""
    size = (20000, 20000)
    limited = command_line(
        "train",
        *FLOW,
        *folders,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, size),
    )
    assert limited.returncode == 1 and "Traceback" not in limited.stderr
    assert "flow-0.checkpoint could not be written" in limited.stderr
    assert "free some space" in limited.stderr
    assert {path.suffix for path in files(tmp_path)} <= {".lock"}


BLOCKED = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("accelerate", "filelock", "rich", "tyro"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Block())
"""

WITHOUT = """
import pkgutil
from importlib import import_module
from pathlib import Path
import flowinv
for module in pkgutil.walk_packages(flowinv.__path__, "flowinv."):
    if module.name != "flowinv.__main__":
        import_module(module.name)
from flowinv.data import mario_iggy
from flowinv.lab import Job, run, stored, trained
assert stored("mario-90", "quick")
trained("mario-90", "quick", "augerino", mario_iggy(90, train=1, test=1, sample=True))
try:
    run(Job("mario-45", "ci", "flow"), Path("out"), Path("runs"))
except ModuleNotFoundError as error:
    print(error)
"""


def test_what_chapters_do_works_without_the_extra_and_a_run_names_it():
    without = command_line(code=BLOCKED + WITHOUT)
    assert without.returncode == 0, without.stderr
    assert without.stdout == f"filelock is missing: {with_extra('lab')}\n"


def test_without_the_extra_the_command_ends_with_a_word():
    start = "import runpy; runpy.run_module('flowinv', run_name='__main__')"
    without = command_line("list", code=BLOCKED + start)
    assert without.returncode == 1
    message = f"error: tyro is missing: {with_extra('lab')}\n"
    assert without.stderr == message


@pytest.mark.parametrize("name", ["accelerate", "filelock"])
def test_a_missing_part_of_the_extra_is_named_once(
    name, tmp_path, folders, call, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, name, None)
    assert call("train", NAME, "--profile", "ci", *folders) == 1
    message = f"error: {name} is missing: {with_extra('lab')}"
    assert capsys.readouterr().err.strip() == message
    assert not files(tmp_path)
