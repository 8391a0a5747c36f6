"""What the figures show is what they were given."""

from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from flowinv import plots


@pytest.fixture(autouse=True)
def legible():
    """No figure of these tests has small words, or words that lie on others."""
    yield
    figures = [plt.figure(number) for number in plt.get_fignums()]
    faults = [fault for figure in figures for fault in illegible(figure)]
    plt.close("all")
    assert not faults


def illegible(figure):
    figure.canvas.draw()
    words = [text for text in figure.findobj(Text) if text.get_text().strip() and seen(text)]
    hidden = beyond(figure)  # after the words: it makes labels anew
    words = [text for text in words if text not in hidden]
    # The book's pages show figures at 0.65 of their size or larger, so that 10 pt are 9 px.
    small = [text.get_text() for text in words if text.get_fontsize() < 10]
    boxes = {text: text.get_window_extent().padded(-1) for text in words}
    over = [
        (one.get_text(), two.get_text())
        for one, two in combinations(words, 2)
        if boxes[one].overlaps(boxes[two])
    ]
    return small + over


def beyond(figure):
    """Labels of ticks outside their axes, which are not drawn."""
    return [
        label
        for ax in figure.axes
        for axis in (ax.xaxis, ax.yaxis)
        for place, label in zip(axis.get_majorticklocs(), axis.get_majorticklabels())
        if not min(axis.get_view_interval()) <= place <= max(axis.get_view_interval())
    ]


def seen(artist):
    return artist.get_visible() and (artist.axes is None or artist.axes.axison)


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


def test_a_long_name_beside_its_row_does_not_touch_the_images():
    figure = plots.samples(torch.rand(1, 1, 8, 8), torch.rand(2, 1, 1, 8, 8), ["automobile"])
    figure.canvas.draw()
    first = figure.axes[0]
    assert first.yaxis.label.get_window_extent().x1 <= first.get_window_extent().x0
    assert first.yaxis.label.get_window_extent().x0 >= 0


def test_a_sweep_is_grey_where_the_class_stays_and_has_the_density_on_one_scale():
    degrees = torch.arange(-180.0, 180.0, 5.0)
    kept = degrees.abs()[:, None] <= torch.tensor([40.0, 90.0])
    q = torch.stack([torch.ones(72), (degrees.abs() <= 45).float()], 1)
    figure = plots.sweeps(torch.rand(2, 1, 8, 8), degrees, kept, 7 * q, ["a", "b"])
    for b, (above, polar) in enumerate(zip(figure.axes[::2], figure.axes[1::2])):
        assert above.get_title() == "ab"[b]
        grey = np.array([bar.get_height() > 0 for bar in polar.patches])
        middles = np.rad2deg([bar.get_x() + bar.get_width() / 2 for bar in polar.patches])
        assert (grey == (abs(middles) < [42, 92][b])).all()
        heights = polar.lines[0].get_ydata()
        assert (heights[:-1] ** 2).mean() == pytest.approx(1) and heights[0] == heights[-1]
        assert polar.get_theta_offset() == pytest.approx(np.pi / 2)


def test_widths_are_lines_over_epochs():
    history = [{"epoch": e, "widths": [10.0 * e, 5.0 * e]} for e in (3, 4, 5)]
    (ax,) = plots.widths(history, ("0", "6"), uniform=174).axes
    assert ax.lines[0].get_xydata().tolist() == [[3, 30], [4, 40], [5, 50]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["0", "6"]
    assert "degrees" in ax.get_ylabel()


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


def test_a_band_reaches_as_far_about_its_line_as_it_is_told():
    x = torch.tensor([0.0, 1.0, 2.0])
    y, band = 2 * x, 0.5 + x
    (ax,) = plots.curves(x, {"a": (y, band), "b": y}, "x", "y").axes
    (drawn,) = ax.collections
    corners = drawn.get_paths()[0].vertices
    for at, low, high in zip(x, y - band, y + band):
        own = corners[corners[:, 0] == at.item(), 1]
        assert (own.min(), own.max()) == (low.item(), high.item())
    assert [list(line.get_ydata()) for line in ax.lines] == [y.tolist()] * 2


def test_panels_that_have_the_same_lines_have_one_legend_above_them():
    x, y = torch.arange(3.0), torch.rand(3)
    figure = plots.panels(x, {"one": {"a": y, "b": y}, "two": {"a": y, "b": y}}, "x", "y")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]
    figure.canvas.draw()
    box = legend.get_window_extent()
    for ax in figure.axes:
        assert ax.get_legend() is None and not box.overlaps(ax.get_window_extent())


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


