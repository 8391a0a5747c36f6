"""Named experiments: every row of each runs, and each measures what it says."""

import json
import math

import pytest
import torch

from flowinv.__main__ import summary
from flowinv.bases import wrap
from flowinv.data import mario_poses
from flowinv.guides import GUIDES
from flowinv.lab import EXPERIMENTS, run
from flowinv.networks import ConvNet13, FixupResNet, LeNet, PreActResNet18
from flowinv.training import Steps, make_optimizers, step


@pytest.mark.parametrize(
    ("name", "row"), [(name, row) for name, e in EXPERIMENTS.items() for row in e.guides]
)
@pytest.mark.filterwarnings("ignore::flowinv.training.TrainingWarning")
def test_every_row_of_every_experiment_runs_and_its_metrics_are_numbers(name, row, tmp_path):
    entry = run(name, "ci", row, 0, tmp_path / "results", tmp_path / "runs")
    values = [
        number
        for value in entry["metrics"].values()
        for number in (value.values() if isinstance(value, dict) else [value])
    ]
    assert all(math.isfinite(value) for value in values) and summary(entry["metrics"])
    assert (
        json.loads((tmp_path / "results" / name / "ci.json").read_text())[0]["metrics"]
        == entry["metrics"]
    )
    assert (
        list(EXPERIMENTS[name].published) == []
        or row in EXPERIMENTS[name].published
        or row == "instaaug"
    )


def test_the_ideal_range_of_mario_iggy_is_where_its_class_stays(tmp_path):
    """A q that knows each image's angle, and covers just that range, has all of it and nothing else."""
    for name, modes in (("mario-90", 1), ("mario-3mode", 3)):
        experiment = EXPERIMENTS[name]
        data = experiment.data("ci")
        first = {image.numpy().tobytes(): i for i, image in enumerate(data.test.images)}

        class Oracle(torch.nn.Module):
            def forward(self, images):
                index = [first[image.cpu().numpy().tobytes()] for image in images]  # noqa: B023
                angle, label = data.test.angles[index], data.test.labels[index]  # noqa: B023
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

        model = experiment.build("flow", "ci", data)
        model.q = Oracle()
        found = experiment.measure(model, data)
        assert found["range_reached"] > 0.97 and found["share_inside"] > 0.99
        assert found["effective_modes"] == pytest.approx(modes, abs=0.05)


def test_a_rotation_has_no_rotation_error_and_a_box_has(monkeypatch):
    """Samples on the ridge b = −d measure as rotations, those of a box as the box does."""
    experiment = EXPERIMENTS["rotation-discovery"]
    data = experiment.data("ci")
    model = experiment.build("flow", "ci", data)

    class Ridge(torch.nn.Module):
        def forward(self, images):
            class Samples:
                def sample(self, shape):
                    r = 2 * torch.rand(*shape, len(images), 1) - 1
                    return torch.cat([-r, r], -1)

            return Samples()

    model.q = Ridge()
    found = experiment.measure(model, data)
    assert found["rotation_error"] < 1e-3 and found["correlation"] == pytest.approx(-1, abs=1e-3)
    model.q = GUIDES["fixed"](model.family, 3)
    found = experiment.measure(model, data)
    assert found["rotation_error"] == pytest.approx(found["rotation_error_of_the_box"], rel=0.05)


@pytest.mark.parametrize(
    "name", ["cifar10", "cifar10-13layer", "cifar10-lt", "fmnist", "mnist", "tinyimagenet-crop"]
)
def test_full_is_as_published(name):
    """Networks, batch, samples, optimiser and price of entropy of the paper."""
    experiment = EXPERIMENTS[name]
    classifier = experiment.classifier(3 if "cifar" in name or "tiny" in name else 1, 10, "full")
    weights = sum(parameter.numel() for parameter in classifier.parameters())
    settings = experiment.settings("full", "flow")
    kind, alpha, samples, batch = {
        "cifar10": (FixupResNet, 0.1, 20, 256),
        "cifar10-13layer": (ConvNet13, 0.1, 5, 100),
        "cifar10-lt": (FixupResNet, 0.05, 20, 256),
        "fmnist": (LeNet, 0.03, 20, 256),
        "mnist": (LeNet, 0.01, 20, 256),
        "tinyimagenet-crop": (PreActResNet18, 0.1, 20, 256),
    }[name]
    assert type(classifier) is kind and (settings.alpha, settings.samples, settings.batch_size) == (
        alpha,
        samples,
        batch,
    )
    assert (settings.optimizer, settings.lr) == (
        ("adam", 1e-3) if name == "mnist" else ("sgd", 0.1)
    )
    epochs, factor, burn_in = (100, 0.05, 10) if name == "cifar10-lt" else (200, 0.1, 10)
    epochs, burn_in = (100, 1) if name == "mnist" else (epochs, burn_in)
    assert (settings.epochs, settings.decay, settings.burn_in) == (
        epochs,
        Steps(80, factor),
        burn_in,
    )
    assert settings.guide_lr == (1e-3 if name == "fmnist" else 1e-4)
    assert (
        0.9
        < weights
        / {FixupResNet: 77e3, ConvNet13: 3.12e6, LeNet: 61.7e3, PreActResNet18: 11.2e6}[kind]
        < 1.1
    )
    assert experiment.settings("full", "none").samples == 1


@pytest.mark.parametrize("name", [name for name, e in EXPERIMENTS.items() if "full" in e.profiles])
def test_a_step_at_full_scale_runs(name):
    """The networks, flow and optimisers of `full`, on four images: the queue for a GPU needs no edits."""
    experiment = EXPERIMENTS[name]
    data = experiment.data("ci")
    model, settings = experiment.build("flow", "full", data), experiment.settings("full", "flow")
    optimizers = make_optimizers(model.train(), settings, fused=True)
    loss, entropy, norm = step(
        model, optimizers, data.train.images[:4], data.train.labels[:4], settings, 0.1
    )
    assert loss.isfinite() and norm.isfinite() and norm > 0


def test_a_long_tail_is_measured_by_class():
    experiment = EXPERIMENTS["cifar10-lt"]
    data = experiment.data("quick")
    sizes = data.train.labels.bincount()
    assert sizes[0] == 10 * sizes[-1] and (sizes.diff() <= 0).all()
    found = experiment.measure(experiment.build("none", "quick", data).eval(), data.first(10, 200))
    by_class = found["ekld_nats_by_class"]
    assert list(by_class) == list(data.classes)
    assert found["ekld_nats"] == pytest.approx(sum(by_class.values()) / len(by_class))
