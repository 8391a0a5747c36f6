"""Interactive figures: drawn beforehand, linked in the browser, a strip of frames for print."""

import io

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image as Picture

from flowinv import widgets

with_stacks = pytest.mark.skipif(
    not hasattr(ipywidgets, "Stack"), reason="ipywidgets 7 has no stacks: another test has its way"
)


@pytest.fixture
def displayed(monkeypatch):
    """What `frames` displays: the strip, and the box of sliders and frames."""
    parts = []
    monkeypatch.setattr(widgets, "display", lambda *shown: parts.extend(shown))
    return parts


def draw(**chosen):
    """A figure that tells what was chosen by its size."""
    pixels = sum(chosen.values())
    return plt.figure(figsize=(pixels / 80, 1))


def width(image):
    return Picture.open(io.BytesIO(image.value)).width


@with_stacks
def test_every_combination_is_drawn_once_and_shown_by_its_sliders(displayed):
    """Whatever the sliders say, the frame on show is the one drawn for these values."""
    drawn = []

    def draw_once(**chosen):
        drawn.append(chosen)
        return draw(**chosen)

    widgets.frames(draw_once, start={"b": 30}, a=[100, 200, 300], b=[10, 20, 30, 40])
    assert drawn == [{"a": a, "b": b} for a in (100, 200, 300) for b in (10, 20, 30, 40)]
    a, b, stack = displayed[1].children
    assert (a.index, b.index, b.value) == (0, 2, "30")
    assert stack.selected_index == 0
    for i, part in enumerate(stack.children):
        assert part.selected_index == 2
        shown = [width(image) for image in part.children]
        assert shown == [100 * (i + 1) + 10 * (j + 1) for j in range(4)]
    assert not plt.get_fignums()


@with_stacks
def test_each_slider_is_linked_to_each_of_its_stacks_in_the_browser(displayed, monkeypatch):
    links = []
    monkeypatch.setattr(ipywidgets, "jslink", lambda *ends: links.append(ends))
    widgets.frames(draw, a=[100, 200], b=[10, 20, 30])
    a, b, stack = displayed[1].children
    of_b = [((b, "index"), (part, "selected_index")) for part in stack.children]
    assert links == [*of_b, ((a, "index"), (stack, "selected_index"))]


def test_without_stacks_a_kernel_exchanges_the_frames(displayed, monkeypatch):
    """ipywidgets 7, which Colab has."""
    monkeypatch.delattr(ipywidgets, "Stack", raising=False)
    widgets.frames(draw, a=[100, 200, 300])
    slider, box = displayed[1].children
    assert [width(image) for image in box.children] == [100]
    slider.index = 2
    assert [width(image) for image in box.children] == [300]


def test_paper_shows_a_strip_of_frames(displayed):
    widgets.frames(draw, a=list(range(80, 89)))
    strip = Picture.open(io.BytesIO(displayed[0].data))
    assert strip.size == (widgets.STRIP * 88, 80)


def test_wide_frames_stand_below_one_another_in_the_strip(displayed):
    widgets.frames(draw, a=[180, 200])
    strip = Picture.open(io.BytesIO(displayed[0].data))
    assert strip.size == (200, 2 * 80)


def test_a_frame_keeps_its_colours_in_a_palette():
    """Those of a line drawing exactly, many shades within a few levels of 256."""
    figure = plt.figure(figsize=(1, 1), facecolor="#12AB9F")
    frame = Picture.open(io.BytesIO(widgets.png(figure)))
    assert frame.mode == "P" and frame.convert("RGB").getcolors() == [(6400, (0x12, 0xAB, 0x9F))]
    y, x = np.mgrid[:80, :80] / 80
    shades = np.stack([x, y, x * y], -1)  # 6,400 colours
    figure = plt.figure(figsize=(1, 1))
    figure.figimage(shades)
    frame = Picture.open(io.BytesIO(widgets.png(figure))).convert("RGB")
    assert abs(np.asarray(frame) / 255 - shades).mean() < 0.02


@pytest.mark.parametrize(
    "wrong", [{"a": []}, {"a": [1], "start": {"a": 2}}, {"a": [1], "start": {"b": 2}}]
)
def test_what_cannot_be_shown_is_a_one_line_error(wrong):
    message = r"^frames: expected values for each name and starts among them.*$"
    with pytest.raises(ValueError, match=message):
        widgets.frames(draw, **wrong)
