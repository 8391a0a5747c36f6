"""Laws of models in use: around classifiers that exist, saved and loaded, exported."""

import copy
import json
import subprocess
import sys

import pytest
import torch
import torchvision
from torch import nn

from flowinv.deployment import (
    Exportable,
    export_model,
    from_classifier,
    load_model,
    save_model,
)
from flowinv.model import InvariantClassifier
from flowinv.networks import Features, Pretrained
from flowinv.training import CheckpointError, Settings, fit

pytestmark = pytest.mark.filterwarnings("ignore::flowinv.training.TrainingWarning")


@pytest.fixture
def photos():
    """Sixteen coarse colour pictures, and labels of two classes."""
    coarse = torch.rand(16, 3, 4, 4)
    images = nn.functional.interpolate(coarse, size=32, mode="bicubic").clamp(0, 1)
    return images, torch.arange(16) % 2


def resnet(classes=2):
    return torchvision.models.resnet18(num_classes=classes)


FEW = Settings(epochs=2, burn_in=0, samples=2, batch_size=8)


@pytest.mark.parametrize("features", [None, "layer2"])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_flow_is_trained_beside_a_classifier_that_stays_bit_for_bit(photos, features, autocast):
    """Its weights and the statistics of its batch normalisation; q moves."""
    network = resnet()
    before = copy.deepcopy(network.state_dict())
    model = from_classifier(
        network, "flow", "rotation", features=features, size=32, autocast=autocast
    )
    q = copy.deepcopy(model.q.state_dict())
    fit(model, *photos, FEW, device="cpu", progress=False)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert any(not torch.equal(q[key], value) for key, value in model.q.state_dict().items())
    assert not network.training and not model.train().classifier.network.training


class Viewed(nn.Module):
    """A network that relies on the usual layout."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4 * 30 * 30, 2)

    def forward(self, images):
        seen = self.convolution(images)
        return self.head(seen.view(len(seen), -1))


def test_a_readers_network_keeps_the_usual_layout_and_torchvisions_does_not(photos):
    model = from_classifier(Viewed(), "flow", "rotation", size=32, frozen=False)
    fit(model, *photos, FEW, device="cpu", progress=False)
    assert not model.classifier.channels_last
    assert from_classifier(resnet(), "flow", "rotation", size=32).classifier.channels_last


def test_an_unfrozen_classifier_learns(photos):
    model = from_classifier("resnet18", "augerino", "rotation", classes=2, frozen=False)
    before = copy.deepcopy(model.classifier.state_dict())
    fit(model, *photos, FEW, device="cpu", progress=False)
    after = model.classifier.state_dict()
    assert not torch.equal(before["network.fc.weight"], after["network.fc.weight"])
    assert model.train().classifier.network.training


def test_normalisation_is_inside_and_is_what_the_network_says(photos):
    """ImageNet's, or that of timm's configuration, or the one given."""
    network = resnet().eval()
    images, _ = photos
    usual = torchvision.transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(Pretrained(network)(images), network(usual(images)))
    network.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}  # as timm has it
    torch.testing.assert_close(Pretrained(network)(images), network((images - 0.5) / 0.2))
    given = Pretrained(network, mean=[0.0] * 3, std=[1.0] * 3)
    assert torch.equal(given(images), network(images))
    with pytest.raises(ValueError, match="as many numbers of mean and of std"):
        Pretrained(network, mean=[0.5], std=[0.2, 0.2])


NETWORKS = {
    "resnet18": "layer3",
    "mobilenet_v3_small": "features.6",
    "shufflenet_v2_x0_5": "stage3",
    "squeezenet1_1": "features.7",
}


@pytest.mark.parametrize("name", NETWORKS)
def test_features_stop_at_the_layer_and_are_those_of_the_whole_pass(name, photos):
    """What comes after the layer is not run; the network may move its weights meanwhile."""
    network = torchvision.models.get_model(name, weights=None, num_classes=2).eval()
    images, _ = photos
    layer = NETWORKS[name]
    encoder = Features(network, layer, images[:1], out_features=8)
    later = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
    calls = []
    later.register_forward_hook(lambda *_: calls.append(1))
    stopped = encoder(images)
    assert not calls
    object.__setattr__(encoder, "way", None)  # as if it could not be traced
    torch.testing.assert_close(stopped, encoder(images))
    assert calls
    del encoder.__dict__["way"]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    moved = encoder(images)
    object.__setattr__(encoder, "way", None)
    torch.testing.assert_close(moved, encoder(images))
    assert not torch.allclose(moved, stopped)


def test_features_of_a_network_in_training_are_those_of_its_evaluation(photos):
    """It is looked at, and goes on training; no more of it runs than up to the layer."""
    network = resnet()
    encoder = Features(network, "layer1", photos[0][:1], out_features=8)
    calls = []
    network.fc.register_forward_hook(lambda *_: calls.append(1))
    learning = encoder(photos[0])
    assert network.training and not calls
    network.eval()
    assert torch.equal(encoder(photos[0]), learning)


class Forks(nn.Module):
    """Its way depends on the numbers, so nothing can trace it."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.inner(x if x.mean() > 0 else -x)
        return self.head(x.mean((-2, -1)))


