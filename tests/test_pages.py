"""The rendered book as a browser shows it: `make check`, after `make book`.

Every page is opened once in each of four ways (desktop and phone, light and dark), and what was seen
is kept; each test then states one law about all pages. `_build/pages.json` has the counts.
"""

import gzip
import http.server
import json
import re
import shutil
import threading
from collections import Counter
from functools import lru_cache, partial
from importlib import resources
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

pytestmark = pytest.mark.check

ROOT = Path(__file__).parents[1]
HTML = ROOT / "_build" / "html"
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())
PREFIX = urlsplit(CONFIG["html"]["baseurl"]).path.rstrip("/")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
DESKTOP, PHONE, SMALL_PHONE = 1280, 390, 360
WAYS = [(width, theme) for width in (DESKTOP, PHONE) for theme in ("light", "dark")]
LINE = 1.6e6 / 8  # bytes a second of a slow mobile line
TEXT = (".html", ".css", ".js", ".svg", ".json", ".txt", ".xml")


@lru_cache(maxsize=None)
def _compressed(path):
    return gzip.compress(Path(path).read_bytes(), 6)


class Server(http.server.SimpleHTTPRequestHandler):
    """Text goes compressed, as hosts of static pages send it; what is missing gets 404.html."""

    def do_GET(self):
        # As the host does, below the address in _config.yml.
        path = Path(self.translate_path(self.path.removeprefix(PREFIX)))
        if path.is_dir():
            path = path / "index.html"
        missing = not path.is_file()
        if missing:
            path = HTML / "404.html"
        body = b""
        if path.is_file():
            body = _compressed(path) if path.suffix in TEXT else path.read_bytes()
        self.send_response(404 if missing else 200)
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Content-Length", str(len(body)))
        if path.suffix in TEXT and body:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address():
    if not HTML.is_dir():
        pytest.skip("no rendered book: run `make book` first")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory=str(HTML)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}{PREFIX}"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: install the package chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: extra `check`")
    with playwright.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


# What a page says of itself once it stands. `ours`: what the chapters hold, not the theme around.
SEEN = """() => {
  const visible = e => e.checkVisibility({visibilityProperty: true});
  const formulas = [...document.querySelectorAll('.math')];
  const fits = e => e.scrollWidth <= e.clientWidth + 1 || getComputedStyle(e).overflowX === 'visible';
  const stops = new Set();
  for (const f of formulas)
    for (const e of [f, ...f.querySelectorAll('*')])
      if (e.tabIndex >= 0 && !(e.matches('div.math') && !fits(e))) stops.add(e);
  return {
    overflow: document.scrollingElement.scrollWidth - innerWidth,
    formulas: document.querySelectorAll('.math').length,
    untypeset: [...document.querySelectorAll('.math')].filter(
      e => visible(e) && !e.querySelector('mjx-container')).length,
    tab_stops: stops.size,
    images: [...document.images].filter(e => e.closest('article')).length,
    without_alt: [...document.images].filter(e => e.closest('article') && visible(e)
                                                  && !(e.alt.length > 20)).length,
    broken: [...document.images].filter(e => e.complete && visible(e) && !e.naturalWidth).length,
  };
}"""
SLIDERS = """() => [...document.querySelectorAll('.frames input')].map((e, i) => {
  e.dataset.checked = i;
  const label = e.labels && e.labels[0];
  const readout = e.nextElementSibling;
  const box = readout && readout.getBoundingClientRect();
  return {
    name: e.getAttribute('aria-label') || (label ? label.textContent.trim() : ''),
    text: e.getAttribute('aria-valuetext') || '',
    readout: !!box && box.width > 0 && box.left >= 0 && box.right <= innerWidth,
    height: e.getBoundingClientRect().height,
  };
})"""
PICTURES = """i => { const e = document.querySelector(`[data-checked="${i}"]`);
  const box = e.closest('.frames');
  return [...box.querySelectorAll('img')].filter(e => e.checkVisibility()).map(e => e.src).join() }"""


def _open(browser, address, name):
    """A page in a context of its own, and what it asked for and complained about."""
    context = browser.new_context(viewport={"width": DESKTOP, "height": 800})
    page = context.new_page()
    page.set_default_timeout(120_000)
    log = {"outside": [], "console": [], "missing": []}
    log["finished"] = finished = []

    def asked(request):
        if not request.url.startswith((address, "data:", "blob:")):
            log["outside"].append(request.url)

    def answered(response):
        if response.status >= 400:
            log["missing"].append(response.url.removeprefix(address))

    page.on("request", asked)
    page.on("response", answered)
    page.on("requestfinished", lambda request: finished.append(request))
    page.on("requestfailed", lambda r: log["missing"].append(r.url.removeprefix(address)))
    page.on("pageerror", lambda error: log["console"].append(str(error)))
    page.on("console", lambda m: log["console"].append(m.text) if m.type == "error" else None)
    page.goto(f"{address}/{name}", wait_until="load")
    page.evaluate("async () => { await window.MathJax?.startup?.promise; }")
    page.wait_for_load_state("networkidle")
    return context, page, log


