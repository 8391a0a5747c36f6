"""Training: one loop for every method, with a progress bar, checkpoints and exact resume."""

import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR
from tqdm.auto import tqdm

from ..checks import check_device, told
from ..data.reading import Images, Source, seed_of, source
from ..model import InvariantClassifier
from ..transforms import FAMILIES
from .checkpoints import CheckpointError, Run, identity, load_checkpoint, save_checkpoint
from .settings import Settings

# Devices where channels last and fused optimisers are known to be right, and faster.
KNOWN = ("cpu", "cuda")


class TrainingWarning(UserWarning):
    """Training goes on, but something looks wrong."""


def pick_device() -> torch.device:
    """CUDA if there is one, else Apple's MPS if its PyTorch can train there, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    on_mps = torch.backends.mps.is_available() and _trains_on("mps")
    return torch.device("mps" if on_mps else "cpu")


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
    images: Images,
    labels: Tensor | Settings | None = None,
    settings: Settings | None = None,
    *,
    workers: int = 0,
    device: torch.device | str | None = None,
    checkpoint: str | Path | None = None,
    each_epoch: Callable[[InvariantClassifier], dict[str, Any]] | None = None,
    progress: bool = True,
    accelerator=None,
    compile: bool = False,
) -> list[dict[str, Any]]:
    """Train the model in place, and return its history: one dict for each epoch.

    Images are tensors, ``fit(model, images, labels, settings)``, or read as they are needed, from
    any map-style Dataset of (image, label): ``fit(model, dataset, settings)``.

    A dict has epoch, loss, entropy (nats) and alpha (means over the epoch; None in burn-in) and
    seconds, and embedding_spread where the guide has an encoder. A run repeats, whatever came
    before it: PyTorch's global generators are seeded from the settings' seed at every step. At the
    end the caller has them back as they were.

    On a CPU that other programs share, set ``OMP_WAIT_POLICY=passive`` before Python starts:
    threads that wait then sleep, where they would else keep each other from the work.

    Args:
        model: moves to the device and stays there.
        images: (N, C, H, W), floats in [0, 1] or bytes (uint8), which move to the device whole; or
            a Dataset whose item i is an image (C, H, W) of either kind and its label, which moves
            batch by batch. Bytes become floats there, batch by batch. What a Dataset draws from
            the global generators of torch, NumPy and random follows from the seed, the epoch and
            the image's number, with any number of workers, and repeats after a stop; what it draws
            from a generator of its own does not.
        labels: (N,), int64; none beside a Dataset.
        settings: how to train.
        workers: processes that read a Dataset; 0: this one does. No figure depends on it.
        device: None takes ``pick_device()``.
        checkpoint: a file written after each epoch, whole or not at all. If it is there already,
            training goes on where it stopped and ends, on a CPU, at the same bits as if it had not
            stopped.
        each_epoch: called with the model after each epoch; what it returns joins that epoch's
            dict. Its own random draws do not change training.
        progress: a bar with the loss, the entropy and images per second.
        accelerator: an ``accelerate.Accelerator``, which then says the device. Under
            ``accelerate launch`` with several processes each takes its part of every batch, and
            the gradients add up to the whole one's: the step is the one that a single process
            would make of the same parts. (Batch normalisation sees the parts.) The first process
            writes the checkpoint, and all read it.
        compile: whether what follows burn-in runs as ``compiled`` has it: faster steps after a
            minute or more of compilation, for those who have a compiler.

    Raises:
        ValueError: images, labels or settings that do not fit.
        DataError: a Dataset's file cannot be read.
        CheckpointError: a checkpoint of another model or other settings.
        FloatingPointError: the loss or a gradient is not finite, or the entropy is above the box's.

    Warns:
        TrainingWarning: q(T | I) will not be trained, or its encoder gives all images one
            embedding.

    Example:
        >>> from flowinv.data import load
        >>> digits = load("mnist", sample=True).only([1, 6])
        >>> model = InvariantClassifier.build("flow", "rotation", in_channels=1, classes=2)
        >>> settings = Settings(epochs=2, burn_in=1)
        >>> history = fit(model, *digits.train[:256], settings, progress=False)
        >>> [row["epoch"] for row in history]
        [1, 2]
    """
    if isinstance(labels, Settings):
        labels, settings = settings, labels
    if settings is None or isinstance(labels, Settings):
        raise ValueError(
            "settings: expected fit(model, images, labels, settings) or"
            " fit(model, dataset, settings), got other arguments"
        )
    if accelerator:
        device = accelerator.device
        _take_precision(model, accelerator.mixed_precision)
    device = check_device(device) if device else pick_device()
    data = source(
        images, labels, device=device, dtype=model.dtype, workers=workers, seed=settings.seed
    )
    model.to(device).eval()
    one = data.take(torch.arange(1))
    with torch.no_grad(), told(one, model.q, model.classifier):
        model.q(one)
        data.expect(classes=model.classifier(one).shape[-1])
    if settings.burn_in + settings.settle >= settings.epochs and list(model.q.parameters()):
        warnings.warn(
            f"q(T | I) will not be trained: all {settings.epochs} epochs are burn-in or settling;"
            " raise epochs, or lower burn_in or settle",
            TrainingWarning,
            stacklevel=2,
        )
    run = Run(
        model,
        settings,
        optimizers=make_optimizers(model, settings, fused=device.type in KNOWN),
        control=torch.zeros(2, device=device),
        identity=identity(model, data),
    )
    first = not _several(accelerator) or accelerator.is_main_process
    with (
        generators_given_back(device),
        _as_it_was(model),
        channels_last(model, device),
        compiled(model, device) if compile else nullcontext(),
    ):
        if checkpoint and Path(checkpoint).exists():
            load_checkpoint(checkpoint, run)
        if _several(accelerator):
            _start_together(run, accelerator)
        with _bar(run, len(data), progress) as bar:
            for row in _epochs(run, data, bar, accelerator):
                if each_epoch:
                    model.eval()
                    row |= each_epoch(model)
                run.history.append(row)
                if checkpoint and first:
                    save_checkpoint(checkpoint, run)
    model.eval()
    return run.history


def _epochs(run: Run, data: Source, bar: tqdm, accelerator) -> Iterator[dict[str, Any]]:
    """Train epoch by epoch, from where the run stands, and give the row of each."""
    model = run.model
    settings = run.settings
    price = settings.price
    steps = math.ceil(len(data) / settings.batch_size)
    rates = _rates(run, steps)
    learning = {module: _learning(module) for module in (model.classifier, model.q)}
    held_out = _held_out(data, settings)
    for epoch in range(len(run.history), settings.epochs):
        begin = time.perf_counter()
        burning_in = epoch < settings.burn_in
        settling = epoch >= settings.epochs - settings.settle
        model.train()
        _freeze(model.q, learning[model.q], settling)
        _freeze(model.classifier, learning[model.classifier], settings.freeze and not burning_in)
        means = _Means()
        batches = _batches(data, settings, epoch)
        # Of each batch this process reads its share alone.
        shares = [batch[_share(len(batch), accelerator)] for batch in batches]
        read = data.batches(epoch, shares)
        for number, (batch, (images, labels)) in enumerate(zip(batches, read)):
            alpha = None
            if not burning_in:
                alpha = price.at(_progress(settings, epoch + number / steps), run.control)
            loss, entropy, norm = step(
                model,
                run.optimizers,
                images,
                labels,
                settings,
                alpha,
                (epoch, number),
                accelerator,
                None if held_out is None or settling else held_out[batch].to(images.device),
                len(batch),
            )
            for rate in rates:
                rate.step()
            if not burning_in:
                price.observe(entropy, run.control)
            means.add(len(batch) / len(data), loss, entropy, norm, alpha)
            bar.update(len(batch))
        if _several(accelerator):
            _agree_on_statistics(model, accelerator)
        row = {"epoch": epoch + 1, **means.read()}
        _check_health(row, int(means.broken), steps, model.family.dim)
        bar.set_postfix(loss=f"{row['loss']:.3f}", entropy=f"{row['entropy']:.2f}")
        if burning_in:
            row |= {"entropy": None, "alpha": None}
        else:
            row |= _embedding_spread(model, data)
        row["seconds"] = time.perf_counter() - begin
        yield row


def step(
    model: InvariantClassifier,
    optimizers: Sequence[torch.optim.Optimizer],
    images: Tensor,
    labels: Tensor,
    settings: Settings,
    alpha: float | Tensor | None,
    number: tuple[int, int] = (0, 0),
    accelerator=None,
    held_out: Tensor | None = None,
    size: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of gradient descent: the loss and entropy before it, and the gradient's norm.

    All three stay on the device: nothing here waits for a GPU, but for images held out. PyTorch's
    global generators are seeded; ``fit`` gives them back at its end.

    Args:
        model: on the images' device.
        optimizers: as ``make_optimizers`` has them.
        images: (B, C, H, W), a batch.
        labels: (B,), int64.
        settings: samples, smoothing, clip, chunk and seed are looked at.
        alpha: price of entropy; None: the classifier alone learns, from images as they are.
        number: the epoch and the step, which say with the seed what is drawn.
        accelerator: as ``fit`` has it.
        held_out: (B,), which images teach q alone, while the others teach the classifier alone;
            None: each teaches both.
        size: B, where images and labels are this process's share of the batch alone.
    """
    B = size or len(images)
    share = _share(B, accelerator)
    first = share.start if size else 0  # where in the batch those begin that are here
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss = entropy = images.new_zeros(())
    samples = 1 if alpha is None else settings.samples
    for part in _parts(share, settings, samples):
        _seed_generators(seed_of(settings.seed, *number, part.start), images.device)
        for some, taught, weight in _lessons(model, part, held_out, B, alpha):
            here = _moved(some, -first)
            with _alone(taught, model):
                part_loss, part_entropy = _loss(model, images[here], labels[here], settings, alpha)
            if part_loss.requires_grad:  # else the classifier is frozen and q has no parameters
                (weight * part_loss).backward()
            part_share = len(images[here]) / B
            loss = loss + part_share * part_loss.detach()
            entropy = entropy + part_share * part_entropy.detach()
    if _several(accelerator):
        learner = model.classifier if alpha is None else model
        loss, entropy = _add_up(_learning(learner), loss, entropy, accelerator)
    if held_out is not None and alpha is None:  # a mean over those alone that the classifier sees
        loss = loss / (~held_out).to(loss).mean().clamp(min=1 / B)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
    for optimizer in optimizers:
        optimizer.step()
    return loss, entropy, norm


