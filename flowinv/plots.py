"""Figures: one palette, safe for colour-blind readers, the same plot for the same thing."""

from itertools import chain

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Affine2D
from torch import Tensor

# Okabe and Ito's palette, without its yellow, which is faint on white.
PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"]
# A line style beside each colour, for print and for eyes that see no colour.
LINES = ["-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1, 1, 1))]
HATCHES = ["", "//", "..", "xx"]


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


def samples(images: Tensor, warped: Tensor, labels: list[str]) -> Figure:
    """One row an image: the image itself, then its samples.

    Args:
        images: (B, C, H, W).
        warped: (S, B, C, H, W).
        labels: B names, left of the rows.
    """
    S, B = warped.shape[:2]
    size = (0.75 * (S + 1), 0.8 * B + 0.3)
    figure, axes = plt.subplots(B, S + 1, figsize=size, squeeze=False)
    for image, samples, label, row in zip(images, warped.transpose(0, 1), labels, axes):
        _picture(row[0], image)
        row[0].set_ylabel(label, rotation=0, labelpad=12, va="center")
        for side in row[0].spines.values():
            side.set(color=PALETTE[1], linewidth=2)
        for ax, sample in zip(row[1:], samples):
            _picture(ax, sample)
    axes[0, 0].set_title("image", fontsize=9)
    axes[0, 1].set_title("samples", fontsize=9)
    figure.tight_layout(pad=0.3)
    return figure


def rotations(images: Tensor, degrees: Tensor, labels: list[str]) -> Figure:
    """For each image a polar histogram of its sampled rotations.

    Bars' areas are proportional to probability, on one scale. 0° is up, and positive angles turn
    counter-clockwise.

    Args:
        images: (B, C, H, W).
        degrees: (S, B).
        labels: B names, above the images.
    """
    B = len(images)
    edges = np.linspace(-180, 180, 37)
    shares = []
    for angles in degrees.cpu().numpy().T:
        counts, _ = np.histogram(angles, edges)
        shares.append(counts / len(angles))
    largest = np.sqrt(np.max(shares))

    figure = plt.figure(figsize=(2.1 * B, 3.3))
    grid = figure.add_gridspec(3, B)
    for b in range(B):
        above = figure.add_subplot(grid[0, b])
        _picture(above, images[b])
        above.set_title(labels[b], fontsize=9)
        below = figure.add_subplot(grid[1:, b], projection="polar", theta_offset=np.pi / 2)
        _polar_bars(below, edges, np.sqrt(shares[b]), PALETTE[b % len(PALETTE)])
        below.set_ylim(0, 1.05 * largest)
    figure.tight_layout(pad=0.4)
    return figure


def opposite(images: Tensor, degrees: Tensor, labels: list[str]) -> Figure:
    """Dials: an image in its poses all around, inside them a polar histogram of its rotations.

    The last two images share a dial, on which the rotations of the last stand turned by 180°: where
    a 6 on its head is a 9, both then tell of the same shapes, and two fans that meet would be a
    shape with two names. Bars' areas are proportional to probability, on one scale. 0° is up, and
    positive angles turn counter-clockwise.

    Args:
        images: (B, C, H, W); the last is not shown, as it looks like the one before on its head.
        degrees: (S, B).
        labels: B names.
    """
    B = len(images)
    edges = np.linspace(-180, 180, 37)
    angles = degrees.cpu().numpy().T
    turned = (angles[-1] + 360) % 360 - 180  # by half a turn, in [-180, 180)
    heights = []
    for one in (*angles[:-1], turned):
        counts, _ = np.histogram(one, edges)
        heights.append(np.sqrt(counts / len(one)))
    dials = [[b] for b in range(B - 2)] + [[B - 2, B - 1]]

    side = 3.3  # inches for a dial and the pictures around it
    figure = plt.figure(figsize=(side * (B - 1), side + 0.3))
    for n, own in enumerate(dials):
        corner = ((n + 0.22) / (B - 1), 0.22 * side / (side + 0.3))
        size = (0.56 / (B - 1), 0.56 * side / (side + 0.3))
        ax = figure.add_axes((*corner, *size), projection="polar", theta_offset=np.pi / 2)
        for b in own:
            colour = PALETTE[b % len(PALETTE)]
            _polar_bars(ax, edges, heights[b], colour)
            name = labels[b] if b < B - 1 else f"{labels[b]}, turned by 180°"
            ax.bar(0, 0, color=colour, label=name)
        ax.set_ylim(0, 1.05 * np.max(heights))
        ax.set_xticklabels([])
        _poses(ax, images[own[0]])
        above = (0.5, 1.5)
        ax.legend(loc="center", bbox_to_anchor=above, ncols=2, frameon=False, handlelength=1)
    return figure


def _poses(ax: Axes, image: Tensor) -> None:
    """The image around a dial, each time turned as its place says."""
    for angle in range(-135, 181, 45):
        at = np.deg2rad(angle + 90)
        middle = 0.5 + 0.73 * np.array([np.cos(at), np.sin(at)])
        box = ax.inset_axes((*(middle - 0.13), 0.26, 0.26))
        _picture(box, image)
        (drawn,) = box.images
        drawn.set_extent((-1, 1, -1, 1))
        drawn.set_transform(Affine2D().rotate_deg(angle) + box.transData)
        box.set(xlim=(-1, 1), ylim=(-1, 1), facecolor="black")
        box.set_title(f"{angle}°".replace("-", "−"), fontsize=8, pad=2)


def widths(history: list[dict], classes: tuple[str, ...], uniform: float) -> Figure:
    """The median half-width of each class over the epochs.

    Args:
        history: rows with ``epoch`` and ``widths``, one for each class, in degrees.
        classes: their names.
        uniform: the half-width of the full circle, in degrees.
    """
    figure, ax = plt.subplots(figsize=(6, 3.2))
    epochs = [row["epoch"] for row in history]
    for c, name in enumerate(classes):
        values = [row["widths"][c] for row in history]
        (line,) = ax.plot(epochs, values, label=name)
        line.set(color=PALETTE[c], linestyle=LINES[c], linewidth=2)
    ax.axhline(uniform, color="grey", linewidth=0.8)
    ax.annotate("full circle", (epochs[0], uniform), color="grey", fontsize=8, va="bottom")
    ax.set_xlabel("epoch")
    ax.set_ylabel("half-width of the rotation (degrees)")
    ax.set_ylim(0, 185)
    ax.set_yticks(range(0, 181, 45))
    ax.locator_params("x", integer=True)
    ax.legend(title="digit", ncols=len(classes), fontsize=8, loc="lower right")
    figure.tight_layout()
    return figure


def bars(values: dict[str, dict[str, float]], ylabel: str) -> Figure:
    """Grouped bars, each with its number above it.

    Args:
        values: {group: {bar: value}}, with the same bars in every group.
        ylabel: what the values are, with their unit.
    """
    figure, ax = plt.subplots(figsize=(6.5, 3.2))
    groups = list(values)
    names = list(values[groups[0]])
    width = 0.8 / len(names)
    for n, name in enumerate(names):
        x = np.arange(len(groups)) + (n - (len(names) - 1) / 2) * width
        y = [values[group][name] for group in groups]
        hatch = HATCHES[n % len(HATCHES)]
        drawn = ax.bar(x, y, 0.92 * width, label=name, color=PALETTE[n], hatch=hatch)
        ax.bar_label(drawn, fmt="%.1f", fontsize=7, padding=2)
    largest = max(chain.from_iterable(group.values() for group in values.values()))
    ax.set_xticks(range(len(groups)), groups)
    ax.set_ylabel(ylabel)
    ax.set_ylim(0, 1.12 * largest)
    ax.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    figure.tight_layout()
    return figure


def row(images: Tensor, titles: list[str]) -> Figure:
    """Images in a row.

    Args:
        images: (B, C, H, W).
        titles: B, above the images.
    """
    figure, axes = plt.subplots(1, len(images), figsize=(1.6 * len(images), 1.9), squeeze=False)
    for ax, image, title in zip(axes[0], images, titles):
        _picture(ax, image)
        ax.set_title(title, fontsize=9)
    figure.tight_layout(pad=0.4)
    return figure


def curves(x: Tensor, lines: dict[str, Tensor], xlabel: str, ylabel: str) -> Figure:
    """Lines over one x.

    Args:
        x: (N,).
        lines: {label: (N,)}.
        xlabel, ylabel: what the axes are, with their units.
    """
    return panels(x, {"": lines}, xlabel, ylabel)


def panels(x: Tensor, lines: dict[str, dict[str, Tensor]], xlabel: str, ylabel: str) -> Figure:
    """Lines over one x, in panels side by side. A label has one colour and style in all of them.

    Args:
        x: (N,).
        lines: {title: {label: (N,)}}.
        xlabel, ylabel: what the axes are, with their units.
    """
    size = (2.9 * len(lines) + 2.6 * (len(lines) == 1), 2.8)
    figure, axes = plt.subplots(1, len(lines), figsize=size, sharey=True, squeeze=False)
    labels = list(dict.fromkeys(chain.from_iterable(lines.values())))
    for ax, (title, drawn) in zip(axes[0], lines.items()):
        for label, y in drawn.items():
            n = labels.index(label)
            ax.plot(x, y, linestyle=LINES[n], color=PALETTE[n], linewidth=2, label=label)
        ax.set_title(title, fontsize=10)
        _x_axis(ax, xlabel)
        if len(labels) > 1:
            ax.legend(fontsize=8)
    axes[0, 0].set_ylabel(ylabel)
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
    figure, ax = plt.subplots(figsize=(6.5, 3.2))
    ax.plot(x, y, color=PALETTE[0], linewidth=2)
    ax.set_xlim(float(x.min()), float(x.max()))
    _x_axis(ax, xlabel)
    ax.set_ylabel(ylabel)
    low, high = ax.get_xlim()
    for image, place in zip(images, at):
        box = ax.inset_axes(((place - low) / (high - low) - 0.05, 1.03, 0.1, 0.22))
        _picture(box, image)
    figure.tight_layout()
    return figure


def fans(image: Tensor, degrees: Tensor, densities: dict[str, Tensor], title: str) -> Figure:
    """An image, and beside it densities of its rotation, the first one filled.

    Areas are proportional to probability. 0° is up, and positive angles turn counter-clockwise.

    Args:
        image: (C, H, W).
        degrees: (N,).
        densities: {label: (N,)}, over the full circle in any unit.
        title: of the figure.
    """
    figure = plt.figure(figsize=(5.6, 3.2))
    grid = figure.add_gridspec(1, 2, width_ratios=(2, 3))
    _picture(figure.add_subplot(grid[0]), image)
    polar = figure.add_subplot(grid[1], projection="polar", theta_offset=np.pi / 2)
    angles = degrees.deg2rad()
    for n, (label, density) in enumerate(densities.items()):
        shares = density / density.mean()  # 1 where all rotations are as probable
        if n == 0:
            polar.fill(angles, shares.sqrt(), color="lightgrey", label=label)
        else:
            (line,) = polar.plot(angles, shares.sqrt(), label=label)
            line.set(color=PALETTE[n], linestyle=LINES[n], linewidth=2)
    polar.set_ylim(0, 2)
    polar.set_xticks(np.deg2rad([0, 90, 180, 270]), ["0°", "90°", "180°", "−90°"], fontsize=8)
    polar.set_yticks([])
    figure.legend(fontsize=8, loc="lower left", frameon=False)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    return figure


def graph(
    places: dict[str, tuple[float, float]], edges: list[tuple[str, str]], observed: str, sure: str
) -> Figure:
    """A graphical model: circles are random, squares follow from what they depend on.

    Args:
        places: {variable: (x, y)}.
        edges: pairs (from, to).
        observed: the variables that are, in grey.
        sure: the variables that follow.
    """
    figure, ax = plt.subplots(figsize=(4.4, 2.4))
    arrow = {"arrowstyle": "->", "shrinkA": 16, "shrinkB": 16}
    for start, end in edges:
        ax.annotate("", places[end], places[start], arrowprops=arrow)
    for name, place in places.items():
        box = {
            "boxstyle": "square,pad=0.4" if name in sure else "circle,pad=0.4",
            "facecolor": "lightgrey" if name in observed else "white",
        }
        ax.text(*place, name, ha="center", va="center", fontsize=14, bbox=box)
    x, y = zip(*places.values())
    ax.set(xlim=(min(x) - 0.4, max(x) + 0.4), ylim=(min(y) - 0.4, max(y) + 0.4))
    ax.set_axis_off()
    return figure


# The method as a graph: name, place and words of each part, in the order of the data.
METHOD = {
    "image": (0.0, 0.0, "image\n$I$"),
    "context": (1.15, 0.9, "encoder:\ncontext"),
    "flow": (2.3, 0.9, "flow\n$q(T\\mid I)$"),
    "T": (3.45, 0.9, "samples\n$T$"),
    "augmenter": (3.45, 0.0, "augmenter\n$A_T(I)$"),
    "classifier": (4.6, 0.0, "classifier\n$f(C; A_T(I))$"),
    "average": (5.75, 0.0, "average\n$P(C\\mid I)$"),
    "loss": (5.175, 0.9, "loss:\n$-\\log f$ and entropy"),
}
METHOD_ARROWS = [
    ("image", "context"),
    ("context", "flow"),
    ("flow", "T"),
    ("T", "augmenter"),
    ("image", "augmenter"),
    ("augmenter", "classifier"),
    ("classifier", "average"),
    ("classifier", "loss"),
    ("T", "loss"),
]


def method(*lit: str) -> Figure:
    """The whole method as a graph, some of its parts lit.

    An image sets a context, which sets the flow; its samples transform the image; the classifier
    reads each transformed image, and its probabilities are averaged. The loss needs what the
    classifier says and how probable the samples are.

    Args:
        lit: names of parts, of ``METHOD``; none leaves all alike.

    Raises:
        ValueError: there is no such part.

    Example:
        >>> plt.close(method("flow", "T"))
    """
    unknown = sorted(set(lit) - set(METHOD))
    if unknown:
        raise ValueError(f"method: expected parts among {', '.join(METHOD)}, got {unknown}")
    figure, ax = plt.subplots(figsize=(7.6, 2.1))
    arrow = {"arrowstyle": "-|>", "color": "#555555", "shrinkA": 4, "shrinkB": 4}
    boxes = {}
    for name, (x, y, words) in METHOD.items():
        on = name in lit
        style = {
            "boxstyle": "round,pad=0.35",
            "facecolor": PALETTE[5] if on else "white",
            "edgecolor": "black" if on else "#888888",
            "linewidth": 2 if on else 1,
        }
        boxes[name] = ax.text(x, y, words, ha="center", va="center", fontsize=10, bbox=style)
    for start, end in METHOD_ARROWS:
        patch = {"patchA": boxes[start].get_bbox_patch(), "patchB": boxes[end].get_bbox_patch()}
        ax.annotate("", METHOD[end][:2], METHOD[start][:2], arrowprops={**arrow, **patch})
    ax.set(xlim=(-0.5, 6.35), ylim=(-0.45, 1.35))
    ax.set_axis_off()
    figure.tight_layout(pad=0.1)
    return figure


def _x_axis(ax: Axes, label: str) -> None:
    """Labelled, and with a tick at each quarter turn if it is a full circle in degrees."""
    ax.set_xlabel(label)
    low, high = ax.get_xlim()
    if "degrees" in label and 350 < high - low < 450:
        ax.set_xticks(range(-180, 181, 90))


def _picture(ax: Axes, image: Tensor) -> None:
    """The image (C, H, W), without axes."""
    pixels = image.detach().cpu().permute(1, 2, 0).numpy()
    ax.imshow(pixels, cmap="gray", vmin=0, vmax=1)
    ax.set_xticks([])
    ax.set_yticks([])


def _polar_bars(ax: Axes, edges: np.ndarray, heights: np.ndarray, color: str) -> None:
    """Bars between edges, in degrees."""
    edges = np.deg2rad(edges)
    ax.bar(edges[:-1], heights, np.diff(edges), align="edge", color=color, edgecolor="white")
    quarters = np.deg2rad([0, 90, 180, 270])
    ax.set_xticks(quarters, ["0°", "90°", "180°", "−90°"], fontsize=8)
    ax.set_yticks([])
