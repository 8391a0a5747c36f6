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
