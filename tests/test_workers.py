"""Threads that share one job."""

from __future__ import annotations

import threading
import time

import pytest
from managed_models.manager.watch import Nobody
from managed_models.manager.workers import Tick, available_cores, work_together


class Stop(BaseException):
    """As ComfyUI's interrupt, which is no Exception."""


@pytest.mark.parametrize("count", [1, 2, 5])
def test_all_work_and_the_caller_among_them(count: int) -> None:
    seen: set[int] = set()
    meet = threading.Barrier(count)

    def work(tick: Tick) -> None:
        meet.wait()
        seen.add(threading.get_ident())

    work_together(count, work, Nobody())
    assert len(seen) == count
    assert threading.get_ident() in seen


@pytest.mark.parametrize("failing", ["caller", "helper"])
def test_the_first_error_stops_all_and_is_raised(failing: str) -> None:
    caller = threading.get_ident()

    def work(tick: Tick) -> None:
        if (threading.get_ident() == caller) == (failing == "caller"):
            raise KeyError(failing)
        while True:  # until it is told
            tick()
            time.sleep(0.001)

    before = threading.active_count()
    with pytest.raises(KeyError, match=failing):
        work_together(3 if failing == "caller" else 2, work, Nobody())
    assert threading.active_count() == before


@pytest.mark.parametrize("busy", [True, False])
def test_only_the_caller_asks_the_watch_and_a_stop_ends_all(busy: bool) -> None:
    asked: set[int] = set()
    caller = threading.get_ident()
    working = threading.Event()

    class Watch(Nobody):
        def throw_if_cancelled(self) -> None:
            asked.add(threading.get_ident())
            if working.is_set():
                raise Stop

    def work(tick: Tick) -> None:
        if threading.get_ident() == caller and not busy:
            return  # it waits for the other, and asks meanwhile
        if threading.get_ident() != caller:
            working.set()
        while True:
            tick()
            time.sleep(0.001)

    with pytest.raises(Stop):
        work_together(2, work, Watch())
    assert asked == {caller}


def test_the_caller_has_something_to_do_while_it_waits() -> None:
    caller = threading.get_ident()
    shown: list[int] = []
    enough = threading.Event()

    def idle() -> None:
        shown.append(threading.get_ident())
        if len(shown) == 3:
            enough.set()

    def work(tick: Tick) -> None:
        if threading.get_ident() != caller:
            enough.wait()

    work_together(2, work, Nobody(), idle)
    assert set(shown) == {caller}


def test_there_is_a_core() -> None:
    assert available_cores() >= 1
