"""Conditional normalizing flows over the box [−1, 1]^D, with exact densities.

A flow sends a simple base variable u through invertible layers that depend on a context c::

    T = (f_L ∘ … ∘ f_1)(u; c),      log q(T | c) = log p(u | c) − Σ_l log |det ∂f_l/∂x|.

The box is reached by a map (tanh, or a spline from the box to itself), never by a clamp, so no
probability piles up at the edge. To a spline, a coefficient that wraps is a point of a circle:
nothing marks the place where it is cut.

Sources: Dinh et al. 2017 (affine coupling); Durkan et al. 2019 (rational-quadratic splines);
Rezende et al. 2020 (circular splines); Kingma et al. 2016 (sampling in one pass).
"""

from collections.abc import Callable, Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..checks import check_context, check_count
from .bases import Base, GaussianBase, MixtureBase, UniformBase
from .box import BoxDistribution, Draw, draw
from .layers import ConditionalLayer, Layer, MaskedNetwork, ToBox, ToLine, Window
from .univariate import Affine, Spline


class FlowDistribution(BoxDistribution):
    """q(T | c): a base distribution pushed through layers, for one context or a batch of them.

    ``draw`` samples and scores in one pass and costs no inverse. ``log_prob`` scores any value of
    the box by the layers' inverses: exactly, but for values that rounding leaves no room beside the
    box's edge (in float32 within about 1e-7 of it), which it takes for ones a little inside.

    Args:
        base: distribution of u, batch shape (…), event shape (D,).
        layers: modules as flowinv.distributions.layers has them.
        context: (…, C).
    """

    def __init__(self, base: dist.TorchDistribution, layers: Sequence[Layer], context: Tensor):
        self.base = base
        self.layers = layers
        self.context = context
        self.has_rsample = base.has_rsample
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def expand(self, batch_shape, _instance=None) -> "FlowDistribution":
        context = self.context.expand(*batch_shape, self.context.shape[-1])
        return FlowDistribution(self.base.expand(batch_shape), self.layers, context)

    def draw(self, samples: int) -> Draw:
        return self.push(draw(self.base, samples))

    def push(self, start: Draw) -> Draw:
        """Samples of the base, with their log-densities, as samples of q."""
        x, log_prob, weights = start
        for layer in self.layers:
            x, log_det = layer(x, self.context)
            log_prob = log_prob - log_det
        return Draw(x, log_prob, weights)

    def rsample(self, sample_shape=()) -> Tensor:
        return self._forward(self.base.rsample(sample_shape))

    def sample(self, sample_shape=()) -> Tensor:
        with torch.no_grad():
            return self._forward(self.base.sample(sample_shape))

    def _forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x, _ = layer(x, self.context)
        return x

    def _score(self, value: Tensor) -> Tensor:
        of_each = torch.broadcast_shapes(value.shape, (*self.batch_shape, *self.event_shape))
        x = value.expand(of_each)
        log_prob = torch.zeros((), dtype=x.dtype, device=x.device)
        for layer in reversed(self.layers):
            x, log_det = layer.inverse(x, self.context)
            log_prob = log_prob + log_det
        return log_prob + self.base.log_prob(x)


class ConditionalFlow(nn.Module):
    """A conditional flow: ``flow(context)`` is a distribution over the box [−1, 1]^D.

    ``spline_flow``, ``box_flow``, ``coupling_flow`` and ``mixture_flow`` compose those that the
    book uses.

    Args:
        base: module of context (…, C) to a distribution, in the space ``base.space``.
        layers: modules that lead from there to the box, one from where the one before it ends.

    Raises:
        ValueError: if the spaces do not join, or the last is not the box.

    Source: see the module.

    Example:
        >>> import torch
        >>> from flowinv.distributions import ConditionalLayer, Spline, UniformBase
        >>> base, layer = UniformBase(3, 8), ConditionalLayer(Spline(), [0, 1, 2], context_dim=8)
        >>> q = ConditionalFlow(base, [layer])(torch.randn(5, 8))
        >>> T, log_prob, weights = q.draw(20)
        >>> bool(torch.allclose(q.log_prob(T), log_prob, atol=1e-3))
        True
    """

    def __init__(self, base: Base, layers: Sequence[Layer]):
        super().__init__()
        space = base.space
        for number, layer in enumerate(layers):
            if layer.domain != space:
                raise ValueError(
                    f"layers: layer {number} starts from {layer.domain}, and what comes before it"
                    f" ends in {space}; put ToBox() or ToLine() in between, with the same periodic"
                )
            space = layer.codomain
        if not space.bounded:
            raise ValueError(f"layers: expected them to end in the box, got {space}; add ToBox()")
        self.base = base
        self.layers = nn.ModuleList(layers)

    @property
    def context_dim(self) -> int | None:
        """The context's size, as the parts of this package that look at it have it."""
        for module in self.modules():
            if isinstance(module, MaskedNetwork):
                return module.context.in_features
            if isinstance(module, MixtureBase | Window):
                return module.linear.in_features
        return None

    def forward(self, context: Tensor, validate: bool = True) -> FlowDistribution:
        """The distribution over the box, batch shape (…), for a context (…, C).

        Args:
            context: what q is conditioned on.
            validate: look at its size and for NaN. On a GPU this waits for the device, so guides
                do without.

        Raises:
            ValueError: it has another size, or numbers that are not finite.
        """
        if validate and not torch.compiler.is_compiling():
            check_context(context, self.context_dim)
        layers: list[Layer] = list(self.layers)  # type: ignore[arg-type]
        return FlowDistribution(self.base(context), layers, context)


