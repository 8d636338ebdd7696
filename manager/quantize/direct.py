"""Writing past the system's cache, where that is possible.

A large output would push everything else out of the cache, and on many machines filling the cache
costs more than computing. Whole pages of the file go to the disk directly; what shares a page with
another tensor or block goes through the cache, so that no page is ever written both ways.
"""

from __future__ import annotations

import errno
import mmap
import os
import time
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from ..formats.writer import PAGE

# How much is reserved at once, and after how many seconds for that the rest is left.
_RESERVE_BYTES = 256 << 20
_RESERVE_SECONDS = 0.25
# Below this the calls cost more than the cache.
_LEAST = 256 << 10
_STAGE_BYTES = 4 << 20


class Output:
    """One thread's handle on a file that exists: writes at any place.

    Args:
        direct: whether to try; a file system that cannot is noticed.
    """

    def __init__(self, path: Path, direct: bool = True) -> None:
        self._file: BinaryIO = open(path, "r+b", buffering=0)  # type: ignore[assignment]  # noqa: SIM115
        self._direct = _open_direct(path) if direct else None
        self._stage: memoryview | None = None

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        if self._direct is not None:
            os.close(self._direct)
            self._direct = None

    def write(self, position: int, data: memoryview) -> None:
        """Write ``data`` at a place of the file.

        It is quickest when ``address_of(data)`` and ``position`` lie alike within a page.

        Raises:
            OSError: the disk refused.
        """
        head = min(len(data), -position % PAGE)
        pages = (len(data) - head) // PAGE * PAGE
        if self._direct is None or pages < _LEAST:
            self._through_cache(position, data)
            return
        if not self._pages(position + head, data[head : head + pages]):
            self._through_cache(position, data)
            return
        self._through_cache(position, data[:head])
        self._through_cache(position + head + pages, data[head + pages :])

    def _pages(self, position: int, data: memoryview) -> bool:
        """Write whole pages directly; tell whether the file system could."""
        aligned = address_of(data) % PAGE == 0
        step = len(data) if aligned else _STAGE_BYTES
        for start in range(0, len(data), step):
            piece = data[start : start + step]
            piece = piece if aligned else self._staged(piece)
            done = 0
            while done < len(piece):
                try:
                    done += os.pwrite(self._descriptor, piece[done:], position + start + done)
                except OSError as error:
                    if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP) or start or done:
                        raise
                    os.close(self._descriptor)
                    self._direct = None
                    return False
        return True

    @property
    def _descriptor(self) -> int:
        assert self._direct is not None
        return self._direct

    def _staged(self, data: memoryview) -> memoryview:
        """Copy into a buffer that begins with a page."""
        if self._stage is None:
            self._stage = memoryview(mmap.mmap(-1, _STAGE_BYTES))
        self._stage[: len(data)] = data
        return self._stage[: len(data)]

    def _through_cache(self, position: int, data: memoryview) -> None:
        if not data:
            return
        self._file.seek(position)
        done = 0
        while done < len(data):
            done += self._file.write(data[done:])


def reserve(file: BinaryIO, size: int) -> None:
    """Make an empty file ``size`` bytes long, and take its room on the disk where that is quick.

    Threads that write past the cache into reserved room need not wait for each other. Where the file
    system cannot reserve, the C library writes into every page instead: then the rest stays a hole.

    Raises:
        OSError: the disk has no room.
    """
    allocate = getattr(os, "posix_fallocate", None)
    done = 0
    while allocate is not None and done < size:
        step = min(_RESERVE_BYTES, size - done)
        start = time.monotonic()
        try:
            allocate(file.fileno(), done, step)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            break
        done += step
        if time.monotonic() - start > _RESERVE_SECONDS:
            break
    file.truncate(size)


def address_of(data: memoryview) -> int:
    """Return where in memory the bytes lie."""
    return int(np.frombuffer(data, np.uint8).ctypes.data)


def _open_direct(path: Path) -> int | None:
    flag = getattr(os, "O_DIRECT", None)
    if flag is None:
        return None
    try:
        return os.open(path, os.O_WRONLY | flag)
    except OSError:  # a file system that has no such thing
        return None
