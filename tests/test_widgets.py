"""Interactive figures: drawn beforehand, shown by sliders without a kernel, some on paper."""

import html
import io
import json
import re
from base64 import b64decode

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image as Picture

from flowinv import widgets


@pytest.fixture
def displayed(monkeypatch):
    """The HTML that `frames` displays."""
    parts = []
    monkeypatch.setattr(widgets, "display", lambda shown: parts.append(shown.data))
    return parts


def draw(**chosen):
    """A figure that tells what was chosen by its size."""
    pixels = sum(chosen.values())
    return plt.figure(figsize=(pixels / 80, 1))


def images(page):
    """(alternative text, other attributes, width) of each frame."""
    found = re.findall(r'<img alt="(.*?)"(.*?) src="data:image/webp;base64,(.*?)">', page)
    return [
        (html.unescape(alt), rest, Picture.open(io.BytesIO(b64decode(file))).width)
        for alt, rest, file in found
    ]


def test_every_combination_is_drawn_once_in_the_order_in_which_sliders_count(displayed):
    """The last slider moves fastest; only the frame where sliders start is not hidden."""
    drawn = []

    def draw_once(**chosen):
        drawn.append(chosen)
        return draw(**chosen)

    widgets.frames(draw_once, start={"b": 30}, a=[100, 200, 300], b=[10, 20, 30, 40])
    expected = [{"a": a, "b": b} for a in (100, 200, 300) for b in (10, 20, 30, 40)]
    assert drawn == expected
    frames = images(displayed[0])
    assert [width for _, _, width in frames] == [c["a"] + c["b"] for c in expected]
    assert [alt for alt, _, _ in frames] == [f"a {c['a']}, b {c['b']}" for c in expected]
    assert [i for i, (_, rest, _) in enumerate(frames) if "hidden" not in rest] == [2]
    assert not plt.get_fignums()


def test_a_slider_says_its_name_and_value(displayed):
    """Whatever characters these have; the value by its number, and as text."""
    widgets.frames(lambda **_: draw(a=80), start={"<α>": 'say "1"'}, **{"<α>": [0.5, 'say "1"']})
    ((name, text, last, value, values),) = re.findall(
        r'aria-label="(.*?)" aria-valuetext="(.*?)" min="0" max="(.*?)" value="(.*?)".*?'
        r'data-values="(.*?)"',
        displayed[0],
    )
    assert (html.unescape(name), html.unescape(text)) == ("<α>", 'say "1"')
    assert (last, value) == ("1", "1")
    assert json.loads(html.unescape(values)) == ["0.5", 'say "1"']


def test_paper_shows_frames_from_the_first_to_the_last(displayed):
    for number, expected in ((9, [0, 3, 5, 8]), (3, [0, 1, 2]), (1, [0])):
        widgets.frames(draw, a=list(range(80, 80 + number)))
        frames = images(displayed.pop())
        assert [i for i, (_, rest, _) in enumerate(frames) if "paper" in rest] == expected


def test_a_palette_is_as_small_as_keeps_the_picture():
    """A few colours stay exactly; many shades need more of them, noise the most."""
    y, x = np.mgrid[:80, :80] / 80
    noise = np.random.default_rng(0).random((80, 80, 3))
    five = (np.stack([x, y, x], -1) * 4).round() / 4
    for picture, colours, most in ((five, 25, 0.6), (noise, 256, 20)):
        figure = plt.figure(figsize=(1, 1))
        figure.figimage(picture)
        frame = Picture.open(io.BytesIO(widgets.webp(figure)))
        assert len(frame.getcolors(80 * 80)) == colours
        assert abs(np.asarray(frame.convert("RGB")) - 255 * picture).mean() < most


def test_what_is_transparent_is_white():
    buffer = io.BytesIO()
    Picture.new("RGBA", (4, 4), (255, 0, 0, 0)).save(buffer, format="png")
    few = Picture.open(io.BytesIO(widgets.few_colours(buffer.getvalue()))).convert("RGB")
    assert few.getcolors() == [(16, (255, 255, 255))]


@pytest.mark.parametrize(
    "wrong", [{"a": []}, {"a": [1], "start": {"a": 2}}, {"a": [1], "start": {"b": 2}}]
)
def test_what_cannot_be_shown_is_a_one_line_error(wrong):
    message = r"^sliders: expected values for each name and starts among them.*$"
    with pytest.raises(ValueError, match=message):
        widgets.frames(draw, **wrong)


def test_a_live_figure_is_drawn_anew_for_what_its_sliders_say():
    """Each slider goes through its own values and no other."""
    box = widgets.live(draw, a=[100, 200], b=range(10, 41, 10))
    a, b, picture = box.children
    assert [value for _, value in b.options] == [10, 20, 30, 40] and a.description == "a"

    def width():
        return Picture.open(io.BytesIO(picture.value)).width

    assert width() == 110
    a.value = 200
    b.value = 40
    assert width() == 240 and not plt.get_fignums()


def test_a_live_figure_of_nothing_is_refused():
    with pytest.raises(ValueError, match="sliders: expected values for each name"):
        widgets.live(draw, a=[])
