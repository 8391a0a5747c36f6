"""Distributions that sample and score in one call.

``q.draw(n)`` returns samples T_s, their log q(T_s) and weights w_s such that::

    Σ_s w_s f(T_s)   and its gradient   estimate   E_q[f(T)]   and its gradient   without bias,

whatever q is: reparametrised samples where q has them, one sample a component where q is a mixture,
and the score function for the rest. Nothing is remembered: scores come back with their samples, and
``log_prob`` computes anew, whatever has become of them.

One thing f must be for the first two: continuous, on the circle too. A rotation alone is. That is
why only its coefficient wraps: beside a translation t, (t, 1) and (t, −1) are opposite shifts, f
jumps there, and the gradient of a wrapped coefficient would leave out the density there times the
jump.
"""

import math
from typing import NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from ..checks import check_coefficients
from .univariate import wrap


class Draw(NamedTuple):
    """What ``draw`` returns: T (S, B, D), log_prob (S, B) and weights (S, B), which sum to 1."""

    T: Tensor
    log_prob: Tensor
    weights: Tensor


def draw(q: dist.TorchDistribution, samples: int) -> Draw:
    """Samples of q, their log-densities and weights: ``q.draw(samples)``, or what stands for it.

    Distributions that have no ``draw``, as those of other libraries, are reparametrised where they
    can be, with weights 1/S. For the rest the weights are 1/S in value and have the score ∇log q as
    their gradient, less the mean of the others' losses as a baseline.

    Args:
        q: any distribution with batch shape (B,) and event shape (D,).
        samples: S, how many for each of the batch. A mixture of K components takes ⌈S / K⌉ of each,
            so a multiple of K; a point mass takes one.

    Source: Kool et al. 2019 (the baseline).

    Example:
        >>> T, log_prob, weights = draw(Uniform(-torch.ones(5, 3), torch.ones(5, 3)), samples=20)
        >>> T.shape, log_prob.shape, weights.shape
        (torch.Size([20, 5, 3]), torch.Size([20, 5]), torch.Size([20, 5]))
    """
    if hasattr(q, "draw"):
        return q.draw(samples)
    size = torch.Size((samples,))
    T = q.rsample(size) if q.has_rsample else q.sample(size)
    log_prob = q.log_prob(T)
    return equally_weighted(T, log_prob) if q.has_rsample else weighted_by_score(T, log_prob)


def equally_weighted(T: Tensor, log_prob: Tensor) -> Draw:
    """Reparametrised samples: each weighs 1/S."""
    return Draw(T, log_prob, torch.full_like(log_prob, 1 / len(T)))


def weighted_by_score(T: Tensor, log_prob: Tensor) -> Draw:
    """Samples without a gradient of their own: the weights have the score's."""
    S = len(T)
    score = log_prob - log_prob.detach()  # 0, with a gradient
    if S > 1:
        score = (score - score.mean(0)) * S / (S - 1)
    return Draw(T, log_prob, (1 + score) / S)


class BoxDistribution(dist.TorchDistribution):
    """A distribution over the box [−1, 1]^D: batch shape (B,), event shape (D,).

    Scoring what lies outside the box is an error, not −∞; on a GPU that look waits for the device.
    A subclass has ``_score``, the log-density without the look, and ``draw`` or ``sample``.
    """

    arg_constraints = {}
    support = constraints.independent(constraints.interval(-1.0, 1.0), 1)

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(value), (S, B) for coefficients (S, B, D).

        Raises:
            ValueError: if the value has another D, or lies outside the box.
        """
        check_coefficients(value, self.event_shape[0])
        return self._score(value)

    def _score(self, value: Tensor) -> Tensor:
        raise NotImplementedError


class Uniform(BoxDistribution):
    """Uniform on a box within [−1, 1]^D, edges included, where rounding can end.

    Args:
        low, high: its corners, (…, D).

    Example:
        >>> q = Uniform(torch.tensor([-0.25]), torch.tensor([0.25]))
        >>> q.log_prob(torch.tensor([[0.25], [0.6]]))
        tensor([0.6931,   -inf])
    """

    has_rsample = True

    def __init__(self, low: Tensor, high: Tensor):
        self.low = low
        self.high = high
        super().__init__(low.shape[:-1], low.shape[-1:], validate_args=False)

    def expand(self, batch_shape, _instance=None) -> "Uniform":
        shape = (*batch_shape, *self.event_shape)
        return Uniform(self.low.expand(shape), self.high.expand(shape))

    def entropy(self) -> Tensor:
        """The logarithm of the box's volume, (…)."""
        return (self.high - self.low).log().sum(-1)

    def rsample(self, sample_shape=()) -> Tensor:
        shape = (*sample_shape, *self.low.shape)
        u = torch.rand(shape, dtype=self.low.dtype, device=self.low.device)
        return self.low + (self.high - self.low) * u

    def draw(self, samples: int) -> Draw:
        T = self.rsample((samples,))
        return equally_weighted(T, -self.entropy().expand(T.shape[:-1]))

    def _score(self, value: Tensor) -> Tensor:
        slack = 4 * torch.finfo(value.dtype).eps
        inside = ((value >= self.low - slack) & (value <= self.high + slack)).all(-1)
        return torch.where(inside, -self.entropy(), -math.inf)