def _loss(
    model: InvariantClassifier,
    images: Tensor,
    labels: Tensor,
    settings: Settings,
    alpha: float | Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The loss of a part of a batch, and the entropy of q in it."""
    if alpha is None:
        logits = model.classify(images)
        loss = cross_entropy(logits, labels, label_smoothing=settings.smoothing)
        return loss, torch.zeros_like(loss)
    nll, entropy = model.loss_terms(images, labels, settings.samples, settings.smoothing)
    return model.weigh(nll, entropy, alpha), entropy


def make_optimizers(
    model: InvariantClassifier, settings: Settings, fused: bool
) -> list[torch.optim.Optimizer]:
    """The classifier's and that of q(T | I), of each that has anything to learn.

    Args:
        model: with parameters on the device of training.
        settings: optimizer, lr, guide_lr and weight_decay are looked at.
        fused: whether a step is one call for all parameters, which not every device has.
    """
    optimizers: list[torch.optim.Optimizer] = []
    weights = list(model.classifier.parameters())
    if weights:  # a formula has none
        options: dict[str, Any] = {"weight_decay": settings.weight_decay, "fused": fused}
        if settings.optimizer == "sgd":
            optimizers.append(torch.optim.SGD(weights, settings.lr, momentum=0.9, **options))
        else:
            optimizers.append(torch.optim.AdamW(weights, settings.lr, **options))
    guide = list(model.q.parameters())
    if guide:
        optimizers.append(torch.optim.Adam(guide, settings.guide_lr, fused=fused))
    return optimizers


def _rates(run: Run, steps: int) -> list[LambdaLR]:
    """Learning rates that move with each step, from where the run stands."""
    settings = run.settings

    def share_of_peak(number: int) -> float:
        return settings.decay.at(number / steps, settings.epochs)

    for optimizer in run.optimizers:
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
    latest = len(run.history) * steps - 1
    return [LambdaLR(optimizer, share_of_peak, latest) for optimizer in run.optimizers]


def _batches(data: Sized, settings: Settings, epoch: int) -> Sequence[Tensor]:
    """Which images each batch of an epoch has, in an order that follows from the seed."""
    generator = torch.Generator().manual_seed(seed_of(settings.seed, epoch))
    return torch.randperm(len(data), generator=generator).split(settings.batch_size)


def _share(B: int, accelerator) -> slice:
    """Which images of a batch are this process's."""
    if accelerator is None:
        return slice(0, B)
    index = accelerator.process_index
    processes = accelerator.num_processes
    return slice(B * index // processes, B * (index + 1) // processes)


def _parts(share: slice, settings: Settings, samples: int) -> list[slice]:
    """A share of a batch, in parts of as many as may go at once."""
    at_once = max(1, settings.chunk // samples) if settings.chunk else max(1, share.stop)
    starts = range(share.start, share.stop, at_once)
    return [slice(start, min(start + at_once, share.stop)) for start in starts]


def _moved(some: slice | Tensor, by: int) -> slice | Tensor:
    """The same places, counted from elsewhere."""
    return slice(some.start + by, some.stop + by) if isinstance(some, slice) else some + by


def _progress(settings: Settings, epoch: float) -> float:
    """Which share of the epochs after burn-in is over."""
    return (epoch - settings.burn_in) / (settings.epochs - settings.burn_in)


@dataclass
class _Means:
    """Of an epoch. They stay on the device until they are read, so that no step waits."""

    loss: Tensor | float = 0.0
    entropy: Tensor | float = 0.0
    alpha: Tensor | float = 0.0
    broken: Tensor | int = 0  # steps whose gradient was not finite while the loss was

    def add(
        self,
        share: float,
        loss: Tensor,
        entropy: Tensor,
        norm: Tensor,
        alpha: float | Tensor | None,
    ) -> None:
        self.loss = self.loss + share * loss
        self.entropy = self.entropy + share * entropy
        self.broken = self.broken + (loss.isfinite() & ~norm.isfinite())
        if alpha is not None:
            self.alpha = self.alpha + share * alpha

    def read(self) -> dict[str, Any]:
        return {name: float(getattr(self, name)) for name in ("loss", "entropy", "alpha")}


def _seed_generators(seed: int, device: torch.device) -> None:
    """Seed the CPU's global generator and, for a GPU, those of all of its kind."""
    if device.type == "cpu":  # torch.manual_seed would seed the GPUs', too
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def generators_given_back(device: torch.device) -> AbstractContextManager:
    """A block that may seed PyTorch's global generators; after it they are as they were."""
    accelerators = 0 if device.type == "cpu" else getattr(torch, device.type).device_count()
    return torch.random.fork_rng(range(accelerators), device_type=device.type)


def _learning(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _freeze(module: nn.Module, learning: list[nn.Parameter], frozen: bool) -> None:
    """Training, or not at all: a frozen classifier's batch normalisation does not move, either."""
    module.train(not frozen)
    for parameter in learning:
        parameter.requires_grad_(not frozen)


@contextmanager
def _as_it_was(*modules: nn.Module) -> Iterator[None]:
    """In here they may be frozen; at the end what was learning learns again."""
    learning = [parameter for module in modules for parameter in _learning(module)]
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def _held_out(data: Sized, settings: Settings) -> Tensor | None:
    """Which images teach q(T | I) alone: (N,), the same in every epoch; None: no image does."""
    if not settings.held_out:
        return None
    # The first ones in the order of an epoch that does not come.
    order = torch.cat(list(_batches(data, settings, settings.epochs)))
    chosen = torch.zeros(len(data), dtype=torch.bool)
    chosen[order[: round(settings.held_out * len(data))]] = True
    return chosen


def _lessons(
    model: InvariantClassifier,
    part: slice,
    held_out: Tensor | None,
    B: int,
    alpha: float | Tensor | None,
) -> Iterator[tuple[slice | Tensor, nn.Module, float]]:
    """Which images of a part teach which module, and the weight of their mean in the loss."""
    if held_out is None:
        yield part, model, len(range(B)[part]) / B
        return
    places = torch.arange(B, device=held_out.device)[part]
    for module, which in ((model.classifier, ~held_out), (model.q, held_out)):
        some = places[which[part]]
        if len(some) and not (module is model.q and alpha is None):
            # Each learns from the mean over its own images, whatever their share of the batch.
            yield some, module, len(some) / int(which.sum())


@contextmanager
def _alone(taught: nn.Module, model: InvariantClassifier) -> Iterator[None]:
    """What is computed in here has gradients for the module's own parameters alone."""
    others = [module for module in (model.classifier, model.q) if taught not in (module, model)]
    with _as_it_was(*others):
        for module in others:
            module.requires_grad_(False)
        yield


@contextmanager
def channels_last(model: InvariantClassifier, device: torch.device) -> Iterator[None]:
    """In here networks have the layout in which convolutions are faster, if they say they may.

    Args:
        model: whose networks.
        device: where it is; on others than CPU and CUDA nothing changes.
    """
    modules = model.modules() if device.type in KNOWN else ()
    networks = [module for module in modules if getattr(module, "channels_last", False)]
    try:
        for network in networks:
            network.to(memory_format=torch.channels_last)
        yield
    finally:
        for network in networks:
            network.to(memory_format=torch.contiguous_format)


@contextmanager
def compiled(model: InvariantClassifier, device: torch.device) -> Iterator[None]:
    """In here the model's loss runs compiled: whole on a GPU, on a CPU from images to matrices.

    On a CPU the compiler's own ``grid_sample`` is two times slower than PyTorch's, and so are, by a
    third, its convolutions of small images: warp and classifier are left as they are there. What is
    drawn is what the plain model draws, so a run may go on compiled or not.

    Args:
        model: whose ``loss_terms``, or its part ``propose``, is compiled.
        device: where it is.
    """
    names = ["loss_terms"] if device.type == "cuda" else ["propose"]
    for name in names:
        plain = getattr(model, name)
        faster = torch.compile(plain, fullgraph=True, options={"fallback_random": True})
        setattr(model, name, faster)
    try:
        yield
    finally:
        for name in names:
            delattr(model, name)
        torch.compiler.reset()  # what is compiled for one model counts against the next one's limit


def _bar(run: Run, N: int, progress: bool) -> tqdm:
    # Read here: tqdm's bar for notebooks heeds the variable too late, and leaves an empty widget.
    quiet = not progress or os.environ.get("TQDM_DISABLE", "0") not in ("", "0")
    total = run.settings.epochs * N
    return tqdm(total=total, initial=len(run.history) * N, unit="image", disable=quiet)


def _several(accelerator) -> bool:
    return accelerator is not None and accelerator.num_processes > 1


def _take_precision(model: InvariantClassifier, name: str) -> None:
    if name not in ("no", "bf16"):
        raise ValueError(f"mixed precision: expected bf16 or no, got {name}")
    if name == "bf16":
        model.autocast = True


def _start_together(run: Run, accelerator) -> None:
    """The first process's weights everywhere; an error if some see a checkpoint and others not."""
    from accelerate.utils import broadcast

    epochs = torch.tensor([len(run.history)], device=accelerator.device)
    epochs = accelerator.gather(epochs).tolist()
    if len(set(epochs)) > 1:
        raise CheckpointError(
            f"the processes found checkpoints of {epochs} epochs:"
            " put the checkpoint in a folder that all hosts see"
        )
    for tensor in run.model.state_dict().values():
        broadcast(tensor)


def _add_up(
    parameters: list[nn.Parameter], loss: Tensor, entropy: Tensor, accelerator
) -> tuple[Tensor, Tensor]:
    """Gradients, loss and entropy summed over the processes, in one message."""
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    message = torch.cat([x.flatten() for x in (loss, entropy, *gradients)])
    sizes = [p.numel() for p in parameters]
    loss, entropy, *sums = accelerator.reduce(message, "sum").split([1, 1, *sizes])
    for parameter, total in zip(parameters, sums):
        # Laid out as the parameter is, which fused optimisers rely on.
        parameter.grad = torch.empty_like(parameter).copy_(total.view_as(parameter))
    return loss[0], entropy[0]


def _agree_on_statistics(model: InvariantClassifier, accelerator) -> None:
    """What normalises is the processes' mean: each has seen its own parts."""
    for module in model.modules():
        for name in ("running_mean", "running_var"):
            statistic = getattr(module, name, None)
            if statistic is not None:
                statistic.copy_(accelerator.reduce(statistic.clone(), "mean"))


def _check_health(row: dict[str, Any], broken: int, steps: int, dim: int) -> None:
    """Stop a run that has gone wrong before it spoils the checkpoint."""
    epoch = row["epoch"]
    loss = row["loss"]
    entropy = row["entropy"]
    if broken:
        raise FloatingPointError(
            f"epoch {epoch}: the gradient was not finite in {broken} of {steps} steps while the"
            " loss was; look for a square root, logarithm or division at 0 in the classifier, the"
            " guide or the transformation"
        )
    if not math.isfinite(loss + entropy):
        raise FloatingPointError(
            f"epoch {epoch}: loss {loss}, entropy {entropy};"
            " try a lower guide_lr or clip, or a longer burn_in"
        )
    most = dim * math.log(2)
    if entropy > most + 0.1:  # room for sampling noise
        raise FloatingPointError(
            f"epoch {epoch}: entropy {entropy:.2f} is above D log 2 = {most:.2f} nats,"
            " which no density on the box has; the guide's log_prob is not that of its samples"
        )


@torch.no_grad()
def _embedding_spread(model: InvariantClassifier, data: Source) -> dict[str, float]:
    """How much the encoder's embedding varies: its standard deviation over images over its size."""
    encoder = getattr(model.q, "encoder", None)
    if encoder is None or len(data) < 2:
        return {}
    encoder.eval()  # looking must not change it
    embedding = encoder(data.some(256))
    size = embedding.pow(2).mean(0).sqrt().norm()
    spread = (embedding.std(0).norm() / size).nan_to_num().item()  # all zero: 0
    if spread < 0.003:  # early in healthy runs it was 0.016 to 0.06, later 0.4 to 1
        warnings.warn(
            f"the encoder has collapsed: its embedding varies by {spread:.1e} of its size over"
            " images, so q(T | I) is one for all; try a lower guide_lr, another seed, or an"
            " encoder of LeakyReLU",
            TrainingWarning,
            stacklevel=5,  # where fit was called: below no_grad, _epochs and fit
        )
    return {"embedding_spread": spread}
