"""Models for elsewhere: exported by torch.export or to ONNX, they need none of this package.

What is exported is a function of images and of noise, which draws nothing itself, so it repeats::

    images (B, C, H, W), noise (S, B, D)  →  log_probs (B, classes), T (S, B, D),
                                             log_density (S, B), weights (S, B)

by these names; the weights of the samples are those of ``draw``. B is free, S and the images' size
are those of the export. The file says whether the noise is to be ``normal`` or ``uniform`` (in
[0, 1)).
"""

import copy
import json
import math
import warnings
from pathlib import Path

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..checks import with_extra
from ..distributions import FlowDistribution, PointMass, Uniform
from ..distributions.box import Draw, Gaussian, GaussianMixture, equally_weighted
from ..distributions.univariate import wrap
from ..files import atomic_write
from ..model import InvariantClassifier


class Exportable(nn.Module):
    """A model as a function of images and noise: what ``export_model`` writes.

    With noise from ``torch.randn`` or ``torch.rand``, as ``kind`` says, log_probs are those of
    ``predict``.

    Args:
        model: a trained one. It is copied.
        shape: of an image, (C, H, W).
        samples: S, rounded up to a multiple of a mixture's components.

    Attributes:
        kind: of noise, "normal" or "uniform".

    Raises:
        ValueError: q chooses among boxes, for which there is no such function.

    Example:
        >>> model = InvariantClassifier.build("flow", "rotation", in_channels=1, classes=5)
        >>> exportable = Exportable(model, (1, 28, 28), samples=8)
        >>> outputs = exportable(torch.rand(2, 1, 28, 28), exportable.noise(2))
        >>> outputs["log_probs"].shape, outputs["T"].shape
        (torch.Size([2, 5]), torch.Size([8, 2, 1]))
    """

    def __init__(self, model: InvariantClassifier, shape: tuple[int, ...], samples: int = 20):
        super().__init__()
        if samples < 1 or len(shape) != 3:
            raise ValueError(
                f"export: expected a shape (C, H, W) and samples of 1 or more, got {shape} and"
                f" {samples}"
            )
        self.model = copy.deepcopy(model).cpu().eval().requires_grad_(False)
        self.model.autocast = False
        self.shape = tuple(shape)
        base = self.model.q(torch.zeros(1, *shape))
        while isinstance(base, FlowDistribution):
            base = base.base
        if not isinstance(base, Uniform | PointMass | Gaussian | GaussianMixture):
            raise ValueError(
                f"export: expected a q made of Gaussians or a uniform, got {type(base).__name__},"
                " which no noise of a fixed size draws"
            )
        self.kind = "normal" if isinstance(base, Gaussian | GaussianMixture) else "uniform"
        K = base.loc.shape[-2] if isinstance(base, GaussianMixture) else 1
        self.samples = K * math.ceil(samples / K)

    def noise(self, batch: int) -> Tensor:
        """Noise for so many images, from PyTorch's generator."""
        shape = (self.samples, batch, self.model.family.dim)
        return torch.randn(shape) if self.kind == "normal" else torch.rand(shape)

    def forward(self, images: Tensor, noise: Tensor) -> dict[str, Tensor]:
        model = self.model
        T, log_density, weights = _replay(model.q(images), noise)
        latent = model.family.apply(images, model.family.prepare(T))
        logits = model.classify(latent.flatten(0, 1)).unflatten(0, T.shape[:2])
        log_probs = (logits.log_softmax(-1) + weights.log().unsqueeze(-1)).logsumexp(0)
        return {"log_probs": log_probs, "T": T, "log_density": log_density, "weights": weights}


def _replay(q: dist.TorchDistribution, noise: Tensor) -> Draw:
    """``q.draw`` with this noise (S, B, D) in the place of what it would draw."""
    if isinstance(q, FlowDistribution):
        return q.push(_replay(q.base, noise))
    if isinstance(q, PointMass):
        T = q.T + 0 * noise  # S times the same
        return equally_weighted(T, 0 * T.sum(-1))
    if isinstance(q, Uniform):
        T = q.low + (q.high - q.low) * noise
        return equally_weighted(T, 0 * T.sum(-1) - q.entropy())
    if isinstance(q, Gaussian):
        x = _wrapped(q.loc + q.scale * noise, q.periodic)
        return equally_weighted(x, q.log_prob(x))
    assert isinstance(q, GaussianMixture)
    K = q.loc.shape[-2]
    n = noise.shape[0] // K
    # A sample of every component, in the order that `draw` has.
    places, scales = q.loc.movedim(-2, 0), q.scale.movedim(-2, 0)
    x = _wrapped(places + scales * noise.unflatten(0, (n, K)), q.periodic).flatten(0, 1)
    weights = (q.log_weights.exp() / n).movedim(-1, 0)
    return Draw(x, q.log_prob(x), weights.repeat(n, 1))


def _wrapped(x: Tensor, periodic: Tensor | None) -> Tensor:
    return x if periodic is None else torch.where(periodic, wrap(x), x)


def export_model(
    model: InvariantClassifier, path: str | Path, shape: tuple[int, ...], samples: int = 20
) -> Exportable:
    """Write the model as a program, whole or not at all, and return what was written.

    A file ``.pt2`` is of torch.export: ``torch.export.load(path).module()(images, noise)``. A file
    ``.onnx`` is ONNX, with inputs and outputs by their names. Both compute in float32 and hold, as
    JSON under ``flowinv``, the noise's kind, S, the family's names and what the model is ``about``.

    Args:
        model: a trained one.
        path: the file; its suffix chooses.
        shape: of an image, (C, H, W).
        samples: S, of the transformations that are averaged.

    Raises:
        ValueError: the suffix is another, or q cannot be written so (see ``Exportable``).
        ModuleNotFoundError: ONNX's tools are not installed.
        OSError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in (".pt2", ".onnx"):
        raise ValueError(f"export: expected a path that ends in .pt2 or .onnx, got {path.name!r}")
    if path.suffix == ".onnx":
        _need("onnx", "onnxscript")
    program = Exportable(model, shape, samples).eval()
    about = {
        "noise": program.kind,
        "samples": program.samples,
        "shape": program.shape,
        "names": program.model.family.names,
        "about": model.about,
    }
    B = torch.export.Dim("batch")
    images = torch.zeros(2, *shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters, about themselves
        exported = torch.export.export(
            program,
            (images, program.noise(2)),
            dynamic_shapes=({0: B}, {1: B}),
            strict=False,
        )
        with atomic_write(path) as partial:
            if path.suffix == ".pt2":
                torch.export.save(exported, partial, extra_files={"flowinv": json.dumps(about)})
            else:
                _write_onnx(exported, partial, json.dumps(about))
    return program


def _write_onnx(exported: torch.export.ExportedProgram, path: Path, about: str) -> None:
    made = torch.onnx.export(
        exported,
        (),
        dynamo=True,
        input_names=["images", "noise"],
        output_names=["log_probs", "T", "log_density", "weights"],
        verbose=False,
    )
    assert made is not None
    made.model.metadata_props["flowinv"] = about
    made.save(path, external_data=False)


def _need(*packages: str) -> None:
    for package in packages:
        try:
            __import__(package)
        except ModuleNotFoundError:
            raise ModuleNotFoundError(f"{package} is missing: {with_extra('onnx')}") from None
