"""Laws of the alignment."""

import pytest
import torch
from torch import nn

from flowinv import alignment
from flowinv.alignment import mean, mean_shift, prototypes
from flowinv.distributions import GaussianMixture, Uniform, wrap
from flowinv.model import InvariantClassifier
from flowinv.transforms import FAMILIES, compose, warp

AT = torch.linspace(-1 + 1 / 32, 1 - 1 / 32, 32)  # the centres of 32 pixels
IDENTITY = torch.eye(2, 3)


def around(centre, width):
    centre = centre.clamp(-1 + width, 1 - width)
    return Uniform(centre - width, centre + width)


class Around(nn.Module):
    """q(T | I) uniform around one and the same T (B, D), whatever the images are."""

    def __init__(self, T, width=0.02):
        super().__init__()
        self.T = T
        self.width = width

    def forward(self, images):
        return around(self.T, self.width)


class Blob(nn.Module):
    """q(T | I) for pictures of one bright blob: the shift that brings it to the middle, ±width."""

    def __init__(self, width=0.02):
        super().__init__()
        self.width = width

    def forward(self, images):
        image = images.mean(1)
        x = (image * AT).sum((1, 2))
        y = (image * AT[:, None]).sum((1, 2))
        total = image.sum((1, 2)) + 1e-9
        return around(torch.stack([x, y], -1) / total[:, None], self.width)


class InTurn(nn.Module):
    """q(T | I) narrow around the next of several T at each step."""

    def __init__(self, *steps):
        super().__init__()
        self.steps = [torch.tensor([T]) for T in steps]

    def forward(self, images):
        T = self.steps.pop(0)
        self.steps.append(T)
        return around(T, 1e-4)


class TwoModes(nn.Module):
    """Modes at two angles, the first more probable, wherever the image is."""

    def __init__(self, first, second):
        super().__init__()
        self.loc = torch.tensor([[[first], [second]]])

    def forward(self, images):
        logits = torch.tensor([[0.6, 0.4]]).log()
        scale = torch.full((1, 2, 1), 0.03)
        return GaussianMixture(logits, self.loc, scale, periodic=torch.tensor([True]))


def model_of(guide, family):
    return InvariantClassifier(nn.Linear(1, 1), guide, FAMILIES[family])


def centring(width=0.02):
    return model_of(Blob(width), "translation")


def angle(matrices):
    return torch.atan2(matrices[:, 1, 0], matrices[:, 0, 0])[:, None] / torch.pi


def blobs(*places):
    images = []
    for x, y in places:
        square = (AT - x) ** 2 + (AT[:, None] - y) ** 2
        images.append(torch.exp(-30 * square))
    return torch.stack(images)[:, None]


@pytest.fixture
def noise():
    return torch.rand(1, 1, 8, 8)


def test_it_brings_images_to_where_q_is_centred():
    images = blobs((0.4, -0.3), (-0.5, 0.1), (0.0, 0.0))
    aligned = mean_shift(centring(), images, steps=30, step_size=0.3)
    assert torch.allclose(aligned.images, blobs((0, 0)).expand(3, 1, 32, 32), atol=0.06)
    expected = torch.tensor([[1, 0, 0.4], [0, 1, -0.3]])
    assert torch.allclose(aligned.matrices[-1, 0], expected, atol=0.01)


def test_each_step_goes_the_same_share_of_what_is_left():
    """The error falls as (1 − γ)^k."""
    aligned = mean_shift(centring(1e-4), blobs((0.4, 0.0)), steps=10, step_size=0.25)
    left = 0.4 - aligned.matrices[:, 0, 0, 2]
    assert torch.allclose(left, 0.4 * 0.75 ** torch.arange(11), atol=5e-3)


def test_the_trajectory_replays_it_from_the_originals_in_one_warp():
    images = blobs((0.4, -0.3))
    aligned = mean_shift(centring(), images, steps=5)
    assert aligned.matrices.shape == (6, 1, 2, 3)
    assert torch.equal(aligned.matrices[0, 0], IDENTITY)
    assert torch.equal(warp(images, aligned.matrices[-1]), aligned.images)


def test_steps_are_multiplied_on_the_group_and_added_by_the_paper(noise):
    """q always says the same: turn and shift. Multiplied, shifts are along the image's own axes."""
    T = torch.tensor([[0.2, 0.0, 0.5]])
    model = model_of(Around(T, 1e-4), "rotation_translation")
    step = model.family.matrix(T / 2)
    multiplied = mean_shift(model, noise, steps=3, step_size=0.5)
    expected = compose(compose(step, step), step)
    assert torch.allclose(multiplied.matrices[-1], expected, atol=1e-3)
    added = mean_shift(model, noise, steps=3, step_size=0.5, on_group=False)
    assert torch.allclose(added.matrices[-1], model.family.matrix(1.5 * T), atol=1e-3)


@pytest.mark.parametrize(("family", "T"), [("rotation", [0.4]), ("translation", [0.4, -0.2])])
def test_where_maps_commute_the_paper_agrees(family, T, noise):
    model = model_of(Around(torch.tensor([T]), 1e-4), family)
    ours = mean_shift(model, noise, steps=3, step_size=0.5)
    papers = mean_shift(model, noise, steps=3, step_size=0.5, on_group=False)
    assert torch.allclose(ours.matrices, papers.matrices, atol=1e-3)


