"""One palette, safe for colour-blind readers, and what every figure does alike; tables."""

from matplotlib.axes import Axes
from torch import Tensor

# Okabe and Ito's palette, without its yellow, which is faint on white.
PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"]


# A line style beside each colour, for print and for eyes that see no colour.
LINES = ["-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1, 1, 1))]


def table(header: list[str], rows: list[list]) -> str:
    """A table in Markdown.

    Args:
        header: a name for each column.
        rows: of cells, anything that ``str`` can show.

    Example:
        >>> print(table(["class", "width"], [["six", "80°"]]))
        | class | width |
        | --- | --- |
        | six | 80° |
    """
    lines = []
    for row in [header, ["---"] * len(header), *rows]:
        cells = " | ".join(str(cell) for cell in row)
        lines.append(f"| {cells} |")
    return "\n".join(lines)


def show_image(ax: Axes, image: Tensor) -> None:
    """The image (C, H, W), without axes."""
    pixels = image.detach().cpu().permute(1, 2, 0).numpy()
    ax.imshow(pixels, cmap="gray", vmin=0, vmax=1)
    ax.set_xticks([])
    ax.set_yticks([])


def frame(ax: Axes) -> None:
    """Around a picture that is no sample."""
    for side in ax.spines.values():
        side.set(color=PALETTE[1], linewidth=2)


def x_axis(ax: Axes, label: str) -> None:
    """Labelled, and with a tick at each quarter turn if it is a full circle in degrees."""
    ax.set_xlabel(label)
    low, high = ax.get_xlim()
    if "degrees" in label and 350 < high - low < 450:
        ax.set_xticks(range(-180, 181, 90))
