"""Noticing that a file was replaced, for names that are known only while a prompt runs."""

from __future__ import annotations

import threading
from pathlib import Path

from .errors import ModelNotFound
from .files import FileIdentity


class ReplacedFiles:
    """A number that grows whenever one of the remembered files changes on the disk.

    ComfyUI asks a node for its fingerprint before linked inputs are known, so a node whose model
    name arrives over a link cannot name its file then: it answers with this number instead.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[Path, FileIdentity | None] = {}
        self._generation = 0

    def remember(self, path: Path) -> None:
        """Watch this file from now on, as it is now."""
        with self._lock:
            self._files[path] = _look(path)

    def generation(self) -> int:
        """Look at every remembered file and return the number."""
        with self._lock:
            for path, known in self._files.items():
                now = _look(path)
                if now != known:
                    self._files[path] = now
                    self._generation += 1
            return self._generation


def _look(path: Path) -> FileIdentity | None:
    try:
        return FileIdentity.of(path)
    except ModelNotFound:
        return None
