"""Guides q(T | I): what each method believes about the transformations of an image.

A guide is a module whose ``forward(images)`` returns a Pyro distribution with batch shape (B,) and
event shape (D,) over the box [−1, 1]^D. That is all that training, prediction, metrics and plots
know of a method. A new guide is a subclass of ``Guide`` with a constructor and ``distribution``,
and a line in ``GUIDES``; if it has an ``encoder``, training watches that its output varies over
images.
"""

import math
from collections.abc import Callable

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from .checks import Registry, check_images
from .distributions import (
    ConditionalFlow,
    GaussianBase,
    PointMass,
    Uniform,
    UniformBase,
    UniformMixture,
    box_flow,
    coupling_flow,
    mixture_flow,
    spline_flow,
)
from .distributions.bases import Numbers
from .networks import ConvNet, CropNet
from .transforms import Crop, Family


class Guide(nn.Module):
    """What all guides share: they know the family's identity, and look at what they are given.

    Args:
        family: the transformations.
        in_channels: of the images.
    """

    identity: Tensor

    def __init__(self, family: Family, in_channels: int):
        super().__init__()
        self.register_buffer("identity", family.identity, persistent=False)

    def forward(self, images: Tensor) -> dist.TorchDistribution:
        """q(T | I) for images (B, C, H, W), floats in [0, 1].

        Raises:
            ValueError: if they are no such images.
        """
        check_images(images, values=False)
        return self.distribution(images)

    def distribution(self, images: Tensor) -> dist.TorchDistribution:
        """The distribution itself: what a guide is."""
        raise NotImplementedError

    def box(self, half_width: Tensor, batch: int) -> Uniform:
        """Uniform on the whole box, shrunk by ``half_width`` towards the identity."""
        centre = ((1 - half_width) * self.identity).expand(batch, -1)
        return Uniform(centre - half_width, centre + half_width)

    def starting_width(self, half_width: Numbers, largest: float) -> Tensor:
        """One half-width a coefficient, (D,), in (0, largest]."""
        values = torch.as_tensor(half_width, dtype=torch.float32).expand_as(self.identity).clone()
        if not ((values > 0) & (values <= largest)).all():
            raise ValueError(
                f"half_width: expected numbers above 0 and up to {largest:g}, got {values.tolist()}"
            )
        return values


class NoAugmentation(Guide):
    """q(T | I) = δ(T): every image stays as it is.

    Its log_prob there is 0 by convention, so that the KL in the loss is the constant D log 2.

    Example:
        >>> from flowinv.transforms import FAMILIES
        >>> NoAugmentation(FAMILIES["rotation"], 1)(torch.rand(2, 1, 28, 28)).sample()
        tensor([[0.],
                [0.]])
    """

    def distribution(self, images: Tensor) -> PointMass:
        return PointMass(self.identity.to(images.dtype).expand(images.shape[0], -1))


class FixedBox(Guide):
    """q(T | I) uniform on a box that does not depend on the image: ordinary data augmentation.

    Args:
        family, in_channels: as ``Guide`` has them.
        half_width: of the box, one number or one a coefficient, in (0, 1]. More exactly, the box
            that holds everything, shrunk by this factor towards the identity.

    Example:
        >>> from flowinv.transforms import FAMILIES
        >>> q = FixedBox(FAMILIES["rotation"], 1, half_width=0.5)(torch.rand(2, 1, 28, 28))
        >>> q.entropy()
        tensor([0., 0.])
    """

    half_width: Tensor

    def __init__(self, family: Family, in_channels: int, half_width: Numbers = 1.0):
        super().__init__(family, in_channels)
        width = self.starting_width(half_width, largest=1.0)
        self.register_buffer("half_width", width)
        self.made_with = width.tolist()  # a run of another width is another run

    def distribution(self, images: Tensor) -> Uniform:
        return self.box(self.half_width.to(images.dtype), images.shape[0])


class Augerino(Guide):
    """q(T | I) uniform on a box that is learned, one for all images.

    Args:
        family, in_channels: as ``Guide`` has them.
        half_width: where each coefficient's starts, as ``FixedBox`` has it, in (0, 0.999].

    Source: Benton et al. 2020.

    Example:
        >>> from flowinv.transforms import FAMILIES
        >>> q = Augerino(FAMILIES["rotation"], 1, half_width=0.25)(torch.rand(2, 1, 28, 28))
        >>> q.entropy().exp()  # the box's volume
        tensor([0.5000, 0.5000], grad_fn=<ExpBackward0>)
    """

    def __init__(self, family: Family, in_channels: int, half_width: Numbers = 0.5):
        super().__init__(family, in_channels)
        self.logit = nn.Parameter(self.starting_width(half_width, largest=0.999).logit())

    def distribution(self, images: Tensor) -> Uniform:
        return self.box(self.logit.sigmoid().to(images.dtype), images.shape[0])


