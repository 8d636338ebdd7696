"""Quantizing a bf16 file in the layout of Wan 14B: speed and memory, against peers and floors.

    .venv/bin/python benchmarks/quantize.py [--size-gb 3] [--repeats 3] [--convert-to-quant FOLDER]

Everything runs in ComfyUI's Python, one process each, in turns, with the source in the system's cache.
"Engine alone" is reading, computing, writing, checksums and the flush to the disk; reading back and the
source's hash are timed beside it, and ``kitchen`` (load_file, comfy-kitchen, save_file) does neither; it
leaves its file in the system's cache, so the time with a flush stands beside it. For the last row:

    pip install --no-deps --target FOLDER convert_to_quant==1.3.4 prodigy-plus-schedule-free
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import ROOT, claim
from wan_files import wan_layout, write_large_model

sys.path.append(str(ROOT / "scripts"))
from comfyui_server import find_comfyui

GB = 1024**3
FORMATS = ("fp8_e4m3fn_scaled", "int8")
HOWS = ("engine", "copy", "kitchen")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size-gb", type=float, default=3.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--convert-to-quant", type=Path, help="where convert_to_quant 1.3.4 is installed")
    parser.add_argument("--folder", type=Path, help="where to write; the system's folder for such by default")
    options = parser.parse_args()
    comfyui = find_comfyui()
    if comfyui is None:
        print("No ComfyUI was found; nothing was measured.")
        return 1
    good = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        source = Path(folder) / "wan_bf16.safetensors"
        write_large_model(source, wan_layout(options.size_gb))
        size = source.stat().st_size
        print(f"{size / GB:.2f} GB bf16, widths of Wan 14B; {options.repeats} rounds, medians")
        hashing = median([run(comfyui.python, "hash", "-", source) for _ in range(options.repeats)], "total")
        print(f"source hash alone: {hashing:.2f} s, {size / GB / hashing:.2f} GB/s")
        speeds = {}
        for format in FORMATS:
            speeds[format] = measure(comfyui.python, format, source, options.repeats, good)
        if options.convert_to_quant:
            good.append(against_convert_to_quant(comfyui.python, options.convert_to_quant, folder, speeds))
        else:
            print("SKIP  convert_to_quant: see --help")
    return 0 if all(good) else 1


def measure(python: Path, format: str, source: Path, repeats: int, good: list[bool]) -> float:
    """Print the row of a format and judge it; return bytes of the source per second, engine alone."""
    rounds: dict[str, list[dict[str, Any]]] = {how: [] for how in HOWS}
    for _ in range(repeats):
        for how in HOWS:
            rounds[how].append(run(python, how, format, source))
    size = source.stat().st_size
    engine, copy = (median(rounds[how], "engine") for how in ("engine", "copy"))
    kitchen, flushed = (median(rounds["kitchen"], name) for name in ("total", "flushed"))
    verify = median(rounds["engine"], "verify")
    growth = max(found["growth"] for found in rounds["engine"])
    print(
        f"{format}: engine {engine:.2f} s ({size / GB / engine:.2f} GB/s, "
        f"{rounds['engine'][0]['workers']} workers, of it flush {median(rounds['engine'], 'flush'):.2f} s); "
        f"reading back {verify:.2f} s; with a copy for a kernel {copy:.2f} s; comfy-kitchen script "
        f"{kitchen:.2f} s ({flushed:.2f} s until it is on the disk, {flushed / engine:.1f} x), "
        f"{max(f['growth'] for f in rounds['kitchen']) / GB:.1f} GB"
    )
    good.append(claim(f"{format}: 3.5 x engine / comfy-kitchen script", 3.5 * engine / kitchen, 1.0, "x"))
    good.append(claim(f"{format}: engine / engine with a copy for a kernel", engine / copy, 1.6, "x"))
    good.append(claim(f"{format}: growth of anonymous memory", growth / GB, 1.0, "GB"))
    return size / engine


def against_convert_to_quant(python: Path, package: Path, folder: str, speeds: dict[str, float]) -> bool:
    """Run it on a small file, since it takes minutes for a large one, and compare per byte."""
    source = Path(folder) / "small_bf16.safetensors"
    write_large_model(source, wan_layout(0.7))
    target = Path(folder) / "theirs.safetensors"
    program = "import convert_to_quant.convert_to_quant as program; program.main()"
    command = [str(python), "-c", program, "-i", str(source), "-o", str(target)]
    command += ["--comfy_quant", "--simple", "--device", "cpu"]
    start = time.perf_counter()
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(package)}, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - start
    if done.returncode or not target.exists():
        print(f"SKIP  convert_to_quant failed: {(done.stderr or done.stdout)[-300:]}")
        return False
    theirs = source.stat().st_size / seconds
    print(f"convert_to_quant --simple: {seconds:.1f} s for {source.stat().st_size / GB:.2f} GB, fp8")
    ratio = speeds["fp8_e4m3fn_scaled"] / theirs
    return claim("fp8: 50 / (our speed / convert_to_quant's)", 50 / ratio, 1.0, f"x (we are {ratio:.0f} x)")


def run(python: Path, how: str, format: str, source: Path) -> dict[str, Any]:
    """Run one process and return what it found."""
    target = source.with_name("out.safetensors")
    script = Path(__file__).with_name("quantize_run.py")
    command = [str(python), str(script), how, format, str(source), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    target.unlink(missing_ok=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def median(rounds: list[dict[str, Any]], key: str) -> float:
    return statistics.median(found[key] for found in rounds)


if __name__ == "__main__":
    sys.exit(main())
