"""Guides q(T | I): what each method believes about the transformations of an image.

A guide is a module whose `forward(images)` returns a Pyro distribution with batch shape (B,) and
event shape (D,) over the box [−1, 1]^D. That is all that training, prediction, metrics and plots
know of a method. A new guide is a class with these two methods and a line in GUIDES.
"""

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from .checks import Registry, check_images
from .flows import ConditionalFlow
from .networks import ConvNet
from .transforms import TransformFamily


class NoAugmentation(nn.Module):
    """q(T | I) = δ(T): every image stays as it is.

    Its log_prob at 0 is 0 by convention, so that the KL in the loss is the constant D log 2; that of a
    true point mass is infinite.

    >>> from flowinv.transforms import FAMILIES
    >>> NoAugmentation(FAMILIES["rotation"], 1)(torch.rand(2, 1, 28, 28)).sample()
    tensor([[0.],
            [0.]])
    """

    def __init__(self, family: TransformFamily, in_channels: int):
        super().__init__()
        self.dim = family.dim

    def forward(self, images: Tensor) -> dist.Distribution:
        check_images(images, values=False)
        return dist.Delta(images.new_zeros(len(images), self.dim), event_dim=1)


class FixedBox(nn.Module):
    """q(T | I) uniform on a box that does not depend on the image: ordinary data augmentation.

    half_width: of the box, one number or one a coefficient, in (0, 1].

    >>> from flowinv.transforms import FAMILIES
    >>> FixedBox(FAMILIES["rotation"], 1, half_width=0.5)(torch.rand(2, 1, 28, 28)).entropy()
    tensor([0., 0.])
    """

    def __init__(self, family: TransformFamily, in_channels: int, half_width=1.0):
        super().__init__()
        half_width = torch.as_tensor(half_width, dtype=torch.float32).expand(family.dim)
        if not ((half_width > 0) & (half_width <= 1)).all():
            raise ValueError(f"half_width: expected numbers in (0, 1], the box's own units, got {half_width.tolist()}")
        self.register_buffer("half_width", half_width.clone())

    def extra_repr(self) -> str:
        return f"half_width={self.half_width.tolist()}"

    def forward(self, images: Tensor) -> dist.Distribution:
        check_images(images, values=False)
        width = self.half_width.to(images.dtype).expand(len(images), -1)
        return dist.Uniform(-width, width, validate_args=False).to_event(1)


class Flow(nn.Module):
    """q(T | I) a conditional normalizing flow whose context is an embedding of the image.

    embedding: size of the embedding. Further options are those of ConditionalFlow.

    >>> from flowinv.transforms import FAMILIES
    >>> q = Flow(FAMILIES["rotation_translation"], in_channels=1)(torch.rand(2, 1, 28, 28))
    >>> q.batch_shape, q.event_shape
    (torch.Size([2]), torch.Size([3]))
    """

    def __init__(self, family: TransformFamily, in_channels: int, embedding: int = 32, **options):
        super().__init__()
        self.encoder = ConvNet(in_channels, embedding)
        self.flow = ConditionalFlow(family.dim, embedding, **options)

    def forward(self, images: Tensor) -> dist.Distribution:
        check_images(images, values=False)
        return self.flow(self.encoder(images))


GUIDES = Registry("guide", none=NoAugmentation, fixed=FixedBox, flow=Flow)
