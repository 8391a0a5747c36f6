"""Named experiments: what is trained on what, with which settings, and how it is measured.

``flowinv.lab.run`` runs them. Published settings and figures: Singhal et al. 2023.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from math import log
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import metrics
from ..alignment import (
    Score,
    canonical,
    confidence,
    energy,
    logits_of,
    mahalanobis,
    mean_shift,
    poses,
)
from ..checks import Registry
from ..data import Dataset, Split, cache_file, load, load_folder, mario_iggy, mario_poses
from ..distributions import MixtureBase, UniformBase, wrap
from ..guides import GUIDES, Numbers
from ..model import AtAnyPose, InvariantClassifier, PoseLearner
from ..networks import (
    ConvNet,
    ConvNet13,
    Features,
    FixupResNet,
    LeNet,
    PreActResNet18,
    Pretrained,
)
from ..training import Cosine, Schedule, Settings, Steps, pick_device
from ..training.checkpoints import describe
from ..training.loop import generators_given_back
from ..transforms import FAMILIES
from ..transforms.sampling import centres
from .known import bent, coloured_digits, in_depth, measure_boards, measure_cards, measure_colours
from .ridges import Beside, OnRidge, measure_ridge, ridge_data


class Row(NamedTuple):
    """One row of a comparison: a guide, and what is not as in the other rows.

    Args:
        guide: by name.
        options: of the guide; with ``features``, a layer's name, its encoder is the classifier
            up to there, and ``encoder`` is what makes one of (channels, size). With ``learner``,
            a subclass of ``InvariantClassifier``, the model is one.
        changes: settings that differ from the profile's.
        family: by name, where it differs from the experiment's.
    """

    guide: str
    options: dict = {}
    changes: dict = {}
    family: str | None = None


@dataclass(frozen=True)
class Experiment:
    """What is trained on what, and how it is measured.

    Args:
        about: one line.
        data: the data set of each profile, which it is called with.
        family: by name.
        rows: of the comparison.
        controls: rows that tell the parts of a gain apart; ``ci`` and ``quick`` leave them out.
        profiles: settings of each.
        classifier: a network for (channels, classes, profile).
        measure: the metrics of (model, data set).
        score: the metric that a table shows.
        unit: of the score.
        published: the paper's figures by row; also of rows that are not run here.
        original: whether the loss adds −log f(C; I).
        alphas: which are tried, for every row that learns a q(T | I).
        judge: the images that the trials are judged by, as the measure calls them: "validation", or
            "validation_turned" where the measure turns them as their class allows.
        chosen: by those trials, at each profile: the settings of a row.
        families: where their names are looked up.
    """

    about: str
    data: Callable[[str], Dataset]
    family: str
    rows: dict[str, Row]
    profiles: dict[str, Settings]
    classifier: Callable[[int, int, str], nn.Module]
    measure: Callable[[InvariantClassifier, Dataset], dict]
    score: str = "accuracy_averaged"
    unit: str = "% accuracy"
    published: dict[str, str] = field(default_factory=dict)
    original: bool = True
    controls: tuple[str, ...] = ()
    alphas: tuple[float, ...] = ()
    judge: str = "validation"
    chosen: dict[str, dict[str, dict]] = field(default_factory=dict)
    families: Registry = field(default_factory=lambda: FAMILIES)

    def __post_init__(self):
        # So that a name that is not there is refused with those that are.
        object.__setattr__(self, "rows", Registry("row", **self.rows))
        object.__setattr__(self, "profiles", Registry("profile", **self.profiles))

    def build(self, row: str, profile: str, data: Dataset, seed: int = 0) -> InvariantClassifier:
        """An untrained model for one row, the same for the same seed.

        Args:
            row: by name.
            profile: some have smaller networks.
            data: any with its channels and classes.
            seed: of the first weights.

        Raises:
            ValueError: there is no such row.
        """
        guide, options, *_ = self.rows[row]
        family = self.families[self.family_of(row)]
        channels = data.train.images.shape[1]
        with seeded(seed):
            classifier = self.classifier(channels, len(data.classes), profile)
            options = dict(options)
            learner = options.pop("learner", InvariantClassifier)
            if "encoder" in options:
                options["encoder"] = options["encoder"](channels, 32)
            if "features" in options:
                one = data.train.images[:1]
                layer = options.pop("features")
                options["encoder"] = Features(classifier, layer, one, out_features=32)
            q = GUIDES[guide](family, channels, **options)
        return learner(classifier, q, family, self.original)

    def family_of(self, row: str) -> str:
        """The family's name, the row's own or the experiment's."""
        return self.rows[row].family or self.family

    def model_of(self, row: str) -> dict:
        """What an entry says about a row's model, as JSON: guide and options, and the family."""
        guide, options, *_ = self.rows[row]
        return {"options": [guide, describe(options)], "family": self.family_of(row)}

    def settings(self, profile: str, row: str, seed: int = 0) -> Settings:
        """The settings of a profile, with the row's own."""
        changes = self.rows[row].changes | self.chosen.get(profile, {}).get(row, {})
        return replace(self.profiles[profile], seed=seed, **changes)

    def rows_of(self, profile: str) -> list[str]:
        """The rows that a profile compares."""
        few = profile in ("ci", "quick")
        return [row for row in self.rows if not (few and row in self.controls)]

    def learns(self, row: str) -> bool:
        """Whether the row has a q(T | I) that learns, and so a price of entropy to choose."""
        return self.rows[row].guide not in ("none", "fixed")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within, PyTorch's global generators start from the seed; then they are as they were."""
    with generators_given_back(pick_device()):
        torch.manual_seed(seed)
        yield


def accuracies(model: InvariantClassifier, images: Tensor, labels: Tensor) -> dict:
    """In percent, of the plain classifier and averaged over 20 samples."""
    return {
        "accuracy_plain": 100 * metrics.accuracy(model, images, labels, 0),
        "accuracy_averaged": 100 * metrics.accuracy(model, images, labels, 20),
    }


def _on_validation(model: InvariantClassifier, split: Split, name: str = "validation") -> dict:
    """What choices are made by; nothing where no images were kept back."""
    images, labels = split
    if not len(images):
        return {}
    found = metrics.quality(model.predict(images, 20), labels)
    return {f"{name}_{key}": value for key, value in found.items()}


# How far each class of mnist-selective is turned in the test, in degrees.
LIMITS = {"0": 180.0, "1": 180.0, "5": 180.0, "6": 60.0, "9": 60.0}


def _five_digits(profile: str) -> Dataset:
    """All of MNIST at ``full``, where validation images stay apart."""
    data = load("mnist", sample=profile != "full").only([int(digit) for digit in LIMITS])
    data = data if profile == "full" else data.joined()
    return data.first(1000, 500) if profile == "ci" else data


def _convnet(channels: int, classes: int, profile: str) -> nn.Module:
    return ConvNet(channels, classes, width=16)


def _selective_invariance(model: InvariantClassifier, data: Dataset) -> dict:
    """Widths by class; accuracies on test images as they are, and turned as their class allows."""
    limits = torch.tensor([LIMITS[name] for name in data.classes])
    generator = torch.Generator().manual_seed(0)

    def turned_within(split: Split) -> Split:
        return Split(
            metrics.rotate_within(split.images, limits[split.labels], generator), split.labels
        )

    images, labels = data.test
    turned, _ = turned_within(data.test)
    widths = metrics.class_widths(model, images, labels, len(data.classes))
    upright = accuracies(model, images, labels)
    after_turning = accuracies(model, turned, labels)
    return {
        "width_degrees": dict(zip(data.classes, widths)),
        **upright,
        "accuracy_turned_plain": after_turning["accuracy_plain"],
        "accuracy_turned_averaged": after_turning["accuracy_averaged"],
        **_on_validation(model, data.validation),
        **_on_validation(model, turned_within(data.validation), "validation_turned"),
    }


