"""Data beyond the plane whose right q(T | I) is known: in depth, bent, coloured.

*Cards.* A sprite on a card faces us (one class) as long as pitch and yaw stay within ``FACING``,
and is turned away (another class) beyond. So of a card that faces us squarely q(T | I) should be
that box of turns, and of any other the turns that bring it there.

*Boards.* A sprite on a chequered board that is bent: by up to the strength in ``LIMITS``, of which
each sprite has its own, a board counts as straight (one class), and beyond as bent (another).

*Coloured digits.* For 0, 1 and 2 the hue means nothing; 3, 4 and 5 are two classes each, warm and
cold, by halves of the circle of hues. In training, hues are within 45° of red or of cyan.
"""

from collections.abc import Callable
from math import pi
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import metrics
from ..alignment import mean_shift
from ..data import Dataset, Split, load, mario_iggy
from ..distributions import wrap
from ..model import InvariantClassifier
from ..transforms import FAMILIES
from ..transforms.projective import DISTANCE, TILT

# Pitch and yaw, in degrees: how far a card may turn and still face us, and how far at all.
FACING = (20.0, 30.0)
MOST = 180 * TILT / pi


# Strengths up to which a board is straight, with a rocket on it and with a fir; and the largest.
LIMITS = (0.3, 0.6)
STRONGEST = 0.8


class Made(NamedTuple):
    """Images (N, 3, 32, 32), their classes (N,), and by which T (N, D) of a family they came."""

    images: Tensor
    labels: Tensor
    T: Tensor


def cards(number: int, seed: int, facing: bool | None = None) -> Made:
    """So many cards, turned by the family ``tilt``: half of them face us, or all, or none.

    Those that do are uniform in the box of ``FACING``. Of the others one turn, chosen by lot, is
    beyond it, and the other is anything.

    Args:
        number: how many.
        seed: fixes them all.
        facing: whether all do; None for half.
    """
    generator = torch.Generator().manual_seed(seed)
    uniform = 2 * torch.rand(number, 2, generator=generator) - 1
    limit = torch.tensor(FACING) / MOST
    beyond = uniform.sign() * (limit + (1 - limit) * uniform.abs())
    lot = torch.arange(2) == torch.randint(2, (number, 1), generator=generator)
    away = torch.where(lot, beyond, uniform)
    faces = torch.rand(number, generator=generator) < 0.5
    if facing is not None:
        faces = torch.full_like(faces, facing)
    T = torch.where(faces[:, None], limit * uniform, away)
    sprite = torch.arange(number) % 2
    images = FAMILIES["tilt"].warp(blank_cards()[sprite], T)
    return Made(images, 2 * sprite + (~faces).long(), T)


def blank_cards() -> Tensor:
    """This project's two sprites, each on a grey card that faces us squarely: (2, 3, 32, 32)."""
    images, labels = mario_iggy(1e-9, train=40, test=1, sample=True).train
    sprites = torch.stack([images[labels == label][0] for label in (0, 2)])
    card = torch.zeros(3, 32, 32)
    card[:, 3:-3, 3:-3] = 0.35
    smaller = F.interpolate(sprites, size=20, mode="area")
    return torch.maximum(card, F.pad(smaller, (6, 6, 6, 6)))


def in_depth(train: int, test: int) -> Dataset:
    """Cards that face us, and cards that are turned away, of two sprites: four classes."""
    return _of_two_sprites("Two sprites turned in depth", ("facing", "away"), cards, train, test)


def _of_two_sprites(
    title: str, ways: tuple[str, str], make: Callable[[int, int], Made], train: int, test: int
) -> Dataset:
    classes = [f"{name}, {way}" for name in ("rocket", "fir") for way in ways]
    drawn = {}
    for name, number, seed in (("train", train, 0), ("test", test, 1), ("validation", 0, 2)):
        images, labels, _ = make(number, seed)
        drawn[name] = Split(images, labels)
    return Dataset(title, tuple(classes), **drawn)


def card_turn(M: Tensor) -> Tensor:
    """Pitch and yaw of a card, in degrees, (…, 2), for homographies (…, 3, 3).

    Exact for the maps of ``tilt``. Of a product of two, which need not be such a map, it is read
    off the perspective, the last row.

    Example:
        >>> T = torch.tensor([0.4, -0.8])
        >>> card_turn(FAMILIES["tilt"].matrix(T)).round()
        tensor([ 18., -36.])
    """
    _, _, (x, y, w) = (row.unbind(-1) for row in M.unbind(-2))
    pitch = torch.atan(DISTANCE * y / w)
    yaw = torch.atan(-DISTANCE * pitch.cos() * x / w)
    return torch.stack([pitch, yaw], -1).rad2deg()


