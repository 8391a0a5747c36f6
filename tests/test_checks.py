"""What is handed in wrong is refused in one line that says what was expected and what to do."""

import math

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from flowinv import checks
from flowinv.alignment import mean_shift
from flowinv.distributions import box_flow, coupling_flow, mixture_flow, spline_flow
from flowinv.explanation import explain, ranges
from flowinv.guides import GUIDES
from flowinv.metrics import accuracy, invariance_width
from flowinv.model import InvariantClassifier
from flowinv.networks import ConvNet13
from flowinv.training import Settings, fit
from flowinv.transforms import FAMILIES

SETTINGS = Settings(epochs=1, burn_in=0)


@pytest.fixture
def model():
    return InvariantClassifier.build("flow", "rotation", in_channels=1, classes=2, width=4)


@pytest.fixture
def pictures():
    return torch.rand(8, 1, 28, 28)


def labels(images):
    return torch.arange(len(images)) % 2


def refused(call, *words):
    """A ValueError of one line with all of the words."""
    with pytest.raises(ValueError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message and all(word in message for word in words), message


# What takes images, each with the images last.
USES = {
    "fit": lambda model, x: fit(model, x, labels(x), SETTINGS, progress=False, device="cpu"),
    "fit, items": lambda model, x: fit(
        model, TensorDataset(x, labels(x)), SETTINGS, progress=False, device="cpu"
    ),
    "predict": lambda model, x: model.predict(x, samples=2),
    "predict, items": lambda model, x: model.predict(TensorDataset(x, labels(x)), samples=2),
    "ranges": lambda model, x: ranges(model, x, samples=5),
    "explain": lambda model, x: explain(model, x[0], samples=5),
    "invariance_width": lambda model, x: invariance_width(model, x, samples=5),
    "mean_shift": lambda model, x: mean_shift(model, x, steps=1),
    "accuracy": lambda model, x: accuracy(model, x, labels(x), samples=2),
}
each_use = pytest.mark.parametrize("use", USES.values(), ids=USES)


@each_use
def test_a_wrong_number_of_channels(use, model, pictures):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    expected = ("(C, H, W) = (3, 28, 28)", "1 channels are expected: images.mean(1, keepdim=True)")
    refused(lambda: use(model, pictures.expand(-1, 3, -1, -1)), *expected)
    after = model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    colour = InvariantClassifier.build("flow", "rotation", 3, 2, width=4)
    refused(lambda: use(colour, pictures), "images.expand(-1, 3, -1, -1) makes three of one")


@each_use
def test_images_smaller_than_a_network_can_take(use, model, pictures):
    model.classifier = ConvNet13(1, 2, width=2)
    if use in (USES["invariance_width"], USES["mean_shift"]):  # which look at q alone
        model.q.encoder = torch.nn.Sequential(ConvNet13(1, 32, width=2))
    refused(lambda: use(model, pictures[..., :7, :7]), "(1, 7, 7)", "make them larger")


@each_use
def test_images_of_another_precision_than_the_networks(use, model, pictures):
    refused(lambda: use(model, pictures.double()), "convert with images.to(torch.float32)")


@pytest.mark.parametrize("name", ["fit", "fit, items", "predict, items", "ranges", "accuracy"])
def test_no_images(name, model, pictures):
    refused(lambda: USES[name](model, pictures[:0]), "images: expected at least 1, got 0")


@pytest.mark.parametrize(
    "name", ["fit", "predict", "ranges", "explain", "invariance_width", "mean_shift"]
)
def test_numpy_arrays(name, model, pictures):
    channels_last = pictures.permute(0, 2, 3, 1).numpy()
    calls = {
        "convert with torch.from_numpy(images)": pictures.numpy(),
        "from_numpy(images).permute(0, 3, 1, 2)": channels_last,
    }
    for words, images in calls.items():
        refused(lambda images=images: USES[name](model, images), "got a NumPy array", words)


def test_numpy_labels_and_coefficients(model, pictures):
    call = lambda: fit(model, pictures, labels(pictures).numpy(), SETTINGS)  # noqa: E731
    refused(call, "labels: expected a tensor of int64, got ndarray; use torch.tensor(labels)")
    T = torch.zeros(8, 1).numpy()
    refused(lambda: FAMILIES["rotation"].warp(pictures, T), "got ndarray; convert with torch.as_te")


@pytest.mark.parametrize("family", ["rotation", "affine", "crop", "projective", "elastic"])
def test_images_and_coefficients_of_different_precision(family, pictures):
    family = FAMILIES[family]
    T = family.identity.expand(8, -1)
    expected = "T: expected torch.float32, as the images, got torch.float64; convert with T.to(im"
    refused(lambda: family.warp(pictures, T.double()), expected)
    refused(lambda: family.warp(pictures.double(), T), "T: expected torch.float64, as the images")


@pytest.mark.parametrize("wrong", [2.5, -1, "3", math.nan])
def test_numbers_that_count_nothing(wrong, model, pictures):
    for name in ("epochs", "samples", "batch_size", "burn_in", "settle", "seed", "chunk"):
        expected = f"{name}: expected a whole number of "
        refused(lambda name=name: Settings(**{name: wrong}), expected, f"got {wrong!r}")
    dataset = TensorDataset(pictures, labels(pictures))
    calls = {
        "samples": [
            lambda: model.predict(pictures, wrong),
            lambda: ranges(model, pictures, wrong),
            lambda: explain(model, pictures[0], wrong),
            lambda: invariance_width(model, pictures, samples=wrong),
            lambda: mean_shift(model, pictures, samples=wrong),
        ],
        "chunk": [lambda: model.predict(pictures, 2, chunk=wrong)],
        "steps": [lambda: mean_shift(model, pictures, steps=wrong)],
        "workers": [
            lambda: model.predict(dataset, 2, workers=wrong),
            lambda: fit(model, dataset, SETTINGS, workers=wrong),
        ],
    }
    for name, group in calls.items():
        for call in group:
            refused(call, f"{name}: expected a whole number of ", f"got {wrong!r}")


@pytest.mark.parametrize("name", ["lr", "guide_lr", "alpha", "weight_decay"])
def test_a_rate_or_price_without_end(name):
    refused(lambda: Settings(**{name: math.inf}), f"{name}: expected a finite number, got inf")
    refused(lambda: Settings(**{name: "1"}), f"{name}: expected a number, got '1'")
    refused(lambda: Settings(**{name: math.nan}), f"{name}: expected ")
    assert Settings(clip=math.inf)  # no clipping


@pytest.mark.parametrize("make", [spline_flow, coupling_flow, mixture_flow, box_flow])
def test_a_context_of_another_width_or_with_nan(make):
    flow = make(3, 8)
    refused(lambda: flow(torch.randn(5, 7)), "context: expected shape (…, 8), got (5, 7); build")
    for wrong in (math.nan, math.inf):
        context = torch.randn(5, 8)
        context[1, 2] = wrong
        refused(lambda context=context: flow(context), "context: expected finite numbers, got NaN")
        flow(context, validate=False)  # as guides do, so that nothing waits for a GPU


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "mps"])
def test_a_device_that_is_not_there(device, model, pictures, monkeypatch):
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("it is there")
    call = lambda: fit(model, pictures, labels(pictures), SETTINGS, device=device)  # noqa: E731
    refused(call, "device: expected one that is there, cpu", f"got '{device}'")