class UniformMixture(BoxDistribution):
    """Σ_k w_k U(low_k, high_k), a mixture of K boxes.

    It has no ``rsample``: no derivative leads to the weights.

    Args:
        logits: (…, K), of the weights.
        low, high: the corners, (K, D).
    """

    has_rsample = False

    def __init__(self, logits: Tensor, low: Tensor, high: Tensor):
        self.log_weights = logits.log_softmax(-1)
        self.low = low
        self.high = high
        super().__init__(logits.shape[:-1], low.shape[-1:], validate_args=False)

    def expand(self, batch_shape, _instance=None) -> "UniformMixture":
        log_weights = self.log_weights.expand(*batch_shape, len(self.low))
        return UniformMixture(log_weights, self.low, self.high)

    def sample(self, sample_shape=()) -> Tensor:
        k = _choose(self.log_weights, sample_shape)
        return Uniform(self.low[k], self.high[k]).rsample().detach()

    def draw(self, samples: int) -> Draw:
        T = self.sample((samples,))
        return weighted_by_score(T, self._score(T))

    def _score(self, value: Tensor) -> Tensor:
        boxes = Uniform(self.low, self.high)._score(value.unsqueeze(-2))
        return (boxes + self.log_weights).logsumexp(-1)


class PointMass(BoxDistribution):
    """All mass at one T, (…, D). Drawn once, whatever the number of samples.

    Its log_prob there is 0 by convention; that of a true point mass is infinite.

    Example:
        >>> PointMass(torch.zeros(2, 1)).draw(20).T.shape
        torch.Size([1, 2, 1])
    """

    has_rsample = True

    def __init__(self, T: Tensor):
        self.T = T
        super().__init__(T.shape[:-1], T.shape[-1:], validate_args=False)

    def expand(self, batch_shape, _instance=None) -> "PointMass":
        return PointMass(self.T.expand(*batch_shape, *self.event_shape))

    def rsample(self, sample_shape=()) -> Tensor:
        return self.T.expand(*sample_shape, *self.T.shape)

    def draw(self, samples: int) -> Draw:
        T = self.T.unsqueeze(0)
        zero = T.new_zeros(T.shape[:-1])
        return Draw(T, zero, zero + 1)

    def _score(self, value: Tensor) -> Tensor:
        return torch.where((value == self.T).all(-1), 0.0, -math.inf).to(value.dtype)


class Gaussian(dist.TorchDistribution):
    """N(loc, diag scale²) on the line, wrapped in the coefficients that are periodic.

    On the circle [−1, 1) the density at x is the sum of the line's at x + 2m over all whole m.
    ``log_prob`` takes any value and looks at none.

    Args:
        loc, scale: (…, D).
        periodic: (D,) bool, or None if nothing wraps.

    Source: Mardia and Jupp 2000 (wrapped distributions).

    Example:
        >>> T, log_prob, _ = Gaussian(torch.zeros(5, 2), torch.ones(5, 2)).draw(100)
        >>> T.shape, log_prob.shape
        (torch.Size([100, 5, 2]), torch.Size([100, 5]))
    """

    arg_constraints = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor, periodic: Tensor | None = None):
        self.loc = loc
        self.scale = scale
        self.periodic = periodic
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    def expand(self, batch_shape, _instance=None) -> "Gaussian":
        shape = (*batch_shape, *self.event_shape)
        return Gaussian(self.loc.expand(shape), self.scale.expand(shape), self.periodic)

    def rsample(self, sample_shape=()) -> Tensor:
        return _normal(self.loc, self.scale, self.periodic, sample_shape)

    def draw(self, samples: int) -> Draw:
        T = self.rsample((samples,))
        return equally_weighted(T, self.log_prob(T))

    def log_prob(self, value: Tensor) -> Tensor:
        return _normal_log_prob(value, self.loc, self.scale, self.periodic)


