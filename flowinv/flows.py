"""Conditional normalizing flows over the box [−1, 1]^D, with exact densities.

A flow sends a simple base variable u through invertible layers that depend on a context c:

    T = (f_L ∘ … ∘ f_1)(u; c),      log q(T | c) = log p(u) − Σ_l log |det ∂f_l/∂x|.

Every layer transforms each coefficient by a monotone function whose parameters a masked network
computes from the context and from the coefficients before it. The box is reached by a map (tanh, or
a spline from the box to itself), never by a clamp, so no probability piles up at the edge.

Sources: Dinh et al. 2017 (affine coupling); Durkan et al. 2019 (rational-quadratic splines);
Germain et al. 2015 (masks); Kingma et al. 2016 (sampling in one pass).
"""

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import constraints, transforms

from .checks import check_coefficients


def affine(x: Tensor, params: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """y = x · exp(s) + t and log dy/dx = s; the inverse with its own log-derivative.

    x: (…). params: (…, 2), raw s and t. s is kept within ±2 smoothly, so that no context, however
    extreme, makes a layer overflow.
    """
    s, t = 2 * torch.tanh(params[..., 0] / 2), params[..., 1]
    return ((x - t) * torch.exp(-s), -s) if inverse else (x * torch.exp(s) + t, s)


MIN_BIN = 1e-3  # the least width and height of a bin, as a share of the box's


def spline(x: Tensor, params: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """y(x) and log dy/dx of a monotone rational-quadratic spline from [−1, 1] onto itself.

    x: (…) in the box. params: (…, 3K + 1), raw widths (K), heights (K) and slopes (K + 1) of K bins;
    zeros give the identity. Source: Durkan et al. 2019, equations 4 to 8.
    """
    K = params.shape[-1] // 3
    widths, heights, slopes = params.split([K, K, K + 1], -1)
    widths = 2 * (MIN_BIN + (1 - K * MIN_BIN) * widths.softmax(-1))
    heights = 2 * (MIN_BIN + (1 - K * MIN_BIN) * heights.softmax(-1))
    slopes = torch.exp(6 * torch.tanh(slopes / 6))
    # Right edges of the bins: a value's bin is the number of inner edges at or below it.
    edges = (heights if inverse else widths).cumsum(-1)[..., :-1] - 1
    bin = (x.unsqueeze(-1) >= edges).sum(-1, keepdim=True)

    def at(values: Tensor, index: Tensor) -> Tensor:
        return values.expand(*x.shape, -1).gather(-1, index).squeeze(-1)

    w, h, d0, d1 = at(widths, bin), at(heights, bin), at(slopes, bin), at(slopes, bin + 1)
    x0 = at(F.pad(widths.cumsum(-1), (1, 0)), bin) - 1
    y0 = at(F.pad(heights.cumsum(-1), (1, 0)), bin) - 1
    s = h / w
    if inverse:  # the root of a quadratic, in the form that does not cancel
        r = x - y0
        k = r * (d0 + d1 - 2 * s)
        a, b, c = h * (s - d0) + k, h * d0 - k, -s * r
        z = 2 * c / (-b - (b * b - 4 * a * c).clamp(min=0).sqrt())
    else:
        z = (x - x0) / w
    z = z.clamp(0, 1)  # rounding alone could leave the bin
    denominator = s + (d0 + d1 - 2 * s) * z * (1 - z)
    slope = s * s * (d1 * z * z + 2 * s * z * (1 - z) + d0 * (1 - z) ** 2) / denominator**2
    if inverse:
        return (x0 + w * z).clamp(-1, 1), -slope.log()  # rounding alone could leave the box
    return (y0 + h * (s * z * z + d0 * z * (1 - z)) / denominator).clamp(-1, 1), slope.log()


class MaskedNetwork(nn.Module):
    """h: (x, context) → parameters (…, D, P), where coefficient d's depend on x of lower rank only.

    ranks: (D,) integers from 0. One rank each makes the network autoregressive; two ranks make it
    a coupling. With rank 0, parameters depend on the context alone. A hidden unit of degree m sees
    ranks below m and is seen by ranks from m on (Germain et al. 2015).
    """

    def __init__(self, ranks: Tensor, context_dim: int, params: int, hidden: int):
        super().__init__()
        degrees = torch.arange(hidden) % (ranks.max() + 1)
        self.context = nn.Linear(context_dim, hidden)
        self.first = nn.Linear(len(ranks), hidden, bias=False)
        self.second = nn.Linear(hidden, hidden)
        self.third = nn.Linear(hidden, len(ranks) * params)
        self.register_buffer("mask1", (ranks < degrees[:, None]).float(), persistent=False)
        self.register_buffer("mask2", (degrees <= degrees[:, None]).float(), persistent=False)
        mask3 = (degrees <= ranks[:, None]).float().repeat_interleave(params, 0)
        self.register_buffer("mask3", mask3, persistent=False)
        with torch.no_grad():  # start near the identity: larger hypernetworks diverge in a few steps
            self.third.weight *= 0.01
            self.third.bias *= 0.01

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """context: already through self.context, (…, hidden), once for all samples x (S, …, D)."""
        h = F.leaky_relu(context + F.linear(x, self.first.weight * self.mask1))
        h = F.leaky_relu(F.linear(h, self.second.weight * self.mask2, self.second.bias))
        h = F.linear(h, self.third.weight * self.mask3, self.third.bias)
        return h.unflatten(-1, (x.shape[-1], -1))


class ConditionalLayer(dist.ConditionalTransformModule):
    """y_d = τ(x_d; h_d(x of lower rank, context)), D → D, with τ `affine` or `spline`.

    Sampling (x → y) takes one pass of the network h, scoring (y → x) one pass a rank.

    dim, context_dim: D and the context's size.
    univariate: τ. params: how many numbers τ takes for each coefficient.
    ranks: (D,) which coefficients come first, as MaskedNetwork has it.

    >>> layer = ConditionalLayer(3, 8, affine, 2, ranks=torch.tensor([0, 0, 1]))
    >>> transform = layer.condition(torch.randn(5, 8))  # an ordinary torch transform
    >>> x = torch.randn(100, 5, 3)
    >>> bool(torch.allclose(transform.inv(transform(x).clone()), x, atol=1e-4))
    True
    """

    def __init__(self, dim: int, context_dim: int, univariate, params: int, ranks: Tensor, hidden: int = 64):
        super().__init__()
        self.univariate = univariate
        self.ranks = ranks.tolist()
        self.network = MaskedNetwork(ranks, context_dim, params, hidden)

    def condition(self, context: Tensor) -> transforms.Transform:
        """The layer for context (…, context_dim), as a torch transform of (…, D)."""
        return _ConditionedLayer(self, self.network.context(context))


class _ConditionedLayer(transforms.Transform):
    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, layer: ConditionalLayer, context: Tensor):
        super().__init__(cache_size=1)  # so that scoring the latest sample costs no inverse
        self.layer, self.context = layer, context
        self._latest: tuple = (None, None)  # an x and its log-determinant

    def _call(self, x: Tensor) -> Tensor:
        y, log_slope = self.layer.univariate(x, self.layer.network(x, self.context))
        self._latest = x, log_slope.sum(-1)
        return y

    def _inverse(self, y: Tensor) -> Tensor:
        x = y
        for _ in range(max(self.layer.ranks) + 1):  # after pass r the ranks up to r are right
            x, log_slope = self.layer.univariate(y, self.layer.network(x, self.context), inverse=True)
        self._latest = x, -log_slope.sum(-1)
        return x

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        if self._latest[0] is not x:
            self._call(x)
        return self._latest[1]


class Tanh(transforms.TanhTransform):
    """From the line to the box; the box's very edge, which rounding can reach, has a finite inverse."""

    def _inverse(self, y: Tensor) -> Tensor:
        edge = 1 - torch.finfo(y.dtype).eps
        return torch.atanh(y.clamp(-edge, edge))


class BoxUniform(dist.Uniform):
    """Uniform on the box, edges included: torch's own leaves out the upper one, where rounding can end."""

    def log_prob(self, value: Tensor) -> Tensor:
        return torch.zeros_like(value) - (self.high - self.low).log()


class BoxDistribution(dist.TransformedDistribution):
    """A distribution over the box: scoring what lies outside is an error, not −inf."""

    support = constraints.independent(constraints.interval(-1.0, 1.0), 1)

    def log_prob(self, value: Tensor) -> Tensor:
        if value is not self.transforms[-1]._cached_x_y[1]:  # its own latest sample needs no look
            check_coefficients(value, self.event_shape[0])
        elif torch.is_grad_enabled() and not value.requires_grad:
            value = value.clone()  # drawn without gradients: what sampling kept would cut them here
        return super().log_prob(value)


UNIVARIATE = {"affine": affine, "spline": spline}


class ConditionalFlow(nn.Module):
    """A conditional flow: `flow(context)` is a distribution over the box [−1, 1]^D.

    dim: D. context_dim: size of the context.
    univariate: "spline" (K bins, on the box) or "affine" (on the line, then tanh).
    base: "uniform" on the box, or "gaussian" on the line with standard deviation `scale` (a number,
        or one a coefficient): where a new flow starts. Base and layers that do not live in the same
        space are joined by a tanh or its inverse.
    layers: how many. coupling: two ranks that swap from layer to layer (RealNVP), instead of one
        rank a coefficient, the order reversed from layer to layer (autoregressive). Unlike RealNVP's,
        the first rank moves too, as the context alone tells it; so D = 1 is no special case.
    hidden: width of the networks. bins: K.

    `flow(context)` has batch shape (…) and event shape (D,) for a context (…, context_dim).
    Scoring the latest sample reuses what sampling computed; any other value is inverted, exactly.

    >>> flow = ConditionalFlow(dim=3, context_dim=8)
    >>> q = flow(torch.randn(5, 8))
    >>> T = q.rsample((20,))
    >>> T.shape, q.log_prob(T).shape
    (torch.Size([20, 5, 3]), torch.Size([20, 5]))
    """

    def __init__(
        self, dim: int, context_dim: int, univariate: str = "spline", base: str = "gaussian",
        scale: float | list[float] = 0.3, layers: int = 1, coupling: bool = False, hidden: int = 64, bins: int = 12,
    ):  # fmt: skip
        super().__init__()
        if univariate not in UNIVARIATE or base not in ("uniform", "gaussian"):
            raise ValueError(
                f"flow: expected univariate 'spline' or 'affine' and base 'uniform' or 'gaussian', got {univariate!r} and {base!r}"
            )
        if layers < 1 or dim < 1:
            raise ValueError(f"flow: expected at least one layer and one coefficient, got {layers} and {dim}")
        self.dim, self.kind = dim, f"{univariate}, base {base}, scale {scale}, coupling {coupling}"
        self.register_buffer("scale", torch.as_tensor(scale, dtype=torch.float32).expand(dim).clone())
        self.line_base, self.line_layers = base == "gaussian", univariate == "affine"
        ranks = torch.arange(dim) % 2 if coupling and dim > 1 else torch.arange(dim)
        self.layers = nn.ModuleList(
            ConditionalLayer(
                dim, context_dim, UNIVARIATE[univariate], 2 if self.line_layers else 3 * bins + 1,
                ranks if i % 2 == 0 else ranks.max() - ranks, hidden,
            )
            for i in range(layers)
        )  # fmt: skip

    def extra_repr(self) -> str:
        return self.kind

    def forward(self, context: Tensor) -> BoxDistribution:
        zero = context.new_zeros(*context.shape[:-1], self.dim)
        if self.line_base:
            base = dist.Normal(zero, self.scale, validate_args=False)
        else:
            base = BoxUniform(zero - 1, zero + 1, validate_args=False)
        steps = [layer.condition(context) for layer in self.layers]
        if self.line_base != self.line_layers:
            steps.insert(0, Tanh(cache_size=1) if self.line_base else Tanh(cache_size=1).inv)
        if self.line_layers:
            steps.append(Tanh(cache_size=1))
        return BoxDistribution(base.to_event(1), steps, validate_args=False)
