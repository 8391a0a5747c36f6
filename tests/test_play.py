"""The page on which the reader turns a digit: its files, its numbers, and what a reader does."""

import gzip
import hashlib
import http.server
import importlib.util
import json
import re
import shutil
import subprocess
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from flowinv import metrics
from flowinv.distributions import wrap
from flowinv.lab import EXPERIMENTS, trained

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "book" / "_static" / "play"
spec = importlib.util.spec_from_file_location("play", ROOT / "book" / "play.py")
play = importlib.util.module_from_spec(spec)
spec.loader.exec_module(play)

ROWS = list(EXPERIMENTS["play"].rows)


@pytest.fixture(scope="module")
def digits():
    stored = json.loads((FOLDER / "digits.json").read_text())
    pixels = torch.tensor([digit["pixels"] for digit in stored])
    return (pixels / 255).view(-1, 1, 28, 28)


def alpha(row):
    return row.removeprefix("α ")


# Files


def test_the_engine_is_the_one_that_was_checked():
    """It is stored as published; the one large file packed, with the sum of what it unpacks to."""
    named = dict(re.findall(r"`([\w.-]+)`: (\w{64})", (FOLDER / "README.md").read_text()))
    assert set(named) == {
        "ort.wasm.min.mjs",
        "ort-wasm-simd-threaded.mjs",
        "ort-wasm-simd-threaded.wasm",
    }
    for name, expected in named.items():
        path = FOLDER / name
        content = path.read_bytes() if path.exists() else gzip.open(f"{path}.gz").read()
        assert hashlib.sha256(content).hexdigest() == expected, name


def test_a_visit_transfers_at_most_5_mb():
    sizes = [len(gzip.compress(path.read_bytes())) for path in FOLDER.iterdir()]
    assert sum(sizes) <= 5e6


def test_the_slider_has_the_rows_of_the_experiment_and_each_its_file():
    (listed,) = re.findall(r"ALPHAS = \[(.*?)\]", (FOLDER / "model.js").read_text())
    assert listed.split(", ") == [alpha(row) for row in ROWS]
    assert {path.name for path in FOLDER.glob("*.onnx")} == {f"alpha-{alpha(r)}.onnx" for r in ROWS}
    stops = f'data-play="alpha" min="0" max="{len(ROWS) - 1}"'
    assert stops in (ROOT / "book" / "play.md").read_text()


def test_the_stored_digits_are_those_of_the_data():
    assert json.loads((FOLDER / "digits.json").read_text()) == play.digits()


# Numbers


@pytest.mark.parametrize("row", ROWS)
def test_a_stored_program_is_its_stored_model(row, digits):
    """Logits as the classifier gives them; T with the density that q has there, by its inverse."""
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(FOLDER / f"alpha-{alpha(row)}.onnx")
    noise = 2 * torch.rand(7, len(digits), 1, generator=torch.Generator().manual_seed(0)) - 1
    logits, T, log_density = session.run(None, {"images": digits.numpy(), "noise": noise.numpy()})
    model = trained("play", "reduced", row, play.load("mnist", sample=True)).cpu()
    with torch.no_grad():
        expected = play.Parts(model)(digits, noise)
        scored = model.q(digits).log_prob(torch.tensor(T).unsqueeze(-1))
        torch.testing.assert_close(torch.tensor(logits), model.classify(digits), atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.tensor(T), expected["T"], atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.tensor(log_density), scored, atol=1e-3, rtol=0)
    torch.testing.assert_close(
        torch.tensor(log_density), expected["log_density"], atol=1e-4, rtol=0
    )


@torch.no_grad()
def test_the_page_shows_what_its_prose_says(digits):
    """The 9's fan leans back as it is turned, the 3's goes round, and a high α costs the 9."""
    data = play.load("mnist", sample=True)
    low, middle, high = (trained("play", "reduced", row, data).cpu() for row in ROWS)
    nine, three = digits[9:10], digits[3:4]

    def lean(model, image):
        angles = torch.pi * model.q(image).sample((2000,))
        return torch.rad2deg(torch.atan2(angles.sin().mean(), angles.cos().mean())).item()

    for turn in (-60, 60):
        turned = middle.family.warp(nine, torch.tensor([[turn / 180]]))
        assert -turn * lean(middle, turned) > 0 and 15 < abs(lean(middle, turned)) < 75
    width = {model: metrics.invariance_width(model, nine).item() for model in (low, middle, high)}
    assert width[low] < width[middle] < width[high]
    assert 0.4 < width[middle] < 0.65 and metrics.invariance_width(middle, three) > 0.9
    averaged = [model.predict(nine, 200)[0, 9].exp() for model in (middle, high)]
    assert averaged[1] < averaged[0]


