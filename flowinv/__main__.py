"""The command line: train and measure an experiment, and store the results with provenance."""

import argparse
from pathlib import Path

from .experiments import EXPERIMENTS, SEEDS, run


def main() -> None:
    book = Path("book/results")
    parser = argparse.ArgumentParser(prog="python -m flowinv", description=__doc__)
    parser.add_argument("experiment", choices=list(EXPERIMENTS))
    parser.add_argument(
        "--profile", default="quick", choices=["ci", "quick", "full"], help="how much of it (default: quick)"
    )
    parser.add_argument("--guides", nargs="+", metavar="ROW", help="rows of the comparison (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="default: 0 1 2")
    parser.add_argument(
        "--out",
        type=Path,
        default=book if book.is_dir() else Path("results"),
        help="folder of the results (default: the book's, or ./results without a checkout)",
    )
    args = parser.parse_args()
    rows = EXPERIMENTS[args.experiment].guides
    for row in args.guides or rows:
        if row not in rows:
            parser.error(f"unknown row {row!r}: expected one of {', '.join(rows)}")
    for seed in args.seeds:
        for row in args.guides or rows:
            entry = run(args.experiment, args.profile, row, seed, args.out)
            print(f"{row}, seed {seed}: {entry['wall_seconds']:.0f} s, {summary(entry['metrics'])}")


def summary(metrics: dict) -> str:
    """Metrics in one line."""
    parts = []
    for name, value in metrics.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key}: {x:.3g}" for key, x in value.items())
            parts.append(f"{name.replace('_', ' ')} ({value})")
        else:
            parts.append(f"{name.replace('_', ' ')} {value:.3g}")
    return ", ".join(parts)


if __name__ == "__main__":
    main()
