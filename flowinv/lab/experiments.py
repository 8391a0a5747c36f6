"""Named experiments: what is trained on what, with which settings, and how it is measured.

`flowinv.results` runs them and keeps what came out. Published settings and figures: Singhal et al. 2023.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import metrics
from ..bases import wrap
from ..checks import Registry
from ..data import Dataset, cache_file, load, load_folder, mario_iggy, mario_poses
from ..guides import GUIDES
from ..model import InvariantClassifier
from ..networks import ConvNet, ConvNet13, FixupResNet, LeNet, PreActResNet18
from ..training import Cosine, Settings, Steps
from ..transforms import FAMILIES


class Row(NamedTuple):
    """One row of a comparison: a guide by name, its options, and settings and a family that differ from the others'."""

    guide: str
    options: dict = {}
    changes: dict = {}
    family: str | None = None


@dataclass(frozen=True)
class Experiment:
    """What is trained on what, and how it is measured.

    about: one line. data: profile → Dataset. family: by name.
    guides: the rows of the comparison. profiles: settings of each profile.
    classifier: (channels, classes, profile) → network.
    measure: (model, dataset) → metrics; `score` is the one that a table shows, and `unit` its unit.
    published: the paper's figures, by row; also of rows that are not run here.
    original: whether the loss adds −log f(C; I).
    """

    about: str
    data: Callable[[str], Dataset]
    family: str
    guides: dict[str, Row]
    profiles: dict[str, Settings]
    classifier: Callable[[int, int, str], nn.Module]
    measure: Callable[[InvariantClassifier, Dataset], dict]
    score: str = "accuracy_averaged"
    unit: str = "% accuracy"
    published: dict[str, str] = field(default_factory=dict)
    original: bool = True

    def build(self, row: str, profile: str, data: Dataset, seed: int = 0) -> InvariantClassifier:
        """An untrained model for one row of the comparison."""
        torch.manual_seed(seed)
        guide, options, *_ = Registry("row", **self.guides)[row]
        channels, family = data.train.images.shape[1], FAMILIES[self.family_of(row)]
        classifier = self.classifier(channels, len(data.classes), profile)
        return InvariantClassifier(
            classifier, GUIDES[guide](family, channels, **options), family, self.original
        )

    def family_of(self, row: str) -> str:
        """The family's name, the row's own or the experiment's."""
        return self.guides[row].family or self.family

    def settings(self, profile: str, row: str, seed: int = 0) -> Settings:
        """The settings of a profile, with the row's own."""
        changes = Registry("row", **self.guides)[row].changes
        return replace(Registry("profile", **self.profiles)[profile], seed=seed, **changes)


def accuracies(model: InvariantClassifier, images: Tensor, labels: Tensor) -> dict:
    """In percent, of the plain classifier and averaged over 20 samples."""
    samples = {"accuracy_plain": 0, "accuracy_averaged": 20}
    return {name: 100 * metrics.accuracy(model, images, labels, n) for name, n in samples.items()}


# How far each class of mnist-selective is turned in the test, in degrees.
LIMITS = {"0": 180.0, "1": 180.0, "5": 180.0, "6": 60.0, "9": 60.0}


def _five_digits(profile: str) -> Dataset:
    data = load("mnist", sample=profile != "full").joined().only([int(digit) for digit in LIMITS])
    return data.first(1000, 500) if profile == "ci" else data


def _five_network(channels: int, classes: int, profile: str) -> nn.Module:
    return ConvNet(channels, classes, width=16)


def _selective_invariance(model: InvariantClassifier, data: Dataset) -> dict:
    """Widths by class, and accuracies on the test images as they are and turned as their class allows."""
    images, labels = data.test.images, data.test.labels
    limits = torch.tensor([LIMITS[name] for name in data.classes])
    turned = metrics.rotate_within(images, limits[labels], torch.Generator().manual_seed(0))
    return {
        "width_degrees": dict(
            zip(data.classes, metrics.class_widths(model, images, labels, len(data.classes)))
        ),
        **accuracies(model, images, labels),
        **{
            name.replace("accuracy_", "accuracy_turned_"): x
            for name, x in accuracies(model, turned, labels).items()
        },
    }


