"""Downloads that are killed at random moments until each is whole: is anything lost or wrong?

.venv/bin/python benchmarks/kills.py [--count 200] [--mb 48] [--seed 1]
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import load_checkout
from range_process import MB, Running, serving

load_checkout()

from download import CHILD, write_model  # noqa: E402
from managed_models.manager.download.partial import Partial  # noqa: E402
from managed_models.manager.download.plan import count  # noqa: E402

SYNC_BYTES = MB


class Wrong(Exception):
    """Something corrupt was published, or something good was lost."""


def check(target: Path, data: bytes) -> int:
    """Return how many bytes are kept, having looked at every one of them.

    Raises:
        Wrong: the journal names a byte that is not there, or the final name has another file.
    """
    if target.exists():
        if target.read_bytes() != data:
            raise Wrong(f"{target} is not the file")
        return len(data)
    partial = Partial(target)
    journal = partial.load()
    if journal is None:
        return 0
    with open(partial.path, "rb") as file:
        for first, end in journal.done:
            file.seek(first)
            if file.read(end - first) != data[first:end]:
                raise Wrong(f"the journal of {target} has {first}-{end}, and the file has not")
    return count(journal.done)


def run(server: Running, target: Path, connections: int, kill_after: float) -> bool:
    """Start one process; return whether it was killed."""
    command = [sys.executable, str(CHILD), server.url, str(target), str(connections), str(SYNC_BYTES)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    partial = Partial(target)
    lock = target.with_name(target.name + ".mmdownload.lock")
    while child.poll() is None and not lock.exists():  # Python is still starting
        time.sleep(0.002)
    try:
        _, errors = child.communicate(timeout=kill_after)
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGKILL)
        child.communicate()
        return True
    if child.returncode != 0 and not (target.exists() and "TargetExists" in errors):
        raise Wrong(f"it failed by itself: {errors[-500:]}")
    if partial.path.exists():
        raise Wrong("a download that is done left its bytes behind")
    return False


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--mb", type=int, default=48)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    kills = whole = backwards = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "model.safetensors"
        write_model(model, options.mb * MB)
        data = model.read_bytes()
        with serving(model, total=40) as server:
            while kills < options.count:
                target, connections, kept = folder / f"{whole}.safetensors", chance.choice([1, 1, 4]), 0
                while True:
                    was_killed = run(server, target, connections, chance.random() * 1.2)
                    kills += was_killed
                    found = check(target, data)
                    backwards += found < kept
                    kept = found
                    if found == len(data) and target.exists():
                        break
                whole += 1
                target.unlink()
            sent = server.sent()
    again = sent / MB - whole * len(data) / MB
    good = backwards == 0
    print(
        f"{'ok  ' if good else 'MISS'}  {kills} kills, {whole} downloads whole in the end and the same byte "
        f"for byte, {backwards} times less was kept than before; {again / max(1, kills):.1f} MB came again "
        "for each kill"
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
