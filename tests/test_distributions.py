"""Laws of the distributions over the box: monotone maps, layers, bases, flows of every kind."""

import itertools
import math

import pyro
import pytest
import torch
import torch.nn.functional as F
import zuko
from torch import nn

from flowinv.distributions import (
    LINE,
    Affine,
    ConditionalFlow,
    ConditionalLayer,
    Draw,
    FlowDistribution,
    Gaussian,
    GaussianBase,
    GaussianMixture,
    Mapped,
    MixtureBase,
    PointMass,
    Spline,
    ToBox,
    ToLine,
    Uniform,
    UniformBase,
    UniformMixture,
    box_flow,
    coupling_flow,
    draw,
    mixture_flow,
    spline_flow,
    wrap,
)

BASES = {"uniform": UniformBase, "gaussian": GaussianBase, "mixture": MixtureBase}
KINDS = [
    (univariate, base, coupling, wraps)
    for univariate, base, coupling, wraps in itertools.product(
        ("affine", "spline"), BASES, (False, True), (False, True)
    )
    if univariate == "spline" or not wraps
]
KINDS += [("window", "uniform", False, wraps) for wraps in (False, True)]  # of box_flow


def make(kind, dim, context_dim=4, layers=2, strength=0.25, **start):
    """A flow with weights far from the identity, in float64; if any, the last coefficient wraps."""
    univariate, base, coupling, wraps = kind
    periodic = [False] * (dim - 1) + [wraps]
    if univariate == "window":
        return in_window(dim, context_dim, layers, strength, periodic)
    if base == "mixture":
        start["components"] = 3
    first = BASES[base](dim, context_dim, periodic=periodic, **start)
    spline = univariate == "spline"
    join = []
    if first.space.bounded and not spline:
        join = [ToLine()]
    if not first.space.bounded and spline:
        join = [ToBox(periodic)]
    order = [d % 2 for d in range(dim)] if coupling else list(range(dim))
    parts = [
        ConditionalLayer(
            Spline(5, periodic) if spline else Affine(),
            order if i % 2 == 0 else [max(order) - rank for rank in order],
            context_dim,
            hidden=16,
        )
        for i in range(layers)
    ]
    flow = ConditionalFlow(first, [*join, *parts, *([] if spline else [ToBox()])]).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.normal_(0, strength)
    return flow


def in_window(dim, context_dim, layers, strength, periodic):
    """A box_flow as ``make`` has them; where it wraps, the window reaches across the seam."""
    flow = box_flow(dim, context_dim, layers, hidden=16, bins=5, periodic=periodic).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.normal_(0, strength)
        if periodic[-1]:
            flow.layers[-1].linear.bias[dim - 1] = 0.9
    return flow


def window_of(flow, context, dim):
    """The middle and half-widths of a box_flow's window, (…, D), by where it sends 0 and 1."""
    with torch.no_grad():
        middle, one = (
            flow.layers[-1](torch.full((dim,), at, dtype=torch.float64), context).value
            for at in (0, 1)
        )
    return middle, wrap(one - middle).abs()


def apart(x, y, kind):
    """The distance of coefficients, the last round the circle where it wraps."""
    difference = x - y
    last = wrap(difference[..., -1:]) if kind[3] else difference[..., -1:]
    return torch.cat([difference[..., :-1], last], -1).abs()


