"""Laws of the networks."""

import pytest
import torch

from flowinv.networks import (
    ConvNet,
    ConvNet13,
    CropNet,
    FixupResNet,
    LeNet,
    PreActBlock,
    PreActResNet18,
)


def test_fixup_starts_as_a_network_whose_blocks_do_nothing(images):
    """Logits are 0, so that every class is as probable as any other; the first gradient is the head's alone."""
    net = FixupResNet(1, 5, depth=14)
    assert torch.equal(net(images), torch.zeros(8, 5))
    torch.nn.functional.cross_entropy(net(images), torch.arange(8) % 5).backward()
    assert {name for name, p in net.named_parameters() if p.grad.any()} == {
        "head.weight",
        "head.bias",
    }
    x = torch.rand(4, 16, 8, 8)
    assert torch.equal(net.blocks[0](x), x)
    halved = net.blocks[2](x)
    assert torch.equal(halved[:, :16], x[..., ::2, ::2]) and not halved[:, 16:].any()


def test_a_residual_network_has_the_depth_it_says():
    """6 n + 2 layers with weights: the first, two a block, the head."""
    for depth in (8, 14, 20):
        layers = [
            m
            for m in FixupResNet(3, 10, depth).modules()
            if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)
        ]
        assert len(layers) == depth
    # The published ResNet-8-16: what its weights alone add up to, by hand.
    weights = 9 * (3 * 16 + 2 * 16 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64) + 64 * 10
    assert sum(p.numel() for p in FixupResNet(3, 10).parameters() if p.ndim > 1) == weights
    for bad in (2, 9):
        with pytest.raises(ValueError, match=r"depth: expected 6 n \+ 2") as error:
            FixupResNet(3, 10, bad)
        assert "\n" not in str(error.value)


NETWORKS = [
    ConvNet(1, 5), FixupResNet(1, 5), CropNet(1, [(2, 0.5), (1, 1.0)]), LeNet(1, 5), ConvNet13(1, 5, 8),
    PreActResNet18(1, 5, 8),
]  # fmt: skip


@pytest.mark.parametrize("net", NETWORKS, ids=type)
def test_layout_in_memory_changes_speed_and_nothing_else(net, images):
    for parameter in net.eval().parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    before = net(images)
    after = net.to(memory_format=torch.channels_last)(
        images.contiguous(memory_format=torch.channels_last)
    )
    assert torch.allclose(before, after, atol=1e-4, rtol=1e-4)


def test_a_residual_network_learns():
    """Which half of a picture is bright, at the accuracy that the first 40 steps allow."""
    labels = torch.arange(48) % 2
    images = 0.4 * torch.rand(48, 1, 28, 28)
    images[labels == 0, :, :14] += 0.5
    images[labels == 1, :, 14:] += 0.5
    net = FixupResNet(1, 2)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (net(images).argmax(-1) == labels).all()


def test_the_published_networks_have_their_sizes():
    """Weights and biases, counted by hand from their descriptions."""
    count = lambda net: sum(p.numel() for p in net.parameters())  # noqa: E731
    assert count(LeNet(1, 10)) == (25 * 6 + 6) + (6 * 25 * 16 + 16) + (400 * 120 + 120) + (
        120 * 84 + 84
    ) + (84 * 10 + 10)
    sizes = [(3, 128, 9), (128, 128, 9), (128, 128, 9), (128, 256, 9), (256, 256, 9), (256, 256, 9), (256, 512, 9),
             (512, 256, 1), (256, 128, 1)]  # fmt: skip
    assert count(ConvNet13(3, 10)) == sum(a * b * k + 2 * b for a, b, k in sizes) + 128 * 10 + 10
    stages = [
        (64, 64),
        (64, 64),
        (64, 128),
        (128, 128),
        (128, 256),
        (256, 256),
        (256, 512),
        (512, 512),
    ]
    blocks = sum(9 * a * b + 9 * b * b + 2 * a + 2 * b + a * b * (a != b) for a, b in stages)
    assert count(PreActResNet18(3, 200)) == 27 * 64 + blocks + 2 * 512 + 512 * 200 + 200


def test_a_shortcut_is_a_strided_convolution():
    block = PreActBlock(4, 8, stride=2).eval()
    x = torch.rand(2, 4, 8, 8)
    h = torch.relu(block.norm1(x))
    shortcut = torch.nn.functional.conv2d(h, block.shortcut.weight, stride=2)
    assert torch.allclose(
        block(x), shortcut + block.second(torch.relu(block.norm2(block.first(h)))), atol=1e-6
    )
