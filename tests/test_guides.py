"""Laws of the guides: one interface, whatever the method."""

import math

import pytest
import torch

from flowinv.distributions import MixtureBase, Uniform, draw
from flowinv.guides import GUIDES, Guide
from flowinv.model import InvariantClassifier
from flowinv.networks import ConvNet
from flowinv.training import Settings, fit
from flowinv.transforms import FAMILIES

PAIRS = [
    (guide, family)
    for guide in GUIDES
    for family in FAMILIES
    if guide != "instaaug_crops" or family == "crop"
]
FAMILY_OF = {"instaaug_crops": "crop"}  # the others take any


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_every_guide_is_a_distribution_over_the_box_for_each_image(name, family, images):
    family = FAMILIES[family]
    q = GUIDES[name](family, 1)(images)
    assert q.batch_shape == (8,) and q.event_shape == (family.dim,)
    drawn = draw(q, 5).T
    # A point need not be drawn twice; of a mixture's 8 components each is drawn.
    assert len(drawn) == {"none": 1, "mixture_flow": 8}.get(name, 5)
    for T in (q.sample((5,)), drawn):
        assert T.shape == (len(T), 8, family.dim) and (T.abs() <= 1).all()
        assert q.log_prob(T).shape == (len(T), 8) and q.log_prob(T).isfinite().all()


@pytest.mark.parametrize(("name", "family"), [pair for pair in PAIRS if pair[0] != "none"])
def test_every_guides_density_is_that_of_its_samples(name, family, images):
    """The box's halves: the share of samples in each against the share that the density gives it.

    By importance sampling from a mixture of q and the uniform distribution: weights are at most 2.
    """
    D, n = FAMILIES[family].dim, 20000
    with torch.no_grad():
        q = GUIDES[name](FAMILIES[family], 1).double()(images[:1].double())
        T = torch.cat([q.sample((n,)), 2 * torch.rand(n, 1, D).double() - 1])
        density, uniform = q.log_prob(T).exp(), 0.5**D
        weights = density / (density + uniform) / n  # of E_q, estimated on both halves of T
        samples = q.sample((n,))
    assert weights.sum().item() == pytest.approx(1, abs=0.03)
    for d in range(D):
        share = (weights * (T[..., d] > 0.1)).sum() / weights.sum()
        assert share.item() == pytest.approx(
            (samples[..., d] > 0.1).double().mean().item(), abs=0.03
        )


class PredictedAngle(Guide):
    """A guide in eight lines: a narrow box around an angle that a network predicts."""

    def __init__(self, family, in_channels, width=0.1):
        super().__init__(family, in_channels)
        self.network = ConvNet(in_channels, family.dim)
        self.width = width

    def distribution(self, images):
        centre = (1 - self.width) * self.network(images).tanh()
        return Uniform(centre - self.width, centre + self.width)


def test_a_new_guide_is_a_class_of_a_few_lines_and_works_with_everything(
    images, labels, monkeypatch
):
    monkeypatch.setitem(GUIDES, "angle", PredictedAngle)
    model = InvariantClassifier.build("angle", "rotation", in_channels=1, classes=5, width=4)
    before = model.q.network.head.bias.clone()
    fit(model, images, labels, Settings(epochs=2, burn_in=1), device="cpu", progress=False)
    assert not torch.equal(model.q.network.head.bias, before)
    assert model.predict(images).shape == (8, 5)


def test_no_augmentation_is_the_identity_and_the_fixed_box_is_the_box_it_was_given(images):
    family = FAMILIES["rotation_translation"]
    assert (GUIDES["none"](family, 1)(images).sample((10,)) == 0).all()
    T = GUIDES["fixed"](family, 1, half_width=[0.1, 0.2, 0.5])(images).sample((2000,))
    assert torch.allclose(T.abs().amax((0, 1)), torch.tensor([0.1, 0.2, 0.5]), rtol=1e-2)
    entropy = GUIDES["fixed"](family, 1, half_width=[0.1, 0.2, 0.5])(images).entropy()
    assert torch.allclose(entropy, torch.tensor(math.log(0.2 * 0.4 * 1.0)))


