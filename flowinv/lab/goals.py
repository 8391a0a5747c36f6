"""What this project set out to reach, beside what it reached: goals were set before the runs.

A goal is met by the mean over three seeds or more; what is missed stays in the table.
"""

import operator
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from .. import plots
from .experiments import EXPERIMENTS
from .results import SEEDS, Spread, number_in, stored

BySeed = dict[int, float]
Values = Callable[[str, str], BySeed]  # (row, metric): of each seed
Number = Callable[[Values], BySeed]


class Goal(NamedTuple):
    """One number of one experiment, and how large or how small it should be.

    Args:
        experiment: by name.
        words: what the number is.
        number: from the stored metrics, for each seed.
        least, most: the goal, one of them.
        digits: after the point.
        page: the chapter in which what was tried, and the reasons, stand.
        profile: that is looked at.
        errors: standard errors of the mean by which it should be above the least.
    """

    experiment: str
    words: str
    number: Number
    least: float | None = None
    most: float | None = None
    digits: int = 1
    page: str = ""
    profile: str = "reduced"
    errors: int = 0

    @property
    def asked(self) -> str:
        """The goal, in signs."""
        sign, bound = ("≥", self.least) if self.most is None else ("≤", self.most)
        more = f" + {self.errors} errors" if self.errors else ""
        return f"{sign} {bound:.{self.digits}f}{more}"

    def met_by(self, found: Spread) -> bool:
        """Whether a mean over seeds is enough."""
        if self.most is not None:
            return found.mean <= self.most
        error = (found.deviation or 0.0) / found.seeds**0.5
        return found.mean >= (self.least or 0.0) + self.errors * error


def of(row: str, metric: str = "") -> Number:
    """A row's metric; "" is the experiment's score."""
    return lambda values: values(row, metric)


def _folded(how: Callable[[float, float], float], first: Number, *others: Number) -> Number:
    """From left to right, of the same seed."""

    def number(values: Values) -> BySeed:
        found = first(values)
        for other in others:
            of_other = other(values)
            found = {seed: how(found[seed], of_other[seed]) for seed in found if seed in of_other}
        return found

    return number


def minus(one: Number, other: Number) -> Number:
    """The difference, seed by seed."""
    return _folded(operator.sub, one, other)


def over(one: Number, other: Number) -> Number:
    """The ratio, seed by seed."""
    return _folded(operator.truediv, one, other)


def _gain(row: str, rival: str) -> Number:
    return minus(of(row), of(rival))


def _poses(experiment: str, title: str) -> tuple[Goal, ...]:
    """Of all poses of an image: accuracy on the head, and its passes, against 36 turns."""
    row = "way back by the pose"
    chosen, all_round = (
        of(row, f"accuracy_{way}_by_angle.180") for way in ("pose_by_energy", "circle_by_energy")
    )
    passes = of(row, "passes_pose_by_energy.classifier"), of(row, "passes_pose_by_energy.encoder")
    cost = over(_folded(operator.add, *passes), of(row, "passes_circle_by_energy.classifier"))
    return (
        Goal(
            experiment,
            f"{title} turned by 180°: pose by energy less 36 turns by energy, points",
            minus(chosen, all_round),
            least=0,
            page="modes",
        ),
        Goal(experiment, "… and its passes, of theirs", cost, most=1 / 3, digits=3),
    )


def _away(angle: int) -> Number:
    """What the aligned lack at an angle of the accuracy that upright images have as they are."""
    row = "way back by the pose"
    upright = of(row, "accuracy_plain_by_angle.0")
    return minus(upright, of(row, f"accuracy_pose_by_energy_by_angle.{angle}"))


SMALLEST = ("horse", "ship", "truck")  # the classes of cifar10-lt with the fewest images


def _ekld(row: str) -> Number:
    return _folded(operator.add, *(of(row, f"ekld_nats_by_class.{name}") for name in SMALLEST))