def displacement(M: Tensor) -> Tensor:
    """By how many pixels of 32 homographies (…, 3, 3) move the corners of a card, mean: (…)."""
    x = torch.tensor([-0.8, -0.8, 0.8, 0.8])
    y = torch.tensor([-0.8, 0.8, -0.8, 0.8])
    corners = torch.stack([x, y, torch.ones(4)]).to(M)
    there = M @ corners
    moved = there[..., :2, :] / there[..., 2:, :].clamp(min=1e-3) - corners[:2]
    return 16 * moved.norm(dim=-2).mean(-1)


@torch.no_grad()
def measure_cards(model: InvariantClassifier) -> dict:
    """How far q turns cards that face us, against how far it may; what mean-shift makes of them.

    Returns:
        ``range_degrees``: of q for cards that face us squarely, by name; 99% of the samples are
        within. ``range_error_percent``: the larger distance of these from the truth.
        ``share_inside``: of q, over cards turned within their range, that stays in it.
        Displacements of the corners before and after 15 steps of mean-shift, in pixels, and tilts,
        in degrees, medians of 200 cards.
    """
    upright = blank_cards().to(model.device)
    T = model.q(upright).sample((4000,)).cpu()
    family = model.family
    reach = metrics.half_width(T, periodic=False).mean(0) * MOST
    truth = 0.99 * T.new_tensor(FACING)

    images, _, turned = cards(200, seed=3, facing=True)
    images = images.to(model.device)
    M = family.matrix(turned)
    S = model.q(images).sample((200,)).cpu()
    after = card_turn(M @ family.matrix(S)).abs()
    inside = (after <= after.new_tensor(FACING)).all(-1)
    shifted = M @ mean_shift(model, images, 15, 0.3).matrices[-1].cpu()
    found = {
        "range_degrees": dict(zip(family.names, reach.tolist())),
        "range_error_percent": (100 * (reach / truth - 1)).abs().max().item(),
        "share_inside": inside.double().mean().item(),
    }
    for when, maps in (("before", M), ("after", shifted)):
        tilt = card_turn(maps).norm(dim=-1)
        found[f"pixels_{when}"] = displacement(maps).median().item()
        found[f"tilt_degrees_{when}"] = tilt.median().item()
    return found


def chequered(squares: int = 8) -> Tensor:
    """A board of grey squares, on which bending shows: (3, 32, 32)."""
    i = torch.arange(32) * squares // 32
    return ((i[:, None] + i) % 2 * 0.5 + 0.1).expand(3, -1, -1)


def straight_boards() -> Tensor:
    """This project's two sprites, each on a chequered board: (2, 3, 32, 32)."""
    inner = F.interpolate(blank_cards()[..., 6:-6, 6:-6], size=16, mode="area")
    sprite = F.pad(inner, (8, 8, 8, 8))
    return sprite.where(sprite.amax(1, keepdim=True) > 0.4, chequered())


def strength(T: Tensor) -> Tensor:
    """How much T (…, D) of ``elastic`` bends: 0 for none, about 1 for any T in the box: (…).

    Example:
        >>> strength(torch.full((32,), 0.5)).round(decimals=2)
        tensor(0.8700)
    """
    return (3 * T.square().mean(-1)).sqrt()


def boards(number: int, seed: int, straight: bool = False) -> Made:
    """So many boards, bent by the family ``elastic``: about half of them within their limit.

    A few more of the firs: where only a few coefficients bend, none of them bends beyond it.

    Args:
        number: how many.
        seed: fixes them all.
        straight: whether all are within their limit.
    """
    family = FAMILIES["elastic"]
    generator = torch.Generator().manual_seed(seed)
    # In some boards all coefficients bend and in others few, so that each counts for the class: a
    # classifier that knows even bends alone is blind to others, and q finds them.
    uniform = 2 * torch.rand(number, family.dim, generator=generator) - 1
    share = 0.1 + 0.9 * torch.rand(number, 1, generator=generator)
    bends = torch.rand(number, family.dim, generator=generator) < share
    T = uniform.where(bends | ~bends.any(1, keepdim=True), 0.0)
    within = torch.rand(number, generator=generator) < 0.5
    within |= straight
    sprite = torch.arange(number) % 2
    limit = torch.tensor(LIMITS)[sprite]
    u = torch.rand(number, generator=generator)
    strengths = torch.where(within, limit * u, limit + (STRONGEST - limit) * u)
    T = (T * (strengths / strength(T))[:, None]).clamp(-1, 1)  # few cannot bend it strongly
    labels = 2 * sprite + (strength(T) > limit).long()
    return Made(family.warp(straight_boards()[sprite], T), labels, T)


def bent(train: int, test: int) -> Dataset:
    """Boards that are straight, more or less, and boards that are bent: four classes."""
    return _of_two_sprites("Two sprites on bent boards", ("straight", "bent"), boards, train, test)


