"""The share of a training step that is not the classifier's own, in every experiment.

The classifier's own is to learn from as many images as the method shows it. What is timed is the
row `flow` with the settings and networks of `quick`.
"""

from collections.abc import Callable
from functools import partial

import torch
from harness import arguments, compare, store
from torch import Tensor
from torch.nn.functional import cross_entropy

from flowinv.lab import EXPERIMENTS
from flowinv.model import InvariantClassifier
from flowinv.training import Settings, step


def classify(model: InvariantClassifier, images: Tensor, labels: Tensor, at_once: int) -> None:
    """Forward and backward through the classifier alone."""
    for x, y in zip(images.split(at_once), labels.split(at_once)):
        loss = cross_entropy(model.classify(x), y)
        if loss.requires_grad:
            loss.backward()


def candidates(
    model: InvariantClassifier, images: Tensor, labels: Tensor, settings: Settings
) -> dict[str, Callable]:
    """A step without a rate, so that the model stays, and the classifier's own share of it."""
    still = [torch.optim.SGD(model.parameters(), 0.0)]
    # A point mass gives one sample, whatever is asked for.
    samples = len(model.draw(model.q(images[:1]), settings.samples)[0])
    copies = samples + model.original
    learns = any(parameter.requires_grad for parameter in model.q.parameters())
    shown = images.repeat(copies, 1, 1, 1).requires_grad_(learns)
    at_once = settings.chunk or len(shown)
    return {
        "step": partial(step, model, still, images, labels, settings, 0.1),
        "classifier alone": partial(classify, model, shown, labels.repeat(copies), at_once),
    }


def main() -> None:
    args = arguments(__doc__)
    rows = []
    for name, experiment in EXPERIMENTS.items():
        data = experiment.data("ci")
        settings = experiment.settings("quick", "flow")
        model = experiment.build("flow", "quick", data).train()
        model.to(args.device, memory_format=torch.channels_last)
        model.classifier.requires_grad_(not settings.freeze)
        some = data.train[: settings.batch_size]
        images, labels = (part.to(args.device) for part in some)
        times = compare(candidates(model, images, labels, settings), args.repeats, args.device)
        share = round(1 - times["classifier alone"]["ratio"], 2)
        rows.append({"experiment": name, "outside the classifier": share, **times["step"]})
        print(f"{name}: {share:.0%} of {times['step']['median']} ms")
    store(args, rows)


if __name__ == "__main__":
    main()
