"""Where the time of a quick MNIST step goes: forward and backward of each part, one by one.

The whole step is what `fit` takes for it; what no part accounts for (gradient clipping, optimiser,
bookkeeping) is the rest.
"""

import statistics
from functools import partial

import torch
from harness import arguments, compare, store
from torch import Tensor

from flowinv.model import InvariantClassifier
from flowinv.training import Settings, fit

B, S, STEPS = 64, 2, 20


def main() -> None:
    args = arguments(__doc__)
    torch.manual_seed(0)
    model = InvariantClassifier.build("flow", "rotation_translation", 1, 5, scale=[0.2, 0.2, 0.6])
    images, labels = torch.rand(STEPS * B, 1, 28, 28), torch.arange(STEPS * B) % 5
    settings = Settings(epochs=args.repeats, burn_in=0, samples=S, batch_size=B)
    history = fit(model, images, labels, settings, device=args.device, progress=False)
    whole = sorted(1000 * row["seconds"] / STEPS for row in history[args.repeats // 4 :])

    model.to(memory_format=torch.channels_last)  # as in training
    model.train()
    images = images[:B].to(args.device)
    embedding = model.q.encoder(images).detach().requires_grad_()
    T = model.q(images).sample((S,)).requires_grad_()
    latent = model.family.warp(images, T.detach(), validate=False).flatten(0, 1).requires_grad_()

    def flow() -> Tensor:
        T, log_prob, _ = model.q.flow(embedding).draw(S)
        return T.sum() + log_prob.sum()

    shown = torch.cat([latent.detach(), images])
    parts = {
        "classifier alone, the same number of images": lambda: model.classifier(shown).sum(),
        "classifier, transformed images": lambda: model.classifier(latent).sum(),
        "classifier, images as they are": lambda: model.classifier(images).sum(),
        "encoder": lambda: model.q.encoder(images).sum(),
        "flow: sample and score": flow,
        "matrices and warp": lambda: model.family.warp(images, T, validate=False).sum(),
    }

    def run(part) -> None:
        model.zero_grad()
        part().backward()

    times = compare(
        {name: partial(run, part) for name, part in parts.items()}, args.repeats, args.device
    )
    rows = [
        {"part": name, **{key: time[key] for key in ("q25", "median", "q75")}}
        for name, time in times.items()
    ]
    q25, median, q75 = statistics.quantiles(whole, n=4)
    rest = median - sum(row["median"] for row in rows[1:])
    rows.append({"part": "the rest", "median": round(rest, 3)})
    rows.append(
        {
            "part": "whole step",
            "q25": round(q25, 3),
            "median": round(median, 3),
            "q75": round(q75, 3),
        }
    )
    for row in rows:
        print(f"{row['median']:8.2f} ms  {row['part']}")
    store(args, rows)


if __name__ == "__main__":
    main()
