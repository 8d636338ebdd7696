"""A 14B model from end to end: made, quantized, checked, loaded, sampled, switched, unloaded.

    .venv/bin/python benchmarks/quantize_14b.py [--size-gb 0] [--max-memory-gb 2] [--folder FOLDER]

Writes random bf16 weights in the layout of Wan 2.2 14B (28 GB; --size-gb makes a smaller one), quantizes
them to fp8, and loads the result in a real ComfyUI on the CPU through LoadManagedModel as it is stored.
Takes 1.6 times the size on the disk and half of it in RAM. Needs a ComfyUI; Linux only (/proc).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from comfyui_run import Run, comfyui, managed_loader, sample_one_step
from common import claim
from managed_models.manager.cli.server import ask
from managed_models.manager.integrity import verify_file
from managed_models.manager.quantize.names import derived_name
from wan_files import wan_layout, write_large_model

GB = 1024**3
FORMAT = "fp8_e4m3fn_scaled"
SOURCE, OTHER = "wan22_14b_bf16.safetensors", "other_bf16.safetensors"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size-gb", type=float, default=0.0, help="of the bf16 file; 0 for all 40 blocks")
    parser.add_argument("--max-memory-gb", type=float, default=2.0)
    parser.add_argument("--folder", type=Path, help="where to write; the system's folder for such by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        models = Path(folder) / "diffusion_models"
        models.mkdir()
        layout = wan_layout(options.size_gb)
        needed = 1.6 * (options.size_gb or 27.0) * GB
        free = shutil.disk_usage(folder).free
        if free < needed:
            print(f"{needed / GB:.0f} GB of disk are needed, and {free / GB:.0f} are free.")
            return 1
        start = time.perf_counter()
        source = models / SOURCE
        write_large_model(source, layout)
        write_large_model(models / OTHER, wan_layout(0.7), seed=1)
        said(f"made {SOURCE}, {source.stat().st_size / GB:.1f} GB", time.perf_counter() - start)
        target = models / derived_name(SOURCE, FORMAT)
        good = quantize(source, target, options.max_memory_gb)
        source.unlink()  # ComfyUI needs the room in the cache
        good += in_comfyui(Path(folder), target.name)
    return 0 if all(good) else 1


def quantize(source: Path, target: Path, memory_gb: float) -> list[bool]:
    """Quantize in a process of its own, and check what came of it."""
    script = Path(__file__).with_name("quantize_run.py")
    command = [sys.executable, str(script), "service", FORMAT, str(source), str(target), str(memory_gb)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    details = found["details"]
    size = source.stat().st_size
    said(
        f"quantized to {target.stat().st_size / GB:.1f} GB, {size / GB / found['total']:.2f} GB/s with the "
        f"source's hash, flush and reading back; {details['changed_layers']} of {details['linear_layers']} "
        f"layers, mean error {details['mean_error']:.2%}",
        found["total"],
    )
    start = time.perf_counter()
    checked = verify_file(target)
    said(f"verified: {', '.join(checked['checked'])}", time.perf_counter() - start)
    return [
        claim("growth of anonymous + shared memory", found["growth"] / GB, memory_gb, "GB"),
        claim("files that are not whole", not checked["ok"], 0, "files"),
    ]


def in_comfyui(models: Path, name: str) -> list[bool]:
    """Load, sample, switch to another model and back, and unload."""
    size = (models / "diffusion_models" / name).stat().st_size
    loader = managed_loader(name, weight_dtype="as_stored", keep_alive="forever")
    other = managed_loader(OTHER, weight_dtype="as_stored")
    with comfyui(models, []) as run, peak_memory(run) as peak:
        before = anonymous(run.server.pid)
        for what, prompt in (
            (f"loaded {name} as stored and sampled one step", sample_one_step(loader, seed=1)),
            ("sampled another step, loaded already", sample_one_step(loader, seed=2)),
            (f"switched to {OTHER}", sample_one_step(other, seed=1, width=4096)),
            ("switched back", sample_one_step(loader, seed=3)),
        ):
            start = time.perf_counter()
            run.outputs(prompt)
            seconds = time.perf_counter() - start
            said(
                f"{what}; {anonymous(run.server.pid) / GB:.2f} GB anonymous, {run.rss() / GB:.2f} RSS",
                seconds,
            )
        reads = run.reads()[name]
        loaded, rss = anonymous(run.server.pid), run.rss()
        start = time.perf_counter()
        wanted = {"all": True, "vram_only": False}
        with peak_memory(run) as unloading:
            answer = ask(run.server.url, "/managed-models/unload", wanted, expected=("report", str))
            left, rss_left = when_settled(run.server.pid), run.rss()
        said(
            f"unloaded ({answer['report'].splitlines()[0]}): {(loaded - left) / GB:.2f} GB of "
            f"anonymous memory and {(rss - rss_left) / GB:.2f} GB of RSS came back; "
            f"{(left - before) / GB:.2f} GB more than before the first load is left",
            time.perf_counter() - start,
        )
        print(f"peak: {peak() / GB:.2f} GB anonymous + shared; the file has {size / GB:.2f} GB")
        return [
            claim("times that the large file was read", reads, 1, "times"),
            claim("growth during the unload / size of the file", (unloading() - loaded) / size, 0.1, "x"),
            claim("left after the unload / size of the file", max(0, left - before) / size, 0.1, "x"),
        ]


def anonymous(process: int) -> int:
    """Return the bytes of anonymous and shared memory of a process."""
    total = 0
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in ("RssAnon", "RssShmem"):
            total += int(rest.split()[0]) * 1024
    return total


def when_settled(process: int) -> int:
    """Return the anonymous and shared memory once it has stayed the same for three seconds."""
    held, since = anonymous(process), time.monotonic()
    while time.monotonic() - since < 3:
        time.sleep(0.1)
        now = anonymous(process)
        if abs(now - held) > 50 << 20:
            held, since = now, time.monotonic()
    return held


@contextmanager
def peak_memory(run: Run) -> Iterator[Any]:
    """Give a function that says how much anonymous memory ComfyUI held at most."""
    highest = anonymous(run.server.pid)
    running = True

    def sample() -> None:
        nonlocal highest
        while running:
            highest = max(highest, anonymous(run.server.pid))
            time.sleep(0.02)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield lambda: highest
    finally:
        running = False
        thread.join()


def said(what: str, seconds: float) -> None:
    print(f"{seconds:7.1f} s  {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
