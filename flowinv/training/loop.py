"""Training: one loop for every method, with a progress bar, checkpoints and exact resume."""

import math
import os
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from ..checks import check_images, check_labels
from ..model import InvariantClassifier
from ..transforms import FAMILIES
from .checkpoints import CheckpointError, identity, load_checkpoint, save_checkpoint
from .settings import EntropyControl, Schedule, Settings


class TrainingWarning(UserWarning):
    """Training goes on, but something looks wrong."""


def pick_device() -> torch.device:
    """CUDA if there is one, else Apple's MPS if its PyTorch can do what training needs, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() and _trains_on("mps") else "cpu")


def _trains_on(device: str) -> bool:
    """Whether the warp and its gradient exist there: on MPS, PyTorch gained them one by one."""
    try:
        T = torch.zeros(1, 6, device=device, requires_grad=True)
        FAMILIES["affine"].warp(torch.zeros(1, 1, 4, 4, device=device), T).sum().backward()
    except (NotImplementedError, RuntimeError):
        return False
    return True


def fit(
    model: InvariantClassifier,
    images: Tensor,
    labels: Tensor,
    settings: Settings,
    *,
    device: torch.device | str | None = None,
    checkpoint: str | Path | None = None,
    each_epoch: Callable[[InvariantClassifier], dict] | None = None,
    progress: bool = True,
    accelerator=None,
) -> list[dict]:
    """Train the model in place; returns one dict an epoch: epoch, loss, entropy (nats), alpha, seconds.

    images (N, C, H, W), floats in [0, 1]; labels (N,), int64. They move to the device whole.
    settings: PyTorch's global generators are seeded from its seed at every step, so a run repeats whatever
        came before it; at the end they are given back as they were.
    device: None takes pick_device(). The model stays there afterwards.
    checkpoint: a file written after each epoch, whole or not at all. If it is there already, training
        goes on where it stopped and ends, on a CPU, at the same bits as if it had not stopped.
    each_epoch: called with the model after each epoch; what it returns joins that epoch's dict. Its own random
        draws do not change training.
    progress: a bar with the loss, the entropy and images per second.
    accelerator: an accelerate.Accelerator, which then says the device. Under `accelerate launch` with several processes
        each takes its part of every batch, and the gradients add up to the whole one's: the step is the one that a
        single process would make of the same parts. (Batch normalisation sees the parts.) The first
        process writes the checkpoint, and all read it.

    Raises ValueError for images, labels or settings that do not fit, CheckpointError for a
    checkpoint of another model or other settings, FloatingPointError when the loss or a gradient is
    not finite or the entropy is above the box's. Warns (TrainingWarning) when the guide's encoder
    gives all images one embedding.

    >>> from flowinv.data import load
    >>> digits = load("mnist", sample=True).only([1, 6])
    >>> model = InvariantClassifier.build("flow", "rotation", in_channels=1, classes=2)
    >>> settings = Settings(epochs=2, burn_in=1)
    >>> history = fit(model, digits.train.images[:256], digits.train.labels[:256], settings, progress=False)
    >>> [row["epoch"] for row in history]
    [1, 2]
    """
    check_images(images)
    together = accelerator is not None and accelerator.num_processes > 1
    device = (
        accelerator.device if accelerator else torch.device(device) if device else pick_device()
    )
    if accelerator and accelerator.mixed_precision != "no":
        if accelerator.mixed_precision != "bf16":
            raise ValueError(
                f"mixed precision: expected bf16 or no, got {accelerator.mixed_precision}"
            )
        model.autocast = True
    model.to(device).eval()
    images, labels = images.to(device), labels.to(device)
    with torch.no_grad():
        check_labels(labels, len(images), model.classifier(images[:1]).shape[-1])
    history: list[dict] = []
    control = torch.zeros(2, device=device)  # error and integral of an EntropyControl
    about = identity(model, images, labels)
    if settings.burn_in >= settings.epochs and list(model.q.parameters()):
        warnings.warn(
            f"q(T | I) will not be trained: all {settings.epochs} epochs are burn-in; raise epochs or lower burn_in",
            TrainingWarning,
            stacklevel=2,
        )
    learning = [p for p in model.classifier.parameters() if p.requires_grad]
    known = device.type in (
        "cpu",
        "cuda",
    )  # that channels last and a fused optimiser are right there, and faster
    own = [
        module
        for module in model.modules()
        if known and getattr(module, "channels_last", False)
    ]

    N, steps = len(images), math.ceil(len(images) / settings.batch_size)
    # Read here: tqdm's bar for notebooks heeds the variable too late, and leaves an empty widget behind.
    quiet = not progress or os.environ.get("TQDM_DISABLE", "0") not in ("", "0")
    try:
        for network in own:  # a network of the reader's may rely on the usual layout
            network.to(memory_format=torch.channels_last)
        optimizers = make_optimizers(model, settings, known)
        if checkpoint and Path(checkpoint).exists():
            history = load_checkpoint(checkpoint, model, optimizers, control, settings, about)
        if together:
            _start_together(model, history, accelerator)
        with (
            _generators_given_back(device),
            tqdm(
                total=settings.epochs * N, initial=len(history) * N, unit="image", disable=quiet
            ) as bar,
        ):
            for epoch in range(len(history), settings.epochs):
                start, burning_in = time.perf_counter(), epoch < settings.burn_in
                for parameter in learning:
                    parameter.requires_grad_(burning_in or not settings.freeze)
                loss, entropy, alpha, broken = _epoch(
                    model, images, labels, settings, optimizers, control, epoch, bar, accelerator
                )
                _check_health(epoch, loss, entropy, int(broken), steps, model.family.dim)
                row = {"epoch": epoch + 1, "loss": loss, "entropy": None, "alpha": None}
                if not burning_in:
                    row |= {"entropy": entropy, "alpha": alpha, **_embedding_spread(model, images)}
                row["seconds"] = time.perf_counter() - start
                if each_epoch:
                    model.eval()
                    row |= each_epoch(model)
                history.append(row)
                bar.set_postfix(loss=f"{loss:.3f}", entropy=f"{entropy:.2f}")
                if checkpoint and (not together or accelerator.is_main_process):
                    save_checkpoint(
                        checkpoint, model, optimizers, control, settings, about, history
                    )
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
        for network in own:
            network.to(memory_format=torch.contiguous_format)
    model.eval()
    return history


def make_optimizers(
    model: InvariantClassifier, settings: Settings, fused: bool
) -> list[torch.optim.Optimizer]:
    """The classifier's and, if it has anything to learn, that of q(T | I)."""
    weights, guide = list(model.classifier.parameters()), list(model.q.parameters())
    decay = {"weight_decay": settings.weight_decay, "fused": fused}
    if settings.optimizer == "sgd":
        optimizers = [torch.optim.SGD(weights, settings.lr, momentum=0.9, **decay)]
    else:
        optimizers = [torch.optim.AdamW(weights, settings.lr, **decay)]
    return optimizers + ([torch.optim.Adam(guide, settings.guide_lr, fused=fused)] if guide else [])


