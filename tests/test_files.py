"""A file's identity and hash, and temporary files that nobody owns any more."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from managed_models.manager.errors import Cancelled, ModelNotFound
from managed_models.manager.files import (
    STALE_AFTER_SECONDS,
    FileIdentity,
    file_sha256,
    find_stale_temporaries,
)
from managed_models.manager.formats.temporary import temporary_path, unfinished_paths
from managed_models.manager.formats.writer import SafetensorsWriter, TensorSpec

# Identity


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")
    return path


def test_an_identity_is_what_the_disk_says(path: Path) -> None:
    status = path.stat()
    assert FileIdentity.of(path) == FileIdentity(path, 7, status.st_mtime_ns)
    assert FileIdentity.of(path) == FileIdentity.of(path)
    assert len({FileIdentity.of(path), FileIdentity.of(path)}) == 1


def test_a_change_of_size_time_or_path_makes_another_file(path: Path) -> None:
    first = FileIdentity.of(path)
    keys = {first.key}
    os.utime(path, ns=(0, first.mtime_ns + 1000))
    keys.add(FileIdentity.of(path).key)
    path.write_bytes(b"more weights")
    os.utime(path, ns=(0, first.mtime_ns))
    keys.add(FileIdentity.of(path).key)
    keys.add(FileIdentity.of(path.rename(path.with_name("other"))).key)
    assert len(keys) == 4
    assert all("\n" not in key for key in keys)


@pytest.mark.parametrize("name", ["gone", "gone/deeper", "model.safetensors/inside", "a\0b", "x" * 300])
def test_a_file_that_is_not_there(path: Path, name: str) -> None:
    with pytest.raises(ModelNotFound, match="There is no file at") as caught:
        FileIdentity.of(path.parent / name)
    assert name in caught.value.message


# Hash


def test_a_hash_is_that_of_everybody_else(path: Path) -> None:
    assert file_sha256(path) == hashlib.sha256(b"weights").hexdigest()
    path.write_bytes(b"")
    assert file_sha256(path) == hashlib.sha256(b"").hexdigest()


class Looking:
    """Notes progress, and stops after some steps."""

    def __init__(self, patience: int = 1000) -> None:
        self.steps: list[tuple[int, int]] = []
        self.patience = patience

    def throw_if_cancelled(self) -> None:
        if len(self.steps) >= self.patience:
            raise Cancelled("stopped")

    def progress(self, done: int, total: int) -> None:
        self.steps.append((done, total))


def test_whoever_looks_on_sees_how_far_a_hash_is(path: Path) -> None:
    size = (20 << 20) + 1
    os.truncate(path, size)
    looking = Looking()
    assert file_sha256(path, looking) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [done for done, _ in looking.steps] == sorted(done for done, _ in looking.steps)
    assert len(looking.steps) > 1
    assert looking.steps[-1] == (size, size)


def test_a_hash_may_be_stopped(path: Path) -> None:
    os.truncate(path, 20 << 20)
    looking = Looking(patience=1)
    with pytest.raises(Cancelled):
        file_sha256(path, looking)
    assert len(looking.steps) == 1


# Temporary files


@pytest.fixture(scope="module")
def ended() -> int:
    """The id of a process that is over."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def left_by(owner: int, path: Path, age: float = 2 * STALE_AFTER_SECONDS) -> Path:
    """Leave a temporary file as this process would have."""
    path.parent.mkdir(parents=True, exist_ok=True)
    left = path.with_name(f"{path.name}.{owner}-0123abcd.mmpart")
    left.write_bytes(b"half")
    then = time.time() - age
    os.utime(left, (then, then))
    return left


def test_what_a_dead_process_left_is_stale_wherever_it_lies(tmp_path: Path, ended: int) -> None:
    left = {
        left_by(ended, tmp_path / "vae" / "a.safetensors"),
        left_by(ended, tmp_path / "loras" / "b.safetensors"),
        left_by(ended, tmp_path / "loras" / "sub" / "c.safetensors"),
    }
    found = find_stale_temporaries([tmp_path / "vae", tmp_path / "loras", tmp_path / "gone"])
    assert len(found) == 3
    assert set(found) == left
    assert all(path.exists() for path in left)  # only named, not removed


def test_a_file_whose_process_lives_is_left_alone(tmp_path: Path) -> None:
    with SafetensorsWriter(tmp_path / "m.safetensors", [TensorSpec("a", "U8", (4,))], {}) as writer:
        os.utime(writer.temporary, (0, 0))
        assert find_stale_temporaries([tmp_path]) == []
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    left_by(sleeper.pid, tmp_path / "other.safetensors")
    assert find_stale_temporaries([tmp_path]) == []
    sleeper.communicate(b"\n")
    assert len(find_stale_temporaries([tmp_path])) == 1


def test_a_file_is_stale_only_after_a_while(tmp_path: Path, ended: int) -> None:
    left = left_by(ended, tmp_path / "m.safetensors", age=0)
    written = left.stat().st_mtime
    assert find_stale_temporaries([tmp_path]) == []
    assert find_stale_temporaries([tmp_path], written + STALE_AFTER_SECONDS) == []
    assert find_stale_temporaries([tmp_path], written + STALE_AFTER_SECONDS + 1) == [left]


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "somebody.mmpart",
        "model.safetensors.mmpart",
        "model.safetensors.PID-0123abcd.mmpart",
        "model.safetensors.PID-0123abcd.part",
        "model.safetensors.PID-0123abcd.mmpart.safetensors",
    ],
)
def test_files_of_others_are_left_alone(tmp_path: Path, ended: int, name: str) -> None:
    if name != "model.safetensors.PID-0123abcd.mmpart":
        name = name.replace("PID", str(ended))
    path = tmp_path / name
    path.write_bytes(b"")
    os.utime(path, (0, 0))
    assert find_stale_temporaries([tmp_path]) == []


@pytest.mark.skipif(os.name != "posix", reason="links need a right there")
def test_what_vanished_meanwhile_is_left_out(tmp_path: Path, ended: int) -> None:
    (tmp_path / f"m.safetensors.{ended}-0123abcd.mmpart").symlink_to(tmp_path / "gone")
    assert find_stale_temporaries([tmp_path]) == []


def test_our_own_names_are_recognised(tmp_path: Path) -> None:
    path = temporary_path(tmp_path / "m.safetensors")
    path.write_bytes(b"")
    os.utime(path, (0, 0))
    assert find_stale_temporaries([tmp_path]) == []  # we live


def test_without_folders_there_is_nothing() -> None:
    assert find_stale_temporaries([]) == []


@pytest.mark.parametrize(("days", "stale"), [(0, False), (13, False), (15, True)])
def test_an_unfinished_output_waits_two_weeks_for_the_next_run(
    tmp_path: Path, days: int, stale: bool
) -> None:
    paths = unfinished_paths(tmp_path / "m.safetensors")
    for path in paths:
        path.write_bytes(b"x")
    other = tmp_path / "mine.mmjournal"
    other.write_bytes(b"x")
    found = find_stale_temporaries([tmp_path], time.time() + days * 24 * 3600)
    assert sorted(found) == (sorted(paths) if stale else [])