def _ranges_of_digits(model: InvariantClassifier, data: Dataset) -> dict:
    """Widths by class and accuracies, on test images as the data set has them."""
    images, labels = data.test
    widths = metrics.class_widths(model, images, labels, len(data.classes))
    return {
        "width_degrees": dict(zip(data.classes, widths)),
        **accuracies(model, images, labels),
        **_on_validation(model, data.validation),
    }


def _mario(degrees: float, modes: int, sizes: dict[str, int]) -> Callable[[str], Dataset]:
    """Mario-Iggy by profile, with as many training images and half as many to test.

    At ``reduced`` and ``full`` it is of the published pictures, and has validation images too;
    elsewhere of this project's sprites.
    """

    def data(profile: str) -> Dataset:
        size = sizes[profile]
        sample = profile in ("ci", "quick")
        apart = 0 if sample else 1000
        return mario_iggy(
            degrees, modes, size, size // 2, sample=sample, validation=apart, stand_in=False
        )

    return data


@torch.no_grad()
def _mario_ranges(modes: int, model: InvariantClassifier, data: Dataset) -> dict:
    """How q(T | I) fills the turns that keep an image's class.

    They reach up to the boundary, half way to another class's pose. And, where a class has several
    poses, whether q shows all of an image's, with equal weights, and how exactly.
    """
    some = data.test[:1000]
    assert some.angles is not None  # Mario-Iggy knows them
    to_poses = mario_poses(modes)[some.labels] - some.angles[:, None]
    centres = wrap(to_poses.T / 180)
    parts = []
    for images in some.images.split(500):
        parts.append(model.q(images.to(model.device)).sample((400,))[..., 0].cpu())
    T = torch.cat(parts, 1)
    reached, inside = metrics.coverage(T, centres, 0.5 / modes, periodic=True)
    return {
        "half_width_degrees": 180 * metrics.half_width(T, periodic=True).median().item(),
        "range_reached": reached.mean().item(),
        "share_inside": inside.mean().item(),
        "effective_modes": metrics.effective_modes(T, centres, periodic=True).mean().item(),
        **(_all_poses(model, some.images, to_poses) if modes > 1 else {}),
        **accuracies(model, some.images, some.labels),
        **_on_validation(model, data.validation),
    }


def _all_poses(model: InvariantClassifier, images: Tensor, to_poses: Tensor) -> dict:
    """Of the poses that q shows after three looks, against the ways (B, n) to the true ones.

    The share within 5 degrees of one, the share of images with one within 5 degrees of each, and
    how far the weight at a true pose is from 1 / n at most, in 98% of the images.
    """
    found = poses(model, images, looks=3)
    turn = _turned_by(found.matrices)
    near = 180 * wrap((turn[..., None] - to_poses) / 180).abs() < 5  # (K, B, n)
    weights = found.weights.cpu()
    of_each = (weights[..., None] * near).sum(0)
    return {
        "poses_within_5_degrees": near.any(-1)[weights > 0].double().mean().item(),
        "images_with_all_poses": (of_each > 0).all(-1).double().mean().item(),
        "weight_off_by": (of_each - 1 / near.shape[-1]).abs().amax(-1).quantile(0.98).item(),
    }


@torch.no_grad()
def _rotation_discovery(model: InvariantClassifier, data: Dataset) -> dict:
    """How far samples' matrices are from rotations, beside those of the whole box."""
    some = data.test[:1000]
    T = model.q(some.images[:500].to(model.device)).sample((200,))
    box = 2 * torch.rand(20000, 2, generator=torch.Generator().manual_seed(0)) - 1
    # Within an image: what holds between images is not q's shape.
    b, d = (T - T.mean(0)).flatten(0, 1).T.cpu()
    of_samples = metrics.rotation_error(model.family.matrix(T))
    of_box = metrics.rotation_error(model.family.matrix(box))
    half_width = metrics.half_width(T[..., 1] - T[..., 0], periodic=False)
    return {
        "rotation_error": of_samples.median().item(),
        "rotation_error_of_the_box": of_box.median().item(),
        "correlation": torch.corrcoef(torch.stack([b, d]))[0, 1].item(),
        "half_width_degrees": 90 * half_width.median().item(),
        **accuracies(model, some.images, some.labels),
        **_on_validation(model, data.validation),
    }


def _classification(box: Numbers, model: InvariantClassifier, data: Dataset) -> dict:
    """Predictions on test images, plain and averaged in three ways; how much q looks at the image.

    Averaged over q(T | I), over a fixed box that a person would choose, whatever was trained, and
    over the q of another image. On validation images only what choices are made by.
    """
    images, labels = data.test
    family = model.family
    fixed = GUIDES["fixed"](family, images.shape[1], half_width=box)
    ways = {
        "plain": model.predict(images, 0),
        "averaged": model.predict(images, 20),
        "over_the_fixed_box": metrics.with_guide(model, fixed).predict(images, 20),
        "over_another": metrics.with_guide(model, metrics.OfAnother(model.q)).predict(images, 20),
    }
    found: dict[str, Any] = {}
    for way, log_p in ways.items():
        for name, value in metrics.quality(log_p, labels).items():
            if name != "standard_error":
                found[f"{name}_{way}"] = value
    some = images[:1000]
    shares = metrics.share_between(model, some)
    found["share_between_images"] = dict(zip(family.names, shares.tolist()))
    found["information_nats"], _ = metrics.information(model, some[:100])
    return found | _on_validation(model, data.validation)


def _long_tail(degrees: float, box: Numbers, model: InvariantClassifier, data: Dataset) -> dict:
    """As every classification, and eKLD by class: from the most images to the fewest."""
    images, labels = data.test
    generator = torch.Generator().manual_seed(0)
    ekld = metrics.ekld(model, images, labels, len(data.classes), degrees, generator)
    return {
        **_classification(box, model, data),
        "ekld_nats": sum(ekld) / len(ekld),
        "ekld_nats_by_class": dict(zip(data.classes, ekld)),
    }


POSES = range(0, 181, 30)  # degrees by which all test images are turned
GATES = (0.0, -1.0, -2.0, -5.0, -10.0)  # in nats of energy


