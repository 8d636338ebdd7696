"""The cleanup task, with and without an event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from managed_models.manager.cleanup import CleanupTask

PATIENCE = 30  # seconds to wait for something that has to come; nothing here takes as long
SOON = 0.005
NEVER = 3600.0


class Rounds:
    """Counts rounds, notes their threads, and lets a test wait for one."""

    def __init__(self) -> None:
        self.count = 0
        self.threads: set[threading.Thread] = set()
        self._changed = threading.Condition()

    def __call__(self) -> None:
        with self._changed:
            self.count += 1
            self.threads.add(threading.current_thread())
            self._changed.notify_all()

    def wait_for(self, count: int) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.count >= count, PATIENCE)

    def wait_for_more(self, by: int = 2) -> bool:
        return self.wait_for(self.count + by)


@pytest.fixture
def rounds() -> Rounds:
    return Rounds()


@pytest.fixture(autouse=True)
def _nothing_stays_behind() -> Iterator[None]:
    before = cleanup_threads()
    yield
    for thread in cleanup_threads() - before:
        thread.join(PATIENCE)
    assert cleanup_threads() <= before


def cleanup_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "managed-models-cleanup"}


# Outside a loop


def test_outside_a_loop_rounds_are_made_in_a_daemon_thread(rounds: Rounds) -> None:
    task = CleanupTask(rounds, SOON)
    assert not task.running
    task.start()
    assert task.running
    assert rounds.wait_for(3)
    (thread,) = rounds.threads
    assert thread.name == "managed-models-cleanup"
    assert thread.daemon
    task.stop()
    assert not task.running
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_the_first_round_does_not_wait(rounds: Rounds) -> None:
    task = CleanupTask(rounds, NEVER)
    task.start()
    assert rounds.wait_for(1)
    task.stop()


def test_stopping_does_not_wait_for_the_next_round(rounds: Rounds) -> None:
    task = CleanupTask(rounds, NEVER)
    task.start()
    assert rounds.wait_for(1)
    task.stop()
    (thread,) = rounds.threads
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert rounds.count == 1


def test_starting_twice_starts_once(rounds: Rounds) -> None:
    task = CleanupTask(rounds, SOON)
    before = cleanup_threads()
    task.start()
    task.start()
    assert len(cleanup_threads() - before) == 1
    assert rounds.wait_for(5)
    task.start()
    assert rounds.wait_for_more()
    assert len(rounds.threads) == 1
    task.stop()


def test_many_threads_that_start_it_start_it_once(rounds: Rounds) -> None:
    task = CleanupTask(rounds, NEVER)
    before = cleanup_threads()
    barrier = threading.Barrier(8)

    def begin(_: int) -> None:
        barrier.wait()
        task.start()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(begin, range(8)))
    assert len(cleanup_threads() - before) == 1
    assert rounds.wait_for(1)
    task.stop()


def test_stopping_what_does_not_run_does_nothing(rounds: Rounds) -> None:
    task = CleanupTask(rounds, SOON)
    task.stop()
    assert not task.running
    task.start()
    assert rounds.wait_for(1)
    task.stop()
    task.stop()
    assert not task.running


def test_it_may_be_started_again(rounds: Rounds) -> None:
    task = CleanupTask(rounds, SOON)
    for _ in range(3):
        task.start()
        assert task.running
        assert rounds.wait_for_more()
        task.stop()
        assert not task.running
    assert len(rounds.threads) == 3


def test_a_round_may_stop_the_task() -> None:
    ended = threading.Event()

    def clean() -> None:
        task.stop()
        ended.set()

    task = CleanupTask(clean, SOON)
    task.start()
    assert ended.wait(PATIENCE)
    assert not task.running


def test_a_failing_round_is_logged_and_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    rounds = Rounds()

    def clean() -> None:
        rounds()
        if rounds.count <= 2:
            raise OSError("the disk is gone")

    task = CleanupTask(clean, SOON)
    with caplog.at_level(logging.ERROR, logger="managed_models.cleanup"):
        task.start()
        assert rounds.wait_for(4)
        assert task.running
        task.stop()
    assert [r.getMessage() for r in caplog.records] == ["A round of the cleanup task failed"] * 2
    assert "the disk is gone" in str(caplog.records[0].exc_info)


# Inside a loop


async def until(rounds: Rounds, count: int) -> bool:
    """Wait for a number of rounds without standing in the loop's way."""
    return await asyncio.to_thread(rounds.wait_for, count)


def test_inside_a_loop_it_is_a_task_of_that_loop(rounds: Rounds) -> None:
    async def main() -> None:
        task = CleanupTask(rounds, SOON)
        before, threads = asyncio.all_tasks(), cleanup_threads()
        task.start()
        assert task.running
        assert len(asyncio.all_tasks() - before) == 1
        assert cleanup_threads() == threads
        assert await until(rounds, 3)
        task.stop()
        assert not task.running
        await asyncio.sleep(0.01)
        assert asyncio.all_tasks() == before

    asyncio.run(main())