class InstaAug(Guide):
    """q(T | I) uniform on a box that a network predicts for each image: mean-field.

    Args:
        family, in_channels: as ``Guide`` has them.
        half_width: where each coefficient's starts, as ``FixedBox`` has it, in (0, 0.999], and
            0.001 wider. The box may then move and stretch, within [−1, 1]^D.
        embedding: width of the network's last layer but one.

    Source: Miao et al. 2023.

    Example:
        >>> from flowinv.transforms import FAMILIES
        >>> InstaAug(FAMILIES["affine"], 1)(torch.rand(2, 1, 28, 28)).rsample((20,)).shape
        torch.Size([20, 2, 6])
    """

    def __init__(
        self,
        family: Family,
        in_channels: int,
        half_width: Numbers = 0.5,
        embedding: int = 32,
    ):
        super().__init__(family, in_channels)
        start = self.starting_width(half_width, largest=0.999)
        self.encoder = ConvNet(in_channels, embedding)
        self.head = nn.Linear(embedding, 2 * family.dim)
        with torch.no_grad():  # start close to one box for all
            self.head.weight *= 0.01
            self.head.bias.copy_(torch.cat([(0.9 * family.identity).atanh(), start.logit()]))

    def distribution(self, images: Tensor) -> Uniform:
        centre, width = self.head(self.encoder(images)).chunk(2, -1)
        width = 0.001 + 0.999 * width.sigmoid()  # a box without volume has no density
        centre = (1 - width) * centre.tanh()
        return Uniform(centre - width, centre + width)


class InstaAugCrops(Guide):
    """q(T | I) over 321 preset crops: InstaAug's location-related parametrisation.

    The crops cover 0.375 of the picture's side on a grid of 16×16 places, 0.75 on one of 8×8, and
    all of it. A convolutional network gives each crop its weight from the features inside it.
    Around each preset a crop is uniform in a cell: its tile of the grid, and ±0.1 in width and
    height (0.2 below all of it); so q is a density over the box like any other.

    Args:
        family: the family ``crop``, and no other.
        in_channels: of the images.

    Source: Miao et al. 2023 and its code release.

    Example:
        >>> from flowinv.transforms import FAMILIES
        >>> q = InstaAugCrops(FAMILIES["crop"], 3)(torch.rand(2, 3, 64, 64))
        >>> q.log_weights.shape, q.sample((20,)).shape
        (torch.Size([2, 321]), torch.Size([20, 2, 4]))
    """

    GRIDS = ((16, 0.375), (8, 0.75), (1, 1.0))  # places a side, share of the picture's side
    low: Tensor
    high: Tensor

    def __init__(self, family: Family, in_channels: int):
        super().__init__(family, in_channels)
        if not isinstance(family, Crop):
            raise ValueError(
                "instaaug_crops: expected the family crop, got one of " + ", ".join(family.names)
            )
        self.encoder = CropNet(in_channels, self.GRIDS)
        low = []
        high = []
        for n, share in self.GRIDS:
            edges = torch.linspace(-1, 1, n + 1)
            size = 1 - 2 * math.log(share) / math.log(family.MIN_SIZE)
            sizes = torch.full((n * n, 2), min(size, 0.9))  # the cell ends at 1
            # Rows from top to bottom, as the network's maps are flattened: y first, x within a row.
            lower = torch.cartesian_prod(edges[:-1], edges[:-1]).flip(-1)
            upper = torch.cartesian_prod(edges[1:], edges[1:]).flip(-1)
            low.append(torch.cat([lower, sizes - 0.1], -1))
            high.append(torch.cat([upper, sizes + 0.1], -1))
        self.register_buffer("low", torch.cat(low), persistent=False)
        self.register_buffer("high", torch.cat(high), persistent=False)

    def distribution(self, images: Tensor) -> UniformMixture:
        return UniformMixture(self.encoder(images), self.low, self.high)


class FlowGuide(Guide):
    """q(T | I) a conditional normalizing flow whose context is an embedding of the image.

    Args:
        family, in_channels: as ``Guide`` has them.
        make: a factory (dim, context_dim, …) of the flow.
        embedding: size of the embedding.
        for_all: whether the context is a constant instead: one q for all images. The control that
            separates what q gains from its shape from what it gains from looking at the image.
        encoder: of images to (B, embedding); None: a ``ConvNet``.
        options: of the factory.

    Source: Singhal et al. 2023.
    """

    def __init__(
        self,
        family: Family,
        in_channels: int,
        make: Callable[..., ConditionalFlow],
        embedding: int = 32,
        for_all: bool = False,
        encoder: nn.Module | None = None,
        **options,
    ):
        super().__init__(family, in_channels)
        self.context_dim = embedding
        self.encoder = None if for_all else encoder or ConvNet(in_channels, embedding)
        if options.get("base", GaussianBase) is not UniformBase:  # which starts nowhere
            options.setdefault("loc", (0.8 * family.identity).tolist())
        self.flow = make(family.dim, embedding, **options)

    def distribution(self, images: Tensor) -> dist.TorchDistribution:
        if self.encoder is None:
            # Adam moves each weight as far as a bias, so C ones would set what depends on them C
            # times as fast as an embedding of usual size does.
            C = self.context_dim
            context = images.new_full((images.shape[0], C), 1 / C)
        else:
            context = self.encoder(images)
        return self.flow(context, validate=False)


