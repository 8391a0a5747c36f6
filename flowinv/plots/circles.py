"""Rotations on the circle: 0° is up, and positive angles turn counter-clockwise."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Affine2D
from torch import Tensor

from .style import LINES, PALETTE, frame, show_image

Arcs = list[tuple[float, float]]  # from where to where, in degrees


# Of circles with bars in ``diagnosis``: the root of the share of one bin of 10°.
RIM = 0.4


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

    figure = plt.figure(figsize=(2.4 * B + 0.4, 3.3))
    grid = figure.add_gridspec(3, B)
    for b in range(B):
        above = figure.add_subplot(grid[0, b])
        show_image(above, images[b])
        above.set_title(labels[b], fontsize=10)
        below = figure.add_subplot(grid[1:, b], projection="polar", theta_offset=np.pi / 2)
        _arcs(below, right[b] if right else [], 1.05 * largest)
        _polar_bars(below, edges, np.sqrt(shares[b]), PALETTE[b % len(PALETTE)])
        below.set_ylim(0, 1.05 * largest)
    figure.tight_layout(pad=0.4, w_pad=1.5)
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
        above = (0.5, 1.56)
        ax.legend(loc="center", bbox_to_anchor=above, ncols=2, frameon=False, handlelength=1)
    return figure


def _poses(ax: Axes, image: Tensor) -> None:
    """The image around a dial, each time turned as its place says."""
    for angle in range(-135, 181, 45):
        at = np.deg2rad(angle + 90)
        middle = 0.5 + 0.73 * np.array([np.cos(at), np.sin(at)])
        box = ax.inset_axes((*(middle - 0.13), 0.26, 0.26))
        show_image(box, image)
        (drawn,) = box.images
        drawn.set_extent((-1, 1, -1, 1))
        drawn.set_transform(Affine2D().rotate_deg(angle) + box.transData)
        box.set(xlim=(-1, 1), ylim=(-1, 1), facecolor="black")
        name = f"{angle}°".replace("-", "−")
        outside = (1.05, "bottom") if abs(angle) <= 90 else (-0.05, "top")
        box.text(0.5, outside[0], name, ha="center", va=outside[1], transform=box.transAxes)


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
    show_image(figure.add_subplot(grid[0]), image)
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
    _quarters(polar)
    figure.legend(loc="lower left", frameon=False)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
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
        show_image(above, images[b])
        above.set_title(titles[b], fontsize=10)
        below = figure.add_subplot(grid[1:, b], projection="polar", theta_offset=np.pi / 2)
        stays = top * kept[:, b].numpy()
        below.bar(angles, stays, 2 * np.pi / len(angles), color="lightgrey")
        closed = [*range(len(angles)), 0]
        below.plot(angles[closed], heights[closed, b], color=PALETTE[0], linewidth=2)
        below.set_ylim(0, top)
        _quarters(below)
    figure.tight_layout(pad=0.4, w_pad=1.5)
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
    figure = plt.figure(figsize=(2.7 * len(runs), 5.8), layout="constrained")
    above, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=(7, 4))[:, 0]
    blocks = above.add_gridspec(2, len(runs), height_ratios=(3, 4))
    below = bottom.add_subplot()
    for n, (title, (samples, degrees, entropy)) in enumerate(runs.items()):
        strip = blocks[0, n].subgridspec(2, 4)
        for place, picture in enumerate([image, *samples[:7]]):
            ax = above.add_subplot(strip[place // 4, place % 4])
            show_image(ax, picture)
            if place == 0:
                frame(ax)
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
    below.text(0.01, bound, "bound", transform=across, va="bottom", color="grey")
    below.margins(y=0.15)
    below.set(xlabel="epoch", ylabel="entropy (nats)")
    below.locator_params("x", integer=True)
    below.legend()
    return figure


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
    _quarters(ax)


def _quarters(ax: Axes) -> None:
    """Ticks at the quarter turns alone."""
    ax.set_xticks(np.deg2rad([0, 90, 180, 270]), ["0°", "90°", "180°", "−90°"])
    ax.set_yticks([])
