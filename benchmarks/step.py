"""A whole training step against its floor, and against the published method's structure.

The floor is the classifier alone, trained on as many images as the method shows it: B (S + 1), or B S where the loss leaves
the images as they come out. "normflows" is the published structure: 12 couplings over an affine family, one matrix exponential
and one copy of the image a sample, and the same encoder and classifier. With --device cuda the classifier runs in
bfloat16 in all of them, and a step with the classifier compiled is measured as well.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from flow import CONTEXT, ContextMLP, coupling_flow
from harness import arguments, compare, store
from torch import Tensor, nn

from flowinv.guides import GUIDES
from flowinv.model import InvariantClassifier
from flowinv.networks import ConvNet, FixupResNet
from flowinv.training import Settings, step
from flowinv.transforms import FAMILIES


@dataclass
class Task:
    """What is trained: B images (channels, side, side) with S samples of each; `share` of the rounds are enough."""

    batch: int
    channels: int
    side: int
    classes: int
    samples: int
    family: str
    flow: dict
    classifier: Callable[[int, int], nn.Module]
    original: bool = False
    share: float = 0.2


AFFINE = {"univariate": "affine", "coupling": True, "layers": 12}
CIFAR = Task(64, 3, 32, 10, 20, "affine", AFFINE, FixupResNet)
TASKS = {
    "MNIST quick": Task(
        64,
        1,
        28,
        5,
        2,
        "rotation_translation",
        {"scale": [0.2, 0.2, 0.6]},
        partial(ConvNet, width=16),
        True,
        1.0,
    ),
    "CIFAR-10, 5 samples": replace(CIFAR, batch=128, samples=5),
    "CIFAR-10, 20 samples": CIFAR,
}
PUBLISHED = "CIFAR-10, as published"  # on a GPU only: its batch is too large for a few cores


class Published(nn.Module):
    """Encoder, couplings of normflows, matrix_exp, affine_grid, classifier."""

    def __init__(self, classifier: nn.Module, family, in_channels: int):
        super().__init__()
        self.classifier, self.encoder = classifier, ConvNet(in_channels, CONTEXT)
        D = family.dim
        self.register_buffer("generators", family.generators.float())
        self.networks = nn.ModuleList(
            ContextMLP(
                D - D // 2 if i % 2 == 0 else D // 2, 2 * (D // 2 if i % 2 == 0 else D - D // 2)
            )
            for i in range(12)
        )
        self.flow = coupling_flow(self.networks, D)

    def loss(self, images: Tensor, labels: Tensor, samples: int, alpha: float) -> Tensor:
        context = self.encoder(images).repeat(samples, 1)
        for network in self.networks:
            network.context = context
        T, log_prob = self.flow.sample(len(context))
        matrices = torch.linalg.matrix_exp(torch.einsum("nd,dij->nij", T, self.generators))[:, :2]
        images = images.repeat(samples, 1, 1, 1)
        grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
        latent = F.grid_sample(images, grid, align_corners=False)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda):
            logits = self.classifier(latent)
        return F.cross_entropy(logits.float(), labels.repeat(samples)) + alpha * log_prob.mean()


def optimised(module: nn.Module, loss) -> None:
    """A step of what flowinv's does, for another loss."""
    module.optimizer.zero_grad()
    loss().backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    module.optimizer.step()


def candidates(task: Task, device: torch.device) -> dict:
    torch.manual_seed(0)
    images = torch.rand(task.batch, task.channels, task.side, task.side, device=device)
    labels = torch.arange(task.batch, device=device) % task.classes
    copies = task.samples + task.original
    shown = images.repeat(copies, 1, 1, 1)
    family = FAMILIES[task.family]
    half = device.type == "cuda"
    network = partial(task.classifier, task.channels, task.classes)

    def ready(module: nn.Module) -> nn.Module:
        module.to(device, memory_format=torch.channels_last).train()
        module.optimizer = torch.optim.Adam(module.parameters(), lr=1e-4, fused=True)
        return module

    def floor(classifier: nn.Module) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            logits = classifier(shown)
        return F.cross_entropy(logits.float(), labels.repeat(copies))

    def ours(compiled: bool = False, **more):
        guide = GUIDES["flow"](family, task.channels, **task.flow, **more)
        model = ready(InvariantClassifier(network(), guide, family, task.original, bfloat16=half))
        if compiled:
            model.classifier.compile()
        return partial(
            step, model, [model.optimizer], images, labels, Settings(samples=task.samples), 0.1
        )

    alone, published = ready(network()), ready(Published(network(), family, task.channels))
    calls = {
        "classifier alone": partial(optimised, alone, partial(floor, alone)),
        "flowinv": ours(),
        "normflows": partial(
            optimised, published, lambda: published.loss(images, labels, copies, 0.1)
        ),
    }
    if task.flow is AFFINE:
        calls["flowinv, layer by layer"] = ours(fused=False)
    if half:
        calls["flowinv, classifier compiled"] = ours(compiled=True)
    return calls


def main() -> None:
    args, rows = arguments(__doc__), []
    tasks = TASKS | ({PUBLISHED: replace(CIFAR, batch=256)} if args.device.type == "cuda" else {})
    for name, task in tasks.items():
        times = compare(
            candidates(task, args.device), max(5, round(args.repeats * task.share)), args.device
        )
        shown = task.batch * (task.samples + task.original)
        for way, time in times.items():
            rows.append({"task": name, "images": shown, "way": way, **time})
            rows[-1]["images a second"] = round(1000 * shown / time["median"])
            if name == PUBLISHED:
                rows[-1]["minutes for 200 epochs"] = round(
                    200 * 50000 / task.batch * time["median"] / 60000, 1
                )
        print(name, {way: (time["median"], time["ratio"]) for way, time in times.items()})
    store(args, rows)


if __name__ == "__main__":
    main()
