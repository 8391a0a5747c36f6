"""Laws of the command line for one's own folders: fit, its page, predict."""

import csv
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file

from flowinv import InvariantClassifier, from_classifier, load_folder, load_model, save_model
from flowinv.__main__ import main
from flowinv.data import DataWarning
from flowinv.explanation import ranges

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.filterwarnings("ignore::flowinv.training.TrainingWarning")


@pytest.fixture
def photos(tmp_path):
    """Twelve small pictures to train on, eight to test: bright ones and <dark> ones."""
    generator = torch.Generator().manual_seed(0)
    for split, number in (("train", 6), ("test", 4)):
        for name, light in (("bright", 0.5), ("<dark>", 0.0)):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for i in range(number):
                image = light + 0.5 * torch.rand(3, 20, 16, generator=generator)
                torchvision.utils.save_image(image, tmp_path / "photos" / split / name / f"{i}.png")
    return tmp_path / "photos"


FIT = ["--family", "rotation", "--size", "16", "--epochs", "3", "--batch-size", "8"]


def call(*arguments):
    return main([str(argument) for argument in arguments])


def test_fit_leaves_a_model_and_a_page_and_predict_a_line_an_image(photos, tmp_path, capsys):
    """What the table says is what the model says of the same images."""
    out = tmp_path / "out" / "model.safetensors"
    assert call("fit", photos, "--out", out, *FIT) == 0
    assert {path.name for path in out.parent.iterdir()} == {"model.safetensors", "model.html"}
    page = out.with_suffix(".html").read_text()
    assert "&lt;dark&gt;" in page and "<dark>" not in page
    assert page.count("data:image/png") == 3 and "http" not in page
    assert f"written: {out}" in capsys.readouterr().out

    model = load_model(out)
    assert model.about["classes"] == ["<dark>", "bright"]
    csvs = tmp_path / "ranges.csv"
    assert call("predict", out, photos / "test", "--out", csvs) == 0
    with csvs.open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [line["file"] for line in lines][:5] == [
        *(f"<dark>/{i}.png" for i in range(4)),
        "bright/0.png",
    ]
    torch.manual_seed(0)
    found = ranges(model, load_folder(photos, size=16).test.images)
    low = [float(line["rotation low (° counter-clockwise)"]) for line in lines]
    torch.testing.assert_close(torch.tensor(low), found.low[:, 0], rtol=1e-4, atol=1e-3)
    assert {line["predicted"] for line in lines} <= {"<dark>", "bright"}
    before = csvs.read_bytes()
    assert call("predict", out, photos / "test", "--out", csvs) == 0
    assert csvs.read_bytes() == before


@pytest.mark.parametrize("name", ["model.html", "model.checkpoint", "model-0.1"])
def test_a_models_name_that_its_page_or_checkpoint_would_take_is_refused(
    photos, tmp_path, capsys, name
):
    assert call("fit", photos, "--out", tmp_path / name, *FIT) == 1
    assert "expected a file's name that ends in .safetensors" in capsys.readouterr().err
    (tmp_path / "model.html").write_text("My own page.")
    assert call("fit", photos, "--out", tmp_path / "model.safetensors", *FIT) == 1
    assert "model.html is there already" in capsys.readouterr().err
    assert (tmp_path / "model.html").read_text() == "My own page."


def test_fit_learns_from_all_images_but_those_of_the_test(photos, tmp_path, monkeypatch):
    from flowinv.deployment import folders

    seen = []

    def watch(model, split, *more, **others):
        seen.append(len(split))
        return fit(model, split, *more, **others)

    fit = folders.fit
    monkeypatch.setattr(folders, "fit", watch)
    assert call("fit", photos, "--out", tmp_path / "m.safetensors", *FIT) == 0
    assert seen == [12]


