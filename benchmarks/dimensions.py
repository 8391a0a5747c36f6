"""How a step's time and peak memory grow with D, for every shape of q; ratios are to D = 6.

The shapes are those of the experiment ``dimensions``. First q alone: samples, densities and
gradients for 512 contexts. Then a training step of 64 images of 32×32 pixels with the classifier of
the CIFAR-10 experiments: translation, similarity, affine, and elastic with 2², 3² and 4² control
points.
"""

from functools import partial

import torch
from harness import arguments, compare, gradients, peak_mebibytes, store

from flowinv.guides import GUIDES
from flowinv.lab.experiments import DIMENSIONS, RIDGES, SHAPES
from flowinv.model import InvariantClassifier
from flowinv.networks import FixupResNet
from flowinv.training import Settings, step
from flowinv.transforms import FAMILIES, Elastic

FIRST = 6  # the D that others are held against


def shape_step(flow: torch.nn.Module, context: torch.Tensor) -> None:
    T, log_prob, _ = flow(context).draw(1)
    gradients((T.square().sum(-1) + log_prob).mean(), [context, *flow.parameters()])


def image_step(guide: str, options: dict, family, images: torch.Tensor) -> partial:
    classifier = FixupResNet(3, 10, depth=8, planes=16)
    q = GUIDES[guide](family, 3, **options)
    model = InvariantClassifier(classifier, q, family, original=False)
    model.to(images.device, memory_format=torch.channels_last).train()
    optimizers = [torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)]
    labels = torch.arange(len(images), device=images.device) % 10
    return partial(step, model, optimizers, images, labels, Settings(samples=1), 0.01)


def main() -> None:
    args, rows = arguments(__doc__), []

    def measure(what: str, shape: str, calls: dict[int, partial]) -> None:
        ordered = {FIRST: calls[FIRST]} | calls
        for D, time in compare(ordered, args.repeats, args.device).items():
            rows.append({"what": what, "shape": shape, "D": D, **time})
            rows[-1]["MiB"] = round(peak_mebibytes(calls[D], args.device), 1)
            print(what, shape, D, time["median"], "ms", time["ratio"], rows[-1]["MiB"], "MiB")

    torch.manual_seed(0)
    context = torch.randn(512, 32, device=args.device, requires_grad=True)
    for shape, (guide, options, _) in SHAPES.items():
        guides = {D: GUIDES[guide](RIDGES[f"D = {D}"], 1, **options) for D in DIMENSIONS}
        flows = {D: of.flow.to(args.device) for D, of in guides.items()}
        measure("q alone", shape, {D: partial(shape_step, q, context) for D, q in flows.items()})

    families = {FAMILIES[name].dim: FAMILIES[name] for name in ("translation", "similarity")}
    families |= {6: FAMILIES["affine"]} | {2 * n * n: Elastic(n) for n in (2, 3, 4)}
    images = torch.rand(64, 3, 32, 32, device=args.device)
    for shape, (guide, options, _) in SHAPES.items():
        steps = {D: image_step(guide, options, family, images) for D, family in families.items()}
        measure("a training step", shape, steps)
    store(args, rows)


if __name__ == "__main__":
    main()