def spline_flow(
    dim: int,
    context_dim: int,
    base: Callable[..., Base] = GaussianBase,
    layers: int = 1,
    hidden: int = 64,
    bins: int = 12,
    periodic: Sequence[bool] | None = None,
    **start,
) -> ConditionalFlow:
    """Autoregressive splines on the box; the order of the coefficients turns from layer to layer.

    Args:
        dim: D.
        context_dim: the context's size.
        base: GaussianBase, MixtureBase or UniformBase. The line is joined to the box by a tanh.
        layers: how many.
        hidden: width of the networks.
        bins: of the splines.
        periodic: for each coefficient, whether −1 and 1 are one point; None if none are.
        start: what the base takes: loc, scale, components.

    Example:
        >>> import torch
        >>> flow = spline_flow(dim=3, context_dim=8, periodic=[False, False, True])
        >>> q = flow(torch.randn(5, 8))
        >>> q.batch_shape, q.event_shape, q.draw(20).T.shape
        (torch.Size([5]), torch.Size([3]), torch.Size([20, 5, 3]))
    """
    _check_layers(dim, layers)
    start_module = base(dim, context_dim, periodic=periodic, **start)
    first = [] if start_module.space.bounded else [ToBox(periodic)]
    order = list(range(dim))
    splines = [
        ConditionalLayer(Spline(bins, periodic), _turned(order, i), context_dim, hidden)
        for i in range(layers)
    ]
    return ConditionalFlow(start_module, [*first, *splines])


def box_flow(
    dim: int,
    context_dim: int,
    layers: int = 1,
    hidden: int = 64,
    bins: int = 8,
    half_width: float | Sequence[float] = 0.5,
    loc: float | Sequence[float] = 0.0,
    periodic: Sequence[bool] | None = None,
) -> ConditionalFlow:
    """A box that the context sets, and autoregressive splines that shape the density inside it.

    It starts as the plain box, and contains its rivals: without layers it is one box for each
    context, and with a constant context one for all.

    Args:
        dim: D.
        context_dim: the context's size.
        layers: how many splines; 0 leaves the box.
        hidden: width of their networks.
        bins: of the splines.
        half_width: of the box at the start, one number or one a coefficient, in (0.001, 1).
        loc: where the box starts, as ``Window`` has it.
        periodic: for each coefficient, whether −1 and 1 are one point; None if none are.

    Example:
        >>> import torch
        >>> q = box_flow(dim=2, context_dim=8, half_width=0.1)(torch.randn(5, 8))
        >>> bool(q.draw(100).T.abs().max() < 0.2), q.log_prob(torch.ones(5, 2)).exp()
        (True, tensor([0., 0., 0., 0., 0.], grad_fn=<ExpBackward0>))
    """
    _check_layers(dim, layers, least=0)
    order = list(range(dim))
    splines = [
        ConditionalLayer(Spline(bins), _turned(order, i), context_dim, hidden)
        for i in range(layers)
    ]
    window = Window(dim, context_dim, half_width, loc, periodic)
    return ConditionalFlow(UniformBase(dim, context_dim), [*splines, window])


def coupling_flow(
    dim: int,
    context_dim: int,
    base: Callable[..., Base] = GaussianBase,
    layers: int = 12,
    hidden: int = 64,
    **start,
) -> ConditionalFlow:
    """Affine couplings on the line, then a tanh: the paper's layers.

    Every other coefficient goes first, and the halves swap from layer to layer. An angle is a
    segment to them.

    Args:
        dim: D.
        context_dim: the context's size.
        base: GaussianBase, MixtureBase or UniformBase.
        layers: how many.
        hidden: width of the networks.
        start: what the base takes: loc, scale, components.

    Example:
        >>> import torch
        >>> coupling_flow(dim=6, context_dim=8)(torch.randn(5, 8)).draw(20).log_prob.shape
        torch.Size([20, 5])
    """
    _check_layers(dim, layers)
    start_module = base(dim, context_dim, **start)
    first = [ToLine()] if start_module.space.bounded else []
    halves = [d % 2 for d in range(dim)]
    couplings = [
        ConditionalLayer(Affine(), _turned(halves, i), context_dim, hidden) for i in range(layers)
    ]
    return ConditionalFlow(start_module, [*first, *couplings, ToBox()])


def mixture_flow(
    dim: int,
    context_dim: int,
    components: int = 8,
    periodic: Sequence[bool] | None = None,
    **start,
) -> ConditionalFlow:
    """A mixture of Gaussians for each context, sent to the box by tanh, or wrapped on a circle.

    Args:
        dim: D.
        context_dim: the context's size.
        components: of the mixture; 1 is a single Gaussian.
        periodic: for each coefficient, whether −1 and 1 are one point; None if none are.
        start: loc and scale of MixtureBase.

    Example:
        >>> import torch
        >>> mixture_flow(dim=1, context_dim=8, periodic=[True])(torch.randn(5, 8)).draw(20).T.shape
        torch.Size([24, 5, 1])
    """
    base = MixtureBase(dim, context_dim, components, periodic=periodic, **start)
    return ConditionalFlow(base, [ToBox(periodic)])


def _turned(ranks: list[int], number: int) -> list[int]:
    """The ranks of layer ``number``: as they are, or in reverse in every other layer."""
    last = max(ranks)
    return ranks if number % 2 == 0 else [last - rank for rank in ranks]


def _check_layers(dim: int, layers: int, least: int = 1) -> None:
    check_count("dim", dim)
    check_count("layers", layers, least)
