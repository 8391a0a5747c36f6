"""The rooms: who may import whom, what the package shows, how its lines read."""

import ast
from pathlib import Path

import pytest

import flowinv

ROOT = Path(__file__).parents[1]

# From the top down: a file imports from the rooms below its own, and within a room from the left.
ROOMS = [
    ["__main__"],
    [
        "lab.known",
        "lab.ridges",
        "lab.experiments",
        "lab.results",
        "lab.runs",
        "lab.goals",
        "lab.report",
    ],
    ["deployment.building", "deployment.storage", "deployment.export", "deployment.folders"],
    ["training.settings", "training.checkpoints", "training.loop"],
    ["alignment", "metrics", "explanation"],
    ["model"],
    ["guides"],
    ["data.dataset", "data.reading", "data.files", "data.catalogue", "data.sprites"],
    [
        "distributions.univariate",
        "distributions.layers",
        "distributions.box",
        "distributions.bases",
        "distributions.flow",
    ],
    [
        "transforms.family",
        "transforms.sampling",
        "transforms.matrices",
        "transforms.affine",
        "transforms.projective",
        "transforms.elastic",
        "transforms.colour",
        "transforms.product",
        "transforms.registry",
    ],
    ["networks"],
    ["checks"],
    ["files"],
    [
        "plots.style",
        "plots.pictures",
        "plots.circles",
        "plots.lines",
        "plots.summaries",
        "plots.diagrams",
        "widgets",
    ],
]
# widgets and files know nothing of the rest; nor do plots, which stand lowest.
ALONE = ("widgets", "files")
# What scripts outside the package may import, by folder.
OUTSIDE = {
    "book": {"lab", "model", "data", "distributions", "files", "plots", "widgets"},
    "benchmarks": {room.split(".")[0] for row in ROOMS for room in row},
}


def name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT / "flowinv").with_suffix("").parts)


def imports(path: Path) -> set[str]:
    """The files and rooms of flowinv that a file names in its imports, wherever they stand."""
    parts = ["flowinv", *name(path).split(".")] if path.is_relative_to(ROOT / "flowinv") else []
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = parts[: -node.level] if node.level else []
            module = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            if module == "flowinv":
                found |= {alias.name for alias in node.names}
            elif node.level and not node.module:  # of the same room, by name
                room = module.removeprefix("flowinv.")
                found |= {f"{room}.{alias.name}" for alias in node.names}
            elif module.startswith("flowinv."):
                found.add(module.removeprefix("flowinv."))
        if isinstance(node, ast.Import):
            found |= {
                alias.name.removeprefix("flowinv.")
                for alias in node.names
                if alias.name.startswith("flowinv.")
            }
    return found - {"__version__"}


FILES = sorted((ROOT / "flowinv").rglob("[!_]*.py")) + [ROOT / "flowinv" / "__main__.py"]


def test_every_file_has_a_room():
    assert {name(path) for path in FILES} == {file for room in ROOMS for file in room}


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_go_down_only(path):
    floor = next(i for i, room in enumerate(ROOMS) if name(path) in room)
    left = ROOMS[floor][: ROOMS[floor].index(name(path))]
    below = [file for room in ROOMS[floor + 1 :] for file in room]
    allowed = {*left, *below, *(file.split(".")[0] for file in below)}
    if name(path) in ALONE:
        allowed = set()
    assert imports(path) <= allowed, f"{name(path)} may not import {imports(path) - allowed}"


def test_an_import_upwards_would_be_found(tmp_path, monkeypatch):
    """The rule refuses what it should: a relative import within a function too."""
    wrong = ROOT / "flowinv" / "networks.py"
    text = wrong.read_text() + "\ndef f():\n    from .model import InvariantClassifier\n"
    monkeypatch.setattr(Path, "read_text", lambda self: text)
    assert "model" in imports(wrong)


@pytest.mark.parametrize("folder", OUTSIDE)
def test_scripts_outside_import_what_they_may(folder):
    for path in (ROOT / folder).rglob("*.py"):
        rooms = {module.split(".")[0] for module in imports(path)}
        assert rooms <= OUTSIDE[folder], path


def test_lines_are_at_most_100_characters():
    folders = ("flowinv", "tests", "benchmarks", "book")
    long = [
        f"{path.relative_to(ROOT)}:{number}"
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > 100
    ]
    assert not long


def test_what_the_package_shows_is_there():
    for shown in flowinv.__all__:
        assert getattr(flowinv, shown) is not None
    assert len(flowinv.__all__) <= 20
    assert (ROOT / "flowinv" / "py.typed").exists()


def test_the_guide_that_contributing_adds_works():
    """Its code, as it stands there, in at most 15 lines of class: a draw over the box."""
    page = (ROOT / "CONTRIBUTING.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    registered = dict(flowinv.GUIDES)
    try:
        exec(code, names := {})
        lines = [line for line in code.splitlines() if line.strip() and "import" not in line]
        assert len(lines) <= 15
        q = names["PredictedAngle"](flowinv.FAMILIES["rotation"], 1)(
            names["torch"].rand(2, 1, 28, 28)
        )
        assert q.draw(3).T.shape == (3, 2, 1)
    finally:
        flowinv.GUIDES.clear()
        flowinv.GUIDES.update(registered)
