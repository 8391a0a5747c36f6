"""Images in rows, and what a warp does to them."""

from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from torch import Tensor

from .style import PALETTE, frame, show_image


def samples(images: Tensor, warped: Tensor, labels: list[str]) -> Figure:
    """One row an image: the image itself, then its samples.

    Args:
        images: (B, C, H, W).
        warped: (S, B, C, H, W).
        labels: B names, left of the rows.
    """
    S, B = warped.shape[:2]
    size = (0.75 * (S + 1) + 0.08 * max(map(len, labels)), 0.8 * B + 0.3)  # inches
    figure, axes = plt.subplots(B, S + 1, figsize=size, squeeze=False)
    for image, samples, label, row in zip(images, warped.transpose(0, 1), labels, axes):
        show_image(row[0], image)
        row[0].set_ylabel(label, rotation=0, labelpad=8, va="center", ha="right")
        frame(row[0])
        for ax, sample in zip(row[1:], samples):
            show_image(ax, sample)
    axes[0, 0].set_title("image", fontsize=10)
    axes[0, 1].set_title("samples", fontsize=10)
    figure.tight_layout(pad=0.3)
    return figure


def row(images: Tensor, titles: list[str]) -> Figure:
    """Images in a row.

    Args:
        images: (B, C, H, W).
        titles: B, above the images.
    """
    figure, axes = plt.subplots(1, len(images), figsize=(1.4 * len(images), 1.7), squeeze=False)
    for ax, image, title in zip(axes[0], images, titles):
        show_image(ax, image)
        ax.set_title(title, fontsize=10)
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
    column = max(0.85, _inches(title for line in titles for title in line))
    figure, axes = plt.subplots(R, N, figsize=(column * N + 0.2, 1.02 * R + 0.2), squeeze=False)
    for line, own, names, label in zip(axes, images, titles, labels):
        for ax, image, title in zip(line, own, names):
            show_image(ax, image)
            ax.set_title(title, fontsize=10, pad=3)
        line[0].set_ylabel(label, rotation=0, ha="right", va="center")
    figure.tight_layout(pad=0.4)
    return figure


def gallery(rows: dict[str, Tensor], titles: list[str], signed: bool = False) -> Figure:
    """Images in named rows.

    Args:
        rows: {name: (B, C, H, W)}.
        titles: B, above the columns.
        signed: values of either sign, one channel: blue below 0, white at 0, red above, in full
            colour from half the largest value on.
    """
    columns = len(titles)
    size = (max(0.78, _inches(titles)) * columns + 1.0, 0.8 * len(rows) + 0.3)
    figure, axes = plt.subplots(len(rows), columns, figsize=size, squeeze=False)
    half = max(float(images.detach().abs().max()) for images in rows.values()) / 2
    for row, (name, images) in zip(axes, rows.items()):
        for ax, image in zip(row, images):
            show_image(ax, image)
            ax.images[0].set_interpolation("nearest")  # small pictures, small files
            if signed:
                ax.images[0].set(cmap="RdBu_r", clim=(-half, half))
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for ax, title in zip(axes[0], titles):
        ax.set_title(title, fontsize=10)
    figure.tight_layout(pad=0.3)
    return figure


def fields(image: Tensor, velocities: dict[str, Tensor]) -> Figure:
    """Velocities of the plane as arrows over an image, three in a row, on one scale.

    Args:
        image: (C, H, W).
        velocities: {name: (H, W, 2)}, x and y of each pixel, in halves of the picture.
    """
    rows = -(-len(velocities) // 3)
    figure, axes = plt.subplots(rows, 3, figsize=(5.4, 2.1 * rows), squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    every = slice(3, None, 7)  # not too many arrows
    for ax, (name, velocity) in zip(axes.flat, velocities.items()):
        H, W = velocity.shape[:2]
        show_image(ax, image / 2)
        ax.images[0].set_interpolation("nearest")
        i, j = np.mgrid[:H, :W][:, every, every]
        x, y = (velocity[every, every].numpy() * (W / 4, H / 4)).transpose(2, 0, 1)
        ax.quiver(j, i, x, y, color=PALETTE[5], angles="xy", scale_units="xy", scale=1, width=0.015)
        ax.set_title(name, fontsize=10)
    figure.tight_layout(pad=0.4)
    return figure


def lookup(image: Tensor, places: Tensor, warped: Tensor, row: int, column: int) -> Figure:
    """The frame of a warped image, laid over the image, and an arrow to what one pixel shows.

    Args:
        image, warped: (C, H, W).
        places: (H, W, 2), x and y with −1 and +1 at the image's outer edges.
        row, column: of the pixel of ``warped`` from which the arrow starts.
    """
    H, W = places.shape[:2]
    figure, axes = plt.subplots(1, 2, figsize=(4.6, 2.5))
    for ax, picture, title in zip(axes, (image, warped), ("old picture", "new picture")):
        show_image(ax, picture)
        ax.images[0].set(extent=(-1, 1, 1, -1), interpolation="nearest")
        ax.set(xlim=(-1.4, 1.4), ylim=(1.4, -1.4), facecolor="#444444")
        ax.set_title(title, fontsize=10)
    for side in (places[0], places[-1], places[:, 0], places[:, -1]):
        axes[0].plot(*side.T, color=PALETTE[4], linewidth=1.5)
    end = tuple(places[row, column].tolist())
    start = ((2 * column + 1) / W - 1, (2 * row + 1) / H - 1)
    for ax, point in zip(axes, (end, start)):
        ax.plot(*point, "o", color=PALETTE[1], markersize=6)
    arrow = ConnectionPatch(start, end, "data", "data", axesA=axes[1], axesB=axes[0])
    arrow.set(arrowstyle="-|>", color=PALETTE[1], linewidth=1.5, mutation_scale=12)
    figure.add_artist(arrow)
    figure.tight_layout(pad=0.4)
    return figure


def _inches(titles: Iterable[str]) -> float:
    """A column's width that keeps titles of 10 points apart."""
    return 0.1 + 0.075 * max(len(line) for title in titles for line in title.split("\n"))
