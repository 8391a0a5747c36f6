"""Interactive figures that need no kernel: every frame is drawn beforehand, and a slider shows one.

With a kernel, on Colab and in the rendered page they work alike, as the slider is linked to the frames in the browser.
Paper shows a strip of some frames instead.
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
    """Show draw(name=value, …) for the values that one slider a name chooses, and a strip of some of them for print.

    choices: for each name the values that its slider goes through. Every combination is drawn, so keep them few.
    start: of the sliders, {name: value}; each else starts at its first value.
    Raises ValueError for a name without values, or a start that is none of them.

    >>> def draw(angle):
    ...     figure, ax = plt.subplots(figsize=(1, 1))
    ...     return figure
    >>> frames(draw, angle=[0, 90, 180])  # doctest: +ELLIPSIS
    <IPython.core.display.Image object> VBox(children=(SelectionSlider(description='angle', ...
    """
    start = {name: values[0] for name, values in choices.items() if values} | (start or {})
    if start.keys() != choices.keys() or any(
        start[name] not in values for name, values in choices.items()
    ):
        raise ValueError(
            f"frames: expected values for each name and starts among them, got {choices} and {start}"
        )
    sliders = {
        name: ipywidgets.SelectionSlider(
            options=[str(value) for value in values],
            value=str(start[name]),
            description=name,
            style={"description_width": "initial"},
            layout={"width": "24em"},
        )
        for name, values in choices.items()
    }
    drawn: list[bytes] = []
    stack = _stack(draw, sliders, choices, {}, drawn)
    chosen = (
        [drawn[round(i * (len(drawn) - 1) / (STRIP - 1))] for i in range(STRIP)]
        if len(drawn) > STRIP
        else drawn
    )
    display(Image(_strip(chosen)), ipywidgets.VBox([*sliders.values(), stack]))


def _stack(
    draw: Callable, sliders: dict, choices: dict, chosen: dict, drawn: list[bytes]
) -> ipywidgets.Widget:
    """The frames of the names that are not chosen yet: a picture, or one picture (or stack) for each value, one of them shown."""
    left = [name for name in choices if name not in chosen]
    if not left:
        drawn.append(png(draw(**chosen)))
        return ipywidgets.Image(
            value=drawn[-1], format="png", layout={"max_width": "100%", "object_fit": "contain"}
        )
    name, slider = left[0], sliders[left[0]]
    parts = [
        _stack(draw, sliders, choices, chosen | {name: value}, drawn) for value in choices[name]
    ]
    if hasattr(ipywidgets, "Stack"):
        stack = ipywidgets.Stack(parts, selected_index=slider.index)
        ipywidgets.jslink((slider, "index"), (stack, "selected_index"))
    else:  # ipywidgets 7: only a kernel can exchange the frames
        stack = ipywidgets.Box([parts[slider.index]])
        slider.observe(lambda change: setattr(stack, "children", [parts[change["new"]]]), "index")
    return stack


def png(figure: Figure) -> bytes:
    """The figure as a PNG file, and the figure closed."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    plt.close(figure)
    return buffer.getvalue()


def _strip(files: list[bytes]) -> bytes:
    """Pictures below one another if they are wide, else side by side."""
    pictures = [Picture.open(io.BytesIO(file)).convert("RGB") for file in files]
    W, H = (max(sizes) for sizes in zip(*(picture.size for picture in pictures)))
    down = W > 1.6 * H
    strip = Picture.new("RGB", (W, H * len(files)) if down else (W * len(files), H), "white")
    for i, picture in enumerate(pictures):
        strip.paste(picture, (0, i * H) if down else (i * W, 0))
    buffer = io.BytesIO()
    strip.quantize(64).save(buffer, format="png", optimize=True)
    return buffer.getvalue()
