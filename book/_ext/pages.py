"""What the rendered pages have beside the chapters: a quick start, formulas, a face.

A Sphinx extension. Scripts wait for the page, and those that nobody needs are left out; formulas
are set by MathJax 3 from the book's own folder; each page says what it is, to search engines and
where links to it are shown; a list of all pages, and a page for addresses that are none.
"""

import html
import re
import shutil
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from docutils import nodes
from pybtex.plugin import register_plugin
from pybtex.style.formatting.plain import Style
from pybtex.style.labels import BaseLabelStyle

# Of MathJax, what sets TeX as HTML and hands MathML to screen readers.
MATHJAX = ["core.js", "startup.js", "input/tex.js", "input/tex"]
MATHJAX += ["output/chtml.js", "output/chtml", "a11y/assistive-mml.js"]
# The icons are the theme's fonts, so its script that draws them (1.5 MB) is not needed; there are
# no kernels; and what is loaded ahead delays the styles.
UNUSED = re.compile(
    r"fontawesome\S*\.js|thebe|THEBE|rel=.preload|pagename ="
)
CARD = """
<meta name="description" content="{text}">
<meta property="og:title" content="{title}">
<meta property="og:description" content="{text}">
<meta property="og:type" content="article">
<meta property="og:url" content="{base}{page}.html">
<meta property="og:image" content="{base}_static/teaser.png">
<meta property="og:image:alt" content="Dials of the rotations that a model allows a 0, a 6 and a 9">
<meta name="twitter:card" content="summary_large_image">
<script>
  if (document.documentElement.dataset.theme === "auto") document.documentElement.dataset.theme =
    matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
</script>
"""
MISSING = """<h1>This page is not there</h1>
<p>Its address may have changed. The <a href="book/intro.html">first page</a> shows the way through
the book, and the <a href="search.html">search</a> finds words.</p>"""


def lighter(head: str, wait: bool) -> str:
    """A part of a page's head without what is unused or there twice; scripts may wait."""
    seen = set()

    def keep(match: re.Match) -> str:
        tag = match[0]
        if tag in seen or UNUSED.search(tag):
            return ""
        seen.add(tag)
        if wait and " src=" in tag and "defer" not in tag:
            return tag.replace("<script", "<script defer", 1)
        return tag

    return re.sub(
        r"<script.*?</script>|<link [^>]*>", keep, head, flags=re.S
    )


def described(doctree: nodes.document | None) -> str:
    """A page's first paragraph of some length without formulas, at most about 160 characters."""
    for paragraph in doctree.findall(nodes.paragraph) if doctree else ():
        text = re.sub(r"\s+", " ", paragraph.astext())
        if len(text) > 80 and "\\" not in text[:160]:
            return (
                text
                if len(text) <= 160
                else text[:160].rsplit(" ", 1)[0] + " …"
            )
    return "How far may a picture turn before it becomes a picture of something else?"


def head(app, pagename, templatename, context, doctree):
    base = app.config.html_baseurl
    title = re.sub("<.*?>", "", context.get("title") or "")
    text = html.escape(described(doctree), quote=True)
    # The search's own scripts run at once and need the others before them.
    context["lighter"] = lambda part: lighter(
        part, wait=pagename != "search"
    )
    context["card"] = CARD.format(
        text=text, title=title, base=base, page=pagename
    )
    if pagename == "404":  # is shown at any address
        context["metatags"] = f'<base href="{urlsplit(base).path}">'


class AuthorYear(BaseLabelStyle):
    """References are listed by author and year, as the text cites them."""

    def format_labels(self, entries):
        seen = Counter()
        for entry in entries:
            names = [
                str(person.last_names[-1])
                for person in entry.persons["author"]
            ]
            who = (
                " and ".join(names)
                if len(names) < 3
                else f"{names[0]} et al."
            )
            label = f"{who} {entry.fields['year']}"
            yield label + " bcdef"[seen[label]].strip()
            seen[label] += 1


class Listed(Style):
    default_label_style = AuthorYear


def more_pages(app):
    yield "404", {"title": "Not there", "body": MISSING}, "page.html"


def finish(app, exception):
    if exception or app.builder.format != "html":
        return
    (package,) = find_spec(
        "sphinx-mathjax-offline"
    ).submodule_search_locations
    source, target = (
        Path(package) / "static/mathjax",
        Path(app.outdir) / "_static/mathjax",
    )
    for name in MATHJAX:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if (source / name).is_dir():
            shutil.copytree(
                source / name, target / name, dirs_exist_ok=True
            )
        else:
            shutil.copy(source / name, target / name)
    pages = "".join(
        f"<url><loc>{app.config.html_baseurl}{page}.html</loc></url>\n"
        for page in sorted(app.env.found_docs)
    )
    xmlns = "http://www.sitemaps.org/schemas/sitemap/0.9"
    (Path(app.outdir) / "sitemap.xml").write_text(
        f'<?xml version="1.0" encoding="utf-8"?>\n<urlset xmlns="{xmlns}">\n{pages}</urlset>\n'
    )


def setup(app):
    register_plugin("pybtex.style.formatting", "author_year", Listed)
    app.connect("html-page-context", head)
    app.connect("html-collect-pages", more_pages)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