def _mario(degrees: float, modes: int, sizes: dict[str, int]) -> Callable[[str], Dataset]:
    """profile → Mario-Iggy with as many training images, and half as many to test; this project's sprites but at `full`."""
    return lambda profile: mario_iggy(
        degrees, modes, sizes[profile], sizes[profile] // 2, sample=profile != "full"
    )


@torch.no_grad()
def _mario_ranges(modes: int, model: InvariantClassifier, data: Dataset) -> dict:
    """How q(T | I) fills the turns that keep an image's class, up to the boundary, half way to another class's pose."""
    images, labels = data.test.images[:1000], data.test.labels[:1000]
    centres = wrap((mario_poses(modes)[labels] - data.test.angles[:1000, None]).T / 180)
    T = torch.cat(
        [model.q(part.to(model.device)).sample((400,))[..., 0].cpu() for part in images.split(500)],
        1,
    )
    reached, inside = metrics.coverage(T, centres, 0.5 / modes, periodic=True)
    return {
        "half_width_degrees": 180 * metrics.half_width(T, periodic=True).median().item(),
        "range_reached": reached.mean().item(),
        "share_inside": inside.mean().item(),
        "effective_modes": metrics.effective_modes(T, centres, periodic=True).mean().item(),
        **accuracies(model, images, labels),
    }


def _rotation_discovery(model: InvariantClassifier, data: Dataset) -> dict:
    """How far the samples' matrices are from rotations, beside those of coefficients from the whole box."""
    images = data.test.images[:500].to(model.device)
    with torch.no_grad():
        T = model.q(images).sample((200,))
    anything = 2 * torch.rand(20000, 2, generator=torch.Generator().manual_seed(0)) - 1
    b, d = (
        (T - T.mean(0)).flatten(0, 1).T.cpu()
    )  # within an image: what holds between images is not q's shape
    return {
        "rotation_error": metrics.rotation_error(model.family.matrix(T)).median().item(),
        "rotation_error_of_the_box": metrics.rotation_error(model.family.matrix(anything))
        .median()
        .item(),
        "correlation": torch.corrcoef(torch.stack([b, d]))[0, 1].item(),
        "half_width_degrees": 90
        * metrics.half_width(T[..., 1] - T[..., 0], periodic=False).median().item(),
        **accuracies(model, data.test.images[:1000], data.test.labels[:1000]),
    }


def _classification(model: InvariantClassifier, data: Dataset) -> dict:
    return accuracies(model, data.test.images, data.test.labels)


def _long_tail(degrees: float, model: InvariantClassifier, data: Dataset) -> dict:
    """Accuracies, and eKLD by class, of which the first has the most images and the last the fewest."""
    images, labels = data.test.images, data.test.labels
    generator = torch.Generator().manual_seed(0)
    ekld = metrics.ekld(model, images, labels, len(data.classes), degrees, generator)
    return {
        **accuracies(model, images, labels),
        "ekld_nats": sum(ekld) / len(ekld),
        "ekld_nats_by_class": dict(zip(data.classes, ekld)),
    }


def _digits(profile: str) -> Dataset:
    data = load("mnist", sample=profile != "full").joined()
    return data.first(256, 100) if profile == "ci" else data


def _fashion(profile: str) -> Dataset:
    if profile == "ci":  # there is no embedded sample of it
        return replace(_digits("ci"), title="MNIST in place of Fashion-MNIST (embedded sample)")
    data = load("fashion_mnist").joined()
    return data if profile == "full" else data.first(10000, 2000)


def _cifar10(profile: str) -> Dataset:
    if profile in ("reduced", "full"):
        data = load("cifar10").joined()
        return data if profile == "full" else data.first(10000, 5000)
    data = load("cifar10", sample=True).joined()
    return data.first(96, 50) if profile == "ci" else data


def _tiny_imagenet(profile: str) -> Dataset:
    """The reader's own folder, <data>/tiny-imagenet with train/<class> and test/<class>; CIFAR-10 in place of it but at `full`."""
    if profile == "full":
        folder = cache_file("tiny-imagenet").with_suffix("")
        return load_folder(folder, size=64).joined()
    data = _cifar10(profile)
    return replace(data, title=f"{data.title}, in place of TinyImageNet")


