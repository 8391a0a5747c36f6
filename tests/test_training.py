"""Laws of training: it learns, repeats, resumes exactly, and fails with a word of advice."""

import copy
import functools
import json
import math
import os
import random
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset

from flowinv.data import DataError, Split, reading
from flowinv.distributions import Draw, MixtureBase, draw
from flowinv.guides import GUIDES
from flowinv.model import InvariantClassifier
from flowinv.networks import ConvNet, FixupResNet
from flowinv.training import (
    CheckpointError,
    Cosine,
    EntropyControl,
    Schedule,
    Settings,
    Steps,
    TrainingWarning,
    finished_epochs,
    fit,
    pick_device,
    step,
)
from flowinv.training import loop as training
from flowinv.training.checkpoints import describe
from flowinv.transforms import FAMILIES

SETTINGS = Settings(epochs=4, batch_size=16, alpha=0.3, burn_in=1)


def bright_halves():
    """Two classes, the bright half above or below: 48 pictures."""
    labels = torch.arange(48) % 2
    images = 0.4 * torch.rand(48, 1, 28, 28)
    images[labels == 0, :, :14] += 0.5
    images[labels == 1, :, 14:] += 0.5
    return images, labels


@pytest.fixture
def data():
    return bright_halves()


def build(family="rotation", **options):
    torch.manual_seed(3)
    return InvariantClassifier.build("flow", family, in_channels=1, classes=2, width=4, **options)


def train(data, settings=SETTINGS, model=None, **options):
    model = model or build()
    history = fit(model, *data, settings, device="cpu", progress=False, **options)
    return model, history


def same(a, b):
    return all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def losses(history):
    return [row["loss"] for row in history]


def test_it_learns_and_repeats(data):
    model, history = train(data, replace(SETTINGS, epochs=12))
    assert (model.predict(data[0], 0).argmax(-1) == data[1]).float().mean() > 0.9
    again, history_again = train(data, replace(SETTINGS, epochs=12))
    assert same(model, again) and losses(history) == losses(history_again)
    other, _ = train(data, replace(SETTINGS, epochs=12, seed=1))
    assert not same(model, other)


@pytest.mark.filterwarnings("ignore::flowinv.training.TrainingWarning")
def test_burn_in_trains_the_classifier_alone(data):
    before = build()
    after, history = train(data, replace(SETTINGS, epochs=1))
    assert same(before.q, after.q) and not same(before.classifier, after.classifier)
    assert history[0]["entropy"] is None


@pytest.mark.filterwarnings("ignore::flowinv.training.TrainingWarning")
def test_a_frozen_classifier_stays_and_q_still_learns(data):
    burnt_in, _ = train(data, replace(SETTINGS, epochs=1))
    model, history = train(data, replace(SETTINGS, epochs=1, burn_in=0, freeze=True))
    assert same(model.classifier, build().classifier) and not same(model.q, build().q)
    assert all(p.requires_grad for p in model.parameters())
    assert not same(burnt_in.classifier, build().classifier)


@pytest.mark.filterwarnings("ignore::flowinv.training.TrainingWarning")
def test_a_frozen_classifiers_batch_norm_stays_too(data):
    def steps_seen(**changes):
        model = build()
        model.classifier = torch.nn.Sequential(torch.nn.BatchNorm2d(1), model.classifier)
        train(data, replace(SETTINGS, **changes), model=model)
        return model.classifier[0].num_batches_tracked.item()

    burnt_in = steps_seen(epochs=1)
    assert steps_seen(epochs=3, freeze=True) == burnt_in < steps_seen(epochs=2)


def test_held_out_images_teach_q_alone_and_the_others_the_classifier(data):
    """Other labels for some images change what those images teach, and nothing else, in a step."""
    settings = replace(SETTINGS, held_out=0.25, burn_in=0, clip=1e6)
    images, labels = (tensor[:32] for tensor in data)
    held_out = torch.zeros(32, dtype=torch.bool)
    held_out[:8] = True

    def after(labels, alpha=0.1):
        model = build()
        optimizers = training.make_optimizers(model, settings, fused=False)
        step(model, optimizers, images, labels, settings, alpha, held_out=held_out)
        return model

    now = after(labels)
    theirs = after(torch.where(held_out, 1 - labels, labels))
    assert same(theirs.classifier, now.classifier) and not same(theirs.q, now.q)
    ours = after(torch.where(held_out, labels, 1 - labels))
    assert same(ours.q, now.q) and not same(ours.classifier, now.classifier)
    assert same(after(labels, alpha=None).q, build().q)


def test_the_loss_of_burn_in_is_a_mean_over_the_images_that_teach_the_classifier(data):
    settings = replace(SETTINGS, held_out=0.25, burn_in=2)
    images, labels = (tensor[:32] for tensor in data)
    held_out = torch.zeros(32, dtype=torch.bool)
    held_out[:8] = True
    model = build()
    own = torch.nn.functional.cross_entropy(model.classify(images[8:]), labels[8:])
    optimizers = training.make_optimizers(model, settings, fused=False)
    loss, _, _ = step(model, optimizers, images, labels, settings, None, held_out=held_out)
    torch.testing.assert_close(loss, own.detach())


def test_a_quarter_held_out_is_the_same_quarter_in_every_epoch(data):
    images = data[0]
    chosen = training._held_out(images, replace(SETTINGS, held_out=0.25))
    assert chosen.sum() == 12 and not chosen[:12].all()
    assert torch.equal(chosen, training._held_out(images, replace(SETTINGS, held_out=0.25)))
    assert training._held_out(images, SETTINGS) is None


