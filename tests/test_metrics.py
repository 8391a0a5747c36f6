"""Laws of the measures."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flowinv import metrics
from flowinv.alignment import mean_shift
from flowinv.distributions import MixtureBase, Uniform, wrap
from flowinv.guides import GUIDES
from flowinv.model import InvariantClassifier
from flowinv.transforms import FAMILIES

build = InvariantClassifier.build
THIRDS = torch.tensor([-2 / 3, 0, 2 / 3])[:, None]


@pytest.mark.parametrize("w", [0.1, 0.5, 1.0])
def test_half_width_of_a_uniform_is_its_mass_times_its_half_width(w):
    values = torch.linspace(-w, w, 4001)[:, None].expand(-1, 3)
    found = metrics.half_width(values, periodic=False)
    assert torch.allclose(found, torch.tensor(0.99 * w), atol=1e-3)


def test_half_width_of_a_periodic_coefficient_does_not_depend_on_where_the_circle_is_cut():
    values = 0.2 * torch.randn(500)
    turned = wrap(values + 0.9)  # around ±1
    before = metrics.half_width(values, periodic=True)
    assert torch.allclose(metrics.half_width(turned, periodic=True), before, atol=1e-5)
    assert metrics.half_width(turned, periodic=False) > 0.9


def test_half_width_leaves_out_the_rarest():
    values = torch.cat([torch.linspace(-0.1, 0.1, 99), torch.ones(1)])
    assert metrics.half_width(values, periodic=False) == pytest.approx(0.1, abs=1e-6)


def test_widths_of_a_fixed_box_in_degrees(images, labels):
    model = build("fixed", "rotation_translation", 1, 5, half_width=[0.1, 0.1, 0.5])
    widths = metrics.class_widths(model, images, labels, 5)
    assert widths == pytest.approx([0.99 * 90] * 5, abs=5)


def test_a_coefficient_that_the_family_lacks_is_an_error(images):
    model = build("none", "translation", 1, 5)
    message = "coefficient: expected one of translation x, translation y, got 'shear'"
    with pytest.raises(ValueError, match=message):
        metrics.invariance_width(model, images, "shear")


def test_accuracy_counts_what_is_right(images):
    model = build("none", "rotation", 1, 5)
    best = model.predict(images, 0).argmax(-1)
    assert metrics.accuracy(model, images, best, samples=0) == 1
    assert metrics.accuracy(model, images, (best + 1) % 5) == 0


def test_images_are_turned_within_their_own_limit(images):
    limits = torch.tensor([0.0, 0, 0, 0, 90, 90, 90, 90])
    turned = metrics.rotate_within(images, limits, torch.Generator().manual_seed(0))
    moved = (turned - images).abs().amax((1, 2, 3)) > 1e-3
    assert moved.tolist() == [False] * 4 + [True] * 4


@pytest.mark.parametrize("name", sorted(set(GUIDES) - {"instaaug_crops"}))
def test_guides_are_measured_by_name_of_the_coefficient_only(name, images):
    model = build(name, "affine", 1, 5)
    assert metrics.invariance_width(model, images, "shear").shape == (8,)


@pytest.mark.parametrize("centre", [0.0, 0.9])
@pytest.mark.parametrize(
    ("w", "reached", "inside"), [(0.25, 0.5, 1.0), (0.5, 1.0, 1.0), (1.0, 1.0, 0.5)]
)
def test_coverage_tells_too_narrow_from_too_wide(centre, w, reached, inside):
    """Uniform q of half-width w against an ideal range of half-width 0.5, across the seam too."""
    T = wrap(centre + torch.linspace(-w, w, 20001)[:-1, None])
    found = metrics.coverage(T, torch.full((1, 1), centre), 0.5, periodic=True)
    assert [x.item() for x in found] == pytest.approx([reached, inside], abs=0.03)


def test_a_range_between_two_bins_is_an_error_and_double_precision_is_none():
    T = torch.zeros(10, 1, dtype=torch.float64)
    assert metrics.coverage(T, T[:1], 0.1, periodic=True)[1] == 1
    with pytest.raises(ValueError, match="take more bins"):
        metrics.coverage(T, T[:1], 0.01, periodic=True)


def test_coverage_counts_every_mode():
    one = 0.15 * (2 * torch.rand(5000, 1) - 1)
    reached, inside = metrics.coverage(one, THIRDS, 1 / 6, periodic=True)
    assert reached.item() == pytest.approx(1 / 3, abs=0.05)
    assert inside == 1
    every = wrap(one + THIRDS[torch.randint(3, (5000,))])
    reached, _ = metrics.coverage(every, THIRDS, 1 / 6, periodic=True)
    assert reached.item() == pytest.approx(0.95, abs=0.06)


@pytest.mark.parametrize("shares", [(500, 500, 0), (1000, 0, 0), (200, 300, 500)])
def test_effective_modes_are_those_that_have_samples(shares):
    modes = THIRDS.repeat_interleave(torch.tensor(shares), 0)
    T = wrap(modes + 0.3 * torch.rand(1000, 1) - 0.15)
    expected = torch.special.entr(torch.tensor(shares) / 1000).sum().exp()
    assert torch.allclose(metrics.effective_modes(T, THIRDS, periodic=True), expected)


def test_a_mode_that_the_seam_cuts_is_one():
    T = torch.tensor([[0.95], [-0.95]])
    modes = torch.tensor([[1.0], [0.0]])
    assert metrics.effective_modes(T, modes, periodic=True).item() == pytest.approx(1)
    assert metrics.effective_modes(T, modes, periodic=False).item() == pytest.approx(2)


def test_the_nearest_rotation_is_that_of_the_singular_values():
    """R = U diag(1, det UV) V' minimises ‖A − R‖ (Kabsch)."""
    A = torch.randn(200, 2, 2, dtype=torch.float64)
    U, _, V = torch.linalg.svd(A)
    signs = torch.ones(200, 2, dtype=torch.float64)
    signs[:, 1] = torch.linalg.det(U @ V)
    R = U @ torch.diag_embed(signs) @ V
    expected = torch.linalg.matrix_norm(A - R) / torch.linalg.matrix_norm(A)
    matrices = torch.cat([A, torch.randn(200, 2, 1, dtype=torch.float64)], -1)
    assert torch.allclose(metrics.rotation_error(matrices), expected)


