"""Interactive figures that need no kernel: every frame is drawn beforehand, a slider shows one.

With a kernel, on Colab and in the rendered page they work alike, as the slider is linked to the
frames in the browser. Paper shows a strip of some frames instead.
"""

import io
from collections.abc import Callable

import ipywidgets
import matplotlib.pyplot as plt
from IPython.display import Image, display
from matplotlib.figure import Figure
from PIL import Image as Picture

STRIP = 4  # frames that paper shows


def frames(draw: Callable[..., Figure], start: dict | None = None, **choices: list) -> None:
    """Show the figures ``draw(name=value, …)`` behind a slider a name, and a strip for print.

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
        >>> frames(draw, angle=[0, 90, 180])  # doctest: +ELLIPSIS
        <IPython.core.display.Image object> VBox(children=(SelectionSlider(description='angle', ...
    """
    start = _starts(start or {}, choices)
    sliders = {name: _slider(name, values, start[name]) for name, values in choices.items()}
    drawn: list[bytes] = []

    def stack(chosen: dict) -> ipywidgets.Widget:
        """What shows the frames in which the names of ``chosen`` have these values."""
        left = [name for name in choices if name not in chosen]
        if not left:
            drawn.append(png(draw(**chosen)))
            return _picture(drawn[-1])
        name = left[0]
        parts = [stack({**chosen, name: value}) for value in choices[name]]
        return _linked(sliders[name], parts)

    shown = stack({})
    display(Image(_strip(_some(drawn))), ipywidgets.VBox([*sliders.values(), shown]))


def png(figure: Figure) -> bytes:
    """The figure as a PNG file, and the figure closed. 256 colours: a third of the bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    plt.close(figure)
    return _file(Picture.open(buffer).convert("RGB"), colours=256)


def _starts(start: dict, choices: dict[str, list]) -> dict:
    """The value at which each slider starts."""
    known = all(name in choices and value in choices[name] for name, value in start.items())
    if not known or not all(choices.values()):
        raise ValueError(
            "frames: expected values for each name and starts among them,"
            f" got {choices} and {start}"
        )
    return {name: start.get(name, values[0]) for name, values in choices.items()}


def _slider(name: str, values: list, value: object) -> ipywidgets.SelectionSlider:
    return ipywidgets.SelectionSlider(
        options=[str(value) for value in values],
        value=str(value),
        description=name,
        style={"description_width": "initial"},
        layout={"width": "24em"},
    )


def _picture(file: bytes) -> ipywidgets.Image:
    layout = {"max_width": "100%", "object_fit": "contain"}
    return ipywidgets.Image(value=file, format="png", layout=layout)


def _linked(
    slider: ipywidgets.SelectionSlider, parts: list[ipywidgets.Widget]
) -> ipywidgets.Widget:
    """The one of the parts that the slider says."""
    if hasattr(ipywidgets, "Stack"):
        stack = ipywidgets.Stack(parts, selected_index=slider.index)
        ipywidgets.jslink((slider, "index"), (stack, "selected_index"))
        return stack

    box = ipywidgets.Box([parts[slider.index]])  # ipywidgets 7 exchanges frames with a kernel only

    def exchange(change: dict) -> None:
        box.children = [parts[change["new"]]]

    slider.observe(exchange, "index")
    return box


def _some(files: list[bytes]) -> list[bytes]:
    """At most STRIP of them, evenly from the first to the last."""
    if len(files) <= STRIP:
        return files
    last = len(files) - 1
    return [files[round(i * last / (STRIP - 1))] for i in range(STRIP)]


def _strip(files: list[bytes]) -> bytes:
    """Pictures below one another if they are wide, else side by side, as a PNG file."""
    pictures = [Picture.open(io.BytesIO(file)).convert("RGB") for file in files]
    W = max(picture.width for picture in pictures)
    H = max(picture.height for picture in pictures)
    down = W > 1.6 * H
    size = (W, H * len(files)) if down else (W * len(files), H)
    strip = Picture.new("RGB", size, "white")
    for i, picture in enumerate(pictures):
        strip.paste(picture, (0, i * H) if down else (i * W, 0))
    return _file(strip, colours=64)


def _file(picture: Picture.Image, colours: int) -> bytes:
    """The picture (RGB) as a PNG file with a palette of its own."""
    buffer = io.BytesIO()
    few = picture.quantize(colours, dither=Picture.Dither.NONE)
    few.save(buffer, format="png", optimize=True)
    return buffer.getvalue()
