"""The tables of the paper's figures beside this project's, for the book's page of results."""

import statistics
from pathlib import Path

from .experiments import EXPERIMENTS, Experiment
from .results import stored

# What stands between these in a page is computed; the words around it are written by hand.
START = "<!-- From here to the next mark: made by python -m flowinv report -->"
END = "<!-- Made until here -->"


def renewed(page: str, folder: Path) -> str:
    """The page, with what stands between its two marks computed again.

    Args:
        page: Markdown.
        folder: of results.

    Raises:
        ValueError: it has no marks.
    """
    before, start, rest = page.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"expected a page with two marks, the lines {START} and {END}: add them")
    return before + generated(folder) + after


def generated(folder: Path) -> str:
    """The marks, and between them which row was best and the tables."""
    return "\n\n".join([START, *_best(folder), scoreboard(folder), END])


def by_rule(tried: list[dict], profile: str) -> dict[str, float]:
    """Of each row the largest α that is as good as the best one, up to chance.

    That is: whose log-likelihood on validation images, averaged over q, is within one standard
    error of the highest. A user needs no known poses for it.

    Args:
        tried: entries, of several α a row.
        profile: that is looked at.
    """
    by_row: dict[str, list[dict]] = {}
    for entry in tried:
        if entry["profile"] == profile:
            by_row.setdefault(entry["row"], []).append(entry)
    chosen = {}
    for row, entries in by_row.items():
        best = max((e["metrics"] for e in entries), key=lambda m: m["validation_log_likelihood"])
        least = best["validation_log_likelihood"] - best["validation_standard_error"]
        chosen[row] = max(
            entry["settings"]["alpha"]
            for entry in entries
            if entry["metrics"]["validation_log_likelihood"] >= least
        )
    return chosen


def scoreboard(folder: Path) -> str:
    """The tables of paper against project, in Markdown, with provenance.

    A cell is a mean ± standard deviation over n seeds. What was run at ``ci`` is not shown.
    """
    parts = []
    for name, experiment in EXPERIMENTS.items():
        found = _shown(name, folder)
        parts.append(f"## {name}")
        parts.append(f"{experiment.about}. Shown: {experiment.unit}.")
        parts.append(_table(experiment, found))
        for profile, entries in found.items():
            parts.append(f"`{profile}`: {_provenance(entries)}")
    return "\n\n".join(parts)


def _shown(name: str, folder: Path) -> dict[str, list[dict]]:
    """The stored entries of an experiment by profile, but for ci."""
    found = {}
    for profile in EXPERIMENTS[name].profiles:
        if profile != "ci" and (folder / name / f"{profile}.json").exists():
            found[profile] = stored(name, profile, folder)
    return found


def _table(experiment: Experiment, found: dict[str, list[dict]]) -> str:
    lines = ["| row | paper | here, full | here, smaller |", "| --- | --- | --- | --- |"]
    for row in dict.fromkeys([*experiment.rows, *experiment.published]):
        cells = {}
        for profile, entries in found.items():
            own = [entry for entry in entries if entry["row"] == row]
            if own:
                cells[profile] = _cell(experiment, own)
        ours = row in experiment.rows
        full = cells.pop("full", "not yet run at full scale" if ours else "not run here")
        smaller = "<br>".join(f"{cell} ({profile})" for profile, cell in cells.items())
        published = experiment.published.get(row, "")
        lines.append(f"| {row} | {published} | {full} | {smaller} |")
    return "\n".join(lines)


def _best(folder: Path) -> list[str]:
    """Which row has the highest mean accuracy, for each experiment that is about accuracy."""
    lines = []
    for profile in ("full", "reduced", "quick"):
        best = []
        for name, experiment in EXPERIMENTS.items():
            entries = _shown(name, folder).get(profile, [])
            if entries and "% accuracy" in experiment.unit:
                best.append(f"{name}: {_highest(experiment, entries)}")
        if best:
            lines.append(f"Highest mean accuracy at `{profile}`: {'; '.join(best)}.")
    return lines


def _highest(experiment: Experiment, entries: list[dict]) -> str:
    scores: dict[str, list[float]] = {}
    for entry in entries:
        scores.setdefault(entry["row"], []).append(entry["metrics"][experiment.score])
    return max(scores, key=lambda row: statistics.mean(scores[row]))


def _cell(experiment: Experiment, entries: list[dict]) -> str:
    values = [entry["metrics"][experiment.score] for entry in entries]
    digits = 1 if max(map(abs, values)) > 2 else 3
    cell = f"{statistics.mean(values):.{digits}f}"
    if len(values) > 1:
        cell += f" ± {statistics.stdev(values):.{digits}f}"
    ekld = [e["metrics"]["ekld_nats"] for e in entries if "ekld_nats" in e["metrics"]]
    if ekld:
        cell += f", eKLD {statistics.mean(ekld):.3f} nats"
    return f"{cell}, n = {len(values)}"


def _provenance(entries: list[dict]) -> str:
    def all_of(key: str) -> str:
        return ", ".join(sorted({str(entry[key]) for entry in entries}))

    seconds = [entry["wall_seconds"] for entry in entries]
    speeds = [entry["images_per_second"] for entry in entries]
    dates = [entry["date"] for entry in entries]
    span = dict.fromkeys([min(dates), max(dates)])
    return (
        f"{all_of('data')}; {all_of('epochs')} epochs;"
        f" {min(seconds):.0f} to {max(seconds):.0f} s of training a run"
        f" ({min(speeds):,} to {max(speeds):,} images/s); {all_of('device')};"
        f" seeds {all_of('seed')}; revision {all_of('revision')}; {' to '.join(span)}."
    )
