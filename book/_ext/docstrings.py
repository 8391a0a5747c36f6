"""Sphinx extension: the package's docstrings, written to be read in the source, as reStructuredText.

`name: text` becomes a list item, an indented block is set as it stands, `code` is set as code.
"""

import re


def as_rst(lines: list[str]) -> list[str]:
    rst: list[str] = []
    item = literal = False
    for number, line in enumerate(lines):
        indented = line.startswith("    ")
        starts_item = re.match(
            r"(\w+(?:, \w+)*|Raises \w+)(: | \()(?=\S)", line
        ) and not line.startswith(("Source", "Sources", "Convention"))
        if not line.strip():
            rst.append("")
            if number + 1 < len(lines) and not lines[
                number + 1
            ].startswith("    "):
                literal = item = False
            continue
        if starts_item and line.split(": ")[0] != line:
            if not item and rst and rst[-1]:
                rst.append("")
            item, literal = True, False
            name, text = line.split(": ", 1)
            rst.append(f"* **{name}**: {_code(text)}")
        elif indented and item:
            rst.append("  " + _code(line.strip()))
        elif indented:
            if not literal:
                rst += ["", "::", ""]
                literal = True
            rst.append(line)
        else:
            if item:
                rst.append("")
            item = literal = False
            rst.append(_code(line))
    return [*rst, ""]


def _code(text: str) -> str:
    """`x` as ``x``, and nothing else that reStructuredText would read as a mark."""
    parts = text.split("`")
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"([*|]|_(?=\W|$))", r"\\\1", parts[i])
    return "``".join(parts)


def process(app, what, name, obj, options, lines: list[str]) -> None:
    doctest = next(
        (i for i, line in enumerate(lines) if line.startswith(">>>")),
        len(lines),
    )
    lines[:] = as_rst(lines[:doctest]) + lines[doctest:]


def setup(app) -> dict:
    app.connect("autodoc-process-docstring", process)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