def test_a_diagnosis_shows_samples_the_right_range_and_entropy_under_its_bound():
    image, samples = torch.rand(1, 8, 8), torch.rand(7, 1, 8, 8)
    inside, everywhere = torch.linspace(-44, 44, 90), torch.linspace(-179, 179, 360)
    runs = {
        "fails": (samples, everywhere, [None, 0.6, 0.7]),
        "cured": (samples.flip(0), inside, [None, 0.2, 0.1]),
    }
    below, *axes = plots.diagnosis(image, runs, right=[(-45, 45)], bound=0.69).axes
    assert [line.get_label() for line in below.lines[:2]] == ["fails", "cured"]
    assert below.lines[0].get_xydata().tolist() == [[2, 0.6], [3, 0.7]]  # none in burn-in
    assert below.lines[2].get_ydata() == pytest.approx([0.69, 0.69])
    for (pictures, degrees, _), block in zip(runs.values(), (axes[:9], axes[9:])):
        *strip, polar = block
        assert torch.equal(torch.stack([shown(ax) for ax in strip[1:]]), pictures[:, 0])
        assert torch.equal(shown(strip[0]), image[0])
        wedge, *bars = polar.patches
        low, high = np.rad2deg([wedge.get_x(), wedge.get_x() + wedge.get_width()])
        assert (low, high) == pytest.approx((-45, 45))
        filled = [bar for bar in bars if bar.get_height() > 0]
        ends = np.rad2deg([filled[0].get_x(), filled[-1].get_x() + filled[-1].get_width()])
        assert ends == pytest.approx(
            [
                10 * round(x / 10 + y)
                for x, y in ((degrees[0].item(), -0.5), (degrees[-1].item(), 0.5))
            ]
        )
        assert sum(bar.get_height() ** 2 for bar in bars) == pytest.approx(1)


def test_bars_of_a_diagnosis_that_do_not_fit_end_at_the_rim():
    runs = {"collapsed": (torch.rand(7, 1, 8, 8), torch.full((50,), 33.0), [-9.0])}
    *_, polar = plots.diagnosis(torch.rand(1, 8, 8), runs, [(-90, 90)], bound=0.69).axes
    highest = max(bar.get_height() for bar in polar.patches[1:])
    assert highest == plots.circles.RIM == polar.get_ylim()[1]


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


def test_rotations_stand_over_the_arcs_where_they_should_be():
    right = [[(-90.0, 90.0)], []]
    figure = plots.rotations(torch.rand(2, 1, 8, 8), torch.zeros(50, 2), ["a", "b"], right)
    grey = to_rgb("lightgrey")
    arcs = []
    for ax in figure.axes[1::2]:
        arcs.append([bar for bar in ax.patches if to_rgb(bar.get_facecolor()) == grey])
    ((arc,), none) = arcs
    assert np.rad2deg([arc.get_x(), arc.get_width()]) == pytest.approx([-90, 180])
    assert not none


def test_clouds_show_every_point_and_the_line_in_every_panel():
    x = torch.arange(5.0)
    panels = {"one": {"a": (x, x + 1), "b": (x[:2], x[:2])}, "two": {"a": (x, 2 * x)}}
    axes = plots.clouds(panels, "x", "y", line=([0, 4], [0, 4])).axes
    for ax, labelled in zip(axes, panels.values()):
        for drawn, (own_x, own_y) in zip(ax.collections, labelled.values(), strict=True):
            assert drawn.get_offsets().tolist() == torch.stack([own_x, own_y], -1).tolist()
        (line,) = ax.lines
        assert line.get_xydata().tolist() == [[0, 0], [4, 4]]


def test_captioned_images_have_titles_of_their_own():
    images = torch.rand(2, 3, 1, 8, 8)
    titles = [["a", "b", "c"], ["d", "e", "f"]]
    axes = plots.captioned(images, titles, ["narrow", "wide"]).axes
    assert [ax.get_title() for ax in axes] == list("abcdef")
    assert (axes[0].get_ylabel(), axes[3].get_ylabel()) == ("narrow", "wide")
    for ax, image in zip(axes, images.flatten(0, 1)):
        assert np.array_equal(np.squeeze(ax.images[0].get_array()), image[0].numpy())


def test_strips_show_each_value_beside_its_groups_name_and_the_median():
    values = {"0": torch.tensor([10.0, 20.0, 90.0]), "6": torch.tensor([5.0])}
    (ax,) = plots.strips(values, "width (degrees)").axes
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "6"]
    for n, own in enumerate(values.values()):
        dots, bar = ax.lines[2 * n : 2 * n + 2]
        assert sorted(dots.get_ydata()) == sorted(own.tolist())
        assert all(abs(x - n) <= 0.3 for x in dots.get_xdata())
        assert set(bar.get_ydata()) == {own.median().item()}


