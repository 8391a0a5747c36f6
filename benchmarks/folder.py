"""Training from files against training from memory: images a second, and memory beyond the model.

20,000 JPEGs of 128×128 pixels (CIFAR-10 enlarged) are written to a temporary folder. An epoch of a
small network is trained from the files, read by workers, and from the same images in memory, as
bytes; each in a process of its own, in turns. Memory is the most that the process and its workers
take together (their proportional set sizes, from Linux), less what it took with the model built and
no image read. The files were just written, so they lie in the system's cache: no disk is measured.

What ImageNet would take, with N = 1,281,167 images an epoch on G GPUs with W worker processes::

    seconds an epoch = N / min(G · step · sharing, W · reading)

``reading`` is measured here, for JPEGs as large as ImageNet's: images a second and process.
``step``, images a second of one GPU from memory, is what ``benchmarks/step.py --device cuda`` gives
for the network in question; ``sharing``, what adding up gradients leaves of it, is 1 on one GPU.
Neither is measured here.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import torch
from harness import parser, store
from PIL import Image

from flowinv.data import ImageFiles, load, load_folder
from flowinv.data.reading import parts
from flowinv.model import InvariantClassifier
from flowinv.training import Settings, fit

SIZE = 128
PHOTO = (500, 375)  # a usual size in ImageNet
WAYS = ("from memory", "from files")


def write(root: Path, number: int, size: tuple[int, int]) -> None:
    """So many JPEGs in root/train/<class>, and ten in root/test/<class>; no two are the same."""
    data = load("cifar10", sample=True)
    pixels = (data.train.images * 255).byte().permute(0, 2, 3, 1).numpy()
    for split in ("train", "test"):
        for name in data.classes:
            (root / split / name).mkdir(parents=True)

    def one(i: int) -> None:
        picture = Image.fromarray(pixels[i % len(pixels)]).resize(size, Image.Resampling.BICUBIC)
        turned = picture.rotate(i // len(pixels), Image.Resampling.BILINEAR)
        split = "train" if i < number else "test"
        turned.save(root / split / data.classes[i % 10] / f"{i}.jpg", quality=90)

    with ThreadPoolExecutor() as threads:
        list(threads.map(one, range(number + 10)))


def in_memory(files: ImageFiles) -> torch.Tensor:
    """All of them as bytes, in one tensor that is made first."""
    images = torch.empty(files.shape, dtype=torch.uint8)
    for start, part in zip(range(0, len(files), 64), parts(files, 64)):
        images[start : start + 64] = part
    return images


def train(way: str, folder: Path, workers: int, device: torch.device) -> None:
    """What a process of its own runs: it says when it is ready, waits, and says how it went."""
    model = InvariantClassifier.build("flow", "affine", in_channels=3, classes=10)
    model.to(device)
    print("ready", flush=True)
    sys.stdin.readline()
    split = load_folder(folder, SIZE).joined().train
    data = [split]
    if way == "from memory":
        data = [in_memory(split.source), split.labels]
    settings = Settings(epochs=1, burn_in=0, samples=2, batch_size=64)
    (row,) = fit(model, *data, settings, device=device, workers=workers, progress=False)
    print(json.dumps({"images": len(split), "seconds": row["seconds"]}), flush=True)


def memory(pid: int) -> int:
    """Bytes that a process and those below it take, each shared page counted once."""
    taken = 0
    with suppress(OSError):  # it may be gone
        below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        taken = sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        taken += sum(memory(int(child)) for child in below)
    return taken


def measure(way: str, folder: Path, workers: int, device: torch.device) -> dict:
    """Images a second in training, and the most memory beyond the model."""
    command = [sys.executable, __file__, "--serve", way, str(folder)]
    command += ["--workers", str(workers), "--device", device.type]
    process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process, ThreadPoolExecutor() as threads:
        process.stdout.readline()
        before = peak = memory(process.pid)
        process.stdin.write("\n")
        process.stdin.flush()
        answer = threads.submit(process.stdout.readline)
        while not answer.done():
            peak = max(peak, memory(process.pid))
            time.sleep(0.25)  # looking costs, too
    if not answer.result():
        raise SystemExit("a process stopped: its error stands above")
    found = json.loads(answer.result())
    return {
        "images a second": found["images"] / found["seconds"],
        "MiB": (peak - before) / 2**20,
    }


def reading(folder: Path, size: int, rounds: int) -> dict:
    """How many images a second one process reads, without training."""
    files = load_folder(folder, size).joined().train.source
    rates = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in parts(files, 64):
            pass
        rates.append(len(files) / (time.perf_counter() - start))
    return {"images a second": round(statistics.median(rates), 1), "rounds": rounds}


def main() -> None:
    options = parser(__doc__)
    options.set_defaults(repeats=3)
    options.add_argument("--images", type=int, default=20_000)
    options.add_argument("--workers", type=int, default=2, help="that read files")
    options.add_argument("--serve", nargs=2, help="way and folder: what a process of its own runs")
    args = options.parse_args()
    if args.serve:
        way, folder = args.serve
        train(way, Path(folder), args.workers, args.device)
        return
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "small"
        write(folder, args.images, (SIZE, SIZE))
        found: dict[str, list[dict]] = {way: [] for way in WAYS}
        for _ in range(args.repeats):
            for way in WAYS:
                found[way].append(measure(way, folder, args.workers, args.device))
                print(way, found[way][-1], flush=True)
        for way, own in found.items():
            rates = [one["images a second"] for one in own]
            ratios = [r / m["images a second"] for r, m in zip(rates, found[WAYS[0]])]
            row = {
                "way": way,
                "images": args.images,
                "workers": args.workers if way == "from files" else 0,
                "images a second": round(statistics.median(rates), 1),
                "ratio": round(statistics.median(ratios), 3),
                "MiB": round(max(one["MiB"] for one in own)),
                "rounds": args.repeats,
            }
            rows.append(row)
        photos = Path(temporary) / "photos"
        write(photos, max(10, args.images // 20), PHOTO)
        for what, where, size in (("128×128", folder, SIZE), ("500×375 to 224", photos, 224)):
            speed = reading(where, size, rounds=max(1, args.repeats))
            rows.append({"way": f"reading alone, {what}, one process", **speed})
    for row in rows:
        print(row)
    store(args, rows)


if __name__ == "__main__":
    main()