def test_a_round_never_stands_in_the_loops_way() -> None:
    """The round below can only end when the loop goes on meanwhile."""
    release = threading.Event()
    released: list[bool] = []

    async def main() -> None:
        task = CleanupTask(lambda: released.append(release.wait(PATIENCE)), NEVER)
        task.start()
        await asyncio.sleep(0.01)
        assert released == []
        release.set()
        while not released:
            await asyncio.sleep(0.001)
        task.stop()

    asyncio.run(main())
    assert released == [True]


def test_starting_and_stopping_twice_inside_a_loop(rounds: Rounds) -> None:
    async def main() -> None:
        task = CleanupTask(rounds, SOON)
        before = asyncio.all_tasks()
        task.start()
        task.start()
        assert len(asyncio.all_tasks() - before) == 1
        assert await until(rounds, 1)
        task.stop()
        task.stop()
        assert not task.running

    asyncio.run(main())


def test_it_may_be_started_again_inside_a_loop(rounds: Rounds) -> None:
    async def main() -> None:
        task = CleanupTask(rounds, SOON)
        before = asyncio.all_tasks()
        for _ in range(3):
            task.start()
            assert await until(rounds, rounds.count + 2)
            task.stop()
        task.start()
        assert task.running
        assert await until(rounds, rounds.count + 2)
        await asyncio.sleep(0.01)
        assert len(asyncio.all_tasks() - before) == 1  # those that were stopped are gone
        task.stop()

    asyncio.run(main())


def test_a_failing_round_inside_a_loop_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    rounds = Rounds()

    def clean() -> None:
        rounds()
        raise ValueError("never works")

    async def main() -> None:
        task = CleanupTask(clean, SOON)
        task.start()
        assert await until(rounds, 3)
        assert task.running
        task.stop()

    with caplog.at_level(logging.ERROR, logger="managed_models.cleanup"):
        asyncio.run(main())
    assert len(caplog.records) >= 3


def test_another_thread_may_stop_the_task_of_a_loop(rounds: Rounds) -> None:
    async def main() -> None:
        task = CleanupTask(rounds, SOON)
        before = asyncio.all_tasks()
        task.start()
        assert await until(rounds, 1)
        await asyncio.to_thread(task.stop)
        assert not task.running
        await asyncio.sleep(0.01)
        assert asyncio.all_tasks() == before

    asyncio.run(main())


def test_another_thread_that_starts_it_again_does_nothing(rounds: Rounds) -> None:
    async def main() -> None:
        task = CleanupTask(rounds, SOON)
        threads = cleanup_threads()
        task.start()
        assert await until(rounds, 1)
        await asyncio.to_thread(task.start)
        assert cleanup_threads() == threads
        task.stop()

    asyncio.run(main())


def test_a_thread_beside_a_loop_gets_a_thread(rounds: Rounds) -> None:
    async def main() -> None:
        task = CleanupTask(rounds, SOON)
        before = asyncio.all_tasks()
        await asyncio.to_thread(task.start)
        assert asyncio.all_tasks() == before
        assert await until(rounds, 2)
        task.stop()  # from the loop
        assert not task.running

    asyncio.run(main())
    assert {thread.name for thread in rounds.threads} == {"managed-models-cleanup"}


def test_the_end_of_the_loop_is_the_end_of_the_task_and_it_may_begin_anew(rounds: Rounds) -> None:
    task = CleanupTask(rounds, SOON)

    async def main() -> None:
        task.start()
        assert await until(rounds, rounds.count + 2)

    asyncio.run(main())
    assert not task.running
    asyncio.run(main())  # in another loop
    assert not task.running
    task.start()  # and without any
    assert task.running
    assert rounds.wait_for_more()
    task.stop()


def test_stopping_after_the_loop_has_ended(rounds: Rounds) -> None:
    task = CleanupTask(rounds, SOON)

    async def main() -> None:
        task.start()
        assert await until(rounds, 1)

    asyncio.run(main())
    task.stop()
    assert not task.running


def test_a_loop_that_was_closed_under_the_task(rounds: Rounds) -> None:
    """asyncio.run cancels what still runs; a loop that a program closes by itself does not."""
    task = CleanupTask(rounds, NEVER)
    loop = asyncio.new_event_loop()

    async def main() -> None:
        task.start()
        assert await until(rounds, 1)
        await asyncio.sleep(0.01)

    loop.run_until_complete(main())
    loop.close()
    assert not task.running
    task.start()
    assert task.running
    assert rounds.wait_for(2)
    task.stop()
    assert not task.running


def test_a_round_that_is_being_made_is_brought_to_its_end() -> None:
    begun, release, ended = (threading.Event() for _ in range(3))

    def clean() -> None:
        begun.set()
        assert release.wait(PATIENCE)
        ended.set()

    async def main() -> None:
        task = CleanupTask(clean, SOON)
        task.start()
        assert await asyncio.to_thread(begun.wait, PATIENCE)
        task.stop()
        assert not task.running
        await asyncio.sleep(0.01)
        assert not ended.is_set()
        release.set()

    asyncio.run(main())
    assert ended.wait(PATIENCE)
