"""Interactive figures: ``frames`` need no kernel, ``live`` draws as you move.

``frames`` draws every frame beforehand, and a slider shows one. In Jupyter, on Colab and in the
rendered page they work alike: plain HTML, whose sliders hide all frames but one. Paper shows some
frames in a row instead.
"""

import html
import io
import json
from base64 import b64encode
from collections.abc import Callable
from itertools import product

import ipywidgets
import matplotlib.pyplot as plt
from IPython.display import HTML, display
from matplotlib.figure import Figure
from PIL import Image as Picture
from PIL import ImageChops, ImageStat

PAPER = 4  # frames that paper shows

# A frame's number is read off all sliders, the last one fastest, as `itertools.product` counts.
MOVE = (
    "const box = this.closest('.frames'), text = JSON.parse(this.dataset.values)[this.value];"
    " this.setAttribute('aria-valuetext', text); this.nextElementSibling.textContent = text;"
    " let i = 0; for (const s of box.querySelectorAll('input')) i = i * (+s.max + 1) + +s.value;"
    " box.querySelectorAll('img').forEach((frame, k) => frame.hidden = k !== i)"
)


def frames(draw: Callable[..., Figure], start: dict | None = None, **choices: list) -> None:
    """Show the figures ``draw(name=value, …)`` behind a slider a name; some of them on paper.

    Args:
        draw: makes the figure of one value for each name.
        start: {name: value} where sliders start; each else starts at its first value.
        choices: for each name the values that its slider goes through. Every combination is
            drawn, so keep them few.

    Raises:
        ValueError: for a name without values, or a start that is none of them.

    Example:
        >>> def draw(angle):
        ...     figure, ax = plt.subplots(figsize=(1, 1))
        ...     return figure
        >>> frames(draw, angle=[0, 90, 180])
        <IPython.core.display.HTML object>
    """
    start = _starts(start or {}, choices)
    drawn = [webp(draw(**dict(zip(choices, values)))) for values in product(*choices.values())]
    display(HTML(page(drawn, start, choices)))


def live(draw: Callable[..., Figure], **choices: list) -> ipywidgets.VBox:
    """A slider a name, and the figure ``draw(name=value, …)``, drawn anew when one has moved.

    For more values than can be drawn beforehand. It needs a running kernel, in Jupyter or on Colab.

    Args:
        draw: makes the figure of one value for each name.
        choices: for each name the values that its slider goes through; it starts at the first.

    Raises:
        ValueError: for a name without values.

    Example:
        >>> def draw(angle):
        ...     figure, ax = plt.subplots(figsize=(1, 1))
        ...     return figure
        >>> slider, picture = live(draw, angle=range(-180, 181)).children
        >>> slider.value, picture.format
        (-180, 'png')
    """
    _starts({}, choices)
    sliders = {}
    for name, values in choices.items():
        options = [(str(value), value) for value in values]
        sliders[name] = ipywidgets.SelectionSlider(
            options=options, description=name, continuous_update=False
        )
    picture = ipywidgets.Image(format="png")

    def show(change=None) -> None:
        picture.value = png(draw(**{name: slider.value for name, slider in sliders.items()}))

    for slider in sliders.values():
        slider.observe(show, "value")
    show()
    return ipywidgets.VBox([*sliders.values(), picture])


def page(drawn: list[bytes], start: dict, choices: dict[str, list]) -> str:
    """The frames and their sliders as HTML that needs nothing else.

    Args:
        drawn: WebP files, one for each combination of values, the last name fastest.
        start: {name: value} where sliders start.
        choices: {name: values}.
    """
    sliders = [_slider(name, values, start[name]) for name, values in choices.items()]
    paper = {round(i * (len(drawn) - 1) / (PAPER - 1)) for i in range(PAPER)}
    images = []
    for i, (file, values) in enumerate(zip(drawn, product(*choices.values()))):
        chosen = dict(zip(choices, values))
        said = ", ".join(f"{name} {value}" for name, value in chosen.items())
        images.append(
            f'<img alt="{html.escape(said)}"'
            f"{' class=paper' if i in paper else ''}{'' if chosen == start else ' hidden'}"
            f' src="data:image/webp;base64,{b64encode(file).decode()}">'
        )
    return '<div class="frames">\n' + "\n".join([*sliders, *images]) + "\n</div>"


def webp(figure: Figure) -> bytes:
    """The figure as a WebP file of few colours, without loss, and the figure closed."""
    return as_webp(png(figure))


def png(figure: Figure) -> bytes:
    """The figure as a PNG file, and the figure closed."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=80)
    plt.close(figure)
    return file.getvalue()


def as_webp(file: bytes) -> bytes:
    """The PNG file with few colours as a WebP file, which is smaller."""
    buffer = io.BytesIO()
    picture = Picture.open(io.BytesIO(few_colours(file))).convert("RGB")
    picture.save(buffer, format="webp", lossless=True)
    return buffer.getvalue()


def few_colours(file: bytes) -> bytes:
    """The PNG file with a palette, a third of the bytes or less; what is transparent is white.

    The palette has 64, 128 or 256 colours: as few as change the picture by less than half a level
    of 256 on average. Large surfaces keep their colour.

    Args:
        file: a PNG file.
    """
    picture = Picture.open(io.BytesIO(file)).convert("RGBA")
    white = Picture.new("RGBA", picture.size, "white")
    opaque = Picture.alpha_composite(white, picture).convert("RGB")
    for colours in (64, 128, 256):
        few = opaque.quantize(colours, Picture.Quantize.MEDIANCUT, dither=Picture.Dither.NONE)
        apart = ImageChops.difference(opaque, few.convert("RGB"))
        if max(ImageStat.Stat(apart).mean) < 0.5:
            break
    buffer = io.BytesIO()
    few.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def _starts(start: dict, choices: dict[str, list]) -> dict:
    """The value at which each slider starts."""
    known = all(name in choices and value in choices[name] for name, value in start.items())
    if not known or not all(choices.values()):
        raise ValueError(
            "sliders: expected values for each name and starts among them,"
            f" got {choices} and {start}"
        )
    return {name: start.get(name, values[0]) for name, values in choices.items()}


def _slider(name: str, values: list, value: object) -> str:
    """A slider over the values' numbers, with its name before and its value behind it."""
    said = html.escape(str(value))
    return (
        f"<div><span>{html.escape(name)}</span>"
        f' <input type="range" aria-label="{html.escape(name)}" aria-valuetext="{said}"'
        f' min="0" max="{len(values) - 1}" value="{values.index(value)}" autocomplete="off"'
        f' data-values="{html.escape(json.dumps([str(v) for v in values], ensure_ascii=False))}"'
        f' oninput="{MOVE}"> <span>{said}</span></div>'
    )
