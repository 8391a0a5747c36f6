"""The chapters as a reader on Colab meets them."""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import nbformat
import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """An environment with everything but flowinv, as Colab has it, and the checkout's wheel.

    It sees this environment's packages through a .pth file. Python does not follow the .pth files
    of a folder that came in through one, so the editable flowinv is not among them.
    """
    folder = tmp_path_factory.mktemp("colab")

    def run(*command):
        return subprocess.run(command, check=True, capture_output=True, text=True)

    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        folder / "dist",
        ROOT,
    )
    run(sys.executable, "-m", "venv", folder / "venv")
    python = folder / "venv" / "bin" / "python"
    site = Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip()
    )
    (site / "everything-else.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (wheel,) = (folder / "dist").glob("*.whl")
    found = (
        subprocess.run([python, "-c", "import flowinv"], capture_output=True, cwd=folder).returncode
        == 0
    )
    assert not found, "flowinv is there before the first cell"
    return python, wheel


# nbval runs every chapter. From the wheel, as on Colab, one in each run of the tests is enough.
CHAPTERS = [
    pytest.param(path, id=path.stem, marks=[] if path.stem == "augmenter" else [pytest.mark.slow])
    for path in sorted((ROOT / "book").glob("*.ipynb"))
]


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_runs_as_on_colab(chapter, elsewhere, tmp_path):
    """From an empty folder, flowinv through the first cell alone; then the exercises' solutions."""
    python, wheel = elsewhere
    notebook = nbformat.read(chapter, as_version=4)
    where = "import flowinv; assert flowinv.__file__.startswith({!r}), flowinv.__file__"
    notebook.cells.append(nbformat.v4.new_code_cell(where.format(str(python.parents[1]))))
    prose = "\n".join(cell["source"] for cell in notebook.cells if cell["cell_type"] == "markdown")
    solutions = re.findall(r"<summary>Solution</summary>.*?```python\n(.*?)```", prose, re.S)
    assert len(solutions) >= 2 or chapter.stem == "speed"
    notebook.cells += [nbformat.v4.new_code_cell(solution) for solution in solutions]
    nbformat.write(notebook, tmp_path / "chapter.ipynb")
    environment = {
        **os.environ,
        "FLOWINV_PROFILE": "ci",
        "FLOWINV_SOURCE": wheel.as_uri(),
        "FLOWINV_DATA": str(tmp_path / "empty"),
        "TQDM_DISABLE": "1",
    }
    environment.pop("PYTHONPATH", None)
    script = (
        "import nbformat, sys; from nbclient import NotebookClient;"
        "from jupyter_client.manager import KernelManager;"
        "from jupyter_client.kernelspec import KernelSpec;"
        "km = KernelManager();"
        "launch = [sys.executable, '-m', 'ipykernel_launcher', '-f', '{connection_file}'];"
        "km._kernel_spec = KernelSpec(argv=launch);"
        "NotebookClient(nbformat.read('chapter.ipynb', 4), timeout=300, km=km).execute()"
    )
    result = subprocess.run(
        [python, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.parametrize("page", ["README.md", "book/intro.md"])
def test_the_python_on_a_page_runs(page):
    """With less training; the README's three lines on images that stand in for the reader's own."""
    code, *_ = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)
    code, shortened = re.subn(
        r"Settings\(.*?\)", "Settings(epochs=2, burn_in=1), progress=False", code
    )
    assert shortened == 1
    names = {
        "images": torch.rand(64, 1, 28, 28),
        "labels": torch.arange(64) % 5,
        "new_images": torch.rand(2, 1, 28, 28),
    }
    exec(code, names)
    assert isinstance(names["model"].predict(torch.rand(2, 1, 28, 28)), torch.Tensor)


SOLUTION = """<details>
<summary>Solution</summary>

```python
print(2 * x)
```

Twice as much.

</details>"""


def test_a_solution_shows_what_its_code_prints_and_the_rest_stays(tmp_path):
    """Run after the page, and however often."""
    cell = nbformat.v4.new_markdown_cell
    code = nbformat.v4.new_code_cell("x = 21")
    path = tmp_path / "chapter.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell("# Title"), code, cell(SOLUTION)]), path)

    def executed():
        command = [sys.executable, ROOT / "book" / "execute.py", path]
        subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
        return nbformat.read(path, 4).cells

    title, ran, solution = executed()
    assert title.source == "# Title" and ran.source == "x = 21"
    printed = "```\n\n<!-- It prints -->\n\n```text\n42\n```\n\n<!-- Printed -->\n"
    assert solution.source == SOLUTION.replace("```\n\nTwice", f"{printed}\nTwice")
    assert [cell.source for cell in executed()] == ["# Title", "x = 21", solution.source]