class Flow(FlowGuide):
    """q(T | I) an autoregressive spline flow whose context is the image's embedding.

    Args:
        family, in_channels: as ``Guide`` has them.
        embedding: size of the embedding.
        options: of ``spline_flow``. Unless they say otherwise, it starts around the identity, and
            the coefficients wrap that the family calls periodic.

    Source: Singhal et al. 2023; Durkan et al. 2019.

    Example:
        >>> from flowinv.transforms import FAMILIES
        >>> q = Flow(FAMILIES["rotation_translation"], in_channels=1)(torch.rand(2, 1, 28, 28))
        >>> q.batch_shape, q.event_shape
        (torch.Size([2]), torch.Size([3]))
    """

    def __init__(self, family: Family, in_channels: int, embedding: int = 32, **options):
        options.setdefault("periodic", family.periodic)
        super().__init__(family, in_channels, spline_flow, embedding, **options)


class BoxFlow(FlowGuide):
    """q(T | I) a box for each image, and a spline flow that shapes the density inside it.

    It contains its rivals: Augerino (``for_all=True, layers=0``) and InstaAug (``layers=0``).

    Args:
        family, in_channels: as ``Guide`` has them.
        embedding: size of the embedding.
        half_width: where each coefficient's starts, as ``FixedBox`` has it, in (0.001, 1).
        options: of ``FlowGuide`` and ``box_flow``. Unless they say otherwise, it starts around the
            identity, and the coefficients wrap that the family calls periodic.

    Source: Singhal et al. 2023; Durkan et al. 2019.

    Example:
        >>> from flowinv.transforms import FAMILIES
        >>> q = BoxFlow(FAMILIES["affine"], in_channels=1, half_width=0.2)(torch.rand(2, 1, 28, 28))
        >>> q.draw(20).T.shape
        torch.Size([20, 2, 6])
    """

    def __init__(
        self,
        family: Family,
        in_channels: int,
        embedding: int = 32,
        half_width: Numbers = 0.5,
        **options,
    ):
        options.setdefault("periodic", family.periodic)
        super().__init__(family, in_channels, box_flow, embedding, half_width=half_width, **options)


class CouplingFlow(FlowGuide):
    """q(T | I) by affine couplings, ``coupling_flow``: the paper's own with base=MixtureBase.

    Args:
        family, in_channels: as ``Guide`` has them.
        embedding: size of the embedding.
        options: of ``coupling_flow``. Unless they say otherwise, it starts around the identity.

    Source: Singhal et al. 2023; Dinh et al. 2017.
    """

    def __init__(self, family: Family, in_channels: int, embedding: int = 32, **options):
        super().__init__(family, in_channels, coupling_flow, embedding, **options)


class MixtureFlow(FlowGuide):
    """q(T | I) a mixture of Gaussians for each image, ``mixture_flow``: several modes.

    Args:
        family, in_channels: as ``Guide`` has them.
        embedding: size of the embedding.
        options: of ``mixture_flow``. Unless they say otherwise, it starts around the identity, and
            the coefficients wrap that the family calls periodic.
    """

    def __init__(self, family: Family, in_channels: int, embedding: int = 32, **options):
        options.setdefault("periodic", family.periodic)
        super().__init__(family, in_channels, mixture_flow, embedding, **options)


class Gaussian(MixtureFlow):
    """q(T | I) a Gaussian for each image, sent to the box by tanh, or wrapped where T is an angle.

    Args:
        family, in_channels: as ``Guide`` has them.
        embedding: size of the embedding.
        options: of ``MixtureFlow``, but for the number of components.

    Source: Schwöbel et al. 2022 (probabilistic spatial transformers), whose Gaussian lives on the
    line.
    """

    def __init__(self, family: Family, in_channels: int, embedding: int = 32, **options):
        super().__init__(family, in_channels, embedding, components=1, **options)


GUIDES = Registry(
    "guide",
    none=NoAugmentation,
    fixed=FixedBox,
    augerino=Augerino,
    instaaug=InstaAug,
    instaaug_crops=InstaAugCrops,
    gaussian=Gaussian,
    flow=Flow,
    box_flow=BoxFlow,
    coupling_flow=CouplingFlow,
    mixture_flow=MixtureFlow,
)
