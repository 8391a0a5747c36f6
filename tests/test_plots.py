"""What the figures show is what they were given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from flowinv import plots


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def shown(ax):
    return torch.tensor(ax.images[0].get_array().data)


def test_samples_stand_in_a_row_beside_their_image():
    images = torch.rand(3, 1, 8, 8)
    warped = torch.rand(5, 3, 1, 8, 8)
    axes = plots.samples(images, warped, ["a", "b", "c"]).axes
    for b in range(3):
        first, *rest = axes[6 * b : 6 * (b + 1)]
        assert first.get_ylabel() == "abc"[b]
        assert torch.equal(shown(first), images[b, 0])
        assert torch.equal(torch.stack([shown(ax) for ax in rest]), warped[:, b, 0])


def test_areas_of_polar_bars_are_shares():
    quarter = torch.linspace(0, 89.9, 300)
    opposite = torch.linspace(-179, -91, 100)
    degrees = torch.cat([quarter, opposite])[:, None]
    _, polar = plots.rotations(torch.rand(1, 1, 8, 8), degrees, ["x"]).axes
    areas = np.array([bar.get_height() ** 2 for bar in polar.patches])
    middles = np.rad2deg([bar.get_x() + bar.get_width() / 2 for bar in polar.patches])
    assert areas.sum() == pytest.approx(1)
    assert areas[(middles > 0) & (middles < 90)].sum() == pytest.approx(0.75)


def test_polar_bars_start_at_the_top_and_turn_counter_clockwise():
    _, polar = plots.rotations(torch.rand(1, 1, 8, 8), torch.zeros(5, 1), ["x"]).axes
    assert polar.get_theta_offset() == pytest.approx(np.pi / 2)
    assert polar.get_theta_direction() == 1


def test_of_an_opposite_pair_the_last_fan_stands_on_its_head():
    """On one dial, in areas that are shares."""
    degrees = torch.tensor([[0.0, 45, -100], [90, 45, -100], [90, 45, 35], [90, 45, 35]])
    alone, shared = plots.opposite(torch.rand(3, 1, 8, 8), degrees, ["0", "6", "9"]).axes

    def filled(ax):
        bars = [bar for bar in ax.patches if bar.get_height() > 0]
        middles = [np.rad2deg(bar.get_x() + bar.get_width() / 2) for bar in bars]
        return dict(zip(np.round(middles), (bar.get_height() ** 2 for bar in bars)))

    assert filled(alone) == pytest.approx({5: 0.25, 95: 0.75})
    assert filled(shared) == pytest.approx({45: 1, 85: 0.5, -145: 0.5})
    assert alone.get_ylim() == shared.get_ylim()
    names = [text.get_text() for text in shared.get_legend().get_texts()]
    assert names == ["6", "9, turned by 180°"]


def test_around_a_dial_the_image_is_turned_as_its_place_says():
    images = torch.rand(2, 1, 8, 8)
    (dial,) = plots.opposite(images, torch.zeros(4, 2), ["6", "9"]).axes
    dial.figure.canvas.draw()
    middle = dial.transAxes.transform((0.5, 0.5))
    assert len(dial.child_axes) == 8
    for box in dial.child_axes:
        assert torch.equal(shown(box), images[0, 0])
        place = box.transAxes.transform((0.5, 0.5)) - middle
        to_data = box.images[0].get_transform()
        top = to_data.transform((0, 1)) - to_data.transform((0, 0))  # of the image, as drawn
        assert top / np.linalg.norm(top) == pytest.approx(place / np.linalg.norm(place), abs=1e-6)


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


def test_images_in_a_row_are_those_given():
    images = torch.rand(3, 1, 8, 8)
    axes = plots.row(images, ["a", "b", "c"]).axes
    assert torch.equal(torch.stack([shown(ax) for ax in axes]), images[:, 0])
    assert [ax.get_title() for ax in axes] == ["a", "b", "c"]


def test_a_curve_has_one_colour_and_style_in_all_panels():
    x, y = torch.arange(3.0), torch.rand(3)
    figure = plots.panels(x, {"one": {"a": y, "b": 2 * y}, "two": {"b": y}}, "x (m)", "y")
    left, right = figure.axes
    assert left.lines[1].get_xydata()[:, 1] == pytest.approx(2 * y.numpy())
    for of in ("get_color", "get_linestyle", "get_label"):
        assert getattr(left.lines[1], of)() == getattr(right.lines[0], of)()
        assert getattr(left.lines[0], of)() != getattr(right.lines[0], of)()
    assert [left.get_title(), right.get_title(), left.get_ylabel()] == ["one", "two", "y"]
    (ax,) = plots.curves(x, {"a": y}, "x (m)", "y").axes
    assert ax.get_xlabel() == "x (m)" and ax.get_legend() is None


def test_a_full_circle_in_degrees_has_ticks_at_quarter_turns():
    circle = torch.linspace(-179, 179, 5)
    (ax,) = plots.curves(circle, {"a": circle}, "T (degrees)", "y").axes
    assert ax.get_xticks().tolist() == [-180, -90, 0, 90, 180]
    (ax,) = plots.curves(circle / 10, {"a": circle}, "T (degrees)", "y").axes
    assert ax.get_xticks().tolist() != [-180, -90, 0, 90, 180]


def test_pictures_stand_above_their_places():
    x, images = torch.linspace(-180, 180, 7), torch.rand(2, 1, 8, 8)
    (ax,) = plots.pictured(x, x, images, [-180, 90], "degrees", "y").axes
    boxes = ax.child_axes
    assert torch.equal(torch.stack([shown(box) for box in boxes]), images[:, 0])
    ax.figure.canvas.draw()
    for box, place in zip(boxes, (-180, 90)):
        frame = box.get_window_extent()
        middle = ax.transData.inverted().transform(((frame.x0 + frame.x1) / 2, 0))[0]
        assert middle == pytest.approx(place, abs=1)


def test_fans_have_areas_proportional_to_probability():
    degrees, density = torch.linspace(-180, 180, 721), torch.rand(721)
    densities = {"exact": 3 * density, "q": density}
    _, polar = plots.fans(torch.rand(1, 8, 8), degrees, densities, "turned").axes
    filled = polar.patches[0].get_xy()[:721, 1] ** 2
    assert filled == pytest.approx((density / density.mean()).numpy(), rel=1e-4)
    assert polar.lines[0].get_ydata() ** 2 == pytest.approx(filled, rel=1e-4)
    assert polar.get_theta_offset() == pytest.approx(np.pi / 2)


def test_a_graph_shows_what_is_observed_and_what_follows():
    places = {"a": (0, 0), "b": (1, 0), "c": (2, 0)}
    (ax,) = plots.graph(places, [("a", "b"), ("b", "c")], observed="ac", sure="b").axes
    boxes = {text.get_text(): text.get_bbox_patch() for text in ax.texts if text.get_text()}
    assert [name for name, box in boxes.items() if min(box.get_facecolor()) < 1] == ["a", "c"]
    kinds = {name: type(box.get_boxstyle()).__name__ for name, box in boxes.items()}
    assert kinds == {"a": "Circle", "b": "Square", "c": "Circle"}


def test_the_method_has_its_lit_parts_and_no_others_in_colour():
    (ax,) = plots.method("flow", "T").axes
    lit = []
    for name, (*_, words) in plots.METHOD.items():
        (box,) = [text.get_bbox_patch() for text in ax.texts if text.get_text() == words]
        if min(box.get_facecolor()) < 1:
            lit.append(name)
    assert lit == ["flow", "T"]
    with pytest.raises(ValueError, match="expected parts among image, context"):
        plots.method("flows")


# What is left of linear RGB in complete colour blindness, from Machado et al. 2009.
SEEN = {
    "all": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "no red": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "no green": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "no blue": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


def nearest(colours, seen):
    """The smallest distance of two colours in CIELAB, as an eye of this kind sees them."""
    rgb = np.array([to_rgb(colour) for colour in colours])
    linear = np.where(rgb < 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.array(SEEN[seen]).T, 0, 1)
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    x, y, z = np.cbrt(linear @ (to_xyz / to_xyz.sum(1, keepdims=True)).T).T
    lab = np.stack([116 * y, 500 * (x - y), 200 * (y - z)], -1)
    distances = np.linalg.norm(lab[:, None] - lab, axis=-1)
    return distances[np.triu_indices(len(colours), 1)].min()


@pytest.mark.parametrize("seen", SEEN)
def test_colours_are_told_apart_by_colour_blind_eyes(seen):
    """A distance of 10 is clear at a glance; of 2, only side by side."""
    assert nearest(plots.PALETTE, seen) > 15


def test_matplotlibs_own_colours_are_not():
    """So that the law above means something."""
    assert nearest([f"C{n}" for n in range(7)], "no red") < 10
