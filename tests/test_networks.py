"""Laws of the networks."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flowinv import networks
from flowinv.networks import (
    ConvNet,
    ConvNet13,
    CropNet,
    Features,
    FixupResNet,
    LeNet,
    Network,
    PreActBlock,
    PreActResNet18,
    Pretrained,
)

SMALL = {
    ConvNet: (1, 5),
    CropNet: (1, [(2, 0.5), (1, 1.0)]),
    FixupResNet: (1, 5),
    LeNet: (1, 5),
    ConvNet13: (1, 5, 8),
    PreActResNet18: (1, 5, 8),
    Pretrained: (LeNet(1, 5), [0.5], [0.25]),
}


def test_fixup_starts_as_a_network_whose_blocks_do_nothing(images, labels):
    """Every class is as probable as any other, and the first gradient is the head's alone."""
    net = FixupResNet(1, 5, depth=14)
    logits = net(images)
    assert torch.equal(logits, torch.zeros(8, 5))
    F.cross_entropy(logits, labels).backward()
    moved = {name for name, p in net.named_parameters() if p.grad.any()}
    assert moved == {"head.weight", "head.bias"}
    x = torch.rand(4, 16, 8, 8)
    assert torch.equal(net.blocks[0](x), x)
    halved = net.blocks[2](x)
    assert torch.equal(halved[:, :16], x[..., ::2, ::2])
    assert not halved[:, 16:].any()


@pytest.mark.parametrize("depth", [8, 14, 20])
def test_a_residual_network_has_the_depth_it_says(depth):
    """6 n + 2 layers with weights: the first, two a block, the head."""
    net = FixupResNet(3, 10, depth)
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth


@pytest.mark.parametrize("depth", [2, 9])
def test_a_depth_that_cannot_be_is_a_one_line_error(depth):
    with pytest.raises(ValueError, match=r"^depth: expected 6 n \+ 2.*$"):
        FixupResNet(3, 10, depth)


def test_every_network_promises_both_layouts_in_memory():
    classes = [c for c in vars(networks).values() if isinstance(c, type)]
    own = {c for c in classes if issubclass(c, Network) and c is not Network}
    assert own == set(SMALL)
    assert all(c.channels_last for c in own)


@pytest.mark.parametrize("cls", SMALL)
def test_layout_in_memory_changes_speed_and_nothing_else(cls, images):
    net = cls(*SMALL[cls]).eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    before = net(images)
    net.to(memory_format=torch.channels_last)
    after = net(images.contiguous(memory_format=torch.channels_last))
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
        loss = F.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (net(images).argmax(-1) == labels).all()


def count(net):
    return sum(parameter.numel() for parameter in net.parameters())


def test_the_published_networks_have_their_sizes():
    """Weights and biases, counted by hand from their descriptions."""
    convolutions = (25 * 6 + 6) + (6 * 25 * 16 + 16)
    layers = (400 * 120 + 120) + (120 * 84 + 84) + (84 * 10 + 10)
    assert count(LeNet(1, 10)) == convolutions + layers

    channels = [3, 16, 16, 16, 32, 32, 64, 64]
    convolutions = sum(9 * a * b for a, b in zip(channels, channels[1:]))
    biases = 2 + 3 * (4 + 1)  # at the ends, and in each block with its number
    assert count(FixupResNet(3, 10)) == convolutions + biases + 64 * 10 + 10

    channels = [3, 128, 128, 128, 256, 256, 256, 512, 256, 128]
    pixels = [9, 9, 9, 9, 9, 9, 9, 1, 1]
    sizes = zip(channels, channels[1:], pixels)
    convolutions = sum(a * b * size + 2 * b for a, b, size in sizes)
    assert count(ConvNet13(3, 10)) == convolutions + 128 * 10 + 10

    channels = [64, 64, 64, 128, 128, 256, 256, 512, 512]
    blocks = 0
    for a, b in zip(channels, channels[1:]):
        blocks += 9 * a * b + 9 * b * b + 2 * a + 2 * b
        blocks += a * b if a != b else 0
    ends = 27 * 64 + 2 * 512 + 512 * 200 + 200
    assert count(PreActResNet18(3, 200)) == blocks + ends


def test_a_shortcut_is_a_strided_convolution():
    block = PreActBlock(4, 8, stride=2).eval()
    x = torch.rand(2, 4, 8, 8)
    h = F.relu(block.norm1(x))
    shortcut = F.conv2d(h, block.shortcut.weight, stride=2)
    rest = block.second(F.relu(block.norm2(block.first(h))))
    assert torch.allclose(block(x), shortcut + rest, atol=1e-6)


def test_an_encoder_may_look_through_the_classifiers_eyes_and_not_teach_it(images):
    """What it sees is what the layer gives; gradients stop there; copies look at their own copy."""
    classifier = LeNet(1, 5)
    encoder = Features(classifier, "layers.8", images[:1], out_features=3)
    seen = classifier.layers[:9](networks._normalise(images))
    torch.testing.assert_close(encoder(images), encoder.head(seen))
    assert {name for name, _ in encoder.named_parameters()} == {"head.weight", "head.bias"}
    encoder(images).sum().backward()
    assert encoder.head.weight.grad.any() and classifier.layers[0].weight.grad is None
    both = copy.deepcopy(nn.ModuleList([classifier, encoder]))
    with torch.no_grad():
        both[0].layers[0].weight.zero_()
    assert not torch.allclose(both[1](images), encoder(images))
    torch.testing.assert_close(encoder(images), encoder.head(seen))
    with pytest.raises(ValueError, match="expected a layer's name, got 'layer'; there are layers,"):
        Features(classifier, "layer", images[:1], out_features=3)


def test_looking_at_a_network_that_learns_moves_none_of_its_statistics():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))
    images = torch.rand(5, 1, 8, 8)
    before = copy.deepcopy(network.state_dict())
    features = Features(network, "1", images, 6)
    features(images)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert network.training and network[1].training
