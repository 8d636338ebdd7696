"""SHA-256 of a growing file, in a thread that follows its front."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

_READ_BYTES = 4 << 20


class Hasher:
    """Reads what has arrived and hashes it; bytes come from the system's cache as a rule.

    Args:
        path: the file; its front only grows.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._front = 0
        self._stop = False
        self._changed = threading.Condition()
        self._digest = hashlib.sha256()
        self._error: OSError | None = None
        self.position = 0
        self._thread = threading.Thread(target=self._run, name="managed-models-hash", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def advance(self, front: int) -> None:
        """Say how many bytes are there without a hole."""
        with self._changed:
            if front > self._front:
                self._front = front
                self._changed.notify()

    def stop(self) -> None:
        """End, and wait for the thread."""
        with self._changed:
            self._stop = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def is_done(self, total: int) -> bool:
        """Tell whether all of ``total`` bytes are hashed.

        Raises:
            OSError: they could not be read.
        """
        if self._error is not None:
            raise self._error
        return self.position >= total

    def hexdigest(self) -> str:
        """Return the hash of what was read so far, in lower case."""
        return self._digest.hexdigest()

    def _run(self) -> None:
        try:
            with open(self._path, "rb", buffering=0) as file:
                while self._wait():
                    piece = file.read(min(_READ_BYTES, self._front - self.position))
                    if not piece:
                        raise OSError("the file became shorter")
                    self._digest.update(piece)
                    self.position += len(piece)
        except OSError as error:
            self._error = error

    def _wait(self) -> bool:
        with self._changed:
            while not self._stop and self._front <= self.position:
                self._changed.wait()
            return not self._stop