def test_a_network_that_cannot_be_traced_is_run_whole(photos):
    network = Forks().eval()
    encoder = Features(network, "inner", photos[0][:1], out_features=8)
    assert encoder.way is None and encoder(photos[0]).shape == (16, 8)


def test_tokens_are_averaged(photos):
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Identity()

        def forward(self, x):
            return self.inner(x.flatten(2).mT).mean(1)

    encoder = Features(Tokens().eval(), "inner", photos[0][:1], out_features=8)
    assert encoder.head.in_features == 3
    torch.testing.assert_close(encoder.features(photos[0]), photos[0].mean((-2, -1)))


def test_a_copy_looks_at_its_own_network(photos):
    model = from_classifier(resnet(), "flow", "rotation", features="layer2", size=32)
    images, _ = photos
    own = model.q.encoder(images)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.classifier.network.conv1.weight.zero_()
    torch.testing.assert_close(model.q.encoder(images), own)
    assert not torch.allclose(other.q.encoder(images), own)


def alike(model, other, images):
    """Predictions with the same samples, and densities: bit for bit."""
    predictions = []
    for one in (model, other):
        torch.manual_seed(0)
        predictions.append(one.predict(images, samples=4))
    T = torch.zeros(1, len(images), model.family.dim)
    densities = [one.q(images).log_prob(T) for one in (model, other)]
    return torch.equal(*predictions) and torch.equal(*densities)


OPTIONS = {
    "fixed": {"half_width": [0.1, 0.2, 0.3]},
    "augerino": {},
    "flow": {"layers": 2, "scale": [0.2, 0.2, 0.6], "embedding": 16},
    "mixture_flow": {"components": 3},
}


@pytest.mark.parametrize("guide", OPTIONS)
def test_a_saved_model_predicts_the_same_bits_in_a_new_process(guide, photos, tmp_path):
    """Nothing of how it was built is said again."""
    model = InvariantClassifier.build(
        guide, "rotation_translation", 3, classes=2, width=4, **OPTIONS[guide]
    )
    fit(model, *photos, FEW, device="cpu", progress=False)
    save_model(model, tmp_path / "m.safetensors", {"classes": ["a", "b"]})
    assert alike(model, load_model(tmp_path / "m.safetensors"), photos[0])
    images = photos[0][:2]
    torch.save(images, tmp_path / "images.pt")
    code = (
        "import sys, torch, flowinv; model = flowinv.load_model(sys.argv[1]);"
        " images = torch.load(sys.argv[2]); torch.manual_seed(0);"
        " torch.save(model.predict(images, 4), sys.argv[3]); print(model.about['classes'])"
    )
    names = ("m.safetensors", "images.pt", "there.pt")
    paths = [str(tmp_path / name) for name in names]
    there = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True)
    assert there.stdout == "['a', 'b']\n", there.stderr
    torch.manual_seed(0)
    assert torch.equal(model.predict(images, 4), torch.load(paths[2]))


