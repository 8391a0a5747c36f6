"""Laws of the alignment."""

import pytest
import torch
from torch import nn

from flowinv.alignment import mean, mean_shift, prototypes
from flowinv.bases import BoxUniform, GaussianMixture
from flowinv.flows import BoxDistribution
from flowinv.model import InvariantClassifier
from flowinv.transforms import FAMILIES, compose, warp


class Around(nn.Module):
    """q(T | I) uniform on ±width around one and the same T (B, D), whatever the images are."""

    def __init__(self, where, width=0.02):
        super().__init__()
        self.where, self.width = where, width

    def forward(self, images):
        centre = self.where.clamp(-1 + self.width, 1 - self.width)
        return BoxUniform(centre - self.width, centre + self.width, validate_args=False).to_event(1)


class Blob(nn.Module):
    """q(T | I) for pictures of one bright blob: the shift that brings it to the middle, ±width."""

    def __init__(self, width=0.02):
        super().__init__()
        self.width = width

    def forward(self, images):
        at = torch.linspace(-1 + 1 / 32, 1 - 1 / 32, 32)
        x = images.mean(1)
        total = x.sum((1, 2)) + 1e-9
        place = (
            torch.stack([(x * at).sum((1, 2)), (x * at[:, None]).sum((1, 2))], -1) / total[:, None]
        )
        return BoxUniform(place - self.width, place + self.width, validate_args=False).to_event(1)


def model_of(guide, family):
    return InvariantClassifier(nn.Linear(1, 1), guide, FAMILIES[family])


def blobs(places):
    at = torch.linspace(-1 + 1 / 32, 1 - 1 / 32, 32)
    return torch.stack([(-30 * ((at - x) ** 2 + (at[:, None] - y) ** 2)).exp() for x, y in places])[
        :, None
    ]


def test_it_brings_images_to_where_q_is_centred():
    images = blobs([(0.4, -0.3), (-0.5, 0.1), (0.0, 0.0)])
    aligned = mean_shift(model_of(Blob(), "translation"), images, steps=30, step_size=0.3)
    assert torch.allclose(aligned.images, blobs([(0, 0)]).expand(3, 1, 32, 32), atol=0.06)
    assert torch.allclose(
        aligned.matrices[-1, 0], torch.tensor([[1, 0, 0.4], [0, 1, -0.3]]), atol=0.01
    )


def test_each_step_goes_the_same_share_of_what_is_left():
    """The error falls as (1 − γ)^k."""
    aligned = mean_shift(
        model_of(Blob(1e-4), "translation"), blobs([(0.4, 0.0)]), steps=10, step_size=0.25
    )
    left = 0.4 - aligned.matrices[:, 0, 0, 2]
    assert torch.allclose(left, 0.4 * 0.75 ** torch.arange(11), atol=5e-3)


def test_the_trajectory_replays_it_from_the_originals_in_one_warp():
    images = blobs([(0.4, -0.3)])
    aligned = mean_shift(model_of(Blob(), "translation"), images, steps=5)
    assert aligned.matrices.shape == (6, 1, 2, 3) and torch.equal(
        aligned.matrices[0, 0], torch.eye(2, 3)
    )
    assert torch.allclose(warp(images, aligned.matrices[-1]).clamp(0, 1), aligned.images)


def test_steps_are_multiplied_on_the_group_and_added_by_the_paper():
    """q always says the same: turn and shift. Multiplied, shifts are taken in the image's own axes."""
    where = torch.tensor([[0.2, 0.0, 0.5]])
    model, images = (
        model_of(Around(where), "rotation_translation"),
        torch.rand(1, 1, 8, 8),
    )
    step = model.family.matrix(torch.tensor([[0.1, 0.0, 0.25]]))
    square = lambda M: torch.cat([M, torch.tensor([[[0, 0, 1.0]]])], 1)  # noqa: E731
    multiplied = mean_shift(model, images, steps=3, step_size=0.5, samples=4000).matrices[-1]
    assert torch.allclose(multiplied, torch.linalg.matrix_power(square(step), 3)[:, :2], atol=5e-3)
    added = mean_shift(
        model, images, steps=3, step_size=0.5, samples=4000, on_group=False
    ).matrices[-1]
    assert torch.allclose(added, model.family.matrix(torch.tensor([[0.3, 0.0, 0.75]])), atol=5e-3)
    for family, where in (
        ("rotation", torch.tensor([[0.4]])),
        ("translation", torch.tensor([[0.4, -0.2]])),
    ):
        model = model_of(Around(where), family)  # where maps commute, the two agree
        both = [
            mean_shift(model, images, 3, 0.5, 4000, on_group=g).matrices[-1] for g in (True, False)
        ]
        assert torch.allclose(*both, atol=5e-3)


class InTurn(Around):
    """q(T | I) narrow around the next of several T at each step."""

    def forward(self, images):
        first, *rest = self.where
        self.where = [*rest, first]
        return BoxUniform(first - 1e-4, first + 1e-4, validate_args=False).to_event(1)


def test_a_step_is_taken_from_where_the_image_stands():
    """A quarter turn, then a shift: the shift is along the turned image's axes."""
    turn, shift = torch.tensor([[0.0, 0.0, 0.5]]), torch.tensor([[0.5, 0.0, 0.0]])
    model, images = model_of(InTurn([turn, shift]), "rotation_translation"), torch.rand(1, 1, 8, 8)
    aligned = mean_shift(model, images, steps=2, step_size=0.9)
    first, second = (model.family.matrix(0.9 * T) for T in (turn, shift))
    assert torch.allclose(aligned.matrices[-1], compose(first, second), atol=1e-3)
    assert not torch.allclose(compose(first, second), compose(second, first), atol=0.1)


