"""Encoders and classifiers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn


class Network(nn.Module):
    """The base class of networks that work in either memory layout.

    A subclass promises that it gives the same results for images in PyTorch's usual layout and
    in ``channels_last``, so that training may choose the faster one. Convolutions, poolings,
    ``flatten`` and indexing keep that promise; ``view`` on images breaks it.
    """

    channels_last = True


class ConvNet(Network):
    """A small convolutional network: images (B, C, H, W) → (B, out_features).

    Four 3×3 convolutions of stride 2, then one linear layer. Strided convolutions take a third of
    the time of convolution and pooling. LeakyReLU, because an encoder of ReLUs can die: all
    images then get one and the same embedding.

    Args:
        in_channels: C.
        out_features: numbers that come out, for example one logit for each class.
        width: the convolutions have ``width``, 2, 4 and 4 times ``width`` channels.

    Example:
        >>> ConvNet(1, 5, width=16)(torch.rand(8, 1, 28, 28)).shape
        torch.Size([8, 5])
    """

    def __init__(self, in_channels: int, out_features: int, width: int = 8):
        super().__init__()
        channels = [in_channels, width, 2 * width, 4 * width, 4 * width]
        self.convolutions = _strided_convolutions(channels)
        self.head = nn.Linear(4 * width * 4, out_features)

    def forward(self, images: Tensor) -> Tensor:
        x = images - 0.5
        for convolution in self.convolutions:
            x = F.leaky_relu(convolution(x), 0.1)
        return self.head(F.adaptive_avg_pool2d(x, 2).flatten(1))


class Pretrained(Network):
    """A classifier that exists: images (B, C, H, W) in [0, 1] → logits.

    For torchvision's networks, timm's, and others that want normalised images: normalisation is
    inside, because transformations act on pixels in [0, 1]. Frozen, its parameters do not learn and
    it stays in evaluation mode whatever is called on it, so that its batch normalisation and
    dropout do not move either. Training lays torchvision's and timm's out channels last; others may
    rely on the usual layout.

    Args:
        network: of normalised images to logits.
        mean, std: of the normalisation, one number a channel. None: those that a network of timm's
            says it was trained with (``pretrained_cfg``), else ImageNet's.
        frozen: whether it stays as it is.

    Raises:
        ValueError: mean and std are not as many, or some std is not positive.

    Example:
        >>> import torchvision
        >>> network = torchvision.models.resnet18(weights=None)  # or weights="DEFAULT"
        >>> classifier = Pretrained(network)
        >>> classifier(torch.rand(2, 3, 64, 64)).shape, classifier.train().network.training
        (torch.Size([2, 1000]), False)
    """

    IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        frozen: bool = True,
    ):
        super().__init__()
        usual = getattr(network, "pretrained_cfg", None) or {}
        for name, given in (("mean", mean), ("std", std)):
            numbers = given or usual.get(name) or self.IMAGENET[name]
            self.register_buffer(name, torch.tensor(numbers)[:, None, None], persistent=False)
        if self.mean.shape != self.std.shape or not (self.std > 0).all():
            raise ValueError(
                "pretrained: expected as many numbers of mean and of std, and these above 0,"
                f" got {self.mean.flatten().tolist()} and {self.std.flatten().tolist()}"
            )
        self.network = network
        self.channels_last = type(network).__module__.startswith(("torchvision.", "timm."))
        self.frozen = frozen
        if frozen:
            network.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Pretrained":
        """As PyTorch's, but for a frozen network, which stays in evaluation mode."""
        return super().train(mode and not self.frozen)

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images - self.mean) / self.std)


