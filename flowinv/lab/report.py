"""Tables and the figure of results, and of the choices before them, for the book's pages."""

import json
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .. import plots
from ..files import atomic_write
from .experiments import EXPERIMENTS, Experiment
from .goals import goals
from .results import CHOICES, Spread, entries_of, stored

PROFILES = ("full", "long", "reduced", "part", "quick")  # the largest first
SHAPES = {"paper": "D", "full": "s", "long": "P", "reduced": "o", "part": "v", "quick": "^"}
# The rows of the figure of gains, and what its legend calls them: a colour for each name.
SHOWN_ROWS = {
    "fixed": "fixed",
    "fixed ±15°": "fixed",
    "random crop": "fixed",
    **{row: row for row in ("augerino", "instaaug", "one for all", "box flow", "flow")},
    "full circle": "full circle or preset crops",
    "instaaug_crops": "full circle or preset crops",
}

# What stands between these in a page is computed; the words around it are written by hand.
START = "<!-- From here to the next mark: made by python -m flowinv report -->"
END = "<!-- Made until here -->"


def by_rule(tried: list[dict], profile: str, judge: str = "validation") -> dict[str, float]:
    """Of each row the largest α that is as good as the best one, up to chance.

    That is: whose log-likelihood on validation images, averaged over q, is within one standard
    error of the highest. A user needs no known poses for it.

    Args:
        tried: entries, of several α a row.
        profile: that is looked at.
        judge: the images, as the measure calls them.
    """
    likelihood = f"{judge}_log_likelihood"
    by_row: dict[str, list[dict]] = {}
    for entry in tried:
        if entry["profile"] == profile and likelihood in entry["metrics"]:
            by_row.setdefault(entry["row"], []).append(entry)
    chosen = {}
    for row, entries in by_row.items():
        best = max((e["metrics"] for e in entries), key=lambda m: m[likelihood])
        least = best[likelihood] - best[f"{judge}_standard_error"]
        chosen[row] = max(
            entry["settings"]["alpha"] for entry in entries if entry["metrics"][likelihood] >= least
        )
    return chosen


def scoreboard(folder: Path) -> str:
    """The goals, and the tables of paper against project, in Markdown, with provenance.

    A cell is a mean ± standard deviation over n seeds. What was run at ``ci`` is not shown. Where
    a profile has measured it, a second table says where a gain comes from.
    """
    parts = [goals(folder)]
    for name, experiment in EXPERIMENTS.items():
        found = _shown(name, folder)
        if not found:
            continue
        parts.append(f"## {name}")
        parts.append(f"{experiment.about}. Shown: {experiment.unit}.")
        parts.append(_table(experiment, found))
        for profile, entries in found.items():
            parts.extend(_anatomy(experiment, profile, entries))
        for profile, entries in found.items():
            parts.append(f"`{profile}`: {_provenance(entries)}")
    return "\n\n".join(parts)


def _shown(name: str, folder: Path) -> dict[str, list[dict]]:
    """The stored entries of an experiment by profile, the largest first, but for ci."""
    found = {}
    for profile in PROFILES:
        if profile in EXPERIMENTS[name].profiles and (folder / name / f"{profile}.json").exists():
            found[profile] = stored(name, profile, folder)
    return found


def _table(experiment: Experiment, found: dict[str, list[dict]]) -> str:
    """One row a row, and a column for the paper and each profile that has anything to show."""
    header = ["row", *(["paper"] if experiment.published else []), *found]
    rows = []
    for row in dict.fromkeys([*experiment.rows, *experiment.published]):
        cells = [row, *([experiment.published.get(row, "")] if experiment.published else [])]
        for entries in found.values():
            own = [entry for entry in entries if entry["row"] == row]
            cells.append(_cell(experiment, own) if own else "")
        if any(cells[1:]):
            rows.append(cells)
    return plots.table(header, rows)