def test_the_flow_depends_on_the_image(images):
    guide = GUIDES["flow"](FAMILIES["rotation"], 1)
    with torch.no_grad():
        for parameter in guide.flow.parameters():
            parameter.normal_(0, 0.5)
        log_prob = guide(images).log_prob(torch.zeros(8, 1))
    assert log_prob.std() > 0.001


@pytest.mark.parametrize("name", list(GUIDES))
def test_images_that_are_not_images_are_a_one_line_error(name):
    for bad in (torch.zeros(1, 28, 28), torch.zeros(2, 1, 28, 28, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="images: expected") as error:
            GUIDES[name](FAMILIES[FAMILY_OF.get(name, "rotation")], 1)(bad)
        assert "\n" not in str(error.value)


def test_an_unknown_guide_and_a_box_too_wide_are_one_line_errors():
    with pytest.raises(
        ValueError,
        match="unknown guide 'flows': expected one of " + ", ".join(GUIDES),
    ):
        GUIDES["flows"]
    with pytest.raises(ValueError, match="half_width: expected numbers above 0 and up to 1, got"):
        GUIDES["fixed"](FAMILIES["rotation"], 1, half_width=2)
    for name, bounds in (
        ("augerino", "above 0 and up to 0.999"),
        ("instaaug", "above 0 and up to 0.999"),
        ("box_flow", "above 0.001 and below 1"),
    ):
        with pytest.raises(ValueError, match=f"half_width: expected numbers {bounds}"):
            GUIDES[name](FAMILIES["rotation"], 1, half_width=1.0)
    with pytest.raises(ValueError, match="expected the family crop, got one of rotation"):
        GUIDES["instaaug_crops"](FAMILIES["rotation"], 1)


def test_global_guides_do_not_look_and_the_others_do(images):
    """Whether q differs between images, and whether gradients reach what decides it."""
    for name, guide in GUIDES.items():
        q = guide(FAMILIES[FAMILY_OF.get(name, "rotation_translation")], 1)
        with torch.no_grad():
            for parameter in q.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        looked = images.clone().requires_grad_()
        T, log_prob, weights = draw(q(looked), 2)
        value = (weights * (log_prob + T.sum(-1))).sum()
        if value.requires_grad:
            value.backward()
        looks = looked.grad is not None and looked.grad.abs().sum() > 0
        assert looks == (name not in ("none", "fixed", "augerino")), name
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in q.parameters()), name


def test_guides_start_around_the_identity_of_their_family(images):
    """So that a crop's guide starts with large crops, not with any."""
    boxes = ("fixed", "augerino", "instaaug", "box_flow")
    for name in ("none", *boxes, "gaussian", "flow"):
        options = {"half_width": 0.2} if name in boxes else {}
        T = GUIDES[name](FAMILIES["crop"], 1, **options)(images).sample((500,))
        assert T[..., 2:].mean() > 0.6 and T[..., :2].mean().abs() < 0.1, name


def test_crops_are_where_the_network_looks():
    """The 321 cells: disjoint, inside the box, and in the order of the network's maps."""
    guide = GUIDES["instaaug_crops"](FAMILIES["crop"], 1)
    guide.family = FAMILIES["crop"]
    assert (
        len(guide.low) == 321 and (guide.low >= -1 - 1e-6).all() and (guide.high <= 1 + 1e-6).all()
    )
    middles = (guide.low + guide.high) / 2
    inside = ((middles[:, None] > guide.low) & (middles[:, None] < guide.high)).all(-1)
    assert torch.equal(inside, torch.eye(321, dtype=torch.bool))
    picture = torch.rand(1, 1, 64, 64, requires_grad=True)
    logits = guide.encoder(picture)[0]
    edges = torch.arange(64)
    for crop in (0, 15, 100, 240, 255, 256, 259, 319):
        (felt,) = torch.autograd.grad(logits[crop], picture, retain_graph=True)
        M = guide.family.matrix(middles[crop])
        for axis, (size, centre) in enumerate(((M[0, 0], M[0, 2]), (M[1, 1], M[1, 2]))):
            pixels = edges[felt[0, 0].abs().sum(axis) > 0]
            low, high = ((centre + sign * size).item() * 32 + 32 for sign in (-1, 1))
            assert (
                pixels.min() >= low - 8 and pixels.max() <= high + 8
            )  # its window, and a convolution's reach
            assert pixels.min() <= low + 8 and pixels.max() >= high - 8, (crop, axis)


