"""Encoders and classifiers."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvNet(nn.Module):
    """A small convolutional network, images (B, C, H, W) → (B, out_features), for 28² or 32² pixels.

    Four 3×3 convolutions of stride 2 with width, 2, 4 and 4 times width channels, then one linear
    layer. Strided convolutions take a third of the time of convolution and pooling. LeakyReLU,
    because an encoder of ReLUs can die: all images then get one and the same embedding.

    >>> ConvNet(1, 5, width=16)(torch.rand(8, 1, 28, 28)).shape
    torch.Size([8, 5])
    """

    def __init__(self, in_channels: int, out_features: int, width: int = 8):
        super().__init__()
        channels = [in_channels, width, 2 * width, 4 * width, 4 * width]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in zip(channels, channels[1:])
        )
        self.head = nn.Linear(4 * width * 4, out_features)

    def forward(self, images: Tensor) -> Tensor:
        x = images - 0.5
        for convolution in self.convolutions:
            x = F.leaky_relu(convolution(x), 0.1)
        return self.head(F.adaptive_avg_pool2d(x, 2).flatten(1))


class CropNet(nn.Module):
    """Logits for crops: images (B, C, H, W) → (B, Σ n²), one for each of the n×n places of each size.

    grids: (n, share of the picture's side) of each size. The places are spread evenly over where a crop of
    that size fits, row by row from the upper left. Strided convolutions make features; each size reads
    its own depth of them, and a crop's logit is the mean, over the crop, of a 1×1 convolution of them.

    >>> CropNet(3, [(16, 0.375), (8, 0.75), (1, 1.0)])(torch.rand(2, 3, 64, 64)).shape
    torch.Size([2, 321])
    """

    def __init__(self, in_channels: int, grids: list[tuple[int, float]], width: int = 8):
        super().__init__()
        self.grids = grids
        channels = [in_channels] + [width * 2**i for i in range(len(grids))]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in zip(channels, channels[1:])
        )
        self.heads = nn.ModuleList(nn.Conv2d(c, 1, 1) for c in channels[1:])

    def forward(self, images: Tensor) -> Tensor:
        x, logits = images - 0.5, []
        for (n, share), convolution, head in zip(self.grids, self.convolutions, self.heads):
            x = F.leaky_relu(convolution(x), 0.1)
            window = [max(1, round(share * side)) for side in x.shape[-2:]]
            means = F.avg_pool2d(head(x), window, stride=1)  # of every place, pixel by pixel
            logits.append(F.interpolate(means, size=(n, n), mode="bilinear").flatten(1))
        return torch.cat(logits, -1)


class FixupBlock(nn.Module):
    """x → φ(x′ + a · (W₂ (φ(W₁ (x + b₁) + b₂) + b₃)) + b₄), with numbers a and b instead of batch normalisation.

    Where the block halves the picture, x′ is every second pixel of x, its channels filled up with zeros; else x.
    """

    def __init__(self, channels: int, out_channels: int, stride: int, blocks: int):
        super().__init__()
        self.stride, self.more = stride, out_channels - channels
        self.first = nn.Conv2d(channels, out_channels, 3, stride, padding=1, bias=False)
        self.second = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.scale, self.bias = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(4))
        # So that a step of gradient descent changes the whole network as much as it would a single block.
        nn.init.normal_(self.first.weight, std=(2 / (9 * out_channels)) ** 0.5 * blocks**-0.5)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        b1, b2, b3, b4 = self.bias
        h = F.relu(self.first(x + b1) + b2)
        h = self.scale * self.second(h + b3) + b4
        return F.relu(h + F.pad(x[..., :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more)))


class FixupResNet(nn.Module):
    """A residual network without batch normalisation: images (B, C, H, W) → logits (B, classes).

    depth: 6 n + 2, for n blocks at each of three resolutions. planes: channels at the first, doubled at each
    next. ResNet-8-16, of depth 8 and 16 planes, is the paper's for CIFAR-10. It can be trained without normalisation
    because it starts as a network whose blocks do nothing.
    Sources: He et al. 2016 (residual networks); Zhang et al. 2019 (Fixup).

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
        nn.init.normal_(self.first.weight, std=(2 / (9 * planes)) ** 0.5)
        sizes = [planes] + [planes * 2**stage for stage in range(3) for _ in range(n)]
        self.blocks = nn.Sequential(
            *(FixupBlock(a, b, 1 + (b > a), 3 * n) for a, b in zip(sizes, sizes[1:]))
        )
        self.head = nn.Linear(4 * planes, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(
            self.first(4 * images - 2) + self.bias[0]
        )  # pixels about as CIFAR-10's would be, normalised
        return self.head(self.blocks(x).mean((-2, -1)) + self.bias[1])


class LeNet(nn.Module):
    """LeNet with tanh: images (B, C, 28, 28) → logits (B, classes). The paper's for MNIST and Fashion-MNIST.

    Two 5×5 convolutions of 6 and 16 channels, each followed by the maximum of 2×2 pixels, then layers of 120 and 84.
    Source: LeCun et al. 1998.

    >>> LeNet(1, 10)(torch.rand(8, 1, 28, 28)).shape
    torch.Size([8, 10])
    """

    def __init__(self, in_channels: int, classes: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, 6, 5, padding=2), nn.Tanh(), nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(16 * 5 * 5, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, classes),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(4 * images - 2)


class ConvNet13(nn.Module):
    """The 13-layer network of semi-supervised learning: images (B, C, 32, 32) → logits (B, classes).

    Nine convolutions with batch normalisation and LeakyReLU, of 3×3 pixels but for the last two; after the third and sixth
    the maximum of 2×2 pixels and dropout, at the end the mean and a linear layer (the name counts the three poolings).
    width: channels of the first, 128 as published.
    Source: Laine and Aila 2017; Tarvainen and Valpola 2017.

    >>> ConvNet13(3, 10, width=16)(torch.rand(8, 3, 32, 32)).shape
    torch.Size([8, 10])
    """

    def __init__(self, in_channels: int, classes: int, width: int = 128):
        super().__init__()

        def convolution(a: int, b: int, size: int = 3, padding: int = 1) -> list[nn.Module]:
            return [
                nn.Conv2d(a, b, size, padding=padding, bias=False),
                nn.BatchNorm2d(b),
                nn.LeakyReLU(0.1),
            ]

        w = width
        self.layers = nn.Sequential(
            *convolution(in_channels, w), *convolution(w, w), *convolution(w, w), nn.MaxPool2d(2), nn.Dropout(0.5),
            *convolution(w, 2 * w), *convolution(2 * w, 2 * w), *convolution(2 * w, 2 * w), nn.MaxPool2d(2), nn.Dropout(0.5),
            *convolution(2 * w, 4 * w, padding=0), *convolution(4 * w, 2 * w, 1, 0), *convolution(2 * w, w, 1, 0),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(w, classes),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(4 * images - 2)


class PreActBlock(nn.Module):
    """x → s(x′) + W₂ φ(W₁ φ(x)), with φ batch normalisation and ReLU, and s a 1×1 convolution where the size changes."""

    def __init__(self, channels: int, out_channels: int, stride: int):
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(out_channels)
        self.first = nn.Conv2d(channels, out_channels, 3, stride, padding=1, bias=False)
        self.second = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        changes = stride > 1 or channels != out_channels
        self.stride, self.shortcut = (
            stride,
            nn.Conv2d(channels, out_channels, 1, bias=False) if changes else None,
        )

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(x))
        if (
            self.shortcut is not None
        ):  # pixels are left out here: PyTorch 2.15 crashes on some strided 1×1 convolutions
            x = self.shortcut(h[..., :: self.stride, :: self.stride])
        return x + self.second(F.relu(self.norm2(self.first(h))))


class PreActResNet18(nn.Module):
    """A residual network that normalises before it convolves: images (B, C, H, W) → logits (B, classes).

    Two blocks at each of four resolutions. width: channels at the first, 64 as published, doubled at each next.
    Source: He et al. 2016b.

    >>> PreActResNet18(3, 200, width=8)(torch.rand(2, 3, 64, 64)).shape
    torch.Size([2, 200])
    """

    def __init__(self, in_channels: int, classes: int, width: int = 64):
        super().__init__()
        self.first = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        sizes = [width] + [width * 2**stage for stage in range(4) for _ in range(2)]
        self.blocks = nn.Sequential(
            *(PreActBlock(a, b, 1 + (b > a)) for a, b in zip(sizes, sizes[1:]))
        )
        self.norm, self.head = nn.BatchNorm2d(sizes[-1]), nn.Linear(sizes[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.norm(self.blocks(self.first(4 * images - 2))))
        return self.head(x.mean((-2, -1)))
