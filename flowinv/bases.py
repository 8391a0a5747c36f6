"""Base distributions of the flows, and how samples are drawn so that gradients are exact.

A coefficient lives on the line (later sent to [−1, 1] by tanh) or, if it wraps like an angle, on
the circle [−1, 1) whose ends are one point. On the circle a Gaussian is wrapped: its density at x is
the sum of the line's at x + 2m over all whole m.

`draw` is how losses sample a distribution q. Its samples T_s come with weights w_s such that

    Σ_s w_s f(T_s)   and its gradient   estimate   E_q[f(T)]   and its gradient   without bias,

whatever q is: reparametrised samples where q has them, one sample a component where q is a
mixture, and the score function for the rest.

One thing f must be for the first two: continuous, on the circle too. A rotation alone is. That is why only
its coefficient wraps: beside a translation t, (t, 1) and (t, −1) are opposite shifts, f jumps there, and
the gradient of a wrapped coefficient would leave out the density there times the jump.
"""

import math

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints


def wrap(x: Tensor) -> Tensor:
    """x on the circle of length 2, as a number in [−1, 1].

    >>> wrap(torch.tensor([0.5, 1.5, -3.0]))
    tensor([ 0.5000, -0.5000, -1.0000])
    """
    return torch.remainder(x + 1, 2) - 1


class BoxUniform(dist.Uniform):
    """Uniform from `low` to `high`, edges included, where rounding can end; torch's leaves out the upper one."""

    def log_prob(self, value: Tensor) -> Tensor:
        slack = 4 * torch.finfo(value.dtype).eps
        inside = (value >= self.low - slack) & (value <= self.high + slack)
        return torch.where(inside, -(self.high - self.low).log(), -math.inf)


class GaussianMixture(dist.TorchDistribution):
    """Σ_k w_k N(x; μ_k, diag σ_k²), wrapped in the coefficients that are periodic: event shape (D,).

    logits: (…, K) of the weights. loc, scale: (…, K, D). periodic: (D,) bool, or None if none is.

    With K = 1 samples are reparametrised. With more, choosing a component has no derivative, so
    there is no `rsample`: `sample` draws from the density that `log_prob` scores, and `strata` draws
    from every component.

    >>> base = GaussianMixture(torch.zeros(5, 3), torch.randn(5, 3, 2), torch.ones(5, 3, 2))
    >>> x = base.sample((100,))
    >>> x.shape, base.log_prob(x).shape
    (torch.Size([100, 5, 2]), torch.Size([100, 5]))
    """

    arg_constraints = {}
    support = constraints.real_vector
    # Images of a wrapped Gaussian, to each side. With σ ≤ 1 those left out weigh less than 1e-10.
    IMAGES = 3

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor, periodic: Tensor | None = None):
        self.log_weights, self.loc, self.scale, self.periodic = (
            logits.log_softmax(-1),
            loc,
            scale,
            periodic,
        )
        super().__init__(loc.shape[:-2], loc.shape[-1:], validate_args=False)

    @property
    def has_rsample(self) -> bool:
        return self.loc.shape[-2] == 1

    def expand(self, batch_shape, _instance=None):
        D, K = self.event_shape[0], self.loc.shape[-2]
        loc, scale = (x.expand(*batch_shape, K, D) for x in (self.loc, self.scale))
        return GaussianMixture(self.log_weights.expand(*batch_shape, K), loc, scale, self.periodic)

    def _components(self, sample_shape) -> Tensor:
        """A sample of each component: (…, K, D)."""
        x = self.loc + self.scale * torch.randn(
            *sample_shape, *self.loc.shape, dtype=self.loc.dtype, device=self.loc.device
        )
        return x if self.periodic is None else torch.where(self.periodic, wrap(x), x)

    def rsample(self, sample_shape=()) -> Tensor:
        if not self.has_rsample:
            raise NotImplementedError(
                "a mixture has no reparametrised samples: use flowinv.bases.draw"
            )
        return self._components(torch.Size(sample_shape)).squeeze(-2)

    @torch.no_grad()
    def sample(self, sample_shape=()) -> Tensor:
        x = self._components(torch.Size(sample_shape))
        return x.squeeze(-2) if self.has_rsample else self._choose(x, sample_shape)

    def _choose(self, x: Tensor, sample_shape) -> Tensor:
        """One of the components' samples x (…, K, D), drawn by their weights: (…, D)."""
        k = dist.Categorical(logits=self.log_weights, validate_args=False).sample(
            torch.Size(sample_shape)
        )
        return x.gather(-2, k[..., None, None].expand(*k.shape, 1, x.shape[-1])).squeeze(-2)

    def strata(self, n: int) -> tuple[Tensor, Tensor]:
        """n reparametrised samples of each component, (n K, …, D), and their log-weights (n K, …)."""
        x = self._components((n,)).movedim(-2, 1).flatten(0, 1)
        return x, self.log_weights.movedim(-1, 0).repeat(
            n, *[1] * len(self.batch_shape)
        ) - math.log(n)

    def log_prob(self, value: Tensor) -> Tensor:
        z = value.unsqueeze(-2) - self.loc
        log_prob = -0.5 * (z / self.scale) ** 2
        if self.periodic is not None:
            images = 2 * torch.arange(-self.IMAGES, self.IMAGES + 1, device=z.device, dtype=z.dtype)
            z = (wrap(z).unsqueeze(-1) + images) / self.scale.unsqueeze(-1)
            log_prob = torch.where(self.periodic, (-0.5 * z**2).logsumexp(-1), log_prob)
        log_prob = (log_prob - self.scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)
        return (
            log_prob.squeeze(-1)
            if self.has_rsample
            else (log_prob + self.log_weights).logsumexp(-1)
        )