def _mario_network(channels: int, classes: int, profile: str) -> nn.Module:
    return ConvNet(channels, classes, width=8)


def _mario_experiment(
    about: str, degrees: float, modes: int, quick: Settings, full: Settings, **more
) -> Experiment:
    return Experiment(
        about=about,
        data=_mario(degrees, modes, {"ci": 200, "quick": 3000, "full": 10000}),
        profiles={"ci": replace(quick, epochs=2, burn_in=1), "quick": quick, "full": full},
        classifier=_mario_network,
        **{
            "family": "rotation",
            "measure": partial(_mario_ranges, modes),
            "score": "half_width_degrees",
            "unit": "degrees, half-width of q",
            **more,
        },
    )


def _classifies(
    about: str, data: Callable[[str], Dataset], network: Callable, quick: Settings, full: Settings, more_profiles: dict | None = None,
    **more,
) -> Experiment:  # fmt: skip
    """An experiment whose result is accuracy, all of the plane's affine maps being possible."""
    return Experiment(
        about=about,
        data=data,
        classifier=network,
        profiles={
            "ci": replace(quick, epochs=2, burn_in=1),
            "quick": quick,
            "full": full,
            **(more_profiles or {}),
        },
        original=False,
        **{"family": "affine", "guides": AFFINE, "measure": _classification, **more},
    )


def _lenet(channels: int, classes: int, profile: str) -> nn.Module:
    return LeNet(channels, classes)


def _resnet(channels: int, classes: int, profile: str) -> nn.Module:
    return FixupResNet(channels, classes, depth=8, planes=16)


def _conv13(channels: int, classes: int, profile: str) -> nn.Module:
    return ConvNet13(channels, classes, width=128 if profile == "full" else 16)


def _preact(channels: int, classes: int, profile: str) -> nn.Module:
    return PreActResNet18(channels, classes, width=64 if profile == "full" else 8)


ONE_RANGE = {"augerino": Row("augerino"), "instaaug": Row("instaaug"), "flow": Row("flow")}
NONE = Row("none", changes={"samples": 1})
FIVE = {"scale": [0.2, 0.2, 0.6]}  # small shifts and wide rotations: see CONTRIBUTING.md
COUPLINGS = {
    "univariate": "affine",
    "coupling": True,
    "layers": 12,
}  # the paper's layers, over one Gaussian
AFFINE = {
    "none": NONE,
    "augerino": Row("augerino", {"half_width": 0.2}),
    "instaaug": Row("instaaug", {"half_width": 0.2}),
    "flow": Row("flow", COUPLINGS | {"scale": 0.1}),
}

MARIO = Settings(epochs=25)
MARIO_FULL = Settings(
    epochs=100,
    batch_size=128,
    lr=1e-3,
    guide_lr=1e-3,
    weight_decay=0.01,
    decay=Cosine(to=0.1),
    burn_in=5,
)
CIFAR = Settings(
    epochs=200, batch_size=256, alpha=0.1, samples=20, optimizer="sgd", lr=0.1, guide_lr=1e-4, weight_decay=5e-4,
    decay=Steps(every=80, factor=0.1), burn_in=10,
)  # fmt: skip
LONG_TAIL = replace(CIFAR, epochs=100, alpha=0.05, decay=Steps(every=80, factor=0.05))
CIFAR_QUICK = replace(
    CIFAR, epochs=40, batch_size=64, alpha=0.01, samples=1, guide_lr=3e-4, decay=Cosine(), burn_in=4
)
DIGITS_QUICK = Settings(epochs=8, alpha=0.03, burn_in=1)

