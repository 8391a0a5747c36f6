"""A whole training step: its floor, the revision before, plain, compiled, the published one.

The floor is the classifier alone, trained on as many images as the method shows it: B (S + 1), or
B S where the loss leaves the images as they come out. "before" is another revision of flowinv
(``--before``). Each has a process of its own, and they take turns. "compiled" is what
``fit(compile=True)`` runs. "normflows" is the published structure: 12 couplings over an affine
family, one matrix exponential and one copy of the image a sample, and the same encoder and
classifier. On a CPU all have one thread. With --device cuda the classifier runs in bfloat16 in all.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from flow import CONTEXT, ContextMLP, coupling_flow
from harness import compare, parser, store, synchronise
from torch import Tensor, nn

from flowinv.guides import GUIDES
from flowinv.model import InvariantClassifier
from flowinv.networks import ConvNet, FixupResNet
from flowinv.training import Settings, compiled, step
from flowinv.transforms import FAMILIES

BEFORE = "5ed3067"  # the last revision with layers fused by hand


@dataclass
class Task:
    """What is trained: B images (channels, side, side) with S samples of each.

    ``share`` of the rounds are enough. ``old_flow`` are the flow's options in the revision before.
    """

    batch: int
    channels: int
    side: int
    classes: int
    samples: int
    family: str
    guide: str
    options: dict
    old_options: dict
    classifier: Callable[[int, int], nn.Module]
    original: bool = False
    share: float = 0.2


FIVE = {"scale": [0.2, 0.2, 0.6]}
COUPLINGS = {"univariate": "affine", "coupling": True, "layers": 12}
CIFAR = Task(64, 3, 32, 10, 20, "affine", "coupling_flow", {}, COUPLINGS, FixupResNet)
DIGITS = Task(
    64, 1, 28, 5, 2, "rotation_translation", "flow", FIVE, FIVE, partial(ConvNet, width=16), True, 1
)
TASKS = {
    "MNIST quick": DIGITS,
    "CIFAR-10, 5 samples": replace(CIFAR, batch=128, samples=5),
    "CIFAR-10, 20 samples": CIFAR,
}
PUBLISHED = "CIFAR-10, as published"  # on a GPU only: its batch is too large for a few cores


class Published(nn.Module):
    """Encoder, couplings of normflows, matrix_exp, affine_grid, classifier."""

    def __init__(self, classifier: nn.Module, family, in_channels: int):
        super().__init__()
        self.classifier = classifier
        self.encoder = ConvNet(in_channels, CONTEXT)
        self.register_buffer("generators", family.generators.float())
        small = family.dim // 2
        large = family.dim - small
        self.networks = nn.ModuleList(
            ContextMLP(large if i % 2 == 0 else small, 2 * (small if i % 2 == 0 else large))
            for i in range(12)
        )
        self.flow = coupling_flow(self.networks, family.dim)

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


# What the process of the revision before runs: its model, then a step for each line it reads.
OTHER = """
import sys
import torch
from flowinv.guides import GUIDES
from flowinv.model import InvariantClassifier
from flowinv.networks import ConvNet, FixupResNet
from flowinv.training import Settings, step
from flowinv.transforms import FAMILIES

torch.manual_seed(0)
torch.set_num_threads({threads})
device, half = torch.device({device!r}), {device!r} == "cuda"
images = torch.rand({batch}, {channels}, {side}, {side}, device=device)
labels = torch.arange({batch}, device=device) % {classes}
family = FAMILIES[{family!r}]
network = ConvNet(1, 5, width=16) if {original} else FixupResNet({channels}, {classes})
guide = GUIDES["flow"](family, {channels}, **{options})
model = InvariantClassifier(network, guide, family, {original}, bfloat16=half)
model.to(device, memory_format=torch.channels_last).train()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
settings = Settings(samples={samples})
print("ready", flush=True)
for _ in sys.stdin:
    step(model, [optimizer], images, labels, settings, 0.1)
    if half:
        torch.cuda.synchronize()
    print("done", flush=True)