def _violations(page):
    """(impact, rule, whether it is in the chapter's own part, element) of each, by axe-core."""
    found = page.evaluate(
        "async () => (await axe.run(document, {resultTypes: ['violations'], preload: false})).violations.flatMap("
        "v => v.nodes.map(n => { let e = null;"
        " try { e = document.querySelector(n.target[0]) } catch {}"
        " return [v.impact, v.id, !!(e && e.closest('article')), n.html.slice(0, 160)] }))"
    )
    return [tuple(item) for item in found]


@pytest.fixture(scope="module")
def seen(browser, address):
    """{(page, width, theme): what was seen}."""
    axe = (resources.files("axe_playwright_python") / "axe.min.js").read_text()
    names = sorted(
        str(path.relative_to(HTML)) for path in HTML.rglob("*.html") if "_static" not in path.parts
    )
    seen = {}
    for name in names:
        if name == "index.html":  # sends on to the first page
            continue
        context, page, log = _open(browser, address, name)
        log["bytes"] = sum(request.sizes()["responseBodySize"] for request in log.pop("finished"))
        page.evaluate(axe)
        for width, theme in WAYS:
            page.set_viewport_size({"width": width, "height": 800})
            page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
            page.wait_for_timeout(300)  # colours change slowly
            seen[name, width, theme] = log | page.evaluate(SEEN) | {"axe": _violations(page)}
        page.set_viewport_size({"width": SMALL_PHONE, "height": 800})
        seen[name, PHONE, "light"]["sliders"] = _driven(page)
        context.close()
    _store(seen)
    return seen


def _driven(page):
    """What each slider says of itself, and whether keys move its pictures."""
    sliders = page.evaluate(SLIDERS)
    for i, slider in enumerate(sliders):
        before = page.evaluate(PICTURES, i)
        page.locator(f'[data-checked="{i}"]').focus()
        for key in ("ArrowRight", "ArrowLeft", "ArrowLeft"):
            page.keyboard.press(key)
            slider["moves"] = page.evaluate(PICTURES, i) != before
            if slider["moves"]:
                break
        slider["text moves"] = page.evaluate(SLIDERS)[i]["text"] != slider["text"]
    return sliders


def _store(seen):
    """The counts of all pages, for people."""
    desktop = {k[0]: v for k, v in seen.items() if k[1:] == (DESKTOP, "light")}
    sliders = [s for log in seen.values() for s in log.get("sliders", [])]
    axe = Counter(
        f"{impact}, {'ours' if ours else 'theme'}, {width}, {theme}"
        for (_, width, theme), log in seen.items()
        for impact, _, ours, _ in log["axe"]
    )
    counts = {
        "pages": len(desktop),
        "outside requests": sum(len(log["outside"]) for log in desktop.values()),
        "console errors, one way": sum(len(log["console"]) for log in desktop.values()),
        "pages with console errors": sum(bool(log["console"]) for log in desktop.values()),
        "missing files": len({f for log in seen.values() for f in log["missing"]}),
        "formulas": sum(log["formulas"] for log in desktop.values()),
        "formulas not set": sum(log["untypeset"] for log in desktop.values()),
        "tab stops in formulas": sum(log["tab_stops"] for log in desktop.values()),
        "most tab stops on a page": max(log["tab_stops"] for log in desktop.values()),
        "images": sum(log["images"] for log in desktop.values()),
        "without alternative text": sum(log["without_alt"] for log in desktop.values()),
        "wider than a phone": [
            k[0] for k, v in seen.items() if k[1] == PHONE and v["overflow"] > 0
        ][::2],
        "sliders": len(sliders),
        "sliders named": sum(bool(s["name"]) for s in sliders),
        "sliders with value text": sum(bool(s["text"]) for s in sliders),
        "sliders that move pictures": sum(s["moves"] for s in sliders),
        "readouts visible at 360": sum(s["readout"] for s in sliders),
        "largest page, kB": max((log["bytes"] // 1000, name) for name, log in desktop.items()),
        "kB": {name: log["bytes"] // 1000 for name, log in desktop.items()},
        "axe, elements by impact": dict(sorted(axe.items())),
        "axe, elements by rule": dict(
            Counter(
                f"{r} ({i}, {'ours' if o else 'theme'})"
                for log in seen.values()
                for i, r, o, _ in log["axe"]
            ).most_common()
        ),
        "examples": {
            r: [name, width, theme, html]
            for (name, width, theme), log in seen.items()
            for _, r, _, html in log["axe"]
        },
        "console": Counter(e for log in seen.values() for e in log["console"]).most_common(10),
        "missing": sorted({f for log in seen.values() for f in log["missing"]}),
    }
    (HTML.parent / "pages.json").write_text(json.dumps(counts, indent=1))


def ill(seen, wrong):
    """{page and way: what is wrong there}, where something is."""
    found = {" ".join(map(str, way)): wrong(log) for way, log in seen.items()}
    return {way: what for way, what in found.items() if what}


def test_measured(seen):
    assert seen