def test_intervals_are_means_and_deviations_and_say_what_lies_outside():
    panels = {"turned": {"none": (70.4, 1.0, 3), "box": (97.0, 0.5, 3), "flow": (98.0, None, 1)}}
    (ax,) = plots.intervals(panels, "accuracy (%)", low=90).axes
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["none", "box", "flow"]
    assert [text.get_text().strip() for text in ax.texts] == ["← 70"]
    assert ax.get_xlim()[0] == 90 and ax.yaxis_inverted()
    dots = [
        (line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines if len(line.get_xdata())
    ]
    assert (97.0, 1) in dots and (98.0, 2) in dots
    (bar,) = [bars for bars in ax.collections if len(bars.get_segments())]
    assert bar.get_segments()[0][:, 0] == pytest.approx([96.5, 97.5])


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


def test_a_gallery_names_its_rows_and_columns_and_shows_signs_on_one_scale():
    up, down = torch.rand(3, 1, 8, 8), -4 * torch.rand(3, 1, 8, 8)
    axes = plots.gallery({"up": up, "down": down}, ["a", "b", "c"], signed=True).axes
    assert [ax.get_title() for ax in axes[:3]] == ["a", "b", "c"]
    assert [axes[0].get_ylabel(), axes[3].get_ylabel()] == ["up", "down"]
    assert torch.equal(torch.stack([shown(ax) for ax in axes[3:]]), down[:, 0])
    half = float(down.abs().max()) / 2
    assert all(ax.images[0].get_clim() == (-half, half) for ax in axes)


def test_fields_point_where_the_velocity_does():
    """y down, as in the picture: arrows are drawn in its own coordinates."""
    velocity = torch.stack([torch.full((14, 14), 0.5), torch.full((14, 14), 0.25)], -1)
    ax = plots.fields(torch.rand(1, 14, 14), {"shift": velocity}).axes[0]
    (arrows,) = ax.collections
    assert ax.get_title() == "shift" and ax.yaxis_inverted()
    assert set(arrows.U / arrows.V) == {2.0} and min(arrows.U) > 0 and min(arrows.V) > 0


def test_the_arrow_of_a_lookup_starts_at_the_pixel_and_ends_at_its_place():
    places = torch.rand(4, 8, 2)
    image, warped = torch.rand(1, 4, 8), torch.rand(1, 4, 8)
    figure = plots.lookup(image, places, warped, row=3, column=0)
    old, new = figure.axes
    assert torch.equal(shown(old), image[0]) and torch.equal(shown(new), warped[0])
    (arrow,) = figure.artists
    assert arrow.xy1 == (-0.875, 0.75)
    assert arrow.xy2 == pytest.approx(places[3, 0].tolist())


def test_a_bent_density_stands_at_the_heights_of_its_map():
    u = torch.linspace(-1, 1, 5)
    T, q = u**3, torch.arange(5.0)
    knots = torch.tensor([-1.0, 1.0])
    curve, beside, below, _ = plots.bent(u, torch.ones(5), T, q, (knots, knots)).axes
    assert curve.lines[0].get_xydata() == pytest.approx(torch.stack([u, T], -1).numpy())
    assert curve.lines[1].get_xydata().tolist() == [[-1, -1], [1, 1]]
    outline = {tuple(point) for point in beside.collections[0].get_paths()[0].vertices}
    assert {(0.0, -1.0), (4.0, 1.0)} <= outline
    assert curve.get_ylim() == beside.get_ylim() and curve.get_xlim() == below.get_xlim()


def test_heatmaps_have_the_first_coefficient_to_the_right_and_one_scale():
    density = torch.zeros(4, 4)
    density[3, 0] = 1.0  # first coefficient high, second low
    maps = {name: n * density for n, name in enumerate("abcd", start=1)}
    axes = plots.heatmaps(maps, "b", "d").axes
    assert axes[0].images[0].get_array()[0, 3] == 1 and axes[0].images[0].origin == "lower"
    assert [ax.get_title() for ax in axes[:4]] == list("abcd")
    assert len({ax.images[0].get_clim() for ax in axes[:4]}) == 1
    assert axes[0].get_ylabel() == axes[3].get_ylabel() == "d" and axes[3].get_xlabel() == "b"
    assert not axes[5].axison