@torch.no_grad()
def _poses(model: InvariantClassifier, data: Dataset) -> dict:
    """Accuracies on the first 1,000 test images, all turned by each of some angles.

    For every way to classify images in a pose that the classifier has not seen: by angle, the mean
    over angles, and how many images encoder and classifier look at for each. And how far apart the
    images of a class end, in the pose of q that the energy chooses and in the heaviest: their
    circular deviation, and the share of them that are more than 45° from where the class ends.
    """
    images, labels = data.test[:1000]
    known, of_known = data.train[:5000]
    logits = torch.cat([model.classify(part.to(model.device)) for part in known.split(500)])
    near = mahalanobis(logits, of_known)
    scores = {"energy": energy, "confidence": confidence, "distance": near}
    gate = _best_gate(model, *data.validation[:500])
    found: dict[str, Any] = {"gate": gate}
    total: dict[str, dict[str, float]] = {}
    ends: dict[str, list[Tensor]] = {}
    for degrees in POSES:
        turned = _all_turned(images, degrees)
        ways, to_poses = _ways(model, turned, scores, gate)
        for way, M in to_poses.items():
            ends.setdefault(way, []).append(degrees + _turned_by(M))
        for way, (log_p, seen) in ways.items():
            right = metrics.quality(log_p, labels)["accuracy"]
            found.setdefault(f"accuracy_{way}_by_angle", {})[str(degrees)] = right
            sums = total.setdefault(way, {"classifier": 0.0, "encoder": 0.0})
            for part, number in seen.items():
                sums[part] += number / len(images) / len(POSES)
    for way, sums in total.items():
        by_angle = found[f"accuracy_{way}_by_angle"]
        found[f"accuracy_{way}_over_angles"] = sum(by_angle.values()) / len(by_angle)
        found[f"passes_{way}"] = sums
    for way, turns in ends.items():
        for number, name in enumerate(data.classes):
            end = torch.stack(turns)[:, labels == number]
            astray = metrics.circular_distance(end).gt(45).double().mean().item()
            deviation = metrics.circular_deviation(end).item()
            found.setdefault(f"deviation_degrees_{way}", {})[name] = deviation
            found.setdefault(f"share_astray_{way}", {})[name] = astray
    return found


def _turned_by(matrices: Tensor) -> Tensor:
    """The angles of rotations (…, 2, 3), in degrees: (…), on the CPU."""
    return torch.atan2(matrices[..., 1, 0], matrices[..., 0, 0]).rad2deg().cpu()


def _all_turned(images: Tensor, degrees: float) -> Tensor:
    T = wrap(images.new_full((len(images), 1), degrees / 180))
    return FAMILIES["rotation"].warp(images, T)


def _best_gate(model: InvariantClassifier, images: Tensor, labels: Tensor) -> float:
    """The gate by which most images are classified right, of all turned by 0, by 90 and by 180°."""
    right = dict.fromkeys(GATES, 0.0)
    for degrees in (0, 90, 180):
        turned = _all_turned(images, degrees)
        of_q = poses(model, turned)
        for gate in GATES:
            logits = canonical(model, turned, of_q, energy, gate).logits
            right[gate] += metrics.quality(logits.log_softmax(-1), labels)["accuracy"]
    return max(right, key=lambda gate: right[gate])


def _ways(
    model: InvariantClassifier, images: Tensor, scores: dict[str, Score], gate: float
) -> tuple[dict[str, tuple[Tensor, dict[str, int]]], dict[str, Tensor]]:
    """Log-probabilities (B, classes) by each way, and how many images were looked at for it.

    Beside them the matrices (B, 2, 3) of the way to the heaviest pose of q, and to the one that the
    energy chooses.

    As the image is, and averaged over q; after mean-shift, and where the classifier is surer of
    that; of all poses of q: their average, the heaviest, and the best by score, always or unless
    the gate keeps the image as it is; over the circle in 36 turns: their average, and the best by
    score (vary-and-rank).
    """
    with metrics.passes(model) as as_it_is:
        plain = model.predict(images, 0)
    with metrics.passes(model) as in_average:
        averaged = model.predict(images)
    with metrics.passes(model) as on_the_way:
        shifted = model.predict(mean_shift(model, images, 10, 0.3).images, 0)
    with metrics.passes(model) as towards_one:
        way = mean_shift(model, images, 5, 1.0, towards="mode")
        to_a_mode = model.predict(way.images, 0)
    with metrics.passes(model) as proposing:
        of_q = poses(model, images)
    with metrics.passes(model) as judging:
        logits = logits_of(model, of_q)
    with metrics.passes(model) as all_round:
        on_circle = metrics.under_rotations(model, images)

    def both(*seen: dict[str, int]) -> dict[str, int]:
        return {part: sum(one[part] for one in seen) for part in seen[0]}

    surer = plain.amax(-1) > shifted.amax(-1)
    of_poses = logits.log_softmax(-1) + of_q.weights.log()[..., None]
    at_poses = both(proposing, judging)
    ways = {
        "plain": (plain, as_it_is),
        "averaged": (averaged, in_average),
        "mean_shift": (shifted, on_the_way),
        "mean_shift_gated": (plain.where(surer[:, None], shifted), both(on_the_way, as_it_is)),
        "mean_shift_to_a_mode": (to_a_mode, towards_one),
        "poses_averaged": (of_poses.logsumexp(0), at_poses),
        "heaviest_pose": (logits[0].log_softmax(-1), both(proposing, as_it_is)),
        "circle": (on_circle.log_softmax(-1).logsumexp(0) - log(len(on_circle)), all_round),
    }
    gated = canonical(model, images, of_q, energy, gate).logits.log_softmax(-1)
    ways["pose_by_energy_gated"] = gated, both(at_poses, as_it_is)
    choices = {}
    for name, score in scores.items():
        choices[name] = canonical(model, images, of_q, score)
        ways[f"pose_by_{name}"] = choices[name].logits.log_softmax(-1), at_poses
        best = score(on_circle).argmax(0)
        surest = on_circle[best, torch.arange(len(best))].log_softmax(-1)
        ways[f"circle_by_{name}"] = surest, all_round
    return ways, {"heaviest": of_q.matrices[0], "energy": choices["energy"].matrices}


def _poses_never_seen(
    about: str,
    data: Callable[[str], Dataset],
    classifier: Callable[[int, int, str], nn.Module],
    encoder: Callable[[int, int], nn.Module],
    reduced: Settings,
) -> Experiment:
    """A classifier of upright images; in the test they are turned by any angle.

    The classifier learns first, then q, from the same upright images. As in the paper: as they are,
    so that it knows no other pose. The last two turn them by any angle, and learn the way back from
    what the frozen classifier says, or from the angle itself. Beside them stand classifiers that
    have themselves learned from images within ±90°, and at any angle.
    """
    mixture = {"scale": 0.2, "encoder": encoder}
    asks: dict[str, Any] = {"freeze": True, "samples": 4, "alpha": 0.3, "smoothing": 0.1}
    by_classifier = mixture | {"components": 4, "learner": AtAnyPose}
    by_pose = mixture | {"components": 8, "learner": PoseLearner}
    return Experiment(
        about=about,
        data=data,
        family="rotation",
        rows={
            "none": NONE,
            "fixed ±90°": Row("fixed", {"half_width": 0.5}, {"burn_in": 1}),
            "fixed ±180°": Row("fixed", {"half_width": 1.0}, {"burn_in": 1}),
            "flow": Row("flow", {"encoder": encoder}),
            "way back by the classifier": Row("mixture_flow", by_classifier, asks),
            # Its two networks do not wait for each other.
            "way back by the pose": Row("mixture_flow", by_pose, {"burn_in": 0}),
        },
        profiles={"ci": Settings(epochs=2, burn_in=1), "reduced": reduced},
        classifier=classifier,
        measure=_poses,
        score="accuracy_pose_by_energy_over_angles",
        unit="% accuracy in the pose that energy chooses, mean over turns of 0 to 180°",
        original=False,
    )


