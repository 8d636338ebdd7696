"""Downloading against curl and aria2c, and what a kill costs.

.venv/bin/python benchmarks/download.py [--mb 1000] [--kill-mb 2000] [--folder FOLDER]

The server is a process of its own on this machine (range_process.py). Ours hashes (SHA-256), flushes to
the disk and checks the header; curl and aria2c do none of that.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common import ROOT, load_checkout
from range_process import MB, Running, serving

load_checkout()

from managed_models.manager.download.model import DownloadRequest  # noqa: E402
from managed_models.manager.download.partial import Partial  # noqa: E402
from managed_models.manager.download.transfer import Transfer  # noqa: E402
from managed_models.manager.remote.reach import Reach  # noqa: E402

CHILD = ROOT / "tests" / "support" / "download_child.py"
SYNC_BYTES = 16 * MB  # what the product uses
REPEATS = 3
CONNECTIONS = 8


def write_model(path: Path, size: int) -> None:
    """Write a safetensors file of about ``size`` random bytes, one MB of them again and again."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    block = os.urandom(MB)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for position in range(0, size, MB):
            file.write(block[: min(MB, size - position)])


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def by_ours(server: Running, folder: Path, connections: int) -> float:
    request = DownloadRequest(
        server.url, folder / "ours.safetensors", connections=connections, allow_local=True
    )
    took = seconds(lambda: Transfer(request, Reach(allow_local=True), environ={}).run())
    request.target.unlink()
    return took


def by_curl(server: Running, folder: Path) -> float:
    path = folder / "curl"
    took = seconds(lambda: subprocess.run(["curl", "-sf", "-o", str(path), server.url], check=True))
    path.unlink()
    return took


def by_aria2(server: Running, folder: Path) -> float:
    count = str(CONNECTIONS)
    command = ["aria2c", "-q", "--file-allocation=none", "-x", count, "-s", count, "-k", "1M"]
    took = seconds(
        lambda: subprocess.run([*command, "-d", str(folder), "-o", "aria2", server.url], check=True)
    )
    (folder / "aria2").unlink()
    return took


def ratio(name: str, peer: Callable[[], float], ours: Callable[[], float], least: float, size: int) -> bool:
    """Print both medians in MB/s, taken in turns, and whether the ratio is large enough."""
    pairs = [(peer(), ours()) for _ in range(REPEATS)]
    theirs, mine = (statistics.median(times) for times in zip(*pairs, strict=True))
    found = theirs / mine
    good = found >= least
    print(
        f"{'ok  ' if good else 'MISS'}  {name}: {size / theirs / MB:.0f} MB/s, ours "
        f"{size / mine / MB:.0f} MB/s: "
        f"{found:.3f}x (at least {least})"
    )
    return good


def capped(folder: Path, model: Path) -> list[bool]:
    size = model.stat().st_size
    with serving(model, total=200) as server:
        return [
            ratio(
                "server capped at 200 MB/s: curl",
                lambda: by_curl(server, folder), lambda: by_ours(server, folder, 1), 0.95, size,
            ),
            ratio(
                "the same, connections chosen by itself: curl",
                lambda: by_curl(server, folder), lambda: by_ours(server, folder, 0), 0.95, size,
            ),
        ]  # fmt: skip


def slow_connections(folder: Path, model: Path) -> list[bool]:
    if shutil.which("aria2c") is None:
        print("aria2c is not installed: not measured (apt-get install aria2)")
        return []
    size = model.stat().st_size
    with serving(model, each=20) as server:
        good = ratio(
            f"20 MB/s each, {CONNECTIONS} connections: aria2c",
            lambda: by_aria2(server, folder), lambda: by_ours(server, folder, CONNECTIONS), 0.9, size,
        )  # fmt: skip
        alone = by_ours(server, folder, 0)
        print(f"      the same, connections chosen by itself: {size / alone / MB:.0f} MB/s")
        return [good]


def uncapped(folder: Path, model: Path) -> None:
    size = model.stat().st_size
    with serving(model) as server:
        theirs, mine = by_curl(server, folder), by_ours(server, folder, 1)
    print(f"      no cap: curl {size / theirs / MB:.0f} MB/s, ours {size / mine / MB:.0f} MB/s")


def kill_at_90(folder: Path, size: int) -> bool:
    """Kill a real process at 90 % of a large file, and count what is sent again."""
    model, target = folder / "large.safetensors", folder / "killed.safetensors"
    write_model(model, size)
    size = model.stat().st_size
    path = Partial(target).path
    with serving(model, total=200) as server:
        command = [sys.executable, str(CHILD), server.url, str(target), "1", str(SYNC_BYTES)]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while child.poll() is None and not (path.exists() and path.stat().st_size >= size * 0.9):
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        child.wait()
        arrived = path.stat().st_size
        before = server.sent()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        again = server.sent() - before - (size - arrived)
    same = subprocess.run(["cmp", str(model), str(target)], check=False).returncode == 0
    good = again <= 32 * MB and same
    print(
        f"{'ok  ' if good else 'MISS'}  a kill at {arrived / size:.0%} of {size / MB:.0f} MB: "
        f"{again / MB:.1f} MB came again (at most 32), the file is {'the same' if same else 'ANOTHER'}"
    )
    return good


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mb", type=int, default=1000)
    parser.add_argument("--kill-mb", type=int, default=2000)
    parser.add_argument("--folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        model = folder / "model.safetensors"
        write_model(model, options.mb * MB)
        good = [*capped(folder, model), *slow_connections(folder, model)]
        uncapped(folder, model)
        good.append(kill_at_90(folder, options.kill_mb * MB))
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