def test_when_q_settles_it_stays_and_the_classifier_goes_on(data):
    seen = []

    def remember(model):
        seen.append(copy.deepcopy(model))
        return {}

    settings = replace(SETTINGS, epochs=4, burn_in=1, settle=2, held_out=0.5)
    model, _ = train(data, settings, each_epoch=remember)
    assert same(seen[1].q, seen[3].q) and not same(seen[0].q, seen[1].q)
    assert not same(seen[1].classifier, seen[3].classifier)
    assert all(p.requires_grad for p in model.parameters())


def test_alpha_may_be_a_whole_number(data):
    _, history = train(data, replace(SETTINGS, epochs=2, alpha=1))
    assert history[1]["alpha"] == 1


def test_nothing_to_learn_is_no_error(data):
    model = build()
    model.q = GUIDES["none"](model.family, 1)
    train(data, replace(SETTINGS, freeze=True), model=model)


@pytest.mark.parametrize("burn_in", [0, 12])
def test_smoothed_labels_leave_a_loss_that_nothing_can_undercut(data, burn_in):
    """With half of each label spread over two classes: for each term the entropy of (3/4, 1/4)."""
    model = build()
    model.q = GUIDES["none"](model.family, 1)
    terms = 1 if burn_in else 2  # images as they are, and transformed
    floor = terms * (0.75 * math.log(4 / 3) + 0.25 * math.log(4))
    settings = replace(SETTINGS, epochs=12, burn_in=burn_in, alpha=0.0, smoothing=0.5)
    _, history = train(data, settings, model=model)
    assert floor < history[-1]["loss"] < 1.2 * floor
    _, history = train(data, replace(settings, smoothing=0.0), model=model)
    assert history[-1]["loss"] < 0.5 * floor


def test_a_schedule_moves_alpha_evenly_in_its_logarithm(data):
    _, history = train(data, replace(SETTINGS, epochs=5, alpha=Schedule(1.0, 0.01, share=0.5)))
    alphas = [row["alpha"] for row in history]
    assert alphas[0] is None and 1 > alphas[1] > alphas[2] > alphas[3] == pytest.approx(0.01)
    assert alphas[4] == pytest.approx(0.01)
    assert Schedule(1.0, 0.01, share=0.5).at(0.25) == pytest.approx(0.1)


@pytest.mark.parametrize("target", [0.0, 0.2])
@pytest.mark.parametrize("seed", [0, 1])
def test_control_holds_the_entropy_at_its_target_in_training(data, seed, target):
    control = EntropyControl(target=target, start=0.1, rate=0.1)
    _, history = train(data, replace(SETTINGS, epochs=60, seed=seed, alpha=control))
    assert sum(row["entropy"] for row in history[-20:]) / 20 == pytest.approx(target, abs=0.15)


def test_control_settles_where_the_entropy_answers_alpha():
    """On an entropy that follows log α with a delay: at the target, from above and from below."""
    for start in (0.001, 10.0):
        control = EntropyControl(target=0.5, start=start, rate=0.02, bound=10.0)
        state = torch.zeros(2)
        entropy = 0.0
        for _ in range(3000):
            wanted = 0.3 * torch.as_tensor(control.at(0.0, state)).log().item() + 0.8
            entropy += 0.05 * (wanted - entropy)
            control.observe(torch.tensor(entropy), state)
        assert entropy == pytest.approx(0.5, abs=0.01)


def test_a_target_out_of_reach_is_left_behind_within_bounds():
    """The sum of errors is bounded: at full error it turns within 2 bound / rate steps."""
    control = EntropyControl(target=2.0, start=0.1, gain=0.0, rate=0.1, bound=1.0)
    state = torch.zeros(2)
    for _ in range(1000):
        control.observe(torch.tensor(0.0), state)
    assert control.at(1.0, state).item() == pytest.approx(0.1 * math.e)
    for _ in range(21):
        control.observe(torch.tensor(5.0), state)
    assert control.at(1.0, state).item() == pytest.approx(0.1 / math.e)


def test_what_was_frozen_before_stays_frozen_and_the_rest_is_given_back(data):
    model = build()
    first = model.classifier.convolutions[0].requires_grad_(False)
    before = first.weight.clone()
    train(data, replace(SETTINGS, freeze=True), model=model)
    train(data, model=model)
    assert torch.equal(first.weight, before) and not first.weight.requires_grad
    assert all(p.requires_grad for p in model.classifier.head.parameters())

    def stop(model):
        raise Stop

    with pytest.raises(Stop):
        train(data, replace(SETTINGS, burn_in=0, freeze=True), model=model, each_epoch=stop)
    assert all(p.requires_grad for p in model.classifier.head.parameters())


def test_a_run_that_is_all_burn_in_says_so(data):
    with pytest.warns(TrainingWarning, match="will not be trained: all 2 epochs are burn-in"):
        train(data, replace(SETTINGS, epochs=2, burn_in=2))


class Stop(Exception):
    pass


def stopped(data, epochs, path, **options):
    """Train until this many epochs are done, and leave a checkpoint."""
    seen = []

    def stop(model):
        if len(seen) == epochs:
            raise Stop
        seen.append(1)
        return {}

    with pytest.raises(Stop):
        train(data, checkpoint=path, each_epoch=stop, **options)


