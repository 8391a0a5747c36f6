"""Laws of the conditional flows, for every kind that can be composed."""

import itertools
import math

import pyro
import pytest
import torch
import zuko

from flowinv.bases import draw, wrap
from flowinv.flows import ConditionalFlow, ConditionalLayers, affine, spline

KINDS = [
    (univariate, base, coupling, wraps)
    for univariate, base, coupling, wraps in itertools.product(
        ("affine", "spline"), ("gaussian", "uniform", "mixture"), (False, True), (False, True)
    )
    if univariate == "spline" or not wraps
]


def make(kind, dim, context_dim=4, layers=2, strength=0.25, **options):
    """A flow with weights far from the identity, in float64; if anything wraps, the last coefficient does."""
    univariate, base, coupling, wraps = kind
    periodic = [False] * (dim - 1) + [wraps]
    flow = ConditionalFlow(
        dim, context_dim, univariate, base, layers=layers, coupling=coupling, hidden=16, bins=5, components=3,
        periodic=periodic, **options,
    ).double()  # fmt: skip
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.normal_(0, strength)
    return flow


def apart(x, y, kind):
    """The distance of coefficients, the last round the circle where it wraps."""
    difference = x - y
    last = wrap(difference[..., -1:]) if kind[3] else difference[..., -1:]
    return torch.cat([difference[..., :-1], last], -1).abs()


every_kind = pytest.mark.parametrize("kind", KINDS, ids=["-".join(map(str, k)) for k in KINDS])
every_circle = pytest.mark.parametrize(
    "kind", [k for k in KINDS if k[3]], ids=lambda k: "-".join(map(str, k))
)


@pytest.mark.parametrize("univariate", [affine, spline])
def test_univariate_inverse_and_slope(univariate):
    x = torch.rand(1000, dtype=torch.float64, requires_grad=True) * 2 - 1
    params = torch.randn(1000, 2 if univariate is affine else 22, dtype=torch.float64) * 2
    y, log_slope = univariate(x, params)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert torch.allclose(log_slope, slope.log(), atol=1e-8)
    back, log_inverse = univariate(y, params, inverse=True)
    assert torch.allclose(back, x, atol=1e-8) and torch.allclose(log_inverse, -log_slope, atol=1e-6)


def test_the_spline_is_a_bijection_of_the_box_and_zeros_make_it_the_identity():
    x = torch.linspace(-1, 1, 2001, dtype=torch.float64)
    y, log_slope = spline(x, torch.zeros(2001, 16, dtype=torch.float64))
    assert torch.allclose(y, x) and torch.allclose(log_slope, torch.zeros_like(x), atol=1e-12)
    y, _ = spline(x, (torch.randn(16, dtype=torch.float64) * 3).expand(2001, 16))
    assert (y.diff() > 0).all() and y[0] == pytest.approx(-1) and y[-1] == pytest.approx(1)


@every_kind
@pytest.mark.parametrize("dim", [1, 3])
def test_inverse_undoes_forward_and_log_det_is_the_jacobians(kind, dim):
    flow = make(kind, dim)
    transform = flow.layers.condition(torch.randn(4, dtype=torch.float64))
    x = torch.rand(20, dim, dtype=torch.float64) * 1.8 - 0.9
    y = transform(x)
    assert apart(transform.inv(y.clone()), x, kind).max() < 1e-7
    transform(-x)  # the latest call is another one
    log_det = transform.log_abs_det_jacobian(x.clone(), y)
    for i in range(20):
        jacobian = torch.autograd.functional.jacobian(transform, x[i])
        assert log_det[i].item() == pytest.approx(jacobian.det().abs().log().item(), abs=1e-8)


@every_kind
def test_density_integrates_to_one_on_the_box(kind):
    """By the midpoint rule, in one dimension and in two, for several contexts.

    Affine kinds are integrated along the line, T = tanh z, as they may have integrable peaks at the edges.
    """
    for dim, n in ((1, 20000), (2, 200)):
        flow = make(kind, dim, strength=0.15)  # so smooth that the rule is exact enough
        points, weights = (torch.arange(n, dtype=torch.float64) + 0.5) * 2 / n - 1, 2 / n
        if kind[0] == "affine":
            line = 12 * points
            points, weights = line.tanh(), 12 * weights * (1 - line.tanh() ** 2)
        grid = torch.cartesian_prod(*[points] * dim).view(-1, 1, dim)
        weights = (
            torch.cartesian_prod(*[weights * torch.ones_like(points)] * dim)
            .view(-1, 1, dim)
            .prod(-1)
        )
        q = flow(torch.randn(3, 4, dtype=torch.float64))
        with torch.no_grad():
            density = q.log_prob(grid.expand(-1, 3, -1)).exp()
        assert torch.allclose(
            (density * weights).sum(0), torch.ones(3, dtype=torch.float64), atol=2e-3
        )


