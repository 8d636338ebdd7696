"""A few threads that share one job, the calling one among them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from .watch import Watch

Tick = Callable[[], None]
_POLL_SECONDS = 0.05


class _Stopped(Exception):
    """Another thread failed, or a person asked to stop: this one only ends."""


def available_cores() -> int:
    """Return the processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def work_together(
    count: int, work: Callable[[Tick], None], watch: Watch, idle: Callable[[], None] = lambda: None
) -> None:
    """Call ``work`` in ``count`` threads and wait for all; the first error stops them and is raised.

    Only the calling thread asks ``watch``: a host tells by the thread whose job is to be stopped.

    Args:
        work: gets a function to call now and then, which raises when it has to stop.
        idle: called on the calling thread while it has nothing left to do but wait.
    """
    stop = threading.Event()
    errors: list[BaseException] = []

    def tick() -> None:
        if stop.is_set():
            raise _Stopped

    def help_out() -> None:
        try:
            work(tick)
        except _Stopped:
            pass
        except BaseException as error:
            errors.append(error)
            stop.set()

    def tick_here() -> None:
        tick()
        watch.throw_if_cancelled()

    helpers = [threading.Thread(target=help_out, name=f"managed-models-{n}") for n in range(1, count)]
    try:
        for helper in helpers:
            helper.start()
        try:
            work(tick_here)
            while any(helper.is_alive() for helper in helpers):
                tick_here()
                idle()
                for helper in helpers:
                    helper.join(_POLL_SECONDS / len(helpers))
        except _Stopped:
            pass
    except BaseException:
        stop.set()
        raise
    finally:
        for helper in helpers:
            if helper.ident is not None:
                helper.join()
    if errors:
        raise errors[0]