"""


class Served:
    """A call in a process of its own: here it asks for one, and waits until it is done."""

    def __init__(self, command: list[str], folder: Path):
        self.process = subprocess.Popen(
            command, cwd=folder, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._wait()

    def __call__(self) -> None:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self._wait()

    def _wait(self) -> None:
        if not self.process.stdout.readline():
            raise SystemExit("a process stopped: its error stands above")

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def before(source: Path, task: Task, device: torch.device) -> Served:
    """A step of the revision before."""
    code = OTHER.format(
        threads=torch.get_num_threads(),
        device=device.type,
        batch=task.batch,
        channels=task.channels,
        side=task.side,
        classes=task.classes,
        family=task.family,
        original=task.original,
        options=task.old_options,
        samples=task.samples,
    )
    return Served([sys.executable, "-c", code], source)


def serve(call: Callable[[], object], device: torch.device) -> None:
    """Call for each line that comes in, and say when it is done."""
    print("ready", flush=True)
    for _ in sys.stdin:
        call()
        synchronise(device)
        print("done", flush=True)


def checked_out(revision: str, folder: Path) -> Path:
    """The package of another revision, in a folder."""
    root = Path(__file__).parents[1]
    archive = subprocess.run(
        ["git", "archive", revision, "flowinv"], cwd=root, check=True, capture_output=True
    )
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
    return folder


WAYS = ("classifier alone", "plain", "compiled", "normflows")


def candidates(task: Task, device: torch.device, stack: ExitStack) -> dict[str, Callable]:
    """What makes each of the ways ready: a function of nothing that returns the call."""
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

    def ours() -> nn.Module:
        guide = GUIDES[task.guide](family, task.channels, **task.options)
        return ready(InvariantClassifier(network(), guide, family, task.original, autocast=half))

    def stepped(model: nn.Module) -> None:
        step(model, [model.optimizer], images, labels, Settings(samples=task.samples), 0.1)

    def plain() -> Callable[[], object]:
        return partial(stepped, ours())

    def faster() -> Callable[[], object]:
        model = ours()
        stack.enter_context(compiled(model, device))
        return partial(stepped, model)

    def alone() -> Callable[[], object]:
        classifier = ready(network())
        return partial(optimised, classifier, partial(floor, classifier))

    def published() -> Callable[[], object]:
        module = ready(Published(network(), family, task.channels))
        loss = partial(module.loss, images, labels, copies, 0.1)
        return partial(optimised, module, loss)

    return dict(zip(WAYS, (alone, plain, faster, published), strict=True))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--before", default=BEFORE, help="the revision to compare with")
    options.add_argument("--serve", nargs=2, help="task and way: what a process of its own runs")
    args = options.parse_args()
    if args.device.type == "cpu":  # threads of one process that wait would hold up the others
        torch.set_num_threads(1)
    tasks = dict(TASKS)
    if args.device.type == "cuda":
        tasks[PUBLISHED] = replace(CIFAR, batch=256)
    if args.serve:
        name, way = args.serve
        with ExitStack() as stack:
            serve(candidates(tasks[name], args.device, stack)[way](), args.device)
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        source = checked_out(args.before, Path(folder))
        for name, task in tasks.items():
            with ExitStack() as stack:
                calls = {}
                for way in WAYS:
                    own = [sys.executable, __file__, "--device", args.device.type]
                    calls[way] = Served([*own, "--serve", name, way], Path(__file__).parent)
                    stack.callback(calls[way].close)
                calls["before"] = before(source, task, args.device)
                stack.callback(calls["before"].close)
                times = compare(calls, max(7, round(args.repeats * task.share)), args.device)
            shown = task.batch * (task.samples + task.original)
            for way, time in times.items():
                row = {"task": name, "images": shown, "way": way, **time}
                row["images a second"] = round(1000 * shown / time["median"])
                if name == PUBLISHED:
                    steps = 200 * 50000 / task.batch
                    row["minutes for 200 epochs"] = round(steps * time["median"] / 60000, 1)
                rows.append(row)
            print(name, {way: (time["median"], time["ratio"]) for way, time in times.items()})
    store(args, rows)


if __name__ == "__main__":
    main()
