"""Guides q(T | I): what each method believes about the transformations of an image.

A guide is a module whose `forward(images)` returns a Pyro distribution with batch shape (B,) and
event shape (D,) over the box [−1, 1]^D. That is all that training, prediction, metrics and plots
know of a method. A new guide is a class with a constructor (family, in_channels, …), that method, and
a line in GUIDES; if it has an `encoder`, training watches that its output varies over images.
"""

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from .bases import BoxUniform, UniformMixture
from .checks import Registry, check_images
from .flows import ConditionalFlow
from .networks import ConvNet, CropNet
from .transforms import Crop, TransformFamily


class NoAugmentation(nn.Module):
    """q(T | I) = δ(T): every image stays as it is.

    Its log_prob there is 0 by convention, so that the KL in the loss is the constant D log 2; that of a
    true point mass is infinite.

    >>> from flowinv.transforms import FAMILIES
    >>> NoAugmentation(FAMILIES["rotation"], 1)(torch.rand(2, 1, 28, 28)).sample()
    tensor([[0.],
            [0.]])
    """

    def __init__(self, family: TransformFamily, in_channels: int):
        super().__init__()
        self.register_buffer("identity", family.identity, persistent=False)

    def forward(self, images: Tensor) -> dist.Distribution:
        check_images(images, values=False)
        return dist.Delta(
            self.identity.to(images.dtype).expand(len(images), -1), event_dim=1, validate_args=False
        )


def _half_width(
    family: TransformFamily, half_width: float | list[float], largest: float = 1.0
) -> Tensor:
    """One number a coefficient, (D,), checked."""
    values = torch.as_tensor(half_width, dtype=torch.float32).expand(family.dim).clone()
    if not ((values > 0) & (values <= largest)).all():
        raise ValueError(
            f"half_width: expected numbers above 0 and up to {largest:g}, got {values.tolist()}"
        )
    return values


class FixedBox(nn.Module):
    """q(T | I) uniform on a box that does not depend on the image: ordinary data augmentation.

    half_width: of the box, one number or one a coefficient, in (0, 1]. More exactly, the box that holds
        everything, shrunk by this factor towards the identity.

    >>> from flowinv.transforms import FAMILIES
    >>> FixedBox(FAMILIES["rotation"], 1, half_width=0.5)(torch.rand(2, 1, 28, 28)).entropy()
    tensor([0., 0.])
    """

    def __init__(
        self, family: TransformFamily, in_channels: int, half_width: float | list[float] = 1.0
    ):
        super().__init__()
        self.register_buffer("identity", family.identity, persistent=False)
        self.register_buffer("half_width", _half_width(family, half_width))

    def extra_repr(self) -> str:
        return f"half_width={self.half_width.tolist()}"

    def forward(self, images: Tensor) -> dist.Distribution:
        check_images(images, values=False)
        width = self.half_width.to(images.dtype)
        centre = ((1 - width) * self.identity.to(images.dtype)).expand(len(images), -1)
        return BoxUniform(centre - width, centre + width, validate_args=False).to_event(1)


class Augerino(nn.Module):
    """q(T | I) uniform on a box that is learned, one for all images.

    half_width: where each coefficient's starts, as FixedBox has it, in (0, 1).
    Source: Benton et al. 2020.

    >>> from flowinv.transforms import FAMILIES
    >>> q = Augerino(FAMILIES["rotation"], 1, half_width=0.25)(torch.rand(2, 1, 28, 28))
    >>> q.entropy().exp()  # the box's volume
    tensor([0.5000, 0.5000], grad_fn=<ExpBackward0>)
    """

    def __init__(
        self, family: TransformFamily, in_channels: int, half_width: float | list[float] = 0.5
    ):
        super().__init__()
        self.register_buffer("identity", family.identity, persistent=False)
        self.logit = nn.Parameter(_half_width(family, half_width, largest=0.999).logit())

    def forward(self, images: Tensor) -> dist.Distribution:
        check_images(images, values=False)
        width = self.logit.sigmoid()
        centre = ((1 - width) * self.identity).expand(len(images), -1)
        return BoxUniform(centre - width, centre + width, validate_args=False).to_event(1)


class InstaAug(nn.Module):
    """q(T | I) uniform on a box that a network predicts for each image: mean-field.

    half_width: where each coefficient's starts, as FixedBox has it, in (0, 1). The box may then move
        and stretch, within [−1, 1]^D. embedding: width of the network's last layer but one.
    Source: Miao et al. 2023.

    >>> from flowinv.transforms import FAMILIES
    >>> InstaAug(FAMILIES["affine"], 1)(torch.rand(2, 1, 28, 28)).rsample((20,)).shape
    torch.Size([20, 2, 6])
    """

    def __init__(
        self,
        family: TransformFamily,
        in_channels: int,
        half_width: float | list[float] = 0.5,
        embedding: int = 32,
    ):
        super().__init__()
        start = _half_width(family, half_width, largest=0.999)
        self.encoder = ConvNet(in_channels, embedding)
        self.head = nn.Linear(embedding, 2 * family.dim)
        with torch.no_grad():  # start close to one box for all
            self.head.weight *= 0.01
            self.head.bias.copy_(torch.cat([(0.9 * family.identity).atanh(), start.logit()]))

    def forward(self, images: Tensor) -> dist.Distribution:
        check_images(images, values=False)
        centre, width = self.head(self.encoder(images)).chunk(2, -1)
        width = 0.001 + 0.999 * width.sigmoid()  # a box without volume has no density
        centre = (1 - width) * centre.tanh()
        return BoxUniform(centre - width, centre + width, validate_args=False).to_event(1)