GOALS = (
    Goal("mnist", "accuracy of the flow, %", of("flow"), least=99.3, page="mnist"),
    Goal("fmnist", "accuracy of the flow, %", of("flow"), least=92.3, page="cifar10"),
    Goal("fmnist", "its gain over none, points", _gain("flow", "none"), least=2),
    Goal("cifar10", "accuracy of the flow, %", of("flow"), least=84.5, page="cifar10"),
    Goal("cifar10", "its gain over none, points", _gain("flow", "none"), least=5),
    Goal("cifar10", "… over Augerino, points", _gain("flow", "augerino"), least=0),
    Goal("cifar10", "… over the fixed box, points", _gain("flow", "fixed"), least=0),
    Goal(
        "cifar10-lt",
        "gain of the flow over none, points",
        _gain("flow", "none"),
        least=4,
        page="long_tails",
    ),
    Goal(
        "cifar10-lt",
        "eKLD of the three smallest classes, of none's",
        over(_ekld("flow"), _ekld("none")),
        most=0.5,
        digits=2,
    ),
    *(
        Goal(
            f"mnist-dial-{number}",
            words,
            number_of,
            least=3,
            page="why",
        )
        for number in (2, 3)
        for words, number_of in (
            (
                "gain of the flow over the better fixed box, points",
                _folded(min, _gain("flow", "fixed ±90°"), _gain("flow", "fixed ±180°")),
            ),
            ("… over one for all, points", _gain("flow", "one for all")),
        )
    ),
    Goal(
        "rotation-discovery",
        "flow, distance to a rotation",
        of("flow"),
        most=0.1,
        digits=3,
        page="mario",
    ),
    Goal(
        "rotation-discovery",
        "… of InstaAug's",
        over(of("flow"), of("instaaug")),
        most=0.5,
        digits=2,
    ),
    Goal(
        "cifar10-poses",
        "points that the aligned lack of the upright, at the worst angle",
        _folded(max, *(_away(angle) for angle in range(0, 181, 30))),
        most=10,
        page="modes",
    ),
    *(
        Goal(
            "mario-3mode",
            f"{words}, {where}",
            of("mixture", metric),
            least=least,
            most=most,
            digits=3,
            profile=profile,
            page=page,
        )
        for profile, where, page in (
            ("quick", "α given", "modes"),
            ("reduced", "α by the rule", "mario"),
        )
        for words, metric, least, most in (
            ("poses within 5° of a true one", "poses_within_5_degrees", 0.98, None),
            ("images with all three", "images_with_all_poses", 0.98, None),
            ("weights off a third, 98% of images", "weight_off_by", None, 0.1),
        )
    ),
    *(
        Goal(
            "mnist-poses",
            f"deviation of all {digit}s, in the heaviest pose, degrees",
            of("way back by the pose", f"deviation_degrees_heaviest.{digit}"),
            most=15,
            page="modes",
        )
        for digit in (4, 6)
    ),
    *_poses("mnist-poses", "MNIST"),
    *_poses("fmnist-poses", "Fashion-MNIST"),
    *_poses("cifar10-poses", "CIFAR-10"),
    *(
        Goal(
            name,
            "known ranges, the worse of two is off by, %",
            of("flow"),
            most=10,
            profile="quick",
            page="beyond",
        )
        for name in ("depth", "elastic")
    ),
    Goal(
        "colour",
        "half-width where hue is free, of 180°",
        of("flow", "half_width_degrees.free"),
        least=162,
        profile="quick",
        page="beyond",
    ),
    Goal(
        "colour",
        "half-width where hue is bound, of 90°: distance in degrees",
        lambda values: {
            seed: abs(width - 90)
            for seed, width in values("flow", "half_width_degrees.bound").items()
        },
        most=9,
        profile="quick",
    ),
    Goal(
        "cifar10-families",
        "affine × colour less affine, points",
        _gain("affine × colour", "affine"),
        least=0,
        errors=2,
        page="beyond",
    ),
    Goal(
        "dimensions",
        "share of the flow's samples on the ridge at D = 16",
        of("splines, D = 16"),
        least=0.95,
        digits=3,
        profile="quick",
        page="dimensions",
    ),
)


def values_of(name: str, profile: str, folder: Path) -> Values:
    """Metrics by seed, as goals read them; none where nothing of it is stored, or measured."""
    path = folder / name / f"{profile}.json"
    entries = stored(name, profile, folder) if path.exists() else []
    where = f"{name}/{profile}"

    def values(row: str, metric: str) -> BySeed:
        metric = metric or EXPERIMENTS[name].score
        own = [entry for entry in entries if entry["row"] == row]
        measured = [entry for entry in own if metric.split(".")[0] in entry["metrics"]]
        return {e["seed"]: number_in(e["metrics"], metric, where) for e in measured}

    return values


def goals(folder: Path) -> str:
    """The table of goals, in Markdown. Goals of one experiment stand together, under its name."""
    rows = []
    before = None
    for goal in GOALS:
        found = goal.number(values_of(goal.experiment, goal.profile, folder))
        ours, said = "", "not run yet"
        if found:
            spread = Spread.of(list(found.values()))
            ours = f"{spread:.{goal.digits}f}".replace("-", "−")
            said = "met" if goal.met_by(spread) else "**missed**"
            if spread.seeds < len(SEEDS):
                said = f"{spread.seeds} of {len(SEEDS)} seeds"
        name = "" if goal.experiment == before else goal.experiment
        before = goal.experiment
        page = goal.page and f"[{goal.page}]({goal.page}.ipynb)"
        # Numbers stay on one line.
        rows.append(
            [name, goal.words, *(n.replace(" ", "\u00a0") for n in (goal.asked, ours)), said, page]
        )
    return plots.table(["experiment", "what", "goal", "ours", "", "see"], rows)
