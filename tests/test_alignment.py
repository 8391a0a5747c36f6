"""Laws of the alignment."""

import pytest
import torch
from torch import nn

from flowinv import alignment
from flowinv.alignment import (
    canonical,
    confidence,
    energy,
    logits_of,
    mahalanobis,
    mean,
    mean_shift,
    modes,
    poses,
    prototypes,
)
from flowinv.distributions import GaussianMixture, PointMass, Uniform, spline_flow, wrap
from flowinv.metrics import passes
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


def mixture(weights, places, scale=0.05, periodic=True, dtype=torch.float32):
    """One and the same mixture for two images; places (K, D)."""
    loc = torch.tensor(places, dtype=dtype).expand(2, -1, -1)
    logits = torch.tensor(weights, dtype=dtype).log().expand(2, -1)
    wraps = torch.full((loc.shape[-1],), periodic)
    return GaussianMixture(logits, loc, torch.full_like(loc, scale), wraps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_modes_of_a_known_mixture_are_its_places_and_weights(dtype):
    """Also one at the cut of the circle, and in the images' precision."""
    q = mixture([0.2, 0.5, 0.3], [[-0.4], [0.98], [0.3]], dtype=dtype)
    T, shares = modes(q, (True,), most=4)
    assert T.dtype == shares.dtype == dtype
    expected = torch.tensor([0.98, 0.3, -0.4, 0.98], dtype=dtype)
    assert torch.allclose(T[:, 0, 0], expected, atol=1e-4)
    assert torch.allclose(shares[:, 1], torch.tensor([0.5, 0.3, 0.2, 0], dtype=dtype), atol=1e-4)


def test_modes_of_several_coefficients_are_found_from_samples():
    q = mixture([0.25, 0.75], [[0.5, -0.2, 0.9], [-0.5, 0.3, -0.1]])
    T, shares = modes(q, (False, False, True), points=500, most=2)
    expected = torch.tensor([[-0.5, 0.3, -0.1], [0.5, -0.2, 0.9]])
    assert torch.allclose(T[:, 0], expected, atol=0.02)
    # A mixture draws as much from each component and weighs it, so that shares have no noise.
    assert torch.allclose(shares[:, 0], torch.tensor([0.75, 0.25]), atol=1e-4)


def test_the_mode_of_a_box_is_its_middle_wherever_the_circle_is_cut():
    low = torch.tensor([[-0.4], [0.1], [0.3]])
    T, shares = modes(Uniform(low, low + 0.6), (True,))
    assert torch.allclose(T[0], low + 0.3, atol=0.01)
    assert torch.allclose(shares[0], torch.ones(3))


def test_modes_of_a_flow_are_the_maxima_of_its_density():
    """Smoothed by h, on a finer grid: lower on either side of a mode, and nowhere above it."""
    torch.manual_seed(1)
    flow = spline_flow(1, context_dim=4, periodic=[True], layers=2)
    for parameter in flow.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    q = flow(torch.randn(20, 4))
    h = 0.1
    with torch.no_grad():
        T, shares = modes(q, (True,), width=h, points=720, most=3)
        grid = ((torch.arange(2000) + 0.5) / 1000 - 1)[:, None, None].expand(-1, 20, -1)
        mass = q.log_prob(grid).softmax(0)

    def smoothed(at):
        distance = wrap(at[:, None] - grid)[..., 0]  # (n, 2000, 20)
        return (mass * (-0.5 * (distance / h) ** 2).exp()).sum(1)

    here = smoothed(T)
    there = shares > 0
    for side in (-0.02, 0.02):
        assert (here > smoothed(wrap(T + side)))[there].all()
    highest = here.where(there, 0.0).amax(0)
    assert (smoothed(grid[::20]).amax(0) < highest * 1.0001).all()
    assert (there.sum(0) > 1).any() and torch.allclose(shares.sum(0), torch.ones(20))


@pytest.mark.parametrize(("apart", "number"), [(0.2, 1), (0.6, 2)])
def test_the_width_is_the_scale_at_which_modes_are_told_apart(apart, number):
    q = mixture([0.5, 0.5], [[0.1], [0.1 + apart]])
    _, shares = modes(q, (True,), width=0.15)
    assert (shares > 0).sum(0).tolist() == [number, number]


def test_light_modes_are_left_out_and_the_first_stands_in_their_place():
    q = mixture([0.6, 0.36, 0.04], [[0.0], [0.6], [-0.6]])
    T, shares = modes(q, (True,), most=3, least=0.05)
    assert torch.allclose(shares[:, 0], torch.tensor([0.625, 0.375, 0]), atol=1e-3)
    assert torch.equal(T[2], T[0])
    T, shares = modes(q, (True,), most=1)
    assert T.shape == (1, 2, 1) and torch.equal(shares, torch.ones(1, 2))


def test_a_density_that_is_narrower_than_the_grid_is_found_by_its_samples():
    """Beside one that is not, which stays exact."""
    low = torch.tensor([[0.3331], [-0.2]])
    T, shares = modes(Uniform(low, low + torch.tensor([[0.0001], [0.4]])), (True,))
    assert torch.allclose(T[0], torch.tensor([[0.3331], [0.0]]), atol=2e-4)
    assert torch.allclose(shares[0], torch.ones(2))


def test_a_point_mass_is_its_own_mode():
    T, shares = modes(PointMass(torch.tensor([[0.3], [-0.7]])), (True,))
    assert torch.allclose(T, torch.tensor([[[0.3], [-0.7]]]))
    assert torch.equal(shares, torch.ones(1, 2))


class Homes(nn.Module):
    """q(T | I) for pictures of one blob beside the middle: turns that bring it to either home.

    It goes a share of each way; the first home, to the right, weighs 0.7, the other is half a turn
    from it.
    """

    def __init__(self, share=1.0):
        super().__init__()
        self.share = nn.Parameter(torch.tensor(share))

    def forward(self, images):
        image = images.mean(1)
        y = (image * AT[:, None]).sum((1, 2))
        x = (image * AT).sum((1, 2))
        needed = torch.atan2(y, x) / torch.pi  # how far to turn it back, y being down
        homes = wrap(torch.stack([needed, needed + 1], -1))
        loc = self.share * homes[..., None]
        logits = torch.tensor([0.7, 0.3]).log().expand(len(images), 2)
        return GaussianMixture(logits, loc, torch.full_like(loc, 0.05), torch.tensor([True]))


class Sides(nn.Module):
    """Logits that say on which side the picture is bright: (left, right)."""

    def forward(self, images):
        middle = images.shape[-1] // 2
        left, right = images[..., :middle], images[..., middle:]
        return torch.stack([left.sum((1, 2, 3)), right.sum((1, 2, 3))], -1)


def homing(share=1.0):
    return InvariantClassifier(Sides(), Homes(share), FAMILIES["rotation"])


def round_the_middle(*degrees):
    angle = torch.tensor(degrees) * torch.pi / 180
    return blobs(*zip((0.5 * angle.cos()).tolist(), (0.5 * angle.sin()).tolist()))


def test_every_pose_is_found_with_its_weight_from_any_start():
    images = round_the_middle(10, 100, -160, 175)
    found = poses(homing(), images, most=3)
    assert found.matrices.shape == (3, 4, 2, 3)
    assert torch.allclose(found.weights[:, 0], torch.tensor([0.7, 0.3, 0]), atol=0.01)
    first, second = round_the_middle(0, 180)
    assert torch.allclose(found.images[0], first.expand(4, 1, 32, 32), atol=0.05)
    assert torch.allclose(found.images[1], second.expand(4, 1, 32, 32), atol=0.05)
    assert torch.equal(found.images[2], found.images[0])


def test_turning_the_image_turns_the_way_to_its_poses():
    model = homing()
    before = poses(model, round_the_middle(20))
    after = poses(model, round_the_middle(20 + 70))
    turn = angle(after.matrices[:2, 0]) - angle(before.matrices[:2, 0])
    assert wrap(turn).flatten() * 180 == pytest.approx(torch.tensor([70.0, 70.0]), abs=0.5)


def test_the_matrices_lead_from_the_originals_to_the_poses_in_one_warp():
    images = round_the_middle(50, -80)
    found = poses(homing(0.8), images, looks=3)
    assert torch.equal(warp(images, found.matrices), found.images)
    assert torch.equal(found.matrices[2], found.matrices[0])  # in place of one that is not there


def test_further_looks_lead_to_a_fixed_point_that_stays_near_its_mode():
    """From 30 degrees away from the first home a guide that goes 0.8 of the way is off by 0.2^n."""
    images = round_the_middle(30)
    for looks in (1, 2, 3):
        found = poses(homing(0.8), images, looks=looks, most=1)
        left = 30 - 180 * angle(found.matrices[0])
        assert left.item() == pytest.approx(30 * 0.2**looks, abs=0.3)
    _, second = angle(poses(homing(0.8), images, looks=3, most=2).matrices[:, 0])
    assert abs(180 * wrap(second - 30 / 180 - 1).item()) < 3  # and not at the heavier one
    with pytest.raises(ValueError, match="looks: expected a whole number of 1 or more"):
        poses(homing(), images, looks=0)


def test_many_images_have_the_poses_that_few_have(monkeypatch):
    images = round_the_middle(10, 100, -160, 175, -20)
    whole = poses(homing(), images, looks=2)
    monkeypatch.setattr(alignment, "BATCH", 2)
    monkeypatch.setattr(alignment, "PAIRS", 180**2)
    for one, other in zip(whole, poses(homing(), images, looks=2)):
        assert torch.allclose(one, other, atol=1e-5)


def test_nothing_of_it_keeps_a_gradient():
    images = round_the_middle(10, 100)
    found = poses(homing(), images)
    chosen = canonical(homing(), images, found)
    assert not any(tensor.requires_grad for tensor in (*found, *chosen))


def test_the_classifier_looks_once_at_each_pose_that_there_is():
    images = round_the_middle(10, 100, -160)
    model = homing()
    with passes(model) as seen:
        found = poses(model, images, most=5)
        logits = logits_of(model, found)
    assert seen["classifier"] == 6
    assert torch.equal(logits[1], model.classify(found.images[1]))
    assert not logits[2:].any()


@pytest.mark.parametrize(("likes", "home"), [(0, 180), (1, 0)])
def test_the_score_chooses_among_the_poses(likes, home):
    """A score that likes one side takes the pose there, the lighter one too."""
    images = round_the_middle(10, 100, -160, 175)
    model = homing()
    chosen = canonical(model, images, poses(model, images), lambda logits: logits[..., likes])
    expected = round_the_middle(home).expand(4, 1, 32, 32)
    assert torch.allclose(chosen.images, expected, atol=0.05)
    assert torch.allclose(chosen.logits, model.classify(chosen.images), atol=1e-3)
    assert torch.equal(warp(images, chosen.matrices), chosen.images)
    assert chosen.moved.all()


def test_the_gate_leaves_an_aligned_image_bit_for_bit():
    """A score of how much lies to the right: full at home, less at 60 degrees."""
    images = round_the_middle(0, 120)
    model = homing()
    found = poses(model, images)

    def to_the_right(logits):
        return logits[..., 1]

    chosen = canonical(model, images, found, to_the_right, gate=0.5)
    assert chosen.moved.tolist() == [False, True]
    assert torch.equal(chosen.images[0], images[0])
    assert torch.equal(chosen.matrices[0], IDENTITY)
    assert torch.equal(chosen.logits[0], model.classify(images)[0])
    assert torch.equal(chosen.images[1], found.images[0, 1])
    never = canonical(model, images, found, to_the_right, gate=1e6)
    assert torch.equal(never.images, images)


def test_scores_are_what_their_names_say():
    logits = torch.randn(3, 4, 5)
    p = torch.distributions.Categorical(logits=logits).probs
    assert torch.allclose(confidence(logits).exp(), p.amax(-1))
    assert torch.allclose(energy(logits), logits.exp().sum(-1).log(), atol=1e-5)
    assert torch.allclose(energy(logits + 2), energy(logits) + 2)
    assert torch.allclose(confidence(logits + 2), confidence(logits), atol=1e-5)


def test_mahalanobis_is_the_distance_to_the_nearest_class_and_knows_no_units():
    """Up to a constant, which features in other units, or mixed, may change."""
    labels = torch.arange(60) % 3
    features = torch.randn(60, 3) + 4 * torch.eye(3)[labels]
    means = torch.stack([features[labels == c].mean(0) for c in range(3)])
    around = features - means[labels]
    precision = (around.T @ around / 60).inverse()
    new = 5 * torch.randn(7, 2, 3)
    away = new[..., None, :] - means
    square = (away @ precision * away).sum(-1).amin(-1)
    of_a_mean = mahalanobis(features, labels)(means[0])
    near = mahalanobis(features, labels)(new)
    assert torch.allclose(near - of_a_mean, -square / 2, rtol=1e-3, atol=1e-3)
    mix = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 0.5], [0.0, 0.0, 0.1]])
    mixed = mahalanobis(features @ mix, labels)(new @ mix)
    assert torch.allclose(mixed - mixed[0, 0], near - near[0, 0], rtol=1e-3, atol=1e-3)
    seen = features.requires_grad_()
    assert not mahalanobis(seen, labels)(new).requires_grad
    with pytest.raises(ValueError, match="got none of class 1"):
        mahalanobis(features, labels.where(labels != 1, 2))


def test_mahalanobis_does_not_overlook_a_direction_in_which_training_images_are_alike():
    near = mahalanobis(torch.eye(3).repeat(4, 1), torch.arange(12) % 3)
    assert near(torch.tensor([50.0, -9.0, 3.0])) < near(torch.eye(3)).min() - 1


@pytest.mark.parametrize("points", [90, 180, 360])
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_a_flat_q_has_one_mode_in_the_middle_however_it_is_looked_at(points, batch):
    edge = torch.ones(batch, 1)
    for width in (1.0, 0.6):
        T, shares = modes(Uniform(-width * edge, width * edge), (True,), points=points)
        assert torch.equal(shares[0], torch.ones(batch)) and T[0].abs().max() < 0.03