class Features(nn.Module):
    """What another network's layer sees, and a linear map: (B, C, H, W) → (B, out_features).

    For an encoder that looks through the classifier's eyes. The other network is looked at and
    not taught: its parameters are not this module's, no gradient reaches them from here, and it is
    looked at in evaluation mode, so that its batch normalisation does not move. It runs up to the
    layer and no further, if torch.fx can trace the way there.

    Args:
        network: of images.
        layer: its name in the network. Maps of features are averaged to 2×2 places, tokens
            (B, N, size) to one.
        images: some, (B, C, H, W), by which the size of the features is found.
        out_features: numbers that come out.

    Raises:
        ValueError: the network has no such layer, or does not call it exactly once.

    Example:
        >>> network = ConvNet(1, 10)
        >>> images = torch.rand(8, 1, 28, 28)
        >>> Features(network, "convolutions.2", images, out_features=32)(images).shape
        torch.Size([8, 32])
    """

    def __init__(self, network: nn.Module, layer: str, images: Tensor, out_features: int):
        super().__init__()
        layers = dict(network.named_modules())
        if not layer or layer not in layers:
            there = ", ".join(filter(None, layers))
            raise ValueError(f"features: expected a layer's name, got {layer!r}; there are {there}")
        self._looked_at = (network, layers[layer])  # in a tuple: no parameters of this module's
        self.head = nn.Linear(self.features(images).shape[-1], out_features)

    @cached_property
    def way(self) -> fx.Graph | None:
        """The network's steps up to the layer; None if they cannot be traced."""
        network, layer = self._looked_at
        (name,) = (name for name, module in network.named_modules() if module is layer)
        return _way_to(network, name)

    def features(self, images: Tensor) -> Tensor:
        """What the layer sees, (B, size)."""
        network, layer = self._looked_at
        with torch.no_grad(), _evaluating(network) if network.training else nullcontext():
            if self.way is None:
                seen = _seen_on_the_way(network, layer, images)
            else:
                # Run with the network's own parameters and buffers, wherever they have moved.
                seen = fx.Interpreter(network, graph=self.way).run(images)
        if seen.dim() == 4:
            seen = F.adaptive_avg_pool2d(seen, 2)
        elif seen.dim() == 3:
            seen = seen.mean(1)
        return seen.flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """In here the network and all its parts are in evaluation mode."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _seen_on_the_way(network: nn.Module, layer: nn.Module, images: Tensor) -> Tensor:
    """What the layer gives while the whole network runs."""
    seen: list[Tensor] = []
    hook = layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        network(images)
    finally:
        hook.remove()
    if len(seen) != 1:
        raise ValueError(
            f"features: expected a layer that the network calls once, got one called {len(seen)}"
            " times"
        )
    return seen[0]


class _OnTheWay(fx.Tracer):
    """Looks into the modules that hold the layer, and takes all others as one step each."""

    def __init__(self, layer: str):
        super().__init__()
        self.layer = layer

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not self.layer.startswith(f"{module_qualified_name}.")


def _way_to(network: nn.Module, layer: str) -> fx.Graph | None:
    """A network's steps up to the one call of a layer; None if they cannot be traced."""
    try:
        graph = _OnTheWay(layer).trace(network)
    except Exception:  # whatever the network's own code does with what stands for its images
        return None
    calls = [node for node in graph.nodes if node.op == "call_module" and node.target == layer]
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    if len(calls) != 1 or len(inputs) != 1:
        return None
    for node in reversed(list(graph.nodes)):
        if node is calls[0]:
            break
        graph.erase_node(node)
    graph.output(calls[0])
    return graph


class CropNet(Network):
    """Logits for crops: images (B, C, H, W) → (B, Σ n²), one for each of n×n places of each size.

    The places of a size are spread evenly over where such a crop fits, row by row from the upper
    left. Strided convolutions make features. Each size reads its own depth of them: a crop's
    logit is the mean, over the crop, of a 1×1 convolution of the features.

    Args:
        in_channels: C.
        grids: (n, share of the picture's side) of each size.
        width: channels of the first convolution, doubled at each next.

    Example:
        >>> grids = [(16, 0.375), (8, 0.75), (1, 1.0)]
        >>> CropNet(3, grids)(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 321])
    """

    def __init__(self, in_channels: int, grids: Sequence[tuple[int, float]], width: int = 8):
        super().__init__()
        self.grids = grids
        depths = [width * 2**i for i in range(len(grids))]
        self.convolutions = _strided_convolutions([in_channels, *depths])
        self.heads = nn.ModuleList(nn.Conv2d(channels, 1, 1) for channels in depths)

    def forward(self, images: Tensor) -> Tensor:
        x = images - 0.5
        logits = []
        for (n, share), convolution, head in zip(self.grids, self.convolutions, self.heads):
            x = F.leaky_relu(convolution(x), 0.1)
            window = [max(1, round(share * side)) for side in x.shape[-2:]]
            means = F.avg_pool2d(head(x), window, stride=1)  # of every place, pixel by pixel
            places = F.interpolate(means, size=(n, n), mode="bilinear")
            logits.append(places.flatten(1))
        return torch.cat(logits, -1)


