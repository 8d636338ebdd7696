"""A lock file that is gone when it is released.

The system frees the lock with its process, so that there are no stale ones. The ``filelock`` library
keeps its file, or removes it at the risk that a third process locks the same name once more: here a
holder makes sure that the file it locked is still the one of that name.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class FileLock:
    """Held by one holder at a time, in this process or another.

    Where the file system has no locks, everybody gets it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take it if it is free; tell whether it is held now.

        Raises:
            OSError: the file cannot be made.
        """
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                locked = _try_lock(descriptor)
                current = locked and _is_at(descriptor, self.path)
            except BaseException:
                os.close(descriptor)
                raise
            if current:
                self._descriptor = descriptor
                return True
            os.close(descriptor)
            if not locked:
                return False

    def release(self) -> None:
        """Give it back, and remove the file."""
        if self._descriptor is None:
            return
        if sys.platform == "win32":  # an open file cannot be removed there
            os.close(self._descriptor)
            try:
                self.path.unlink(missing_ok=True)
            except OSError:
                pass  # somebody else has just opened it
        else:
            self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
        self._descriptor = None


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _UNSUPPORTED
    return True