@pytest.mark.parametrize(
    ("stop_after", "changes"),
    [
        (1, {}),
        (3, {}),
        (2, {"alpha": EntropyControl(target=0.5)}),
        (2, {"alpha": Schedule(1.0, 0.1), "freeze": True, "smoothing": 0.1}),
        (2, {"optimizer": "sgd", "lr": 0.05, "weight_decay": 5e-4, "decay": Steps(every=2)}),
    ],
)
def test_resuming_gives_the_same_bits(data, tmp_path, stop_after, changes):
    settings = replace(SETTINGS, **changes)
    uninterrupted, history = train(data, settings)
    path = tmp_path / "run" / "a.safetensors"
    stopped(data, stop_after, path, settings=settings)
    torch.rand(5)  # whatever else happened meanwhile
    resumed, history_resumed = train(data, settings, checkpoint=path)
    assert same(uninterrupted, resumed)
    assert losses(history) == losses(history_resumed)
    finished, _ = train(data, settings, checkpoint=path)  # nothing left to do
    assert same(finished, resumed)


def draw_several(q, samples, times):
    return draw(q, times * samples)


WAYS_OF_DRAWING = {
    "partial": functools.partial(draw_several, times=2),
    "lambda": lambda q, samples: draw_several(q, samples, times=2),
}


def drawing(draw, **options):
    model = build(**options)
    model.draw = draw
    return model


GOES_ON = """
import json
import sys

import test_training as tests
import torch

folder, *ways = sys.argv[1:]
torch.manual_seed(0)
data = tests.bright_halves()
for way in ways:
    model = tests.drawing(tests.WAYS_OF_DRAWING[way])
    _, history = tests.train(data, model=model, checkpoint=f"{folder}/{way}.safetensors")
    print(json.dumps(tests.losses(history)))
"""