@torch.no_grad()
def measure_boards(model: InvariantClassifier) -> dict:
    """How strongly q bends boards that are straight, against how much each tolerates.

    Returns:
        ``strength`` within which 99% of q's samples are, for a straight board with each sprite.
        ``range_error_percent``: the larger distance of the two from the truth.
        ``share_inside``: of q, over boards bent within their limit, that stays in it, where one
        bend after another counts as their sum, which is so to first order.
    """
    T = model.q(straight_boards().to(model.device)).sample((2000,)).cpu()
    reach = strength(T).quantile(0.99, dim=0)
    some = boards(200, seed=3, straight=True)
    S = model.q(some.images.to(model.device)).sample((200,)).cpu()
    limit = torch.tensor(LIMITS)[some.labels // 2]
    return {
        "strength": dict(zip(("rocket", "fir"), reach.tolist())),
        "range_error_percent": (100 * (reach / torch.tensor(LIMITS) - 1)).abs().max().item(),
        "share_inside": (strength(S + some.T) <= limit).double().mean().item(),
    }


FREE = 3  # digits below it may have any hue; as many others are bound to one
POLE = 45.0  # how far hues in training are from red or cyan, in degrees


def coloured(images: Tensor, degrees: Tensor) -> Tensor:
    """Grey images (B, 1, H, W) in colours of the hues (B,), 0° being red: (B, 3, H, W)."""
    red = torch.cat([images, torch.zeros_like(images), torch.zeros_like(images)], 1)
    return FAMILIES["hue"].warp(red, wrap(degrees / 180)[:, None])


def coloured_digits(sample: bool, train: int | None = None, test: int = 1000) -> Dataset:
    """MNIST in colours: digits below ``FREE``, and as many others warm and cold: nine classes.

    In the test digits below ``FREE`` have any hue, and the others one within 80° of their pole.

    Args:
        sample: take the embedded sample.
        train: how many training images; None for all.
        test: how many test images.
    """
    data = load("mnist", sample=sample).joined().only(list(range(2 * FREE)))
    data = data.first(train or len(data.train), test)
    generator = torch.Generator().manual_seed(0)

    def dyed(split: Split, pole: float, free: float) -> Split:
        images, labels = split
        cold = torch.rand(len(split), generator=generator) < 0.5
        u = 2 * torch.rand(len(split), generator=generator) - 1
        away = torch.where(labels < FREE, free, pole) * u
        hues = 180 * wrap((180 * cold + away) / 180)
        labels = labels + len(data.classes) // 2 * (cold & (labels >= FREE))
        return Split(coloured(images, hues), labels, hues)

    warm = [f"{name} warm" for name in data.classes[FREE:]]
    cold = [f"{name} cold" for name in data.classes[FREE:]]
    return Dataset(
        f"{data.title}, coloured",
        (*data.classes[:FREE], *warm, *cold),
        train=dyed(data.train, POLE, POLE),
        validation=dyed(data.validation, POLE, POLE),
        test=dyed(data.test, 80.0, 180.0),
    )


@torch.no_grad()
def measure_colours(model: InvariantClassifier, data: Dataset) -> dict:
    """How far q turns hues where they mean nothing and where they are the class; accuracies.

    Returns:
        ``half_width_degrees`` of both groups, ``free`` and ``bound``: medians. ``share_inside`` of
        the bound: of q, that keeps the class. Both over images whose hue is one that training has
        shown. Accuracies, plain and averaged, of all and of each, in any hue.
    """
    images, labels = data.test
    hues = data.test.angles
    assert hues is not None
    parts = []
    for part in images.split(250):
        parts.append(model.q(part.to(model.device)).sample((400,))[..., 0].cpu())
    T = torch.cat(parts, 1)
    width = 180 * metrics.half_width(T, periodic=True)
    bound = labels >= FREE
    pole = torch.where(labels >= 2 * FREE, 180.0, 0.0)
    after = 180 * wrap((hues + 180 * T - pole) / 180)
    seen = wrap(hues / 90).abs() <= POLE / 90  # from the nearer pole
    found = {
        "half_width_degrees": {
            "free": width[seen & ~bound].median().item(),
            "bound": width[seen & bound].median().item(),
        },
        "share_inside": (after.abs() <= 90)[:, seen & bound].double().mean().item(),
    }
    for way, samples in (("plain", 0), ("averaged", 20)):
        right = (model.predict(images, samples).argmax(-1).cpu() == labels).double()
        found[f"accuracy_{way}"] = 100 * right.mean().item()
        found[f"accuracy_{way}_free"] = 100 * right[~bound].mean().item()
        found[f"accuracy_{way}_bound"] = 100 * right[bound].mean().item()
    return found
