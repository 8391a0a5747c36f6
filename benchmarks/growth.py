"""How time and peak memory grow: with the number of coefficients, of samples and of images."""

from functools import partial

import torch
from harness import arguments, compare, gradients, peak_mebibytes, store

from flowinv.distributions import ConditionalFlow, coupling_flow, spline_flow
from flowinv.model import InvariantClassifier
from flowinv.training import Settings, step

CHUNK = 1280  # transformed images at once, where a batch or a prediction goes in parts


def flow_step(flow: ConditionalFlow, context: torch.Tensor) -> None:
    T, log_prob, _ = flow(context).draw(1)
    gradients((T.square().sum(-1) + log_prob).mean(), [context, *flow.parameters()])


def main() -> None:
    args, rows = arguments(__doc__), []

    def measure(grows: str, size: int, calls: dict) -> None:
        for way, time in compare(calls, max(5, args.repeats // 3), args.device).items():
            rows.append({"grows": grows, "size": size, "way": way, **time})
            rows[-1]["MiB"] = round(peak_mebibytes(calls[way], args.device), 1)
            print(grows, size, way, rows[-1]["median"], "ms", rows[-1]["MiB"], "MiB")

    torch.manual_seed(0)
    kinds = {"12 affine couplings": coupling_flow, "1 autoregressive spline": spline_flow}
    for D in (2, 4, 8, 16, 32):
        context = torch.randn(512, 32, device=args.device, requires_grad=True)
        flows = {way: make(D, 32).to(args.device) for way, make in kinds.items()}
        measure(
            "coefficients",
            D,
            {way: partial(flow_step, flow, context) for way, flow in flows.items()},
        )

    chunks = {"at once": None, f"{CHUNK} at once": CHUNK}
    model = InvariantClassifier.build(
        "flow", "rotation_translation", 1, 5, scale=[0.2, 0.2, 0.6]
    ).to(args.device, memory_format=torch.channels_last)
    optimizers = [torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)]
    images, labels = (
        torch.rand(64, 1, 28, 28, device=args.device),
        torch.arange(64, device=args.device) % 5,
    )
    for samples in (1, 5, 20, 50, 100):
        train = partial(step, model.train(), optimizers, images, labels)
        calls = {
            way: partial(train, Settings(samples=samples, chunk=chunk), 0.3)
            for way, chunk in chunks.items()
        }
        measure("samples in a training step of 64 images", samples, calls)

    model.eval()
    for B in (10, 100, 1000, 10000):
        images = torch.rand(B, 1, 28, 28, device=args.device)
        calls = {
            way: partial(model.predict, images, 20, chunk or 20 * B)
            for way, chunk in chunks.items()
        }
        measure("images in a prediction of 20 samples", B, calls)
    store(args, rows)


if __name__ == "__main__":
    main()