class GaussianMixture(dist.TorchDistribution):
    """Σ_k w_k N(loc_k, diag scale_k²), wrapped in the coefficients that are periodic.

    Choosing a component has no derivative, so there is no ``rsample``. ``sample`` draws from the
    density that ``log_prob`` scores; ``draw`` takes ⌈n / K⌉ reparametrised samples of every
    component, each with its component's weight over that number. ``log_prob`` takes any value and
    looks at none.

    Args:
        logits: (…, K), of the weights.
        loc, scale: (…, K, D).
        periodic: (D,) bool, or None if nothing wraps.

    Example:
        >>> q = GaussianMixture(torch.zeros(5, 3), torch.randn(5, 3, 2), torch.ones(5, 3, 2))
        >>> q.sample((100,)).shape, q.draw(100).T.shape
        (torch.Size([100, 5, 2]), torch.Size([102, 5, 2]))
    """

    arg_constraints = {}
    support = constraints.real_vector
    has_rsample = False

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor, periodic: Tensor | None = None):
        self.log_weights = logits.log_softmax(-1)
        self.loc = loc
        self.scale = scale
        self.periodic = periodic
        super().__init__(loc.shape[:-2], loc.shape[-1:], validate_args=False)

    def expand(self, batch_shape, _instance=None) -> "GaussianMixture":
        K, D = self.loc.shape[-2:]
        loc = self.loc.expand(*batch_shape, K, D)
        scale = self.scale.expand(*batch_shape, K, D)
        return GaussianMixture(self.log_weights.expand(*batch_shape, K), loc, scale, self.periodic)

    def sample(self, sample_shape=()) -> Tensor:
        x = _normal(self.loc, self.scale, self.periodic, sample_shape)
        k = _choose(self.log_weights, sample_shape)[..., None, None]
        return x.gather(-2, k.expand(*k.shape[:-1], x.shape[-1])).squeeze(-2).detach()

    def draw(self, samples: int) -> Draw:
        K = self.loc.shape[-2]
        n = math.ceil(samples / K)
        x = _normal(self.loc, self.scale, self.periodic, (n,)).movedim(-2, 1).flatten(0, 1)
        weights = (self.log_weights.exp() / n).movedim(-1, 0)  # of each component
        return Draw(x, self.log_prob(x), weights.expand(n, *weights.shape).flatten(0, 1))

    def log_prob(self, value: Tensor) -> Tensor:
        components = _normal_log_prob(value.unsqueeze(-2), self.loc, self.scale, self.periodic)
        return (components + self.log_weights).logsumexp(-1)


# Images of a wrapped Gaussian, to each side. With σ ≤ 1 those left out weigh less than 1e-10.
IMAGES = 3


def _normal(loc: Tensor, scale: Tensor, periodic: Tensor | None, sample_shape) -> Tensor:
    shape = (*sample_shape, *loc.shape)
    x = loc + scale * torch.randn(shape, dtype=loc.dtype, device=loc.device)
    return x if periodic is None else torch.where(periodic, wrap(x), x)


def _normal_log_prob(x: Tensor, loc: Tensor, scale: Tensor, periodic: Tensor | None) -> Tensor:
    z = x - loc
    exponent = -0.5 * (z / scale) ** 2
    if periodic is not None:
        images = 2 * torch.arange(-IMAGES, IMAGES + 1, device=z.device, dtype=z.dtype)
        around = (wrap(z).unsqueeze(-1) + images) / scale.unsqueeze(-1)
        exponent = torch.where(periodic, (-0.5 * around**2).logsumexp(-1), exponent)
    return (exponent - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)


def _choose(log_weights: Tensor, sample_shape) -> Tensor:
    """Numbers of components, drawn by their weights (…, K): (S, …)."""
    batch = log_weights.shape[:-1]
    weights = log_weights.exp().reshape(-1, log_weights.shape[-1])
    n = math.prod(sample_shape)
    return torch.multinomial(weights, n, replacement=True).mT.reshape(*sample_shape, *batch)