@torch.no_grad()
def _in_service(model: InvariantClassifier, data: Dataset) -> dict:
    """How often a classifier in service keeps its answer when q moves the image, and by how much.

    On the first 1,000 test images; also by another image's q.
    """
    images, labels = data.test[:1000]

    def kept(guide: nn.Module) -> float:
        same = []
        for part in images.to(model.device).split(100):
            answers = model.logits(part, guide(part).sample((20,))).argmax(-1)
            same.append((answers == model.classify(part).argmax(-1)).double().mean())
        return 100 * torch.stack(same).mean().item()

    nats, _ = metrics.information(model, images[:100])
    return {
        "kept": kept(model.q),
        "kept_by_another": kept(metrics.OfAnother(model.q)),
        "information_nats": nats,
        **accuracies(model, images, labels),
        **_on_validation(model, data.validation),
    }


# On a dial the first few of these classes are two each, upright and on their head.
DIGITS_DIAL = (4, 7, 2, 3, 5)
PHOTOS_DIAL = (0, 1, 8, 9, 2, 3, 4, 5, 6, 7)  # what people build, then animals


def _some_on_their_head(
    images: Tensor, two_faced: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """About half of the images that are two-faced (B,) turned by exactly 180°, and which."""
    on_head = two_faced & (torch.rand(len(images), generator=generator) < 0.5)
    return torch.where(on_head[:, None, None, None], images.rot90(2, (-2, -1)), images), on_head


def _dial(name: str, classes: Sequence[int], two_faced: int, profile: str) -> Dataset:
    """Images as they are, or exactly on their head where that is a class of its own.

    Test images are turned over the whole range of their class: within ±80° of its pose where the
    other pose is another class, and by any angle where it is not. So are the validation images
    that choices are made by: unturned ones cannot tell a range that is wide enough from none.
    """
    data = load(name, sample=profile in ("ci", "quick")).only(list(classes))
    data = _all_or_joined(data, profile)
    if profile == "ci":
        data = data.first(256, 100)
    generator = torch.Generator().manual_seed(0)

    def posed(split: Split) -> Split:
        images, labels = split
        images, on_head = _some_on_their_head(images, labels < two_faced, generator)
        return Split(images, torch.where(on_head, labels + len(classes), labels))

    def turned(split: Split) -> Split:
        limits = torch.where(split.labels < two_faced, 80.0, 180.0)
        images, labels = posed(split)
        return Split(metrics.rotate_within(images, limits, generator), labels)

    return Dataset(
        title=f"{data.title}, {two_faced} of {len(classes)} classes with two poses",
        classes=(*data.classes, *(f"{name} on its head" for name in data.classes[:two_faced])),
        train=posed(data.train),
        validation=turned(data.validation),
        test=turned(data.test),
    )


def _on_the_dial(
    about: str,
    data: Callable[[str], Dataset],
    classifier: Callable[[int, int, str], nn.Module],
    reduced: Settings,
    alphas: tuple[float, ...],
    chosen: tuple[float | None, ...] = (),
) -> Experiment:
    """Known ranges: from one box that is right for all, over none, to another one."""
    return Experiment(
        about=about,
        data=data,
        family="rotation",
        rows=ANGLES,
        profiles={"ci": Settings(epochs=2, burn_in=1), "reduced": reduced},
        classifier=classifier,
        measure=partial(_classification, 15 / 180),
        unit="% accuracy over each class's range",
        alphas=alphas,
        chosen=_alphas("reduced", *chosen) if chosen else {},
    )


def _all_or_joined(data: Dataset, profile: str) -> Dataset:
    """The validation images stay apart but at ``quick``, where nothing is chosen."""
    return data.joined() if profile == "quick" else data


def _digits(profile: str) -> Dataset:
    data = _all_or_joined(load("mnist", sample=profile in ("ci", "quick")), profile)
    return data.first(256, 100) if profile == "ci" else data


def _turned_digits(profile: str) -> Dataset:
    """All digits, turned once: 6 and 9 by up to 60° from their pose, the others by any angle.

    Half of the 6s and 9s are on their head first, and then are called 9 and 6. So no habit of
    handwriting tells a 6 from a turned 9: each is what its pose says.
    """
    data = _digits(profile)
    generator = torch.Generator().manual_seed(0)

    def posed(split: Split) -> Split:
        images, labels = split
        two_faced = (labels == 6) | (labels == 9)
        images, on_head = _some_on_their_head(images, two_faced, generator)
        labels = torch.where(on_head, 15 - labels, labels)
        limits = torch.where(two_faced, 60.0, 180.0)
        return Split(metrics.rotate_within(images, limits, generator), labels)

    return Dataset(
        title=f"{data.title}, turned as the class allows",
        classes=data.classes,
        train=posed(data.train),
        validation=posed(data.validation),
        test=posed(data.test),
    )


def _fashion(profile: str) -> Dataset:
    if profile == "ci":  # there is no embedded sample of it
        return replace(_digits("ci"), title="MNIST in place of Fashion-MNIST (embedded sample)")
    data = _all_or_joined(load("fashion_mnist"), profile)
    return data.first(10000, 2000) if profile == "quick" else data


def _cifar10(profile: str) -> Dataset:
    data = _all_or_joined(load("cifar10", sample=profile in ("ci", "quick")), profile)
    if profile == "ci":
        return data.first(96, 50)
    return data.joined().first(10000, 5000) if profile == "part" else data


def _cifar10_in_a_disc(profile: str) -> Dataset:
    """Black outside the circle that touches the edges.

    A square that is turned has black corners. They tell a q the angle, and a classifier that has
    seen none does not know them.
    """
    data = _cifar10(profile)
    x = centres(32, 32, like=data.test.images)
    inside = torch.hypot(x, x[:, None]) <= 1
    return _each(data, "in a disc", lambda images: images * inside)


def _cifar10_at_64(profile: str) -> Dataset:
    data = _cifar10(profile)
    data = data.first(5000, 1000) if profile == "reduced" else data
    larger = partial(F.interpolate, size=64, mode="bilinear", antialias=True)
    return _each(data, "enlarged to 64×64", larger)


def _each(data: Dataset, words: str, change: Callable[[Tensor], Tensor]) -> Dataset:
    """The data, of which every image is changed; its title says how."""

    def changed(split: Split) -> Split:
        return Split(change(split.images), split.labels)

    return replace(
        data,
        title=f"{data.title}, {words}",
        train=changed(data.train),
        validation=changed(data.validation),
        test=changed(data.test),
    )


def _tiny_imagenet(profile: str) -> Dataset:
    """The reader's own folder, <data>/tiny-imagenet with train/<class> and test/<class>.

    CIFAR-10 stands in for it at ``ci``.
    """
    if profile == "full":
        folder = cache_file("tiny-imagenet").with_suffix("")
        return load_folder(folder, size=64)
    data = _cifar10(profile)
    return replace(data, title=f"{data.title}, in place of TinyImageNet")


def _mario_network(channels: int, classes: int, profile: str) -> nn.Module:
    return ConvNet(channels, classes, width=8)


def _lenet(channels: int, classes: int, profile: str) -> nn.Module:
    return LeNet(channels, classes)


def _resnet(channels: int, classes: int, profile: str) -> nn.Module:
    return FixupResNet(channels, classes, depth=8, planes=16)


def _resnet18(channels: int, classes: int, profile: str) -> nn.Module:
    from torchvision.models import resnet18  # importing it takes as long as all the rest

    return Pretrained(resnet18(num_classes=classes), frozen=False)


def _conv13(channels: int, classes: int, profile: str) -> nn.Module:
    return ConvNet13(channels, classes, width=128 if profile == "full" else 16)


def _preact(channels: int, classes: int, profile: str) -> nn.Module:
    return PreActResNet18(channels, classes, width=64 if profile == "full" else 8)


def _profiles(
    quick: Settings, full: Settings | None = None, **more: Settings
) -> dict[str, Settings]:
    """``ci`` is ``quick`` cut short."""
    ci = replace(quick, epochs=2, burn_in=min(1, quick.burn_in))
    return {"ci": ci, "quick": quick, **({"full": full} if full else {}), **more}


def _ranges(about: str, degrees: float, modes: int, profiles: dict, **more) -> Experiment:
    """An experiment on Mario-Iggy whose result is how far q reaches."""
    usual: dict[str, Any] = {
        "family": "rotation",
        "rows": ONE_RANGE,
        "measure": partial(_mario_ranges, modes),
        "controls": ("none", "fixed ±15°", "one for all", "box flow"),
        "alphas": (0.1, 0.3, 1.0),
        "score": "half_width_degrees",
        "unit": "degrees, half-width of q",
    }
    return Experiment(
        about=about,
        data=_mario(degrees, modes, {"ci": 200, "quick": 3000, "reduced": 10000, "full": 10000}),
        profiles=profiles,
        classifier=_mario_network,
        **(usual | more),
    )


def _selective(about: str, rows: dict[str, Row], epochs: dict[str, int], **more) -> Experiment:
    """An experiment on the paper's five digits: three may turn all the way round, two may not."""
    profiles = {profile: Settings(epochs=number) for profile, number in epochs.items()}
    return Experiment(
        about=about,
        data=_five_digits,
        family="rotation_translation",
        rows=rows,
        profiles={"ci": Settings(epochs=3, burn_in=1), **profiles},
        classifier=_convnet,
        measure=_selective_invariance,
        score="accuracy_turned_averaged",
        unit="% accuracy on digits turned as their class allows",
        **more,
    )


def _classifies(
    about: str,
    data: Callable[[str], Dataset],
    classifier: Callable[[int, int, str], nn.Module],
    profiles: dict[str, Settings],
    box: Numbers,
    **more,
) -> Experiment:
    """An experiment whose result is accuracy, all of the plane's affine maps being possible.

    The box is the one that a person would choose, as ``FixedBox`` has it.
    """
    usual: dict[str, Any] = {
        "family": "affine",
        "rows": _affine_rows(box),
        "measure": partial(_classification, box),
        "controls": CONTROLS,
        "alphas": (0.01, 0.003, 0.03),
    }
    return Experiment(
        about=about,
        data=data,
        classifier=classifier,
        profiles=profiles,
        original=False,
        **(usual | more),
    )


def _alphas(profile: str, *alphas: float | None) -> dict[str, dict[str, dict]]:
    """What was chosen: an α for each row that learns; None where it is still to be chosen."""
    rows = zip(LEARNED, alphas, strict=True)
    return {profile: {row: {"alpha": alpha} for row, alpha in rows if alpha is not None}}


def _what_looks(
    about: str,
    data: Callable[[str], Dataset],
    classifier: Callable[[int, int, str], nn.Module],
    box: Numbers,
    layer: str,
    reduced: Settings,
) -> Experiment:
    """What makes q look at the image: the box flow, with one choice changed at a time.

    The layer is the classifier's, whose features an encoder may read.
    """
    narrow = {"half_width": 0.2}
    half = {"held_out": 0.5}
    settling = {"settle": reduced.epochs // 2}
    return _classifies(
        about,
        data,
        classifier,
        {"ci": Settings(epochs=2, burn_in=1), "reduced": reduced},
        box,
        rows={
            "box flow": Row("box_flow", narrow),
            "one for all": Row("box_flow", {**narrow, "for_all": True}),
            "a box": Row("instaaug", narrow),
            "splines": Row("flow", {"scale": 0.1}),
            "couplings": Row("coupling_flow", {"scale": 0.1}),
            "wide start": Row("box_flow", {"half_width": 0.5}),
            "classifier's features": Row("box_flow", {**narrow, "features": layer}),
            "α 0.03": Row("box_flow", narrow, {"alpha": 0.03}),
            "α 0.1, 4 samples": Row("box_flow", narrow, {"alpha": 0.1, "samples": 4}),
            "q's rate × 3": Row("box_flow", narrow, {"guide_lr": 3 * reduced.guide_lr}),
            "q's rate ÷ 3": Row("box_flow", narrow, {"guide_lr": reduced.guide_lr / 3}),
            "smoothed labels": Row("box_flow", narrow, {"smoothing": 0.1}),
            "classifier first": Row(
                "box_flow", narrow, {"burn_in": reduced.epochs // 2, "freeze": True}
            ),
            "q first, then fixed": Row("box_flow", narrow, settling),
            "q on held-out half": Row("box_flow", narrow, half),
            "q on held-out half, then fixed": Row("box_flow", narrow, half | settling),
        },
        controls=(),
        alphas=(),
    )


def _and_accuracies(
    measure: Callable[[InvariantClassifier], dict],
) -> Callable[[InvariantClassifier, Dataset], dict]:
    """What a measure finds of a model, and the model's accuracies on the test images."""
    return lambda model, data: measure(model) | accuracies(model, *data.test)


def _in_depth(profile: str) -> Dataset:
    return in_depth(200, 100) if profile == "ci" else in_depth(4000, 1000)


def _bent(profile: str) -> Dataset:
    return bent(200, 100) if profile == "ci" else bent(24000, 1000)


def _coloured(profile: str) -> Dataset:
    return coloured_digits(sample=True, train=200 if profile == "ci" else None)


def _ridge(profile: str) -> Dataset:
    return ridge_data(256 if profile == "ci" else 4096, 64)


def _on_ridge(channels: int, classes: int, profile: str) -> nn.Module:
    return OnRidge()


DIMENSIONS = (2, 4, 6, 8, 16, 32)
RIDGES = Registry("family", **{f"D = {D}": Beside(D) for D in DIMENSIONS})
SHAPES = {
    # At a higher price of entropy a box fills all there is, and its edges, saturated, stay there.
    "box": ("box_flow", {"layers": 0}, {"alpha": Schedule(start=3.0, end=1.0, share=0.5)}),
    "gaussian": ("gaussian", {}, {}),
    "couplings": ("coupling_flow", {"layers": 6}, {}),
    "splines": ("flow", {"hidden": 128}, {}),
}


LEARNERS = {
    "augerino": Row("augerino"),
    "instaaug": Row("instaaug"),
    "one for all": Row("box_flow", {"for_all": True}),
    "box flow": Row("box_flow"),
    "flow": Row("flow"),
}
LEARNED = tuple(LEARNERS)  # each has its α
NONE = Row("none", changes={"samples": 1})
ONE_RANGE = {
    "none": NONE,
    "fixed ±15°": Row("fixed", {"half_width": 15 / 180}),
    **LEARNERS,
}
FIVE = {"scale": [0.2, 0.2, 0.6]}  # small shifts and wide rotations: see CONTRIBUTING.md


def _affine_rows(box: Numbers) -> dict[str, Row]:
    """A ladder: a person's box, a learned box for all, one for each, a shape for all, for each."""
    return {
        "none": NONE,
        "fixed": Row("fixed", {"half_width": box}),
        "augerino": Row("augerino", {"half_width": 0.2}),
        "instaaug": Row("instaaug", {"half_width": 0.2}),
        "one for all": Row("box_flow", {"half_width": 0.2, "for_all": True}),
        "box flow": Row("box_flow", {"half_width": 0.2}),
        # The paper's layers, over one Gaussian.
        "flow": Row("coupling_flow", {"scale": 0.1}),
    }


CONTROLS = ("fixed", "fixed ±15°", "full circle", "one for all", "box flow")
# The ladder where T is an angle.
ANGLES = {
    "none": NONE,
    "fixed ±90°": Row("fixed", {"half_width": 0.5}),
    "fixed ±180°": Row("fixed", {"half_width": 1.0}),
    "augerino": Row("augerino", {"half_width": 0.4}),
    "instaaug": Row("instaaug", {"half_width": 0.4}),
    "one for all": Row("box_flow", {"half_width": 0.4, "for_all": True}),
    "box flow": Row("box_flow", {"half_width": 0.4}),
    "flow": Row("flow"),
}
CROPS = {
    "none": NONE,
    "random crop": Row("fixed", {"half_width": 0.5}),
    "augerino": Row("augerino"),
    "instaaug": Row("instaaug"),
    "instaaug_crops": Row("instaaug_crops"),
    "one for all": Row("box_flow", {"for_all": True}),
    "box flow": Row("box_flow"),
    "flow": Row("coupling_flow"),
}
STAYS = 0.001  # the half-width of a coefficient that a fixed box leaves as it is
# What a person who knows the pictures would choose: digits turn a little; clothes and photographs
# also move by an eighth or a little more of the picture's half, and change their size by a tenth.
DIGITS_BOX = [STAYS, STAYS, 15 / 180, STAYS, STAYS, STAYS]
CLOTHES_BOX = [2 / 14, 2 / 14, 10 / 180, 0.1, STAYS, STAYS]
PHOTOS_BOX = [4 / 16, 4 / 16, 10 / 180, 0.1, STAYS, STAYS]
PHOTOS_ALPHAS = _alphas("reduced", 0.003, 0.01, 0.01, 0.01, 0.01)  # CIFAR-10's trials


MARIO = Settings(epochs=25)
MARIO_REDUCED = Settings(epochs=15)  # of three times as many images
MARIO_ALPHAS = _alphas("reduced", 0.1, 0.3, 0.1, 0.1, 0.1)  # the trials of mario-90
MARIO_FULL = Settings(
    epochs=100,
    batch_size=128,
    lr=1e-3,
    guide_lr=1e-3,
    weight_decay=0.01,
    decay=Cosine(to=0.1),
    burn_in=5,
)
THREE_POSES: dict[str, Any] = {
    "alpha": 0.4,
    "samples": 8,
    "burn_in": 3,
    "freeze": True,
    "smoothing": 0.1,
}
RIDGE: dict[str, Any] = {"alpha": 0.1, "freeze": True, "smoothing": 0.1}
DIGITS_QUICK = Settings(epochs=8, alpha=0.03, burn_in=1)
MNIST_FULL = Settings(
    epochs=100,
    batch_size=256,
    alpha=0.01,
    samples=20,
    lr=1e-3,
    guide_lr=1e-4,
    decay=Steps(every=80, factor=0.1),
    burn_in=1,
)
CIFAR = Settings(
    epochs=200,
    batch_size=256,
    alpha=0.1,
    samples=20,
    optimizer="sgd",
    lr=0.1,
    guide_lr=1e-4,
    weight_decay=5e-4,
    decay=Steps(every=80, factor=0.1),
    burn_in=10,
)
LONG_TAIL = replace(CIFAR, epochs=100, alpha=0.05, decay=Steps(every=80, factor=0.05))
# All the data and the published network, in fewer epochs and with one sample.
LENET_REDUCED = Settings(
    epochs=40, batch_size=128, alpha=0.01, samples=1, lr=2e-3, guide_lr=1e-3, burn_in=1
)
RESNET_REDUCED = replace(
    CIFAR,
    epochs=24,
    batch_size=128,
    alpha=0.01,
    samples=1,
    guide_lr=3e-3,
    decay=Cosine(),
    burn_in=1,
)
CIFAR_QUICK = replace(
    CIFAR, epochs=40, batch_size=64, alpha=0.01, samples=1, guide_lr=3e-4, decay=Cosine(), burn_in=4
)

# Shortest first, as `python -m flowinv reproduce` takes them.
EXPERIMENTS = Registry(
    "experiment",
    **{
        # Classes whose poses are half a turn apart: whatever the data's own range, ±90° is where
        # a class ends.
        "mario-45": _ranges(
            "Mario-Iggy within ±45° of its poses: how far q reaches",
            degrees=45,
            modes=1,
            profiles=_profiles(MARIO, MARIO_FULL, reduced=MARIO_REDUCED),
            alphas=(),
            chosen=MARIO_ALPHAS,  # tried on the same pictures, which lean further there
        ),
        "mario-90": _ranges(
            "Mario-Iggy within ±90° of its poses: how far q reaches",
            degrees=90,
            modes=1,
            profiles=_profiles(
                MARIO, replace(MARIO_FULL, epochs=250, burn_in=1), reduced=MARIO_REDUCED
            ),
            chosen=MARIO_ALPHAS,
            published={"augerino": "toward 0", "flow": "toward 90"},
        ),
        # Each class in three poses, 120° apart, those of upright and upside-down in turn: three
        # ranges of ±30°.
        "mario-3mode": _ranges(
            "Mario-Iggy around three poses a class: does q show all three",
            degrees=30,
            modes=3,
            profiles=_profiles(
                Settings(epochs=25, batch_size=32, **THREE_POSES),
                replace(MARIO_FULL, epochs=150, **THREE_POSES),
                reduced=Settings(epochs=5, batch_size=32, **(THREE_POSES | {"burn_in": 1})),
            ),
            # A mixture, and no layers on top, in place of the flow.
            rows={row: ONE_RANGE[row] for row in ONE_RANGE if row != "flow"}
            | {"mixture": Row("mixture_flow", {"components": 8, "scale": 0.2})},
            chosen={
                "reduced": {
                    "augerino": {"alpha": 1.0},
                    "instaaug": {"alpha": 0.3},
                    "one for all": {"alpha": 0.1},
                    "box flow": {"alpha": 0.1},
                    "mixture": {"alpha": 0.1},
                }
            },
            score="share_inside",
            unit="share of q in the class's poses",
        ),
        "rotation-discovery": _ranges(
            "Two free entries of the linear map: does q find the ridge of rotations",
            degrees=90,
            modes=1,
            profiles=_profiles(
                replace(MARIO, burn_in=5, **RIDGE),
                replace(MARIO_FULL, **RIDGE),
                reduced=replace(MARIO_REDUCED, **RIDGE),
            ),
            rows=LEARNERS,
            controls=("augerino", "one for all", "box flow"),
            alphas=(0.01, 0.03, 0.1, 0.3),
            chosen=_alphas("reduced", 0.01, 0.01, 0.01, 0.01, 0.01),
            family="rotation_discovery",
            measure=_rotation_discovery,
            score="rotation_error",
            unit="relative distance to a rotation",
        ),
        "mnist-selective": _selective(
            "0, 1, 5 may turn all the way round, 6 and 9 may not",
            rows={
                "none": Row("none"),
                # All that the flow could do, and two boxes that a person who knows digits would
                # choose.
                "whole box": Row("fixed", {"half_width": 1.0}),
                "fixed ±90°": Row("fixed", {"half_width": [0.1, 0.1, 0.5]}),
                "fixed ±180°": Row("fixed", {"half_width": [0.1, 0.1, 1.0]}),
                "augerino": Row("augerino"),
                "instaaug": Row("instaaug"),
                "one for all": Row("box_flow", {"half_width": FIVE["scale"], "for_all": True}),
                "box flow": Row("box_flow", {"half_width": FIVE["scale"]}),
                "flow": Row("flow", FIVE),
            },
            epochs={"quick": 40, "full": 12},
            controls=CONTROLS,
            alphas=(0.1, 0.3, 1.0),
            # Upright digits cannot tell which turns are allowed: see the page of choices.
            judge="validation_turned",
            chosen=_alphas("full", 0.1, 0.1, 0.1, 0.1, 0.3),
        ),
        **{
            f"mnist-dial-{number}": _on_the_dial(
                f"Digits of which {number} of 5 are another class on their head",
                partial(_dial, "mnist", DIGITS_DIAL, number),
                _convnet,
                Settings(epochs=12, batch_size=64, samples=1, burn_in=1),
                alphas=(0.1, 0.3, 1.0),
                chosen=chosen,
            )
            for number, chosen in {
                0: (1.0, 1.0, 1.0, 1.0, 1.0),
                2: (1.0, 0.3, 1.0, 0.3, 0.3),
                3: (1.0, 1.0, 1.0, 0.3, 1.0),
                5: (0.3, 0.3, 0.3, 0.3, 0.3),
            }.items()
        },
        # The models of the page on which the reader turns a digit: one choice of α each.
        "play": Experiment(
            about="All ten digits, turned as their class allows, at three prices of entropy",
            data=_turned_digits,
            family="rotation",
            rows={
                f"α {alpha:g}": Row("box_flow", {"half_width": 0.4}, {"alpha": alpha})
                for alpha in (0.1, 0.3, 1.0)
            },
            profiles={
                "ci": Settings(epochs=2, burn_in=1),
                # The classifier first, then q, which so finds within minutes where a 9 reads as a
                # 6. Smoothed, because what a network is too sure of no price of entropy outweighs.
                "reduced": Settings(epochs=7, samples=1, burn_in=2, freeze=True, smoothing=0.1),
            },
            classifier=_convnet,
            measure=_ranges_of_digits,
            unit="% accuracy on digits turned as their class allows",
            original=False,
        ),
        "cifar10-dial-4": _on_the_dial(
            "CIFAR-10 with 4 classes, what people build, that are others on their head",
            partial(_dial, "cifar10", PHOTOS_DIAL, 4),
            _resnet,
            replace(RESNET_REDUCED, epochs=16),
            alphas=(0.03, 0.1, 0.3),
        ),
        **{
            f"{name}-poses": _poses_never_seen(
                f"Upright {title} turned by any angle in the test, LeNet",
                data,
                _lenet,
                partial(ConvNet, width=16),
                reduced=replace(LENET_REDUCED, epochs=12, burn_in=6, alpha=0.1, guide_lr=2e-3),
            )
            for name, title, data in (
                ("mnist", "MNIST", _digits),
                ("fmnist", "Fashion-MNIST", _fashion),
            )
        },
        "cifar10-poses": _poses_never_seen(
            "Upright CIFAR-10, in a disc, turned by any angle in the test, ResNet-8-16",
            _cifar10_in_a_disc,
            _resnet,
            partial(FixupResNet, depth=8, planes=16),
            reduced=replace(RESNET_REDUCED, epochs=8, burn_in=4, alpha=0.1),
        ),
        "depth": Experiment(
            about="Sprites on cards that turn in depth: how far they may and still face us",
            data=_in_depth,
            family="tilt",
            rows=LEARNERS,
            # Frozen, as in rotation-discovery, so that what it calls facing does not move.
            profiles=_profiles(
                Settings(epochs=20, burn_in=8, alpha=0.3, guide_lr=8e-3, freeze=True)
            ),
            classifier=_mario_network,
            measure=_and_accuracies(measure_cards),
            score="range_error_percent",
            unit="% by which the worse of two ranges is off",
        ),
        "elastic": Experiment(
            about="Sprites on boards that bend: how much they may and still count as straight",
            data=_bent,
            family="elastic",
            rows=LEARNERS,
            profiles=_profiles(
                Settings(epochs=16, burn_in=8, alpha=0.02, guide_lr=8e-3, freeze=True)
            ),
            classifier=_convnet,
            measure=_and_accuracies(measure_boards),
            score="range_error_percent",
            unit="% by which the worse of two ranges is off",
        ),
        "colour": Experiment(
            about="Coloured digits, of which half are other classes in other hues",
            data=_coloured,
            family="hue",
            rows={
                "none": NONE,
                "augerino": Row("augerino", {"half_width": 0.4}),
                "instaaug": Row("instaaug", {"half_width": 0.4}),
                "one for all": Row("box_flow", {"half_width": 0.4, "for_all": True}),
                "box flow": Row("box_flow", {"half_width": 0.4}),
                "flow": Row("flow"),
            },
            profiles=_profiles(Settings(epochs=24, burn_in=1, alpha=0.5, samples=1)),
            classifier=_mario_network,
            measure=measure_colours,
            unit="% accuracy on hues that are new",
        ),
        "dimensions": Experiment(
            about="A curve in a box of D dimensions: does q stay on it, and cover it",
            data=_ridge,
            family="D = 2",
            families=RIDGES,
            rows={
                f"{shape}, D = {D}": Row(guide, options, changes, family=f"D = {D}")
                for D in DIMENSIONS
                for shape, (guide, options, changes) in SHAPES.items()
            },
            profiles=_profiles(
                Settings(
                    epochs=25,
                    batch_size=128,
                    burn_in=0,
                    alpha=Schedule(start=100.0, end=1.0, share=0.8),
                )
            ),
            classifier=_on_ridge,
            measure=measure_ridge,
            score="on_ridge",
            unit="share of q on the curve",
            original=False,
        ),
        # The flow of mnist-selective, with one choice changed at a time.
        "design": _selective(
            "mnist-selective in half the epochs, one choice of the flow's design changed at a time",
            rows={
                "flow": Row("flow", FIVE),
                "no layers": Row("gaussian", FIVE),
                "3 layers": Row("flow", FIVE | {"layers": 3}),
                "hidden 16": Row("flow", FIVE | {"hidden": 16}),
                "hidden 256": Row("flow", FIVE | {"hidden": 256}),
                "4 bins": Row("flow", FIVE | {"bins": 4}),
                "12 affine couplings": Row("coupling_flow", FIVE),
                "mixture base": Row("flow", FIVE | {"base": MixtureBase}),
                "uniform base": Row("flow", {"base": UniformBase}),
                "narrow start": Row("flow", {"scale": 0.2}),
                "α 0.03": Row("flow", FIVE, {"alpha": 0.03}),
                "α 0.1": Row("flow", FIVE, {"alpha": 0.1}),
                "α 1": Row("flow", FIVE, {"alpha": 1.0}),
                "1 sample": Row("flow", FIVE, {"samples": 1}),
                "8 samples": Row("flow", FIVE, {"samples": 8}),
                "rotation, D = 1": Row("flow", {"scale": 0.6}, family="rotation"),
                "similarity, D = 4": Row(
                    "flow", {"scale": [0.2, 0.2, 0.6, 0.2]}, family="similarity"
                ),
                "affine, D = 6": Row(
                    "flow", {"scale": [0.2, 0.2, 0.6, 0.2, 0.2, 0.2]}, family="affine"
                ),
            },
            epochs={"quick": 20},
        ),
        "fmnist-design": _what_looks(
            "Fashion-MNIST in half the epochs: what makes q look at the image",
            _fashion,
            _lenet,
            CLOTHES_BOX,
            layer="layers.5",
            reduced=replace(LENET_REDUCED, epochs=20),
        ),
        "cifar10-design": _what_looks(
            "CIFAR-10 in half the epochs: what makes q look at the image",
            _cifar10,
            _resnet,
            PHOTOS_BOX,
            layer="blocks.1",
            reduced=replace(RESNET_REDUCED, epochs=12),
        ),
        "mnist": _classifies(
            "MNIST, LeNet",
            _digits,
            _lenet,
            _profiles(DIGITS_QUICK, MNIST_FULL, reduced=replace(LENET_REDUCED, epochs=20)),
            DIGITS_BOX,
            chosen=_alphas("reduced", 0.003, 0.003, 0.01, 0.003, 0.003),
            published={
                "none": "99.1 ± 0.02",
                "augerino": "98.3 ± 0.1",
                "LILA": "99.4 ± 0.02",
                "flow": "99.2 ± 0.1",
            },
        ),
        "fmnist": _classifies(
            "Fashion-MNIST, LeNet",
            _fashion,
            _lenet,
            _profiles(
                DIGITS_QUICK, replace(CIFAR, alpha=0.03, guide_lr=1e-3), reduced=LENET_REDUCED
            ),
            CLOTHES_BOX,
            chosen=_alphas("reduced", 0.01, 0.01, 0.01, 0.03, 0.03),
            published={
                "none": "89.6 ± 0.2",
                "augerino": "90.1 ± 0.1",
                "LILA": "91.9 ± 0.2",
                "flow": "92.3 ± 1.4",
            },
        ),
        "rotmnist-lt": _classifies(
            "MNIST, each image turned at random, with classes of 10 to 1, LeNet",
            lambda profile: _digits(profile).long_tail().rotated(),
            _lenet,
            _profiles(
                DIGITS_QUICK,
                replace(LONG_TAIL, optimizer="adam", lr=1e-3, weight_decay=0.0),
                reduced=replace(LENET_REDUCED, epochs=20),
            ),
            box=15 / 180,
            family="rotation",
            measure=partial(_long_tail, 180, 15 / 180),
            chosen=_alphas("reduced", 0.03, 0.03, 0.03, 0.01, 0.03),
            rows=ONE_RANGE | {"full circle": Row("fixed", {"half_width": 1.0})},
        ),
        "cifar10-lt": _classifies(
            "CIFAR-10 with classes of 5,000 to 500 images, ResNet-8-16",
            lambda profile: _cifar10(profile).long_tail(),
            _resnet,
            _profiles(CIFAR_QUICK, LONG_TAIL, reduced=RESNET_REDUCED),
            PHOTOS_BOX,
            measure=partial(_long_tail, 10, PHOTOS_BOX),
            alphas=(),
            chosen=PHOTOS_ALPHAS,  # tried on all of the same images
            published={
                "none": "70.8 ± 0.8",
                "augerino": "63.6 ± 1.3",
                "LILA": "76.4 ± 0.9",
                "flow": "78.1 ± 1",
            },
        ),
        "cifar10": _classifies(
            "CIFAR-10, ResNet-8-16",
            _cifar10,
            _resnet,
            _profiles(
                CIFAR_QUICK,
                CIFAR,
                part=replace(CIFAR_QUICK, epochs=20),
                reduced=RESNET_REDUCED,
                # What a GPU does in ten minutes: past the first fall of the rates, at 80.
                long=replace(CIFAR, epochs=85),
            ),
            PHOTOS_BOX,
            # Where the flow's ten minutes on that GPU were over.
            chosen=PHOTOS_ALPHAS | {"long": {"flow": {"epochs": 82}}},
            published={
                "none": "74.1 ± 0.5",
                "augerino": "79.0 ± 1",
                "LILA": "84.2 ± 0.8",
                "flow": "86.8 ± 0.4",
            },
        ),
        "cifar10-families": Experiment(
            about="CIFAR-10, ResNet-8-16: the paper's flow over families beyond the plane",
            data=_cifar10,
            family="affine",
            rows={
                "none": NONE,
                "affine": Row("coupling_flow", {"scale": 0.1}),
                "projective": Row("coupling_flow", {"scale": 0.1}, family="projective"),
                "colour": Row("coupling_flow", {"scale": 0.1}, family="colour"),
                "affine × colour": Row("coupling_flow", {"scale": 0.1}, family="affine_colour"),
            },
            profiles={
                "ci": Settings(epochs=2, burn_in=1),
                "reduced": replace(RESNET_REDUCED, epochs=12),
            },
            classifier=_resnet,
            measure=partial(_classification, 0.1),
            original=False,
        ),
        "cifar10-13layer": _classifies(
            "CIFAR-10, 13-layer network (an eighth of its width but at full)",
            _cifar10,
            _conv13,
            _profiles(
                replace(CIFAR_QUICK, epochs=20),
                replace(CIFAR, batch_size=100, samples=5),
                reduced=replace(RESNET_REDUCED, epochs=12),
            ),
            PHOTOS_BOX,
            published={
                "none": "90.6",
                "Fast AutoAugment": "92.65",
                "augerino": "93.8",
                "flow": "94.3",
            },
        ),
        "cifar10-resnet18": Experiment(
            about="CIFAR-10 at 64×64: how far it may move before a ResNet-18 changes its mind",
            data=_cifar10_at_64,
            family="similarity",
            rows={
                "augerino": Row("augerino", {"half_width": 0.2}),
                "one for all": Row("flow", {"scale": 0.2, "for_all": True}),
                "flow": Row("flow", {"scale": 0.2, "features": "network.layer3"}),
            },
            profiles={
                "ci": Settings(epochs=2, burn_in=1, freeze=True),
                "reduced": Settings(
                    epochs=10,
                    batch_size=128,
                    lr=1e-3,
                    weight_decay=0.05,
                    smoothing=0.1,
                    decay=Cosine(),
                    burn_in=6,
                    freeze=True,
                ),
            },
            classifier=_resnet18,
            measure=_in_service,
            score="kept",
            unit="% of transformed images that keep their class",
            original=False,
        ),
        "cifar10-crop": _classifies(
            "CIFAR-10, a narrow PreActResNet-18, crops",
            _cifar10,
            _preact,
            {
                "ci": replace(CIFAR_QUICK, epochs=2, burn_in=1),
                "quick": replace(CIFAR_QUICK, epochs=10, burn_in=2),
                "reduced": replace(RESNET_REDUCED, epochs=12),
            },
            box=0.5,
            family="crop",
            rows=CROPS,
        ),
        "tinyimagenet-crop": _classifies(
            "TinyImageNet from a folder of your own, PreActResNet-18, crops",
            _tiny_imagenet,
            _preact,
            {
                "ci": replace(CIFAR_QUICK, epochs=2, burn_in=1),
                "full": replace(CIFAR, chunk=1280),
            },
            box=0.5,
            family="crop",
            rows=CROPS,
            published={
                "none": "55.1",
                "random crop": "64.5",
                "augerino": "55.0",
                "instaaug": "54.4",
                "instaaug_crops": "66.0",
                "flow": "65.4",
                "flow over the preset crops": "66.0",
            },
        ),
    },
)
