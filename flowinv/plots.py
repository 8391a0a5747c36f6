"""Figures: one palette, safe for colour-blind readers, the same plot for the same thing."""

from itertools import chain

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

# Okabe and Ito's palette, without its yellow, which is faint on white.
PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"]
# A line style beside each colour, for print and for eyes that see no colour.
LINES = ["-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1, 1, 1))]
HATCHES = ["", "//", "..", "xx"]
# Of circles with bars in ``diagnosis``: the root of the share of one bin of 10°.
RIM = 0.4


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
        row[0].set_ylabel(label, rotation=0, labelpad=8, va="center", ha="right")
        _frame(row[0])
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
    edges, _ = _histogram(degrees[:, 0])
    shares = [_histogram(angles)[1] for angles in degrees.T]
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


def diagnosis(
    image: Tensor,
    runs: dict[str, tuple[Tensor, Tensor, list[float | None]]],
    right: list[tuple[float, float]],
    bound: float,
) -> Figure:
    """What a run of training made of an image, one beside another: a failure, say, and its cure.

    At the top the image (framed) and its samples; below, q on the circle over the ranges where it
    should be, in grey; at the bottom the entropy over the epochs, under its bound. Bars' areas are
    proportional to probability, and those that do not fit are cut at the rim. 0° is up, and
    positive angles turn counter-clockwise.

    Args:
        image: (C, H, W).
        runs: {title: (samples (7, C, H, W), rotations (N,) in degrees, entropy of each epoch in
            nats, None in burn-in)}.
        right: from where to where q should be, in degrees.
        bound: of the entropy, in nats.
    """
    figure = plt.figure(figsize=(2.8 * len(runs), 5.8), layout="constrained")
    above, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=(7, 4))[:, 0]
    blocks = above.add_gridspec(2, len(runs), height_ratios=(3, 4))
    below = bottom.add_subplot()
    for n, (title, (samples, degrees, entropy)) in enumerate(runs.items()):
        strip = blocks[0, n].subgridspec(2, 4)
        for place, picture in enumerate([image, *samples[:7]]):
            ax = above.add_subplot(strip[place // 4, place % 4])
            _picture(ax, picture)
            if place == 0:
                _frame(ax)
                ax.set_title(title, fontsize=10, loc="left", color=PALETTE[n])
        polar = above.add_subplot(blocks[1, n], projection="polar", theta_offset=np.pi / 2)
        for low, high in right:
            middle, width = np.deg2rad([(low + high) / 2, high - low])
            polar.bar(middle, RIM, width, color="lightgrey", zorder=0)
        edges, shares = _histogram(degrees)
        _polar_bars(polar, edges, np.minimum(np.sqrt(shares), RIM), PALETTE[n])
        polar.set_ylim(0, RIM)
        known = [(epoch, nats) for epoch, nats in enumerate(entropy, 1) if nats is not None]
        below.plot(*zip(*known), LINES[n], color=PALETTE[n], linewidth=2, label=title)
    below.axhline(bound, color="grey", linewidth=1)
    across = below.get_yaxis_transform()  # x in shares of the axis, y in nats
    below.text(0.01, bound, "bound", transform=across, va="bottom", color="grey", fontsize=9)
    below.margins(y=0.15)
    below.set(xlabel="epoch", ylabel="entropy (nats)")
    below.locator_params("x", integer=True)
    below.legend(fontsize=9)
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


def _frame(ax: Axes) -> None:
    """Around a picture that is no sample."""
    for side in ax.spines.values():
        side.set(color=PALETTE[1], linewidth=2)


def _histogram(degrees: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Edges of bins of 10°, and the share of the angles (N,) in each."""
    counts, edges = np.histogram(degrees.cpu().numpy(), np.linspace(-180, 180, 37))
    return edges, counts / len(degrees)


def _polar_bars(ax: Axes, edges: np.ndarray, heights: np.ndarray, color: str) -> None:
    """Bars between edges, in degrees."""
    edges = np.deg2rad(edges)
    ax.bar(edges[:-1], heights, np.diff(edges), align="edge", color=color, edgecolor="white")
    quarters = np.deg2rad([0, 90, 180, 270])
    ax.set_xticks(quarters, ["0°", "90°", "180°", "−90°"], fontsize=8)
    ax.set_yticks([])