def test_to_predict_for_a_folder_that_is_not_there_is_refused(photos, tmp_path, capsys):
    out = tmp_path / "m.safetensors"
    assert call("fit", photos, "--out", out, *FIT) == 0
    assert call("predict", out, tmp_path / "none", "--out", tmp_path / "t.csv") == 1
    assert "none is no folder" in capsys.readouterr().err


KILLED = """
import os, signal, sys
from flowinv.training import loop
save = loop.save_checkpoint
def save_and_die(path, run):
    save(path, run)
    if len(run.history) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
loop.save_checkpoint = save_and_die
from flowinv.__main__ import main
from flowinv.data import DataWarning
main(sys.argv[1:])
"""


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_a_killed_fit_leaves_whole_files_and_the_same_command_ends_at_the_same_bits(
    photos, tmp_path
):
    whole, killed = (tmp_path / name / "m.safetensors" for name in ("whole", "killed"))
    arguments = ["fit", str(photos), "--out", str(killed), *FIT]
    first = subprocess.run([sys.executable, "-c", KILLED, *arguments], cwd=ROOT)
    assert first.returncode == -signal.SIGKILL
    assert [path.name for path in killed.parent.iterdir()] == ["m.checkpoint"]
    assert call("fit", photos, "--out", killed, *FIT) == 0
    assert call("fit", photos, "--out", whole, *FIT) == 0
    one, other = load_file(killed), load_file(whole)
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert not killed.with_suffix(".checkpoint").exists()


LAUNCHED = """
import os, socket, sys
from flowinv.__main__ import main

with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
os.environ |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
children = []
for rank in ("0", "1"):
    child = os.fork()
    if not child:
        os.environ |= {"RANK": rank, "LOCAL_RANK": rank}
        os._exit(main(sys.argv[1:]))
    children.append(child)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_processes_that_are_launched_together_fit_one_model(photos, tmp_path):
    """The first writes the files, and a second launch gives the same bits."""
    models = []
    for name in ("first", "second"):
        out = tmp_path / name / "m.safetensors"
        arguments = ["fit", str(photos), "--out", str(out), *FIT]
        subprocess.run([sys.executable, "-c", LAUNCHED, *arguments], cwd=ROOT, check=True)
        assert {path.name for path in out.parent.iterdir()} == {"m.safetensors", "m.html"}
        models.append(load_file(out))
    one, other = models
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_weights_of_a_torchvision_network_stay_as_they_are(photos, tmp_path):
    network = torchvision.models.resnet18(num_classes=2)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    out = tmp_path / "m.safetensors"
    options = ["--classifier", "resnet18", "--size", "32", "--epochs", "1", "--family", "rotation"]
    weights = ["--weights", tmp_path / "weights.safetensors"]
    assert call("fit", photos, "--out", out, *options, *weights) == 0
    model = load_model(out)
    for key, value in model.classifier.network.state_dict().items():
        assert torch.equal(value, network.state_dict()[key]), key
    assert model.classifier.frozen and not model.original


SHOP = """
import torchvision
def network():
    return torchvision.models.resnet18(num_classes=2)
def seven():
    return 7
"""


def test_predict_takes_a_network_that_the_readers_code_makes(photos, tmp_path, monkeypatch, capsys):
    """The model was built around a network; its weights are those of the model's file."""
    (tmp_path / "shop_of_tests.py").write_text(SHOP)
    monkeypatch.syspath_prepend(tmp_path)
    path, csvs = tmp_path / "own.safetensors", tmp_path / "ranges.csv"
    network = torchvision.models.resnet18(num_classes=2)
    model = from_classifier(network, family="rotation", features="layer1", size=16).eval()
    save_model(model, path, {"size": 16, "classes": ["<dark>", "bright"]})
    known = ["predict", path, photos / "test", "--out", csvs]
    assert call(*known, "--network", "shop_of_tests:network") == 0
    capsys.readouterr()
    with csvs.open(newline="") as stream:
        found = [float(line["probability"]) for line in csv.DictReader(stream)]
    torch.manual_seed(0)
    expected = ranges(model, load_folder(photos, size=16).test.images).probabilities.amax(-1)
    torch.testing.assert_close(torch.tensor(found), expected, rtol=1e-4, atol=1e-4)
    before = csvs.read_bytes()
    for name, message in {
        "no_such_shop:network": "expected module:function, got 'no_such_shop:network'",
        "shop_of_tests:none": "expected module:function",
        "shop_of_tests:seven": "makes a torch.nn.Module, got a int",
    }.items():
        assert call(*known, "--network", name) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: network: ") and message in error
        assert error.count("\n") == 1
    assert call(*known) == 1
    assert "expected the classifier's network" in capsys.readouterr().err
    assert csvs.read_bytes() == before


