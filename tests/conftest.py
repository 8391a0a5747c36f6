"""Shared by all tests: a fixed seed, and pictures small enough to be quick."""

import pytest
import torch


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def images():
    """Eight smooth random pictures, (8, 1, 28, 28): coarse noise, enlarged."""
    return torch.nn.functional.interpolate(torch.rand(8, 1, 4, 4), size=28, mode="bicubic").clamp(
        0, 1
    )


@pytest.fixture
def labels():
    return torch.arange(8) % 5
