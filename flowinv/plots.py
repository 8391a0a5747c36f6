"""Figures: one palette, safe for colour-blind readers, the same plot for the same thing."""

from itertools import chain

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from matplotlib.transforms import Affine2D
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
        row[0].set_ylabel(label, rotation=0, ha="right", va="center")
        _frame(row[0])
        for ax, sample in zip(row[1:], samples):
            _picture(ax, sample)
    axes[0, 0].set_title("image", fontsize=9)
    axes[0, 1].set_title("samples", fontsize=9)
    figure.tight_layout(pad=0.3)
    return figure


Arcs = list[tuple[float, float]]  # from where to where, in degrees


def rotations(
    images: Tensor, degrees: Tensor, labels: list[str], right: list[Arcs] | None = None
) -> Figure:
    """For each image a polar histogram of its sampled rotations.

    Bars' areas are proportional to probability, on one scale. 0° is up, and positive angles turn
    counter-clockwise.

    Args:
        images: (B, C, H, W).
        degrees: (S, B).
        labels: B names, above the images.
        right: B lists of arcs where rotations should be, shown in grey; None shows none.
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
        _arcs(below, right[b] if right else [], 1.05 * largest)
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


def captioned(images: Tensor, titles: list[list[str]], labels: list[str]) -> Figure:
    """Rows of images, each with a title of its own.

    Args:
        images: (R, N, C, H, W).
        titles: R lists of N, above the images.
        labels: R, left of the rows.
    """
    R, N = images.shape[:2]
    figure, axes = plt.subplots(R, N, figsize=(0.85 * N + 0.2, 1.02 * R), squeeze=False)
    for line, own, names, label in zip(axes, images, titles, labels):
        for ax, image, title in zip(line, own, names):
            _picture(ax, image)
            ax.set_title(title, fontsize=9, pad=3)
        line[0].set_ylabel(label, rotation=0, labelpad=12, va="center")
    figure.tight_layout(pad=0.4)
    return figure


def strips(values: dict[str, Tensor], ylabel: str) -> Figure:
    """A column of dots for each group, one dot a value, and a bar at their median.

    Args:
        values: {group: (N,)}, N of each group's own.
        ylabel: what the values are, with their unit.
    """
    figure, ax = plt.subplots(figsize=(5.2, 3.2))
    aside = np.random.default_rng(0)  # so that equal values do not hide each other
    for n, (name, own) in enumerate(values.items()):
        y = own.cpu().numpy()
        x = n + aside.uniform(-0.3, 0.3, len(y))
        ax.plot(x, y, "o", color=PALETTE[n], markersize=4, alpha=0.4, markeredgewidth=0, label=name)
        ax.plot([n - 0.38, n + 0.38], [np.median(y)] * 2, color="black", linewidth=2)
    ax.set_xticks(range(len(values)), values)
    ax.set_ylabel(ylabel)
    if "degrees" in ylabel:
        ax.set_ylim(0, 185)
        ax.set_yticks(range(0, 181, 45))
    figure.tight_layout()
    return figure


def intervals(panels: dict[str, dict[str, tuple]], xlabel: str, low: float) -> Figure:
    """Means as dots with their standard deviations as bars, a line each, in panels side by side.

    Args:
        panels: {title: {row: (mean, deviation, …)}}, as ``lab.summary`` returns them, with the same
            rows in every panel; a deviation of None has no bar.
        xlabel: what the means are, with their unit.
        low: where the axis begins. A mean below it stands at the edge as a number.
    """
    rows = list(next(iter(panels.values())))
    size = (3.1 * len(panels) + 0.6, 0.27 * len(rows) + 0.9)
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
    for ax, (title, values) in zip(axes[0], panels.items()):
        for n, row in enumerate(rows):
            mean, deviation, *_ = values[row]
            if mean < low:
                ax.text(low, n, f" ← {mean:.0f}", va="center", fontsize=9)
                continue
            color = PALETTE[1] if row == "flow" else PALETTE[0]
            ax.errorbar(mean, n, xerr=deviation, fmt="o", color=color, markersize=5, capsize=3)
        ax.set_title(title, fontsize=10)
        ax.set_xlabel(xlabel)
        ax.set_xlim(left=low)
        ax.grid(axis="x", color="lightgrey", linewidth=0.6)
    axes[0, 0].set_yticks(range(len(rows)), rows)
    axes[0, 0].invert_yaxis()
    figure.tight_layout()
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
        _x_axis(ax, xlabel)
    axes[0, 0].set_ylabel(ylabel)
    axes[0, 0].legend(fontsize=8)
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


def bent(u: Tensor, p: Tensor, T: Tensor, q: Tensor, knots: tuple[Tensor, Tensor]) -> Figure:
    """A monotone map with its knots, the density that it is given below, what it makes beside.

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
    beside.set_xlim(left=0)
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