def test_the_published_flow_can_be_built():
    """Affine coupling, 12 layers, a mixture as base: no option is missing."""
    guide = GUIDES["coupling_flow"](FAMILIES["affine"], 3, base=MixtureBase, components=4)
    q = guide(torch.rand(2, 3, 32, 32))
    T, log_prob, weights = draw(q, 4)
    assert T.shape == (4, 2, 6) and log_prob.isfinite().all()


@pytest.mark.parametrize("name", ["flow", "box_flow", "coupling_flow", "mixture_flow"])
def test_one_flow_for_all_has_no_encoder_and_the_same_q_for_every_image(name, images):
    """The same for all images, and else not; gradients reach all that is left."""
    for for_all in (True, False):
        q = GUIDES[name](FAMILIES["rotation_translation"], 1, for_all=for_all)
        with torch.no_grad():
            for parameter in q.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        T, log_prob, weights = draw(q(images), 4)
        (weights * (log_prob + T.sum(-1))).sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in q.parameters())
        assert (q.encoder is None) == for_all
        with torch.no_grad():  # the first image's samples, to all
            log_prob = q(images).log_prob(T[:, :1].expand(-1, 8, -1))
        assert (log_prob == log_prob[:, :1]).all() == for_all


def test_a_new_box_flow_is_augerinos_box(images):
    family = FAMILIES["affine"]
    T = 0.3 * (2 * torch.rand(200, len(images), 6) - 1)
    flow = GUIDES["box_flow"](family, 1, for_all=True, layers=0, half_width=0.2)(images)
    box = GUIDES["augerino"](family, 1, half_width=0.2)(images)
    with torch.no_grad():
        assert torch.allclose(flow.log_prob(0.5 * T), box.log_prob(0.5 * T), atol=0.1)
        assert (flow.log_prob(T).isfinite() == box.log_prob(T).isfinite()).double().mean() > 0.98


def test_one_box_for_all_widens_at_augerinos_pace(images):
    """A control whose q moved many times as fast would lose by its rate alone."""
    family = FAMILIES["affine"]
    moved = {}
    for name, options in (("augerino", {}), ("box_flow", {"for_all": True, "layers": 0})):
        q = GUIDES[name](family, 1, half_width=0.2, **options)
        optimizer = torch.optim.Adam(q.parameters(), lr=0.01)
        before = draw(q(images), 1).log_prob.mean()
        before.backward()
        optimizer.step()
        with torch.no_grad():
            moved[name] = (before - draw(q(images), 1).log_prob.mean()).item()
    assert 0.5 < moved["box_flow"] / moved["augerino"] < 3


def test_a_box_flow_without_layers_is_instaaug_with_the_same_weights(images):
    family = FAMILIES["rotation_translation"]
    T = 2 * torch.rand(200, 8, family.dim) - 1
    box = GUIDES["box_flow"](family, 1, layers=0)
    instaaug = GUIDES["instaaug"](family, 1)
    for parameter in instaaug.head.parameters():
        torch.nn.init.normal_(parameter, 0, 0.5)
    box.encoder.load_state_dict(instaaug.encoder.state_dict())
    box.flow.layers[-1].linear.load_state_dict(instaaug.head.state_dict())
    log_prob = box(images).log_prob(T)
    assert torch.allclose(log_prob, instaaug(images).log_prob(T), atol=1e-5)
    assert 0 < log_prob.isfinite().double().mean() < 1
