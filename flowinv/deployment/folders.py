"""Folders of images: fit a model to one, with a page of results; apply it to another."""

import base64
import csv
import html
import io
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .. import plots
from ..data import DataError, Dataset, ImageFiles, load_folder
from ..data.files import Broken
from ..data.reading import parts
from ..explanation import Ranges, oddness, ranges
from ..files import atomic_write
from ..metrics import accuracy
from ..model import InvariantClassifier
from ..training import Settings, fit, pick_device
from .building import from_classifier
from .storage import load_model, save_model

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"}
BATCH = 64  # images in memory
SMALL = "convnet"  # this package's own small classifier, by name


def fit_folder(
    folder: str | Path,
    out: str | Path,
    settings: Settings,
    *,
    family: str = "affine",
    guide: str = "flow",
    classifier: str = SMALL,
    weights: str | Path | None = None,
    size: int = 64,
    pad: bool = False,
    broken: Broken = "refuse",
    workers: int = 0,
    progress: bool = True,
    accelerator=None,
) -> Path:
    """Fit a model to a folder, save it, and write a page of results beside it, whose path it is.

    Until the model is saved the state of training lies beside it, renewed after each epoch: the
    same call goes on from there.

    Args:
        folder: with ``train/<class>/`` and ``test/<class>/``, as ``load_folder`` has it. All
            images but those of the test are learned from.
        out: the model's file, which ends in .safetensors. Neither it nor the page may be there yet.
        settings: of training.
        family, guide: names in ``FAMILIES`` and ``GUIDES``.
        classifier: ``convnet``, this package's small one, or the name of a torchvision network.
        weights: safetensors with the torchvision network's state. It then stays as it is, and q
            alone is fitted; else both learn.
        size: side of the images in pixels.
        pad: False cuts out the middle; True keeps all of an image and fills up with black.
        broken: what becomes of files that cannot be read, as ``load_folder`` has it.
        workers: processes that read images.
        progress: a bar.
        accelerator: as ``fit`` has it. The first of its processes writes the files.

    Raises:
        DataError: the folder is not laid out so.
        ValueError: a name or number is not as said, the weights do not fit, or ``out`` is there.
        CheckpointError: the state of training is of another call, or a file cannot be written.
    """
    out = Path(out)
    if out.suffix != ".safetensors":  # page and checkpoint go by the name without it
        raise ValueError(f"out: expected a file's name that ends in .safetensors, got {out.name!r}")
    page = out.with_suffix(".html")
    checkpoint = out.with_suffix(".checkpoint")
    for path in (out, page):
        if path.exists() and not checkpoint.exists():
            raise ValueError(f"{path} is there already: choose another file, or delete it")
    data = load_folder(folder, size, pad=pad, broken=broken).joined()
    model = _build(len(data.classes), family, guide, classifier, weights, size, settings.seed)
    history = fit(
        model,
        data.train,
        settings,
        workers=workers,
        checkpoint=checkpoint,
        progress=progress,
        accelerator=accelerator,
    )
    if accelerator and not accelerator.is_main_process:
        return page
    about = {"classes": list(data.classes), "size": size, "pad": pad, "title": data.title}
    save_model(model, out, about)
    with atomic_write(page) as partial:
        partial.write_text(_page(model, data, history, workers), encoding="utf-8")
    checkpoint.unlink()
    return page


