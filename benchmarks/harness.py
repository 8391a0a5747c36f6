"""What the benchmarks share: timing side by side, peak memory, metadata, results as JSON.

Candidates take turns, one call each a round, so that whatever disturbs the machine disturbs all of
them. A ratio is the median over rounds of that round's quotient.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor

from flowinv.files import atomic_write
from flowinv.lab import provenance
from flowinv.training import pick_device

RESULTS = Path(__file__).parent.parent / "book/results/speed"


def parser(description: str) -> argparse.ArgumentParser:
    """A parser with the options that every script has."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument(
        "--repeats",
        type=int,
        default=30,
        help="rounds that count, after a third as many that do not",
    )
    options.add_argument(
        "--device",
        type=torch.device,
        default=pick_device(),
        help="default: the GPU if there is one",
    )
    options.add_argument("--name", help="of the result file (default: the script's)")
    options.add_argument(
        "--out", type=Path, default=RESULTS, help="folder of the result (default: the book's)"
    )
    return options


def arguments(description: str) -> argparse.Namespace:
    """Those options, for a script that has no others."""
    return parser(description).parse_args()


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def compare(
    candidates: dict[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, dict]:
    """Milliseconds a call of each candidate: median, quartiles, and ratio to the first one"""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(-max(2, repeats // 3), repeats):
        for name, call in candidates.items():
            synchronise(device)
            start = time.perf_counter()
            call()
            synchronise(device)
            if turn >= 0:
                times[name].append(1000 * (time.perf_counter() - start))
    first = times[next(iter(times))]
    return {
        name: dict(
            zip(("q25", "median", "q75"), (round(t, 3) for t in statistics.quantiles(own, n=4)))
        )
        | {
            "ratio": round(statistics.median(t / f for t, f in zip(own, first)), 3),
            "rounds": repeats,
        }
        for name, own in times.items()
    }


def gradients(loss: Tensor, of: list[Tensor]) -> list[Tensor]:
    """d loss / d of, as a training step computes it: into .grad, which starts empty."""
    for tensor in of:
        tensor.grad = None
    loss.backward()
    return [tensor.grad for tensor in of]


def same(name: str, a, b, tolerance: float) -> None:
    """Stop unless two candidates gave the same tensors: else there is nothing to compare."""
    for x, y in zip(a, b, strict=True):
        error = (x - y).abs().max().item()
        if not error <= tolerance * max(1.0, y.abs().max().item()):
            raise SystemExit(f"{name}: results differ by {error:.1e}, more than {tolerance:.0e}")


def peak_mebibytes(call: Callable[[], object], device: torch.device) -> float:
    """The most memory that tensors took during a call, beyond what they took before it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        call()
    taken = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            taken += event.nbytes()
            peak = max(peak, taken)
    return peak / 2**20


def processor() -> str:
    """The CPU's name where Linux tells it, else its architecture."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)", info.read_text() if info.exists() else "", re.M)
    return names[0] if names else platform.machine()


def store(args: argparse.Namespace, rows: list[dict]) -> None:
    """Write rows and where they were measured; on a GPU under a name of its own."""
    script = Path(sys.argv[0])
    kind = "" if args.device.type == "cpu" else f"-{args.device.type}"
    path = args.out / f"{args.name or script.stem}{kind}.json"
    result = provenance()
    for library in ("normflows", "zuko", "kornia"):
        with suppress(PackageNotFoundError):
            result["versions"][library] = version(library)
    changed = subprocess.run(
        ["git", "diff", "--quiet", "HEAD", "--", "."], cwd=Path(__file__).parent
    ).returncode
    if changed and "dirty" not in result["revision"]:
        result["revision"] += "-dirty"
    result |= {
        "device": torch.cuda.get_device_name() if args.device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "command": " ".join(["python", f"benchmarks/{script.name}", *sys.argv[1:]]),
        "rows": rows,
    }
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {path}")