# Shortest first, as `python -m flowinv reproduce` takes them.
EXPERIMENTS = Registry(
    "experiment",
    **{
        # Classes whose poses are half a turn apart: whatever the data's own range, ±90° is where a class ends.
        "mario-45": _mario_experiment(
            "Mario-Iggy within ±45° of its poses: how far q reaches", 45, 1, MARIO, MARIO_FULL, guides=ONE_RANGE
        ),
        "mario-90": _mario_experiment(
            "Mario-Iggy within ±90° of its poses: how far q reaches", 90, 1, MARIO,
            replace(MARIO_FULL, epochs=250, burn_in=1), guides=ONE_RANGE,
            published={"augerino": "toward 0", "flow": "toward 90"},
        ),
        # Each class in three poses, 120° apart, those of upright and upside-down in turn: three ranges of ±30°.
        "mario-3mode": _mario_experiment(
            "Mario-Iggy around three poses a class: does q show all three",
            30, 3,
            Settings(epochs=25, batch_size=32, alpha=0.4, samples=8, burn_in=3, freeze=True, smoothing=0.1),
            replace(MARIO_FULL, epochs=150, alpha=0.4, samples=8, burn_in=3, freeze=True, smoothing=0.1),
            guides=ONE_RANGE | {"flow": Row("flow", {"base": "mixture", "components": 8, "scale": 0.2, "layers": 0})},
            score="share_inside", unit="share of q in the class's poses",
        ),
        "rotation-discovery": _mario_experiment(
            "Two free entries of the linear map: does q find the ridge of rotations",
            90, 1, replace(MARIO, alpha=0.1, burn_in=5, freeze=True, smoothing=0.1),
            replace(MARIO_FULL, alpha=0.1, freeze=True, smoothing=0.1),
            guides={"instaaug": Row("instaaug"), "flow": Row("flow")},
            family="rotation_discovery", measure=_rotation_discovery,
            score="rotation_error", unit="relative distance to a rotation",
        ),
        # The paper's five digits: three that may turn all the way round, and two that may not.
        "mnist-selective": Experiment(
            about="0, 1, 5 may turn all the way round, 6 and 9 may not",
            data=_five_digits,
            family="rotation_translation",
            guides={
                "none": Row("none"),
                # All that the flow could do, and two boxes that a person who knows digits would choose.
                "whole box": Row("fixed", {"half_width": 1.0}),
                "fixed ±90°": Row("fixed", {"half_width": [0.1, 0.1, 0.5]}),
                "fixed ±180°": Row("fixed", {"half_width": [0.1, 0.1, 1.0]}),
                "augerino": Row("augerino"),
                "instaaug": Row("instaaug"),
                "flow": Row("flow", FIVE),
            },
            profiles={
                "ci": Settings(epochs=3, burn_in=1),
                "quick": Settings(epochs=40),
                "full": Settings(epochs=12),
            },
            classifier=_five_network,
            measure=_selective_invariance,
            score="accuracy_turned_averaged",
            unit="% accuracy on digits turned as their class allows",
        ),
        # The flow of mnist-selective, with one choice changed at a time.
        "design": Experiment(
            about="mnist-selective in half the epochs, one choice of the flow's design changed at a time",
            data=_five_digits,
            family="rotation_translation",
            guides={
                "flow": Row("flow", FIVE),
                "no layers": Row("flow", FIVE | {"base": "mixture", "components": 1, "layers": 0}),
                "3 layers": Row("flow", FIVE | {"layers": 3}),
                "hidden 16": Row("flow", FIVE | {"hidden": 16}),
                "hidden 256": Row("flow", FIVE | {"hidden": 256}),
                "4 bins": Row("flow", FIVE | {"bins": 4}),
                "12 affine couplings": Row("flow", FIVE | COUPLINGS),
                "mixture base": Row("flow", FIVE | {"base": "mixture"}),
                "uniform base": Row("flow", {"base": "uniform"}),
                "narrow start": Row("flow", {"scale": 0.2}),
                "α 0.03": Row("flow", FIVE, {"alpha": 0.03}),
                "α 0.1": Row("flow", FIVE, {"alpha": 0.1}),
                "α 1": Row("flow", FIVE, {"alpha": 1.0}),
                "1 sample": Row("flow", FIVE, {"samples": 1}),
                "8 samples": Row("flow", FIVE, {"samples": 8}),
                "rotation, D = 1": Row("flow", {"scale": 0.6}, {}, "rotation"),
                "similarity, D = 4": Row("flow", {"scale": [0.2, 0.2, 0.6, 0.2]}, {}, "similarity"),
                "affine, D = 6": Row("flow", {"scale": [0.2, 0.2, 0.6, 0.2, 0.2, 0.2]}, {}, "affine"),
            },
            profiles={
                "ci": Settings(epochs=3, burn_in=1),
                "quick": Settings(epochs=20),
            },
            classifier=_five_network,
            measure=_selective_invariance,
            score="accuracy_turned_averaged",
            unit="% accuracy on digits turned as their class allows",
        ),
        "mnist": _classifies(
            "MNIST, LeNet", _digits, _lenet, DIGITS_QUICK,
            Settings(epochs=100, batch_size=256, alpha=0.01, samples=20, lr=1e-3, guide_lr=1e-4,
                     decay=Steps(every=80, factor=0.1), burn_in=1),
            published={"none": "99.1 ± 0.02", "augerino": "98.3 ± 0.1", "LILA": "99.4 ± 0.02", "flow": "99.2 ± 0.1"},
        ),
        "fmnist": _classifies(
            "Fashion-MNIST, LeNet", _fashion, _lenet, DIGITS_QUICK,
            replace(CIFAR, alpha=0.03, guide_lr=1e-3),
            published={"none": "89.6 ± 0.2", "augerino": "90.1 ± 0.1", "LILA": "91.9 ± 0.2", "flow": "92.3 ± 1.4"},
        ),
        "rotmnist-lt": _classifies(
            "MNIST, each image turned at random, with classes of 10 to 1, LeNet",
            lambda profile: _digits(profile).long_tail().rotated(), _lenet, DIGITS_QUICK,
            replace(LONG_TAIL, optimizer="adam", lr=1e-3, weight_decay=0.0),
            family="rotation", measure=partial(_long_tail, 180),
            guides={"none": NONE, "augerino": Row("augerino"), "instaaug": Row("instaaug"), "flow": Row("flow")},
        ),
        "cifar10-lt": _classifies(
            "CIFAR-10 with classes of 5,000 to 500 images, ResNet-8-16",
            lambda profile: _cifar10(profile).long_tail(), _resnet, CIFAR_QUICK, LONG_TAIL,
            measure=partial(_long_tail, 10),
            published={"none": "70.8 ± 0.8", "augerino": "63.6 ± 1.3", "LILA": "76.4 ± 0.9", "flow": "78.1 ± 1"},
        ),
        "cifar10": _classifies(
            "CIFAR-10, ResNet-8-16", _cifar10, _resnet, CIFAR_QUICK, CIFAR, {"reduced": replace(CIFAR_QUICK, epochs=20)},
            published={"none": "74.1 ± 0.5", "augerino": "79.0 ± 1", "LILA": "84.2 ± 0.8", "flow": "86.8 ± 0.4"},
        ),
        "cifar10-13layer": _classifies(
            "CIFAR-10, 13-layer network", _cifar10, _conv13, replace(CIFAR_QUICK, epochs=20), replace(CIFAR, batch_size=100, samples=5),
            published={"none": "90.6", "Fast AutoAugment": "92.65", "augerino": "93.8", "flow": "94.3"},
        ),
        "tinyimagenet-crop": _classifies(
            "TinyImageNet from a folder of your own, PreActResNet-18, crops",
            _tiny_imagenet, _preact, replace(CIFAR_QUICK, epochs=10, burn_in=2), replace(CIFAR, chunk=1280),
            family="crop",
            guides={
                "none": NONE,
                "random crop": Row("fixed", {"half_width": 0.5}),
                "augerino": Row("augerino"),
                "instaaug": Row("instaaug"),
                "instaaug_crops": Row("instaaug_crops"),
                "flow": Row("flow", COUPLINGS),
            },
            published={
                "none": "55.1", "random crop": "64.5", "augerino": "55.0", "instaaug": "54.4", "instaaug_crops": "66.0",
                "flow": "65.4", "flow over the preset crops": "66.0",
            },
        ),
    },
)  # fmt: skip