# What tells the parts of a gain apart: name of the metric, heading, digits.
ANATOMY = (
    ("accuracy_plain", "plain", 1),
    ("accuracy_averaged", "averaged", 1),
    ("accuracy_over_the_fixed_box", "over the fixed box", 1),
    ("accuracy_over_another", "over another's", 1),
    ("log_likelihood_averaged", "log-likelihood", 3),
    ("calibration_error_averaged", "calibration error", 3),
    ("share_between_images", "between, %", 0),
    ("information_nats", "information, nats", 2),
)


def _anatomy(experiment: Experiment, profile: str, entries: list[dict]) -> list[str]:
    """A table of accuracies by what is averaged over, likelihood, calibration, and q's look."""
    rows = []
    for row in experiment.rows:
        own = [entry["metrics"] for entry in entries if entry["row"] == row]
        if own and all(key in own[0] for key, *_ in ANATOMY):
            rows.append([row, *(_part(own, key, digits) for key, _, digits in ANATOMY)])
    if not rows:
        return []
    header = ["row", *(heading for _, heading, _ in ANATOMY)]
    return [f"Where it comes from, at `{profile}`:", plots.table(header, rows)]


def _part(metrics: list[dict], key: str, digits: int) -> str:
    values = [of[key] for of in metrics]
    if isinstance(values[0], dict):  # a share of each coefficient: the largest, in percent
        values = [100 * max(shares.values()) for shares in values]
    return f"{Spread.of(values):.{digits}f}"


def choices(folder: Path) -> str:
    """What was tried on validation images, and what the rule takes, in Markdown."""
    parts = []
    for name, experiment in EXPERIMENTS.items():
        tried = entries_of(folder / name / f"{CHOICES}.json")
        for profile in PROFILES:
            chosen = by_rule(tried, profile, experiment.judge)
            if not chosen:
                continue
            here = [entry for entry in tried if entry["profile"] == profile]
            alphas = sorted({entry["settings"]["alpha"] for entry in here})
            rows = []
            scores = []
            for row, alpha in chosen.items():
                of_row = {e["settings"]["alpha"]: e["metrics"] for e in here if e["row"] == row}
                decided = alpha if len(of_row) == len(experiment.alphas) else None
                metrics = [of_row.get(one) for one in alphas]
                taken = [one == decided for one in alphas]
                rows.append([row, *(_tried(experiment.judge, *of) for of in zip(metrics, taken))])
                scores.append(
                    [row, *(_scored(experiment.score, *of) for of in zip(metrics, taken))]
                )
            header = ["row", *(f"α {alpha:g}" for alpha in alphas)]
            in_use = experiment.chosen.get(profile)
            parts.append(f"## {name}, `{profile}`")
            parts.append(plots.table(header, rows))
            if not in_use:
                parts.append("Not in use yet.")
            parts.append(f"By these no choice was made: {experiment.unit}, on test images.")
            parts.append(plots.table(header, scores))
            parts.append(_provenance(here))
    return "\n\n".join(parts)


def _tried(judge: str, metrics: dict | None, chosen: bool) -> str:
    if metrics is None:
        return ""
    likelihood = metrics[f"{judge}_log_likelihood"]
    error = metrics[f"{judge}_standard_error"]
    cell = f"{likelihood:.3f} ± {error:.3f}, {metrics[f'{judge}_accuracy']:.1f}%"
    return f"**{cell}**" if chosen else cell


def _scored(score: str, metrics: dict | None, chosen: bool) -> str:
    if metrics is None:
        return ""
    cell = f"{metrics[score]:.{_digits([metrics[score]])}f}"
    return f"**{cell}**" if chosen else cell


def gains(folder: Path) -> list[dict]:
    """Gain over none of every row, in points of accuracy: ours by profile, and the paper's.

    Each has experiment, row, profile ("paper" for the published), gain and spread (a standard
    deviation over seeds, of the difference; None for a single seed).
    """
    points = []
    for name, experiment in EXPERIMENTS.items():
        if "none" not in experiment.rows or experiment.unit != "% accuracy":
            continue
        for profile, entries in _shown(name, folder).items():
            by_seed = {(e["row"], e["seed"]): e["metrics"][experiment.score] for e in entries}
            for row in experiment.rows:
                differences = [
                    value - by_seed["none", seed]
                    for (own, seed), value in by_seed.items()
                    if own == row != "none" and ("none", seed) in by_seed
                ]
                if differences:
                    points.append(_point(name, row, profile, differences))
        published = {row: float(text.split()[0]) for row, text in experiment.published.items()}
        for row, value in published.items():
            if row != "none" and row in experiment.rows:
                points.append(_point(name, row, "paper", [value - published["none"]]))
    return points


