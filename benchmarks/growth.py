"""How time and peak memory grow: with the number of coefficients, of samples and of images."""

from functools import partial

import torch
from harness import arguments, compare, gradients, peak_mebibytes, store

from flowinv.experiments import EXPERIMENTS
from flowinv.flows import ConditionalFlow
from flowinv.training import Settings, step

CHUNK = 1280  # transformed images at once, where a batch or a prediction goes in parts


def flow_step(flow: ConditionalFlow, context: torch.Tensor) -> None:
    q = flow(context)
    T = q.rsample((1,))
    gradients((T.square().sum(-1) + q.log_prob(T)).mean(), [context, *flow.parameters()])


def main() -> None:
    args, rows = arguments(__doc__), []

    def measure(grows: str, size: int, way: str, call) -> None:
        time = compare({way: call}, max(3, args.repeats // 6), args.device)[way]
        rows.append(
            {"grows": grows, "size": size, "way": way, **time, "MiB": round(peak_mebibytes(call, args.device), 1)}
        )
        print(grows, size, way, rows[-1]["median"], "ms", rows[-1]["MiB"], "MiB")

    torch.manual_seed(0)
    for D in (2, 4, 8, 16, 32):
        context = torch.randn(512, 32, device=args.device, requires_grad=True)
        for way, options in {
            "12 affine couplings": {"univariate": "affine", "coupling": True, "layers": 12},
            "1 autoregressive spline": {},
        }.items():
            flow = ConditionalFlow(D, 32, **options).to(args.device)
            measure("coefficients", D, way, partial(flow_step, flow, context))

    model = EXPERIMENTS["mnist-selective"].build("flow").to(args.device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    images, labels = torch.rand(64, 1, 28, 28, device=args.device), torch.arange(64, device=args.device) % 5
    for samples in (1, 5, 20, 50, 100):
        for way, chunk in {"at once": None, f"{CHUNK} at once": CHUNK}.items():
            settings = Settings(samples=samples, chunk=chunk)
            measure("samples in a training step of 64 images", samples, way,
                    partial(step, model.train(), optimizer, images, labels, settings, 0.3))  # fmt: skip

    model.eval()
    for B in (10, 100, 1000, 10000):
        images = torch.rand(B, 1, 28, 28, device=args.device)
        for way, chunk in {"at once": 20 * B, f"{CHUNK} at once": CHUNK}.items():
            measure("images in a prediction of 20 samples", B, way, partial(model.predict, images, 20, chunk))
    store(args, rows)


if __name__ == "__main__":
    main()
