"""How long the verdict on a 28 GB, 14B Wan-layout file takes: in a running process, and as a command.

.venv/bin/python benchmarks/check.py
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, claim, load_checkout
from header import wan_14b

load_checkout()

from managed_models.manager import AdvancedModelManager  # noqa: E402

sys.path.append(str(ROOT / "scripts"))
from comfyui_server import find_comfyui  # noqa: E402

REPEATS = 7
# Runs in ComfyUI's Python: its own detection, casts and kernels.
INSIDE = r"""
import logging, sys
path, benchmarks, file = sys.argv[1:4]
sys.path[:0] = [path, benchmarks]
sys.argv = ["main.py", "--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
logging.disable(logging.CRITICAL)
import asyncio, server, nodes
server.PromptServer(asyncio.new_event_loop())
from check import first_time
from managed_models.manager import AdvancedModelManager
from managed_models.manager.comfy_host import ComfyHost
print("RESULT", first_time(AdvancedModelManager(host=ComfyHost()), file))
"""
# The command line on this checkout; says at the end whether torch came with it.
COMMAND = r"""
import sys
sys.path.insert(0, sys.argv.pop(1))
from common import load_checkout
load_checkout()
from managed_models.manager.cli import main
try:
    main()
finally:
    print("TORCH" if "torch" in sys.modules else "no torch", file=sys.stderr)
"""


def first_time(manager: AdvancedModelManager, path: str) -> float:
    """Return the median seconds of a verdict on a file that nobody has seen before.

    Its time of change is new each time, so neither its identity nor its footprint is known yet.
    """
    times = []
    for number in range(REPEATS + 1):
        os.utime(path, ns=(number, number))
        start = time.perf_counter()
        report = manager.check(path)
        times.append(time.perf_counter() - start)
    assert report.advice["forecast"]["model"], report.advice
    return statistics.median(times[1:])


def inside_comfyui(path: Path) -> float | None:
    """Return the same inside ComfyUI, None without one."""
    comfyui = find_comfyui()
    if comfyui is None:
        return None
    command = [str(comfyui.python), "-c", INSIDE, str(comfyui.path), str(ROOT / "benchmarks"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(next(x for x in done.stdout.splitlines() if x.startswith("RESULT")).split()[1])


def as_a_command(path: Path) -> tuple[float, bool]:
    """Return the median seconds of ``check FILE --json`` as a process, and whether torch was imported."""
    command = [sys.executable, "-c", COMMAND, str(ROOT / "benchmarks"), "check", str(path), "--json"]
    registry = {**os.environ, "MANAGED_MODELS_DB": str(path.with_name("registry.sqlite"))}
    times, torch = [], False
    for _ in range(REPEATS):
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=registry)
        times.append(time.perf_counter() - start)
        assert done.returncode in (0, 1), done.stderr
        assert '"forecast"' in done.stdout, done.stderr
        torch = torch or done.stderr.rstrip().endswith("TORCH")
    return statistics.median(times), torch


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "wan_14b.safetensors"
        tensors = wan_14b(path)
        print(f"{tensors} tensors, {path.stat().st_size / 1024**3:.1f} GB (sparse)")
        outside = first_time(AdvancedModelManager(), str(path))
        good = [claim("verdict on a new file, outside ComfyUI", outside * 1e3, 150.0, "ms")]
        inside = inside_comfyui(path)
        if inside is None:
            print("verdict inside ComfyUI: not measured, no ComfyUI was found")
        else:
            good.append(claim("verdict on a new file, inside ComfyUI", inside * 1e3, 150.0, "ms"))
        seconds, torch = as_a_command(path)
        good.append(claim("check FILE --json, whole process", seconds, 1.0, "s"))
        good.append(claim("imports of torch by the command", float(torch), 0.0, "times"))
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
