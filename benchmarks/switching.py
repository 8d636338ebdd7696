"""Switching between two workflows, A -> B -> A -> B ..., against the same ComfyUI without us.

    .venv/bin/python benchmarks/switching.py [--size-gb 1] [--keep FOLDER]

Counts how often each file is read from the disk, and the time from queueing a workflow to the start of its
sampling. Then: what two loader classes on one file take of RAM. Needs a ComfyUI; about 12 times the
size in RAM, since a CPU computes in 32 bits.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from comfyui_run import Run, comfyui, make_wan_models, managed_loader, sample_one_step, stock_loader, wan_14b
from common import claim

A, B = "a.safetensors", "b.safetensors"
ROUNDS = 3
MODES = {
    "RAM pressure (default)": [],
    "classic": ["--cache-classic"],
    "LRU": ["--cache-lru", "50"],
    "none": ["--cache-none"],
}
Loader = Callable[[str], dict[str, Any]]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size-gb", type=float, default=1.0)
    parser.add_argument("--keep", type=Path, help="folder for the models, used again if they are there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        if not (folder / "diffusion_models" / B).exists():
            make_wan_models(folder, [A, B], wan_14b(options.size_gb))
        size = (folder / "diffusion_models" / A).stat().st_size
        print(f"Two Wan models of {size / 1024**3:.2f} GB, {ROUNDS} rounds of A -> B")
        good = [*switching(folder), two_loaders(folder)]
    return 0 if all(good) else 1


def switching(folder: Path) -> list[bool]:
    """Print the table and judge it."""
    print(f"{'loader':<28}{'cache mode':<26}{'reads of A, B':<16}{'switch, s':<11}against stock")
    bare = row(folder, "stock, without us", "RAM pressure (default)", stock_loader, extension=False)
    good = []
    for name, loader in (("stock, with us", stock_loader), ("LoadManagedModel", managed_loader)):
        for mode in MODES:
            if loader is stock_loader and mode != "RAM pressure (default)":
                continue
            reads, seconds = row(folder, name, mode, loader, extension=True, stock=bare[1])
            good.append(claim(f"{name}, {mode}: reads after the first of each", max(reads) - 1, 0, "reads"))
            good.append(claim(f"{name}, {mode}: switch / stock's", seconds / bare[1], 0.2, "x"))
    return good


def row(
    folder: Path, name: str, mode: str, loader: Loader, extension: bool, stock: float | None = None
) -> tuple[list[int], float]:
    """Run A and B in turn, print one line, and return the reads and the median time of a switch."""
    times = []
    with comfyui(folder, MODES[mode], extension) as run:
        for number in range(ROUNDS):
            for path in (A, B):
                seconds = run.prompt(sample_one_step(loader(path), number))
                if number:
                    times.append(seconds)
        found = run.reads()
    reads = [found[A], found[B]]
    median = statistics.median(times)
    ratio = f"{median / stock:.3f} x" if stock else "1 x"
    print(f"{name:<28}{mode:<26}{reads[0]}, {reads[1]:<13}{median:<11.3f}{ratio}", flush=True)
    return reads, median


def two_loaders(folder: Path) -> bool:
    """Load one file through two loader classes and judge what the second adds."""
    with comfyui(folder, []) as run:
        one, two = grown(run, managed_loader, stock_loader)
    print(f"One file through two loader classes: {one / 1024**3:.2f} GB, then {two / 1024**3:.2f} GB")
    return claim("RAM of two loader classes / of one", two / one, 1.05, "x")


def grown(run: Run, first: Loader, second: Loader) -> tuple[int, int]:
    """Return by how much the process has grown after each of two loads of A."""
    empty = run.rss()
    run.prompt(sample_one_step(first(A), 1))
    after_one = run.rss()
    prompt = sample_one_step(first(A), 1)
    prompt["second"] = second(A)
    prompt["again"] = {**prompt["sampler"], "inputs": {**prompt["sampler"]["inputs"], "model": ["second", 0]}}
    prompt["keep"] = {**prompt["save"], "inputs": {**prompt["save"]["inputs"], "samples": ["again", 0]}}
    run.prompt(prompt)
    return after_one - empty, run.rss() - empty


if __name__ == "__main__":
    sys.exit(main())