def test_rotations_have_no_rotation_error():
    T = torch.linspace(-1, 1, 50, dtype=torch.float64)[:, None]
    assert metrics.rotation_error(FAMILIES["rotation"].matrix(T)).max() < 1e-7


class Compass(nn.Module):
    """A classifier that knows where the light is: in the upper, right, lower or left half."""

    def forward(self, images):
        x = images.mean(1)
        h = x.shape[1] // 2
        w = x.shape[2] // 2
        halves = [x[:, :h], x[:, :, w:], x[:, h:], x[:, :, :w]]
        return 40 * torch.stack([half.mean((1, 2)) for half in halves], 1)


class Upright(nn.Module):
    """q(T | I) uniform around the turn that brings the light up: it follows the image exactly."""

    def __init__(self, width=0.1):
        super().__init__()
        self.width = width

    def forward(self, images):
        at = torch.linspace(-1, 1, images.shape[-1])
        x = (images.mean(1) * at).sum((1, 2))
        y = (images.mean(1) * at[:, None]).sum((1, 2))
        turn = torch.atan2(x, -y)[:, None] / torch.pi  # counter-clockwise, to the top
        turn = turn.clamp(-1 + self.width, 1 - self.width)
        return Uniform(turn - self.width, turn + self.width)


@pytest.fixture
def light():
    """Two pictures whose upper half is bright within a disc: class 0, "up"."""
    at = torch.linspace(-1, 1, 32)
    disc = (at**2 + at[:, None] ** 2 < 0.9).float()
    upper = (at[:, None] < 0).float()
    return (disc * upper).expand(2, 1, 32, 32).clone()


@pytest.fixture
def compass():
    return InvariantClassifier(Compass(), Upright(), FAMILIES["rotation"])


def test_accuracy_under_rotation_falls_with_the_angle_and_alignment_restores_it(light, compass):
    labels = torch.zeros(2, dtype=torch.long)
    degrees = [-90, 0, 30, 90, 150]

    def align(images):
        return mean_shift(compass, images, steps=40, step_size=0.2).images

    def accuracy(**options):
        return metrics.accuracy_under_rotation(compass, light, labels, degrees, **options)

    assert accuracy(samples=0) == [0, 1, 1, 0, 0]
    assert accuracy(samples=0, align=align) == [1] * 5
    assert accuracy(samples=20) == [1] * 5  # so does averaging, here