def test_a_step_is_taken_from_where_the_image_stands(noise):
    """A quarter turn, then a shift: the shift is along the turned image's axes."""
    turn = [0.0, 0.0, 0.5]
    shift = [0.5, 0.0, 0.0]
    model = model_of(InTurn(turn, shift), "rotation_translation")
    aligned = mean_shift(model, noise, steps=2, step_size=0.9)
    first, second = model.family.matrix(0.9 * torch.tensor([turn, shift]))
    assert torch.allclose(aligned.matrices[-1], compose(first, second), atol=1e-3)
    assert not torch.allclose(compose(first, second), compose(second, first), atol=0.1)


@pytest.mark.parametrize("turn", [0.0, 0.5, 1.0])
def test_means_of_angles_do_not_depend_on_where_the_circle_is_cut(turn):
    T = 0.2 * torch.randn(2000, 3, 1)
    turned = mean(wrap(T + turn), (True,))
    assert wrap(turned - mean(T, (True,)) - turn).abs().max() < 1e-4


def test_means_of_numbers_are_ordinary():
    T = torch.tensor([[0.9, 0.9], [-0.9, -0.9]])
    number, angle = mean(T, (False, True))
    assert number == 0
    assert angle.abs() == 1


def test_a_step_goes_along_the_shorter_arc(noise):
    """Modes at ±162 degrees: their circular mean is 180 degrees, where the paper's is near 0."""
    model = model_of(TwoModes(0.9, -0.9), "rotation")
    ours = mean_shift(model, noise, steps=1, step_size=1.0, samples=2000)
    papers = mean_shift(model, noise, steps=1, step_size=1.0, samples=2000, on_group=False)
    assert angle(ours.matrices[-1]).abs() > 0.9
    assert angle(papers.matrices[-1]).abs() < 0.4


def test_a_mode_is_a_place_q_likes_while_the_mean_may_not_be(noise):
    model = model_of(TwoModes(0.5, -0.2), "rotation")

    def end(towards):
        way = mean_shift(model, noise, steps=1, step_size=1.0, samples=2000, towards=towards)
        return angle(way.matrices[-1])

    q = model.q(noise)
    assert end("mode").item() == pytest.approx(0.5, abs=0.05)
    assert q.log_prob(end("mean")) < q.log_prob(end("mode")) - 5


def test_a_tolerance_stops_each_image_by_itself():
    images = blobs((0.6, 0.0), (0.01, 0.0))
    aligned = mean_shift(centring(), images, steps=3, step_size=0.3, tolerance=0.02)
    assert aligned.converged.tolist() == [False, True]
    assert torch.equal(aligned.matrices[1, 1], IDENTITY)
    forever = mean_shift(centring(), images, steps=8, step_size=0.3)
    assert not forever.converged.any()


def test_what_has_stopped_stays():
    model = centring(1e-4)
    images = blobs((0.6, 0.0))
    aligned = mean_shift(model, images, steps=40, step_size=0.3, tolerance=0.02)
    assert aligned.converged.all()
    assert torch.equal(aligned.matrices[-1], aligned.matrices[-10])
    later = model_of(InTurn([0.01, 0.0], [0.5, 0.0]), "translation")  # a short step, a long one
    aligned = mean_shift(later, images, steps=4, step_size=0.3, tolerance=0.02)
    assert torch.equal(aligned.matrices[-1, 0], IDENTITY)


def test_many_images_are_aligned_as_few_are(monkeypatch):
    images = blobs((0.4, -0.3), (-0.5, 0.1), (0.2, 0.2))
    whole = mean_shift(centring(1e-4), images)
    monkeypatch.setattr(alignment, "BATCH", 2)
    parts = mean_shift(centring(1e-4), images)
    assert torch.allclose(whole.images, parts.images, atol=1e-3)
    assert torch.allclose(whole.matrices, parts.matrices, atol=1e-3)
    assert whole.converged.shape == parts.converged.shape


def test_crops_start_from_the_whole_picture(noise):
    T = torch.tensor([[0.5, 0.0, 0.4, 0.4]])
    aligned = mean_shift(model_of(Around(T), "crop"), noise, steps=1, step_size=1.0)
    assert torch.equal(aligned.matrices[0, 0], IDENTITY)
    assert torch.allclose(aligned.matrices[1], FAMILIES["crop"].matrix(T), atol=0.02)


def test_prototypes_are_sharper_after_alignment():
    """The average of blobs at random places against the average of the same, aligned."""
    images = blobs(*(torch.rand(20, 2) - 0.5))
    labels = torch.arange(20) % 2
    aligned = mean_shift(centring(), images, steps=30, step_size=0.3).images
    before = prototypes(images, labels, 2)
    after = prototypes(aligned, labels, 2)
    assert torch.allclose(before[0], images[::2].mean(0))
    assert before.shape == (2, 1, 32, 32)
    assert after.amax() > 1.5 * before.amax()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"towards": "median"}, "mean_shift: expected towards 'mean' or 'mode'"),
        ({"steps": 0}, "steps: expected a whole number of 1 or more, got 0"),
        ({"step_size": 0}, "mean_shift: expected towards 'mean' or 'mode'"),
        ({"step_size": 1.5}, "mean_shift: expected towards 'mean' or 'mode'"),
    ],
)
def test_a_bad_option_is_a_one_line_error(bad, message):
    with pytest.raises(ValueError, match=f"^{message}.*$"):
        mean_shift(centring(), blobs((0, 0)), **bad)


def test_images_that_are_not_in_zero_to_one_are_an_error():
    with pytest.raises(ValueError, match="images: expected"):
        mean_shift(centring(), 255 * blobs((0, 0)))
