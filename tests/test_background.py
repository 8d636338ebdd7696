"""The one writer thread."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from managed_models.manager.background import BackgroundWriter
from managed_models.manager.files import FileIdentity
from managed_models.manager.registry import Registry


def writer_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "managed-models-writer"}


@pytest.fixture
def writer() -> BackgroundWriter:
    return BackgroundWriter()


def test_writes_are_made_one_after_the_other_in_their_order(writer: BackgroundWriter) -> None:
    done: list[int] = []
    for i in range(100):
        writer.submit(lambda i=i: done.append(i))  # type: ignore[misc]
    writer.flush()
    assert done == list(range(100))


def test_all_writes_are_made_in_one_thread_that_ends_with_the_program(writer: BackgroundWriter) -> None:
    seen: set[threading.Thread] = set()
    for _ in range(20):
        writer.submit(lambda: seen.add(threading.current_thread()))
    writer.flush()
    (thread,) = seen
    assert thread is not threading.current_thread()
    assert thread.daemon
    assert thread in writer_threads()


def test_no_thread_starts_before_there_is_something_to_write() -> None:
    before = writer_threads()
    writer = BackgroundWriter()
    writer.flush()
    assert writer_threads() == before


def test_nobody_waits_for_a_write(writer: BackgroundWriter) -> None:
    release, done = threading.Event(), []
    writer.submit(release.wait)  # type: ignore[arg-type]
    writer.submit(lambda: done.append("second"))
    assert done == []  # we are here while the first is still being made
    release.set()
    writer.flush()
    assert done == ["second"]


def test_a_failed_write_is_logged_and_the_next_is_made(
    writer: BackgroundWriter, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[str] = []

    def fail() -> None:
        raise OSError("the disk is gone")

    with caplog.at_level(logging.ERROR, logger="managed_models.background"):
        writer.submit(fail)
        writer.submit(lambda: done.append("next"))
        writer.flush()
    assert done == ["next"]
    (record,) = caplog.records
    assert record.getMessage() == "A registry write failed"
    assert "the disk is gone" in str(record.exc_info)


def test_a_write_may_ask_for_another(writer: BackgroundWriter) -> None:
    done: list[str] = []
    writer.submit(lambda: writer.submit(lambda: done.append("inner")))
    writer.flush()
    assert done == ["inner"]


def test_many_threads_may_submit(writer: BackgroundWriter) -> None:
    done: list[int] = []
    before = writer_threads()
    with ThreadPoolExecutor(8) as pool:
        for i in range(400):
            pool.submit(writer.submit, lambda i=i: done.append(i))  # type: ignore[misc]
    writer.flush()
    assert sorted(done) == list(range(400))
    assert len(writer_threads() - before) == 1


def test_it_carries_the_registrys_writes(writer: BackgroundWriter, tmp_path: Path) -> None:
    registry = Registry(f"sqlite:///{tmp_path}/registry.sqlite")
    files = [FileIdentity(Path(f"/m/{i:02}"), i, i) for i in range(20)]
    for file in files:
        writer.submit(lambda file=file: registry.put_facts(file, {"size": file.size}))  # type: ignore[misc]
    writer.flush()
    assert registry.known_files() == [(file, {"size": file.size}) for file in files]
    registry.close()