@every_kind
def test_density_integrates_to_one_in_six_dimensions(kind):
    """By importance sampling from the uniform distribution, within four of its standard errors."""
    flow = make(kind, 6, layers=1, strength=0.1, scale=0.7)
    T = 2 * torch.rand(100000, 1, 6, dtype=torch.float64) - 1
    with torch.no_grad():
        weights = (flow(torch.randn(1, 4, dtype=torch.float64)).log_prob(T) + 6 * math.log(2)).exp()
    error = weights.std() / 100000**0.5
    assert error < 0.05 and abs(weights.mean() - 1) < 4 * error


@every_circle
def test_the_circle_has_no_seam(kind):
    """+180° and −180° are one point: one density, one slope, and one condition for the others."""
    for dim in (1, 3):
        flow = make(kind, dim)
        context = torch.randn(6, 4, dtype=torch.float64)
        T = torch.rand(6, dim, dtype=torch.float64) - 0.5
        below, above = T.clone(), T.clone()
        below[:, -1], above[:, -1] = 1, -1
        step = torch.zeros(dim, dtype=torch.float64)
        step[-1] = 1e-7
        q = flow(context)
        with torch.no_grad():
            assert torch.allclose(q.log_prob(below), q.log_prob(above), atol=1e-9)
            slopes = [
                (q.log_prob(x + s) - q.log_prob(x)) / s[-1]
                for x, s in ((below, -step), (above, step))
            ]
        assert torch.allclose(*slopes, atol=1e-3, rtol=1e-3)
    # Nor where splines, base and networks have theirs, somewhere: all the way round, differences between
    # neighbours shrink with their distance. A jump would not.
    for dim in (1, 3):
        T = (torch.rand(dim, dtype=torch.float64) - 0.5).expand(50000, 1, dim).clone()
        T[..., -1] = (torch.arange(50000, dtype=torch.float64) / 25000 - 1)[:, None]
        with torch.no_grad():
            log_prob = make(kind, dim)(torch.randn(1, 4, dtype=torch.float64)).log_prob(T)
        near, far = ((x - x.roll(1, 0)).abs().max() for x in (log_prob, log_prob[::50]))
        assert near < 0.1 * far


def test_a_turn_of_the_circle_turns_the_distribution():
    """The turn is the last raw parameter of each periodic spline: T moves by it, wrapped."""
    flow = ConditionalFlow(1, 4, base="uniform", periodic=[True], bins=5)
    context = torch.randn(3, 4)
    before = flow(context)
    T = torch.rand(50, 3, 1) * 2 - 1
    log_prob = before.log_prob(T)
    with torch.no_grad():
        flow.layers.networks.bias3[0, -1] += 0.7
    assert torch.allclose(flow(context).log_prob(wrap(T + 0.7)), log_prob, atol=1e-4)


@every_kind
def test_samples_follow_the_density(kind):
    """In one dimension: the share of samples in each of 20 bins against the density's integral."""
    flow = make(kind, 1)
    q = flow(torch.randn(1, 4, dtype=torch.float64))
    with torch.no_grad():
        samples = q.sample((40000,)).flatten()
        points = (torch.arange(20000, dtype=torch.float64) + 0.5) / 10000 - 1
        probability = q.log_prob(points[:, None, None]).exp().view(20, 1000).sum(1) / 10000
    share = torch.histc(samples, 20, -1, 1) / 40000
    assert (share - probability).abs().max() < 5 * 0.5 / 40000**0.5


@every_kind
def test_scoring_the_latest_sample_equals_scoring_its_copy(kind):
    q = make(kind, 3)(torch.randn(5, 4, dtype=torch.float64))
    first, second = q.sample((7,)), q.sample((7,))
    cached = q.log_prob(second)
    assert cached.shape == (7, 5)
    assert torch.allclose(cached, q.log_prob(second.clone()), atol=1e-6)
    assert torch.allclose(q.log_prob(first), q.log_prob(first.clone()), atol=1e-10)


@every_kind
def test_entropy_is_at_most_that_of_the_box(kind):
    for dim in (1, 3):
        q = make(kind, dim)(torch.randn(5, 4, dtype=torch.float64))
        T = q.sample((2000,))
        assert (T.abs() <= 1).all()
        entropy = -q.log_prob(T).mean(0)
        assert (entropy < dim * math.log(2) + 0.05).all()


