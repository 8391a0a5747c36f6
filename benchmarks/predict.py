"""Prediction with S samples, against the classifier alone and against one pass a sample."""

from functools import partial

import torch
from harness import arguments, compare, store

from flowinv.model import InvariantClassifier


def main() -> None:
    args, rows = arguments(__doc__), []
    model = (
        InvariantClassifier.build("flow", "rotation_translation", 1, 5, scale=[0.2, 0.2, 0.6])
        .to(args.device, memory_format=torch.channels_last)
        .eval()
    )
    images = torch.rand(256, 1, 28, 28, device=args.device)
    for samples in (1, 5, 20, 100):
        shown = images.repeat(samples, 1, 1, 1)

        def one_by_one(samples=samples):
            return torch.stack([model.predict(images, 1) for _ in range(samples)]).logsumexp(0)

        calls = {
            "classifier alone": partial(model.predict, shown, 0),
            "flowinv": partial(model.predict, images, samples),
            "a pass a sample": one_by_one,
        }
        times = compare(calls, max(8, args.repeats // (1 + samples // 20)), args.device)
        rows += [
            {"samples": samples, "images": len(shown), "way": way, **time}
            for way, time in times.items()
        ]
        print(samples, {way: (time["median"], time["ratio"]) for way, time in times.items()})
    store(args, rows)


if __name__ == "__main__":
    main()
