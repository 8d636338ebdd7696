"""A file's identity without reading it, its hash, and the temporary files that nobody owns any more."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from .errors import ModelNotFound
from .formats.writer import TEMPORARY_SUFFIX, temporary_owner
from .watch import Nobody, Watch

STALE_AFTER_SECONDS = 3600
_HASH_BYTES = 8 << 20


@dataclass(frozen=True)
class FileIdentity:
    """Path, size in bytes and modification time in ns: a change of any makes it another file."""

    path: Path
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> FileIdentity:
        """Look at the file now.

        Raises:
            ModelNotFound: it is not there.
        """
        try:
            status = os.stat(path)
        except (OSError, ValueError) as error:
            raise ModelNotFound(
                f"There is no file at {path}.", "Check the path, or download the model first."
            ) from error
        return cls(path, status.st_size, status.st_mtime_ns)

    @property
    def key(self) -> str:
        """One line that changes when the file does."""
        return f"{self.path}|{self.size}|{self.mtime_ns}"


def is_unchanged(file: FileIdentity) -> bool:
    """Tell whether the file is there and still the same."""
    try:
        return FileIdentity.of(file.path) == file
    except ModelNotFound:
        return False


def file_sha256(path: Path, watch: Watch | None = None) -> str:
    """Return the SHA-256 of a file in lower-case hex, telling ``watch`` how far it is."""
    watch = watch or Nobody()
    total = path.stat().st_size
    digest = hashlib.sha256()
    done = 0
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(_HASH_BYTES):
            watch.throw_if_cancelled()
            digest.update(piece)
            done += len(piece)
            watch.progress(done, total)
    return digest.hexdigest()


def find_stale_temporaries(folders: Iterable[Path], now: float | None = None) -> list[Path]:
    """Return our temporary files below ``folders`` whose process is gone and that rest for an hour."""
    now = time.time() if now is None else now
    stale: list[Path] = []
    for folder in folders:
        for root, _, names in os.walk(folder):
            for name in names:
                if not name.endswith(TEMPORARY_SUFFIX):
                    continue
                path = Path(root, name)
                owner = temporary_owner(path)
                if owner is None or psutil.pid_exists(owner):
                    continue
                try:
                    if now - path.stat().st_mtime > STALE_AFTER_SECONDS:
                        stale.append(path)
                except OSError:
                    continue
    return stale