def test_a_run_with_a_readers_way_of_drawing_goes_on_in_another_process(data, tmp_path):
    expected = []
    for name, way in WAYS_OF_DRAWING.items():
        _, history = train(data, model=drawing(way))
        expected.append(losses(history))
        stopped(data, 2, tmp_path / f"{name}.safetensors", model=drawing(way))
    done = subprocess.run(
        [sys.executable, "-c", GOES_ON, tmp_path, *WAYS_OF_DRAWING],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == expected


@pytest.fixture
def groups(monkeypatch):
    """Name, learning rate and weight decay of each optimiser, for each step that is made."""
    seen = []

    def record(model, optimizers, *rest):
        groups = [(type(o).__name__, o.param_groups[0]) for o in optimizers]
        seen.append([(name, group["lr"], group["weight_decay"]) for name, group in groups])
        return step(model, optimizers, *rest)

    monkeypatch.setattr(training, "step", record)
    return seen


def test_rates_and_optimisers_are_those_of_the_settings(data, groups):
    published = Settings(
        epochs=4,
        batch_size=16,
        burn_in=1,
        optimizer="sgd",
        lr=0.1,
        guide_lr=1e-3,
        weight_decay=5e-4,
        decay=Steps(2, 0.1),
    )
    train(data, published)
    for epoch, share in enumerate((1, 1, 0.1, 0.1)):
        assert groups[3 * epoch] == [("SGD", 0.1 * share, 5e-4), ("Adam", 1e-3 * share, 0)]


def test_rates_move_with_each_step_where_a_run_goes_on_too(data, groups, tmp_path):
    settings = replace(SETTINGS, decay=Cosine(to=0.1), guide_lr=1e-3)
    stopped(data, 2, tmp_path / "a.safetensors", settings=settings)
    del groups[6:]  # of the epoch that was not stored
    train(data, settings, checkpoint=tmp_path / "a.safetensors")
    for number, ((name, lr, _), (_, guide_lr, _)) in enumerate(groups):
        share = Cosine(to=0.1).at(number / 3, epochs=4)
        assert name == "AdamW"
        assert lr == pytest.approx(SETTINGS.lr * share)
        assert guide_lr == pytest.approx(1e-3 * share)
    assert len(groups) == 12


def test_a_step_draws_what_its_number_says(data):
    """Not what was drawn before: a step repeats, and others differ, as do parts of a batch."""
    images = data[0][:1].expand(8, -1, -1, -1)  # one image, eight times
    labels = data[1][:1].expand(8)

    def drawn(number, **changes):
        seen = []

        def watch(q, samples):
            seen.append(draw(q, samples))
            return seen[-1]

        model = drawing(watch).train()
        still = [torch.optim.SGD(model.parameters(), lr=0.0)]
        step(model, still, images, labels, replace(SETTINGS, **changes), 0.3, number)
        return [T for T, *_ in seen]

    (first,) = drawn((3, 5))
    torch.rand(7)
    (again,) = drawn((3, 5))
    assert torch.equal(first, again)
    others = [drawn((3, 6)), drawn((4, 5)), drawn((3, 5), seed=1)]
    assert not any(torch.equal(first, other) for (other,) in others)
    a, b = drawn((3, 5), chunk=4 * SETTINGS.samples)
    assert a.shape == b.shape and not torch.equal(a, b)


def test_half_precision_that_needs_more_than_autocast_is_refused(data):
    half = Together(0, 1)
    half.mixed_precision = "fp16"
    with pytest.raises(ValueError, match="mixed precision: expected bf16 or no, got fp16"):
        fit(build(), *data, SETTINGS, accelerator=half)
    half.mixed_precision = "bf16"
    model = build()
    fit(model, *data, replace(SETTINGS, epochs=2), accelerator=half, progress=False)
    assert model.autocast


def test_looking_on_does_not_change_training(data):
    _, history = train(data)
    _, watched = train(data, each_epoch=lambda model: {"noise": torch.rand(1).item()})
    assert losses(history) == losses(watched) and "noise" in watched[0]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("broken", [False, True], ids=["ends", "raises"])
def test_what_a_caller_draws_after_training_follows_from_the_callers_seed(data, device, broken):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")

    def interrupt(model):
        torch.rand(2, device=device)
        if broken:
            raise Stop
        return {}

    def drawn():
        return [torch.rand(3), torch.rand(3, device=device)]

    model = build()
    torch.manual_seed(7)
    expected = drawn()
    torch.manual_seed(7)
    with pytest.raises(Stop) if broken else nullcontext():
        fit(model, *data, SETTINGS, device=device, progress=False, each_epoch=interrupt)
    assert all(torch.equal(a, b) for a, b in zip(expected, drawn(), strict=True))


def test_a_checkpoint_of_something_else_is_refused_and_kept(data, tmp_path):
    path = tmp_path / "a.safetensors"
    draw = WAYS_OF_DRAWING["lambda"]
    train(data, model=drawing(draw), checkpoint=path)
    content = path.read_bytes()
    cases = [
        (build("affine"), SETTINGS, "holds another model"),
        (build(), replace(SETTINGS, alpha=0.1), r"trained with alpha 0.3 \(now 0.1\)"),
        (drawing(draw, scale=0.2), SETTINGS, "its model differs at config.options.scale"),
        (drawing(lambda q, samples: draw(q, samples)), SETTINGS, "its model differs at draw"),
    ]
    for model, settings, message in cases:
        before = [p.clone() for p in model.parameters()]
        with pytest.raises(CheckpointError, match=message) as error:
            train(data, settings, model, checkpoint=path)
        assert "\n" not in str(error.value)
        assert path.read_bytes() == content
        assert all(torch.equal(x, y) for x, y in zip(before, model.parameters(), strict=True))


class Keeps:
    """Something of a reader's, with a private field."""

    def __init__(self, number):
        self._number = number
        self._itself = self


class Buffered(torch.nn.Module):
    def __init__(self, start):
        super().__init__()
        self.register_buffer("start", torch.tensor(start), persistent=False)


def adding(number):
    return lambda x: x + number


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x: x + 1, lambda x: x + 2),
        (lambda x: math.sin(x), lambda x: math.cos(x)),
        (lambda x, n=1: x + n, lambda x, n=2: x + n),
        (lambda x: x in {"a", "b"}, lambda x: x in {"a", "c"}),
        (lambda: lambda x: x + 1, lambda: lambda x: x + 2),
        (adding(1), adding(2)),
        (draw, draw_several),
        (functools.partial(draw_several, times=2), functools.partial(draw_several, times=3)),
        (Keeps(1), Keeps(2)),
        (Keeps(1).__init__, Keeps(2).__init__),
        ({"a": (1, math.inf)}, {"a": (1, math.nan)}),
        ({"a", "b"}, {"a", "c"}),
        (torch.float32, torch.float64),
        (torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor([2.0], dtype=torch.bfloat16)),
        (torch.tensor(1), torch.tensor([1])),
        (np.zeros(2), np.ones(2)),
        (FAMILIES["rotation"], FAMILIES["translation"]),
        (Buffered(0.2), Buffered(0.3)),
        (torch.nn.Dropout(0.1), torch.nn.Dropout(0.2)),
        (torch.nn.Sequential(torch.nn.Tanh()), torch.nn.Sequential(torch.nn.ReLU())),
    ],
)
def test_what_built_a_model_is_told_as_data(one, other):
    """Plain data without addresses: alike for what is built alike, and for nothing else."""
    told = describe(one)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert describe(copy.deepcopy(one)) == told != describe(other)


def test_what_training_changes_is_no_part_of_what_built_a_model(data):
    model = build()
    model.classifier = torch.nn.Sequential(torch.nn.BatchNorm2d(1), model.classifier)
    told = describe(model)
    train(data, model=model)
    assert describe(model.train()) == told


def test_what_is_compiled_was_built_as_what_is_not():
    network = torch.nn.Sequential(torch.nn.Dropout(0.1))
    told = describe(network)
    assert describe(torch.compile(network, backend="eager"))["_orig_mod"] == told
    network.compile(backend="eager")
    assert describe(network) == told
    assert describe(torch.compile(draw, backend="eager")) == describe(draw)


def test_a_checkpoint_of_another_fixed_box_is_refused(data, tmp_path):
    path = tmp_path / "a.safetensors"
    for width in (0.5, 0.25):
        model = build()
        model.q = GUIDES["fixed"](model.family, 1, half_width=width)
        if width == 0.5:
            train(data, model=model, checkpoint=path)
            continue
        with pytest.raises(CheckpointError, match="its model differs at q.made_with"):
            train(data, model=model, checkpoint=path)


def test_a_checkpoint_of_other_data_is_refused(data, tmp_path):
    train(data, checkpoint=tmp_path / "a.safetensors")
    images, labels = data
    with pytest.raises(CheckpointError, match="its images per class differs"):
        train((images, labels.roll(1) * 0), checkpoint=tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="its images differs"):
        train((images.flip(-1), labels), checkpoint=tmp_path / "a.safetensors")


def test_shared_weights_are_stored(data, tmp_path):
    model = build()
    model.classifier.again = model.classifier.head  # one tensor under two names
    train(data, model=model, checkpoint=tmp_path / "a.safetensors")


