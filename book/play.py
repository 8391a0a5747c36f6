"""What the page *Play with it* needs of the package: `python book/play.py`.

It writes into `book/_static/play` the stored models of the experiment `play` as ONNX, one digit of
each class, and the picture that stands there where scripts are off.
"""

import json
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

from flowinv import plots
from flowinv.data import load
from flowinv.distributions import Draw
from flowinv.files import atomic_write
from flowinv.lab import EXPERIMENTS, trained
from flowinv.model import InvariantClassifier

PAGE = Path(__file__).parent / "_static" / "play"


class Parts(nn.Module):
    """f and q apart, as a function of images (B, 1, 28, 28) and noise (S, B, 1).

    Noise uniform in [-1, 1], where the flow starts, gives samples T of q(T | I), (S, B), with
    log q(T | I). The page warps by itself, as it shows the warped images too.
    """

    def __init__(self, model: InvariantClassifier):
        super().__init__()
        self.model = model.cpu().eval().requires_grad_(False)

    def forward(self, images: Tensor, noise: Tensor) -> dict[str, Tensor]:
        q = self.model.q(images)
        # The base is uniform.
        score = -q.base.entropy().expand(noise.shape[:-1])
        T, log_density, _ = q.push(
            Draw(noise, score, torch.ones_like(score))
        )
        return {
            "logits": self.model.classify(images),
            "T": T.squeeze(-1),
            "log_density": log_density,
        }


def models() -> dict[str, Parts]:
    """The stored models by the name of their row."""
    found = {}
    digits = load("mnist", sample=True)
    for row in EXPERIMENTS["play"].rows:
        model = trained("play", "reduced", row, digits)
        found[row] = Parts(model)
    return found


def export(parts: Parts, path: Path) -> None:
    """One model as ONNX, for any B and S."""
    B, S = torch.export.Dim("B"), torch.export.Dim("S")
    with warnings.catch_warnings(), atomic_write(path) as partial:
        warnings.simplefilter("ignore")  # of the exporter, about itself
        made = torch.onnx.export(
            parts,
            (torch.zeros(2, 1, 28, 28), torch.zeros(3, 2, 1)),
            dynamic_shapes={"images": {0: B}, "noise": {0: S, 1: B}},
            input_names=["images", "noise"],
            output_names=["logits", "T", "log_density"],
            dynamo=True,
            verbose=False,
        )
        for node in made.model.graph:
            node.metadata_props.clear()  # where in PyTorch it comes from
        made.save(partial, external_data=False)


def digits() -> list[dict]:
    """Of each class the test image nearest to the mean of its class, in bytes."""
    images, labels = load("mnist", sample=True).test
    found = []
    for label in range(10):
        own = images[labels == label]
        image = own[(own - own.mean(0)).square().sum((1, 2, 3)).argmin()]
        pixels = (255 * image).round().int().flatten().tolist()
        found.append({"label": label, "pixels": pixels})
    return found


def still(some: dict[str, Parts], image: Tensor) -> None:
    """What the three models say of one image (1, 28, 28), as a picture."""
    T = torch.linspace(-1, 1, 721)
    densities = {}
    for row, parts in some.items():
        q = parts.model.q(image[None])
        densities[row] = q.log_prob(T[:, None, None]).squeeze(-1).exp()
    figure = plots.fans(
        image,
        180 * T,
        densities,
        "q(T | I) of a 9, at three prices of entropy α",
    )
    figure.savefig(PAGE / "still.png", dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    some = models()
    for row, parts in some.items():
        export(parts, PAGE / f"alpha-{row.removeprefix('α ')}.onnx")
    stored = digits()
    (PAGE / "digits.json").write_text(json.dumps(stored) + "\n")
    nine = torch.tensor(stored[9]["pixels"]).view(1, 28, 28) / 255
    still(some, nine)
