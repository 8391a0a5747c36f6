"""Invertible layers of D coefficients, whose parameters networks compute from the context.

A layer goes both ways, ``forward(x, context)`` and ``inverse(y, context)``, and says which spaces
it leads from and to. A new one is a subclass of ``Layer``.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .univariate import BOX, LINE, Mapped, Space, Univariate, wrap


class Layer(nn.Module):
    """An invertible map of D coefficients, given a context: from ``domain`` to ``codomain``.

    Both ways return the value (…, D) and their own log-determinant (…), that of the Jacobian.
    """

    domain: Space
    codomain: Space

    def forward(self, x: Tensor, context: Tensor) -> Mapped:
        """y and its log-determinant, for x (…, D) and context (…, C)."""
        raise NotImplementedError

    def inverse(self, y: Tensor, context: Tensor) -> Mapped:
        """x and the log-determinant of the way back."""
        raise NotImplementedError


class MaskedLinear(nn.Linear):
    """A linear layer whose weights, (outputs, inputs), count only where the mask is 1.

    Source: Germain et al. 2015.
    """

    mask: Tensor

    def __init__(self, mask: Tensor, bias: bool = True):
        outputs, inputs = mask.shape
        super().__init__(inputs, outputs, bias)
        self.register_buffer("mask", mask.to(self.weight.dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.mask * self.weight, self.bias)


class MaskedNetwork(nn.Module):
    """h: (x, context) → parameters (…, D, P), where those of a coefficient see lower ranks only.

    Two hidden layers. A hidden unit of degree m sees the context and the coefficients of rank below
    m, and is seen by coefficients of rank m or more; so those of rank 0 see the context alone. The
    context's share is computed once an image, whatever the number of samples.

    Args:
        ranks: of the D coefficients, integers from 0. All different, they make the network
            autoregressive; 0 and 1 make it a coupling's.
        count: P, how many parameters a coefficient takes.
        context_dim: the context's size.
        hidden: width of the hidden layers.
        periodic: which coefficients are seen as (cos πx, sin πx), which knows no seam.

    Source: Germain et al. 2015.
    """

    circle: Tensor | None
    wrapping: Tensor

    def __init__(
        self,
        ranks: Sequence[int],
        count: int,
        context_dim: int,
        hidden: int = 64,
        periodic: Sequence[bool] | None = None,
    ):
        super().__init__()
        self.count = count
        rank = torch.as_tensor(ranks)
        circle = torch.tensor(periodic or [False] * len(ranks))
        self.register_buffer("circle", circle if periodic else None, persistent=False)
        self.register_buffer("wrapping", circle.nonzero().squeeze(-1), persistent=False)
        seen = torch.cat([rank, rank[circle]])
        degree = torch.arange(hidden) * (int(rank.max()) + 1) // hidden
        self.context = nn.Linear(context_dim, hidden)
        self.first = MaskedLinear(seen < degree[:, None], bias=False)
        self.second = MaskedLinear(degree <= degree[:, None])
        self.third = MaskedLinear((degree <= rank[:, None]).repeat_interleave(count, 0))
        with torch.no_grad():  # start near the identity: larger networks diverge in a few steps
            self.third.weight.mul_(0.01)
            self.third.bias.mul_(0.01)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """h(x, context), (…, D, P), for x (…, D) and a context whose shape broadcasts to (…, C)."""
        h = F.leaky_relu(self.first(self._without_seam(x)) + self.context(context))
        h = F.leaky_relu(self.second(h))
        return self.third(h).unflatten(-1, (-1, self.count))

    def _without_seam(self, x: Tensor) -> Tensor:
        if self.circle is None:
            return x
        angle = math.pi * x
        sines = angle.index_select(-1, self.wrapping).sin()
        return torch.cat([torch.where(self.circle, angle.cos(), x), sines], -1)


class ConditionalLayer(Layer):
    """Each coefficient by a univariate function, whose parameters see those of lower rank::

        y_d = τ(x_d; h_d(x of lower rank, context)),      log |det ∂y/∂x| = Σ_d log τ′(x_d).

    Forwards it takes one pass of the network, backwards one a rank. Unlike in RealNVP, rank 0 moves
    too, as the context alone tells it; so D = 1 is no special case.

    Args:
        univariate: τ, as ``Affine()`` or ``Spline(bins)``.
        ranks: of the D coefficients, integers from 0: 0, 1, 2, … makes the layer autoregressive,
            zeros and ones a coupling.
        context_dim: the context's size.
        hidden: width of the network.

    Source: Dinh et al. 2017 (coupling); Papamakarios et al. 2017 (autoregressive).

    Example:
        >>> from flowinv.distributions import Affine
        >>> layer = ConditionalLayer(Affine(), ranks=[0, 1, 2], context_dim=8)
        >>> x, context = torch.randn(100, 5, 3), torch.randn(5, 8)
        >>> y, log_det = layer(x, context)
        >>> bool(torch.allclose(layer.inverse(y, context).value, x, atol=1e-5))
        True
    """

    def __init__(
        self, univariate: Univariate, ranks: Sequence[int], context_dim: int, hidden: int = 64
    ):
        super().__init__()
        space = univariate.space
        self.univariate = univariate
        self.passes = max(ranks) + 1
        self.domain = self.codomain = space
        self.network = MaskedNetwork(ranks, univariate.count, context_dim, hidden, space.periodic)

    def forward(self, x: Tensor, context: Tensor) -> Mapped:
        """y (…, D) and its log-determinant (…), for x (…, D) and context (…, C)."""
        y, log_slope = self.univariate(x, self.network(x, context))
        return Mapped(y, log_slope.sum(-1))

    def inverse(self, y: Tensor, context: Tensor) -> Mapped:
        """x and the log-determinant of the way back."""
        x = y
        for _ in range(self.passes):  # after pass r the ranks below r are right
            x, log_slope = self.univariate.inverse(y, self.network(x, context))
        return Mapped(x, log_slope.sum(-1))


class ToBox(Layer):
    """From the line to the box, T = tanh x; coefficients on the circle are there already.

    The box's very edge, which rounding can reach, has a finite inverse.

    Args:
        periodic: for each coefficient, whether it lives on the circle; None if none does.

    Example:
        >>> ToBox()(torch.tensor([[0.0, 20.0]])).value
        tensor([[0., 1.]])
    """

    periodic: Tensor | None

    def __init__(self, periodic: Sequence[bool] | None = None):
        super().__init__()
        self.domain = Space.of(False, periodic)
        self.codomain = Space.of(True, periodic)
        mask = torch.tensor(self.domain.periodic) if self.domain.periodic else None
        self.register_buffer("periodic", mask, persistent=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Mapped:
        """T (…, D) in the box and its log-determinant (…)."""
        return Mapped(self._on_line(x.tanh(), x), self._log_det(x))

    def inverse(self, y: Tensor, context: Tensor | None = None) -> Mapped:
        """x = artanh T and its log-determinant."""
        edge = 1 - torch.finfo(y.dtype).eps
        x = self._on_line(y.clamp(-edge, edge).atanh(), y)
        return Mapped(x, -self._log_det(x))

    def _log_det(self, x: Tensor) -> Tensor:
        slope = 2 * (math.log(2) - x - F.softplus(-2 * x))  # log (1 − tanh² x), not cancelling
        return self._on_line(slope, torch.zeros_like(slope)).sum(-1)

    def _on_line(self, there: Tensor, elsewhere: Tensor) -> Tensor:
        return there if self.periodic is None else torch.where(self.periodic, elsewhere, there)


class ToLine(Layer):
    """From the box to the line, x = artanh T: what ``ToBox()`` does, the other way round."""

    domain = BOX
    codomain = LINE

    def __init__(self):
        super().__init__()
        self.to_box = ToBox()

    def forward(self, x: Tensor, context: Tensor | None = None) -> Mapped:
        """artanh x (…, D) and its log-determinant (…)."""
        return self.to_box.inverse(x)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> Mapped:
        """tanh y and its log-determinant."""
        return self.to_box(y)


class Window(Layer):
    """From the whole box to a part of it, a box again, whose centre and half-widths c, w follow::

        T = c + w u,      log |det ∂T/∂u| = Σ_d log w_d.

    With a uniform base and nothing else it is one learned box for all where the context is constant
    (Augerino), and else one for each image (InstaAug). Layers before it shape the density inside
    the box, at the box's own scale. Values outside have density 0.

    Args:
        dim: D.
        context_dim: the context's size.
        half_width: where the half-widths start, in (0, 1).
        loc: where the centre would start if the box were a point, in the box.
        periodic: for each coefficient, whether it wraps: there the centre goes round the circle,
            and elsewhere (1 − w) times what the context says, so that the box stays inside.

    Source: Benton et al. 2020; Miao et al. 2023.

    Example:
        >>> window = Window(dim=2, context_dim=8, half_width=[0.25, 0.5])
        >>> with torch.no_grad():
        ...     T, log_det = window(torch.ones(5, 2), torch.zeros(5, 8))
        >>> T[0], log_det[0].exp()
        (tensor([0.2500, 0.5000]), tensor(0.1250))
    """

    periodic: Tensor | None
    LEAST = 1e-3  # a box without volume has no density

    def __init__(
        self,
        dim: int,
        context_dim: int,
        half_width: float | Sequence[float] = 0.5,
        loc: float | Sequence[float] = 0.0,
        periodic: Sequence[bool] | None = None,
    ):
        super().__init__()
        self.domain = BOX
        self.codomain = Space.of(True, periodic)
        mask = torch.tensor(self.codomain.periodic) if self.codomain.periodic else None
        self.register_buffer("periodic", mask, persistent=False)
        width = torch.as_tensor(half_width, dtype=torch.float32).expand(dim)
        place = torch.as_tensor(loc, dtype=torch.float32).expand(dim)
        if not ((width > self.LEAST) & (width < 1)).all():
            raise ValueError(
                f"half_width: expected numbers above {self.LEAST} and below 1, got {width.tolist()}"
            )
        if not (place.abs() < 1).all():
            raise ValueError(
                f"loc: expected numbers inside the box, between -1 and 1, got {place.tolist()}"
            )
        self.linear = nn.Linear(context_dim, 2 * dim)
        centre = place.atanh() if mask is None else torch.where(mask, place, place.atanh())
        logit = ((width - self.LEAST) / (1 - self.LEAST)).logit()
        with torch.no_grad():  # start near one box for all contexts
            self.linear.weight.mul_(0.01)
            self.linear.bias.copy_(torch.cat([centre, logit]))

    def forward(self, x: Tensor, context: Tensor) -> Mapped:
        """T (…, D) and its log-determinant (…), for x (…, D) in the box and context (…, C)."""
        centre, width = self._box(context)
        T = centre + width * x
        if self.periodic is not None:
            T = torch.where(self.periodic, wrap(T), T)
        return Mapped(T, width.log().sum(-1).expand(T.shape[:-1]))

    def inverse(self, y: Tensor, context: Tensor) -> Mapped:
        """x and the log-determinant of the way back, −∞ for a value outside the window."""
        centre, width = self._box(context)
        z = y - centre
        if self.periodic is not None:
            z = torch.where(self.periodic, wrap(z), z)
        x = z / width
        outside = (z.abs() - width > 4 * torch.finfo(z.dtype).eps).any(-1)
        log_det = -width.log().sum(-1).expand(z.shape[:-1])
        return Mapped(x.clamp(-1, 1), torch.where(outside, -math.inf, log_det))

    def _box(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Centre and half-widths, (…, D) each."""
        place, logit = self.linear(context).chunk(2, -1)
        width = self.LEAST + (1 - self.LEAST) * logit.sigmoid()
        centre = (1 - width) * place.tanh()
        if self.periodic is not None:
            centre = torch.where(self.periodic, wrap(place), centre)
        return centre, width
