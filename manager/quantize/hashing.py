"""The source's hash, computed in a thread of its own while workers read the same bytes."""

from __future__ import annotations

import threading
from bisect import insort
from collections.abc import Callable
from types import TracebackType

from ..formats.safetensors import TensorInfo
from ..watch import Watch
from .partial import PartialFile
from .source import Reader, Source, source_sha256

_POLL_SECONDS = 0.1
# What is worth a call to drop it from the cache.
_DROP_BYTES = 64 << 20


class _Stopped(Exception):
    """The run has ended without needing the hash."""


class SourceHash:
    """Hashes a source; a context manager that ends its thread.

    Args:
        partial: knows the hash from an earlier run, or is told.
        forget: drop from the system's cache what both the hash and the workers are done with, so that
            a large source does not push out everything else.
        known: the hash, where somebody knows it.
    """

    def __init__(self, source: Source, partial: PartialFile, forget: bool = False, known: str = "") -> None:
        self._source = source
        self._known = known
        self._partial = partial
        self._stop = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._release = _Release(source) if forget else None

    def __enter__(self) -> SourceHash:
        if self._known:
            self._partial.note_hash(self._known)
        if self._partial.sha256 is None:
            self._thread = threading.Thread(target=self._hash, name="managed-models-hash")
            self._thread.start()
        elif self._release:
            self._release.hashed(self._source.header.file_size)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop = True
        if self._thread is not None:
            self._thread.join()
        if self._release:
            self._release.close()

    def begin(self, info: TensorInfo) -> None:
        """Say that a worker takes this tensor; tensors are taken in file order."""
        if self._release:
            self._release.begin(info.start)

    def end(self, info: TensorInfo) -> None:
        """Say that a worker needs nothing of this tensor any more."""
        if self._release:
            self._release.end(info.start)

    def result(self, show: Callable[[], None], watch: Watch) -> str:
        """Wait for the hash.

        Args:
            show: called while waiting.

        Raises:
            FileError: the source could not be read to its end.
        """
        while self._thread is not None and self._thread.is_alive():
            watch.throw_if_cancelled()
            show()
            self._thread.join(_POLL_SECONDS)
        if self._error is not None:
            raise self._error
        assert self._partial.sha256 is not None
        return self._partial.sha256

    def _hash(self) -> None:
        def tick(position: int) -> None:
            if self._stop:
                raise _Stopped
            if self._release:
                self._release.hashed(position)

        try:
            self._partial.note_hash(source_sha256(self._source, tick))
            if self._release:
                self._release.hashed(self._source.header.file_size)
        except _Stopped:
            pass
        except BaseException as error:
            self._error = error


class _Release:
    """Drops from the cache what lies before both the hash and the first unfinished tensor."""

    def __init__(self, source: Source) -> None:
        self._reader = Reader(source)
        self._lock = threading.Lock()
        self._starts: list[int] = []
        self._taken = 0
        self._hashed = 0
        self._dropped = 0

    def close(self) -> None:
        self._reader.close()

    def begin(self, start: int) -> None:
        with self._lock:
            insort(self._starts, start)
            self._taken = max(self._taken, start)

    def end(self, start: int) -> None:
        with self._lock:
            self._starts.remove(start)
            self._drop()

    def hashed(self, position: int) -> None:
        """Say how far the hash is, in the data of all parts."""
        with self._lock:
            self._hashed = position
            self._drop()

    def _drop(self) -> None:
        """Drop what is new below both positions, in steps that are worth a call."""
        limit = min(self._hashed, self._starts[0] if self._starts else self._taken)
        if limit - self._dropped < _DROP_BYTES:
            return
        self._reader.forget(self._dropped, limit - self._dropped)
        self._dropped = limit