@pytest.mark.parametrize("named", [True, False])
def test_a_wrapped_network_is_saved_with_its_features_and_normalisation(named, photos, tmp_path):
    """By name it is built again; a network that was handed in is handed in again."""
    path = tmp_path / "m.safetensors"
    own = {"mean": [0.5] * 3, "std": [0.2] * 3, "frozen": True}
    if named:
        model = from_classifier("resnet18", "flow", "affine", classes=2, size=32, features="layer2")
    else:
        wrapped = Pretrained(resnet(), **own)
        model = from_classifier(wrapped, "box_flow", "affine", size=32, half_width=0.2)
    model.train()
    model.classifier.network.train()(photos[0])  # its statistics are stored, too
    save_model(model.eval(), path)
    again = load_model(path) if named else load_model(path, network=resnet())
    assert alike(model, again, photos[0])
    assert again.original is False and again.classifier.frozen
    save_model(again, path)
    assert alike(model, load_model(path, None if named else resnet()), photos[0])
    with pytest.raises(ValueError, match="network: expected"):
        load_model(path, resnet() if named else None)


def test_what_is_no_saved_model_is_refused_and_the_file_stays(tmp_path, photos):
    path = tmp_path / "m.safetensors"
    model = InvariantClassifier.build("flow", "rotation", 3, classes=2)
    save_model(model, path)
    before = path.read_bytes()
    by_hand = InvariantClassifier(model.classifier, model.q, model.family)
    with pytest.raises(ValueError, match="put together by hand"):
        save_model(by_hand, path)
    odd = InvariantClassifier.build("flow", "rotation", 3, 2, encoder=nn.Flatten(), embedding=3072)
    with pytest.raises(ValueError, match="expected options of plain numbers"):
        save_model(odd, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    path.write_bytes(before[:1000])
    for wrong in (path, tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(CheckpointError, match="is no saved model") as raised:
            load_model(wrong)
        assert "\n" not in str(raised.value)


# Older exporters differ; this one is what the tests have seen.
exports = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 9), reason="needs PyTorch 2.9 or newer"
)
EVERY = {
    "none": {},
    "fixed": {"half_width": 0.3},
    "augerino": {},
    "instaaug": {},
    "gaussian": {},
    "flow": {},
    "box_flow": {},
    "coupling_flow": {},
    "mixture_flow": {"components": 3},
}


@pytest.mark.parametrize("family", ["rotation", "affine"])
@pytest.mark.parametrize("guide", EVERY)
def test_what_is_exported_predicts_as_the_model_does_with_the_same_noise(guide, family, photos):
    """Densities are those of q, too, and a mixture's weights its components'."""
    model = InvariantClassifier.build(guide, family, 3, classes=2, width=4, **EVERY[guide])
    model.eval()
    if guide == "mixture_flow":  # whose components start with equal weights
        torch.nn.init.normal_(model.q.flow.base.linear.bias)
    program = Exportable(model, (3, 32, 32), samples=7)
    assert program.samples == (9 if guide == "mixture_flow" else 7)
    images = photos[0]
    torch.manual_seed(1)
    expected = model.predict(images, samples=7, chunk=1000)
    torch.manual_seed(1)
    D = model.family.dim
    if guide == "mixture_flow":
        drawn = torch.randn(3, 16, 3, D)  # in the order of `draw`: (n, B, K, D)
        noise = drawn.movedim(-2, 1).flatten(0, 1)
    else:
        noise = program.noise(16)
    outputs = program(images, noise)
    torch.testing.assert_close(outputs["log_probs"], expected)
    torch.testing.assert_close(outputs["weights"].sum(0), torch.ones(16))
    density = model.q(images).log_prob(outputs["T"])
    torch.testing.assert_close(outputs["log_density"], density, atol=1e-3, rtol=1e-3)


