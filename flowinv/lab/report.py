"""The page that holds the paper's figures beside this project's results."""

import statistics
from pathlib import Path

from .experiments import EXPERIMENTS, Experiment
from .results import stored


def scoreboard(folder: Path) -> str:
    """The table of paper against project, in Markdown: mean ± standard deviation over seeds, with provenance."""
    lines = []
    for name, experiment in EXPERIMENTS.items():
        found = {
            p: stored(name, p, folder)
            for p in experiment.profiles
            if (folder / name / f"{p}.json").exists()
        }
        lines += [
            "", f"## {name}", "", f"{experiment.about}. Shown: {experiment.unit}.", "",
            "| q(T given I) | paper | here, full | here, smaller |", "| --- | --- | --- | --- |",
        ]  # fmt: skip
        for row in dict.fromkeys([*experiment.guides, *experiment.published]):
            cells = {p: [e for e in entries if e["guide"] == row] for p, entries in found.items()}
            full = _cell(experiment, cells.pop("full", []))
            small = [
                f"{_cell(experiment, entries)} ({p})"
                for p, entries in cells.items()
                if entries and p != "ci"
            ]
            if row not in experiment.guides:
                full, small = "not run here", []
            lines.append(
                f"| {row} | {experiment.published.get(row, '')} | {full or 'not yet run at full scale'} | {'<br>'.join(small)} |"
            )
        for profile, entries in found.items():
            if profile != "ci":
                lines += ["", f"`{profile}`: {_provenance_line(entries)}"]
    return "\n".join(lines).strip() + "\n"


def page(folder: Path) -> str:
    """The book's page of results: `scoreboard` with a word on how to read it."""
    return f"""# Results

The paper's figures (Singhal et al. 2023) beside this project's, made by `python -m flowinv report` from `book/results/`. Means ±
standard deviations over n seeds; accuracies are averaged over 20 samples of q(T given I). *full* is all the data, and the paper's networks and settings where they are known; *quick* is what two CPU
cores do in minutes, with less data and where needed smaller networks, and *reduced* lies between: neither can be held against the paper.

Where `full` is not the paper's: `mnist-selective` trains 12 epochs with batches of 64 (40 and 512), so that a CPU can do it; q's base is one
Gaussian (a mixture, or uniform) and on Mario-Iggy its layers are one spline (four couplings); α is a number on Mario-Iggy (steered to hold the
entropy). Not known, and ours: momentum and weight decay of SGD, clipping of gradients, that q's rate takes the same steps, label
smoothing on `mario-3mode`, the flow's options, and the training of `rotation-discovery`, `rotmnist-lt` and `tinyimagenet-crop`. The settings of each run are in its result file, and in `flowinv/experiments.py`. What is measured on
Mario-Iggy is measured on the first 1,000 test images.

{_best(folder)}

{scoreboard(folder)}"""


def _best(folder: Path) -> str:
    """Which row has the highest mean accuracy, for each profile and experiment that is about accuracy."""
    lines = []
    for profile in ("full", "reduced", "quick"):
        best = []
        for name, experiment in EXPERIMENTS.items():
            if "% accuracy" in experiment.unit and (folder / name / f"{profile}.json").exists():
                scores: dict[str, list] = {}
                for entry in stored(name, profile, folder):
                    scores.setdefault(entry["guide"], []).append(entry["metrics"][experiment.score])
                best.append(f"{name}: {max(scores, key=lambda row: statistics.mean(scores[row]))}")
        if best:
            lines.append(f"Highest mean accuracy at `{profile}`: {'; '.join(best)}.")
    return "\n\n".join(lines)


def _cell(experiment: Experiment, entries: list[dict]) -> str:
    if not entries:
        return ""
    values = [e["metrics"][experiment.score] for e in entries]
    digits = 1 if max(map(abs, values)) > 2 else 3
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    ekld = [e["metrics"]["ekld_nats"] for e in entries if "ekld_nats" in e["metrics"]]
    also = f", eKLD {statistics.mean(ekld):.3f} nats" if ekld else ""
    return f"{statistics.mean(values):.{digits}f}{spread}{also}, n = {len(values)}"


def _provenance_line(entries: list[dict]) -> str:
    some = lambda key: ", ".join(sorted({str(e[key]) for e in entries}))  # noqa: E731
    seconds = [e["wall_seconds"] for e in entries]
    speeds = [e["images_per_second"] for e in entries]
    shares = [e["share_outside_classifier"] for e in entries if "share_outside_classifier" in e]
    outside = (
        f", a median of {statistics.median(shares):.0%} of a step outside the classifier"
        if shares
        else ""
    )
    dates = sorted({e["date"] for e in entries})
    return (
        f"{some('data')}; {some('epochs')} epochs; {min(seconds):.0f} to {max(seconds):.0f} s of training a run"
        f" ({min(speeds):,} to {max(speeds):,} images/s{outside});"
        f" {some('device')}; seeds {some('seed')}; revision {some('revision')}; {' to '.join(dict.fromkeys((dates[0], dates[-1])))}."
    )