@every_kind
def test_gradients_reach_every_parameter_and_the_context(kind):
    flow = make(kind, 3)
    context = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    T, log_prob, weights = draw(flow(context), 4)
    (weights * (log_prob + T.sin().sum(-1))).sum().backward()
    assert context.grad.abs().sum() > 0
    for name, parameter in flow.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@every_kind
def test_contexts_of_a_batch_do_not_mix(kind):
    flow = make(kind, 2)
    context = torch.randn(6, 4, dtype=torch.float64)
    T = torch.rand(10, 6, 2, dtype=torch.float64) - 0.5
    together = flow(context).log_prob(T)
    for b in range(6):
        assert torch.allclose(together[:, b], flow(context[b]).log_prob(T[:, b]), atol=1e-8)


@every_kind
def test_extreme_contexts_stay_finite_in_single_precision(kind):
    flow = make(kind, 3).float()
    context = (1e4 * torch.randn(50, 4)).requires_grad_()
    q = flow(context)
    T, log_prob, weights = draw(q, 10)
    (weights * log_prob).sum().backward()
    assert T.isfinite().all() and log_prob.isfinite().all() and context.grad.isfinite().all()
    edge = torch.ones(6, 50, 3)
    assert q.log_prob(edge).isfinite().all() and q.log_prob(-edge).isfinite().all()


def test_single_precision_stays_in_the_box():
    """At the edge, where bins' edges are sums, and next to it."""
    x = torch.tensor([-1, -0.9999999, -0.5, 0.5, 0.9999999, 1]).expand(20000, 6)
    params = torch.randn(20000, 1, 37)
    for inverse in (False, True):
        for periodic in (None, torch.tensor([True])):
            y, log_slope = spline(x, 3 * params.expand(-1, 6, -1), inverse, periodic)
            assert (y.abs() <= 1).all() and log_slope.isfinite().all()


@every_kind
def test_scoring_a_sample_drawn_without_gradients_has_gradients(kind):
    flow = make(kind, 2)
    context = torch.randn(5, 4, dtype=torch.float64)
    q = flow(context)
    T = q.sample((3,))
    parameters = list(flow.parameters())
    gradients = torch.autograd.grad(q.log_prob(T).sum(), parameters)
    again = torch.autograd.grad(flow(context).log_prob(T).sum(), parameters)
    assert all(
        torch.allclose(a, b) and a.abs().sum() > 0 for a, b in zip(gradients, again, strict=True)
    )


def test_a_new_flow_is_near_its_base_whatever_the_context():
    q = ConditionalFlow(3, 4, base="uniform")(torch.randn(5, 4))
    assert torch.allclose(q.log_prob(torch.rand(5, 3)), torch.tensor(-3 * math.log(2)), atol=0.1)


@every_kind
def test_loaded_weights_make_a_flow_that_is_built_alike_the_same(kind, tmp_path):
    saved = make(kind, 3)
    torch.save(saved.state_dict(), tmp_path / "flow.pt")
    flow = make(kind, 3)
    flow.load_state_dict(torch.load(tmp_path / "flow.pt", weights_only=True))
    context, T = torch.randn(5, 4, dtype=torch.float64), torch.rand(5, 3, dtype=torch.float64)
    assert torch.equal(flow(context).log_prob(T), saved(context).log_prob(T))


@pytest.mark.parametrize("periodic", [None, [False, True]])
def test_wide_bases_have_gradients_too(periodic):
    flow = ConditionalFlow(
        2, 4, base="mixture", components=3, layers=0, scale=[1.5, 0.2], periodic=periodic
    )
    T, log_prob, weights = draw(flow(torch.randn(5, 4)), 3)
    (weights * log_prob).sum().backward()
    assert flow.mixture.linear.weight.grad.isfinite().all()


def test_the_layers_work_in_any_pyro_model():
    flow = make(("spline", "uniform", True, False), 2)
    base = pyro.distributions.Uniform(-torch.ones(2).double(), torch.ones(2).double()).to_event(1)
    conditional = pyro.distributions.ConditionalTransformedDistribution(base, [flow.layers])
    context = torch.randn(4, dtype=torch.float64)
    with pyro.poutine.trace() as trace:
        T = pyro.sample("T", conditional.condition(context))
    trace.trace.compute_log_prob()
    assert trace.trace.nodes["T"]["log_prob"].item() == pytest.approx(
        flow(context).log_prob(T.clone()).item()
    )


