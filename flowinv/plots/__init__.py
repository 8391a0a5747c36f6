"""Figures: one palette, safe for colour-blind readers, the same plot for the same thing."""

from .circles import diagnosis, fans, opposite, rotations, sweeps
from .diagrams import METHOD, METHOD_ARROWS, graph, method
from .lines import bent, clouds, curves, heatmaps, panels, pictured, widths
from .pictures import captioned, fields, gallery, lookup, row, samples
from .style import LINES, PALETTE, table
from .summaries import intervals, strips

__all__ = [
    "LINES",
    "METHOD",
    "METHOD_ARROWS",
    "PALETTE",
    "bent",
    "captioned",
    "clouds",
    "curves",
    "diagnosis",
    "fans",
    "fields",
    "gallery",
    "graph",
    "heatmaps",
    "intervals",
    "lookup",
    "method",
    "opposite",
    "panels",
    "pictured",
    "rotations",
    "row",
    "samples",
    "strips",
    "sweeps",
    "table",
    "widths",
]