def run_exported(path, images, noise):
    if path.suffix == ".pt2":
        return torch.export.load(path).module()(images, noise).values()
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(path)
    inputs = {"images": images.numpy(), "noise": noise.numpy()}
    return [torch.from_numpy(value) for value in session.run(None, inputs)]


MODELS = {
    **{name: lambda name=name: InvariantClassifier.build(name, "affine", 3, 2) for name in EVERY},
    "features": lambda: from_classifier(
        "resnet18", "flow", "rotation_translation", classes=2, size=32, features="layer2"
    ),
    "crop": lambda: InvariantClassifier.build("flow", "crop", 3, 2),
}


@exports
@pytest.mark.parametrize(
    ("name", "suffix"),
    [(name, ".pt2") for name in ("none", "augerino", "flow", "mixture_flow", "crop")]
    + [(name, ".onnx") for name in ("flow", "mixture_flow", "features")],
)
def test_an_exported_model_gives_the_same_numbers_for_another_batch(name, suffix, photos, tmp_path):
    if suffix == ".onnx":
        pytest.importorskip("onnxscript")
    model = MODELS[name]().eval()
    path = tmp_path / f"model{suffix}"
    program = export_model(model, path, (3, 32, 32), samples=4)
    assert list(tmp_path.iterdir()) == [path]
    for batch in (1, 5):
        images, noise = photos[0][:batch], program.noise(batch)
        expected = program(images, noise)
        found = run_exported(path, images, noise)
        for one, other in zip(expected.values(), found, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


@exports
def test_an_exported_file_says_what_noise_it_takes(tmp_path):
    model = InvariantClassifier.build("flow", "rotation", 1, 2)
    export_model(model, tmp_path / "m.pt2", (1, 28, 28), samples=3)
    files = {"flowinv": ""}
    torch.export.load(tmp_path / "m.pt2", extra_files=files)
    said = json.loads(files["flowinv"])
    assert said["noise"] == "normal" and said["samples"] == 3 and said["names"] == ["rotation"]
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    export_model(model, tmp_path / "m.onnx", (1, 28, 28), samples=3)
    (entry,) = [p for p in onnx.load(tmp_path / "m.onnx").metadata_props if p.key == "flowinv"]
    assert json.loads(entry.value) == said


def test_what_cannot_be_exported_is_said_before_anything_is_written(tmp_path, monkeypatch):
    flow = InvariantClassifier.build("flow", "rotation", 1, 2)
    crops = InvariantClassifier.build("instaaug_crops", "crop", 1, 2)
    with pytest.raises(ValueError, match="which no noise of a fixed size draws"):
        export_model(crops, tmp_path / "m.pt2", (1, 64, 64))
    with pytest.raises(ValueError, match="ends in .pt2 or .onnx, got 'm.pth'"):
        export_model(flow, tmp_path / "m.pth", (1, 28, 28))
    with pytest.raises(ValueError, match=r"expected a shape \(C, H, W\)"):
        export_model(flow, tmp_path / "m.pt2", (28, 28))
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'flowinv\[onnx\]"):
        export_model(flow, tmp_path / "m.onnx", (1, 28, 28))
    assert not list(tmp_path.iterdir())


WRONG = [
    (dict(network="resnet81", classes=2), "unknown classifier 'resnet81': expected one of alexnet"),
    (dict(network="resnet18"), "classes: expected how many"),
    (dict(guide="flwo"), "unknown guide 'flwo'"),
    (dict(family="afine"), "unknown family 'afine'"),
    (dict(features="layer9"), "features: expected a layer's name, got 'network.layer9'"),
    (dict(guide="augerino", features="layer1"), "augerino: expected options that this guide takes"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_what_does_not_fit_is_named_in_one_line(options, message):
    with pytest.raises(ValueError, match=message) as raised:
        from_classifier(**({"network": resnet(), "size": 32} | options))
    assert "\n" not in str(raised.value)
