"""Run chapters from top to bottom and store their outputs in place: `make execute`.

A chapter is written only if every cell ran without an error or a warning, and without anything
that belongs to the machine it ran on. Folded solutions are run after it, and what they print stands
below them. Figures get a palette: a third of the bytes. How long a
chapter took is stored in it, and shown on the page `status.md`.
"""

import base64
import html
import os
import platform
import re
import sys
import time
from datetime import date
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from flowinv.files import atomic_write
from flowinv.lab import provenance
from flowinv.widgets import few_colours


def execute(path: Path) -> None:
    # Threads that wait sleep, and nothing shows progress: the Makefile says why.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("TQDM_DISABLE", "1")
    notebook = nbformat.read(path, as_version=4)
    start = time.perf_counter()
    client = NotebookClient(
        notebook,
        timeout=1800,
        kernel_name="python3",
        resources={"metadata": {"path": path.parent}},
        record_timing=False,
    )
    try:
        with client.setup_kernel():
            for number, cell in enumerate(notebook.cells):
                client.execute_cell(cell, number)
            seconds = time.perf_counter() - start
            for cell in list(notebook.cells):
                if cell.cell_type == "markdown":
                    cell.source = solved(cell.source, client)
    except CellExecutionError as error:
        sys.exit(f"{path}: a cell failed; the file is as it was\n{error}")
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {
                "display_name": "Python 3",
                "language": "python",
                "name": "python3",
            },
            "language_info": {"name": "python"},
            "run": {
                "seconds": round(seconds),
                "profile": os.environ.get("FLOWINV_PROFILE", "quick"),
                "device": provenance()["device"],
                "python": platform.python_version(),
                "date": date.today().isoformat(),
            },
        }
    )
    teaser = None
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            text = str(output.get("text", "")) + str(
                output.get("data", {}).get("text/plain", "")
            )
            if output.get("name") == "stderr":
                sys.exit(
                    f"{path}: cell {number} writes to stderr; the file is as it was\n{text}"
                )
            refuse_places(text, f"{path}: cell {number}")
            if '<div class="frames">' in output.get("data", {}).get(
                "text/html", ""
            ):
                output["data"]["text/html"] = described(
                    output["data"]["text/html"], alternative(cell)
                )
            if "image/png" in output.get("data", {}):
                picture = few_colours(
                    base64.b64decode(output["data"]["image/png"])
                )
                output["data"]["image/png"] = base64.b64encode(
                    picture
                ).decode()
                if "teaser" in cell.metadata.get("tags", []):
                    teaser = picture
    with atomic_write(path) as partial:
        nbformat.write(notebook, partial)
    if teaser:
        (path.parent / "_static" / "teaser.png").write_bytes(teaser)
    print(f"{path}: run in {seconds:.0f} s")


# A solution up to its code, and what an earlier run printed.
SOLUTION = re.compile(
    r"(<summary>Solution</summary>(?:(?!</details>).)*?```python\n(.*?)```\n)"
    r"(?:\n<!-- It prints -->.*?<!-- Printed -->\n)?",
    re.S,
)


def solved(markdown: str, client: NotebookClient) -> str:
    """The text, with what the code of each solution prints below it; figures are not shown."""

    def run(solution: re.Match) -> str:
        cell = nbformat.v4.new_code_cell(solution[2])
        client.nb.cells.append(cell)  # the client wants it in its place
        client.execute_cell(cell, len(client.nb.cells) - 1)
        client.nb.cells.pop()
        printed = "\n\n".join(filter(None, map(shown, cell.outputs)))
        if not printed:
            return solution[1]
        return f"{solution[1]}\n<!-- It prints -->\n\n{printed}\n\n<!-- Printed -->\n"

    return SOLUTION.sub(run, markdown)


def shown(output) -> str:
    """An output as Markdown."""
    if output.get("name") == "stderr":
        sys.exit(
            f"a solution writes to stderr; the file is as it was\n{output['text']}"
        )
    data = output.get("data", {})
    if "text/markdown" in data:
        return data["text/markdown"].strip()
    text = output.get("text") or data.get("text/plain", "")
    if "image/png" in data or not text.strip():
        return ""
    refuse_places(text, "a solution")
    return f"```text\n{text.rstrip()}\n```"


def refuse_places(text: str, where: str) -> None:
    """End if a text shows a path of the machine."""
    for place in (os.getcwd(), str(Path.home()), sys.prefix):
        if place in text:
            sys.exit(
                f"{where} shows the path {place}; the file is as it was"
            )


def alternative(cell) -> str:
    """A figure's alternative text, which the cell's metadata have."""
    return cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")


def described(frames: str, alt: str) -> str:
    """An interactive figure's HTML, each frame of which says what it shows, then its values."""
    return frames.replace('<img alt="', f'<img alt="{html.escape(alt)} ')


def status(folder: Path) -> str:
    """The page that says how long each chapter took, in the order of the table of contents."""
    contents = (folder.parent / "_toc.yml").read_text()
    rows = []
    for name in re.findall(r"file: book/(\S+)", contents):
        path = folder / f"{name}.ipynb"
        run = path.exists() and nbformat.read(path, 4).metadata.get("run")
        if run:
            minutes, seconds = divmod(run["seconds"], 60)
            rows.append(
                f"| [](./{path.name}) | {minutes}:{seconds:02} | {run['profile']}"
                f" | {run['device']} | {run['python']} | {run['date']} |"
            )
    return STATUS + "\n".join(rows) + "\n"


STATUS = """# Status

How long each chapter took when it was last run from top to bottom, everything included. The pages
show what came out of these runs, but for the chapter on digits, which `make book` trains anew. Made
by `make execute`, which stores a chapter only if no cell failed or warned.

| chapter | minutes | profile | device | Python | date |
| --- | --- | --- | --- | --- | --- |
"""

if __name__ == "__main__":
    for name in sys.argv[1:]:
        execute(Path(name))
    book = Path(sys.argv[1]).parent
    if (book.parent / "_toc.yml").exists():
        (book / "status.md").write_text(status(book))
