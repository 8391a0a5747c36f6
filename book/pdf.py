"""The whole book as one PDF, printed by Chromium from the rendered pages: `make pdf`."""

import io
import re
import shutil
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import sync_playwright
from pypdf import PdfWriter

ROOT = Path(__file__).parents[1]
HTML = ROOT / "_build" / "html"
NAMES = ("chromium", "chromium-browser", "google-chrome")
SET = "async () => { await window.MathJax?.startup?.promise; }"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def book(target: Path) -> None:
    """Print every page of the table of contents, in its order, with its title as a bookmark."""
    chromium = next(filter(None, map(shutil.which, NAMES)), None)
    if chromium is None or not HTML.is_dir():
        sys.exit(f"a PDF needs `make book` and one of {NAMES}")
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=HTML)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    contents = (ROOT / "_toc.yml").read_text()
    writer = PdfWriter()
    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"]
        )
        page = browser.new_page(color_scheme="light")
        for name in re.findall(r"(?:root|file): (\S+)", contents):
            page.goto(
                f"http://127.0.0.1:{server.server_port}/{name}.html"
            )
            page.evaluate(SET)
            margin = dict.fromkeys(
                ("top", "bottom", "left", "right"), "15mm"
            )
            printed = page.pdf(
                format="A4",
                print_background=True,
                tagged=True,
                scale=0.75,
                margin=margin,
            )
            title = page.title().split(" — ")[0]
            writer.append(io.BytesIO(printed), outline_item=title)
        browser.close()
    writer.add_metadata({"/Title": "Instance-wise Invariance"})
    writer.compress_identical_objects()
    writer.write(target)
    print(
        f"{target}: {len(writer.pages)} pages, {target.stat().st_size / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    book(HTML / "flowinv.pdf")