class FixupBlock(nn.Module):
    """A residual block with a number a and biases b instead of batch normalisation.

    ::

        x → φ(x′ + a · W₂ (φ(W₁ (x + b₁) + b₂) + b₃) + b₄)

    φ is ReLU. Where the block halves the picture, x′ is every second pixel of x, its channels
    filled up with zeros; elsewhere it is x.

    Args:
        channels: of x.
        out_channels: of the result, at least as many.
        stride: 2 halves the picture, 1 leaves its size.
        blocks: how many such blocks the whole network has.
    """

    def __init__(self, channels: int, out_channels: int, stride: int, blocks: int):
        super().__init__()
        self.stride = stride
        self.new_channels = out_channels - channels
        self.first = nn.Conv2d(channels, out_channels, 3, stride, padding=1, bias=False)
        self.second = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.scale = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(4))
        # Small enough that a step of gradient descent changes the whole network as much as it
        # would change a single block.
        _init_he(self.first, factor=blocks**-0.5)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        b1, b2, b3, b4 = self.bias
        h = F.relu(self.first(x + b1) + b2)
        h = self.scale * self.second(h + b3) + b4
        x = x[..., :: self.stride, :: self.stride]
        return F.relu(F.pad(x, (0, 0, 0, 0, 0, self.new_channels)) + h)


