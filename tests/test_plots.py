"""What the figures show is what they were given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from flowinv import plots


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_samples_stand_in_a_row_beside_their_image():
    images, warped = torch.rand(3, 1, 8, 8), torch.rand(5, 3, 1, 8, 8)
    axes = np.array(plots.samples(images, warped, ["a", "b", "c"]).axes).reshape(3, 6)
    shown = torch.tensor(np.stack([[ax.images[0].get_array().data for ax in row] for row in axes]))
    assert torch.allclose(shown[:, 0], images[:, 0]) and torch.allclose(
        shown[:, 1:], warped[:, :, 0].movedim(0, 1)
    )
    assert [row[0].get_ylabel() for row in axes] == ["a", "b", "c"]


def test_areas_of_polar_bars_are_shares():
    degrees = torch.cat([torch.linspace(0, 89.9, 300), torch.linspace(-179, -91, 100)])[:, None]
    pictures, polar = plots.rotations(torch.rand(1, 1, 8, 8), degrees, ["x"]).axes
    heights = np.array([bar.get_height() for bar in polar.patches])
    middles = np.rad2deg([bar.get_x() + bar.get_width() / 2 for bar in polar.patches])
    assert np.sum(heights**2) == pytest.approx(1)
    assert np.sum(heights[(middles > 0) & (middles < 90)] ** 2) == pytest.approx(0.75)
    assert polar.get_theta_offset() == pytest.approx(np.pi / 2) and polar.get_theta_direction() == 1


def test_widths_are_lines_over_epochs():
    history = [{"epoch": e, "widths": [10.0 * e, 5.0 * e]} for e in (3, 4, 5)]
    (ax,) = plots.widths(history, ("0", "6"), uniform=174).axes
    assert ax.lines[0].get_xydata().tolist() == [[3, 30], [4, 40], [5, 50]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["0", "6"]
    assert "degrees" in ax.get_ylabel()


def test_bars_are_as_high_as_their_numbers():
    values = {"flow": {"plain": 97.0, "turned": 96.0}, "none": {"plain": 98.0, "turned": 65.0}}
    (ax,) = plots.bars(values, "accuracy (%)").axes
    assert [bar.get_height() for bar in ax.patches] == [97, 98, 96, 65]
    assert {text.get_text() for text in ax.texts} == {"97.0", "98.0", "96.0", "65.0"}


def test_the_palette_is_told_apart_without_colour():
    assert len(set(plots.PALETTE)) == len(plots.PALETTE) == len(set(plots.LINES))