def _generators_given_back(device: torch.device) -> AbstractContextManager:
    """PyTorch's global generators, which every step seeds, come back as they were."""
    accelerators = 0 if device.type == "cpu" else getattr(torch, device.type).device_count()
    return torch.random.fork_rng(range(accelerators), device_type=device.type)


def _seed_generators(seed: int, device: torch.device) -> None:
    """Seed the CPU's global generator and, for a GPU, those of all of its kind."""
    if device.type == "cpu":  # torch.manual_seed would seed the GPUs', too
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def _seed(*key: int) -> int:
    """A seed that follows from the key, and from nothing else."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def _epoch(
    model: InvariantClassifier, images: Tensor, labels: Tensor, settings: Settings, optimizers: list, control: Tensor,
    epoch: int, bar, accelerator,
) -> list[float]:  # fmt: skip
    """One pass over the data: mean loss, entropy and α, and the number of steps whose gradient alone was not finite."""
    burning_in, rule, alpha = epoch < settings.burn_in, settings.alpha, None
    steered = isinstance(rule, Schedule | EntropyControl)
    model.train()
    model.classifier.train(burning_in or not settings.freeze)
    N, steps = len(images), math.ceil(len(images) / settings.batch_size)
    total = torch.zeros(4, device=images.device)  # summed on the device, read once
    order = torch.randperm(N, generator=torch.Generator().manual_seed(_seed(settings.seed, epoch)))
    for i, batch in enumerate(order.to(images.device).split(settings.batch_size)):
        rate = settings.decay.at(epoch + i / steps, settings.epochs)
        for optimizer, peak in zip(optimizers, (settings.lr, settings.guide_lr)):
            optimizer.param_groups[0]["lr"] = peak * rate
        if not burning_in:
            share = (epoch - settings.burn_in + i / steps) / (settings.epochs - settings.burn_in)
            alpha = rule.at(share, control) if steered else rule
        loss, entropy, norm = step(
            model,
            optimizers,
            images[batch],
            labels[batch],
            settings,
            alpha,
            (epoch, i),
            accelerator,
        )
        if steered and not burning_in:
            rule.observe(entropy, control)
        paid = alpha if isinstance(alpha, Tensor) else total.new_full((), alpha or 0.0)
        total[:3] += len(batch) / N * torch.stack([loss, entropy, paid])
        total[3] += loss.isfinite() & ~norm.isfinite()
        bar.update(len(batch))
    if (
        accelerator and accelerator.num_processes > 1
    ):  # each has seen its own parts: agree on what normalises
        for module in model.modules():
            if (
                isinstance(module, nn.modules.batchnorm._BatchNorm)
                and module.running_mean is not None
            ):
                for statistic in (module.running_mean, module.running_var):
                    statistic.copy_(accelerator.reduce(statistic.clone(), "mean"))
    return total.tolist()


def step(
    model: InvariantClassifier,
    optimizers: list[torch.optim.Optimizer],
    images: Tensor,
    labels: Tensor,
    settings: Settings,
    alpha: float | Tensor | None,
    number: tuple[int, int] = (0, 0),
    accelerator=None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of gradient descent: the loss and entropy before it, and the gradient's norm, on the device.

    alpha: price of entropy; None: the classifier alone learns, from images as they are.
    number: the epoch and the step, which say with the settings' seed what is drawn.
    accelerator: as `fit` has it. Nothing here waits for a GPU.
    """
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss = entropy = images.new_zeros(())
    N, shown = len(images), 1 if alpha is None else settings.samples  # of each image
    first, last = 0, N
    if accelerator:
        first, last = (
            N * (accelerator.process_index + k) // accelerator.num_processes for k in (0, 1)
        )
    n = max(1, settings.chunk // shown) if settings.chunk else N
    for start in range(first, last, n):
        _seed_generators(_seed(settings.seed, *number, start), images.device)
        part = slice(start, min(start + n, last))
        x, y = images[part], labels[part]
        weight = len(x) / N
        if alpha is None:
            mean = cross_entropy(model.classify(x), y, label_smoothing=settings.smoothing)
        else:
            nll, part_entropy = model.loss_terms(x, y, settings.samples, settings.smoothing)
            mean = model.weigh(nll, part_entropy, alpha)
            entropy = entropy + weight * part_entropy.detach()
        if (
            mean.requires_grad
        ):  # nothing learns where the classifier is frozen and q has no parameters
            (weight * mean).backward()
        loss = loss + weight * mean.detach()
    if accelerator and accelerator.num_processes > 1:
        parameters = (model.classifier if alpha is None else model).parameters()
        loss, entropy = _add_up(
            [p for p in parameters if p.requires_grad], loss, entropy, accelerator
        )
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
    for optimizer in optimizers:
        optimizer.step()
    return loss, entropy, norm


def _add_up(
    parameters: list[nn.Parameter], loss: Tensor, entropy: Tensor, accelerator
) -> tuple[Tensor, Tensor]:
    """Gradients, loss and entropy summed over the processes, in one message."""
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    message = torch.cat([x.flatten() for x in (loss, entropy, *gradients)])
    loss, entropy, *sums = accelerator.reduce(message, "sum").split(
        [1, 1, *(p.numel() for p in parameters)]
    )
    for parameter, total in zip(
        parameters, sums
    ):  # laid out as the parameter is, which fused optimisers rely on
        parameter.grad = torch.empty_like(parameter).copy_(total.view_as(parameter))
    return loss[0], entropy[0]


def _start_together(model: InvariantClassifier, history: list, accelerator) -> None:
    """The first process's weights everywhere; an error if some see a checkpoint and others do not."""
    from accelerate.utils import broadcast

    epochs = accelerator.gather(torch.tensor([len(history)], device=accelerator.device)).tolist()
    if len(set(epochs)) > 1:
        raise CheckpointError(
            f"the processes found checkpoints of {epochs} epochs: put the checkpoint in a folder that all hosts see"
        )
    for tensor in model.state_dict().values():
        broadcast(tensor)


def _check_health(
    epoch: int, loss: float, entropy: float, broken: int, steps: int, dim: int
) -> None:
    """Stop a run that has gone wrong before it spoils the checkpoint."""
    if broken:
        raise FloatingPointError(
            f"epoch {epoch + 1}: the gradient was not finite in {broken} of {steps} steps while the loss was;"
            " look for a square root, logarithm or division at 0 in the classifier, the guide or the transformation"
        )
    if not math.isfinite(loss + entropy):
        raise FloatingPointError(
            f"epoch {epoch + 1}: loss {loss}, entropy {entropy}; try a lower guide_lr or clip, or a longer burn_in"
        )
    if entropy > dim * math.log(2) + 0.1:  # the box's own entropy, and room for sampling noise
        raise FloatingPointError(
            f"epoch {epoch + 1}: entropy {entropy:.2f} is above D log 2 = {dim * math.log(2):.2f} nats,"
            " which no density on the box has; the guide's log_prob is not that of its samples"
        )


@torch.no_grad()
def _embedding_spread(model: InvariantClassifier, images: Tensor) -> dict:
    """How much the encoder's embedding varies over images: its standard deviation over its size."""
    encoder = getattr(model.q, "encoder", None)
    if encoder is None or len(images) < 2:
        return {}
    encoder.eval()  # looking must not change it
    embedding = encoder(images[:: max(1, len(images) // 256)])
    size = embedding.pow(2).mean(0).sqrt().norm()
    spread = (embedding.std(0).norm() / size).nan_to_num().item()  # all zero: 0
    if spread < 0.003:  # early in healthy runs it was 0.016 to 0.06, later 0.4 to 1
        warnings.warn(
            f"the encoder has collapsed: its embedding varies by {spread:.1e} of its size over images, so q(T | I) is one"
            " for all; try a lower guide_lr, another seed, or an encoder of LeakyReLU",
            TrainingWarning,
            stacklevel=3,
        )
    return {"embedding_spread": spread}
