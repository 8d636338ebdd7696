"""The cleanup task: an asyncio task inside a running loop, a daemon thread outside one."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable

log = logging.getLogger("managed_models.cleanup")


class CleanupTask:
    """Call ``clean`` every ``interval`` seconds until stopped. Starting and stopping are idempotent.

    Args:
        clean: one round; runs in a worker thread when an event loop is running.
        interval: pause between two rounds, in seconds.
    """

    def __init__(self, clean: Callable[[], None], interval: float) -> None:
        self._clean = clean
        self._interval = interval
        self._lock = threading.Lock()
        self._stop: threading.Event | None = None
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def running(self) -> bool:
        """Whether rounds are being made."""
        if self._task is not None and (self._task.done() or self._loop is None or self._loop.is_closed()):
            return False
        return self._stop is not None and not self._stop.is_set()

    def start(self) -> None:
        """Begin, in the running event loop if there is one."""
        with self._lock:
            if self.running:
                return
            stop = self._stop = threading.Event()
            try:
                self._loop = asyncio.get_running_loop()
            except RuntimeError:
                self._loop = self._task = None
                thread = threading.Thread(
                    target=self._run, args=(stop,), name="managed-models-cleanup", daemon=True
                )
                thread.start()
            else:
                self._task = self._loop.create_task(self._run_async(stop))

    def stop(self) -> None:
        """End after the round that is being made, if any."""
        with self._lock:
            if self._stop is not None:
                self._stop.set()
            task, loop, self._task = self._task, self._loop, None
        if task is not None and loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(task.cancel)

    def _run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self._round()
            stop.wait(self._interval)

    async def _run_async(self, stop: threading.Event) -> None:
        while not stop.is_set():
            await asyncio.to_thread(self._round)
            await asyncio.sleep(self._interval)

    def _round(self) -> None:
        try:
            self._clean()
        except Exception:  # the task outlives a failed round; the next one may succeed
            log.exception("A round of the cleanup task failed")