def test_broken_files_are_left_out_where_asked_for(photos, tmp_path, capsys):
    """Of fit and of predict; padding is kept with the model."""
    for path in (photos / "train" / "bright" / "1.png", photos / "test" / "bright" / "2.png"):
        path.write_bytes(path.read_bytes()[:-40])
    out = tmp_path / "m.safetensors"
    few = ["--epochs", "1", "--workers", "0", "--pad", "--broken", "skip"]
    left_out = [pytest.warns(DataWarning, match=f"{n} files are left out") for n in (12, 8)]
    with left_out[0], left_out[1]:
        assert call("fit", photos, "--out", out, *FIT, *few) == 0
    assert load_model(out).about["pad"] is True
    table = tmp_path / "ranges.csv"
    with pytest.warns(DataWarning, match="1 of 8 files are left out.*bright/2.png"):
        assert call("predict", out, photos / "test", "--out", table, "--broken", "skip") == 0
    assert len(table.read_text().splitlines()) == 8
    table.unlink()
    assert call("predict", out, photos / "test", "--out", table) == 1
    assert "bright/2.png is no readable image" in capsys.readouterr().err
    assert not table.exists()


def test_what_cannot_be_done_is_said_in_one_line_and_leaves_no_file(photos, tmp_path, capsys):
    out = tmp_path / "m.safetensors"
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_text("no image")
    cracked = shutil.copytree(photos, tmp_path / "cracked")
    (cracked / "test" / "bright" / "0.png").write_text("")
    there = tmp_path / "there.safetensors"
    there.write_text("")
    own = tmp_path / "own.safetensors"
    save_model(InvariantClassifier.build("flow", "rotation", 3, 2), own)
    sized = tmp_path / "sized.safetensors"
    save_model(InvariantClassifier.build("flow", "rotation", 3, 2), sized, {"size": 16})
    known = {path for path in tmp_path.rglob("*")}
    wrong = [
        (["fit", tmp_path / "none", "--out", out], "is not a folder of images"),
        (["fit", cracked, "--out", out, *FIT], "1 of 8 files are no readable images: bright/0.png"),
        (["fit", photos, "--out", there, *FIT], "is there already"),
        (["fit", photos, "--out", out, "--family", "afine"], "unknown family 'afine'"),
        (["fit", photos, "--out", out, "--classifier", "resnt"], "unknown classifier 'resnt'"),
        (
            ["fit", photos, "--out", out, "--epochs", "0"],
            "epochs: expected a whole number of 1 or more, got 0",
        ),
        (
            ["fit", photos, "--out", out, "--classifier", "resnet18", "--weights", own],
            "does not hold weights of resnet18 with 2 classes",
        ),
        (["predict", there, photos], "is no saved model"),
        (["predict", own, photos], "does not say the images' size"),
        (["predict", sized, tmp_path / "empty"], "holds no images"),
        (["predict", sized, tmp_path / "bad"], "is no readable image"),
    ]
    for arguments, message in wrong:
        if arguments[0] == "predict":
            arguments += ["--out", tmp_path / "ranges.csv"]
        assert call(*arguments) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error and error.count("\n") == 1, error
        assert {path for path in tmp_path.rglob("*")} == known
