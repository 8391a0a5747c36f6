"""Lines, points and maps over one or two axes."""

from itertools import chain

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from .style import LINES, PALETTE, show_image, x_axis

Line = Tensor | tuple[Tensor, Tensor]  # y (N,), or y and how far a band about it reaches


def curves(x: Tensor, lines: dict[str, Line], xlabel: str, ylabel: str) -> Figure:
    """Lines over one x.

    Args:
        x: (N,).
        lines: {label: y}, y (N,); or y with half the width of a band about it, both (N,).
        xlabel, ylabel: what the axes are, with their units.
    """
    return panels(x, {"": lines}, xlabel, ylabel)


def panels(x: Tensor, lines: dict[str, dict[str, Line]], xlabel: str, ylabel: str) -> Figure:
    """Lines over one x, in panels side by side. A label has one colour and style in all of them.

    Args:
        x: (N,).
        lines: {title: {label: y}}, y as ``curves`` has it.
        xlabel, ylabel: what the axes are, with their units.
    """
    size = (2.9 * len(lines) + 2.6 * (len(lines) == 1), 3.0)
    figure, axes = plt.subplots(1, len(lines), figsize=size, sharey=True, squeeze=False)
    labels = list(dict.fromkeys(chain.from_iterable(lines.values())))
    alike = all(list(drawn) == labels for drawn in lines.values())
    for ax, (title, drawn) in zip(axes[0], lines.items()):
        for label, y in drawn.items():
            n = labels.index(label)
            if isinstance(y, tuple):
                y, band = y
                ax.fill_between(x, y - band, y + band, color=PALETTE[n], alpha=0.2, linewidth=0)
            ax.plot(x, y, linestyle=LINES[n], color=PALETTE[n], linewidth=2, label=label)
        ax.set_title(title, fontsize=10)
        x_axis(ax, xlabel)
    axes[0, 0].set_ylabel(ylabel)
    if not alike:  # a legend in each, with room above the lines
        low, high = axes[0, 0].get_ylim()
        axes[0, 0].set_ylim(low, high + 0.35 * (high - low))
        for ax in axes[0]:
            ax.legend(loc="upper center")
    above = 0.0
    if len(labels) > 1 and alike:  # one legend above, where it hides no line
        above = 0.25 * -(-len(labels) // 4) / size[1]
        handles = axes[0, 0].get_legend_handles_labels()
        figure.legend(*handles, loc="upper center", ncols=4, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 1 - above))
    return figure


def clouds(
    panels: dict[str, dict[str, tuple[Tensor, Tensor]]],
    xlabel: str,
    ylabel: str,
    line: tuple[list[float], list[float]],
) -> Figure:
    """Points, and a grey line to hold them against, in panels side by side.

    Args:
        panels: {title: {label: (x, y)}}, x and y (N,) of each label's own N.
        xlabel, ylabel: what the axes are, with their units.
        line: x and y of its ends.
    """
    size = (2.9 * len(panels) + 2.2 * (len(panels) == 1), 3.1)
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
    for ax, (title, labelled) in zip(axes[0], panels.items()):
        for n, (label, (x, y)) in enumerate(labelled.items()):
            style = {"marker": "ox+^"[n % 4], "color": PALETTE[n], "linewidth": 0.8}
            ax.scatter(x.cpu(), y.cpu(), s=12, alpha=0.5, label=label, **style)
        ax.plot(*line, color="grey", linewidth=0.8)
        ax.set_title(title, fontsize=10)
        x_axis(ax, xlabel)
    axes[0, 0].set_ylabel(ylabel)
    if any(chain.from_iterable(panels.values())):  # a label that is not empty
        axes[0, 0].legend()
    figure.tight_layout()
    return figure


def pictured(
    x: Tensor, y: Tensor, images: Tensor, at: list[float], xlabel: str, ylabel: str
) -> Figure:
    """A line, and pictures above it where they belong.

    Args:
        x, y: (N,).
        images: (B, C, H, W).
        at: B places on the x axis.
        xlabel, ylabel: what the axes are, with their units.
    """
    figure, ax = plt.subplots(figsize=(5.6, 3.0))
    ax.plot(x, y, color=PALETTE[0], linewidth=2)
    ax.set_xlim(float(x.min()), float(x.max()))
    x_axis(ax, xlabel)
    ax.set_ylabel(ylabel)
    low, high = ax.get_xlim()
    for image, place in zip(images, at):
        box = ax.inset_axes(((place - low) / (high - low) - 0.05, 1.03, 0.1, 0.22))
        show_image(box, image)
    figure.tight_layout()
    return figure


