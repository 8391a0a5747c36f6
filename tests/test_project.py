"""What must agree across the project's files."""

import html
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ADDRESS = PROJECT["urls"]["Repository"]
CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))
every_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def cells(path, kind=None):
    return [c for c in json.loads(path.read_text())["cells"] if kind in (None, c["cell_type"])]


def tracked():
    listing = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, cwd=ROOT
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / line for line in listing.stdout.splitlines() if (ROOT / line).is_file()]


def texts():
    for path in tracked():
        if path.suffix not in (".png", ".npz", ".safetensors", ".webp", ".onnx", ".gz"):
            yield path, path.read_text()


def test_the_address_is_the_same_everywhere():
    """pyproject.toml's is the one to change; this names the files that then disagree."""
    owner_and_name = ADDRESS.removeprefix("https://github.com/")
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    assert config["repository"]["url"] == ADDRESS
    owner, name = owner_and_name.split("/")
    assert config["html"]["baseurl"] == f"https://{owner}.github.io/{name}/"
    found = 0
    for path, text in texts():
        for match in re.findall(
            r"github\.com/([\w.-]+/[\w.-]+?)(?=\.git|[/\"'\s)`]|$)"
            r"|colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)",
            text,
        ):
            name = match[0] or match[1]
            if name.split("/")[1].startswith("flowinv"):
                assert name == owner_and_name, f"{path} names {name}"
                found += 1
    assert found >= 7


def test_the_version_is_the_same_everywhere():
    """The package's is the one to change."""
    import flowinv

    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == flowinv.__version__
    assert importlib.metadata.version("flowinv") == flowinv.__version__


@every_chapter
def test_a_chapter_installs_the_tagged_version_and_links_to_colab(path):
    source = "".join(cells(path, "code")[0]["source"])
    address = f"git+{ADDRESS}@v{importlib.metadata.version('flowinv')}"
    assert f'address = "{address}"' in source and 'get("FLOWINV_SOURCE", address)' in source
    assert "try:\n    import flowinv" in source
    assert source == "".join(cells(CHAPTERS[0], "code")[0]["source"])
    colab = ADDRESS.replace("https://github.com", "https://colab.research.google.com/github")
    link = f"{colab}/blob/main/book/{path.name}"
    assert link in "".join(cells(path)[0]["source"])


@every_chapter
def test_a_chapter_is_stored_as_it_ran(path):
    """Kernel python3, cells executed in order, no errors, warnings or widgets."""
    notebook = json.loads(path.read_text())
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert "widgets" not in notebook["metadata"]
    assert [c["execution_count"] for c in cells(path, "code")] == list(
        range(1, len(cells(path, "code")) + 1)
    )
    for cell in cells(path, "code"):
        for output in cell["outputs"]:
            assert output["output_type"] != "error" and output.get("name") != "stderr"
            assert "image/s]" not in "".join(output.get("data", {}).get("text/plain", "")), (
                "an empty progress bar"
            )


def test_the_page_of_status_is_that_of_the_stored_chapters_and_none_takes_long():
    spec = importlib.util.spec_from_file_location("execute", ROOT / "book" / "execute.py")
    execute = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(execute)
    assert (ROOT / "book" / "status.md").read_text() == execute.status(ROOT / "book")
    runs = {path.stem: json.loads(path.read_text())["metadata"]["run"] for path in CHAPTERS}
    assert all(run["profile"] == "quick" and run["seconds"] <= 360 for run in runs.values()), runs


