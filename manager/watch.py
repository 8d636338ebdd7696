"""Who looks on while a long job runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from .errors import Cancelled


class Watch(Protocol):
    """Shows progress in bytes, and may raise to stop. A host is one.

    One with a method ``tell(progress: JobProgress)`` is told more, see :func:`tell`.
    """

    def throw_if_cancelled(self) -> None:
        """Raise when a person asked to stop."""

    def progress(self, done: int, total: int) -> None:
        """Show how far the job is."""


class Nobody:
    """Nobody looks on."""

    def throw_if_cancelled(self) -> None:
        """Never stops."""

    def progress(self, done: int, total: int) -> None:
        """Shows nothing."""


@dataclass(frozen=True)
class JobProgress:
    """How far a long job is.

    Attributes:
        stage: ``converting``, ``hashing``, ``verifying``...
        done, total: bytes.
        item: what is being worked on, such as a layer.
        seconds: since the job began.
        resumed: bytes of ``done`` that an earlier job had done.
    """

    stage: str
    done: int
    total: int
    item: str = ""
    seconds: float = 0.0
    resumed: int = 0

    @property
    def bytes_per_second(self) -> float | None:
        """How fast it is, None as long as nobody can tell."""
        fresh = self.done - self.resumed
        return fresh / self.seconds if fresh > 0 and self.seconds > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """How long it takes if it stays as fast, None as long as nobody can tell."""
        speed = self.bytes_per_second
        return None if speed is None else (self.total - self.done) / speed

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, JSON-safe."""
        worked_out = {"bytes_per_second": self.bytes_per_second, "seconds_left": self.seconds_left}
        return asdict(self) | worked_out


class Pace:
    """Says when it is time to show something again.

    Args:
        seconds: between two times.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next = 0.0
        self._key: object = None

    def due(self, key: object = None) -> bool:
        """Tell whether it is time: also at once when ``key`` is another than before."""
        now = time.monotonic()
        if now < self._next and key == self._key:
            return False
        self._next = now + self._seconds
        self._key = key
        return True


def tell(watch: Watch, progress: JobProgress) -> None:
    """Show all that is known where the watch takes it, and the bytes alone where not."""
    show = getattr(watch, "tell", None)
    if show is not None:
        show(progress)
    watch.progress(progress.done, progress.total)


class Together:
    """One watch over several jobs that run at once in threads: their bytes add up, and all stop together.

    Args:
        watch: is told of all of them.
        total: bytes of all of them.
    """

    def __init__(self, watch: Watch, total: int) -> None:
        self._watch = watch
        self._total = total
        self._done = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Let every job stop at its next step."""
        self._stopped.set()

    @contextmanager
    def one(self, size: int) -> Iterator[Watch]:
        """Give the watch of one job of ``size`` bytes."""
        part = _Part(self)
        yield part
        self.add(size - part.done)

    def add(self, count: int) -> None:
        """Take in bytes that a job has got further."""
        with self._lock:
            self._done += count
            self._watch.progress(self._done, self._total)

    def throw_if_cancelled(self) -> None:
        """Raise when a person asked to stop, or when another job has raised that."""
        if self._stopped.is_set():
            raise Cancelled("The job was stopped.", "Nothing was left behind.")
        self._watch.throw_if_cancelled()


class _Part:
    def __init__(self, together: Together) -> None:
        self._together = together
        self.done = 0

    def throw_if_cancelled(self) -> None:
        self._together.throw_if_cancelled()

    def progress(self, done: int, total: int) -> None:
        self._together.add(done - self.done)
        self.done = done