def doubles(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def in_box(*shape):
    return 2 * torch.rand(*shape, dtype=torch.float64) - 1


def name(kind):
    return "-".join(map(str, kind))


every_kind = pytest.mark.parametrize("kind", KINDS, ids=name)
CIRCLES = [kind for kind in KINDS if kind[3] and kind[0] != "window"]  # which ends in a jump
every_circle = pytest.mark.parametrize("kind", CIRCLES, ids=name)


# Monotone maps of one coefficient


class SinhArcsinh(nn.Module):
    """A new univariate map: y = sinh(arcsinh(x) + t)."""

    count = 1
    space = LINE

    def forward(self, x, params):
        y = torch.sinh(torch.arcsinh(x) + params[..., 0])
        return Mapped(y, 0.5 * (y.square().log1p() - x.square().log1p()))

    def inverse(self, y, params):
        return self(y, -params)


UNIVARIATES = pytest.mark.parametrize("univariate", [Affine(), Spline(7), SinhArcsinh()])


@UNIVARIATES
def test_univariate_inverse_and_slope(univariate):
    x = in_box(1000).requires_grad_()
    params = 2 * doubles(1000, univariate.count)
    y, log_slope = univariate(x, params)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert torch.allclose(log_slope, slope.log(), atol=1e-8)
    back, log_inverse = univariate.inverse(y, params)
    assert torch.allclose(back, x, atol=1e-8)
    assert torch.allclose(log_inverse, -log_slope, atol=1e-6)


@UNIVARIATES
def test_zeros_are_the_identity(univariate):
    x = in_box(100)
    y, log_slope = univariate(x, torch.zeros(100, univariate.count).double())
    assert torch.allclose(y, x)
    assert torch.allclose(log_slope, torch.zeros_like(x), atol=1e-12)


def test_the_spline_is_a_bijection_of_the_box():
    x = torch.linspace(-1, 1, 2001, dtype=torch.float64)
    y, _ = Spline(5)(x, 3 * doubles(16).expand(2001, 16))
    assert (y.diff() > 0).all()
    assert y[[0, -1]].tolist() == pytest.approx([-1, 1])


def test_single_precision_stays_in_the_box():
    """At the edge, where bins' edges are sums, and next to it."""
    x = torch.tensor([-1, -0.9999999, -0.5, 0.5, 0.9999999, 1]).expand(20000, 6)
    for periodic in (None, [True] * 6):
        spline = Spline(12, periodic)
        params = 3 * torch.randn(20000, 1, spline.count).expand(-1, 6, -1)
        for y, log_slope in (spline(x, params), spline.inverse(x, params)):
            assert (y.abs() <= 1).all()
            assert log_slope.isfinite().all()


def as_zuko(params):
    """Raw parameters of one spline as zuko's, which bounds and normalises them in another way."""
    K = params.shape[-1] // 3
    slope = 1e-9
    widths, heights, slopes = params.split([K, K, K + 1], -1)
    raw = []
    for sizes in (widths, heights):
        share = (1e-3 + (1 - 1e-3 * K) * sizes.softmax(-1)).log()
        share = share - share.mean(-1, keepdim=True)
        raw.append(share / (1 - (2 * share / math.log(slope)).abs()))
    inner = 6 * torch.tanh(slopes[..., 1:-1] / 6)
    raw.append(inner / (1 - (inner / math.log(slope)).abs()))
    return zuko.transforms.MonotonicRQSTransform(*raw, bound=1.0, slope=slope)


def test_the_spline_is_zukos():
    """Values, inverse and log-slope, with the end slopes of 1 that zuko's has."""
    params = doubles(500, 25)
    params[:, [16, 24]] = 0
    x = 0.99 * in_box(500)
    y, log_slope = Spline(8)(x, params)
    theirs, their_slope = as_zuko(params).call_and_ladj(x)
    assert torch.allclose(y, theirs, atol=1e-10)
    assert torch.allclose(log_slope, their_slope, atol=1e-8)
    assert torch.allclose(Spline(8).inverse(y, params).value, as_zuko(params).inv(y), atol=1e-8)


def test_wrapping_goes_round_and_stays_in_the_box():
    x = 10 * torch.randn(1000)
    assert (wrap(x).abs() <= 1).all()
    assert torch.allclose((math.pi * wrap(x)).cos(), (math.pi * x).cos(), atol=1e-4)
    assert torch.allclose((math.pi * wrap(x)).sin(), (math.pi * x).sin(), atol=1e-4)


# Layers


@every_kind
@pytest.mark.parametrize("dim", [1, 3])
def test_inverse_undoes_forward_and_log_det_is_the_jacobians(kind, dim):
    context = doubles(4)
    for layer in make(kind, dim).layers:

        def value(u, layer=layer):
            return layer(u, context).value

        x = 0.9 * in_box(20, dim)
        y, log_det = layer(x, context)
        back, log_inverse = layer.inverse(y, context)
        assert apart(back, x, kind).max() < 1e-7
        assert torch.allclose(log_inverse, -log_det, atol=1e-7)
        for i in range(20):
            jacobian = torch.autograd.functional.jacobian(value, x[i])
            assert log_det[i].item() == pytest.approx(jacobian.det().abs().log().item(), abs=1e-8)


@pytest.mark.parametrize("univariate", [Affine(), Spline(8)], ids=["affine", "spline"])
@pytest.mark.parametrize("ranks", [[0, 1, 2, 3], [0, 1, 0, 1]], ids=["autoregressive", "coupling"])
def test_layers_are_zukos_with_the_same_weights(univariate, ranks):
    """The same network makes the parameters, zuko does the rest."""
    spline = isinstance(univariate, Spline)
    P = univariate.count
    layer = ConditionalLayer(univariate, ranks, 3, hidden=16).double()
    third = layer.network.third
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(0, 0.4)
        still = []
        if spline:  # end slopes of 1
            still += [d * P + k for d in range(4) for k in (16, 24)]
        if max(ranks) == 1:  # a coupling as zuko has it: the first rank stays as it is
            still += [d * P + k for d in (0, 2) for k in range(P)]
        third.weight[still] = 0
        third.bias[still] = 0

    def element(params):
        if spline:
            return zuko.transforms.DependentTransform(as_zuko(params), 1)
        log_scale = 2 * torch.tanh(params[..., 0] / 2)
        raw = log_scale / (1 - (log_scale / math.log(1e-3)).abs())
        map_ = zuko.transforms.MonotonicAffineTransform(params[..., 1], raw)
        return zuko.transforms.DependentTransform(map_, 1)

    context = doubles(3)

    def conditioned_on(half):
        full = torch.zeros(*half.shape[:-1], 4, dtype=torch.float64)
        full[..., ::2] = half
        return element(layer.network(full, context)[..., 1::2, :])

    if max(ranks) == 1:
        theirs = zuko.transforms.CouplingTransform(conditioned_on, torch.tensor(ranks) == 0)
    else:
        theirs = zuko.transforms.AutoregressiveTransform(
            lambda x: element(layer.network(x, context)), passes=4
        )
    x = 0.95 * in_box(50, 4)
    y, log_det = layer(x, context)
    expected, their_log_det = theirs.call_and_ladj(x)
    assert torch.allclose(y, expected, atol=1e-9)
    assert torch.allclose(log_det, their_log_det, atol=1e-7)
    assert torch.allclose(layer.inverse(y, context).value, theirs.inv(y), atol=1e-7)


def test_transforms_of_torch_func_see_through_a_layer():
    layer = make(("affine", "gaussian", True, False), 3).layers[0]
    context = doubles(4)
    x = doubles(3)
    expected = torch.autograd.functional.jacobian(lambda u: layer(u, context).value, x)
    found = torch.func.jacrev(lambda u: layer(u, context).value)(x)
    assert torch.allclose(found, expected, atol=1e-10)


def test_a_new_univariate_map_is_a_flow_by_composition():
    """Sinh-arcsinh above, in 13 lines: its flow's samples are scored as they were drawn."""
    layers = [ConditionalLayer(SinhArcsinh(), ranks, 4) for ranks in ([0, 1], [1, 0])]
    flow = ConditionalFlow(GaussianBase(2, 4), [*layers, ToBox()]).double()
    for parameter in flow.parameters():
        nn.init.normal_(parameter, 0, 0.1)
    q = flow(doubles(5, 4))
    T, log_prob, _ = q.draw(10)
    assert torch.allclose(q.log_prob(T), log_prob, atol=1e-7)


# Distributions over the line, the circle and boxes


def mixture(K=3, D=2, periodic=None, batch=(4,)):
    scale = 0.1 + 0.8 * torch.rand(*batch, K, D).double()
    return GaussianMixture(doubles(*batch, K), doubles(*batch, K, D), scale, periodic)


def boxes(B=1):
    logits = doubles(B, 5).requires_grad_()
    edges = torch.linspace(-1, 1, 6, dtype=torch.float64)
    return UniformMixture(logits, edges[:-1, None], edges[1:, None]), logits


def test_a_uniform_has_its_density_on_its_edges_and_none_outside():
    q = Uniform(torch.tensor([-0.5]), torch.tensor([0.5]))
    x = torch.tensor([[-0.5], [0.0], [0.5], [0.51]])
    assert q.log_prob(x).tolist() == [0, 0, 0, -math.inf]


def test_on_the_line_it_is_torchs_mixture():
    q = mixture()
    normals = torch.distributions.Independent(torch.distributions.Normal(q.loc, q.scale), 1)
    weights = torch.distributions.Categorical(logits=q.log_weights)
    x = 2 * doubles(50, 4, 2)
    theirs = torch.distributions.MixtureSameFamily(weights, normals)
    assert torch.allclose(q.log_prob(x), theirs.log_prob(x))
    one = Gaussian(q.loc[:, 0], q.scale[:, 0])
    assert torch.allclose(one.log_prob(x), normals.log_prob(x.unsqueeze(-2))[..., 0])


def test_on_the_circle_it_is_the_sum_of_all_its_images():
    q = mixture(periodic=torch.tensor([False, True]))
    x = in_box(50, 4, 2)
    far = torch.arange(-30, 31).double() * 2
    images = torch.stack([x[..., :1].expand(*x.shape[:-1], 61), x[..., 1:] + far], -1)
    line = GaussianMixture(q.log_weights[:, None], q.loc[:, None], q.scale[:, None])
    assert torch.allclose(q.log_prob(x), line.log_prob(images).logsumexp(-1), atol=1e-8)
    T = (torch.arange(4000).double() + 0.5) / 2000 - 1
    q = mixture(D=1, periodic=torch.tensor([True]))
    integral = q.log_prob(T[:, None, None].expand(-1, 4, 1)).exp().mean(0) * 2
    assert torch.allclose(integral, torch.ones(4).double(), atol=1e-8)


def test_expanding_makes_copies_that_are_drawn_apart():
    gaussian = Gaussian(doubles(4, 2), torch.rand(4, 2).double())
    for q in (mixture(periodic=torch.tensor([False, True])), gaussian, boxes(4)[0]):
        more = q.expand((7, 4))
        x = more.sample()
        assert x.shape == (7, 4, q.event_shape[0]) and not torch.equal(x[0], x[1])
        assert torch.allclose(more.log_prob(x), q.log_prob(x))


def test_a_mixture_gives_no_reparametrised_samples():
    """So nothing can draw from one distribution and score another by mistake."""
    for q in (mixture(), boxes(4)[0]):
        assert not q.has_rsample
        with pytest.raises(NotImplementedError):
            q.rsample((5,))


def test_a_mixture_of_boxes_is_a_density_and_samples_follow_it():
    q, _ = boxes(3)
    points = ((torch.arange(1000).double() + 0.5) / 500 - 1)[:, None, None].expand(-1, 3, 1)
    assert torch.allclose(q.log_prob(points).exp().mean(0) * 2, torch.ones(3).double())
    share = torch.histc(q.sample((30000,))[:, 1].flatten(), 5, -1, 1) / 30000
    assert torch.allclose(share, q.log_weights[1].exp(), atol=0.02)


# Draws: values and gradients without bias


def far_apart():
    """E[x²] + E[log q(x)] has a closed form when the components are far apart.

    It is Σ w (μ² + σ²) + Σ w (log w − log σ − log √(2πe)).
    """
    logits = torch.tensor([0.3, -0.5, 0.1], dtype=torch.float64, requires_grad=True)
    loc = torch.tensor([[-3.0], [0.5], [4.0]], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([[0.2], [0.25], [0.15]], dtype=torch.float64, requires_grad=True)
    return logits, loc, scale


def exact():
    logits, loc, scale = parameters = far_apart()
    w = logits.softmax(0)
    second = (w * (loc**2 + scale**2).squeeze(1)).sum()
    each = 0.5 * math.log(2 * math.pi * math.e) + scale.log().squeeze(1) - w.log()
    value = second - (w * each).sum()
    return value, torch.autograd.grad(value, parameters)


def estimate(how, samples):
    parameters = far_apart()
    T, log_prob, weights = how(GaussianMixture(*parameters), samples)
    value = (weights * (T.squeeze(-1) ** 2 + log_prob)).sum(0)
    return value, torch.autograd.grad(value, parameters)


def draw_hard(q, samples):
    """How not to: choose a component, reparametrise it, and take no account of the choice."""
    x = q.loc + q.scale * torch.randn(samples, *q.loc.shape, dtype=q.loc.dtype)
    k = torch.distributions.Categorical(logits=q.log_weights).sample((samples,))
    T = x.gather(-2, k[..., None, None].expand(*k.shape, 1, x.shape[-1])).squeeze(-2)
    log_prob = q.log_prob(T)
    return Draw(T, log_prob, torch.full_like(log_prob, 1 / samples))


def draw_relaxed(q, samples):
    """How not to: average the components with soft Gumbel-softmax indicators (Jang et al. 2017)."""
    x = q.loc + q.scale * torch.randn(samples, *q.loc.shape, dtype=q.loc.dtype)
    soft = F.gumbel_softmax(q.log_weights.expand(samples, *q.log_weights.shape), tau=0.5)
    T = (soft.unsqueeze(-1) * x).sum(-2)
    log_prob = q.log_prob(T)
    return Draw(T, log_prob, torch.full_like(log_prob, 1 / samples))


def test_one_sample_a_component_has_the_exact_gradient():
    """The law that makes mixtures trainable: value and all gradients, those of the weights too."""
    value, gradients = exact()
    estimated, estimates = estimate(draw, 300000)
    assert estimated.item() == pytest.approx(value.item(), rel=1e-3)
    for gradient, found in zip(gradients, estimates, strict=True):
        assert torch.allclose(found, gradient, rtol=5e-3, atol=0.02)


def test_hard_indicators_do_not_move_the_weights():
    """Their values are right, but what the weights feel of x² is missing."""
    value, gradients = exact()
    estimated, estimates = estimate(draw_hard, 300000)
    assert estimated.item() == pytest.approx(value.item(), rel=1e-2)
    assert torch.allclose(estimates[1], gradients[1], rtol=0.02, atol=0.05)  # locations learn
    assert gradients[0].abs().max() > 2  # weights do not
    assert estimates[0].abs().max() < 0.1


def test_relaxed_indicators_fall_between_the_modes_and_their_entropy_is_none():
    logits, loc, scale = far_apart()
    q = GaussianMixture(logits, loc, scale)
    T, log_prob, _ = draw_relaxed(q, 20000)
    nearest = (T - loc.squeeze(1)).abs().amin(-1)
    assert (nearest > 1).float().mean() > 0.2  # several standard deviations from every mode
    most = 0.5 * math.log(2 * math.pi * math.e) + math.log(0.25) + math.log(3)  # that q can have
    assert -log_prob.mean() > most + 5
    T, _, _ = draw(q, 20000)
    assert (T - loc.squeeze(1)).abs().amin(-1).max() < 1.5


@pytest.mark.parametrize("K", [1, 2])
def test_gradients_are_exact_across_the_seam_of_the_circle(K):
    """E cos πT = Σ w exp(−π²σ²/2) cos πμ for wrapped Gaussians, most of whose mass is at ±1."""
    logits = torch.tensor([0.3, -0.4][:K], dtype=torch.float64, requires_grad=True)
    loc = torch.tensor([[0.9], [-0.8]][:K], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([[0.3], [0.2]][:K], dtype=torch.float64, requires_grad=True)
    each = (-((math.pi * scale) ** 2) / 2).exp() * (math.pi * loc).cos()
    parameters = (loc, scale) if K == 1 else (logits, loc, scale)
    expected = torch.autograd.grad((logits.softmax(0) * each.squeeze(1)).sum(), parameters)
    periodic = torch.tensor([True])
    q = (
        GaussianMixture(logits, loc, scale, periodic)
        if K > 1
        else Gaussian(loc[0], scale[0], periodic)
    )
    T, _, weights = draw(q, 400000)
    estimated = (weights * (math.pi * T.squeeze(-1)).cos()).sum()
    for a, b in zip(expected, torch.autograd.grad(estimated, parameters), strict=True):
        assert torch.allclose(a, b, atol=0.01)


def test_each_component_gets_as_many_samples_and_the_weights_sum_to_one():
    q = mixture(K=3)
    for samples, drawn in ((1, 3), (3, 3), (4, 6)):
        T, log_prob, weights = draw(q, samples)
        assert T.shape == (drawn, 4, 2) and log_prob.shape == weights.shape == (drawn, 4)
        assert torch.allclose(weights.sum(0), torch.ones(4).double())


@pytest.mark.parametrize("samples", [1, 2, 10])
def test_the_score_function_has_the_exact_gradient(samples):
    """Many repetitions at once: as many independent rows."""
    q, logits = boxes()
    middles = torch.linspace(-0.8, 0.8, 5).double()
    w = q.log_weights.exp()
    expectation = (w * (middles**2 + 0.16 / 12 + 3 + (w / 0.4).log())).sum()
    (expected,) = torch.autograd.grad(expectation, logits)
    rows = 300000 // samples
    T, log_prob, weights = draw(UniformMixture(logits.expand(rows, 5), q.low, q.high), samples)
    assert torch.allclose(weights, torch.tensor(1 / samples).double())
    estimated = (weights * (T.squeeze(-1) ** 2 + 3 + log_prob)).sum() / rows
    (found,) = torch.autograd.grad(estimated, logits)
    assert torch.allclose(found, expected, atol=0.03)


def test_the_others_mean_as_a_baseline_makes_the_score_function_steady():
    """A constant added to f changes no gradient: with a baseline, not even a sample's."""
    q, logits = boxes()
    _, _, weights = draw(q, 8)
    (gradient,) = torch.autograd.grad((weights * 100.0).sum(), logits)
    assert gradient.abs().max() < 1e-9


def test_distributions_of_other_libraries_can_be_drawn():
    low, high = -torch.ones(4, 2), torch.ones(4, 2)
    theirs = pyro.distributions.Uniform(low, high).to_event(1)
    T, log_prob, weights = draw(theirs, 5)
    assert torch.allclose(log_prob, Uniform(low, high).log_prob(T))
    assert torch.equal(weights, torch.full((5, 4), 0.2))

    plain = torch.distributions.Independent(torch.distributions.Normal(low, high), 1)
    assert draw(plain, 5).T.shape == (5, 4, 2)
    flow = zuko.flows.NSF(2, context=3)(torch.randn(4, 3))
    T, log_prob, _ = draw(flow, 5)
    torch.testing.assert_close(log_prob, flow.log_prob(T))


# Scores cannot go stale


def of_every_kind():
    flows = [make(kind, 2)(doubles(5, 4)) for kind in KINDS]
    uniform = Uniform(-torch.ones(5, 2), torch.ones(5, 2))
    crops = UniformMixture(torch.randn(5, 3), -torch.ones(3, 2), torch.ones(3, 2))
    return [*flows, uniform, crops, PointMass(torch.zeros(5, 2))]


def test_a_sample_changed_in_place_is_scored_anew():
    for q in of_every_kind():
        with torch.no_grad():
            T = q.sample((3,)).clone()
            T[..., 0] = 0.9
            assert torch.equal(q.log_prob(T), q.log_prob(T.clone()))


def test_what_lies_outside_the_box_is_an_error_whoever_drew_it():
    for q in of_every_kind():
        with torch.no_grad():
            T = q.sample((3,)).clone()
            T[0, 0, 0] = 1.5
            with pytest.raises(ValueError, match="T: expected coefficients in the box"):
                q.log_prob(T)


@every_kind
def test_a_draws_log_prob_is_what_scoring_its_samples_gives(kind):
    q = make(kind, 3)(doubles(5, 4))
    for T, log_prob, _ in (q.draw(7), q.draw(7)):
        assert torch.allclose(log_prob, q.log_prob(T), atol=1e-6)


# Flows


@every_kind
def test_density_integrates_to_one_on_the_box(kind):
    """By the midpoint rule, in one dimension and in two, for several contexts.

    Affine kinds are integrated along the line, T = tanh z, as they may have peaks at the edges;
    and those in a window over it alone, as they end in a jump.
    """
    for dim, n in ((1, 20000), (2, 200)):
        flow = make(kind, dim, strength=0.15)  # so smooth that the rule is exact enough
        points = (torch.arange(n, dtype=torch.float64) + 0.5) * 2 / n - 1
        weights = torch.full_like(points, 2 / n)
        if kind[0] == "affine":
            line = 12 * points
            points = line.tanh()
            weights = 12 * weights * (1 - points**2)
        grid = torch.cartesian_prod(*[points] * dim).view(-1, 1, dim)
        weights = torch.cartesian_prod(*[weights] * dim).view(-1, 1, dim).prod(-1)
        context = doubles(3, 4)
        if kind[0] == "window":
            middle, width = window_of(flow, context, dim)
            grid = wrap(middle + width * grid)
            weights = weights * width.prod(-1)
        with torch.no_grad():
            density = flow(context).log_prob(grid.expand(-1, 3, -1)).exp()
        assert torch.allclose((density * weights).sum(0), torch.ones(3).double(), atol=2e-3)


@every_kind
def test_density_integrates_to_one_in_six_dimensions(kind):
    """By importance sampling from the uniform distribution, within four standard errors."""
    start = {} if kind[1] == "uniform" else {"scale": 0.7}
    flow = make(kind, 6, layers=1, strength=0.1, **start)
    T = in_box(50000, 1, 6)
    with torch.no_grad():
        weights = (flow(doubles(1, 4)).log_prob(T) + 6 * math.log(2)).exp()
    error = weights.std() / len(T) ** 0.5
    assert error < 0.07 and abs(weights.mean() - 1) < 4 * error


@every_circle
def test_the_circle_has_no_seam(kind):
    """+180° and −180° are one point: one density, one slope, and one condition for the others."""
    for dim in (1, 3):
        flow = make(kind, dim)
        T = in_box(6, dim) / 2
        below = T.clone()
        above = T.clone()
        below[:, -1] = 1
        above[:, -1] = -1
        step = torch.zeros(dim, dtype=torch.float64)
        step[-1] = 1e-7
        q = flow(doubles(6, 4))
        with torch.no_grad():
            at_below = q.log_prob(below)
            at_above = q.log_prob(above)
            slope_below = (at_below - q.log_prob(below - step)) / 1e-7
            slope_above = (q.log_prob(above + step) - at_above) / 1e-7
        assert torch.allclose(at_below, at_above, atol=1e-9)
        assert torch.allclose(slope_below, slope_above, atol=1e-3, rtol=1e-3)
    # Nor where splines, base and networks have theirs, somewhere: all the way round, differences
    # between neighbours shrink with their distance. A jump would not.
    for dim in (1, 3):
        T = (in_box(dim) / 2).expand(50000, 1, dim).clone()
        T[..., -1] = (torch.arange(50000, dtype=torch.float64) / 25000 - 1)[:, None]
        with torch.no_grad():
            log_prob = make(kind, dim)(doubles(1, 4)).log_prob(T)
        near = (log_prob - log_prob.roll(1, 0)).abs().max()
        far = (log_prob[::50] - log_prob[::50].roll(1, 0)).abs().max()
        assert near < 0.1 * far


def test_a_turn_of_the_circle_turns_the_distribution():
    """The turn is the last raw parameter of each periodic spline: T moves by it, wrapped."""
    flow = spline_flow(1, 4, base=UniformBase, periodic=[True], bins=5)
    context = torch.randn(3, 4)
    T = 2 * torch.rand(50, 3, 1) - 1
    log_prob = flow(context).log_prob(T)
    with torch.no_grad():
        flow.layers[0].network.third.bias[-1] += 0.7
    assert torch.allclose(flow(context).log_prob(wrap(T + 0.7)), log_prob, atol=1e-4)


@every_kind
def test_samples_follow_the_density(kind):
    """In one dimension: the share of samples in each of 20 bins against the density's integral."""
    q = make(kind, 1)(doubles(1, 4))
    with torch.no_grad():
        samples = q.sample((40000,)).flatten()
        points = (torch.arange(20000, dtype=torch.float64) + 0.5) / 10000 - 1
        density = q.log_prob(points[:, None, None]).exp()
    share = torch.histc(samples, 20, -1, 1) / 40000
    assert (share - density.view(20, 1000).sum(1) / 10000).abs().max() < 5 * 0.5 / 200


@every_kind
def test_entropy_is_at_most_that_of_the_box(kind):
    for dim in (1, 3):
        T, log_prob, weights = make(kind, dim)(doubles(5, 4)).draw(2000)
        assert (T.abs() <= 1).all()
        assert (-(weights * log_prob).sum(0) < dim * math.log(2) + 0.05).all()


@every_kind
def test_gradients_reach_every_parameter_and_the_context(kind):
    flow = make(kind, 3)
    context = doubles(5, 4).requires_grad_()
    T, log_prob, weights = flow(context).draw(4)
    (weights * (log_prob + T.sin().sum(-1))).sum().backward()
    assert context.grad.abs().sum() > 0
    for key, parameter in flow.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, key


@every_kind
def test_gradients_have_gradients(kind):
    """Double backward, against finite differences of the gradient."""
    flow = make(kind, 2)
    parameters = list(flow.parameters())
    context = doubles(2, 4).requires_grad_()

    def gradient(c):
        torch.manual_seed(0)
        T, log_prob, weights = flow(c).draw(2)
        loss = (weights * (log_prob + T.sin().sum(-1))).sum()
        return torch.autograd.grad(loss, parameters[-2], create_graph=True)[0].sum()

    assert torch.autograd.gradcheck(gradient, context, eps=1e-6, atol=1e-4)


@every_kind
def test_contexts_of_a_batch_do_not_mix(kind):
    flow = make(kind, 2)
    context = doubles(6, 4)
    T = in_box(10, 6, 2) / 2
    together = flow(context).log_prob(T)
    for b in range(6):
        assert torch.allclose(together[:, b], flow(context[b]).log_prob(T[:, b]), atol=1e-8)


@every_kind
def test_contexts_broadcast_as_shapes_do(kind):
    """A context of one for many samples is that many equal ones; and none is none."""
    flow = make(kind, 3)
    for shape in ((3, 1), (1, 5), (1, 1), (1,)):
        context = doubles(*shape, 4)
        T = 0.9 * in_box(2, 3, 5, 3)
        expected = flow(context.expand(3, 5, 4)).log_prob(T)
        q = flow(context).expand((3, 5))
        assert torch.allclose(q.log_prob(T), expected, atol=1e-8)
        assert q.sample((2,)).shape == (2, 3, 5, 3)
    assert flow(context[:0]).sample((4,)).shape == (4, 0, 3)


@every_kind
def test_extreme_contexts_stay_finite_in_single_precision(kind):
    flow = make(kind, 3).float()
    context = (1e4 * torch.randn(50, 4)).requires_grad_()
    q = flow(context)
    T, log_prob, weights = q.draw(10)
    (weights * log_prob).sum().backward()
    assert T.isfinite().all() and log_prob.isfinite().all() and context.grad.isfinite().all()
    edge = torch.ones(6, 50, 3)
    for points in [T] if kind[0] == "window" else [T, edge, -edge]:
        assert q.log_prob(points).isfinite().all()


@every_kind
def test_scoring_a_sample_drawn_without_gradients_has_gradients(kind):
    flow = make(kind, 2)
    q = flow(doubles(5, 4))
    gradients = torch.autograd.grad(q.log_prob(q.sample((3,))).sum(), list(flow.parameters()))
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


@every_kind
def test_loaded_weights_make_a_flow_that_is_built_alike_the_same(kind):
    saved = make(kind, 3)
    flow = make(kind, 3)
    flow.load_state_dict(saved.state_dict())
    context = doubles(5, 4)
    T = in_box(5, 3)
    assert torch.equal(flow(context).log_prob(T), saved(context).log_prob(T))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind[2]], ids=name)
def test_a_flow_compiles_whole(kind):
    """Drawing, with its gradient, without a break in the graph; no compiler is needed for that."""
    flow = make(kind, 3)
    context = doubles(5, 4)

    def loss(c):
        T, log_prob, weights = flow(c).draw(3)
        return (weights * (log_prob + T.sin().sum(-1))).sum()

    values = []
    torch.compiler.reset()
    for call in (loss, torch.compile(loss, backend="aot_eager", fullgraph=True)):
        torch.manual_seed(0)
        value = call(context)
        values.append([value, *torch.autograd.grad(value, list(flow.parameters()))])
    for eager, compiled in zip(*values, strict=True):
        assert torch.allclose(eager, compiled, atol=1e-9)


def test_a_flow_works_in_any_pyro_model():
    flow = make(("spline", "uniform", True, False), 2)
    context = doubles(4)
    with pyro.poutine.trace() as trace:
        T = pyro.sample("T", flow(context))
    trace.trace.compute_log_prob()
    expected = flow(context).log_prob(T)
    assert trace.trace.nodes["T"]["log_prob"].item() == pytest.approx(expected.item())


# Where new flows start


def test_a_new_flow_is_near_its_base_whatever_the_context():
    q = spline_flow(3, 4, base=UniformBase)(torch.randn(5, 4))
    log_prob = q.log_prob(torch.rand(5, 3))
    assert torch.allclose(log_prob, torch.tensor(-3 * math.log(2)), atol=0.1)


@pytest.mark.parametrize("periodic", [None, [False, True]])
def test_location_and_scale_of_the_base_are_where_a_new_flow_starts(periodic):
    loc = torch.tensor([0.5, -0.9])
    flow = spline_flow(2, 4, loc=[0.5, -0.9], scale=[0.1, 0.2], periodic=periodic)
    T = flow(torch.randn(1, 4)).sample((4000,))
    off = T.atanh() - loc.atanh()
    if periodic:
        off[..., 1] = wrap(T[..., 1] + 0.9)
    assert torch.allclose(off.std((0, 1)), torch.tensor([0.1, 0.2]), rtol=0.1)
    assert torch.allclose(off.mean((0, 1)), torch.zeros(2), atol=0.05)


@pytest.mark.parametrize("periodic", [None, [False, True]])
def test_a_box_flow_starts_as_the_plain_box(periodic):
    """Its width is half_width; its centre is loc, or (1 − width) of it where nothing wraps."""
    flow = box_flow(2, 4, half_width=[0.1, 0.3], loc=[0.5, -0.9], periodic=periodic)
    T, log_prob, _ = flow(torch.randn(3, 4)).draw(4000)
    centre = torch.tensor([0.45, -0.9 if periodic else -0.63])
    off = wrap(T - centre)
    assert torch.allclose(off.amax((0, 1)), torch.tensor([0.1, 0.3]), atol=0.04)
    assert torch.allclose(off.amin((0, 1)), -torch.tensor([0.1, 0.3]), atol=0.04)
    assert torch.allclose(log_prob, -torch.tensor(0.2 * 0.6).log(), atol=0.3)


def test_a_mixture_starts_spread_evenly_over_the_circle():
    for K in (3, 8):
        q = mixture_flow(1, 4, components=K, periodic=[True], scale=0.05)(torch.randn(3, 4))
        middles = (torch.arange(K) + 0.5) * 2 / K - 1
        with torch.no_grad():
            log_prob = q.log_prob(middles[:, None, None].expand(K, 3, 1))
        peak = -math.log(K * 0.05 * (2 * math.pi) ** 0.5)
        assert torch.allclose(log_prob, torch.tensor(peak), atol=0.3)


@pytest.mark.parametrize("periodic", [None, [False, True]])
def test_wide_bases_have_gradients_too(periodic):
    flow = mixture_flow(2, 4, components=3, scale=[1.5, 0.2], periodic=periodic)
    _, log_prob, weights = flow(torch.randn(5, 4)).draw(3)
    (weights * log_prob).sum().backward()
    assert flow.base.linear.weight.grad.isfinite().all()


def test_the_published_flow_is_twelve_couplings_over_a_mixture():
    flow = coupling_flow(6, 32, base=MixtureBase, components=4)
    assert isinstance(flow(torch.randn(2, 32)), FlowDistribution)
    T, log_prob, _ = flow(torch.randn(2, 32)).draw(4)
    assert T.shape == (4, 2, 6) and log_prob.isfinite().all()
    moved = [layer.network.third.mask.any(-1).sum().item() for layer in flow.layers[:-1]]
    assert len(moved) == 12


def test_bad_input_is_a_one_line_error():
    q = spline_flow(2, 4)(torch.randn(5, 4))
    for bad in (torch.full((5, 2), 1.5), torch.full((5, 2), torch.nan), torch.zeros(5, 3)):
        with pytest.raises(ValueError, match="T: expected coefficients") as error:
            q.log_prob(bad)
        assert "\n" not in str(error.value)
    to_box = ToBox()
    layer = ConditionalLayer(Affine(), [0, 1], 4)
    for call, message in (
        (lambda: spline_flow(2, 4, layers=0), "layers: expected a whole number of 1 or more"),
        (lambda: mixture_flow(2, 4, components=0), "components: expected 1 or more"),
        (lambda: Spline(0), "bins: expected 1 or more"),
        (lambda: spline_flow(2, 4, scale=0.0), "scale: expected positive numbers"),
        (lambda: spline_flow(2, 4, scale=1.5, periodic=[True, False]), "below 1 where periodic"),
        (lambda: spline_flow(2, 4, loc=1.0), "loc: expected numbers inside the box"),
        (lambda: box_flow(2, 4, layers=-1), "layers: expected a whole number of 0 or more"),
        (lambda: box_flow(0, 4, layers=0), "dim: expected a whole number of 1 or more"),
        (lambda: ConditionalFlow(GaussianBase(2, 4), [layer]), "expected them to end in the box"),
        (
            lambda: ConditionalFlow(UniformBase(2, 4), [layer, to_box]),
            "layer 0 starts from the line",
        ),
    ):
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


# A box that the context sets, and a shape inside it


def of_window(dim, wraps, layers=1):
    """A box flow far from where it starts, in float64; if ``wraps``, the last coefficient does."""
    periodic = [False] * (dim - 1) + [wraps]
    flow = box_flow(dim, 4, layers, hidden=16, bins=5, half_width=0.3, periodic=periodic).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return flow


every_window = pytest.mark.parametrize(("dim", "wraps"), [(1, False), (1, True), (2, False)])


@every_window
def test_a_box_flow_integrates_to_one_and_has_no_density_outside_its_window(dim, wraps):
    flow = of_window(dim, wraps)
    context = doubles(1, 4)
    q = flow(context)
    n = 4000 if dim == 1 else 400
    axis = (torch.arange(n, dtype=torch.float64) + 0.5) / n * 2 - 1
    grid = torch.cartesian_prod(*[axis] * dim).reshape(-1, 1, dim)
    with torch.no_grad():
        density = q.log_prob(grid).exp()
        centre, width = flow.layers[-1]._box(context)
    assert density.mean().item() * 2**dim == pytest.approx(1, abs=0.01)
    away = grid - centre
    outside = ((wrap(away) if wraps else away).abs() > width).any(-1)
    assert outside.any() and (density[outside] == 0).all() and (density[~outside] > 0).all()
    T, log_prob, _ = q.draw(50)
    assert torch.allclose(q.log_prob(T), log_prob, atol=1e-6)


def test_without_layers_a_box_flow_is_a_box_for_each_context():
    flow = of_window(2, wraps=False, layers=0)
    context = doubles(5, 4)
    centre, width = flow.layers[-1]._box(context)
    T = in_box(50, 5, 2)
    box = Uniform(centre - width, centre + width)
    assert torch.equal(flow(context).log_prob(T).isfinite(), box.log_prob(T).isfinite())
    inside = flow(context).draw(50).T
    assert torch.allclose(flow(context).log_prob(inside), box.log_prob(inside))


def test_a_window_that_is_no_box_is_a_one_line_error():
    for wrong in ({"half_width": 1.0}, {"half_width": 0.0}, {"loc": 1.0}):
        with pytest.raises(ValueError, match="expected numbers"):
            box_flow(2, 4, **wrong)


def test_a_window_goes_on_across_the_seam():
    """±1 are one point, whose density is not 0 where the window reaches it."""
    flow = make(("window", "uniform", False, True), 2)
    context = doubles(3, 4)
    middle, width = window_of(flow, context, 2)
    ends = [torch.stack([middle[:, 0], torch.full((3,), s).double()], -1) for s in (-1, 1)]
    below, above = (flow(context).log_prob(T) for T in ends)
    reached = wrap(1 - middle[:, 1]).abs() < width[:, 1]
    assert torch.allclose(below, above) and reached.any()
    assert torch.equal(below.isfinite(), reached)


def test_a_window_far_round_the_circle_scores_what_it_draws():
    """In float32 a centre of many turns would leave T less exact than the window's edge."""
    flow = box_flow(1, 4, half_width=0.01, periodic=[True])
    q = flow(1e6 * torch.randn(50, 4))
    assert q.log_prob(q.draw(100).T).isfinite().all()


# What the chapter on flows says of the package


def test_the_slope_of_tanh_does_not_cancel_far_out():
    """log(1 − tanh² u) tends to log 4 − 2 |u|; computed as it stands here it is −∞ from 10 on."""
    u = torch.tensor([[-30.0], [10.0], [20.0], [50.0]])
    T, log_det = ToBox()(u)
    assert torch.allclose(log_det, math.log(4) - 2 * u.abs().squeeze(-1))
    assert (1 - T.square()).log().isinf().all()


@pytest.mark.parametrize("univariate", [Affine(), Spline(7)], ids=["affine", "spline"])
def test_a_layer_takes_whatever_network_makes_its_parameters(univariate):
    """A reader's own, of which a rank that gets zeros stays where it is, as in RealNVP."""

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(1 + 4, univariate.count).double()

        def forward(self, x, context):
            moved = self.linear(torch.cat([x[..., :1], context], -1))
            return torch.stack([torch.zeros_like(moved), moved], -2)

    layer = ConditionalLayer(univariate, ranks=[0, 1], context_dim=4)
    layer.network = Own()
    x, context = 0.9 * in_box(20, 2), doubles(20, 4)
    y, log_det = layer(x, context)
    alone, log_slope = univariate(x[:, 1], layer.network(x, context)[:, 1])
    assert torch.allclose(y, torch.stack([x[:, 0], alone], -1))
    assert torch.allclose(log_det, log_slope)
    assert torch.allclose(layer.inverse(y, context).value, x, atol=1e-8)


@pytest.mark.parametrize("make", [spline_flow, coupling_flow, mixture_flow, box_flow])
@pytest.mark.parametrize("shape", [(3,), (1, 3), (20, 1, 3)])
def test_one_value_is_scored_by_every_q_of_a_batch(make, shape):
    q = make(3, 8)(torch.randn(5, 8))
    value = 0.1 * torch.rand(shape)
    whole = torch.broadcast_shapes(shape, (5, 3))
    torch.testing.assert_close(q.log_prob(value), q.log_prob(value.expand(whole)))
