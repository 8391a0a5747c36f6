"""The book while it is written: `make serve` renders again what changed, and open pages reload."""

import io
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "_build"
SOURCES = ["_config.yml", "_toc.yml", "book", "flowinv"]
RELOAD = b"""<script>setInterval(async () => {
  const now = await (await fetch("/number")).text();
  if (now !== (window.rendering ??= now)) location.reload();
}, 1000)</script>"""
number = 0  # of the rendering that is there


class Live(SimpleHTTPRequestHandler):
    """Files as they are; pages with a script that asks whether there is a newer rendering."""

    def send_head(self):
        path = Path(self.translate_path(self.path))
        body = None
        if self.path == "/number":
            body = str(number).encode()
        elif path.suffix == ".html" and path.is_file():
            body = path.read_bytes() + RELOAD
        if body is None:
            return super().send_head()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        return io.BytesIO(body)

    def log_message(self, *_):
        pass


def changed() -> float:
    """When a source was last changed."""
    files = [
        path
        for name in SOURCES
        for path in [ROOT / name, *(ROOT / name).rglob("*")]
    ]
    return max(path.stat().st_mtime for path in files if path.is_file())


def render() -> None:
    """Render what changed; the pages show stored outputs."""
    (BUILD / "source").mkdir(parents=True, exist_ok=True)
    copied = [ROOT / name for name in SOURCES[:3]]
    subprocess.run(["cp", "-rp", *copied, BUILD / "source"], check=True)
    program = Path(sys.executable).parent / "jupyter-book"
    command = [program, "build", "--quiet", "--path-output", ROOT]
    subprocess.run([*command, BUILD / "source"])


if __name__ == "__main__":
    server = ThreadingHTTPServer(
        ("127.0.0.1", 8000), partial(Live, directory=BUILD / "html")
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    seen = 0.0
    while True:
        if (last := changed()) > seen:
            seen = last
            render()
            number += 1
            print(
                "The book is at http://127.0.0.1:8000/book/intro.html; Ctrl+C stops",
                flush=True,
            )
        time.sleep(1)
