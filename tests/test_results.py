"""Runs store their results whole and traceably, go on after any stop, and what is stored holds what the book says."""

import json
import os
import re
import resource
import subprocess
import sys
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from flowinv.__main__ import main
from flowinv.lab import EXPERIMENTS, results
from flowinv.lab.report import page
from flowinv.lab.results import (
    SEEDS,
    RunError,
    jobs,
    missing,
    results_folder,
    run,
    store,
    stored,
    trained,
)
from flowinv.training import CheckpointError

ROOT = Path(__file__).parents[1]
NAME = "mario-45"  # two epochs of 200 images at ci
pytestmark = pytest.mark.filterwarnings("ignore::flowinv.training.TrainingWarning")


@pytest.fixture
def folders(tmp_path):
    return ["--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["flowinv", *map(str, arguments)])
    return main()


def entries(tmp_path, name=NAME, profile="ci"):
    return json.loads((tmp_path / "out" / name / f"{profile}.json").read_text())


def test_the_command_trains_every_row_and_stores_it_with_provenance(
    tmp_path, folders, monkeypatch, capsys
):
    assert call(monkeypatch, "train", NAME, "--profile", "ci", "--seed", 5, 3, *folders) == 0
    found = entries(tmp_path)
    assert [(e["guide"], e["seed"]) for e in found] == [
        (row, s) for row in EXPERIMENTS[NAME].guides for s in (3, 5)
    ]
    wanted = {
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
    for entry in found:
        assert entry.keys() >= wanted | {
            "images_per_second",
            "share_outside_classifier",
            "processes",
        }
        assert entry["command"].startswith(f"python -m flowinv train {NAME} --profile ci")
    assert "half width degrees" in capsys.readouterr().out
    left = sorted(path.suffix for path in (tmp_path / "runs" / NAME / "ci").iterdir())
    assert set(left) <= {".safetensors", ".lock"} and left.count(".safetensors") == 6


def test_a_second_run_replaces_its_own_entry_and_repeats_its_numbers(
    tmp_path, folders, monkeypatch
):
    found = []
    for _ in range(2):
        call(
            monkeypatch, "train", NAME, "--profile", "ci", "--guide", "flow", "--seed", 0, *folders
        )
        found.append(entries(tmp_path))
    (first,), (second,) = found
    if not torch.cuda.is_available():  # a GPU adds in any order
        assert first["metrics"] == second["metrics"]


def test_other_settings_never_replace_a_profiles_result(tmp_path, folders, monkeypatch):
    command = ["train", NAME, "--profile", "ci", "--guide", "augerino", "--seed", 0, *folders]
    call(monkeypatch, *command)
    before = (tmp_path / "out" / NAME / "ci.json").read_bytes()
    for alpha in (0.1, 0.2, 0.1):
        call(monkeypatch, *command, "--alpha", alpha, "--epochs", 2)
    assert (tmp_path / "out" / NAME / "ci.json").read_bytes() == before
    assert sorted(e["settings"]["alpha"] for e in entries(tmp_path, profile="custom")) == [0.1, 0.2]
    assert len(list((tmp_path / "runs" / NAME / "ci").glob("*.safetensors"))) == 3


def test_a_run_that_another_process_is_at_is_refused(tmp_path, folders, monkeypatch, capsys):
    (tmp_path / "runs" / NAME / "ci").mkdir(parents=True)
    with FileLock(tmp_path / "runs" / NAME / "ci" / "flow-0.lock"):
        assert (
            call(
                monkeypatch,
                "train",
                NAME,
                "--profile",
                "ci",
                "--guide",
                "flow",
                "--seed",
                0,
                *folders,
            )
            == 1
        )
    assert "another process is running" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def _store_many(path, guide):
    for seed in range(20):
        store({"guide": guide, "seed": seed}, path, ["a", "b", "c"])


def test_processes_that_store_at_once_lose_nothing(tmp_path):
    context, path = get_context("spawn"), tmp_path / "out" / "ci.json"
    processes = [context.Process(target=_store_many, args=(path, guide)) for guide in "abc"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert [(e["guide"], e["seed"]) for e in json.loads(path.read_text())] == [
        (g, s) for g in "abc" for s in range(20)
    ]


def test_a_folder_that_cannot_be_written_loses_nothing(tmp_path, folders, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    trained = []
    monkeypatch.setattr(
        results, "fit", lambda *a, fit=results.fit, **k: trained.append(fit(*a, **k)) or trained[-1]
    )
    command = ["train", NAME, "--profile", "ci", "--guide", "flow", "--seed", 0]
    assert call(monkeypatch, *command, "--out", tmp_path / "file" / "out", *folders[2:]) == 1
    assert "choose another --out folder" in capsys.readouterr().err
    assert list((tmp_path / "runs").rglob("*.checkpoint"))
    assert call(monkeypatch, *command, *folders) == 0
    assert trained[0] == trained[1], "it was trained again: its seconds differ"
    assert len(entries(tmp_path)) == 1 and not list((tmp_path / "runs").rglob("*.checkpoint"))
    assert entries(tmp_path)[0]["wall_seconds"] == round(
        sum(row["seconds"] for row in trained[0]), 1
    )
    assert call(monkeypatch, *command, *folders[:2], "--runs", tmp_path / "file" / "runs") == 1
    assert "choose another --runs folder" in capsys.readouterr().err


def command_line(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "flowinv", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        **options,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="needs limits on the size of files")
def test_a_full_disk_ends_with_a_word_and_nothing_half_written(tmp_path, folders):
    """Files may grow to 20 kB, as if no more were left: less than a checkpoint."""
    limited = command_line(
        "train", NAME, "--profile", "ci", "--guide", "flow", "--seed", 0, *folders,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000)),
    )  # fmt: skip
    assert limited.returncode == 1
    assert (
        "flow-0.checkpoint could not be written" in limited.stderr
        and "free some space" in limited.stderr
    )
    assert "Traceback" not in limited.stderr
    assert [
        path.suffix
        for path in (tmp_path / "runs" / NAME / "ci").iterdir()
        if path.suffix != ".lock"
    ] == []


def test_what_cannot_run_is_named_and_the_rest_runs(tmp_path, folders, monkeypatch, capsys):
    monkeypatch.setenv("FLOWINV_DATA", str(tmp_path / "nothing"))
    few = {
        name: replace(EXPERIMENTS[name], profiles={"full": EXPERIMENTS[name].profiles["ci"]})
        for name in EXPERIMENTS
    }
    few[NAME] = replace(
        few[NAME],
        data=lambda profile: EXPERIMENTS["mario-90"].data("ci"),
        guides={"augerino": few[NAME].guides["augerino"]},
    )
    monkeypatch.setattr(
        results, "EXPERIMENTS", {NAME: few[NAME], "tinyimagenet-crop": few["tinyimagenet-crop"]}
    )
    monkeypatch.setattr("flowinv.__main__.EXPERIMENTS", results.EXPERIMENTS)
    assert call(monkeypatch, "reproduce", "--profile", "full", "--seed", 0, *folders) == 1
    error = capsys.readouterr().err
    assert "tiny-imagenet" in error and "is not a folder of images" in error
    assert "6 of 7 runs failed: tinyimagenet-crop none, seed 0;" in error
    assert len(entries(tmp_path, profile="full")) == 1


def test_stopping_has_its_own_exit_code_and_the_same_command_goes_on(
    tmp_path, folders, monkeypatch, capsys
):
    def stop(*arguments):
        raise KeyboardInterrupt

    command = ["train", NAME, "--profile", "ci", "--guide", "flow", "--seed", 0, *folders]
    monkeypatch.setattr(results, "save_weights", stop)
    assert call(monkeypatch, *command) == 130
    assert "the same command with --missing goes on" in capsys.readouterr().err
    monkeypatch.undo()
    (tmp_path / "out").mkdir()
    assert call(monkeypatch, *command, "--missing") == 0
    assert (
        call(monkeypatch, *command, "--missing") == 0
        and "nothing to run" in capsys.readouterr().out
    )


def test_unknown_names_are_errors_that_list_the_known(tmp_path, monkeypatch, capsys):
    for arguments in (
        ["train", "mnst"],
        ["train", NAME, "--profile", "huge"],
        ["retrain"],
        ["reproduce", "--missing", "1", "x"],
    ):
        with pytest.raises(SystemExit) as stopped:
            code = call(monkeypatch, *arguments)
            raise SystemExit(code)
        assert stopped.value.code in (1, 2)
    capsys.readouterr()
    assert call(monkeypatch, "train", NAME, "--guide", "flw") == 1
    assert (
        capsys.readouterr().err
        == "error: unknown guide 'flw': expected one of augerino, instaaug, flow\n"
    )
    assert call(monkeypatch, "train", NAME, "--profile", "reduced") == 1
    assert "unknown profile 'reduced': expected one of ci, quick, full" in capsys.readouterr().err
    with pytest.raises(ValueError, match="unknown experiment 'mnst': expected one of"):
        stored("mnst", "quick")
    assert call(monkeypatch, "reproduce", "mnist", "--profile", "reduced") == 1
    assert "unknown profile 'reduced'" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="make them with python -m flowinv train"):
        stored(NAME, "ci", tmp_path)


def test_evaluate_measures_the_same_again_from_the_weights(tmp_path, folders, monkeypatch, capsys):
    command = [NAME, "--profile", "ci", "--guide", "flow", "--seed", 0]
    assert call(monkeypatch, "evaluate", *command, *folders) == 1
    assert (
        "train it with python -m flowinv train mario-45 --profile ci --guide 'flow' --seed 0"
        in capsys.readouterr().err
    )
    call(monkeypatch, "train", *command, *folders)
    trained = capsys.readouterr().out.split(" s, ", 1)[1]
    assert call(monkeypatch, "evaluate", *command, *folders) == 0
    assert capsys.readouterr().out.split("seed 0: ", 1)[1] == trained
    (weights,) = (tmp_path / "runs" / NAME / "ci").glob("*.safetensors")
    changed = replace(
        EXPERIMENTS[NAME], profiles={"ci": replace(EXPERIMENTS[NAME].profiles["ci"], alpha=0.1)}
    )
    with monkeypatch.context() as patch:
        patch.setitem(EXPERIMENTS, NAME, changed)
        assert call(patch, "evaluate", *command, *folders) == 1
        assert "settings that the profile no longer has" in capsys.readouterr().err
        assert (
            call(patch, "evaluate", *command, "--alpha", 0.3, *folders) == 1
        )  # now a change, with a file of its own
        assert "is not there" in capsys.readouterr().err
    weights.write_bytes(weights.read_bytes()[:100])
    assert (
        call(monkeypatch, "evaluate", *command, *folders) == 1
        and "no readable weights" in capsys.readouterr().err
    )


def test_weights_are_kept_beside_the_result_where_the_book_finds_them(
    tmp_path, folders, monkeypatch, capsys
):
    assert (
        call(
            monkeypatch,
            "train",
            NAME,
            "--profile",
            "ci",
            "--guide",
            "flow",
            "--seed",
            4,
            "--keep",
            *folders,
        )
        == 0
    )
    (entry,), data = entries(tmp_path), EXPERIMENTS[NAME].data("ci")
    with pytest.raises(
        RunError, match=r"is not there: train it with .* --guide 'flow' --seed 4 --keep"
    ):
        trained(NAME, "ci", "flow", data, seed=4)
    monkeypatch.setattr(results, "results_folder", lambda: tmp_path / "out")
    model = trained(NAME, "ci", "flow", data, seed=4)
    assert (
        not model.training and results.measured(EXPERIMENTS[NAME], model, data) == entry["metrics"]
    )
    assert stored(NAME, "ci", tmp_path / "out") == [entry]  # weights are no result


def test_missing_is_what_has_no_result_with_the_settings_of_now(tmp_path, folders, monkeypatch):
    call(monkeypatch, "train", NAME, "--profile", "ci", "--seed", 0, *folders)
    call(
        monkeypatch,
        "train",
        "mario-90",
        "--profile",
        "ci",
        "--guide",
        "flow",
        "--seed",
        0,
        *folders,
    )
    names, out = (NAME, "mario-90"), tmp_path / "out"
    assert missing(jobs("ci", (0, 1), names), "ci", out) == [
        ("mario-90", "augerino", 0), ("mario-90", "instaaug", 0),
        *[(name, row, 1) for name in names for row in ("augerino", "instaaug", "flow")],
    ]  # fmt: skip
    other = ["--guide", "augerino", "--seed", 0, "--profile", "ci", "--alpha", 0.1, *folders]
    call(monkeypatch, "train", NAME, *other)
    one = [(NAME, "augerino", 0)]
    assert (
        missing(one, "ci", out, {"alpha": 0.1}) == []
        and missing(one, "ci", out, {"alpha": 0.2}) == one
    )
    changed = replace(
        EXPERIMENTS[NAME], profiles={"ci": replace(EXPERIMENTS[NAME].profiles["ci"], samples=3)}
    )
    monkeypatch.setitem(EXPERIMENTS, NAME, changed)
    assert len(missing(jobs("ci", (0,), names), "ci", out)) == 5
    assert len(jobs("ci", (0,))) == sum(len(e.guides) for e in EXPERIMENTS.values())
    assert call(monkeypatch, "reproduce", "mario-90", "--profile", "ci", "--missing", *folders) == 0
    assert [name for name, *_ in missing(jobs("ci", (0,), names), "ci", out)] == [NAME] * 3


def test_a_change_to_what_the_profile_has_is_no_change(tmp_path, folders, monkeypatch):
    epochs = EXPERIMENTS[NAME].profiles["ci"].epochs
    call(
        monkeypatch,
        "train",
        NAME,
        "--profile",
        "ci",
        "--guide",
        "flow",
        "--seed",
        0,
        "--epochs",
        epochs,
        *folders,
    )
    assert len(entries(tmp_path)) == 1 and not (tmp_path / "out" / NAME / "custom.json").exists()


def test_a_row_of_another_branch_stays(tmp_path):
    path = tmp_path / "ci.json"
    for guide in ("b", "unknown", "a"):
        store({"guide": guide, "seed": 0}, path, ["a", "b"])
    assert [e["guide"] for e in json.loads(path.read_text())] == ["a", "b", "unknown"]


def test_list_names_every_experiment(folders, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    call(monkeypatch, "train", NAME, "--profile", "ci", "--guide", "flow", "--seed", 0, *folders)
    capsys.readouterr()
    assert call(monkeypatch, "list", *folders) == 0
    out = capsys.readouterr().out
    assert (
        all(name in out for name in EXPERIMENTS)
        and "ci 1" in out
        and out.count("none yet") == len(EXPERIMENTS) - 1
    )


def test_the_report_is_computed_from_the_results(tmp_path, folders, monkeypatch):
    call(monkeypatch, "train", NAME, "--profile", "ci", "--guide", "flow", "--seed", 0, *folders)
    (entry,) = entries(tmp_path)
    made = []
    for seed, width in enumerate((80.0, 90.0, 100.0)):
        made.append(
            entry | {"seed": seed, "profile": "quick", "metrics": {"half_width_degrees": width}}
        )
    (tmp_path / "out" / NAME / "quick.json").write_text(json.dumps(made))
    assert call(monkeypatch, "report", *folders) == 0
    text = (tmp_path / "out.md").read_text()
    assert "| flow |  | not yet run at full scale | 90.0 ± 10.0, n = 3 (quick) |" in text
    assert f"revision {entry['revision']}" in text and "(ci)" not in text
    made = [e | {"profile": "full"} for e in made[:1]]
    (tmp_path / "out" / NAME / "full.json").write_text(json.dumps(made))
    call(monkeypatch, "report", *folders)
    assert (
        "| flow |  | 80.0, n = 1 | 90.0 ± 10.0, n = 3 (quick) |"
        in (tmp_path / "out.md").read_text()
    )
    assert call(monkeypatch, "report", "--out", tmp_path / "none") == 1


def test_the_books_page_of_results_is_that_of_the_stored_results():
    assert (ROOT / "book" / "results.md").read_text() == page(results_folder()), (
        "run python -m flowinv report"
    )


@pytest.mark.parametrize(
    ("name", "row"), [(NAME, "flow"), ("cifar10", "flow"), ("mnist", "instaaug")]
)
def test_two_processes_make_the_steps_of_one(name, row, tmp_path):
    """Each has half of every batch; one process that takes the batches in the same halves draws the same numbers."""
    samples, batch = EXPERIMENTS[name].settings("ci", row).samples, 8
    assert (
        len(EXPERIMENTS[name].data("ci").train.labels) % batch == 0
    )  # so that `chunk` makes halves of every batch
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "flowinv",
    ]
    command = [
        "train",
        name,
        "--profile",
        "ci",
        "--guide",
        row,
        "--seed",
        "0",
        "--batch-size",
        str(batch),
    ]
    where = ["--out", tmp_path / "two", "--runs", tmp_path / "two" / "runs"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, *command, *where], capture_output=True, text=True, env=environment, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-3000:]
    changes = {"batch_size": batch, "chunk": batch // 2 * samples}
    run(name, "ci", row, 0, tmp_path / "one", tmp_path / "one" / "runs", changes)
    weights = [
        load_file(next((tmp_path / way / "runs").rglob("*.safetensors"))) for way in ("one", "two")
    ]
    experiment = EXPERIMENTS[name]
    start = experiment.build(row, "ci", experiment.data("ci"), 0).state_dict()
    for key, one in weights[
        0
    ].items():  # sums in another order differ a little, and Adam enlarges the smallest
        apart, moved = (one - weights[1][key]).norm(), (one - start[key]).norm()
        assert apart < 0.05 * moved + 1e-4, key
    one, two = (
        json.loads((tmp_path / way / name / "custom.json").read_text())[0] for way in ("one", "two")
    )
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["final_loss"] == pytest.approx(two["final_loss"], abs=1e-4)


AGREE = """
import torch
from accelerate import Accelerator
from flowinv.lab import EXPERIMENTS
from flowinv.training import fit
accelerator = Accelerator(cpu=True)
experiment = EXPERIMENTS["cifar10-13layer"]  # which has batch normalisation
data = experiment.data("ci")
model = experiment.build("flow", "ci", data, seed=accelerator.process_index)
first = torch.nn.utils.parameters_to_vector(model.parameters())[None]
assert (accelerator.gather(first)[0] != accelerator.gather(first)[1]).any()
fit(model, data.train.images, data.train.labels, experiment.settings("ci", "flow"), accelerator=accelerator, progress=False)
state = torch.cat([tensor.flatten().double() for tensor in model.state_dict().values()])[None]
a, b = accelerator.gather(state)
assert torch.equal(a, b) and a.isfinite().all(), (a - b).abs().max()
"""


def test_processes_end_with_the_same_model_whatever_they_began_with(tmp_path):
    """Weights, and the running statistics of batch normalisation, which each has of its own parts."""
    (tmp_path / "agree.py").write_text(AGREE)
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*launch, tmp_path / "agree.py"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]


