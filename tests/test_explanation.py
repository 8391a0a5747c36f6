"""Laws of what is said of an image: ranges in units, the most probable pose, how sure it is."""

import math
import sys

import pytest
import torch
from torch.utils.data import TensorDataset

from flowinv.explanation import UNITS, by_class, explain, interval, ranges, table, unit
from flowinv.model import InvariantClassifier
from flowinv.transforms import FAMILIES


def fixed(family, half_width, classes=5, channels=1):
    return InvariantClassifier.build(
        "fixed", family, channels, classes, width=4, half_width=half_width
    )


@pytest.mark.parametrize("share", [0.5, 0.8, 0.9, 0.99])
@pytest.mark.parametrize("middle", [0.0, 0.3, 0.95])
def test_an_interval_holds_the_share_it_says_as_much_below_as_above(share, middle):
    """Of a skewed sample, through the seam too; an angle's is the same wherever it is turned."""
    x = torch.rand(4001, 2).square() * 0.6 - 0.2
    T = x + middle
    if middle > 0.5:  # the first is an angle, the second must stay in the box
        T[:, 0] = (T[:, 0] + 1) % 2 - 1
        T[:, 1] = x[:, 1]
    low, high = interval(T, [True, False], share)
    for d in range(2):
        away = T[:, d] - low[d]
        if d == 0:
            away = away % 2
        inside = (away >= 0) & (away <= (high - low)[d])
        assert abs(inside.double().mean() - share) < 1e-3
        if d == 1:
            below = (T[:, d] < low[d]).double().mean()
            assert abs(below - (1 - share) / 2) < 1e-3
    there, _ = interval(x, [True, False], share)
    turned = (low[0] - there[0] + 1) % 2 - 1
    assert abs(turned - ((middle + 1) % 2 - 1)) < 1e-3


def test_angles_that_prefer_no_direction_lie_around_the_image_as_it_came():
    low, high = interval(torch.linspace(-1, 1, 1001)[:-1, None], [True])
    torch.testing.assert_close(torch.cat([low, high]), torch.tensor([-0.9, 0.9]), atol=3e-3, rtol=0)


def test_a_fixed_boxs_ranges_are_known_in_degrees_and_pixels(images):
    """±0.5 of the box is ±90° and, of 28 pixels, ±7; 80% of it are ±72° and ±5.6."""
    found = ranges(fixed("rotation_translation", 0.5), images, samples=4000, share=0.8)
    known = torch.tensor([5.6, 5.6, 72.0])
    assert ((found.high - known).abs() < known / 15).all()
    assert ((found.low + known).abs() < known / 15).all()
    assert found.units == ("pixels to the left", "pixels up", "° counter-clockwise")


def test_the_longer_side_counts(images):
    wide = torch.nn.functional.pad(images, (0, 28))
    found = ranges(fixed("translation", 0.5), wide, samples=2000, share=0.8)
    assert abs(found.high.mean() - 11.2) < 0.3


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_ranges_whose_ends_are_in_order(family):
    images = torch.rand(2, 3, 16, 16)
    model = fixed(family, 0.3, channels=3)
    found = ranges(model, images, samples=50)
    assert found.low.shape == (2, model.family.dim) and (found.low <= found.high).all()
    assert found.probabilities.sum(-1).allclose(torch.ones(2))


def test_units_say_what_the_transformation_does():
    """Scale, stretch and shear against the matrix; a crop's size against its own."""
    family = FAMILIES["affine"]
    for name, entry in (("scale", (0, 0)), ("stretch", (0, 0))):
        T = torch.zeros(family.dim)
        T[family.names.index(name)] = 0.6
        seen = 1 / family.matrix(T)[entry]  # the map leads back, from what is seen
        torch.testing.assert_close(unit(name).of(torch.tensor(0.6), 28), seen)
    crop = FAMILIES["crop"].matrix(torch.tensor([0.0, 0.0, 0.2, 0.2]))[0, 0]
    torch.testing.assert_close(unit("width").of(torch.tensor(0.2), 28), crop)
    if "tone" in FAMILIES:
        grey = torch.full((1, 1, 2, 2), 0.4)
        lighter = FAMILIES["tone"].warp(grey, torch.tensor([[0.5, 0.0, 0.0]]))
        torch.testing.assert_close(
            lighter.mean() / 0.4, unit("brightness").of(torch.tensor(0.5), 2)
        )
    assert unit("2 rotation") is UNITS["rotation"] and unit("b").name == "of the box"


def test_the_pose_is_the_most_probable_sample_and_of_equals_the_nearest(images):
    model = InvariantClassifier.build("flow", "rotation_translation", 1, classes=5, width=4)
    told = explain(model, images[0], samples=500)
    best = told.T[model.q(images[:1]).log_prob(told.T[:, None]).squeeze(1).argmax()]
    expected = torch.tensor([14.0, 14.0, 180.0]) * best
    torch.testing.assert_close(told.ranges.pose[0], expected)
    flat = ranges(fixed("rotation", 1.0), images, samples=2000)
    assert (flat.pose.abs() < 5).all()


