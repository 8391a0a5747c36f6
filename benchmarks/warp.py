"""The warp three ways: flowinv's, kornia's homography_warp, and plain affine_grid with grid_sample.

The same images, matrices and output gradients. Forward, and backward with a gradient for the
matrices alone (the images are data: what training needs) and for matrices and images.
"""

from functools import partial

import kornia
import torch
import torch.nn.functional as F
from harness import arguments, compare, same, store
from torch import Tensor

from flowinv.transforms import FAMILIES, warp

SHAPES = {
    "MNIST, 64 × 2": (64, 2, 1, 28),
    "CIFAR-10, 128 × 5": (128, 5, 3, 32),
    "CIFAR-10, 256 × 20": (256, 20, 3, 32),
}


def plain(images: Tensor, matrices: Tensor) -> Tensor:
    S, B = matrices.shape[:2]
    images = images.repeat(S, 1, 1, 1)
    grid = F.affine_grid(matrices.flatten(0, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False).unflatten(0, (S, B))


def with_kornia(images: Tensor, matrices: Tensor) -> Tensor:
    """By homography_warp, which takes matrices as they are here, with a third row."""
    S, B = matrices.shape[:2]
    last = matrices.new_tensor([0, 0, 1]).expand(S * B, 1, 3)
    square = torch.cat([matrices.flatten(0, 1), last], 1)
    moved = kornia.geometry.transform.homography_warp(
        images.repeat(S, 1, 1, 1), square, images.shape[-2:], align_corners=False
    )
    return moved.unflatten(0, (S, B))


def main() -> None:
    args, rows = arguments(__doc__), []
    ways = {"flowinv": warp, "kornia": with_kornia, "plain": plain}
    for shape, (B, S, C, side) in SHAPES.items():
        torch.manual_seed(0)
        images = torch.rand(B, C, side, side, device=args.device)
        T = torch.rand(S, B, 6, device=args.device) - 0.5
        given = torch.randn(S, B, C, side, side, device=args.device)
        for wanted in ("matrices", "matrices and images"):
            forward, backward, reference = {}, {}, None
            for name, way in ways.items():

                def prepare(dtype, way=way, wanted=wanted):
                    matrices = FAMILIES["affine"].matrix(T).to(dtype).requires_grad_()  # noqa: B023
                    pictures = images.to(dtype, copy=True)  # noqa: B023
                    pictures.requires_grad_(wanted != "matrices")
                    out = way(pictures, matrices)
                    leaves = [x for x in (matrices, pictures) if x.requires_grad]
                    return (pictures, matrices), out, leaves, given.to(dtype)  # noqa: B023

                # In float64: a rounded place can fall on the other side of a pixel's centre, where
                # the slope jumps.
                _, out, leaves, grad = prepare(torch.float64)
                results = [out.detach(), *torch.autograd.grad(out, leaves, grad)]
                same(name, results, reference := reference or results, 1e-6)
                inputs, out, leaves, grad = prepare(torch.float32)
                forward[name] = partial(way, *inputs)
                backward[name] = partial(torch.autograd.grad, out, leaves, grad, retain_graph=True)
            for part, calls in (("forward", forward), ("backward", backward)):
                times = compare(calls, args.repeats, args.device)
                rows += [
                    {"shape": shape, "gradient for": wanted, "part": part, "way": name, **time}
                    for name, time in times.items()
                ]
                print(
                    shape,
                    wanted,
                    part,
                    {name: (time["median"], time["ratio"]) for name, time in times.items()},
                )
    store(args, rows)


if __name__ == "__main__":
    main()
