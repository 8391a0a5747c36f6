"""The rendered book as a browser shows it: `make check`, after `make book`.

Every page is opened once and looked at in four ways (desktop and phone, light and dark); each test
then states one law about what was seen. `_build/pages.json` has the counts.
"""

import gzip
import http.server
import json
import re
import shutil
import threading
from collections import Counter
from functools import cache, partial
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


@cache
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
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: install the package chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: extra `check`")
    with playwright.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


# What a page says of itself once it stands.
SEEN = """() => {
  const visible = e => e.checkVisibility({visibilityProperty: true});
  const formulas = [...document.querySelectorAll('.math')];
  const fits = e => e.scrollWidth <= e.clientWidth + 1;
  const stops = new Set();
  for (const f of formulas)
    for (const e of [f, ...f.querySelectorAll('*')])
      if (e.tabIndex >= 0 && !(e.matches('div.math') && !fits(e))) stops.add(e);
  const figures = [...document.querySelectorAll('article :is(.cell_output, .chart) img')];
  return {
    overflow: document.scrollingElement.scrollWidth - innerWidth,
    formulas: document.querySelectorAll('.math').length,
    untypeset: [...document.querySelectorAll('.math')].filter(
      e => visible(e) && !e.querySelector('mjx-container')).length,
    tab_stops: stops.size,
    images: [...document.images].filter(e => e.closest('article')).length,
    without_alt: [...document.images].filter(e => e.closest('article') && visible(e)
                                                  && !(e.alt.length > 20)).length,
    small: figures.filter(e => visible(e) && e.naturalWidth
      && e.clientWidth / e.naturalWidth < 8.9 / (10 / 72 * perInch(e))).map(e => e.src),
    broken: [...document.images].filter(e => e.complete && visible(e) && !e.naturalWidth).length,
    parted: [...document.querySelectorAll('article td')].filter(e => {
      const words = document.createRange();
      words.selectNodeContents(document.createTreeWalker(e, NodeFilter.SHOW_TEXT).nextNode() || e);
      const lines = new Set([...words.getClientRects()].map(r => Math.round(r.top)));
      return /^\\S+ ± \\S+$/.test(e.textContent.trim()) && lines.size > 1;
    }).map(e => e.textContent),
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
PICTURES = """i => [...document.querySelector(`[data-checked="${i}"]`).closest('.frames')
  .querySelectorAll('img')].filter(e => e.checkVisibility()).map(e => e.src).join()"""
AXE = """async () => {
  const found = await axe.run(document, {resultTypes: ['violations'], preload: false});
  return found.violations.flatMap(rule => rule.nodes.map(node => {
    const element = document.querySelector(node.target[0]);
    const ours = !!(element && element.closest('article'));
    return [rule.impact, rule.id, ours, node.html.slice(0, 200)];
  }));
}"""
BLOCKING = """() => performance.getEntriesByType('resource')
  .filter(e => e.renderBlockingStatus === 'blocking').reduce((sum, e) => sum + e.encodedBodySize,
  0)"""


def _open(browser, address, name):
    """A page in a context of its own, and what it asked for and complained about."""
    context = browser.new_context(viewport={"width": DESKTOP, "height": 800})
    page = context.new_page()
    page.set_default_timeout(30_000)
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
        log["blocking"] = page.evaluate(BLOCKING)
        page.evaluate(axe)
        for width, theme in WAYS:
            page.set_viewport_size({"width": width, "height": 800})
            page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
            page.wait_for_timeout(300)  # colours change slowly
            seen[name, width, theme] = log | page.evaluate(SEEN) | {"axe": page.evaluate(AXE)}
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
    pages = {name: log for (name, *way), log in seen.items() if way == [DESKTOP, "light"]}
    sliders = [slider for log in seen.values() for slider in log.get("sliders", [])]
    axe = [(way, *found) for way, log in seen.items() for found in log["axe"]]
    kinds = [
        (impact, rule, "ours" if ours else "the theme's", *way[1:])
        for way, impact, rule, ours, _ in axe
    ]
    total = {
        name: sum(
            log[key] if isinstance(log[key], int) else len(log[key]) for log in pages.values()
        )
        for name, key in {
            "requests of other hosts": "outside",
            "errors on the console": "console",
            "missing files": "missing",
            "formulas": "formulas",
            "formulas not set": "untypeset",
            "tab stops in formulas": "tab_stops",
            "images": "images",
            "images without alternative text": "without_alt",
        }.items()
    }
    wide = [name for (name, *way), log in seen.items() if log["overflow"] > 0]
    counts = {
        "pages": len(pages),
        **total,
        "pages wider than a phone": sorted(set(wide)),
        "sliders": len(sliders),
        **{
            f"sliders: {what}": sum(bool(slider[key]) for slider in sliders)
            for what, key in {
                "named": "name",
                "value as text": "text",
                "move pictures": "moves",
                "value in sight at 360 px": "readout",
            }.items()
        },
        "bytes": {name: log["bytes"] for name, log in pages.items()},
        "bytes before the first paint": {name: log["blocking"] for name, log in pages.items()},
        "axe, elements": {", ".join(map(str, k)): n for k, n in Counter(kinds).most_common()},
        "axe, an example of each": {rule: [*way, text] for way, _, rule, _, text in axe},
        "missing": sorted({file for log in pages.values() for file in log["missing"]}),
        "console": Counter(e for log in pages.values() for e in log["console"]).most_common(9),
    }
    (HTML.parent / "pages.json").write_text(json.dumps(counts, indent=1))


def wrong(seen, what):
    """{page and way: what is wrong there}, where something is."""
    found = {" ".join(map(str, way)): what(log) for way, log in seen.items()}
    return {way: there for way, there in found.items() if there}


def test_no_page_asks_another_host(seen):
    assert not wrong(seen, lambda log: log["outside"])


def test_no_page_complains_on_the_console(seen):
    assert not wrong(seen, lambda log: log["console"])


def test_no_file_is_missing(seen):
    assert not wrong(seen, lambda log: log["missing"] or log["broken"])


def test_axe_finds_nothing_of_moderate_impact_or_more(seen):
    heavy = ("moderate", "serious", "critical")
    assert not wrong(seen, lambda log: [found for found in log["axe"] if found[0] in heavy])


def test_every_formula_is_set_and_none_that_fits_is_a_tab_stop(seen):
    assert sum(log["formulas"] for log in seen.values()) > 1000
    assert not wrong(seen, lambda log: log["untypeset"] + log["tab_stops"])


def test_no_page_is_wider_than_the_screen(seen):
    assert not wrong(seen, lambda log: max(log["overflow"], 0))


def test_every_image_says_what_it_shows(seen):
    assert not wrong(seen, lambda log: log["without_alt"])


def test_labels_of_figures_are_9_pixels_high(seen):
    """Those of 10 points, the smallest that there are (test_plots), on the smallest figure."""
    assert not wrong(seen, lambda log: log["small"])


def test_a_number_and_its_spread_stay_on_one_line(seen):
    assert not wrong(seen, lambda log: log["parted"])


def test_every_slider_has_a_name_and_moves_pictures_without_a_kernel(seen):
    """Its value is in sight on the smallest phone, and its handle is 24 pixels high."""
    sliders = [slider for log in seen.values() for slider in log.get("sliders", [])]
    assert len(sliders) >= 10
    for slider in sliders:
        assert slider.pop("height") >= 24 and all(slider.values()), slider


def test_pages_come_quickly_on_a_slow_line(seen):
    """At 1.6 Mbit/s the first paint waits 1.5 s for styles and scripts; all comes in 8.

    But for the networks of the page to play with, and what runs them, which come when it stands.
    """
    play = "book/play.html"
    pages = {way: log for way, log in seen.items() if way[0] != play}
    assert not wrong(seen, lambda log: log["blocking"] > 1.5 * LINE)
    assert not wrong(pages, lambda log: log["bytes"] > 1.5e6)
    assert all(log["bytes"] < 5e6 for way, log in seen.items() if way[0] == play)


def test_every_page_says_what_it_is(address):
    """To search engines, and where links to it are shown."""
    for path in (HTML / "book").glob("*.html"):
        head = path.read_text().split("</head>")[0]
        (text,) = re.findall(r'<meta name="description" content="(.+?)">', head)
        (picture,) = re.findall(r'<meta property="og:image" content="(.+?)">', head)
        assert len(text) > 40
        assert (HTML / picture.removeprefix(CONFIG["html"]["baseurl"])).is_file()
        assert 'rel="icon"' in head
        assert f"/book/{path.name}</loc>" in (HTML / "sitemap.xml").read_text()


def test_an_address_that_is_none_shows_the_way(browser, address):
    context, page, log = _open(browser, address, "book/no/such/page.html")
    assert log["missing"] == ["/book/no/such/page.html"]
    page.locator("article a").first.click()
    page.wait_for_url("**/book/intro.html")
    context.close()


@pytest.mark.parametrize("words", ["entropy", "coupling", "change of variables"])
def test_the_search_finds_chapters_first_and_shows_words(browser, address, words):
    """Of the first five pages three are chapters and none a log or a list; no TeX in excerpts."""
    context, page, _ = _open(browser, address, f"search.html?q={words}")
    page.wait_for_selector("#search-results li p.context")
    page.wait_for_timeout(2000)
    links = page.locator("#search-results li a").evaluate_all("all => all.map(e => e.href)")
    pages = [Path(urlsplit(link).path).stem for link in links[:5]]
    assert sum((ROOT / "book" / f"{name}.ipynb").exists() for name in pages) >= 3, pages
    assert not {"changelog", "laws", "status"} & set(pages), pages
    assert "\\" not in page.locator("#search-results").inner_text()
    context.close()


def test_paper_shows_the_answers_and_some_frames(browser, address):
    context, page, _ = _open(browser, address, "book/why.html")
    page.emulate_media(media="print")
    shown = "e => e.checkVisibility() && e.getBoundingClientRect().height > 0"
    answers = page.locator("article details > p").evaluate_all(f"all => all.map({shown})")
    assert answers and all(answers)
    frames = page.locator(".frames img").evaluate_all(f"all => all.filter({shown}).length")
    assert frames == 4
    context.close()