def _point(name: str, row: str, profile: str, differences: list[float]) -> dict:
    gain, spread, _ = Spread.of(differences)
    return {
        "experiment": name,
        "row": row,
        "profile": profile,
        "gain": round(gain, 3),
        "spread": None if spread is None else round(spread, 3),
    }


def gains_figure(points: list[dict]) -> Figure:
    """Gains over none in one figure: a shape for each profile, a colour for each row."""
    names = list(dict.fromkeys(point["experiment"] for point in points))
    points = [point for point in points if point["row"] in SHOWN_ROWS]
    labels = list(dict.fromkeys(SHOWN_ROWS.values()))
    shown = {SHOWN_ROWS[point["row"]] for point in points}
    rows = [label for label in labels if label in shown]
    drawn, ax = plt.subplots(figsize=(8, 0.75 * len(names) + 1.4))
    for point in points:
        label = SHOWN_ROWS[point["row"]]
        place = rows.index(label)
        paper = point["profile"] == "paper"
        colour = plots.PALETTE[labels.index(label)]
        ax.errorbar(
            point["gain"],
            names.index(point["experiment"]) + 0.7 * (place / max(1, len(rows) - 1) - 0.5),
            xerr=point["spread"],
            marker=SHAPES[point["profile"]],
            color=colour,
            markerfacecolor="white" if paper else colour,
            markersize=7 if paper else 6,
            linestyle="none",
            capsize=2,
        )
    ax.axvline(0, color="0.5", linewidth=1)
    for edge in range(len(names) - 1):
        ax.axhline(edge + 0.5, color="0.9", linewidth=1)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlabel("gain over no augmentation (points of accuracy, averaged predictions)")
    used = [profile for profile in SHAPES if any(p["profile"] == profile for p in points)]
    handles = [
        Line2D([], [], marker=SHAPES[p], color="0.3", linestyle="none", label=p,
               markerfacecolor="white" if p == "paper" else "0.3")
        for p in used
    ]  # fmt: skip
    handles += [
        Line2D([], [], color=plots.PALETTE[labels.index(row)], linewidth=4, label=row)
        for row in rows
    ]
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    drawn.tight_layout()
    return drawn


def dial(folder: Path) -> list[dict]:
    """Along the dial, how many digits of five have two poses: each row's score and likelihood.

    Each point has number, row, and accuracy and log_likelihood as [mean, standard deviation], the
    latter None for a single seed.
    """
    points = []
    for name, experiment in EXPERIMENTS.items():
        if not name.startswith("mnist-dial-"):
            continue
        entries = _shown(name, folder).get("reduced", [])
        for row in experiment.rows:
            own = [entry["metrics"] for entry in entries if entry["row"] == row]
            if own:
                point: dict = {"number": int(name.rpartition("-")[2]), "row": row}
                for key in ("accuracy", "log_likelihood"):
                    values = [metrics[f"{key}_averaged"] for metrics in own]
                    point[key] = list(Spread.of(values)[:2])
                points.append(point)
    return points


def dial_figure(points: list[dict]) -> Figure:
    """Accuracy and log-likelihood of every row along the dial."""
    rows = list(dict.fromkeys(point["row"] for point in points))
    drawn, panels = plt.subplots(1, 2, figsize=(9, 3.6))
    labels = {"accuracy": "accuracy (%)", "log_likelihood": "log-likelihood (nats)"}
    for ax, (key, label) in zip(panels, labels.items()):
        for number, row in enumerate(rows):
            own = [point for point in points if point["row"] == row]
            ax.errorbar(
                [point["number"] for point in own],
                [point[key][0] for point in own],
                yerr=[point[key][1] or 0.0 for point in own],
                label=row,
                color="0.6" if row == "none" else plots.PALETTE[number - 1],
                linestyle=plots.LINES[number % len(plots.LINES)],
                marker="o",
                markersize=4,
                capsize=2,
            )
        ax.set_xlabel("digits, of five, with two poses")
        ax.set_ylabel(label)
    panels[1].legend(loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False)
    drawn.tight_layout()
    return drawn


