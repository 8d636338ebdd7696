"""One writer thread, so that nobody who looks something up waits for a disk."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

log = logging.getLogger("managed_models.background")


class BackgroundWriter:
    """Run writes one after the other in a daemon thread that starts with the first of them."""

    def __init__(self) -> None:
        self._jobs: queue.Queue[Callable[[], None]] = queue.Queue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def submit(self, write: Callable[[], None]) -> None:
        """Queue a write and return at once; a failure is logged."""
        self._jobs.put(write)
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="managed-models-writer", daemon=True)
                self._thread.start()

    def flush(self) -> None:
        """Wait until everything queued so far is written."""
        self._jobs.join()

    def _run(self) -> None:
        while True:
            write = self._jobs.get()
            try:
                write()
            except Exception:  # what is written here is a cache: losing an entry costs a second look
                log.exception("A registry write failed")
            finally:
                self._jobs.task_done()
