"""Figures: one palette, safe for colour-blind readers, the same plot for the same thing everywhere."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

# Okabe and Ito's palette, without its yellow, which is faint on white.
PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"]
# A line style beside each colour, for print and for eyes that see no colour.
LINES = ["-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1, 1, 1))]


def table(header: list[str], rows: list[list]) -> str:
    """A table in Markdown.

    >>> print(table(["class", "width"], [["six", "80°"]]))
    | class | width |
    | --- | --- |
    | six | 80° |
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _picture(ax, image: Tensor, title: str = "") -> None:
    ax.imshow(image.detach().cpu().permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=1)
    ax.set_title(title, fontsize=9)
    ax.set_xticks([])
    ax.set_yticks([])


def samples(images: Tensor, warped: Tensor, labels: list[str]) -> Figure:
    """One row an image: the image itself (B, C, H, W), then its samples (S, B, C, H, W)."""
    S, B = warped.shape[:2]
    figure, axes = plt.subplots(B, S + 1, figsize=(0.75 * (S + 1), 0.8 * B + 0.3), squeeze=False)
    for b in range(B):
        _picture(axes[b, 0], images[b], "image" if b == 0 else "")
        axes[b, 0].set_ylabel(labels[b], rotation=0, labelpad=12, va="center")
        for side in axes[b, 0].spines.values():
            side.set(color=PALETTE[1], linewidth=2)
        for s in range(S):
            _picture(axes[b, s + 1], warped[s, b], "samples" if b == 0 and s == 0 else "")
    figure.tight_layout(pad=0.3)
    return figure


def rotations(images: Tensor, degrees: Tensor, labels: list[str]) -> Figure:
    """For each image (B, C, H, W) a polar histogram of its sampled rotations (S, B), in degrees.

    Bars' areas are proportional to probability, on one scale; 0° is up and positive angles turn counter-clockwise.
    """
    B = len(images)
    figure = plt.figure(figsize=(2.1 * B, 3.3))
    edges = np.deg2rad(np.linspace(-180, 180, 37))
    shares = [
        np.histogram(np.deg2rad(degrees[:, b].cpu().numpy()), edges)[0] / len(degrees)
        for b in range(B)
    ]
    largest = np.sqrt(max(share.max() for share in shares))
    for b in range(B):
        _picture(figure.add_subplot(3, B, b + 1), images[b], labels[b])
        ax = figure.add_subplot(3, B, (B + b + 1, 2 * B + b + 1), projection="polar")
        ax.bar(
            edges[:-1],
            np.sqrt(shares[b]),
            np.diff(edges),
            align="edge",
            color=PALETTE[b % len(PALETTE)],
            edgecolor="white",
        )
        ax.set_theta_zero_location("N")
        ax.set_xticks(np.deg2rad([0, 90, 180, 270]), ["0°", "90°", "180°", "−90°"], fontsize=8)
        ax.set_yticks([])
        ax.set_ylim(0, 1.05 * largest)
    figure.tight_layout(pad=0.4)
    return figure


def widths(history: list[dict], classes: tuple[str, ...], uniform: float) -> Figure:
    """The median half-width of each class over the epochs; `uniform`: that of the full circle."""
    figure, ax = plt.subplots(figsize=(6, 3.2))
    for c, name in enumerate(classes):
        points = [(row["epoch"], row["widths"][c]) for row in history]
        ax.plot(*zip(*points), label=name, color=PALETTE[c], linestyle=LINES[c], linewidth=2)
    ax.axhline(uniform, color="grey", linewidth=0.8)
    ax.annotate(
        "full circle", (history[0]["epoch"], uniform), color="grey", fontsize=8, va="bottom"
    )
    ax.set(
        xlabel="epoch",
        ylabel="half-width of the rotation (degrees)",
        ylim=(0, 185),
        yticks=range(0, 181, 45),
    )
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(title="digit", ncols=len(classes), fontsize=8, loc="lower right")
    figure.tight_layout()
    return figure


def bars(values: dict[str, dict[str, float]], ylabel: str) -> Figure:
    """Grouped bars, {group: {bar: value}}, each with its number above it."""
    figure, ax = plt.subplots(figsize=(6.5, 3.2))
    names = list(next(iter(values.values())))
    width = 0.8 / len(names)
    for n, name in enumerate(names):
        x = np.arange(len(values)) + (n - (len(names) - 1) / 2) * width
        y = [group[name] for group in values.values()]
        drawn = ax.bar(
            x, y, 0.92 * width, label=name, color=PALETTE[n], hatch=["", "//", "..", "xx"][n % 4]
        )
        ax.bar_label(drawn, fmt="%.1f", fontsize=7, padding=2)
    ax.set_xticks(range(len(values)), list(values))
    ax.set(ylabel=ylabel, ylim=(0, 1.12 * max(max(group.values()) for group in values.values())))
    ax.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    figure.tight_layout()
    return figure
