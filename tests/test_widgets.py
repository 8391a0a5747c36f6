"""Interactive figures: drawn beforehand, linked in the browser, with a strip of frames for print."""

import io

import ipywidgets
import matplotlib.pyplot as plt
import pytest
from PIL import Image as Picture

from flowinv import widgets


@pytest.fixture
def shown(monkeypatch):
    """What `frames` displays, and the values it drew."""
    displayed, drawn = [], []
    monkeypatch.setattr(widgets, "display", lambda *parts: displayed.extend(parts))

    def draw(**chosen):
        drawn.append(chosen)
        figure, ax = plt.subplots(figsize=(1, 1))
        ax.set_title(str(chosen))
        return figure

    return displayed, drawn, draw


def test_every_combination_is_drawn_once_and_shown_by_its_sliders(shown):
    """Whatever the sliders say, the frame on show is the one drawn for these values."""
    displayed, drawn, draw = shown
    files = []
    original = widgets.png
    widgets.png = lambda figure: files.append(original(figure)) or files[-1]
    try:
        widgets.frames(draw, start={"b": 30}, a=[1, 2, 3], b=[10, 20, 30, 40])
    finally:
        widgets.png = original
    assert drawn == [{"a": a, "b": b} for a in (1, 2, 3) for b in (10, 20, 30, 40)]
    a, b, stack = displayed[1].children
    assert (a.index, b.index, b.value) == (0, 2, "30")
    for i in range(3):
        for j in range(4):
            assert stack.children[i].children[j].value == files[4 * i + j]
    assert stack.selected_index == 0 and {part.selected_index for part in stack.children} == {2}
    assert not plt.get_fignums()


def test_each_slider_is_linked_to_each_of_its_stacks_in_the_browser(shown, monkeypatch):
    links = []
    monkeypatch.setattr(ipywidgets, "jslink", lambda source, target: links.append((source, target)))
    displayed, _, draw = shown
    widgets.frames(draw, a=[1, 2], b=[1, 2, 3])
    a, b, stack = displayed[1].children
    assert ((a, "index"), (stack, "selected_index")) in links
    assert (
        all(((b, "index"), (part, "selected_index")) in links for part in stack.children)
        and len(links) == 3
    )


def test_without_stacks_a_kernel_exchanges_the_frames(shown, monkeypatch):
    """ipywidgets 7, which Colab has."""
    monkeypatch.delattr(ipywidgets, "Stack")
    displayed, _, draw = shown
    widgets.frames(draw, a=[1, 2, 3])
    slider, box = displayed[1].children
    first = box.children
    slider.index = 2
    assert len(box.children) == 1 and box.children != first


def test_paper_shows_a_strip_of_frames(shown):
    displayed, _, draw = shown
    widgets.frames(draw, a=list(range(9)))
    strip = Picture.open(io.BytesIO(displayed[0].data))
    assert strip.size == (widgets.STRIP * 80, 80)


@pytest.mark.parametrize(
    "wrong", [{"a": []}, {"a": [1], "start": {"a": 2}}, {"a": [1], "start": {"b": 2}}]
)
def test_what_cannot_be_shown_is_a_one_line_error(wrong):
    with pytest.raises(
        ValueError, match="expected values for each name and starts among them"
    ) as error:
        widgets.frames(lambda **chosen: None, **wrong)
    assert "\n" not in str(error.value)
