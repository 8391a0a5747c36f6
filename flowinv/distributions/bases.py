"""Base distributions of the flows: modules that make of a context where its samples start.

``base(context)`` is a distribution with batch shape (…) for a context (…, C), event shape (D,), in
the space that the module names.
"""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from .box import Gaussian, GaussianMixture, Uniform
from .univariate import Space

Numbers = float | Sequence[float]  # one for all coefficients, or one for each


class Base(nn.Module):
    """A module of context (…, C) to a distribution over ``space``, batch shape (…)."""

    space: Space

    def forward(self, context: Tensor) -> dist.TorchDistribution:
        """The distribution, event shape (D,)."""
        raise NotImplementedError


class _Starting(Base):
    """A base that starts somewhere: buffers loc (on the line, or the circle), scale, periodic."""

    loc: Tensor
    scale: Tensor
    periodic: Tensor | None

    def __init__(self, dim: int, loc: Numbers, scale: Numbers, periodic: Sequence[bool] | None):
        super().__init__()
        self.space = Space.of(False, periodic)
        wraps = torch.tensor(self.space.periodic) if self.space.periodic else None
        width = torch.as_tensor(scale, dtype=torch.float32).expand(dim).clone()
        if not (width > 0).all() or (wraps is not None and (width[wraps] >= 1).any()):
            raise ValueError(
                f"scale: expected positive numbers, below 1 where periodic, got {width.tolist()}"
            )
        place = torch.as_tensor(loc, dtype=torch.float32).expand(dim).clone()
        if not (place.abs() < 1).all():
            raise ValueError(
                f"loc: expected numbers inside the box, between -1 and 1, got {place.tolist()}"
            )
        on_line = place.atanh()
        place = on_line if wraps is None else torch.where(wraps, place, on_line)
        self.register_buffer("loc", place, persistent=False)
        self.register_buffer("scale", width, persistent=False)
        self.register_buffer("periodic", wraps, persistent=False)


class UniformBase(Base):
    """Uniform on the box, whatever the context.

    Args:
        dim: D.
        context_dim: the context's size, which is not looked at.
        periodic: for each coefficient, whether it wraps; the density is the same.
    """

    def __init__(self, dim: int, context_dim: int, periodic: Sequence[bool] | None = None):
        super().__init__()
        self.dim = dim
        self.space = Space.of(True, periodic)

    def forward(self, context: Tensor) -> Uniform:
        one = context.new_ones(*context.shape[:-1], self.dim)
        return Uniform(-one, one)


class GaussianBase(_Starting):
    """One Gaussian, whatever the context, wrapped in the coefficients that are periodic.

    Args:
        dim: D.
        context_dim: the context's size, which is not looked at.
        loc: where a new flow is centred, in the box.
        scale: its standard deviation on the line, or on the circle.
        periodic: for each coefficient, whether it wraps; None if none does.
    """

    def __init__(
        self,
        dim: int,
        context_dim: int,
        loc: Numbers = 0.0,
        scale: Numbers = 0.3,
        periodic: Sequence[bool] | None = None,
    ):
        super().__init__(dim, loc, scale, periodic)

    def forward(self, context: Tensor) -> Gaussian:
        zero = context.new_zeros(*context.shape[:-1], len(self.scale))
        return Gaussian(zero + self.loc, self.scale.expand_as(zero), self.periodic)


class MixtureBase(_Starting):
    """A mixture of K Gaussians whose weights, locations and scales the context shifts.

    The locations start spread evenly: round the circle, or over two scales to each side of ``loc``
    on the line. K = 1 is a Gaussian that the context moves.

    Args:
        dim: D.
        context_dim: the context's size.
        components: K.
        loc: the middle of where the components start, in the box.
        scale: their standard deviations, where they start.
        periodic: for each coefficient, whether it wraps; None if none does.
    """

    places: Tensor
    wraps: Tensor
    REACH = 3.0  # a scale stays within exp(±3) of where it starts, so that none can vanish

    def __init__(
        self,
        dim: int,
        context_dim: int,
        components: int = 8,
        loc: Numbers = 0.0,
        scale: Numbers = 0.3,
        periodic: Sequence[bool] | None = None,
    ):
        super().__init__(dim, loc, scale, periodic)
        if components < 1:
            raise ValueError(f"components: expected 1 or more, got {components}")
        wraps = torch.zeros(dim, dtype=torch.bool) if self.periodic is None else self.periodic
        self.register_buffer("wraps", wraps, persistent=False)
        K = components
        place = 2 * _evenly(K, dim) - 1
        reach = (2 * self.scale).where(~wraps, 1.0)
        self.register_buffer("places", self.loc + reach * place, persistent=False)
        self.split = [0 if K == 1 else K, K * dim, K * dim]  # a single weight is 1
        self.linear = nn.Linear(context_dim, sum(self.split))
        with torch.no_grad():  # start near one distribution for all contexts
            self.linear.weight.mul_(0.01)
            self.linear.bias.mul_(0.01)

    def forward(self, context: Tensor) -> Gaussian | GaussianMixture:
        K, D = self.places.shape
        logits, shift, change = self.linear(context).split(self.split, -1)
        loc = self.places + shift.unflatten(-1, (K, D))
        scale = self._scale(change.unflatten(-1, (K, D)))
        if K == 1:
            return Gaussian(loc.squeeze(-2), scale.squeeze(-2), self.periodic)
        return GaussianMixture(logits, loc, scale, self.periodic)

    def _scale(self, change: Tensor) -> Tensor:
        """Positive on the line; below 1 on the circle, where a Gaussian of 1 is all but uniform."""
        change = self.REACH * torch.tanh(change / self.REACH)
        start = self.scale.where(self.wraps, 0.5).logit()  # on the line it may be above 1
        return torch.where(self.wraps, torch.sigmoid(start + change), self.scale * change.exp())


def _evenly(K: int, D: int) -> Tensor:
    """K points spread evenly over [0, 1]^D: (K, D)."""
    if D == 1:
        return (torch.arange(K)[:, None] + 0.5) / K
    points = torch.quasirandom.SobolEngine(D).draw(K)
    return (points + 1 / (2 * K)).remainder(1)
