"""Real processes, really killed while they download, until the file is whole."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from managed_models.manager.download.partial import Partial
from managed_models.manager.download.plan import count
from support.downloads import Served, slowly

CHILD = Path(__file__).resolve().parents[1] / "support" / "download_child.py"
SYNC_BYTES = 16 * 1024


def start(served: Served, target: Path, connections: int) -> subprocess.Popen[str]:
    command = [sys.executable, str(CHILD), served.url, str(target), str(connections), str(SYNC_BYTES)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(child: subprocess.Popen[str], partial: Partial, wanted: int) -> None:
    """Wait until so many bytes are in the file, or the child has ended."""
    deadline = time.monotonic() + 60
    while child.poll() is None and time.monotonic() < deadline:
        if partial.path.exists() and os.stat(partial.path).st_blocks * 512 >= wanted:
            return
        time.sleep(0.002)


@pytest.mark.parametrize(("connections", "times"), [(1, 2), (3, 3)])
def test_killed_at_any_moment_and_whole_in_the_end(
    served: Served, tmp_path: Path, connections: int, times: int
) -> None:
    chance = random.Random(connections)
    target = tmp_path / "got.safetensors"
    partial = Partial(target)
    served.misbehave(slowly(served))
    marks = sorted(chance.randrange(len(served.data)) for _ in range(times))
    kills = 0
    for mark in marks:
        child = start(served, target, connections)
        wait_for(child, partial, mark)
        child.send_signal(signal.SIGKILL)
        kills += child.wait() == -signal.SIGKILL
        child.communicate()
        assert not target.exists() or target.read_bytes() == served.data
        journal = partial.load()
        if journal is not None:
            with open(partial.path, "rb") as file:
                for first, end in journal.done:
                    file.seek(first)
                    assert file.read(end - first) == served.data[first:end], "the journal has it"
    assert kills >= 1
    served.behave()
    kept = 0 if target.exists() or (found := partial.load()) is None else count(found.done)
    served.server.sent = 0
    last = start(served, target, connections)
    output, errors = last.communicate(timeout=60)
    if last.returncode != 0:
        assert "TargetExists" in errors, errors  # it was whole when it was killed
    else:
        assert output.strip() == served.sha256
        assert served.server.sent <= len(served.data) - kept + 300_000 * (connections - 1)
    assert target.read_bytes() == served.data
    assert set(os.listdir(tmp_path)) <= {target.name, "got.safetensors.mmdownload.lock"}


def test_two_processes_on_one_address_make_one_file(served: Served, tmp_path: Path) -> None:
    target = tmp_path / "got.safetensors"
    served.misbehave(slowly(served))
    children = [start(served, target, 1) for _ in range(2)]
    results = [child.communicate(timeout=60) for child in children]
    assert target.read_bytes() == served.data
    codes = sorted(child.returncode for child in children)
    assert codes == [0, 1], results
    told = next(errors for child, (_, errors) in zip(children, results, strict=True) if child.returncode)
    assert "AlreadyDownloading" in told or "TargetExists" in told, told