def _build(
    classes: int,
    family: str,
    guide: str,
    classifier: str,
    weights: str | Path | None,
    size: int,
    seed: int,
) -> InvariantClassifier:
    """Untrained, the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if classifier == SMALL:
            if weights:
                raise ValueError("weights: expected none for convnet; name a torchvision network")
            return InvariantClassifier.build(guide, family, 3, classes)
        model = from_classifier(
            classifier, guide, family, classes=classes, size=size, frozen=bool(weights)
        )
    if weights:
        try:
            model.classifier.network.load_state_dict(load_file(weights))  # type: ignore[union-attr]
        except (OSError, SafetensorError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{weights} does not hold weights of {classifier} with {classes} classes ({reason})"
            ) from None
    return model


def predict_folder(
    path: str | Path,
    folder: str | Path,
    out: str | Path,
    progress: Callable[[int, int], None] = lambda done, of: None,
    seed: int = 0,
    broken: Literal["refuse", "skip"] = "refuse",
    workers: int = 0,
    network: nn.Module | None = None,
) -> int:
    """Write what a saved model finds in each image of a folder, and return how many there were.

    ``out`` is CSV with a line an image, as ``explanation.Ranges.columns`` has it, written whole or
    not at all.

    Args:
        path: the model's file, as ``fit_folder`` or ``save_model`` writes it. What it is about must
            say the ``size``, and may name the ``classes``.
        folder: with images anywhere below.
        out: the file.
        progress: called with how many images are done, of how many.
        seed: of the samples.
        broken: what becomes of files that cannot be read: an error, or they are left out.
        workers: processes that read images.
        network: the classifier's, where the model was not built from a name: see ``load_model``.

    Raises:
        CheckpointError: the file is no saved model.
        DataError: there are no images, or one cannot be read.
        ValueError: the model does not say the images' size, or its network is needed.
    """
    model = load_model(path, network)
    about = model.about or {}
    if "size" not in about:
        raise ValueError(
            f"{path} does not say the images' size: save it with save_model(model, path,"
            " {'size': …, 'classes': …})"
        )
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder: expected one with images in it or below")
    paths = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    files = ImageFiles(paths, about["size"], about.get("pad", False), _channels(model))
    if broken == "skip":
        files = files[files.readable(folder, skip=True)]
    if not len(files):
        raise DataError(f"{folder} holds no images: expected files as .png or .jpg in it or below")
    model.to(pick_device())
    done = 0
    with (
        torch.random.fork_rng(),
        atomic_write(out) as partial,
        partial.open("w", newline="", encoding="utf-8") as stream,
    ):
        torch.manual_seed(seed)
        writer = csv.writer(stream)
        for images in parts(files, BATCH, workers):
            columns = ranges(model, images).columns(about.get("classes"))
            if not done:
                writer.writerow(["file", *columns])
            for row in zip(*columns.values()):
                name = files.path(done).relative_to(folder).as_posix()
                writer.writerow([name, *map(_short, row)])
                done += 1
            progress(done, len(files))
    return done


def _short(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value


def _channels(model: InvariantClassifier) -> int:
    config = model.config or {}
    return config.get("in_channels") or len(config["classifier"]["mean"])


def _page(model: InvariantClassifier, data: Dataset, history: list[dict], workers: int) -> str:
    """The page of results on test images: one HTML file, figures inside."""
    labels = data.test.labels
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = ranges(model, data.test, workers=workers)
        right = [accuracy(model, data.test, labels, samples, workers) for samples in (0, 20)]
        figures = [_training(history), _examples(model, data)]
    widths = found.high - found.low
    odd = oddness(widths, labels)
    title = html.escape(f"{data.title}: how far each image may be moved")
    header = ["class", "images"]
    header += [f"{name} ({unit})" for name, unit in zip(found.names, found.units)]
    rows = []
    for c, name in enumerate(data.classes):
        own = labels == c
        medians = widths[own].quantile(0.5, dim=0).tolist() if own.any() else []
        rows.append([name, int(own.sum()), *(f"{width:.3g}" for width in medians)])
    parts = [
        f"<h1>{title}</h1>",
        f"<p>{html.escape(str(data))}</p>",
        f"<p>Right on test images: {right[0]:.1%} as they are, {right[1]:.1%} averaged over"
        " q(T | I).</p>",
        "<h2>Median width of the central 90% in each class</h2>",
        _table(header, rows),
        "<h2>Samples of q(T | I)</h2>",
        _picture(figures[1], "An image of each class with samples of its q(T | I)."),
        "<h2>The odd ones out</h2>",
        "<p>Test images whose widths differ most from those of their class, in robust standard"
        " deviations (oddness). Up to 3 is usual.</p>",
        _odd_ones(data, found, odd),
        "<h2>Training</h2>",
        _picture(figures[0], "The loss over the epochs."),
    ]
    style = (
        "body{font-family:sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
        "td,th{padding:.2em .8em;text-align:right}td:first-child{text-align:left}"
        "img{max-width:100%}"
    )
    start = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
    return "\n".join([f"{start}<style>{style}</style>", *parts, "</html>\n"])


def _table(header: list[str], rows: list[list]) -> str:
    def line(cells: list, kind: str) -> str:
        return "".join(f"<{kind}>{html.escape(str(cell))}</{kind}>" for cell in cells)

    lines = [f"<tr>{line(header, 'th')}</tr>", *(f"<tr>{line(row, 'td')}</tr>" for row in rows)]
    return "<table>" + "\n".join(lines) + "</table>"


def _odd_ones(data: Dataset, found: Ranges, odd: Tensor, number: int = 8) -> str:
    chosen = odd.argsort(descending=True, stable=True)[:number]
    images, labels = data.test[chosen]
    titles = [data.classes[c] for c in labels.tolist()]
    header = ["class", "oddness", *found.names]
    rows = []
    for i, title in zip(chosen.tolist(), titles):
        ends = zip(found.low[i].tolist(), found.high[i].tolist())
        rows.append([title, f"{odd[i]:.1f}", *(f"{low:.3g} to {high:.3g}" for low, high in ends)])
    figure = plots.row(images, titles)
    return _picture(figure, "The odd ones out, in the table's order.") + _table(header, rows)


def _training(history: list[dict]) -> Figure:
    epochs = torch.tensor([row["epoch"] for row in history])
    losses = torch.tensor([row["loss"] for row in history])
    return plots.curves(epochs, {"loss": losses}, "epoch", "loss (nats)")


@torch.no_grad()
def _examples(model: InvariantClassifier, data: Dataset, samples: int = 8) -> Figure:
    labels = data.test.labels
    first = [int((labels == c).nonzero()[0]) for c in labels.unique().tolist()][:10]
    shown = data.test[first].images.to(model.device)
    warped = model.family.warp(shown, model.q(shown).sample((samples,)), validate=False)
    names = [data.classes[c] for c in labels[first].tolist()]
    return plots.samples(shown.cpu(), warped.cpu(), names)


def _picture(figure: Figure, words: str) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    plt.close(figure)
    code = base64.b64encode(stream.getvalue()).decode()
    return f'<p><img alt="{html.escape(words)}" src="data:image/png;base64,{code}"></p>'
