"""Laws of the conditional flows, for every kind that can be composed."""

import itertools
import math

import pyro
import pytest
import torch

from flowinv.flows import ConditionalFlow, affine, spline

KINDS = list(itertools.product(("affine", "spline"), ("gaussian", "uniform"), (False, True)))


def make(kind, dim, context_dim=4, layers=2, strength=0.25):
    """A flow with weights far from the identity, in float64."""
    univariate, base, coupling = kind
    flow = ConditionalFlow(
        dim, context_dim, univariate, base, layers=layers, coupling=coupling, hidden=16, bins=5
    ).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.normal_(0, strength)
    return flow


every_kind = pytest.mark.parametrize("kind", KINDS, ids=["-".join(map(str, k)) for k in KINDS])


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
    for layer in flow.layers:
        transform = layer.condition(torch.randn(4, dtype=torch.float64))
        x = torch.rand(20, dim, dtype=torch.float64) * 1.8 - 0.9
        y = transform(x)
        assert torch.allclose(transform.inv(y.clone()), x, atol=1e-8)
        transform(-x)  # the latest call is another one
        log_det = transform.log_abs_det_jacobian(x.clone(), y)
        for i in range(20):
            jacobian = torch.autograd.functional.jacobian(transform, x[i])
            assert log_det[i].item() == pytest.approx(jacobian.det().abs().log().item(), abs=1e-8)


@every_kind
def test_density_integrates_to_one_on_the_box(kind):
    """By the midpoint rule, in one dimension and in two, for several contexts."""
    for dim, n in ((1, 20000), (2, 200)):
        flow = make(kind, dim, strength=0.15)  # so smooth that the rule is exact enough
        points = (torch.arange(n, dtype=torch.float64) + 0.5) * 2 / n - 1
        grid = torch.cartesian_prod(*[points] * dim).view(-1, 1, dim)
        q = flow(torch.randn(3, 4, dtype=torch.float64))
        with torch.no_grad():
            log_prob = q.log_prob(grid.expand(-1, 3, -1))
        integral = log_prob.exp().sum(0) * (2 / n) ** dim
        assert torch.allclose(integral, torch.ones(3, dtype=torch.float64), atol=2e-3)


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
    first, second = q.rsample((7,)), q.rsample((7,))
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
    q = flow(context)
    T = q.rsample((4,))
    (q.log_prob(T) + T.sin().sum(-1)).sum().backward()
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
    T = q.rsample((10,))
    log_prob = q.log_prob(T)
    log_prob.sum().backward()
    assert T.isfinite().all() and log_prob.isfinite().all() and context.grad.isfinite().all()
    edge = torch.ones(10, 50, 3)
    assert q.log_prob(edge).isfinite().all() and q.log_prob(-edge).isfinite().all()


def test_single_precision_stays_in_the_box():
    """At the edge, where bins' edges are sums, and next to it."""
    x = torch.tensor([-1, -0.9999999, -0.5, 0.5, 0.9999999, 1]).expand(20000, 6)
    params = torch.randn(20000, 1, 37)
    for inverse in (False, True):
        y, log_slope = spline(x, 3 * params.expand(-1, 6, -1), inverse)
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
    assert all(torch.allclose(a, b) and a.abs().sum() > 0 for a, b in zip(gradients, again, strict=True))


def test_a_new_flow_is_near_its_base_whatever_the_context():
    q = ConditionalFlow(3, 4, base="uniform")(torch.randn(5, 4))
    assert torch.allclose(q.log_prob(torch.rand(5, 3)), torch.tensor(-3 * math.log(2)), atol=0.1)


def test_the_weights_alone_make_the_flow(tmp_path):
    torch.save(make(KINDS[0], 3).state_dict(), tmp_path / "flow.pt")
    flow = make(KINDS[0], 3)
    flow.load_state_dict(torch.load(tmp_path / "flow.pt", weights_only=True))
    context, T = torch.randn(5, 4, dtype=torch.float64), torch.rand(5, 3, dtype=torch.float64)
    torch.manual_seed(0)
    assert torch.equal(flow(context).log_prob(T), make(KINDS[0], 3)(context).log_prob(T))


def test_the_layers_work_in_any_pyro_model():
    flow = make(("spline", "uniform", True), 2)
    base = pyro.distributions.Uniform(-torch.ones(2).double(), torch.ones(2).double()).to_event(1)
    conditional = pyro.distributions.ConditionalTransformedDistribution(base, list(flow.layers))
    context = torch.randn(4, dtype=torch.float64)
    with pyro.poutine.trace() as trace:
        T = pyro.sample("T", conditional.condition(context))
    trace.trace.compute_log_prob()
    assert trace.trace.nodes["T"]["log_prob"].item() == pytest.approx(flow(context).log_prob(T.clone()).item())


def test_bad_input_is_a_one_line_error():
    q = ConditionalFlow(2, 4)(torch.randn(5, 4))
    for bad in (torch.full((5, 2), 1.5), torch.full((5, 2), torch.nan), torch.zeros(5, 3)):
        with pytest.raises(ValueError, match="T: expected coefficients") as error:
            q.log_prob(bad)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="at least one layer"):
        ConditionalFlow(2, 4, layers=0)
    with pytest.raises(ValueError, match="expected univariate 'spline' or 'affine'"):
        ConditionalFlow(2, 4, univariate="quadratic")


def test_the_scale_of_the_base_is_where_a_new_flow_starts():
    scale = [0.1, 0.3]
    T = ConditionalFlow(2, 4, scale=scale)(torch.randn(1, 4)).sample((4000,))
    assert torch.allclose(T.atanh().std((0, 1)), torch.tensor(scale), rtol=0.1)
