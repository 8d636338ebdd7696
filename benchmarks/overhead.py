"""What sharing costs per node, and what the threads cost while nothing runs.

    .venv/bin/python benchmarks/overhead.py [--seconds 60]

ComfyUI hashes the ancestry of every node that it looks up once any cache provider is there; that is
printed beside our own code. Needs a ComfyUI.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from comfyui_run import Run, comfyui, layouts, make_wan_models, managed_loader, sample_one_step
from common import claim

NODES = 60
MODEL = "model.safetensors"


def main() -> int:
    parser = argparse.ArgumentParser(description="What the extension costs while ComfyUI works and rests.")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each rest that is measured")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_wan_models(Path(folder), [MODEL], layouts.wan21_t2v())
        with comfyui(Path(folder), [], extension=False) as run:
            bare = resting(run, options.seconds)
        with comfyui(Path(folder), []) as run:
            good = [working(run), *rests(run, options.seconds, bare)]
    return 0 if all(good) else 1


def working(run: Run) -> bool:
    """Run a chain of nodes that do nearly nothing, and judge our part of it."""
    run.outputs({"costs": {"class_type": "ProbeCosts", "inputs": {}}})
    run.prompt(sample_one_step(managed_loader(MODEL)))  # so that there is a model to look after
    run.outputs({"costs": {"class_type": "ProbeCosts", "inputs": {}}})
    start = time.perf_counter()
    run.outputs(chain(NODES))
    took = time.perf_counter() - start
    found = run.outputs({"costs": {"class_type": "ProbeCosts", "inputs": {}}})["costs"]["costs"][0]
    hashing = found.pop("ComfyUI hashing", [0, 0.0])[1] / NODES * 1e3
    ours = sum(seconds for _, seconds in found.values()) / NODES * 1e3
    print(
        f"A chain of {NODES} nodes took {took:.2f} s; per node: {ours:.3f} ms in our code, "
        f"{hashing:.2f} ms in ComfyUI's hashing for providers ({NODES // 2} ancestors on average)"
    )
    return claim("our code per node", ours, 1.0, "ms")


def rests(run: Run, seconds: float, bare: float) -> list[bool]:
    """Judge one core's share while nothing runs, with nobody looking and with the panel open."""
    idle = resting(run, seconds)
    watched = resting(run, seconds, look=True)
    print(
        f"Share of one core while nothing runs: {bare:.2%} without us, {idle:.2%} with us, "
        f"{watched:.2%} with the panel open"
    )
    return [
        claim("idle, above ComfyUI without us", (idle - bare) * 100, 0.5, "% of a core"),
        claim("panel open, above ComfyUI without us", (watched - bare) * 100, 2.0, "% of a core"),
    ]


def resting(run: Run, seconds: float, look: bool = False) -> float:
    """Return the share of one core that the process used; with ``look`` the panel's route is asked."""
    time.sleep(15)  # ComfyUI itself clears up after it started and after a prompt
    before, start = run.cpu_seconds(), time.perf_counter()
    while time.perf_counter() - start < seconds:
        if look:
            run.get("/managed-models/status")
        time.sleep(2)
    return (run.cpu_seconds() - before) / (time.perf_counter() - start)


def chain(length: int) -> dict[str, Any]:
    """Latents that are passed from node to node."""
    prompt: dict[str, Any] = {
        "0": {"class_type": "EmptyLatentImage", "inputs": {"width": 16, "height": 16, "batch_size": 1}}
    }
    for number in range(1, length):
        inputs = {"samples": [str(number - 1), 0], "multiplier": 1.0}
        prompt[str(number)] = {"class_type": "LatentMultiply", "inputs": inputs}
    prompt["save"] = {
        "class_type": "SaveLatent",
        "inputs": {"samples": [str(length - 1), 0], "filename_prefix": "chain"},
    }
    return prompt


if __name__ == "__main__":
    sys.exit(main())
