"""A lock file: one holder at a time, and gone afterwards."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from managed_models.manager import file_lock
from managed_models.manager.file_lock import FileLock

# Loads the module alone, takes the lock, says so, and waits to be killed.
HOLD = """
import importlib.util, sys, time
from pathlib import Path
spec = importlib.util.spec_from_file_location("file_lock", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
assert module.FileLock(Path(sys.argv[2])).acquire()
print("held", flush=True)
time.sleep(600)
"""


def test_the_second_is_told(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "l"), FileLock(tmp_path / "l")
    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert second.acquire()
    second.release()
    assert list(tmp_path.iterdir()) == []


def test_releasing_twice_or_what_is_not_held_does_nothing(tmp_path: Path) -> None:
    lock, other = FileLock(tmp_path / "l"), FileLock(tmp_path / "l")
    assert lock.acquire()
    other.release()
    assert not other.acquire()
    lock.release()
    lock.release()
    assert other.acquire()
    other.release()


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "l"
    command = [sys.executable, "-c", HOLD, str(file_lock.__file__), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        assert not FileLock(path).acquire()
        child.kill()
    assert path.exists()
    lock = FileLock(path)
    assert lock.acquire()
    lock.release()
    assert not path.exists()


def test_a_file_that_was_removed_meanwhile_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first holder lets go after the second has opened the file, and before it locks it."""
    first, second = FileLock(tmp_path / "l"), FileLock(tmp_path / "l")
    assert first.acquire()
    lock = file_lock._try_lock

    def late(descriptor: int) -> bool:
        first.release()
        return lock(descriptor)

    monkeypatch.setattr(file_lock, "_try_lock", late)
    assert second.acquire()
    assert (tmp_path / "l").exists()
    monkeypatch.setattr(file_lock, "_try_lock", lock)
    assert not FileLock(tmp_path / "l").acquire()
    second.release()


def test_many_threads_never_hold_it_together(tmp_path: Path) -> None:
    """Each makes and removes the file: one that was removed meanwhile must not count as held."""
    inside = 0
    most = 0
    taken = 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, most, taken
        for _ in range(200):
            lock = FileLock(tmp_path / "l")
            if not lock.acquire():
                continue
            with guard:
                inside += 1
                taken += 1
                most = max(most, inside)
            with guard:
                inside -= 1
            lock.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert taken > 4
