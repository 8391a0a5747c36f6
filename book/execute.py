"""Run chapters from top to bottom and store their outputs in place: `make execute`.

A chapter is written only if every cell ran without an error or a warning, and without anything
that belongs to the machine it ran on.
"""

import base64
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError


def execute(path: Path) -> None:
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
        client.execute()
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
            for place in (os.getcwd(), str(Path.home()), sys.prefix):
                if place in text:
                    sys.exit(
                        f"{path}: cell {number} shows the path {place}; the file is as it was"
                    )
            if "image/png" in output.get(
                "data", {}
            ) and "teaser" in cell.metadata.get("tags", []):
                teaser = base64.b64decode(output["data"]["image/png"])
    partial = path.with_suffix(".part")
    nbformat.write(notebook, partial)
    os.replace(partial, path)
    if teaser:
        (path.parent / "_static" / "teaser.png").write_bytes(teaser)
    print(f"{path}: run in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        execute(Path(name))
