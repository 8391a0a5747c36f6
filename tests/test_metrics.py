"""Laws of the measures."""

import pytest
import torch
from torch import nn

from flowinv import metrics
from flowinv.alignment import mean_shift
from flowinv.bases import BoxUniform, wrap
from flowinv.guides import GUIDES
from flowinv.model import InvariantClassifier
from flowinv.transforms import FAMILIES


def test_half_width_of_a_uniform_is_its_mass_times_its_half_width():
    for w in (0.1, 0.5, 1.0):
        values = torch.linspace(-w, w, 4001)[:, None].expand(-1, 3)
        assert torch.allclose(
            metrics.half_width(values, periodic=False), torch.tensor(0.99 * w), atol=1e-3
        )


def test_half_width_of_a_periodic_coefficient_does_not_depend_on_where_the_circle_is_cut():
    values = 0.2 * torch.randn(500)
    turned = (values + 0.9 + 1) % 2 - 1  # around ±1
    assert torch.allclose(
        metrics.half_width(turned, periodic=True),
        metrics.half_width(values, periodic=True),
        atol=1e-5,
    )
    assert metrics.half_width(turned, periodic=False) > 0.9


def test_half_width_leaves_out_the_rarest():
    values = torch.cat([torch.linspace(-0.1, 0.1, 99), torch.ones(1)])
    assert metrics.half_width(values, periodic=False) == pytest.approx(0.1, abs=1e-6)


def test_widths_of_a_fixed_box_in_degrees(images, labels):
    model = InvariantClassifier.build(
        "fixed", "rotation_translation", 1, 5, half_width=[0.1, 0.1, 0.5]
    )
    widths = metrics.class_widths(model, images, labels, 5)
    assert widths == pytest.approx([0.99 * 90] * 5, abs=5)
    with pytest.raises(
        ValueError,
        match="coefficient: expected one of translation x, translation y, rotation, got 'shear'",
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
    white = torch.ones(50, 1, 33, 33)  # here rounding would lead above 1
    assert (
        metrics.rotate_within(
            white, torch.full((50,), 180.0), torch.Generator().manual_seed(0)
        ).max()
        <= 1
    )


def test_guides_are_measured_by_name_of_the_coefficient_only(images):
    model = InvariantClassifier.build("none", "affine", 1, 5)
    for name in set(GUIDES) - {"instaaug_crops"}:
        model.q = GUIDES[name](model.family, 1)
        assert metrics.invariance_width(model, images, "shear").shape == (8,)


@pytest.mark.parametrize("centre", [0.0, 0.9])
def test_coverage_tells_too_narrow_from_too_wide(centre):
    """Uniform q of half-width w against an ideal range of half-width 0.5, also across the seam."""
    for w, reached, inside in ((0.25, 0.5, 1.0), (0.5, 1.0, 1.0), (1.0, 1.0, 0.5)):
        T = wrap(centre + torch.linspace(-w, w, 20001)[:-1, None])
        got = metrics.coverage(T, torch.full((1, 1), centre), 0.5, periodic=True)
        assert [x.item() for x in got] == pytest.approx([reached, inside], abs=0.03)


def test_a_range_between_two_bins_is_an_error_and_double_precision_is_none():
    T = torch.zeros(10, 1, dtype=torch.float64)
    assert metrics.coverage(T, T[:1], 0.1, periodic=True)[1] == 1
    with pytest.raises(ValueError, match="take more bins"):
        metrics.coverage(T, T[:1], 0.01, periodic=True)


def test_coverage_counts_every_mode():
    modes = torch.tensor([-2 / 3, 0, 2 / 3])[:, None]
    one = 0.15 * (2 * torch.rand(5000, 1) - 1)
    reached, inside = metrics.coverage(one, modes, 1 / 6, periodic=True)
    assert reached.item() == pytest.approx(1 / 3, abs=0.05) and inside == 1
    all_three = wrap(one + modes[torch.randint(3, (5000,))])
    assert metrics.coverage(all_three, modes, 1 / 6, periodic=True)[0].item() == pytest.approx(
        0.95, abs=0.06
    )


def test_effective_modes_are_those_that_have_samples():
    modes = torch.tensor([-2 / 3, 0, 2 / 3])[:, None]
    shares = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.2, 0.3, 0.5]])
    for share in shares:
        T = wrap(
            modes.repeat_interleave((1000 * share).long(), 0) + 0.3 * torch.rand(1000, 1) - 0.15
        )
        expected = torch.special.entr(share).sum().exp()
        assert metrics.effective_modes(T, modes, periodic=True).item() == pytest.approx(
            expected.item(), rel=1e-4
        )
    seam = torch.tensor([[0.95], [-0.95]])  # one mode, cut by the seam
    assert metrics.effective_modes(
        seam, torch.tensor([[1.0], [0.0]]), periodic=True
    ).item() == pytest.approx(1)


def test_the_nearest_rotation_is_that_of_the_singular_values():
    """R = U diag(1, det UV) V' minimises ‖A − R‖ (Kabsch)."""
    A = torch.randn(200, 2, 2, dtype=torch.float64)
    U, _, V = torch.linalg.svd(A)
    signs = torch.ones(200, 2).double()
    signs[:, 1] = torch.linalg.det(U @ V)
    expected = torch.linalg.matrix_norm(
        A - U @ torch.diag_embed(signs) @ V
    ) / torch.linalg.matrix_norm(A)
    matrices = torch.cat([A, torch.randn(200, 2, 1).double()], -1)
    assert torch.allclose(metrics.rotation_error(matrices), expected)
    turns = FAMILIES["rotation"].matrix(torch.linspace(-1, 1, 50).double()[:, None])
    assert metrics.rotation_error(turns).max() < 1e-7


