"""Random loads of ten models under a budget of RAM, and what comes back when all is let go of.

    .venv/bin/python benchmarks/pool_budget.py [--loads 200]

Needs a ComfyUI. RAM is what the process has by the system's count, not by ours.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from comfyui_run import Run, comfyui, layouts, make_wan_models, managed_loader, sample_one_step
from common import claim

GB = 1024**3
MODELS = 10
BUDGET_GB = 1.0
NAMES = [f"model_{number}.safetensors" for number in range(MODELS)]


def main() -> int:
    parser = argparse.ArgumentParser(description="Random loads under a budget of RAM.")
    parser.add_argument("--loads", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_wan_models(Path(folder), NAMES, layouts.wan21_t2v(width=1536, ffn=6144, layers=2))
        with comfyui(Path(folder), [], max_ram_gb=BUDGET_GB) as run:
            good = measure(run, options.loads)
    return 0 if all(good) else 1


def measure(run: Run, loads: int) -> list[bool]:
    """Load at random, watch the pool and the process, and judge both."""
    run.prompt(sample_one_step(managed_loader(NAMES[0])))
    one = pooled_bytes(run)
    run.free()
    start = run.rss()
    chosen = random.Random(0)
    most_pooled = most_rss = 0
    for number in range(loads):
        run.prompt(sample_one_step(managed_loader(chosen.choice(NAMES)), number))
        most_pooled = max(most_pooled, pooled_bytes(run))
        most_rss = max(most_rss, run.rss() - start)
    run.free()
    end = run.rss()
    reads = sum(run.reads().values())
    print(
        f"{loads} loads of {MODELS} models of {one / GB:.2f} GB in RAM, budget {BUDGET_GB:.2f} GB: "
        f"{reads} reads; the process grew by at most {most_rss / GB:.2f} GB; "
        f"{start / GB:.2f} GB at the start, {end / GB:.2f} GB after letting go of all"
    )
    return [
        claim("most in the pool / budget", most_pooled / (BUDGET_GB * GB), 1.05, "x"),
        claim("RAM of the process after letting go / before", end / start, 1.05, "x"),
        claim("reads / reads without a pool", reads / loads, 0.9, "x"),
    ]


def pooled_bytes(run: Run) -> int:
    """Return what the pool alone keeps: what ComfyUI's cache of outputs has too is not its own."""
    models = run.get("/managed-models/status")["memory"]["models"]
    return sum(model["ram_bytes"] for model in models if model["pooled"])


if __name__ == "__main__":
    sys.exit(main())