def widths(history: list[dict], classes: tuple[str, ...], uniform: float) -> Figure:
    """The median half-width of each class over the epochs.

    Args:
        history: rows with ``epoch`` and ``widths``, one for each class, in degrees.
        classes: their names.
        uniform: the half-width of the full circle, in degrees.
    """
    figure, ax = plt.subplots(figsize=(5.6, 3.2))
    epochs = [row["epoch"] for row in history]
    for c, name in enumerate(classes):
        values = [row["widths"][c] for row in history]
        (line,) = ax.plot(epochs, values, label=name)
        line.set(color=PALETTE[c], linestyle=LINES[c], linewidth=2)
    ax.axhline(uniform, color="grey", linewidth=0.8)
    ax.annotate("full circle", (epochs[0], uniform), color="grey", va="bottom")
    ax.set_xlabel("epoch")
    ax.set_ylabel("half-width of the rotation (degrees)")
    ax.set_ylim(0, 185)
    ax.set_yticks(range(0, 181, 45))
    ax.locator_params("x", integer=True)
    ax.legend(title="digit", ncols=len(classes), loc="lower right")
    figure.tight_layout()
    return figure


def bent(u: Tensor, p: Tensor, T: Tensor, q: Tensor, knots: tuple[Tensor, Tensor]) -> Figure:
    """A monotone map with its knots, the density that it is given below, what it makes beside.

    The latter is shown up to four times the highest of the former, so that figures compare.

    Args:
        u, p: (N,), places before the map, and the density there.
        T, q: (N,), where they go, and the density there.
        knots: places and where they go, (K,) each.
    """
    figure, axes = plt.subplots(
        2,
        2,
        figsize=(5, 4.2),
        sharex="col",
        sharey="row",
        gridspec_kw={"width_ratios": (3, 1.3), "height_ratios": (3, 1.3)},
    )
    (curve, beside), (below, corner) = axes
    curve.plot(u, T, color=PALETTE[0], linewidth=2)
    curve.plot(*knots, "o", color=PALETTE[1])
    curve.set_ylabel("T")
    below.fill_between(u, p, color=PALETTE[4])
    below.set(xlabel="u", ylabel="p(u)")
    below.set_ylim(0, 1.2 * float(p.max()))
    beside.fill_betweenx(T, q, color=PALETTE[4])
    beside.set_xlim(0, 4 * float(p.max()))
    beside.set_xlabel("q(T)")
    beside.tick_params(labelbottom=True)
    corner.set_axis_off()
    figure.tight_layout()
    return figure


def heatmaps(maps: dict[str, Tensor], xlabel: str, ylabel: str) -> Figure:
    """Densities over the box of two coefficients, dark where they are high, three a line.

    All have one scale, that of the first.

    Args:
        maps: {title: (N, N)}, of the first coefficient and the second.
        xlabel, ylabel: names of the two.
    """
    lines = -(-len(maps) // 3)
    size = (5.6, 1.95 * lines + 0.35)
    figure, axes = plt.subplots(lines, 3, figsize=size, sharex=True, sharey=True, squeeze=False)
    top = float(next(iter(maps.values())).quantile(0.995))
    for ax, (title, density) in zip(axes.flat, maps.items()):
        shown = ax.imshow(density.T.numpy(), origin="lower", extent=(-1, 1, -1, 1))
        shown.set(cmap="Greys", clim=(0, top))
        ax.set_title(title, fontsize=10)
        ax.set(xlabel=xlabel, xticks=[-1, 0, 1], yticks=[-1, 0, 1])
        ax.label_outer()
    for ax in axes.flat[len(maps) :]:
        ax.set_axis_off()
    for line in axes:
        line[0].set_ylabel(ylabel)
    figure.tight_layout(pad=0.5)
    return figure