def test_labels_of_another_set(model, pictures):
    others = labels(pictures) + 2
    calls = [
        lambda: fit(model, pictures, others, SETTINGS),
        lambda: fit(model, TensorDataset(pictures, others), SETTINGS),
        lambda: accuracy(model, pictures, others),
    ]
    for call in calls:
        refused(call, "labels: expected 0 to 1 for 2 classes, got ", "renumber them")


def test_a_guide_of_a_readers_own_is_told_of_like_ours(pictures):
    """One that looks at pixels through a matrix, which fits images of 28×28 alone."""
    family = FAMILIES["rotation"]
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 16))
    guide = GUIDES["flow"](family, 1, encoder=encoder, embedding=16)
    model = InvariantClassifier(torch.nn.Sequential(encoder, torch.nn.Linear(16, 2)), guide, family)
    refused(lambda: model.predict(pictures[..., 1:, 1:]), "cannot be multiplied", "as large as the")


@pytest.mark.parametrize(
    ("given", "cure"),
    [
        (torch.rand(2, 5, 1, 8, 8), "images.flatten(0, -4)"),
        ([torch.rand(1, 8, 8)], "torch.stack(list(images))"),
        (torch.rand(8, 8), "images[None]"),
    ],
)
def test_the_advice_for_images_of_another_shape_cures_it(given, cure):
    with pytest.raises(ValueError) as error:
        checks.check_images(given)
    assert cure in str(error.value)


def test_advice_is_given_where_it_helps_alone():
    network = nn.Conv2d(4, 2, 3)
    with pytest.raises(ValueError, match="4 channels are expected$"):
        with checks.told(torch.rand(1, 1, 8, 8), network):
            network(torch.rand(1, 1, 8, 8))
    with pytest.raises(ValueError, match="got torch.int64 .3,.; one for each image"):
        checks.check_labels(torch.zeros(3, dtype=torch.int64), 4, 2)
    with pytest.raises(ValueError, match="got NaN; look at what made it"):
        checks.check_coefficients(torch.tensor([[float("nan")]]), 1)
