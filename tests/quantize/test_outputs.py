"""Writing behind the worker: in order, in few buffers, and nothing that goes wrong is lost."""

from __future__ import annotations

import threading

import pytest
from managed_models.manager.quantize.outputs import WriteBehind


def test_blocks_are_written_in_order_and_a_slot_is_free_once_its_block_is_written() -> None:
    behind = WriteBehind(3)
    written: list[int] = []
    in_slot: dict[int, int] = {}
    for number in range(50):
        slot = behind.free_slot()
        if slot in in_slot:
            assert in_slot[slot] in written
        in_slot[slot] = number
        behind.submit(lambda number=number: written.append(number))  # type: ignore[misc]
    behind.finish()
    assert written == list(range(50))
    assert set(in_slot) == {0, 1, 2}
    behind.close()


def test_the_worker_goes_on_while_a_block_is_written() -> None:
    behind = WriteBehind(2)
    go = threading.Event()
    behind.free_slot()
    behind.submit(lambda: assert_true(go.wait(30)))
    assert behind.free_slot() == 1  # although the first is not written yet
    go.set()
    behind.finish()
    behind.close()


@pytest.mark.parametrize("later", ["the next block", "the end"])
def test_what_went_wrong_comes_up_later(later: str) -> None:
    behind = WriteBehind(2)
    written: list[int] = []

    def fail() -> None:
        raise OSError("full")

    behind.free_slot()
    behind.submit(fail)
    assert behind.free_slot() == 1
    behind.submit(lambda: written.append(2))
    with pytest.raises(OSError, match="full"):
        behind.free_slot() if later == "the next block" else behind.finish()
    behind.finish()
    behind.close()
    assert written == []  # it would have come in the place of the one that failed


def test_after_an_error_what_waits_is_left() -> None:
    behind = WriteBehind(3)
    begun, go, written = threading.Event(), threading.Event(), []

    def first() -> None:
        begun.set()
        assert_true(go.wait(30))
        written.append(1)

    behind.submit(first)
    behind.submit(lambda: written.append(2))
    assert begun.wait(30)
    threading.Timer(0.05, go.set).start()
    behind.close()  # ends what has begun
    assert written == [1]


def assert_true(value: bool) -> None:
    assert value
