"""A graphical model, and the whole method, as graphs."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from .style import PALETTE


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
