"""Conditional normalizing flows over the box [−1, 1]^D, with exact densities.

A flow sends a simple base variable u through invertible layers that depend on a context c:

    T = (f_L ∘ … ∘ f_1)(u; c),      log q(T | c) = log p(u) − Σ_l log |det ∂f_l/∂x|.

Every layer transforms each coefficient by a monotone function whose parameters a masked network
computes from the context and from the coefficients before it. The box is reached by a map (tanh, or
a spline from the box to itself), never by a clamp, so no probability piles up at the edge. To a
spline, a coefficient that wraps is a point of a circle: nothing marks the place where it is cut.

Sources: Dinh et al. 2017 (affine coupling); Durkan et al. 2019 (rational-quadratic splines);
Rezende et al. 2020 (circular splines); Germain et al. 2015 (masks); Kingma et al. 2016 (sampling in
one pass).
"""

import math

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import constraints, transforms

from .bases import BoxUniform, GaussianMixture, wrap
from .checks import check_coefficients
from .fused import LEAK, FusedAffine


def affine(x: Tensor, params: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """y = x · exp(s) + t and log dy/dx = s; the inverse with its own log-derivative.

    x: (…). params: (…, 2), raw s and t. s is kept within ±2 smoothly, so that no context, however
    extreme, makes a layer overflow.
    """
    s, t = 2 * torch.tanh(params[..., 0] / 2), params[..., 1]
    return ((x - t) * torch.exp(-s), -s) if inverse else (x * torch.exp(s) + t, s)


MIN_BIN = 1e-3  # the least width and height of a bin, as a share of the box's


def spline(
    x: Tensor, params: Tensor, inverse: bool = False, periodic: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """y(x) and log dy/dx of a monotone rational-quadratic spline from [−1, 1] onto itself.

    x: (…, D) in the box. params: (…, D, 3K + 1), raw widths (K), heights (K) and slopes (K + 1) of K
    bins; zeros give the identity.
    periodic: (D,) bool. There −1 and 1 are one point with one slope, and the last raw slope is a
    turn instead, in units of the box: y = spline(x) + turn, wrapped.
    Sources: Durkan et al. 2019, equations 4 to 8; Rezende et al. 2020.
    """
    K = params.shape[-1] // 3
    sizes, slopes = params.split([2 * K, K + 1], -1)
    if periodic is not None:
        turn = torch.where(periodic, slopes[..., K], 0.0)
        last = torch.where(periodic, slopes[..., 0], slopes[..., K])
        slopes = torch.cat([slopes[..., :K], last.unsqueeze(-1)], -1)
        if inverse:
            x = torch.where(periodic, wrap(x - turn), x)
    sizes = 2 * MIN_BIN + 2 * (1 - K * MIN_BIN) * sizes.unflatten(-1, (2, K)).softmax(
        -1
    )  # of the bins, along x and y
    slopes = torch.exp(6 * torch.tanh(slopes / 6))
    ends = sizes.cumsum(-1) - 1  # a value's bin is the number of inner ends at or below it
    bin = (x.unsqueeze(-1) >= ends[..., int(inverse), :-1]).sum(-1, keepdim=True)

    here = bin.unsqueeze(-1).expand(*x.shape, 2, 1)
    w, h = sizes.expand(*x.shape, 2, K).gather(-1, here).squeeze(-1).unbind(-1)
    x1, y1 = ends.expand(*x.shape, 2, K).gather(-1, here).squeeze(-1).unbind(-1)
    d0, d1 = slopes.expand(*x.shape, K + 1).gather(-1, torch.cat([bin, bin + 1], -1)).unbind(-1)
    x0, y0 = x1 - w, y1 - h
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
    y = (y0 + h * (s * z * z + d0 * z * (1 - z)) / denominator).clamp(-1, 1)
    if periodic is not None:
        y = torch.where(periodic, wrap(y + turn), y)
    return y, slope.log()


class MaskedNetworks(nn.Module):
    """h_l: (x, context) → parameters (…, D, P) of layer l, where coefficient d's depend on x of lower rank only.

    ranks: (L, D) integers from 0, one row a layer. One rank each makes a network autoregressive; two ranks
    make it a coupling. With rank 0, parameters depend on the context alone. A hidden unit of degree m
    sees ranks below m and is seen by ranks from m on (Germain et al. 2015).

    periodic: (D,) bool. Such an x is seen as (cos πx, sin πx), which knows no seam.

    The weights of all layers are stacked: what the layers need at once is one product.
    """

    def __init__(
        self,
        ranks: Tensor,
        context_dim: int,
        params: int,
        hidden: int,
        periodic: Tensor | None = None,
    ):
        super().__init__()
        degrees = torch.arange(hidden) * (ranks.max() + 1) // hidden
        self.blind = int((degrees == 0).sum())  # so many see no x; they come first
        wrapping = (
            torch.zeros(0, dtype=torch.long) if periodic is None else periodic.nonzero().squeeze(-1)
        )
        self.register_buffer("wrapping", wrapping, persistent=False)
        self.register_buffer("periodic", periodic, persistent=False)
        seen = torch.cat([ranks, ranks[:, wrapping]], -1)
        sizes = (
            (context_dim, hidden),
            (seen.shape[-1], hidden),
            (hidden, hidden),
            (hidden, ranks.shape[-1] * params),
        )
        layers = [
            [nn.Linear(*size) for size in sizes] for _ in ranks
        ]  # each starts as such layers do
        weights, biases = (
            [
                nn.Parameter(torch.stack([getattr(linear, name).detach() for linear in same]))
                for same in zip(*layers)
            ]
            for name in ("weight", "bias")
        )
        self.context_weight, self.weight1, self.weight2, self.weight3 = weights
        self.context_bias, _, self.bias2, self.bias3 = biases  # x and context share one
        self.register_buffer("mask1", (seen[:, None] < degrees[:, None]).float(), persistent=False)
        self.register_buffer("mask2", (degrees <= degrees[:, None]).float(), persistent=False)
        mask3 = (degrees <= ranks[..., None]).float().repeat_interleave(params, 1)
        self.register_buffer("mask3", mask3, persistent=False)
        with (
            torch.no_grad()
        ):  # start near the identity: larger hypernetworks diverge in a few steps
            self.weight3 *= 0.01
            self.bias3 *= 0.01

    def masked(self) -> tuple[Tensor, ...]:
        """Weights and biases of all layers: for the context, then for x, then of the second and third sums."""
        w1, w2, w3 = self.weight1 * self.mask1, self.weight2 * self.mask2, self.weight3 * self.mask3
        return self.context_weight, self.context_bias, w1, w2, self.bias2, w3, self.bias3

    def condition(self, context: Tensor) -> tuple[Tensor, ...]:
        """For context (B, C) and all layers: its share k₁ (L, H, B) of the first sums, and the rest of `masked`."""
        wc, b1, *weights = self.masked()
        k1 = torch.addmm(b1.view(-1, 1), wc.flatten(0, 1), context.mT).unflatten(0, b1.shape)
        return k1, *weights

    def forward(
        self, x: Tensor, k1: Tensor, w1: Tensor, w2: Tensor, b2: Tensor, w3: Tensor, b3: Tensor
    ) -> Tensor:
        """h(x) of one layer, (…, B, D, P), for x (…, B, D) and the layer's part of what `condition` returned."""
        D = x.shape[-1]
        if self.periodic is not None:
            angle = math.pi * x
            sines = angle.index_select(-1, self.wrapping).sin()
            x = torch.cat([torch.where(self.periodic, angle.cos(), x), sines], -1)
        h = F.leaky_relu(F.linear(x, w1) + k1.mT, LEAK)
        h = F.leaky_relu(F.linear(h, w2, b2), LEAK)
        return F.linear(h, w3, b3).unflatten(-1, (D, -1))


class ConditionalLayers(dist.ConditionalTransformModule):
    """L layers y_d = τ(x_d; h_d(x of lower rank, context)), D → D, one after the other, with τ `affine` or `spline`.

    Sampling (x → y) takes one pass of each network h, scoring (y → x) one pass a rank.

    univariate: τ. params: how many numbers τ takes for each coefficient.
    ranks: (L, D), for each layer which coefficients come first. context_dim: the context's size.
    periodic: (D,) which coefficients wrap, or None; only the spline takes such. Both as MaskedNetworks has them.
    fused: whether affine layers go through flowinv.fused where gradients are wanted: the same numbers, faster,
        once differentiable.

    >>> layers = ConditionalLayers(affine, 2, torch.tensor([[0, 0, 1], [1, 1, 0]]), context_dim=8)
    >>> transform = layers.condition(torch.randn(5, 8))  # an ordinary torch transform
    >>> x = torch.randn(100, 5, 3)
    >>> bool(torch.allclose(transform.inv(transform(x).clone()), x, atol=1e-4))
    True
    """

    def __init__(
        self, univariate, params: int, ranks: Tensor, context_dim: int, hidden: int = 64,
        periodic: Tensor | None = None, fused: bool = True,
    ):  # fmt: skip
        super().__init__()
        self.univariate = univariate
        self.ranks = ranks.tolist()
        self.fused = fused and univariate is affine
        self.networks = MaskedNetworks(ranks, context_dim, params, hidden, periodic)

    def condition(self, context: Tensor) -> transforms.Transform:
        """The layers for context (…, context_dim), as a torch transform of (…, D)."""
        return _ConditionedLayers(self, context)


class _ConditionedLayers(transforms.Transform):
    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, layers: ConditionalLayers, context: Tensor):
        super().__init__(cache_size=1)  # so that scoring the latest sample costs no inverse
        self.layers, self.context = layers, context
        self.periodic = (
            {} if layers.networks.periodic is None else {"periodic": layers.networks.periodic}
        )
        self._latest: tuple = (None, None)  # an x and its log-determinant

    def _layer(
        self, conditioned: tuple, x: Tensor, at: Tensor, inverse: bool = False
    ) -> tuple[Tensor, Tensor]:
        """A layer's τ or its inverse at x, with the parameters h(at, context)."""
        params = self.layers.networks(at, *conditioned)
        return self.layers.univariate(x, params, inverse, **self.periodic)

    def _flat(self, x: Tensor) -> tuple[Tensor, Tensor, torch.Size]:
        """x as (S, B, D) and the context as (B, C), for any sample and batch shapes, and those."""
        shape = torch.broadcast_shapes(x.shape[:-1], self.context.shape[:-1])
        samples, batch = (
            shape[: len(shape) - self.context.ndim + 1],
            shape[len(shape) - self.context.ndim + 1 :],
        )
        x = x.expand(*shape, -1).reshape(samples.numel(), batch.numel(), x.shape[-1])
        return (
            x,
            self.context.expand(*batch, -1).reshape(batch.numel(), self.context.shape[-1]),
            shape,
        )

    def _call(self, x: Tensor) -> Tensor:
        (y, context, shape), log_det = self._flat(x), 0.0
        if self.layers.fused and torch.is_grad_enabled() and not _needs_plain_operations(x):
            y, log_det = self._call_fused(y, context)
        else:
            for conditioned in zip(*self.layers.networks.condition(context)):
                y, log_slope = self._layer(conditioned, y, y)
                log_det = log_det + log_slope.sum(-1)
        self._latest = x, log_det.reshape(shape)
        return y.reshape(*shape, y.shape[-1])

    def _call_fused(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        networks = self.layers.networks
        *others, w3, b3 = networks.masked()
        w3, b3 = (
            raw.unflatten(1, (-1, 2)).transpose(1, 2).flatten(1, 2) for raw in (w3, b3)
        )  # all s, then all t
        y, log_det = FusedAffine.apply(x.movedim(-1, 0), context, *others, w3, b3, networks.blind)
        return y.movedim(0, -1), log_det

    def _inverse(self, y: Tensor) -> Tensor:
        (x, context, shape), log_det = self._flat(y), 0.0
        layers = zip(self.layers.ranks, *self.layers.networks.condition(context))
        for ranks, *conditioned in reversed(list(layers)):
            target = x
            for _ in range(max(ranks) + 1):  # after pass r the ranks up to r are right
                x, log_slope = self._layer(conditioned, target, x, inverse=True)
            log_det = log_det - log_slope.sum(-1)
        x = x.reshape(*shape, x.shape[-1])
        self._latest = x, log_det.reshape(shape)
        return x

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        if self._latest[0] is not x:
            self._call(x)
        return self._latest[1]


def _needs_plain_operations(x: Tensor) -> bool:
    """Whether something looks into operations one by one: a compiler, autocast, a transform of torch.func."""
    compiled, autocast = torch.compiler.is_compiling(), torch.is_autocast_enabled(x.device.type)
    return compiled or autocast or torch._C._are_functorch_transforms_active()


class ToBox(transforms.Transform):
    """From the line to the box by tanh; coefficients on the circle are there already.

    The box's very edge, which rounding can reach, has a finite inverse.
    """

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, periodic: Tensor | None = None):
        super().__init__(cache_size=1)
        self.periodic = periodic

    def _on_line(self, there: Tensor, elsewhere: Tensor) -> Tensor:
        return there if self.periodic is None else torch.where(self.periodic, elsewhere, there)

    def _call(self, x: Tensor) -> Tensor:
        return self._on_line(x.tanh(), x)

    def _inverse(self, y: Tensor) -> Tensor:
        edge = 1 - torch.finfo(y.dtype).eps
        return self._on_line(y.clamp(-edge, edge).atanh(), y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        slope = 2 * (
            math.log(2) - x - F.softplus(-2 * x)
        )  # log (1 − tanh² x), without cancellation
        return self._on_line(slope, torch.zeros_like(slope)).sum(-1)


class BoxDistribution(dist.TransformedDistribution):
    """A distribution over the box: scoring what lies outside is an error, not −inf."""

    support = constraints.independent(constraints.interval(-1.0, 1.0), 1)

    def log_prob(self, value: Tensor) -> Tensor:
        latest = self.transforms[-1]._cached_x_y[1] if self.transforms else None
        if value is not latest:  # its own latest sample needs no look
            check_coefficients(value, self.event_shape[0])
        elif torch.is_grad_enabled() and not value.requires_grad:
            value = value.clone()  # drawn without gradients: what sampling kept would cut them here
        return super().log_prob(value)


UNIVARIATE = {"affine": affine, "spline": spline}
BASES = ("uniform", "gaussian", "mixture")


class ConditionalFlow(nn.Module):
    """A conditional flow: `flow(context)` is a distribution over the box [−1, 1]^D.

    dim: D. context_dim: size of the context.
    univariate: "spline" (K bins, on the box) or "affine" (on the line, then tanh).
    base: "uniform" on the box; "gaussian" on the line; or "mixture", `components` Gaussians whose
        weights, locations and scales a linear map of the context shifts. Their locations start
        spread over the circle, or over two scales to each side on the line.
    loc, scale: the Gaussians' centre, in the box, and their standard deviation on the line or circle,
        numbers or one a coefficient: where a new flow starts.
    layers: how many; 0 leaves a mixture as it is. coupling: two ranks that swap from layer to layer
        (RealNVP), instead of one rank a coefficient, the order reversed from layer to layer
        (autoregressive). Unlike RealNVP's, the first rank moves too, as the context alone tells it;
        so D = 1 is no special case.
    hidden: width of the networks. bins: K.
    periodic: for each coefficient, whether −1 and 1 are one point. Gaussians are wrapped there and
        splines circular. Affine layers know the line only: to them it is a segment.
    fused: whether affine layers take the fast path of flowinv.fused, which has gradients but no second ones.

    Base and layers that do not live in the same space are joined by a tanh or its inverse.
    `flow(context)` has batch shape (…) and event shape (D,) for a context (…, context_dim).
    Scoring the latest sample reuses what sampling computed; any other value is inverted, exactly.

    >>> flow = ConditionalFlow(dim=3, context_dim=8, periodic=[False, False, True])
    >>> q = flow(torch.randn(5, 8))
    >>> T = q.rsample((20,))
    >>> T.shape, q.log_prob(T).shape
    (torch.Size([20, 5, 3]), torch.Size([20, 5]))
    """

    def __init__(
        self, dim: int, context_dim: int, univariate: str = "spline", base: str = "gaussian",
        loc: float | list[float] = 0.0, scale: float | list[float] = 0.3, components: int = 8, layers: int = 1,
        coupling: bool = False, hidden: int = 64, bins: int = 12, periodic: list[bool] | tuple[bool, ...] | None = None,
        fused: bool = True,
    ):  # fmt: skip
        super().__init__()
        if univariate not in UNIVARIATE or base not in BASES:
            raise ValueError(
                f"flow: expected univariate in {', '.join(UNIVARIATE)} and base in {', '.join(BASES)}, got {univariate!r} and {base!r}"
            )
        if dim < 1 or components < 1 or layers < (base != "mixture"):
            raise ValueError(
                f"flow: expected dim and components of 1 or more, and a layer unless the base is a mixture, got {dim}, {components} and {layers}"
            )
        self.kind = f"{univariate}, base {base}, loc {loc}, scale {scale}, components {components}, layers {layers}, coupling {coupling}, periodic {periodic}"
        self.dim, self.line_base, self.line_layers = dim, base != "uniform", univariate == "affine"
        wraps = (
            torch.tensor(periodic) if periodic and any(periodic) and not self.line_layers else None
        )
        scale = torch.as_tensor(scale, dtype=torch.float32).expand(dim).clone()
        if not (scale > 0).all() or (wraps is not None and (scale[wraps] >= 1).any()):
            raise ValueError(
                f"scale: expected positive numbers, below 1 where periodic, got {scale.tolist()}"
            )
        loc = torch.as_tensor(loc, dtype=torch.float32).expand(dim).clone()
        if not (loc.abs() < 1).all():
            raise ValueError(
                f"loc: expected numbers inside the box, between -1 and 1, got {loc.tolist()}"
            )
        loc = loc.atanh() if wraps is None else torch.where(wraps, loc, loc.atanh())
        self.register_buffer("periodic", wraps, persistent=False)
        self.register_buffer("loc", loc, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        self.mixture = (
            _MixtureParameters(context_dim, loc, scale, components, wraps)
            if base == "mixture"
            else None
        )
        if layers:
            order = torch.arange(dim) % 2 if coupling and dim > 1 else torch.arange(dim)
            ranks = torch.stack(
                [order if i % 2 == 0 else order.max() - order for i in range(layers)]
            )
            params = 2 if self.line_layers else 3 * bins + 1
            self.layers = ConditionalLayers(
                UNIVARIATE[univariate], params, ranks, context_dim, hidden, wraps, fused
            )
        else:
            self.layers = None

    def extra_repr(self) -> str:
        return self.kind

    def forward(self, context: Tensor) -> BoxDistribution:
        zero = context.new_zeros(*context.shape[:-1], 1, self.dim)
        if self.mixture:
            base = GaussianMixture(*self.mixture(context), self.periodic)
        elif self.line_base:
            base = GaussianMixture(
                zero[..., 0], zero + self.loc, self.scale.expand_as(zero), self.periodic
            )
        else:
            base = BoxUniform(
                zero[..., 0, :] - 1, zero[..., 0, :] + 1, validate_args=False
            ).to_event(1)
        steps = [self.layers.condition(context)] if self.layers else []
        if self.line_base != self.line_layers:
            to_box = ToBox(self.periodic)
            steps.insert(0, to_box if self.line_base else to_box.inv)
        if self.line_layers:
            steps.append(ToBox())
        return BoxDistribution(base, steps, validate_args=False)


class _MixtureParameters(nn.Module):
    """context → (logits (…, K), locations (…, K, D), scales (…, K, D)) of a GaussianMixture."""

    REACH = 3.0  # a scale stays within exp(±3) of where it starts, so that none can vanish

    def __init__(
        self, context_dim: int, loc: Tensor, scale: Tensor, components: int, periodic: Tensor | None
    ):
        super().__init__()
        D, K = len(scale), components
        if D == 1:
            spread = (torch.arange(K)[:, None] + 0.5) / K
        else:  # a Sobol sequence fills the box evenly
            spread = (torch.quasirandom.SobolEngine(D).draw(K) + 1 / (2 * K)).remainder(1)
        place = 2 * spread - 1
        wraps = torch.zeros(D, dtype=torch.bool) if periodic is None else periodic
        self.register_buffer(
            "loc", loc + torch.where(wraps, place, 2 * scale * place), persistent=False
        )
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("wraps", wraps, persistent=False)
        self.split = [0 if K == 1 else K, K * D, K * D]  # a single weight is 1
        self.linear = nn.Linear(context_dim, sum(self.split))
        with torch.no_grad():
            self.linear.weight *= 0.01
            self.linear.bias *= 0.01

    def forward(self, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        K, D = self.loc.shape
        logits, loc, change = self.linear(context).split(self.split, -1)
        change = self.REACH * torch.tanh(change.unflatten(-1, (K, D)) / self.REACH)
        # Positive on the line; between 0 and 1 on the circle, where a Gaussian of 1 is all but uniform.
        start = torch.where(self.wraps, self.scale, 0.5).logit()  # a scale above 1 has none
        scale = torch.where(self.wraps, torch.sigmoid(start + change), self.scale * change.exp())
        if K == 1:
            logits = context.new_zeros(*context.shape[:-1], 1)
        return logits, self.loc + loc.unflatten(-1, (K, D)), scale
