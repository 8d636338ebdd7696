"""Noticing that a remembered file was replaced."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from managed_models.manager.replaced import ReplacedFiles


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")
    return path


@pytest.fixture
def files(path: Path) -> ReplacedFiles:
    files = ReplacedFiles()
    files.remember(path)
    return files


def touch(path: Path, nanoseconds: int) -> None:
    os.utime(path, ns=(nanoseconds, nanoseconds))


def test_without_a_file_the_number_stays() -> None:
    files = ReplacedFiles()
    assert files.generation() == files.generation()


def test_without_a_change_the_number_stays(files: ReplacedFiles) -> None:
    assert len({files.generation() for _ in range(3)}) == 1


def test_remembering_changes_no_number(tmp_path: Path, path: Path, files: ReplacedFiles) -> None:
    before = files.generation()
    files.remember(path)
    (tmp_path / "other").write_bytes(b"x")
    files.remember(tmp_path / "other")
    assert files.generation() == before


def test_every_change_makes_the_number_grow_once(path: Path, files: ReplacedFiles) -> None:
    numbers = [files.generation()]
    path.write_bytes(b"other weights")
    numbers += [files.generation(), files.generation()]
    touch(path, 1)
    numbers += [files.generation(), files.generation()]
    path.unlink()
    numbers += [files.generation(), files.generation()]
    path.write_bytes(b"back again")
    numbers += [files.generation(), files.generation()]
    assert [n - numbers[0] for n in numbers] == [0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_a_file_put_back_as_it_was_still_counts_as_seen_changed(path: Path, files: ReplacedFiles) -> None:
    before = path.stat().st_mtime_ns
    first = files.generation()
    touch(path, 1)
    second = files.generation()
    touch(path, before)
    third = files.generation()
    assert first < second < third


def test_a_file_that_is_not_there_yet_may_come(tmp_path: Path) -> None:
    files = ReplacedFiles()
    files.remember(tmp_path / "later")
    before = files.generation()
    assert files.generation() == before
    (tmp_path / "later").write_bytes(b"")
    assert files.generation() == before + 1


def test_other_files_do_not_matter(tmp_path: Path, files: ReplacedFiles) -> None:
    before = files.generation()
    (tmp_path / "other").write_bytes(b"x")
    assert files.generation() == before


def test_remembering_again_takes_the_file_as_it_is_now(path: Path, files: ReplacedFiles) -> None:
    before = files.generation()
    touch(path, 1)
    files.remember(path)
    assert files.generation() == before


def test_many_threads_count_every_change_once(tmp_path: Path) -> None:
    files = ReplacedFiles()
    paths = [tmp_path / str(i) for i in range(8)]
    before = files.generation()
    barrier = threading.Barrier(len(paths))

    def work(path: Path) -> None:
        path.write_bytes(b"")
        files.remember(path)
        barrier.wait()
        for n in range(1, 11):
            touch(path, n * 10**9)
            files.generation()

    with ThreadPoolExecutor(len(paths)) as pool:
        list(pool.map(work, paths))
    # A change may be seen by any thread, yet never twice, and the last of each file is always seen.
    assert len(paths) <= files.generation() - before <= 10 * len(paths)
    assert files.generation() == files.generation()