def sweeps(images: Tensor, degrees: Tensor, kept: Tensor, q: Tensor, titles: list[str]) -> Figure:
    """For each image the rotations that keep its class, in grey, and a density as a line.

    Areas under the line are proportional to probability. 0° is up, and positive angles turn
    counter-clockwise.

    Args:
        images: (B, C, H, W).
        degrees: (N,), evenly around the full circle.
        kept: (N, B), whether the class stays.
        q: (N, B), the density in any unit.
        titles: B, above the images.
    """
    B = len(images)
    figure = plt.figure(figsize=(2.1 * B, 3.3))
    grid = figure.add_gridspec(3, B)
    angles = np.deg2rad(degrees.numpy())
    heights = (q / q.mean(0)).sqrt().numpy()  # 1 where all rotations are as probable
    top = 1.1 * max(1.0, heights.max())
    for b in range(B):
        above = figure.add_subplot(grid[0, b])
        _picture(above, images[b])
        above.set_title(titles[b], fontsize=9)
        below = figure.add_subplot(grid[1:, b], projection="polar", theta_offset=np.pi / 2)
        stays = top * kept[:, b].numpy()
        below.bar(angles, stays, 2 * np.pi / len(angles), color="lightgrey")
        closed = [*range(len(angles)), 0]
        below.plot(angles[closed], heights[closed, b], color=PALETTE[0], linewidth=2)
        below.set_ylim(0, top)
        quarters = np.deg2rad([0, 90, 180, 270])
        below.set_xticks(quarters, ["0°", "90°", "180°", "−90°"], fontsize=8)
        below.set_yticks([])
    figure.tight_layout(pad=0.4)
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


def gallery(rows: dict[str, Tensor], titles: list[str], signed: bool = False) -> Figure:
    """Images in named rows.

    Args:
        rows: {name: (B, C, H, W)}.
        titles: B, above the columns.
        signed: values of either sign, one channel: blue below 0, white at 0, red above.
    """
    columns = len(titles)
    size = (0.78 * columns + 1.0, 0.8 * len(rows) + 0.3)
    figure, axes = plt.subplots(len(rows), columns, figsize=size, squeeze=False)
    largest = max(float(images.detach().abs().max()) for images in rows.values())
    for row, (name, images) in zip(axes, rows.items()):
        for ax, image in zip(row, images):
            _picture(ax, image)
            if signed:
                ax.images[0].set(cmap="RdBu_r", clim=(-largest, largest))
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    for ax, title in zip(axes[0], titles):
        ax.set_title(title, fontsize=9)
    figure.tight_layout(pad=0.3)
    return figure


def fields(image: Tensor, velocities: dict[str, Tensor]) -> Figure:
    """Velocities of the plane as arrows over an image, three in a row, on one scale.

    Args:
        image: (C, H, W).
        velocities: {name: (H, W, 2)}, x and y of each pixel, in halves of the picture.
    """
    rows = -(-len(velocities) // 3)
    figure, axes = plt.subplots(rows, 3, figsize=(5.4, 1.95 * rows), squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    every = slice(3, None, 7)  # not too many arrows
    for ax, (name, velocity) in zip(axes.flat, velocities.items()):
        H, W = velocity.shape[:2]
        _picture(ax, image)
        ax.images[0].set_alpha(0.5)
        i, j = np.mgrid[:H, :W][:, every, every]
        x, y = (velocity[every, every].numpy() * (W / 8, H / 8)).transpose(2, 0, 1)
        ax.quiver(j, i, x, y, color=PALETTE[5], angles="xy", scale_units="xy", scale=1, width=0.014)
        ax.set_title(name, fontsize=10)
    figure.tight_layout(pad=0.4)
    return figure


def lookup(image: Tensor, places: Tensor, warped: Tensor, row: int, column: int) -> Figure:
    """The places of an image that the pixels of a warped one show, and an arrow to one of them.

    Args:
        image, warped: (C, H, W).
        places: (H, W, 2), x and y with −1 and +1 at the image's outer edges.
        row, column: of the pixel of ``warped`` from which the arrow starts.
    """
    H, W = places.shape[:2]
    figure, axes = plt.subplots(1, 2, figsize=(4.6, 2.5))
    for ax, picture, title in zip(axes, (image, warped), ("old picture", "new picture")):
        _picture(ax, picture)
        ax.images[0].set_extent((-1, 1, 1, -1))
        ax.set(xlim=(-1.4, 1.4), ylim=(1.4, -1.4), facecolor="#444444")
        ax.set_title(title, fontsize=10)
    for i in np.linspace(0, H - 1, 4).round().astype(int):
        axes[0].plot(*places[i].T, color=PALETTE[4], linewidth=1)
    for j in np.linspace(0, W - 1, 4).round().astype(int):
        axes[0].plot(*places[:, j].T, color=PALETTE[4], linewidth=1)
    end = tuple(places[row, column].tolist())
    start = ((2 * column + 1) / W - 1, (2 * row + 1) / H - 1)
    for ax, point in zip(axes, (end, start)):
        ax.plot(*point, "o", color=PALETTE[1], markersize=6)
    arrow = ConnectionPatch(start, end, "data", "data", axesA=axes[1], axesB=axes[0])
    arrow.set(arrowstyle="-|>", color=PALETTE[1], linewidth=1.5, mutation_scale=12)
    figure.add_artist(arrow)
    figure.tight_layout(pad=0.4)
    return figure


def diagnosis(
    image: Tensor,
    runs: dict[str, tuple[Tensor, Tensor, list[float | None]]],
    right: Arcs,
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
        _arcs(polar, right, RIM)
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


def _arcs(ax: Axes, arcs: Arcs, rim: float) -> None:
    """Grey sectors, behind everything."""
    for low, high in arcs:
        middle, width = np.deg2rad([(low + high) / 2, high - low])
        ax.bar(middle, rim, width, color="lightgrey", zorder=0)


def _polar_bars(ax: Axes, edges: np.ndarray, heights: np.ndarray, color: str) -> None:
    """Bars between edges, in degrees."""
    edges = np.deg2rad(edges)
    ax.bar(edges[:-1], heights, np.diff(edges), align="edge", color=color, edgecolor="white")
    quarters = np.deg2rad([0, 90, 180, 270])
    ax.set_xticks(quarters, ["0°", "90°", "180°", "−90°"], fontsize=8)
    ax.set_yticks([])