class UniformMixture(dist.TorchDistribution):
    """Σ_k w_k U(low_k, high_k), a mixture of K boxes: event shape (D,).

    logits: (…, K) of the weights. low, high: (K, D). No `rsample`: no derivative leads to the weights.
    """

    arg_constraints = {}
    support = constraints.real_vector
    has_rsample = False

    def __init__(self, logits: Tensor, low: Tensor, high: Tensor):
        self.log_weights, self.low, self.high = logits.log_softmax(-1), low, high
        super().__init__(logits.shape[:-1], low.shape[-1:], validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return UniformMixture(
            self.log_weights.expand(*batch_shape, len(self.low)), self.low, self.high
        )

    @torch.no_grad()
    def sample(self, sample_shape=()) -> Tensor:
        k = dist.Categorical(logits=self.log_weights, validate_args=False).sample(
            torch.Size(sample_shape)
        )
        low, high = self.low[k], self.high[k]
        return low + (high - low) * torch.rand_like(low)

    def log_prob(self, value: Tensor) -> Tensor:
        boxes = BoxUniform(self.low, self.high, validate_args=False)
        return (boxes.log_prob(value.unsqueeze(-2)).sum(-1) + self.log_weights).logsumexp(-1)


def draw(q: dist.Distribution, samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Samples T (S, B, D) of q, their log q(T) (S, B) and weights w (S, B) with Σ_s w_s = 1.

    Weighted sums over s, and their gradients, are unbiased for any continuous function of T and log q(T):

    - reparametrised: w = 1/S, and the gradient flows through T;
    - a mixture: ⌈samples / K⌉ samples of each of the K components, w the component's weight over
      that number. S is then a multiple of K;
    - a point mass: once, S = 1;
    - none of these: w = 1/S in value, with the score ∇log q as its gradient, less the mean of the others'
      losses as a baseline (Kool et al. 2019).
    """
    base = getattr(q, "base_dist", q)
    if isinstance(q, dist.Delta):
        samples = 1
    if q.has_rsample:
        T = q.rsample((samples,))
        log_prob = q.log_prob(T)
        return T, log_prob, torch.full_like(log_prob, 1 / samples)
    if isinstance(base, GaussianMixture):
        x, log_weights = base.strata(math.ceil(samples / base.loc.shape[-2]))
        T = _push(q, x)
        return T, q.log_prob(T), log_weights.exp()
    T = q.sample((samples,))
    log_prob = q.log_prob(T)
    score = log_prob - log_prob.detach()  # 0, with a gradient
    if samples > 1:
        score = (score - score.mean(0)) * samples / (samples - 1)
    return T, log_prob, (1 + score) / samples


def _push(q: dist.TransformedDistribution, x: Tensor) -> Tensor:
    """x, a value of q's base, through q's transforms, which keep it for log_prob."""
    for transform in getattr(q, "transforms", []):
        x = transform(x)
    return x


def draw_hard(q: dist.Distribution, samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """How not to: choose a component, reparametrise it, and take no account of the choice.

    Values are right, but no gradient says that a component should have been chosen more often. Kept
    to show what `draw` mends.
    """
    base = q.base_dist
    T = _push(q, base._choose(base._components((samples,)), (samples,)))
    log_prob = q.log_prob(T)
    return T, log_prob, torch.full_like(log_prob, 1 / samples)


def draw_relaxed(
    q: dist.Distribution, samples: int, temperature: float = 0.5
) -> tuple[Tensor, Tensor, Tensor]:
    """How not to: average the components with soft Gumbel-softmax indicators (Jang et al. 2017).

    A sample can fall between modes, while log q is the mixture's: the two do not belong together, and
    −log q is no entropy. Kept to show what `draw` mends.
    """
    base = q.base_dist
    gumbel = -torch.rand(samples, *base.log_weights.shape, device=base.loc.device).log().neg().log()
    share = F.softmax((base.log_weights + gumbel.to(base.loc.dtype)) / temperature, -1)
    x = (share.unsqueeze(-1) * base._components((samples,))).sum(-2)
    T = _push(q, x)
    log_prob = q.log_prob(T)
    return T, log_prob, torch.full_like(log_prob, 1 / samples)