def test_what_cannot_be_stored_is_named(data, tmp_path):
    with pytest.raises(CheckpointError, match="plain numbers"):
        train(
            data,
            checkpoint=tmp_path / "a.safetensors",
            each_epoch=lambda model: {"width": torch.zeros(1)},
        )


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b"{}" + b[2:], lambda b: b""]
)
def test_a_damaged_checkpoint_is_named(data, tmp_path, damage):
    path = tmp_path / "a.safetensors"
    train(data, checkpoint=path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        train(data, checkpoint=path)


def test_a_failed_write_leaves_the_last_checkpoint(data, tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    replace_file = os.replace
    written = []

    def full(*args):
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(1)
        replace_file(*args)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CheckpointError, match="free some space"):
        train(data, checkpoint=path)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["a.safetensors"]
    assert finished_epochs(path) == 2
    uninterrupted, _ = train(data)
    resumed, _ = train(data, checkpoint=path)
    assert same(uninterrupted, resumed)


def test_a_folder_that_cannot_be_made_is_a_one_line_error(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="choose another folder") as error:
        train(data, checkpoint=tmp_path / "file" / "a.safetensors")
    assert "\n" not in str(error.value)


def test_a_loss_that_is_not_finite_stops_training(data):
    model = build()
    with torch.no_grad():
        next(model.q.flow.layers.parameters()).fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="loss nan.*try a lower guide_lr"):
        train(data, model=model)


class SquareRoot(torch.nn.Module):
    """0 at 0, with an infinite slope there."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        root = (self.weight * x.mean((1, 2, 3))).abs().sqrt()
        return torch.stack([root, -root], -1)


def test_a_gradient_that_is_not_finite_is_told_from_a_loss_that_is_not(data):
    model = build()
    model.classifier = SquareRoot()
    message = "epoch 1: the gradient was not finite in 1 of 3 steps.*square root"
    with pytest.raises(FloatingPointError, match=message):
        train(data, model=model)


def test_an_encoder_that_collapsed_is_reported(data):
    model, history = train(data)
    assert "embedding_spread" not in history[0]  # burn-in
    assert all(row["embedding_spread"] > 0.003 for row in history[1:])
    with torch.no_grad():
        model.q.encoder.head.weight.zero_()
    short = replace(SETTINGS, burn_in=0, epochs=1, guide_lr=1e-9)
    with pytest.warns(TrainingWarning, match="collapsed.*try a lower guide_lr") as warned:
        train(data, short, model=model)
    assert warned[0].filename == __file__  # where fit was called
    dead = torch.nn.Threshold(1e9, 0.0)
    model.q.encoder = torch.nn.Sequential(model.q.encoder, torch.nn.BatchNorm1d(32), dead)
    with pytest.warns(TrainingWarning, match="varies by 0.0e.00 of its size"):
        train(data, short, model=model)
    assert model.q.encoder[1].num_batches_tracked == 3  # three steps; looking on is not one


def test_an_impossible_entropy_stops_training(data):
    def too_low(q, samples):
        drawn = draw(q, samples)
        return drawn._replace(log_prob=drawn.log_prob - 1)

    with pytest.raises(FloatingPointError, match="which no density on the box has"):
        train(data, model=drawing(too_low))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x, y: (x * 255, y), r"values in \[0, 1\]"),
        (lambda x, y: (x[:, 0], y), r"\(B, C, H, W\)"),
        (lambda x, y: ((x * 255).short(), y), r"expected floats in \[0, 1\] or uint8"),
        (lambda x, y: (x.index_fill(0, torch.tensor([5]), torch.nan), y), "NaN"),
        (lambda x, y: (x, y + 1), "labels: expected 0 to 1"),
        (lambda x, y: (x, y.float()), "labels: expected int64"),
        (lambda x, y: (x, y[:-1]), "labels: expected int64 with shape"),
    ],
)
def test_bad_data_is_a_one_line_error(data, spoil, message):
    with pytest.raises(ValueError, match=message) as error:
        train(spoil(*data))
    assert "\n" not in str(error.value)


# Datasets.


class Pictures(Dataset):
    """Bright halves one by one, as bytes."""

    def __init__(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            images, labels = bright_halves()
        self.images = (images * 255).byte()
        self.labels = labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i], int(self.labels[i])


class Noisy(Pictures):
    """Each time it is read a picture has other noise, from three generators."""

    def __getitem__(self, i):
        image, label = super().__getitem__(i)
        factor = random.random() * np.random.rand() * torch.rand(())
        return image / 255 * factor, label


@pytest.fixture
def pictures():
    return Pictures()


WAYS_OF_READING = {
    "floats": lambda p: TensorDataset(p.images / 255, p.labels),
    "bytes": lambda p: p,
    "bytes in memory": lambda p: Split(p.images, p.labels),
    "a subset of more": lambda p: Subset(ConcatDataset([p, p]), range(48)),
}


PARTS = {"held_out": 0.25, "chunk": 8}


@pytest.mark.parametrize(
    ("way", "changes"), [*((way, {}) for way in WAYS_OF_READING), ("bytes", PARTS)]
)
def test_a_dataset_is_trained_on_as_its_tensors_are(pictures, way, changes):
    """Bit for bit: bytes as floats / 255, item by item as all at once."""
    settings = replace(SETTINGS, epochs=2, **changes)
    expected, history = train((pictures.images / 255, pictures.labels), settings)
    data = WAYS_OF_READING[way](pictures)
    model = build()
    read = fit(model, data, settings, device="cpu", progress=False)
    assert same(model, expected) and losses(read) == losses(history)


@pytest.mark.parametrize("kind", [Pictures, Noisy])
def test_workers_change_nothing_and_a_stop_neither(kind, tmp_path):
    """What a Dataset draws follows from the seed, the epoch and the image's number."""
    found = []
    for workers in (0, 2):
        found.append(train([kind()], workers=workers))
        path = tmp_path / f"{workers}.safetensors"
        stopped([kind()], 2, path, workers=workers)
        found.append(train([kind()], checkpoint=path, workers=2 - workers))
    (expected, history), *others = found
    for model, seen in others:
        assert same(model, expected) and losses(seen) == losses(history)


