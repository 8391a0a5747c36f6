"""Numbers of several groups or runs beside each other."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from .style import PALETTE


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
                ax.text(low, n, f" ← {mean:.0f}", va="center")
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