# What the page computes of a digit, by its own files.
SCRIPT = """
import { readFile } from "node:fs/promises";
const folder = process.argv[1];
const { arc, centre, load, look, meanShift, warp } = await import(folder + "/model.js");
const read = async (name) => new Uint8Array(await readFile(folder + "/" + name)).buffer;
const { alpha, pixels, turn, noise } = JSON.parse(process.argv[2]);
const model = await load(alpha, read);
const image = warp(Float32Array.from(pixels), turn);
const seen = await look(model, image, Float32Array.from(noise));
const way = await meanShift(model, image);
const found = {
  image: [...image], samples: [...seen.samples], plain: seen.plain, averaged: seen.averaged,
  T: seen.curve.T, density: seen.curve.density, mean: centre(seen.curve), arc: arc(seen.curve), way,
};
console.log(JSON.stringify(found));
"""


def in_node(script, *arguments):
    node = shutil.which("node")
    if not node:
        pytest.skip("there is no Node.js to run the page's script")
    command = [node, "--input-type=module", "-e", script, FOLDER.as_posix(), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@torch.no_grad()
@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize(("number", "turn"), [(9, 0.3), (3, -0.7)])
def test_the_page_computes_what_pytorch_does(row, number, turn, digits):
    """The picture turned, samples, density, both predictions and every step of the mean-shift."""
    model = trained("play", "reduced", row, play.load("mnist", sample=True)).cpu()
    noise = 2 * torch.rand(64, generator=torch.Generator().manual_seed(1)) - 1
    asked = {
        "alpha": float(alpha(row)),
        "pixels": digits[number].flatten().tolist(),
        "turn": turn,
        "noise": noise.tolist(),
    }
    found = in_node(SCRIPT, json.dumps(asked))

    def close(name, expected, atol=1e-4):
        torch.testing.assert_close(
            torch.tensor(found[name], dtype=torch.float64),
            torch.as_tensor(expected).double(),
            atol=atol,
            rtol=0,
            msg=lambda text: f"{name}: {text}",
        )

    one = digits[number : number + 1]
    image = model.family.warp(one, torch.tensor([[turn]]))
    close("image", image.flatten())
    T = play.Parts(model)(image, noise[:, None, None])["T"]
    close("samples", T[:, 0])
    close("plain", model.classify(image).softmax(-1)[0])
    latent = model.family.warp(image, T[..., None])
    close("averaged", model.classify(latent.flatten(0, 1)).softmax(-1).mean(0))
    q = model.q(image)
    places = wrap(torch.tensor(found["T"]))[:, None, None]
    close("density", q.log_prob(places).exp()[:, 0], atol=1e-3)

    def mean(q):
        """By an even grid, where the page has one of its own."""
        grid = torch.linspace(-1, 1, 20001)[:-1, None, None]
        p = q.log_prob(grid).exp()[:, 0]
        sin, cos = (f(torch.pi * grid[:, 0, 0]) @ p for f in (torch.sin, torch.cos))
        return torch.atan2(sin, cos) / torch.pi

    close("mean", mean(q))
    for before, after in zip(found["way"], found["way"][1:]):
        there = model.family.warp(image, torch.tensor([[float(before)]]))
        step = (after - before + 1) % 2 - 1
        assert step == pytest.approx(0.5 * mean(model.q(there)).item(), abs=1e-4)
    low, high = found["arc"]
    held = q.sample((4000,))[:, 0, 0].sub(low).remainder(2) <= high - low
    assert held.float().mean() == pytest.approx(0.99, abs=0.01)


DRAWN = """
const { drawn, middleOfMass } = await import(process.argv[1] + "/model.js");
const image = drawn(JSON.parse(process.argv[2]));
console.log(JSON.stringify({ image: [...image], middle: middleOfMass(image) }));
"""
SEVEN = [[[40, 30], [160, 30], [90, 200]]]


def test_a_drawing_is_brought_to_the_look_of_mnist(digits):
    """20 of 28 pixels high, its mass in the middle, a pen as wide; wherever it is drawn, how large.

    The models read it.
    """
    found = in_node(DRAWN, json.dumps(SEVEN))
    image = np.array(found["image"]).reshape(28, 28)
    assert image.min() == 0 and image.max() == 1
    (rows,) = np.nonzero(image.sum(1))
    assert 18 <= rows[-1] - rows[0] + 1 <= 21
    assert found["middle"] == pytest.approx([13.5, 13.5], abs=0.2)
    smaller = [[[x / 3 + 20, y / 3 + 70] for x, y in stroke] for stroke in SEVEN]
    assert in_node(DRAWN, json.dumps(smaller))["image"] == pytest.approx(found["image"], abs=1e-5)
    # As many dark pixels as the stored 7 and 1 have, more or less.
    usual = digits[[1, 7]].sum((1, 2, 3))
    assert 0.7 * usual.min() < image.sum() < 1.3 * usual.max()
    model = trained("play", "reduced", ROWS[1], play.load("mnist", sample=True)).cpu()
    with torch.no_grad():
        read = model.classify(torch.tensor(image, dtype=torch.float32)[None, None])
    assert read.argmax() == 7


# Readers


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Where the page's own part of the book is served."""
    text = (ROOT / "book" / "play.md").read_text()
    (body,) = re.findall(r'<p id="play-status">.*</script>', text, re.S)
    folder = tmp_path_factory.mktemp("site")
    (folder / "_static").symlink_to(FOLDER.parent)
    (folder / "book").mkdir()
    (folder / "book" / "play.html").write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
        f'<title>Play</title><figure id="play-still"></figure>{body}</html>'
    )
    handler = partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/book/play.html"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if not found:
        pytest.skip("there is no Chromium")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, address, request):
    """The page once it runs, in the viewport of a desktop or as the test asks."""
    page = browser.new_page(viewport=getattr(request, "param", {"width": 1280, "height": 900}))
    page.set_default_timeout(60_000)
    page.complaints = []
    page.on("console", lambda m: m.type in ("error", "warning") and page.complaints.append(m.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on(
        "request",
        lambda r: r.url.startswith(address[:18]) or page.complaints.append(f"elsewhere: {r.url}"),
    )
    page.goto(address)
    said(page)
    yield page
    assert not page.complaints
    page.close()


def said(page, before=""):
    """What the page says of the picture, once it says something else than before."""
    page.wait_for_function(
        "before => document.querySelector('[data-play=said]').textContent != before", arg=before
    )
    return page.inner_text("[data-play=said]")


def test_in_a_browser_the_keyboard_turns_chooses_and_picks(page):
    assert not page.is_visible("#play-still") and not page.is_visible("#play-status")
    first = said(page)
    assert first.startswith("Averaged: 9")
    page.focus("[data-play=turn]")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("[data-play=turned]") == "5° to the right"
    turned = said(page, first)
    page.focus("[data-play=alpha]")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('[data-play=price]').textContent == 'α = 1'")
    other = said(page, turned)
    page.focus("[aria-label='Digit 3']")
    page.keyboard.press("Enter")
    assert said(page, other).startswith("Averaged: 3")
    assert page.get_attribute("[aria-label='Digit 3']", "aria-pressed") == "true"


@pytest.mark.parametrize("page", [{"width": 390, "height": 800}], indirect=True)
def test_in_a_browser_as_wide_as_a_phone_a_drawing_is_read(page):
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    before = said(page)
    pad = page.locator("[data-play=pad]")
    assert pad.evaluate("pad => getComputedStyle(pad).touchAction") == "none"
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    for (stroke,) in [SEVEN]:
        x, y = stroke[0]
        page.mouse.move(box["x"] + x, box["y"] + y)
        page.mouse.down()
        for x, y in stroke[1:]:
            page.mouse.move(box["x"] + x, box["y"] + y, steps=5)
        page.mouse.up()
    page.wait_for_function("document.querySelector('tr.best th').textContent == '7'")
    assert said(page, before).startswith("Averaged: 7")
