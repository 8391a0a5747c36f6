"""Sphinx extension: the package's docstrings, written to be read in the source, as reStructuredText.

`name: text` becomes a list item, an indented block is set as it stands, `code` is set as code.
"""

import re

ITEM = re.compile(r"(\w+(?:, \w+)*): (?=\S)")
NO_ITEM = ("Source: ", "Sources: ", "Returns ", "Raises ")


def as_rst(lines: list[str]) -> list[str]:
    """One docstring's lines, without its examples."""
    rst: list[str] = []
    within = ""  # what the line before belongs to: "item", "literal" or "" for prose
    for number, line in enumerate(lines):
        if not line.strip():
            rst.append("")
            after = lines[number + 1 : number + 2]
            if not (after and after[0].startswith("    ")):
                within = ""
        elif (
            number
            and ITEM.match(line)
            and not line.startswith(NO_ITEM)
            and (within == "item" or not rst[-1])
        ):
            name, text = line.split(": ", 1)
            rst.append(f"* **{name}**: {_code(text)}")
            within = "item"
        elif within == "item" and not line.startswith(NO_ITEM):
            rst.append("  " + _code(line.strip()))
        elif line.startswith("    "):
            if within != "literal":
                rst += ["", "::", ""]
            rst.append(line)
            within = "literal"
        else:
            if within:
                rst.append("")
            rst.append(_code(line))
            within = ""
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