class FixupResNet(Network):
    """A residual network without batch normalisation: images (B, C, H, W) → logits (B, classes).

    It can be trained without normalisation because it starts as a network whose blocks do
    nothing. ResNet-8-16, of depth 8 and 16 planes, is the paper's network for CIFAR-10.
    Source: He et al. 2016 (residual networks); Zhang et al. 2019 (Fixup).

    Args:
        in_channels: C.
        classes: how many there are.
        depth: layers with weights, 6 n + 2 for n blocks at each of three resolutions.
        planes: channels at the first resolution, doubled at each next.

    Raises:
        ValueError: if the depth is not 6 n + 2.

    Example:
        >>> FixupResNet(3, 10)(torch.rand(8, 3, 32, 32)).shape
        torch.Size([8, 10])
    """

    def __init__(self, in_channels: int, classes: int, depth: int = 8, planes: int = 16):
        super().__init__()
        n, rest = divmod(depth - 2, 6)
        if n < 1 or rest:
            raise ValueError(
                f"depth: expected 6 n + 2 with n of 1 or more, as 8 or 20, got {depth}"
            )
        self.first = nn.Conv2d(in_channels, planes, 3, padding=1, bias=False)
        self.bias = nn.Parameter(torch.zeros(2))
        _init_he(self.first)
        channels = _channels(planes, stages=3, blocks=n)
        self.blocks = nn.Sequential()
        for before, after in pairwise(channels):
            stride = 2 if after > before else 1
            self.blocks.append(FixupBlock(before, after, stride, blocks=3 * n))
        self.head = nn.Linear(4 * planes, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        x = _normalise(images)
        x = F.relu(self.first(x) + self.bias[0])
        x = self.blocks(x).mean((-2, -1))
        return self.head(x + self.bias[1])


class LeNet(Network):
    """LeNet with tanh: images (B, C, 28, 28) → logits (B, classes).

    The paper's network for MNIST and Fashion-MNIST. Two 5×5 convolutions of 6 and 16 channels,
    each followed by the maximum of 2×2 pixels, then layers of 120 and 84. The tanh, which keeps
    the order, comes after the maximum: the same function, with a quarter as many values to take.
    Source: LeCun et al. 1998.

    Args:
        in_channels: C.
        classes: how many there are.

    Example:
        >>> LeNet(1, 10)(torch.rand(8, 1, 28, 28)).shape
        torch.Size([8, 10])
    """

    def __init__(self, in_channels: int, classes: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, 6, 5, padding=2),
            nn.MaxPool2d(2),
            nn.Tanh(),
            nn.Conv2d(6, 16, 5),
            nn.MaxPool2d(2),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(16 * 5 * 5, 120),
            nn.Tanh(),
            nn.Linear(120, 84),
            nn.Tanh(),
            nn.Linear(84, classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(_normalise(images))


class ConvNet13(Network):
    """The 13-layer network of semi-supervised learning: images (B, C, 32, 32) → (B, classes).

    Nine convolutions with batch normalisation and LeakyReLU, of 3×3 pixels but for the last two.
    The maximum of 2×2 pixels and dropout follow the third and the sixth; the mean and a linear
    layer make the logits. (The name counts the three poolings.)
    Source: Laine and Aila 2017; Tarvainen and Valpola 2017.

    Args:
        in_channels: C.
        classes: how many there are.
        width: channels of the first convolution, 128 as published.

    Example:
        >>> ConvNet13(3, 10, width=16)(torch.rand(8, 3, 32, 32)).shape
        torch.Size([8, 10])
    """

    def __init__(self, in_channels: int, classes: int, width: int = 128):
        super().__init__()
        self.layers = nn.Sequential(
            *self._convolution(in_channels, width),
            *self._convolution(width, width),
            *self._convolution(width, width),
            nn.MaxPool2d(2),
            nn.Dropout(0.5),
            *self._convolution(width, 2 * width),
            *self._convolution(2 * width, 2 * width),
            *self._convolution(2 * width, 2 * width),
            nn.MaxPool2d(2),
            nn.Dropout(0.5),
            *self._convolution(2 * width, 4 * width, padding=0),
            *self._convolution(4 * width, 2 * width, size=1, padding=0),
            *self._convolution(2 * width, width, size=1, padding=0),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, classes),
        )

    @staticmethod
    def _convolution(
        channels: int, out_channels: int, size: int = 3, padding: int = 1
    ) -> list[nn.Module]:
        return [
            nn.Conv2d(channels, out_channels, size, padding=padding, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.LeakyReLU(0.1),
        ]

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(_normalise(images))


class PreActBlock(nn.Module):
    """A residual block that normalises before it convolves.

    ::

        x → s(x) + W₂ φ₂(W₁ φ₁(x))

    φ₁ and φ₂ are batch normalisation and ReLU. Where the size changes, s(x) is a 1×1 convolution
    of φ₁(x); elsewhere it is x.

    Args:
        channels: of x.
        out_channels: of the result.
        stride: 2 halves the picture, 1 leaves its size.
    """

    def __init__(self, channels: int, out_channels: int, stride: int):
        super().__init__()
        self.stride = stride
        self.norm1 = nn.BatchNorm2d(channels)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.first = nn.Conv2d(channels, out_channels, 3, stride, padding=1, bias=False)
        self.second = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut = None
        if stride > 1 or channels != out_channels:
            self.shortcut = nn.Conv2d(channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(x))
        if self.shortcut is not None:
            # Pixels are left out here: PyTorch 2.15 crashes on some strided 1×1 convolutions.
            x = self.shortcut(h[..., :: self.stride, :: self.stride])
        h = F.relu(self.norm2(self.first(h)))
        return x + self.second(h)


class PreActResNet18(Network):
    """A residual network of pre-activation blocks: images (B, C, H, W) → logits (B, classes).

    Two blocks at each of four resolutions. Source: He et al. 2016b.

    Args:
        in_channels: C.
        classes: how many there are.
        width: channels at the first resolution, 64 as published, doubled at each next.

    Example:
        >>> PreActResNet18(3, 200, width=8)(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 200])
    """

    def __init__(self, in_channels: int, classes: int, width: int = 64):
        super().__init__()
        self.first = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        channels = _channels(width, stages=4, blocks=2)
        self.blocks = nn.Sequential()
        for before, after in pairwise(channels):
            stride = 2 if after > before else 1
            self.blocks.append(PreActBlock(before, after, stride))
        self.norm = nn.BatchNorm2d(channels[-1])
        self.head = nn.Linear(channels[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(_normalise(images))
        x = F.relu(self.norm(self.blocks(x)))
        return self.head(x.mean((-2, -1)))


def _normalise(images: Tensor) -> Tensor:
    """Pixels in [0, 1] → [−2, 2], about as those of normalised CIFAR-10."""
    return 4 * images - 2


def _strided_convolutions(channels: list[int]) -> nn.ModuleList:
    """3×3 convolutions from each number of channels to the next, each halving the picture."""
    layers = nn.ModuleList()
    for before, after in pairwise(channels):
        layers.append(nn.Conv2d(before, after, 3, stride=2, padding=1))
    return layers


def _channels(width: int, stages: int, blocks: int) -> list[int]:
    """Channels before the first block and after each one, doubled from stage to stage."""
    channels = [width]
    for stage in range(stages):
        channels += [width * 2**stage] * blocks
    return channels


def _init_he(convolution: nn.Conv2d, factor: float = 1.0) -> None:
    """He's normal initialisation by the number of outputs, times a factor."""
    std = (2 / (9 * convolution.out_channels)) ** 0.5
    nn.init.normal_(convolution.weight, std=std * factor)
