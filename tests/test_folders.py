"""Laws of the command line for one's own folders: fit, its page, predict."""

import csv
import os
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


def test_what_cannot_be_done_is_said_in_one_line_and_leaves_no_file(photos, tmp_path, capsys):
    out = tmp_path / "m.safetensors"
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_text("no image")
    there = tmp_path / "there.safetensors"
    there.write_text("")
    own = tmp_path / "own.safetensors"
    save_model(InvariantClassifier.build("flow", "rotation", 3, 2), own)
    sized = tmp_path / "sized.safetensors"
    save_model(InvariantClassifier.build("flow", "rotation", 3, 2), sized, {"size": 16})
    known = {path for path in tmp_path.rglob("*")}
    wrong = [
        (["fit", tmp_path / "none", "--out", out], "is not a folder of images"),
        (["fit", photos, "--out", there, *FIT], "is there already"),
        (["fit", photos, "--out", out, "--family", "afine"], "unknown family 'afine'"),
        (["fit", photos, "--out", out, "--classifier", "resnt"], "unknown classifier 'resnt'"),
        (["fit", photos, "--out", out, "--epochs", "0"], "epochs: expected a positive number"),
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
