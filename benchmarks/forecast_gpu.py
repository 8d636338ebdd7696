"""What one sampling step and one VAE decode take, against what a check forecasts for them.

    COMFYUI_PATH=... .venv/bin/python benchmarks/forecast_gpu.py

Runs in ComfyUI's own Python, on whatever accelerator its PyTorch has: Stable Diffusion 1.5, Flux and Wan
14B at their real widths with random weights, the latter two with as many blocks as fit (of each, 40 % of
free VRAM, RAM and disk at most), and their VAEs whole. Predicted: the working memory that a check shows,
with guidance. Measured: the most that PyTorch held above the weights, whole on the card beforehand. ComfyUI
is started without its dynamic VRAM, which keeps weights where PyTorch's count does not see them.

Without an accelerator the same way is gone once at the smallest sizes, to see that it works; what the
process grew by is printed and claims nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import ROOT, claim

sys.path.append(str(ROOT / "scripts"))

from comfyui_server import find_comfyui

MB = 1024**2
LIMIT = 15.0  # %
# The tests' runner starts ComfyUI on a CPU. Arguments are parsed once: here, before it says so.
START = r"""
import json, sys
comfyui, inside, base, *flags = sys.argv[1:]
sys.path[:0] = [comfyui, inside]
sys.argv = ["main.py", *flags, "--base-directory", base]
import comfy.options
comfy.options.enable_args_parsing()
import comfy.cli_args
import runner
runner.start_comfyui(comfyui, base)
runner.load_package("managed_models", runner.ROOT)
runner.load_package("support", runner.ROOT / "tests" / "support")
runner.load_package("inside", runner.HERE)
from inside.forecast_peaks import main
print("RESULT " + json.dumps(main(base)))
"""


def main() -> int:
    """Print the table and return 1 if a claim does not hold."""
    comfyui = find_comfyui()
    if comfyui is None:
        print("There is no ComfyUI here: set COMFYUI_PATH.")
        return 1
    flags = [] if comfyui.has_gpu() else ["--cpu"]
    # Freed memory goes back to the system at once, so that each peak of a process is its own.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "custom_nodes").mkdir()
        inside = ROOT / "tests" / "comfyui" / "inside"
        command = [str(comfyui.python), "-c", START, str(comfyui.path), str(inside), folder, *flags]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return report(json.loads(line.removeprefix("RESULT ")), comfyui.version)
    print(done.stderr[-4000:])
    return 1


def report(found: dict[str, Any], version: str) -> int:
    """Print what was found, and what it claims."""
    print(f"On {found['device']}, PyTorch {found['torch']}, ComfyUI {version}")
    if found["smoke"]:
        print("No GPU was found. CPU smoke run, no claim: measured is the growth of the process.")
    width = max(len(row["model"]) for row in found["rows"])
    print(f"{'model':{width}}  {'phase':10}  {'size':>12}  {'predicted':>10}  {'measured':>10}  ratio")
    for row in found["rows"]:
        measured = row["measured"]
        ratio = row["predicted"] / measured if measured else float("nan")
        print(
            f"{row['model']:{width}}  {row['phase']:10}  {row['size']:>12}  {_mb(row['predicted'])}  "
            f"{_mb(measured)}  {ratio:5.2f}  {row['note']}"
        )
    if found["smoke"]:
        return 0
    comparable = [row for row in found["rows"] if row["measured"] and not row["note"]]
    if not comparable:
        print("Nothing fitted that could be compared.")
    held = [
        claim(
            f"{row['model']}, {row['phase']} {row['size']}: forecast is off by",
            abs(row["predicted"] / row["measured"] - 1) * 100,
            LIMIT,
            "%",
        )
        for row in comparable
    ]
    return 0 if all(held) else 1


def _mb(count: int | None) -> str:
    return f"{'-':>10}" if count is None else f"{count / MB:7.0f} MB"


if __name__ == "__main__":
    sys.exit(main())