def test_means_of_angles_do_not_depend_on_where_the_circle_is_cut():
    T = 0.2 * torch.randn(2000, 3, 1)
    for turn in (0.0, 0.5, 1.0):
        turned = (T + turn + 1) % 2 - 1
        off = (mean(turned, (True,)) - mean(T, (True,)) - turn + 1) % 2 - 1
        assert off.abs().max() < 1e-4
    assert (
        mean((T + 2) % 2 - 1, (False,)).abs().max() < 0.9
    )  # as numbers they would average to the middle
    mixed = mean(torch.tensor([[0.9, 0.9], [-0.9, -0.9]]), (False, True))
    assert torch.allclose(mixed.abs(), torch.tensor([0.0, 1.0]), atol=1e-6)


class TwoModes(nn.Module):
    """Modes at 0.5 and, less probable, at −0.2, wherever the image is: a mean between them."""

    def forward(self, images):
        B = len(images)
        loc = torch.tensor([[0.5], [-0.2]]).expand(B, 2, 1)
        logits = torch.tensor([0.6, 0.4]).log().expand(B, 2)
        return BoxDistribution(
            GaussianMixture(logits, loc, torch.full((B, 2, 1), 0.03), torch.tensor([True])), []
        )


def test_a_mode_is_a_place_q_likes_while_the_mean_may_not_be():
    model, images = model_of(TwoModes(), "rotation"), torch.rand(2, 1, 8, 8)

    def angle(M):
        return torch.atan2(M[:, 1, 0], M[:, 0, 0]) / torch.pi

    to_mode = mean_shift(model, images, steps=1, step_size=1.0, towards="mode").matrices[-1]
    assert torch.allclose(angle(to_mode), torch.tensor(0.5), atol=0.05)
    to_mean = mean_shift(model, images, steps=1, step_size=1.0, samples=2000).matrices[-1]
    density = model.q(images).log_prob(angle(to_mean)[:, None])
    assert (density < model.q(images).log_prob(angle(to_mode)[:, None]) - 5).all()


def test_a_tolerance_stops_each_image_by_itself():
    images = blobs([(0.6, 0.0), (0.01, 0.0)])
    aligned = mean_shift(
        model_of(Blob(), "translation"), images, steps=3, step_size=0.3, tolerance=0.02
    )
    assert aligned.converged.tolist() == [False, True]
    assert torch.equal(aligned.matrices[1, 1], torch.eye(2, 3))
    later = model_of(
        InTurn([torch.tensor([[0.01, 0.0]]), torch.tensor([[0.5, 0.0]])]), "translation"
    )
    stays = mean_shift(later, images[:1], steps=4, step_size=0.3, tolerance=0.02)
    assert torch.equal(stays.matrices[-1, 0], torch.eye(2, 3)) and stays.converged.all()
    forever = mean_shift(model_of(Blob(), "translation"), images, steps=8, step_size=0.3)
    assert not forever.converged.any()
    long = mean_shift(
        model_of(Blob(1e-4), "translation"), images, steps=40, step_size=0.3, tolerance=0.02
    )
    assert long.converged.all() and torch.equal(long.matrices[-1], long.matrices[-10])


def test_many_images_are_aligned_as_few_are(monkeypatch):
    from flowinv import alignment

    images, model = (
        blobs([(0.4, -0.3), (-0.5, 0.1), (0.2, 0.2)]),
        model_of(Blob(1e-4), "translation"),
    )
    whole = mean_shift(model, images)
    monkeypatch.setattr(alignment, "BATCH", 2)
    parts = mean_shift(model, images)
    assert (
        torch.allclose(whole.images, parts.images, atol=1e-3)
        and parts.matrices.shape == whole.matrices.shape
    )


def test_crops_start_from_the_whole_picture():
    where = torch.tensor([[0.5, 0.0, 0.4, 0.4]])
    aligned = mean_shift(
        model_of(Around(where), "crop"), torch.rand(1, 1, 8, 8), steps=1, step_size=1.0
    )
    assert torch.equal(aligned.matrices[0, 0], torch.eye(2, 3))
    assert torch.allclose(aligned.matrices[1], FAMILIES["crop"].matrix(where), atol=0.02)


def test_prototypes_are_sharper_after_alignment():
    """The average of blobs at random places against the average of the same, aligned."""
    images, labels = blobs((torch.rand(20, 2) - 0.5).tolist()), torch.arange(20) % 2
    before = prototypes(images, labels, 2)
    after = prototypes(
        mean_shift(model_of(Blob(), "translation"), images, steps=30, step_size=0.3).images,
        labels,
        2,
    )
    assert torch.allclose(before[0], images[::2].mean(0))
    assert before.shape == (2, 1, 32, 32) and after.amax() > 1.5 * before.amax()


def test_bad_input_is_a_one_line_error():
    model, images = model_of(Blob(), "translation"), blobs([(0, 0)])
    for bad in ({"towards": "median"}, {"steps": 0}, {"step_size": 0}, {"step_size": 1.5}):
        with pytest.raises(
            ValueError, match="mean_shift: expected towards 'mean' or 'mode'"
        ) as error:
            mean_shift(model, images, **bad)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="images: expected"):
        mean_shift(model, images * 255)
