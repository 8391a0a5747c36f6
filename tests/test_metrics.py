"""Laws of the measures."""

import pytest
import torch

from flowinv import metrics
from flowinv.guides import GUIDES
from flowinv.model import InvariantClassifier


def test_half_width_of_a_uniform_is_its_mass_times_its_half_width():
    for w in (0.1, 0.5, 1.0):
        values = torch.linspace(-w, w, 4001)[:, None].expand(-1, 3)
        assert torch.allclose(metrics.half_width(values, periodic=False), torch.tensor(0.99 * w), atol=1e-3)


def test_half_width_of_a_periodic_coefficient_does_not_depend_on_where_the_circle_is_cut():
    values = 0.2 * torch.randn(500)
    turned = (values + 0.9 + 1) % 2 - 1  # around ±1
    assert torch.allclose(
        metrics.half_width(turned, periodic=True), metrics.half_width(values, periodic=True), atol=1e-5
    )
    assert metrics.half_width(turned, periodic=False) > 0.9


def test_half_width_leaves_out_the_rarest():
    values = torch.cat([torch.linspace(-0.1, 0.1, 99), torch.ones(1)])
    assert metrics.half_width(values, periodic=False) == pytest.approx(0.1, abs=1e-6)


def test_widths_of_a_fixed_box_in_degrees(images, labels):
    model = InvariantClassifier.build("fixed", "rotation_translation", 1, 5, half_width=[0.1, 0.1, 0.5])
    widths = metrics.class_widths(model, images, labels, 5)
    assert widths == pytest.approx([0.99 * 90] * 5, abs=5)
    with pytest.raises(
        ValueError, match="coefficient: expected one of translation x, translation y, rotation, got 'shear'"
    ):
        metrics.invariance_width(model, images, "shear")


def test_accuracy_counts_what_is_right(images):
    model = InvariantClassifier.build("none", "rotation", 1, 5)
    best = model.predict(images, 0).argmax(-1)
    assert metrics.accuracy(model, images, best, samples=0) == 1
    assert metrics.accuracy(model, images, (best + 1) % 5) == 0


def test_images_are_turned_within_their_own_limit(images):
    limits = torch.tensor([0.0, 0, 0, 0, 90, 90, 90, 90])
    turned = metrics.rotate_within(images, limits, torch.Generator().manual_seed(0))
    moved = (turned - images).abs().amax((1, 2, 3)) > 1e-3
    assert moved.tolist() == [False] * 4 + [True] * 4


def test_guides_are_measured_by_name_of_the_coefficient_only(images):
    model = InvariantClassifier.build("none", "affine", 1, 5)
    for name in GUIDES:
        model.q = GUIDES[name](model.family, 1)
        assert metrics.invariance_width(model, images, "shear").shape == (8,)
