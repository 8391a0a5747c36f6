"""Laws of the base distributions, and of gradients through them."""

import math

import pyro.distributions as dist
import pytest
import torch

from flowinv.bases import (
    BoxUniform,
    GaussianMixture,
    UniformMixture,
    draw,
    draw_hard,
    draw_relaxed,
    wrap,
)


def mixture(K=3, D=2, periodic=None, batch=(4,)):
    logits, loc = torch.randn(*batch, K).double(), torch.randn(*batch, K, D).double()
    scale = 0.1 + 0.8 * torch.rand(*batch, K, D).double()
    return GaussianMixture(logits, loc, scale, periodic)


def test_wrapping_goes_round_and_stays_in_the_box():
    x = 10 * torch.randn(1000)
    assert (wrap(x).abs() <= 1).all()
    assert torch.allclose((math.pi * wrap(x)).cos(), (math.pi * x).cos(), atol=1e-4)
    assert torch.allclose((math.pi * wrap(x)).sin(), (math.pi * x).sin(), atol=1e-4)


def test_a_uniform_has_its_density_on_its_edges_and_none_outside():
    q = BoxUniform(torch.tensor([-0.5]), torch.tensor([0.5]), validate_args=False)
    x = torch.tensor([[-0.5], [0.0], [0.5], [0.51]])
    assert q.log_prob(x).flatten().tolist() == [0, 0, 0, -math.inf]


@pytest.mark.parametrize("K", [1, 3])
def test_on_the_line_it_is_torchs_mixture(K):
    q = mixture(K)
    components = torch.distributions.Independent(torch.distributions.Normal(q.loc, q.scale), 1)
    theirs = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=q.log_weights), components
    )
    x = 2 * torch.randn(50, 4, 2).double()
    assert torch.allclose(q.log_prob(x), theirs.log_prob(x))


def test_on_the_circle_it_is_the_sum_of_all_its_images():
    q = mixture(periodic=torch.tensor([False, True]))
    x = 2 * torch.rand(50, 4, 2).double() - 1
    far = torch.arange(-30, 31).double() * 2
    images = torch.stack(
        [x[..., :1].expand(*x.shape[:-1], 61), x[..., 1:] + far], -1
    )  # (50, 4, 61, 2)
    line = GaussianMixture(q.log_weights[:, None], q.loc[:, None], q.scale[:, None])
    assert torch.allclose(q.log_prob(x), line.log_prob(images).logsumexp(-1), atol=1e-8)
    T = (torch.arange(4000).double() + 0.5) / 2000 - 1
    q = mixture(D=1, periodic=torch.tensor([True]))
    integral = q.log_prob(T[:, None, None].expand(-1, 4, 1)).exp().mean(0) * 2
    assert torch.allclose(integral, torch.ones(4).double(), atol=1e-8)


@pytest.mark.parametrize("K", [1, 3])
def test_samples_follow_the_density_that_scores_them(K):
    q = mixture(K, D=1, periodic=torch.tensor([True]), batch=())
    samples = q.sample((40000,)).flatten()
    points = (torch.arange(20000).double() + 0.5) / 10000 - 1
    probability = q.log_prob(points[:, None]).exp().view(20, 1000).sum(1) / 10000
    assert (torch.histc(samples, 20, -1, 1) / 40000 - probability).abs().max() < 5 * 0.5 / 200


def test_expanding_makes_copies_that_are_drawn_apart():
    for q in (mixture(periodic=torch.tensor([False, True])), mixture(K=1), boxes(4)[0]):
        more = q.expand((7, 4))
        x = more.sample()
        assert x.shape == (7, 4, q.event_shape[0]) and not torch.equal(x[0], x[1])
        assert torch.allclose(more.log_prob(x), q.log_prob(x))


def test_a_mixture_gives_no_reparametrised_samples():
    """So nothing can draw from one distribution and score another by mistake."""
    assert mixture(K=1).has_rsample and mixture(K=1).rsample((5,)).shape == (5, 4, 2)
    q = mixture()
    assert not q.has_rsample and not boxes(4)[0].has_rsample
    with pytest.raises(NotImplementedError, match="use flowinv.bases.draw"):
        q.rsample((5,))


# E[x²] + E[log q(x)] has a closed form when the components are far apart:
# Σ w (μ² + σ²) + Σ w (log w − log σ − log √(2πe)).


