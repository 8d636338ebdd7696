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
from .formats.temporary import TEMPORARY_SUFFIX, UNFINISHED_SUFFIXES, temporary_owner
from .watch import Nobody, Watch

STALE_AFTER_SECONDS = 3600
# How long the unfinished output of a killed run waits for the next one to go on.
UNFINISHED_AFTER_SECONDS = 14 * 24 * 3600
_HASH_BYTES = 1 << 20
_SAMPLE_BYTES = 4096


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

    @classmethod
    def recorded(cls, path: str, size: int, mtime_ns: int) -> FileIdentity:
        """Return a file as it was written down."""
        return cls(Path(path), size, mtime_ns)

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


def sample_digest(path: Path | str, size: int) -> str:
    """Return a digest of the file's first, middle and last bytes.

    Two files of one size with different digests differ; with the same digest they may be equal.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb", buffering=0) as file:
        for start in sorted({0, max(0, size // 2 - _SAMPLE_BYTES // 2), max(0, size - _SAMPLE_BYTES)}):
            file.seek(start)
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def file_sha256(path: Path, watch: Watch | None = None) -> str:
    """Return the SHA-256 of a file in lower-case hex, telling ``watch`` how far it is.

    One buffer is read into again and again: a new one for each piece costs a tenth of the time.
    """
    watch = watch or Nobody()
    total = path.stat().st_size
    digest = hashlib.sha256()
    buffer = bytearray(_HASH_BYTES)
    view = memoryview(buffer)
    done = 0
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            watch.throw_if_cancelled()
            digest.update(view[:count])
            done += count
            watch.progress(done, total)
    return digest.hexdigest()


def find_stale_temporaries(folders: Iterable[Path], now: float | None = None) -> list[Path]:
    """Return our temporary files below ``folders`` that nobody needs any more.

    Those that carry a process are stale when it is gone and they rest for an hour; the unfinished
    output of a run that was killed, when it rests for two weeks.
    """
    now = time.time() if now is None else now
    stale: list[Path] = []
    for folder in folders:
        for root, _, names in os.walk(folder):
            for name in names:
                path = Path(root, name)
                patience = _patience(path)
                try:
                    if patience is not None and now - path.stat().st_mtime > patience:
                        stale.append(path)
                except OSError:
                    continue
    return stale


def _patience(path: Path) -> int | None:
    """Return after how many seconds a file of ours is stale, None for one that never is."""
    if path.name.endswith(UNFINISHED_SUFFIXES):
        return UNFINISHED_AFTER_SECONDS
    owner = temporary_owner(path) if path.name.endswith(TEMPORARY_SUFFIX) else None
    return None if owner is None or psutil.pid_exists(owner) else STALE_AFTER_SECONDS
