"""Laws of models in use: around classifiers that exist, saved and loaded, exported."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from flowinv.deployment import from_classifier
from flowinv.networks import Features, Pretrained
from flowinv.training import Settings, fit

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


def test_features_of_a_network_in_training_do_not_change_what_it_computes(photos):
    """There the whole network runs: batch normalisation sees what it saw."""
    network = resnet()
    encoder = Features(network.eval(), "layer1", photos[0][:1], out_features=8)
    network.train()
    calls = []
    network.fc.register_forward_hook(lambda *_: calls.append(1))
    encoder(photos[0])
    assert calls


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