def test_what_a_dataset_draws_differs_from_epoch_to_epoch_and_is_given_back():
    data = reading.source(Noisy(), seed=3)
    numbers = [torch.tensor([5, 2]), torch.tensor([5])]
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)
    expected = torch.rand(2), np.random.rand(), random.random()
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)
    (both, _), (five, _) = data.batches(0, numbers)
    (later, _), _ = data.batches(1, numbers)
    assert torch.equal(expected[0], torch.rand(2))
    assert expected[1:] == (np.random.rand(), random.random())
    assert torch.equal(both[0], five[0]) and not torch.equal(both, later)


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import test_training as tests
import torch
from safetensors.torch import save_file

random.seed(0)
torch.set_num_threads(1)
folder, kills, runs = Path(sys.argv[1]), 0, 0


def start():
    child = os.fork()
    if child:
        return child
    torch.manual_seed(0)
    data = [tests.Noisy()]
    model, _ = tests.train(data, checkpoint=folder / f"{runs}.checkpoint", workers=2)
    save_file(model.state_dict(), folder / f"{runs}.safetensors")
    os._exit(0)


begin = time.monotonic()  # how long it takes without a kill, to choose moments within
assert os.waitstatus_to_exitcode(os.waitpid(start(), 0)[1]) == 0
whole, runs = time.monotonic() - begin, 1
while kills < int(sys.argv[2]):
    child = start()
    time.sleep(random.uniform(0, 0.7 * whole))
    if os.waitpid(child, os.WNOHANG) == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1
    else:
        runs += 1
assert os.waitstatus_to_exitcode(os.waitpid(start(), 0)[1]) == 0
print(kills, runs)
"""


def script(code, *arguments):
    """What a script prints that imports this file."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_run_with_workers_that_is_killed_ends_at_the_same_bits(kills, tmp_path):
    """Kill −9 at random moments; images with noise that their Dataset draws."""
    killed, ended = map(int, script(KILLED, tmp_path, kills).split())
    weights = sorted(tmp_path.glob("*.safetensors"))
    assert killed == kills and len(weights) == ended + 1
    assert len({path.read_bytes() for path in weights}) == 1


TWO = """
import os, socket
from dataclasses import replace
import test_training as tests
import torch

torch.set_num_threads(1)
settings = replace(tests.SETTINGS, burn_in=0, epochs=2, batch_size=24)
halves = replace(settings, chunk=12 * settings.samples)  # what two processes draw, one by one


def trained(data, settings, **options):
    model, _ = tests.train(data, settings, **options)
    return torch.nn.utils.parameters_to_vector(model.parameters())


def check(rank, port):
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    from accelerate import Accelerator

    data = tests.Pictures()
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    read = trained([data], settings, accelerator=accelerator, workers=1)
    tensors = [data.images / 255, data.labels]
    assert torch.equal(read, trained(tensors, settings, accelerator=accelerator))
    assert torch.equal(*accelerator.gather(read[None]))
    if rank == "0":
        start = torch.nn.utils.parameters_to_vector(tests.build().parameters())
        alone = trained([data], halves)
        assert (read - alone).norm() < 1e-3 * (alone - start).norm()
    accelerator.end_training()


with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
children = []
for rank in ("0", "1"):
    child = os.fork()
    if not child:
        check(rank, port)
        os._exit(0)
    children.append(child)
assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_processes_read_a_dataset_as_one_does():
    """Each its share, with a worker of its own: as from tensors bit for bit, and as one process."""
    script(TWO)


def test_a_process_reads_its_share_of_each_batch_alone(monkeypatch):
    read = []
    batches = reading.Items.batches

    def watched(self, epoch, numbers):
        read.extend(numbers)
        return batches(self, epoch, numbers)

    monkeypatch.setattr(reading.Items, "batches", watched)
    monkeypatch.setattr(training, "_several", lambda accelerator: False)
    for index in range(3):
        settings = replace(SETTINGS, epochs=1, batch_size=22, burn_in=0)
        train([Pictures()], settings, accelerator=Together(index, 3))
    assert [len(share) for share in read] == [7, 7, 1, 7, 7, 1, 8, 8, 2]
    assert torch.cat(read).sort().values.tolist() == list(range(48))


class Broken(Pictures):
    def __getitem__(self, i):
        if i == 40:
            raise DataError("40.jpg is no readable image: remove it")
        return super().__getitem__(i)


class Changed(Pictures):
    """One item is another, as ``change`` has it."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def __getitem__(self, i):
        image, label = super().__getitem__(i)
        return self.change(image, label) if i == 41 else (image, label)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (lambda: Broken(), DataError, "40.jpg is no readable image: remove it"),
        (
            lambda: Changed(lambda x, y: (x[:, 1:], y)),
            ValueError,
            r"expected one shape and dtype, got \(1, 27, 28\) torch.uint8 as number 41 and",
        ),
        (lambda: Changed(lambda x, y: (x / 255, y)), ValueError, "expected one shape and dtype"),
        (lambda: Changed(lambda x, y: (x, 2)), ValueError, "labels: expected 0 to 1 for 2"),
        (lambda: Changed(lambda x, y: (x, "a")), ValueError, "whose label is a number, got 'a'"),
        (lambda: Changed(lambda x, y: (x.numpy(), y)), ValueError, "got ndarray; convert with"),
        (lambda: Changed(lambda x, y: (x, y, y)), ValueError, r"items \(image, label\)"),
        (lambda: Subset(Pictures(), []), ValueError, "expected at least 1, got 0"),
        (lambda: Numbers(), ValueError, "expected a map-style Dataset"),
        (lambda: TensorDataset(torch.rand(4, 28, 28), torch.arange(4)), ValueError, "B, C, H, W"),
        (
            lambda: TensorDataset(2 * torch.rand(4, 1, 28, 28), torch.arange(4)),
            ValueError,
            r"values in \[0, 1\]",
        ),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_wrong_with_an_item_is_a_one_line_error(data, error, message, workers):
    with pytest.raises(error, match=message) as raised:
        source = reading.source(data(), workers=workers)
        source.expect(classes=2)
        list(source.batches(0, [torch.arange(38, 43)]))
    assert "\n" not in str(raised.value)