KILLED = """
import os, random, signal, sys, time
from accelerate import Accelerator
from flowinv.__main__ import main

random.seed({seed})
out, kills, runs = sys.argv[1], 0, 0


def start():
    child = os.fork()
    if child:
        return child
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os._exit(main(["train", "mnist-selective", "--profile", "ci", "--guide", "flow", "--seed", "0", "--epochs", "8",
                   "--out", out + "/" + str(runs), "--runs", out + "/runs" + str(runs)]))


begin = time.monotonic()  # how long it takes without a kill, to choose moments within
assert os.waitstatus_to_exitcode(os.waitpid(start(), 0)[1]) == 0
whole, runs = time.monotonic() - begin, 1
while kills < 20:
    child = start()
    time.sleep(random.uniform(0, 0.5 * whole))
    if os.waitpid(child, os.WNOHANG) == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1
    else:
        runs += 1
assert os.waitstatus_to_exitcode(os.waitpid(start(), 0)[1]) == 0
print(kills, runs)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_killed_at_random_moments_ends_at_the_same_bits(tmp_path):
    """At least 20 times kill −9, in training or writing; each run that was killed is then bit for bit the one that was not."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
    }
    done = subprocess.run(
        [sys.executable, "-c", KILLED.format(seed=0), tmp_path],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    kills, runs = map(int, done.stdout.split())
    print(f"{kills} kills in {runs} runs after the first")
    assert kills >= 20
    weights = sorted(tmp_path.rglob("*.safetensors"))
    assert len(weights) == runs + 1 and len({path.read_bytes() for path in weights}) == 1
    metrics = [json.loads(path.read_text())[0]["metrics"] for path in tmp_path.rglob("custom.json")]
    assert len(metrics) == runs + 1 and all(m == metrics[0] for m in metrics)
    assert not list(tmp_path.rglob("*.checkpoint")) and not list(tmp_path.rglob("*.part"))


STORED = [
    (path.parent.name, path.stem)
    for path in sorted(results_folder().glob("*/*.json"))
    if path.parent.name != "speed" and path.stem not in ("ci", "custom")
]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_quick_results_of_every_row_and_seed_are_stored(name):
    assert [(e["guide"], e["seed"]) for e in stored(name, "quick")] == [
        (row, s) for row in EXPERIMENTS[name].guides for s in SEEDS
    ]


@pytest.mark.parametrize(("name", "profile"), STORED)
def test_stored_results_are_complete_and_traceable(name, profile):
    experiment = EXPERIMENTS[name]
    found = stored(name, profile)
    assert len({(e["guide"], e["seed"]) for e in found}) == len(found)
    for entry in found:
        settings = experiment.settings(profile, entry["guide"], entry["seed"])
        assert results.current(name, settings, entry), (
            "its settings have changed since: run it again"
        )
        assert entry["guide"] in experiment.guides and experiment.score in entry["metrics"]
        assert (
            entry["revision"] != "unknown"
            and "dirty" not in entry["revision"]
            and entry["device"]
            and entry["date"]
        )


WEIGHTS = sorted((ROOT / "book" / "results").glob("*/*/*.safetensors"))


@pytest.mark.parametrize("path", WEIGHTS, ids=lambda path: "/".join(path.parts[-3:]))
def test_stored_weights_are_of_a_stored_result(path):
    """Made with the settings of now, and by the run whose result stands beside them."""
    name, profile = path.parts[-3:-1]
    seed = int(path.stem.rpartition("-")[2])
    (entry,) = (
        e
        for e in stored(name, profile)
        if e["seed"] == seed
        and path.name
        == results.weights_file(
            ROOT, name, profile, e["guide"], EXPERIMENTS[name].settings(profile, e["guide"], seed)
        ).name
    )
    data = EXPERIMENTS[name].data("ci")
    model = trained(name, profile, entry["guide"], data, seed)
    if name.startswith("mario-"):  # quick to measure
        data = EXPERIMENTS[name].data(profile)
        found = results.measured(EXPERIMENTS[name], model, data)
        assert found == pytest.approx(entry["metrics"], rel=0.02)


@pytest.mark.parametrize("profile", ["quick", "full"])
def test_stored_results_show_selective_invariance(profile):
    for entry in stored("mnist-selective", profile):
        assert {"quick": "embedded sample): 5,000", "full": "MNIST: 29,953"}[profile] in entry[
            "data"
        ]
        if entry["guide"] == "flow":
            width = entry["metrics"]["width_degrees"]
            assert all(width[d] > 140 for d in "015") and all(70 < width[d] < 115 for d in "69"), (
                entry["seed"],
                width,
            )


def markdown(path):
    if path.suffix == ".md":
        return path.read_text()
    cells = json.loads(path.read_text())["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


PAGES = [
    p
    for p in sorted((ROOT / "book").glob("*"))
    if p.suffix in (".md", ".ipynb") and p.name != "results.md"
]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_number_quoted_from_results_is_in_them(path):
    """A quoted number names its source, <!-- experiment/profile row metric -->, and is the mean over the stored seeds."""
    text = re.sub(r"```.*?```", "", markdown(path), flags=re.S)
    quote = re.compile(r"([\d.,]*\d)\s*(?:°|%)?<!-- ([\w-]+)/(\w+) (.+?) ([\w.]+) -->")
    for number, name, profile, row, metric in quote.findall(text):
        values = []
        for entry in stored(name, profile):
            value = entry["metrics"]
            for key in metric.split("."):
                value = value[key]
            values += [value] if entry["guide"] == row else []
        digits = len(number.partition(".")[2])
        assert round(sum(values) / len(values), digits) == float(number.replace(",", "")), (
            number,
            name,
            profile,
            row,
            metric,
        )
    unmarked = re.search(r"\d\.\d+ ?(%|°|degrees|seconds|nats|times)(?!<!--)", text)
    assert not unmarked, (
        f"where does {unmarked and unmarked[0]} come from? name the result, or compute it on the page"
    )


def test_some_numbers_are_quoted():
    assert (
        "<!-- mnist-selective/quick flow width_degrees.6 -->"
        in (ROOT / "book" / "intro.md").read_text()
    )


def test_a_checkpoint_of_another_model_is_named(tmp_path):
    run(NAME, "ci", "augerino", 0, tmp_path, tmp_path / "runs")
    (weights,) = (tmp_path / "runs").rglob("*.safetensors")
    weights.rename(weights.with_name("flow-0.safetensors"))
    with pytest.raises(CheckpointError, match="holds another model"):
        results.evaluate(NAME, "ci", "flow", 0, tmp_path / "runs")
    with pytest.raises(RunError, match="is not there"):
        results.evaluate(NAME, "ci", "augerino", 0, tmp_path / "runs")
