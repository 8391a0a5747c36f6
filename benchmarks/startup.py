"""Seconds to import torch alone, and with every module of flowinv, each in a Python of its own."""

import subprocess
import sys
from functools import partial
from pathlib import Path

from harness import arguments, compare, store

import flowinv


def main() -> None:
    args = arguments(__doc__)
    modules = [f"flowinv.{path.stem}" for path in Path(flowinv.__file__).parent.glob("[!_]*.py")]
    imports = {
        "torch": "torch",
        "torch and Pyro": "torch, pyro",
        "torch and flowinv": f"torch, {', '.join(modules)}",
    }
    calls = {
        name: partial(subprocess.run, [sys.executable, "-c", f"import {what}"], check=True)
        for name, what in imports.items()
    }
    times = compare(calls, max(5, args.repeats // 3), args.device)
    print({name: (time["median"], time["ratio"]) for name, time in times.items()})
    store(args, [{"import": name, **time} for name, time in times.items()])


if __name__ == "__main__":
    main()
