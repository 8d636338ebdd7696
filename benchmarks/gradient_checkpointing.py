"""What gradient checkpointing saves of the memory of one training step, and what it costs.

    COMFYUI_PATH=... .venv/bin/python benchmarks/gradient_checkpointing.py [--size 64]

Runs in ComfyUI's own Python, on a CPU, over tiny Wan and Flux models: one step forward and back with
and without, in one process; what TrainLoraNode does is printed beside it. "Kept" is counted tensor by
tensor: what autograd keeps, and the inputs of blocks that are computed again. "Peak" is the growth of
the process, weights' gradients included. Times are the best of four.

Flux does not train plainly: PyTorch refuses, because its blocks change what autograd keeps. Its figures
without are taken with that check off, and the gradients to compare with come from kept copies.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import ROOT, claim, load_checkout

load_checkout()
sys.path.append(str(ROOT / "scripts"))

from comfyui_server import find_comfyui  # noqa: E402
from managed_models.manager.demo import make_demo_model  # noqa: E402

RUNNER = ROOT / "tests" / "comfyui" / "inside" / "runner.py"
MB = 1024**2
KEPT_LIMIT = 1 / 3
PEAK_LIMIT = 0.5
TIME_LIMIT = 1.7  # forward twice and back once, against forward and back
ERROR_LIMIT = 1e-5


def main() -> int:
    """Print the ratios and return 1 if a claim does not hold."""
    options = argparse.ArgumentParser()
    options.add_argument("--size", type=int, default=64, help="width and height of the latent")
    found = measure(options.parse_args().size)
    if found is None:
        return 1
    held = [report(kind, ways) for kind, ways in found.items()]
    return 0 if all(held) else 1


def measure(size: int) -> dict[str, Any] | None:
    """Run the steps in ComfyUI's Python and return the figures by model and way."""
    comfyui = find_comfyui()
    if comfyui is None:
        print("There is no ComfyUI here: set COMFYUI_PATH.")
        return None
    # Freed memory goes back to the system at once, so that each peak is its own.
    environment = os.environ | {"TRAINING_SIZE": str(size), "MALLOC_MMAP_THRESHOLD_": "65536"}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "custom_nodes").mkdir()
        for kind in ("wan21_t2v", "flux"):
            make_demo_model(kind, Path(folder, "models"))
        command = [str(comfyui.python), str(RUNNER), str(comfyui.path), "training_memory", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return dict(json.loads(line.removeprefix("RESULT ")))
    print(done.stderr[-4000:])
    return None


def report(kind: str, ways: dict[str, dict[str, float]]) -> bool:
    """Print one model's figures and claims; whether all hold."""
    for way, facts in ways.items():
        print(
            f"      {kind}, {way}: kept {facts['kept_bytes'] / MB:.1f} MB, "
            f"peak {facts['peak_bytes'] / MB:.0f} MB, {facts['seconds']:.2f} s, "
            f"gradients differ by {facts['error']:.1e}"
        )
    plain, ours = ways["without"], ways["ours"]
    return all(
        [
            claim(f"{kind}: kept, of without", ours["kept_bytes"] / plain["kept_bytes"], KEPT_LIMIT, "x"),
            claim(f"{kind}: peak, of without", ours["peak_bytes"] / plain["peak_bytes"], PEAK_LIMIT, "x"),
            claim(f"{kind}: time, of without", ours["seconds"] / plain["seconds"], TIME_LIMIT, "x"),
            claim(f"{kind}: gradients, relative L2", ours["error"], ERROR_LIMIT, ""),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