@every_chapter
def test_every_figure_has_alternative_text(path):
    figures = [
        c
        for c in cells(path, "code")
        if any("image/png" in o.get("data", {}) for o in c["outputs"])
    ]
    interactive = [c for c in cells(path, "code") if "\nframes(" in "\n" + "".join(c["source"])]
    assert figures
    for cell in figures + interactive:
        assert len(cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")) > 20
    for cell in interactive:
        (shown,) = ("".join(o["data"].get("text/html", "")) for o in cell["outputs"])
        for alt in re.findall('<img alt="(.*?)"', shown):
            assert html.unescape(alt).startswith(cell["metadata"]["mystnb"]["image"]["alt"])
    for page in (ROOT / "book").glob("*.md"):
        text = page.read_text()
        assert len(re.findall("```{(?:figure|image)}", text)) == text.count(":alt:")


@every_chapter
def test_words_in_figures_are_legible_and_cells_are_short(path):
    """10 points are 9 pixels on a phone (test_pages). A reader sees cells of 20 lines at most."""
    for cell in cells(path, "code"):
        source = "".join(cell["source"])
        sizes = re.findall(r"(?:fontsize|labelsize)=(\d+)\b", source)
        assert all(int(size) >= 10 for size in sizes), source
        folded = {"hide-input", "remove-input", "remove-cell"} & set(
            cell["metadata"].get("tags", [])
        )
        assert folded or len([line for line in source.splitlines() if line.strip()]) <= 20, source


def test_every_page_is_in_the_table_of_contents_and_the_other_way_round():
    named = set(re.findall(r"(?:root|file): (\S+)", (ROOT / "_toc.yml").read_text()))
    there = {
        str(p.relative_to(ROOT).with_suffix(""))
        for p in (ROOT / "book").glob("*")
        if p.suffix in (".md", ".ipynb")
    }
    assert named == there


def test_the_teaser_is_the_chapters_own_figure():
    import base64

    (cell,) = (
        c
        for path in CHAPTERS
        for c in cells(path, "code")
        if "teaser" in c["metadata"].get("tags", [])
    )
    (picture,) = (
        o["data"]["image/png"] for o in cell["outputs"] if "image/png" in o.get("data", {})
    )
    assert base64.b64decode(picture) == (ROOT / "book" / "_static" / "teaser.png").read_bytes()


def test_pins_are_names_and_versions_and_allow_what_pyproject_asks_for():
    from packaging.requirements import Requirement

    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, version = re.fullmatch(r"([\w.-]+)==([\w.+]+)", line).groups()
            pins[name.lower().replace("_", "-")] = version
    if not pins:
        pytest.skip("constraints.txt was emptied, to test without pins")
    wanted = list(PROJECT["dependencies"])
    for extra in PROJECT["optional-dependencies"].values():
        wanted += [line for line in extra if not line.startswith("flowinv[")]
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(pins[requirement.name.lower().replace("_", "-")]), (
            requirement
        )


def test_no_path_of_a_machine_and_no_registry_in_the_tree():
    here = re.compile(r"(/ro{2}t/|/(?:home|Users|work)/\w+/|https?://[^ \"]+/simple/)")
    for path, text in texts():
        if path != Path(__file__):
            assert not here.search(text), path


def test_the_repository_stays_small():
    sizes = {path: path.stat().st_size for path in tracked()}
    assert sum(sizes.values()) < 40 * 2**20
    assert max(sizes.values()) < 6 * 2**20


def test_every_law_in_the_book_names_a_test_that_is_there():
    page = (ROOT / "book" / "laws.md").read_text()
    sections = re.findall(r"Package: `(.*?)`\. Tests: `(.*?)`\.(.*?)(?=\n## |\Z)", page, re.S)
    assert len(sections) >= 10
    for package, file, table in sections:
        defined = set(re.findall(r"^def (test_\w+)", (ROOT / file).read_text(), re.M))
        named = re.findall(r"\| `(test_\w+)` \|", table)
        assert named and set(named) <= defined, set(named) - defined
        assert (ROOT / package).exists()


def test_the_api_page_has_every_module():
    page = (ROOT / "book" / "api.md").read_text()
    paths = [p.relative_to(ROOT).with_suffix("") for p in (ROOT / "flowinv").rglob("[!_]*.py")]
    assert set(re.findall(r"automodule:: (\S+)", page)) == {".".join(path.parts) for path in paths}