def test_ekld_is_zero_for_what_is_invariant_and_counts_by_class(light, compass):
    light = light.repeat(20, 1, 1, 1)
    labels = torch.arange(40) % 2
    generator = torch.Generator()

    def ekld(degrees, samples):
        generator.manual_seed(0)
        return metrics.ekld(compass, light, labels, 2, degrees, generator, samples)

    plain = ekld(180, samples=0)
    assert min(plain) > 1
    assert max(ekld(180, samples=20)) < 0.05
    assert max(ekld(10, samples=0)) < min(plain)

    angles = 2 * torch.rand(40, 1, generator=generator.manual_seed(0)) - 1
    log_p = compass.predict(light, 0)
    log_q = compass.predict(FAMILIES["rotation"].warp(light, angles), 0)
    divergence = (log_p.exp() * (log_p - log_q)).sum(-1)
    by_class = [divergence[::2].mean().item(), divergence[1::2].mean().item()]
    assert plain == pytest.approx(by_class, rel=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_the_invariance_bound_holds(seed, light):
    """For flows with random weights."""
    torch.manual_seed(seed)
    model = build("flow", "rotation", 1, 4, base=MixtureBase, components=3)
    with torch.no_grad():
        for parameter in model.q.flow.parameters():
            parameter.normal_(0, 0.4)
        model.classifier.head.weight.mul_(20)
    left, right = metrics.invariance_bound(model, light[:1], degrees=70)
    assert left.shape == right.shape == (1, 4)
    assert (left <= right + 1e-6).all()
    assert left.max() > 1e-3


def test_an_equivariant_q_makes_both_sides_of_the_bound_small(light, compass):
    left, right = metrics.invariance_bound(compass, light[:1], degrees=70)
    assert right.max() < 0.3
    assert left.max() < 0.03
    compass.q = GUIDES["fixed"](compass.family, 1, half_width=0.1)  # does not follow the image
    left, right = metrics.invariance_bound(compass, light[:1], degrees=70)
    assert left.max() > 0.3
    assert (left <= right).all()


def test_the_left_side_of_the_bound_is_the_change_of_the_prediction(light, compass):
    """Against Monte Carlo: predictions on the image and on the image turned."""
    compass.q = GUIDES["fixed"](compass.family, 1, half_width=0.1)
    turned = compass.family.warp(light, torch.full((2, 1), 70 / 180))
    before = compass.predict(light, 2000).exp()
    after = compass.predict(turned, 2000).exp()
    left, _ = metrics.invariance_bound(compass, light, degrees=70)
    assert torch.allclose(left, (before - after).abs(), atol=0.05)


def test_the_bound_keeps_double_precision(light, compass):
    left, _ = metrics.invariance_bound(compass.double(), light[:1].double(), degrees=70)
    assert left.dtype == torch.float64


def test_a_bound_that_cannot_be_computed_is_an_error(light, compass):
    compass.q = GUIDES["none"](compass.family, 1)
    with pytest.raises(ValueError, match="q has no density at any of 360 angles"):
        metrics.invariance_bound(compass, light, degrees=70)
    with pytest.raises(ValueError, match="expected the family rotation, got translation x"):
        metrics.invariance_bound(build("none", "translation", 1, 4), light, degrees=10)


# Predictions


def test_calibration_is_that_of_a_loop_over_bins_and_vanishes_for_honest_predictions():
    log_p = torch.randn(20000, 4).log_softmax(-1)
    labels = torch.randint(4, (20000,))
    confidence, predicted = log_p.exp().max(-1)
    expected = 0.0
    for b in range(15):
        inside = (confidence >= b / 15) & (confidence < (b + 1) / 15)
        if inside.any():
            right = (predicted == labels)[inside].float().mean()
            expected += inside.float().mean() * (right - confidence[inside].mean()).abs()
    assert metrics.calibration_error(log_p, labels) == pytest.approx(expected.item(), abs=1e-5)
    honest = torch.multinomial(log_p.exp(), 1).squeeze(-1)
    assert metrics.calibration_error(log_p, honest) < 0.02 < expected


def test_the_log_likelihood_is_minus_the_cross_entropy():
    log_p = torch.randn(100, 4).log_softmax(-1)
    labels = torch.randint(4, (100,))
    found = metrics.quality(log_p, labels)
    assert found["log_likelihood"] == pytest.approx(-F.nll_loss(log_p, labels).item(), abs=1e-6)
    assert found["accuracy"] == 100 * (log_p.argmax(-1) == labels).double().mean().item()


def test_another_images_q_is_the_next_ones_and_the_rest_stays(images):
    model = build("box_flow", "rotation", 1, 5)
    model.autocast = True
    other = metrics.with_guide(model, metrics.OfAnother(model.q))
    T = 0.1 * torch.rand(20, len(images), 1)
    with torch.no_grad():
        own = model.q(images).log_prob(T.roll(1, 1))
        assert torch.allclose(other.q(images).log_prob(T), own.roll(-1, 1), atol=1e-4)
    assert other.classifier is model.classifier and other.autocast


# How much q looks at the image


class Pointer(nn.Module):
    """A box for each image, its centre and half-width written in the image's first two pixels."""

    def forward(self, images):
        centre, width = images[:, 0, 0, :2].double().split(1, -1)
        return Uniform(2 * centre - 1 - width, 2 * centre - 1 + width)


def pointing(centres, widths, family="translation"):
    """A model whose q is that box in the first coefficient alone, and its images."""
    model = build("none", family, 1, 2)
    model.q = Pointer()
    images = torch.zeros(len(centres), 1, 28, 28)
    images[:, 0, 0, 0] = (torch.as_tensor(centres) + 1) / 2
    images[:, 0, 0, 1] = torch.as_tensor(widths)
    return model, images


def test_the_share_between_images_is_the_variance_of_centres_in_all():
    centres = torch.linspace(-0.5, 0.5, 101)
    model, images = pointing(centres, torch.full((101,), 0.3))
    between, within = centres.var().item(), 0.3**2 / 3
    share = metrics.share_between(model, images, 2000)[0].item()
    assert share == pytest.approx(between / (between + within), abs=0.01)
    one, same = pointing(torch.zeros(101), torch.full((101,), 0.3))
    assert metrics.share_between(one, same)[0] < 0.01


def test_on_the_circle_half_a_turn_to_either_side_is_one_place():
    """Boxes around 0.9 and −0.9 are near on the circle, and far apart on the line."""
    centres = torch.tensor([0.9, -0.9]).repeat(50)
    shares = {}
    for family in ("rotation", "translation"):
        model, images = pointing(centres, torch.full((100,), 0.1), family)
        shares[family] = metrics.share_between(model, images)[0].item()
    assert shares["rotation"] < 0.95 < 0.98 < shares["translation"]


def test_information_sees_places_and_widths_and_nothing_in_a_global_q():
    log2 = torch.tensor(2.0).log().item()
    apart = pointing(torch.tensor([-0.5, 0.5]).repeat(20), torch.full((40,), 0.1))
    assert metrics.information(*apart, samples=50)[0] == pytest.approx(log2, abs=1e-3)
    widths = pointing(torch.zeros(40), torch.tensor([0.01, 0.9]).repeat(20))
    assert metrics.information(*widths, samples=50)[0] > 0.6 * log2
    assert metrics.share_between(*widths)[0] < 0.05
    same = pointing(torch.zeros(40), torch.full((40,), 0.5))
    assert metrics.information(*same)[0] == pytest.approx(0, abs=1e-6)


def test_a_turn_all_the_way_round_begins_with_none_and_knows_half_a_turn(images):
    model = build("none", "rotation", 1, 5)
    turns = metrics.under_rotations(model, images, 4).log_softmax(-1)
    assert torch.allclose(turns[0], model.predict(images, 0), atol=1e-4)
    on_head = model.predict(images.rot90(2, (-2, -1)), 0)
    assert torch.allclose(turns[2], on_head, atol=1e-3)


def test_passes_are_counted_within_and_not_outside(images):
    model = build("flow", "rotation", 1, 5)
    with metrics.passes(model) as seen:
        model.predict(images, 3)
        metrics.under_rotations(model, images, 4)
    B = len(images)
    assert seen == {"classifier": 7 * B, "encoder": B}
    model.predict(images, 3)
    assert seen == {"classifier": 7 * B, "encoder": B}
    with metrics.passes(build("none", "rotation", 1, 5)) as seen:
        pass
    assert seen == {"classifier": 0, "encoder": 0}


@pytest.mark.parametrize("turn", [0.0, 130.0, 540.0])
def test_how_far_apart_angles_are_is_told_on_the_circle(turn):
    small = 5 * torch.randn(2000, generator=torch.Generator().manual_seed(0))
    near = metrics.circular_deviation(turn + small)
    torch.testing.assert_close(near, small.std(), rtol=0.01, atol=0)
    assert metrics.circular_deviation(torch.tensor([turn, turn + 180])) > 200
    one_astray = torch.cat([turn + small, torch.tensor([turn + 170 + 360])])
    distance = metrics.circular_distance(one_astray)
    torch.testing.assert_close(distance[:-1], (small - small.mean()).abs(), rtol=0, atol=0.2)
    assert distance[-1] == pytest.approx(170, abs=0.5)


def test_between_images_is_asked_of_two_or_more():
    model = InvariantClassifier.build("flow", "rotation", in_channels=1, classes=2)
    one = torch.rand(1, 1, 28, 28)
    for measure in (metrics.share_between, metrics.information):
        with pytest.raises(ValueError, match="images: expected at least 2, got 1"):
            measure(model, one)
    with pytest.raises(ValueError, match="samples: expected a whole number of 2 or more, got 1"):
        metrics.share_between(model, one.expand(2, -1, -1, -1), samples=1)


def test_passes_of_another_images_q_are_counted():
    model = InvariantClassifier.build("flow", "rotation", in_channels=1, classes=2)
    other = metrics.with_guide(model, metrics.OfAnother(model.q))
    with metrics.passes(other) as seen:
        other.predict(torch.rand(4, 1, 28, 28), samples=3)
    assert seen == {"classifier": 12, "encoder": 4}