class Compass(nn.Module):
    """A classifier that knows where the light is: the upper, right, lower or left half of the picture."""

    def forward(self, images):
        x = images.mean(1)
        h, w = x.shape[1] // 2, x.shape[2] // 2
        halves = [x[:, :h], x[:, :, w:], x[:, h:], x[:, :, :w]]
        return 40 * torch.stack([half.mean((1, 2)) for half in halves], 1)


class Upright(nn.Module):
    """q(T | I) uniform on ±width around the turn that brings the light up: it follows the image exactly."""

    def __init__(self, width=0.1):
        super().__init__()
        self.width = width

    def forward(self, images):
        n = images.shape[-1]
        at = torch.linspace(-1, 1, n)
        x, y = (images.mean(1) * at).sum((1, 2)), (images.mean(1) * at[:, None]).sum((1, 2))
        turn = (
            torch.atan2(x, -y)[:, None] / torch.pi
        )  # from where the light is, counter-clockwise to the top
        turn = turn.clamp(-1 + self.width, 1 - self.width)
        return BoxUniform(turn - self.width, turn + self.width, validate_args=False).to_event(1)


@pytest.fixture
def light():
    """Two pictures whose upper half is bright within a disc: class 0, "up"."""
    at = torch.linspace(-1, 1, 32)
    disc = (at**2 + at[:, None] ** 2 < 0.9).float()
    return (disc * (at[:, None] < 0).float()).expand(2, 1, 32, 32).clone()


def compass(width=0.1):
    return InvariantClassifier(Compass(), Upright(width), FAMILIES["rotation"])


def test_accuracy_under_rotation_falls_with_the_angle_and_alignment_restores_it(light):
    labels, degrees = torch.zeros(2, dtype=torch.long), [-90, 0, 30, 90, 150]
    model = compass()
    assert metrics.accuracy_under_rotation(model, light, labels, degrees, samples=0) == [
        0,
        1,
        1,
        0,
        0,
    ]
    align = lambda x: mean_shift(model, x, steps=40, step_size=0.2).images  # noqa: E731
    assert (
        metrics.accuracy_under_rotation(model, light, labels, degrees, samples=0, align=align)
        == [1] * 5
    )
    assert (
        metrics.accuracy_under_rotation(model, light, labels, degrees) == [1] * 5
    )  # so does averaging, here


def test_ekld_is_zero_for_what_is_invariant_and_counts_by_class(light):
    light, labels, generator = light.repeat(20, 1, 1, 1), torch.arange(40) % 2, torch.Generator()
    turned = lambda model, samples, degrees: metrics.ekld(  # noqa: E731
        model, light, labels, 2, degrees, generator.manual_seed(0), samples
    )
    plain, averaged = turned(compass(), 0, 180), turned(compass(), 20, 180)
    assert min(plain) > 1 and max(averaged) < 0.05
    assert max(turned(compass(), 0, 10)) < min(plain)
    angles = 2 * torch.rand(40, 1, generator=generator.manual_seed(0)) - 1
    p = compass().predict(light, 0)
    q = compass().predict(FAMILIES["rotation"].warp(light, angles).clamp(0, 1), 0)
    divergence = (p.exp() * (p - q)).sum(-1)
    assert plain == pytest.approx(
        [divergence[::2].mean().item(), divergence[1::2].mean().item()], rel=1e-4
    )


def test_the_invariance_bound_holds_and_an_equivariant_q_makes_both_sides_small(light):
    image = light[:1]
    for seed in range(5):
        torch.manual_seed(seed)
        model = InvariantClassifier.build("flow", "rotation", 1, 4, base="mixture", components=3)
        with torch.no_grad():
            for parameter in model.q.flow.parameters():
                parameter.normal_(0, 0.4)
            model.classifier.head.weight.mul_(20)
        left, right = metrics.invariance_bound(model, image, degrees=70)
        assert left.shape == right.shape == (1, 4)
        assert (left <= right + 1e-6).all() and left.max() > 1e-3
    model = InvariantClassifier.build("flow", "rotation", 1, 4).double()
    assert metrics.invariance_bound(model, image.double(), degrees=70)[0].dtype == torch.float64
    left, right = metrics.invariance_bound(compass(), image, degrees=70)
    assert right.max() < 0.3 and left.max() < 0.03
    model = compass()
    model.q = GUIDES["fixed"](model.family, 1, half_width=0.1)  # one that does not follow the image
    left, right = metrics.invariance_bound(model, image, degrees=70)
    assert left.max() > 0.3 and (left <= right).all()
    model.q = GUIDES["none"](model.family, 1)
    with pytest.raises(ValueError, match="q has no density at any of 360 angles"):
        metrics.invariance_bound(model, image, degrees=70)
    with pytest.raises(ValueError, match="expected the family rotation, got translation x"):
        metrics.invariance_bound(InvariantClassifier.build("none", "translation", 1, 5), image, 10)


def test_the_left_side_of_the_bound_is_the_change_of_the_prediction(light):
    """Against Monte Carlo: predictions on the image and on the image turned."""
    model = InvariantClassifier(
        Compass(), GUIDES["fixed"](FAMILIES["rotation"], 1, half_width=0.1), FAMILIES["rotation"]
    )
    turned = model.family.warp(light, torch.full((2, 1), 70 / 180)).clamp(0, 1)
    change = (model.predict(light, 2000).exp() - model.predict(turned, 2000).exp()).abs()
    left, _ = metrics.invariance_bound(model, light, degrees=70)
    assert torch.allclose(left, change, atol=0.05)