class Numbers(IterableDataset):
    def __iter__(self):
        return iter(Pictures())


def test_arguments_in_another_order_are_named(data, pictures):
    with pytest.raises(ValueError, match="expected fit.model, images, labels, settings. or"):
        fit(build(), *data)
    with pytest.raises(ValueError, match="labels: expected none beside a Dataset"):
        fit(build(), pictures, data[1], SETTINGS)
    with pytest.raises(ValueError, match="labels: expected a tensor of int64, got NoneType"):
        fit(build(), data[0], SETTINGS)


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 0},
        {"lr": -1.0},
        {"batch_size": 0},
        {"alpha": -0.1},
        {"burn_in": -1},
        {"smoothing": 1.0},
        {"optimizer": "adamw"},
        {"seed": -1},
        {"weight_decay": -1.0},
    ],
)
def test_settings_that_make_no_sense_are_refused(bad):
    (name,) = bad
    with pytest.raises(ValueError, match=f"{name}: expected"):
        Settings(**bad)


def test_rules_that_make_no_sense_are_refused():
    for bad in ((0, 0.1), (5, 0.0)):
        with pytest.raises(ValueError, match="steps: expected a positive number of epochs"):
            Steps(*bad)
    with pytest.raises(ValueError, match="cosine: expected a share"):
        Cosine(2.0)
    for bad in ((0.0, 1.0), (1.0, -1.0), (1.0, 0.1, 0.0), (1.0, 0.1, 1.5)):
        with pytest.raises(ValueError, match="schedule: expected positive alphas and a share"):
            Schedule(*bad)
    for bad in ({"start": 0.0}, {"rate": 0.0}, {"bound": -1.0}):
        with pytest.raises(ValueError, match="entropy control: expected a positive"):
            EntropyControl(target=0.5, **bad)


def test_the_device_is_one_that_is_there():
    torch.zeros(1, device=pick_device())