class InstaAugCrops(nn.Module):
    """q(T | I) over 321 preset crops: InstaAug's location-related parametrisation. Family `crop` only.

    The crops cover 0.375 of the picture's side on a grid of 16×16 places, 0.75 on one of 8×8, and all
    of it. A convolutional network gives each crop its weight from the features inside it. Around
    each preset a crop is uniform in a cell: its tile of the grid, and ±0.1 in width and height; so q
    is a density over the box like any other.

    Source: Miao et al. 2023 and its code release.

    >>> from flowinv.transforms import FAMILIES
    >>> q = InstaAugCrops(FAMILIES["crop"], 3)(torch.rand(2, 3, 64, 64))
    >>> q.log_weights.shape, q.sample((20,)).shape
    (torch.Size([2, 321]), torch.Size([20, 2, 4]))
    """

    GRIDS = ((16, 0.375), (8, 0.75), (1, 1.0))  # places a side, share of the picture's side

    def __init__(self, family: TransformFamily, in_channels: int):
        super().__init__()
        if not isinstance(family, Crop):
            raise ValueError(
                f"instaaug_crops: expected the family crop, got one of {', '.join(family.names)}"
            )
        self.encoder = CropNet(in_channels, self.GRIDS)
        low, high = [], []
        for n, share in self.GRIDS:
            edges = torch.linspace(-1, 1, n + 1)
            size = min(
                1 - 2 * math.log(share) / math.log(family.MIN_SIZE), 0.9
            )  # the cell ends at 1
            sizes = torch.full((n * n, 2), size)
            # Rows from top to bottom, as the network's maps are flattened: y first, x within a row.
            low.append(
                torch.cat([torch.cartesian_prod(edges[:-1], edges[:-1]).flip(-1), sizes - 0.1], -1)
            )
            high.append(
                torch.cat([torch.cartesian_prod(edges[1:], edges[1:]).flip(-1), sizes + 0.1], -1)
            )
        self.register_buffer("low", torch.cat(low), persistent=False)
        self.register_buffer("high", torch.cat(high), persistent=False)

    def forward(self, images: Tensor) -> dist.Distribution:
        check_images(images, values=False)
        return UniformMixture(self.encoder(images), self.low, self.high)


class Flow(nn.Module):
    """q(T | I) a conditional normalizing flow whose context is an embedding of the image.

    embedding: size of the embedding. Further options are those of ConditionalFlow. Unless they say
        otherwise, it starts around the identity, and the coefficients wrap that the family calls periodic.
    Source: Singhal et al. 2023, whose own flow is univariate="affine", base="mixture", coupling=True,
    layers=12.

    >>> from flowinv.transforms import FAMILIES
    >>> q = Flow(FAMILIES["rotation_translation"], in_channels=1)(torch.rand(2, 1, 28, 28))
    >>> q.batch_shape, q.event_shape
    (torch.Size([2]), torch.Size([3]))
    """

    def __init__(self, family: TransformFamily, in_channels: int, embedding: int = 32, **options):
        super().__init__()
        self.encoder = ConvNet(in_channels, embedding)
        start = {"periodic": family.periodic, "loc": (0.8 * family.identity).tolist()}
        self.flow = ConditionalFlow(family.dim, embedding, **{**start, **options})

    def forward(self, images: Tensor) -> dist.Distribution:
        check_images(images, values=False)
        return self.flow(self.encoder(images))


class Gaussian(Flow):
    """q(T | I) a Gaussian for each image, sent to the box by tanh, or wrapped where T is an angle.

    scale: where its standard deviations start. Source: Schwöbel et al. 2022 (probabilistic spatial
    transformers), whose Gaussian lives on the line.
    """

    def __init__(
        self,
        family: TransformFamily,
        in_channels: int,
        embedding: int = 32,
        scale: float | list = 0.3,
    ):
        super().__init__(
            family, in_channels, embedding, base="mixture", components=1, layers=0, scale=scale
        )


GUIDES = Registry(
    "guide",
    none=NoAugmentation,
    fixed=FixedBox,
    augerino=Augerino,
    instaaug=InstaAug,
    instaaug_crops=InstaAugCrops,
    gaussian=Gaussian,
    flow=Flow,
)