def method_parts(folder: Path) -> list[dict]:
    """The parts of the diagram of the whole method, each with where it leads; no result is read."""
    return [
        {
            "part": part,
            "at": [x, y],
            "words": words,
            "to": [b for a, b in plots.METHOD_ARROWS if a == part],
        }
        for part, (x, y, words) in plots.METHOD.items()
    ]


def method_figure(parts: list[dict]) -> Figure:
    """The diagram that chapters light a part of, here with none lit."""
    return plots.method()


def save_figures(folder: Path, static: Path) -> list[Path]:
    """Write each figure that has something to show, its numbers inside, for a test to compare."""
    written = []
    for name, (points_of, draw) in FIGURES.items():
        points = points_of(folder)
        if not points:
            continue
        with plt.rc_context({"svg.hashsalt": "flowinv", "svg.fonttype": "none"}):
            drawn = draw(points)
            about = {"Date": None, "Description": json.dumps(points)}
            with atomic_write(static / name) as partial:
                drawn.savefig(partial, format="svg", metadata=about)
            plt.close(drawn)
        written.append(static / name)
    return written


def _cell(experiment: Experiment, entries: list[dict]) -> str:
    values = [entry["metrics"][experiment.score] for entry in entries]
    cell = f"{Spread.of(values):.{_digits(values)}f}"
    ekld = [e["metrics"]["ekld_nats"] for e in entries if "ekld_nats" in e["metrics"]]
    if ekld:
        cell += f", eKLD {Spread.of(ekld).mean:.3f} nats"
    return f"{cell}, n = {len(values)}"


def _digits(values: list[float]) -> int:
    """After the point: of degrees and percent one, of shares three."""
    return 1 if max(map(abs, values)) > 2 else 3


def _provenance(entries: list[dict]) -> str:
    def all_of(key: str) -> str:
        return ", ".join(sorted({str(entry[key]) for entry in entries}))

    again = sorted({entry["measured"]["revision"] for entry in entries if "measured" in entry})
    seconds = [entry["wall_seconds"] for entry in entries]
    speeds = [entry["images_per_second"] for entry in entries]
    dates = [entry["date"] for entry in entries]
    span = dict.fromkeys([min(dates), max(dates)])
    return (
        f"{all_of('data')}; {all_of('epochs')} epochs;"
        f" {min(seconds):.0f} to {max(seconds):.0f} s of training a run"
        f" ({min(speeds):,} to {max(speeds):,} images/s); {all_of('device')};"
        f" seeds {all_of('seed')}; revision {all_of('revision')}; {' to '.join(span)}"
        + (f"; measured again at revision {', '.join(again)}." if again else ".")
    )


def renewed(page: str, folder: Path, make: Callable[[Path], str] = scoreboard) -> str:
    """The page, with what stands between its two marks computed again.

    Args:
        page: Markdown.
        folder: of results.
        make: what stands there, of the folder.

    Raises:
        ValueError: it has no marks.
    """
    before, start, rest = page.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"expected a page with two marks, the lines {START} and {END}: add them")
    return before + generated(folder, make) + after


def generated(folder: Path, make: Callable[[Path], str] = scoreboard) -> str:
    """The marks, and between them the tables."""
    return "\n\n".join([START, make(folder), END])


# Pages beside the folder of results, and what stands between their marks.
PAGES = {"results.md": scoreboard, "choices.md": choices}
# Figures of the pages that are no notebooks: what is in them, and how they are drawn.
FIGURES = {
    "method.svg": (method_parts, method_figure),
    "gains.svg": (gains, gains_figure),
    "dial.svg": (dial, dial_figure),
}