def test_agreement_and_probability_are_those_of_the_transformed_images(images):
    """A classifier of the mean light's sign: certain, and right about what is in the samples."""
    model = fixed("translation", 1.0, classes=2)

    class Light(torch.nn.Module):
        def forward(self, x):
            light = x.mean((1, 2, 3)) - 0.2
            return torch.stack([-light, light], -1) * 1e4

    model.classifier = Light()
    told = explain(model, images[0])
    bright = (told.samples.mean((1, 2, 3)) > 0.2).double().mean().item()
    assert 0 < bright < 1
    assert told.ranges.agreement[0] == pytest.approx(max(bright, 1 - bright))
    assert told.ranges.probabilities[0, 1] == pytest.approx(bright, abs=1e-3)


def test_the_grid_shows_the_image_and_then_its_samples(images):
    told = explain(fixed("rotation", 0.5), images[0])
    grid = told.grid(columns=7)
    assert torch.equal(grid[:1, 2:30, 2:30], images[0])
    assert torch.equal(grid[:1, 2:30, 32:60], told.samples[0])
    assert grid.shape[-1] == 2 + 7 * 30 and grid.shape[-2] == 2 + 3 * 30


def test_the_odd_one_out_comes_first_and_classes_have_their_medians():
    pytest.importorskip("pandas")

    class Own(torch.nn.Module):
        """A rotation whose half-width is the image's light."""

        def forward(self, images):
            from flowinv.distributions import Uniform

            width = images.mean((1, 2, 3))[:, None]
            return Uniform(-width, width)

    model = fixed("rotation", 0.5, classes=2)
    model.q = Own()
    light = torch.tensor([0.1, 0.11, 0.09, 0.4, 0.1, 0.5, 0.5, 0.52, 0.48, 0.5])
    labels = torch.tensor([0] * 5 + [1] * 5)
    images = light[:, None, None, None].expand(-1, 1, 8, 8).contiguous()
    found = table(model, images, labels, classes=["narrow", "wide"], samples=2000)
    assert found.index[0] == 3 and found["oddness"].is_monotonic_decreasing
    medians = by_class(found)
    assert list(medians.index) == ["narrow", "wide"] and list(medians["images"]) == [5, 5]
    width = medians["rotation width (° counter-clockwise)"]
    assert width["narrow"] == pytest.approx(0.1 * 360 * 0.9, rel=0.05)
    assert width["wide"] == pytest.approx(0.5 * 360 * 0.9, rel=0.05)


def test_without_pandas_the_table_names_the_extra(images, labels, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match=r"install it with pip install 'flowinv\[table\]"):
        table(fixed("rotation", 0.5), images, labels)


WRONG = [
    (lambda m, x: explain(m, x), "image: expected a tensor"),
    (lambda m, x: explain(m, x[0] * 255), "images: expected values in"),
    (
        lambda m, x: explain(m, x[0], samples=0),
        "samples: expected a whole number of 1 or more, got 0",
    ),
    (lambda m, x: explain(m, x[0], share=90), "share: expected a number in"),
    (lambda m, x: explain(m, "image"), "image: expected a tensor"),
    (lambda m, x: ranges(m, x, share=math.nan), "share: expected a number in"),
]


@pytest.mark.parametrize(("call", "message"), WRONG)
def test_what_is_no_image_or_number_is_refused_in_one_line(call, message, images):
    with pytest.raises(ValueError, match=message) as raised:
        call(fixed("rotation", 0.5), images)
    assert "\n" not in str(raised.value)


def test_bytes_and_items_are_explained_as_floats_are(images):
    model = InvariantClassifier.build("flow", "rotation", 1, classes=2, width=4)
    pictures = (images * 255).byte()
    found = []
    for data in (pictures / 255, pictures, TensorDataset(pictures, torch.arange(8))):
        torch.manual_seed(1)
        found.append(ranges(model, data, samples=10))
    assert torch.equal(found[0].low, found[1].low) and torch.equal(found[0].low, found[2].low)
    said = []
    for image in (pictures[0] / 255, pictures[0]):
        torch.manual_seed(1)
        said.append(str(explain(model, image, samples=10)))
    assert said[0] == said[1]


def test_an_angle_is_central_about_its_mean_with_few_samples_too():
    T = torch.tensor([0.99, -0.99] * 4)[:, None]
    low, high = interval(T, angles=[True])
    assert (high - low).item() < 0.1 and abs(low.item() - 0.99) < 0.1


def test_a_shear_is_what_the_map_does():
    """Off the diagonal of the matrix, in shares of the picture."""
    family = FAMILIES["affine"]
    T = torch.zeros(6)
    d = family.names.index("shear")
    T[d] = 0.8
    found = unit("shear").of(T[d], 28)
    torch.testing.assert_close(found, family.matrix(T)[0, 1])