def test_bad_input_is_a_one_line_error():
    q = ConditionalFlow(2, 4)(torch.randn(5, 4))
    for bad in (torch.full((5, 2), 1.5), torch.full((5, 2), torch.nan), torch.zeros(5, 3)):
        with pytest.raises(ValueError, match="T: expected coefficients") as error:
            q.log_prob(bad)
        assert "\n" not in str(error.value)
    for bad, message in (
        ({"layers": 0}, "a layer unless the base is a mixture"),
        ({"components": 0}, "components of 1 or more"),
        ({"univariate": "quadratic"}, "expected univariate in affine, spline"),
        ({"base": "cauchy"}, "base in uniform, gaussian, mixture"),
        ({"scale": 0.0}, "scale: expected positive numbers"),
        ({"scale": 1.5, "periodic": [True, False]}, "below 1 where periodic"),
        ({"loc": 1.0}, "loc: expected numbers inside the box"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            ConditionalFlow(2, 4, **bad)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("periodic", [None, [False, True]])
def test_location_and_scale_of_the_base_are_where_a_new_flow_starts(periodic):
    loc, scale = [0.5, -0.9], [0.1, 0.2]
    flow = ConditionalFlow(2, 4, loc=loc, scale=scale, periodic=periodic)
    T = flow(torch.randn(1, 4)).sample((4000,))
    line = T.atanh() - torch.tensor(loc).atanh()
    off = line if periodic is None else torch.stack([line[..., 0], wrap(T[..., 1] + 0.9)], -1)
    assert torch.allclose(off.std((0, 1)), torch.tensor(scale), rtol=0.1)
    assert torch.allclose(off.mean((0, 1)), torch.zeros(2), atol=0.05)


def test_a_mixture_starts_spread_evenly_over_the_circle():
    for K in (3, 8):
        flow = ConditionalFlow(1, 4, base="mixture", components=K, periodic=[True], scale=0.05)
        q = flow(torch.randn(3, 4))
        middles = (torch.arange(K) + 0.5) * 2 / K - 1
        with torch.no_grad():
            log_prob = q.log_prob(middles[:, None, None].expand(K, 3, 1))
        assert torch.allclose(
            log_prob, torch.tensor(-math.log(K * 0.05 * (2 * math.pi) ** 0.5)), atol=0.3
        )


def as_zuko(params):
    """Our raw parameters of one spline as zuko's, which bounds and normalises them in another way."""
    K, slope = params.shape[-1] // 3, 1e-9
    widths, heights, slopes = params.split([K, K, K + 1], -1)
    raw = []
    for x in (widths, heights):
        share = (1e-3 + (1 - 1e-3 * K) * x.softmax(-1)).log()
        share = share - share.mean(-1, keepdim=True)
        raw.append(share / (1 - (2 * share / math.log(slope)).abs()))
    inner = 6 * torch.tanh(slopes[..., 1:-1] / 6)
    raw.append(inner / (1 - (inner / math.log(slope)).abs()))
    return zuko.transforms.MonotonicRQSTransform(*raw, bound=1.0, slope=slope)


def test_the_spline_is_zukos():
    """Values, inverse and log-slope, with the end slopes of 1 that zuko's has."""
    params = torch.randn(500, 25, dtype=torch.float64)
    params[:, [16, 24]] = 0
    x = 1.98 * torch.rand(500, dtype=torch.float64) - 0.99
    y, log_slope = spline(x, params)
    theirs, their_slope = as_zuko(params).call_and_ladj(x)
    assert torch.allclose(y, theirs, atol=1e-10) and torch.allclose(
        log_slope, their_slope, atol=1e-8
    )
    assert torch.allclose(spline(y, params, inverse=True)[0], as_zuko(params).inv(y), atol=1e-8)


@pytest.mark.parametrize("univariate", [affine, spline])
def test_layers_are_zukos_with_the_same_weights(univariate):
    """Autoregressive and coupling: the same network makes the parameters, zuko does the rest."""
    P = 2 if univariate is affine else 25

    def element(params):
        if univariate is spline:
            return zuko.transforms.DependentTransform(as_zuko(params), 1)
        log_scale = 2 * torch.tanh(params[..., 0] / 2)
        raw = log_scale / (1 - (log_scale / math.log(1e-3)).abs())
        return zuko.transforms.DependentTransform(
            zuko.transforms.MonotonicAffineTransform(params[..., 1], raw), 1
        )

    for ranks in (torch.arange(4), torch.tensor([0, 1, 0, 1])):
        layer = ConditionalLayers(univariate, P, ranks[None], 3, hidden=16).double()
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.normal_(0, 0.4)
            weight, bias = layer.networks.weight3[0], layer.networks.bias3[0]
            if univariate is spline:  # end slopes of 1
                for d in range(4):
                    weight[[d * P + 16, d * P + 24]], bias[[d * P + 16, d * P + 24]] = 0, 0
            if ranks.max() == 1:  # a coupling as zuko has it: the first rank stays as it is
                for d in (0, 2):
                    weight[d * P : (d + 1) * P], bias[d * P : (d + 1) * P] = 0, 0
        context = torch.randn(3, dtype=torch.float64)
        networks = layer.networks
        conditioned = [tensor[0] for tensor in networks.condition(context[None])]
        at = lambda x: networks(x.unsqueeze(-2), *conditioned).squeeze(-3)  # noqa: B023, E731
        if ranks.max() == 1:

            def meta(x_a):
                full = torch.zeros(*x_a.shape[:-1], 4, dtype=torch.float64)
                full[..., ::2] = x_a
                return element(at(full)[..., 1::2, :])  # noqa: B023

            theirs = zuko.transforms.CouplingTransform(meta, ranks == 0)
        else:
            theirs = zuko.transforms.AutoregressiveTransform(lambda x: element(at(x)), passes=4)  # noqa: B023
        x = 1.9 * torch.rand(50, 4, dtype=torch.float64) - 0.95
        ours = layer.condition(context)
        y = ours(x)
        expected, log_det = theirs.call_and_ladj(x)
        assert torch.allclose(y, expected, atol=1e-9)
        assert torch.allclose(ours.log_abs_det_jacobian(x, y), log_det, atol=1e-7)
        assert torch.allclose(ours.inv(y.clone()), theirs.inv(y), atol=1e-7)


@pytest.mark.parametrize("dim", [1, 3, 6])
@pytest.mark.parametrize("coupling", [False, True])
@pytest.mark.parametrize("samples", [(), (4,), (2, 3)])
def test_the_fast_path_is_layer_by_layer(dim, coupling, samples):
    """Samples, their density, and gradients of every parameter and the context, at the same base sample."""
    fast = make(("affine", "gaussian", coupling, False), dim, layers=3)
    slow = make(("affine", "gaussian", coupling, False), dim, layers=3, fused=False)
    slow.load_state_dict(fast.state_dict())
    results = []
    for flow in (fast, slow):
        context = torch.linspace(-1, 1, 20, dtype=torch.float64).view(5, 4).requires_grad_()
        torch.manual_seed(0)
        q = flow(context)
        T = q.rsample(samples)
        log_prob = q.log_prob(T)
        (T.square().sum(-1) * torch.arange(5) - log_prob.exp()).sum().backward()
        results.append(
            [T, log_prob, context.grad, *(parameter.grad for parameter in flow.parameters())]
        )
    for x, y in zip(*results, strict=True):
        assert torch.allclose(x, y, atol=1e-9)
    assert [passes_through(result[0], "FusedAffineBackward") for result in results] == [True, False]


def passes_through(tensor, name):
    """Whether a node of that name is in the tensor's graph."""
    nodes, seen = [tensor.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            nodes += [parent for parent, _ in node.next_functions]
    return name in {node.name() for node in seen}


@every_kind
def test_contexts_broadcast_as_shapes_do(kind):
    """A context of one for many samples is that many equal ones, wherever the one stands; and none is none."""
    flow = make(kind, 3)
    for shape in ((3, 1), (1, 5), (1, 1), (1,)):
        context = torch.randn(*shape, 4, dtype=torch.float64)
        many = context.expand(3, 5, 4)
        T = 1.8 * torch.rand(2, 3, 5, 3, dtype=torch.float64) - 0.9
        expected = flow(many).log_prob(T)
        assert torch.allclose(flow(context).expand((3, 5)).log_prob(T), expected, atol=1e-8)
        q = flow(context).expand((3, 5))
        T = q.sample((2,))
        assert torch.allclose(q.log_prob(T), flow(many).log_prob(T.clone()), atol=1e-6)
    assert flow(context[:0]).sample((4,)).shape == (4, 0, 3)


def test_transforms_of_torch_func_see_through_the_layers():
    flow = make(("affine", "gaussian", True, False), 3)
    layers = flow.layers.condition(torch.randn(4, dtype=torch.float64))
    x = torch.randn(3, dtype=torch.float64)
    expected = torch.autograd.functional.jacobian(layers, x)
    assert torch.allclose(torch.func.jacrev(layers)(x), expected, atol=1e-10)