def far_apart():
    logits = torch.tensor([0.3, -0.5, 0.1], dtype=torch.float64, requires_grad=True)
    loc = torch.tensor([[-3.0], [0.5], [4.0]], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([[0.2], [0.25], [0.15]], dtype=torch.float64, requires_grad=True)
    return logits, loc, scale


def exact():
    logits, loc, scale = parameters = far_apart()
    w = logits.softmax(0)
    second = (w * (loc**2 + scale**2).squeeze(1)).sum()
    entropy = (w * (0.5 * math.log(2 * math.pi * math.e) + scale.log().squeeze(1) - w.log())).sum()
    return second - entropy, torch.autograd.grad(second - entropy, parameters)


def estimate(how, samples):
    logits, loc, scale = parameters = far_apart()
    T, log_prob, weights = how(
        dist.TransformedDistribution(GaussianMixture(logits, loc, scale), []), samples
    )
    value = (weights * (T.squeeze(-1) ** 2 + log_prob)).sum(0)
    return value, torch.autograd.grad(value, parameters)


def test_one_sample_a_component_has_the_exact_gradient():
    """The law that makes mixtures trainable: value and all gradients, those of the weights too."""
    value, gradients = exact()
    estimated, estimates = estimate(draw, 300000)
    assert estimated.item() == pytest.approx(value.item(), rel=1e-3)
    for gradient, found in zip(gradients, estimates, strict=True):
        assert torch.allclose(found, gradient, rtol=5e-3, atol=0.02)


@pytest.mark.parametrize("K", [1, 2])
def test_gradients_are_exact_across_the_seam_of_the_circle(K):
    """E cos πT = Σ w exp(−π²σ²/2) cos πμ for wrapped Gaussians, most of whose mass lies around ±1."""
    logits = torch.tensor([0.3, -0.4][:K], dtype=torch.float64, requires_grad=True)
    loc = torch.tensor([[0.9], [-0.8]][:K], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([[0.3], [0.2]][:K], dtype=torch.float64, requires_grad=True)
    w, exact = logits.softmax(0), (-((math.pi * scale) ** 2) / 2).exp() * (math.pi * loc).cos()
    parameters = (loc, scale) if K == 1 else (logits, loc, scale)
    expected = torch.autograd.grad((w * exact.squeeze(1)).sum(), parameters)
    q = dist.TransformedDistribution(GaussianMixture(logits, loc, scale, torch.tensor([True])), [])
    T, _, weights = draw(q, 400000)
    found = torch.autograd.grad((weights * (math.pi * T.squeeze(-1)).cos()).sum(), parameters)
    for a, b in zip(expected, found, strict=True):
        assert torch.allclose(a, b, atol=0.01)


def test_each_component_gets_as_many_samples_and_the_weights_sum_to_one():
    q = mixture(K=3)
    for samples, drawn in ((1, 3), (3, 3), (4, 6)):
        T, log_prob, weights = draw(q, samples)
        assert T.shape == (drawn, 4, 2) and log_prob.shape == weights.shape == (drawn, 4)
        assert torch.allclose(weights.sum(0), torch.ones(4).double())


def test_hard_indicators_do_not_move_the_weights():
    """Their values are right, but what the weights feel of x² is missing."""
    value, gradients = exact()
    estimated, estimates = estimate(draw_hard, 300000)
    assert estimated.item() == pytest.approx(value.item(), rel=1e-2)
    assert torch.allclose(estimates[1], gradients[1], rtol=0.02, atol=0.05)  # locations learn
    assert gradients[0].abs().max() > 2 and estimates[0].abs().max() < 0.1  # weights do not


def test_relaxed_indicators_fall_between_the_modes_and_their_entropy_is_none():
    value, _ = exact()
    logits, loc, scale = far_apart()
    q = dist.TransformedDistribution(GaussianMixture(logits, loc, scale), [])
    T, log_prob, _ = draw_relaxed(q, 20000)
    nearest = (T - loc.squeeze(1)).abs().amin(-1)
    assert (nearest > 1).float().mean() > 0.2  # several standard deviations from every mode
    entropy = (
        0.5 * math.log(2 * math.pi * math.e) + math.log(0.25) + math.log(3)
    )  # more than q can have
    assert -log_prob.mean() > entropy + 5
    T, log_prob, _ = draw(q, 20000)
    assert (T - loc.squeeze(1)).abs().amin(-1).max() < 1.5


def boxes(B=1):
    logits = torch.randn(B, 5, dtype=torch.float64, requires_grad=True)
    edges = torch.linspace(-1, 1, 6, dtype=torch.float64)
    return UniformMixture(logits, edges[:-1, None], edges[1:, None]), logits


def test_a_mixture_of_boxes_is_a_density_and_samples_follow_it():
    q, _ = boxes(3)
    points = ((torch.arange(1000).double() + 0.5) / 500 - 1)[:, None, None].expand(-1, 3, 1)
    assert torch.allclose(q.log_prob(points).exp().mean(0) * 2, torch.ones(3).double())
    share = torch.histc(q.sample((30000,))[:, 1].flatten(), 5, -1, 1) / 30000
    assert torch.allclose(share, q.log_weights[1].exp(), atol=0.02)


@pytest.mark.parametrize("samples", [1, 2, 10])
def test_the_score_function_has_the_exact_gradient(samples):
    """Many repetitions at once: as many independent rows."""
    q, logits = boxes()
    middles, w = torch.linspace(-0.8, 0.8, 5).double(), q.log_weights.exp()
    (expected,) = torch.autograd.grad(
        (w * (middles**2 + 0.16 / 12 + 3 + (w / 0.4).log())).sum(), logits
    )
    rows = 300000 // samples
    T, log_prob, weights = draw(UniformMixture(logits.expand(rows, 5), q.low, q.high), samples)
    assert torch.allclose(weights, torch.tensor(1 / samples).double())
    (found,) = torch.autograd.grad(
        (weights * (T.squeeze(-1) ** 2 + 3 + log_prob)).sum() / rows, logits
    )
    assert torch.allclose(found, expected, atol=0.03)


def test_the_others_mean_as_a_baseline_makes_the_score_function_steady():
    """A constant added to f changes no gradient: with a baseline, not even a sample's."""
    q, logits = boxes()
    T, _, weights = draw(q, 8)
    (gradient,) = torch.autograd.grad((weights * 100.0).sum(), logits)
    assert gradient.abs().max() < 1e-9