@pytest.mark.skipif(
    torch.backends.mps.is_available() or torch.cuda.is_available(),
    reason="needs a machine with neither",
)
def test_a_device_that_cannot_train_is_not_picked(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device().type == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_training_runs_on_a_gpu(data, tmp_path):
    model = build()
    fit(model, *data, SETTINGS, device="cuda", progress=False, checkpoint=tmp_path / "a")
    resumed = build()
    fit(resumed, *data, SETTINGS, device="cuda", progress=False, checkpoint=tmp_path / "a")
    assert next(model.parameters()).is_cuda and same(model, resumed)


class Together:
    """Stands in for one of several processes: hands in its message, and gets an answer."""

    mixed_precision = "no"
    device = torch.device("cpu")

    def __init__(self, process_index, num_processes, answer=None):
        self.process_index = process_index
        self.num_processes = num_processes
        self.answer = answer

    def reduce(self, message, reduction):
        self.message = message.clone()
        return message if self.answer is None else self.answer


def draw_evenly(q, samples):
    """Samples that no random numbers decide."""
    T = q.low + (q.high - q.low) * torch.linspace(0.1, 0.9, samples)[:, None, None]
    log_prob = q.log_prob(T)
    return Draw(T, log_prob, torch.full_like(log_prob, 1 / samples))


def one_step(data, alpha, accelerator=None, **changes):
    """Loss, entropy, norm, and the parameters after one step of plain gradient descent."""
    torch.manual_seed(3)
    family = FAMILIES["rotation"]
    guide = GUIDES["instaaug"](family, 1)
    model = InvariantClassifier(FixupResNet(1, 2), guide, family, draw=draw_evenly).train()
    descent = [torch.optim.SGD(model.parameters(), lr=0.1)]
    settings = replace(SETTINGS, **changes)
    terms = step(model, descent, *data, settings, alpha, (0, 0), accelerator)
    return [*terms, *(parameter.detach() for parameter in model.parameters())]


def close(one, other):
    return all(torch.allclose(a, b, atol=1e-5) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("alpha", [None, 0.3])
def test_a_batch_in_parts_makes_the_same_step(data, alpha):
    """48 images of 3 samples; 12, 15 or 2 transformed images at once."""
    whole = one_step(data, alpha, samples=3)
    for chunk in (12, 15, 2):
        assert close(one_step(data, alpha, samples=3, chunk=chunk), whole)


@pytest.mark.parametrize("alpha", [None, 0.3])
@pytest.mark.parametrize(("images", "processes"), [(48, 2), (5, 2), (7, 3), (2, 3)])
def test_parts_of_any_size_add_up_to_the_whole_step(data, alpha, images, processes):
    """Also where a process gets nothing of a small last batch."""
    some = [tensor[:images] for tensor in data]
    alone = [Together(index, processes) for index in range(processes)]
    for accelerator in alone:
        one_step(some, alpha, accelerator)
    answer = sum(accelerator.message for accelerator in alone)
    whole = one_step(some, alpha)
    for index in range(processes):
        assert close(one_step(some, alpha, Together(index, processes, answer)), whole)


# A warning of PyTorch's own, from where its compiler looks at tensors.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_run_is_the_plain_one_and_leaves_no_trace(data, backend, monkeypatch):
    """The second needs a compiler. Draws are the plain run's, so losses are too."""
    compiled = []

    def compile(function, options, **rest):
        compiled.append(function.__name__)
        options = options if backend == "inductor" else None
        return torch_compile(function, backend=backend, options=options, **rest)

    torch_compile = torch.compile
    monkeypatch.setattr(torch, "compile", compile)
    settings = replace(SETTINGS, epochs=3)
    _, plain = train(data, settings)
    model, history = train(data, settings, compile=True)
    assert losses(history) == pytest.approx(losses(plain), abs=1e-4)
    assert compiled == ["propose"]  # on a CPU
    assert not {"propose", "loss_terms"} & vars(model).keys()


class NeverWaits(TorchDispatchMode):
    """Fails where a tensor's values decide what Python does next: there, a GPU is waited for."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        waits = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & {*function.tags}
        if function.overloadpacket.__name__ in ("index", "index_put", "index_put_"):
            waits = any(index is not None and index.dtype == torch.bool for index in args[1])
        assert not waits, f"a step waits for {function}"
        return function(*args, **(kwargs or {}))


WAYS = [(guide, {}) for guide in GUIDES] + [("flow", {"base": MixtureBase, "components": 3})]


def on_its_family(guide, **options):
    family = "crop" if guide == "instaaug_crops" else "affine"
    return InvariantClassifier.build(
        guide, family, in_channels=1, classes=2, width=4, **options
    ).train()


@pytest.mark.parametrize(("guide", "options"), WAYS)
@pytest.mark.parametrize(
    "alpha", [None, 0.3, torch.tensor(0.3)], ids=["burn-in", "number", "tensor"]
)
def test_no_step_waits_for_a_gpu(guide, options, alpha, data):
    torch.manual_seed(0)
    model = on_its_family(guide, **options)
    optimizers = [torch.optim.Adam(model.parameters(), fused=True)]
    with NeverWaits():
        step(model, optimizers, *data, replace(SETTINGS, samples=2), alpha)


def test_what_a_gpu_is_waited_for_is_found(data):
    for waits in (
        lambda x: float(x.mean()),
        lambda x: x[x > 0.5],
        lambda x: torch.equal(x, x),
        lambda x: x.masked_fill_(x > 0.5, 0.0).nonzero(),
        lambda x: x.unique(),
    ):
        with pytest.raises(AssertionError, match="a step waits"), NeverWaits():
            waits(data[0])


class Flattens(torch.nn.Sequential):
    """A reader's classifier: its `view` relies on the usual layout; one weight has five axes."""

    def __init__(self):
        super().__init__(
            torch.nn.Conv2d(1, 4, 3, stride=4), torch.nn.ReLU(), torch.nn.Linear(4 * 49, 2)
        )
        self.scale = torch.nn.Parameter(torch.ones(1, 1, 1, 1, 1))

    def forward(self, x):
        x = self[1](self[0](x))
        return self[2](x.view(len(x), -1)) * self.scale.view(1)


class Subclass(ConvNet):
    """A network of ours as a reader changes it, in a file of the reader's."""


def test_a_subclass_of_our_networks_is_trained_in_their_layout_and_given_back_in_the_usual(data):
    model = build()
    model.classifier = Subclass(1, 2, width=4)
    weight = model.classifier.convolutions[1].weight

    def look(model):
        return {"last": weight.is_contiguous(memory_format=torch.channels_last)}

    _, history = train(data, model=model, each_epoch=look)
    assert all(row["last"] for row in history)
    assert weight.is_contiguous() and not look(model)["last"]


def test_a_readers_network_is_left_as_it_is_and_every_model_can_be_saved(data, tmp_path):
    readers = build()
    readers.classifier = Flattens()
    for model in (readers, build()):
        train(data, model=model)
        save_file(model.state_dict(), tmp_path / "weights.safetensors")
        torch.nn.utils.parameters_to_vector(model.parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("guide", "options"), WAYS)
def test_on_a_gpu_nothing_in_a_step_synchronises(guide, options, data):
    model = on_its_family(guide, **options).cuda()
    optimizers = [torch.optim.Adam(model.parameters(), fused=True)]
    images, labels = (tensor.cuda() for tensor in data)
    step(model, optimizers, images, labels, SETTINGS, 0.3)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(model, optimizers, images, labels, SETTINGS, 0.3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
