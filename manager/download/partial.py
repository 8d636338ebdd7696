"""A file on its way: its bytes beside the final name, and a journal of those that are on the disk."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import filelock

from ..errors import AlreadyDownloading, FileError, NoRoom
from ..units import format_bytes
from .plan import Ranges, count, merge

log = logging.getLogger("managed_models.download")

DATA_SUFFIX = ".mmdownload"
JOURNAL_SUFFIX = DATA_SUFFIX + ".json"
LOCK_SUFFIX = DATA_SUFFIX + ".lock"
_FORMAT = 1
_MAX_JOURNAL_BYTES = 1 << 20
_BINARY = getattr(os, "O_BINARY", 0)
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True)
class Journal:
    """What has to be known to go on.

    Attributes:
        url: without the parts of a query that may be secret.
        whole_url: whether nothing had to be left out of it.
        sha256: what the file has to be, as far as anybody said.
        etag, last_modified: what the server called this state of the file.
        total: of the whole file, None where the server does not say.
        done: bytes that are on the disk.
        measured: the hash of a whole file that was not the one expected.
        vouched: see :class:`Facts`.
    """

    url: str
    whole_url: bool = True
    folder: str = ""
    sha256: str | None = None
    etag: str | None = None
    last_modified: str | None = None
    total: int | None = None
    done: Ranges = ()
    connections: int = 0
    measured: str | None = None
    vouched: bool = False

    def to_json(self) -> str:
        return json.dumps({"format": _FORMAT, **dataclasses.asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> Journal | None:
        """Read what :meth:`to_json` wrote; None for anything else."""
        try:
            found = json.loads(text)
            if found.pop("format") != _FORMAT:
                return None
            known = {field.name for field in dataclasses.fields(cls)}
            done = tuple((int(start), int(end)) for start, end in found.pop("done"))
            journal = cls(**{k: v for k, v in found.items() if k in known}, done=merge(done))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
        return journal if _is_sound(journal) else None


def _is_sound(journal: Journal) -> bool:
    texts = (journal.sha256, journal.etag, journal.last_modified, journal.measured)
    total = journal.total
    return (
        isinstance(journal.url, str)
        and isinstance(journal.folder, str)
        and isinstance(journal.connections, int)
        and isinstance(journal.vouched, bool)
        and all(text is None or isinstance(text, str) for text in texts)
        and (total is None or (isinstance(total, int) and total >= 0))
        and all(start >= 0 for start, _ in journal.done)
        and (total is None or not journal.done or journal.done[-1][1] <= total)
    )


class Partial:
    """The bytes of one download so far. Only the holder of :meth:`lock` may change them."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(target.name + DATA_SUFFIX)
        self.journal_path = target.with_name(target.name + JOURNAL_SUFFIX)
        self._lock_path = target.with_name(target.name + LOCK_SUFFIX)
        self._file: BinaryIO | None = None
        self._seek = threading.Lock()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep every other process away from this download.

        Raises:
            AlreadyDownloading: another one has it.
            FileError: the folder cannot be written to.
        """
        lock = filelock.FileLock(self._lock_path, timeout=0)
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except filelock.Timeout:
            raise AlreadyDownloading(
                f"{self.target.name} is being downloaded by another program, into the same folder.",
                "Wait for it, or stop it there.",
            ) from None
        except OSError as error:
            raise self.error(error) from error
        try:
            yield
        finally:
            if not self.path.exists():
                with suppress(OSError):  # Windows removes no open file: the cleanup task will
                    self._lock_path.unlink()
            lock.release()

    def is_locked(self) -> bool:
        """Tell whether somebody is at it, in this process or another."""
        lock = filelock.FileLock(self._lock_path, timeout=0)
        if not self._lock_path.exists():
            return False
        try:
            with lock:
                return False
        except (filelock.Timeout, OSError):
            return True

    def load(self) -> Journal | None:
        """Return what an earlier run wrote down, as far as its bytes are there."""
        try:
            with open(self.journal_path, encoding="utf-8") as file:
                journal = Journal.from_json(file.read(_MAX_JOURNAL_BYTES))
            size = self.path.stat().st_size
        except (OSError, ValueError):
            return None
        if journal is None:
            return None
        return dataclasses.replace(journal, done=merge((s, min(e, size)) for s, e in journal.done))

    def open(self) -> None:
        """Open the bytes for writing, making the file where there is none.

        Raises:
            FileError: it cannot be written.
        """
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | _BINARY, 0o666)
            self._file = os.fdopen(descriptor, "r+b", buffering=0)
        except OSError as error:
            raise self.error(error) from error

    def close(self) -> None:
        """Close the file; it stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def write(self, offset: int, data: bytes) -> None:
        """Write at a place of the file; from any thread.

        Raises:
            NoRoom, FileError: the disk refuses.
        """
        view = memoryview(data)
        try:
            while view:
                written = self._write_some(offset, view)
                offset += written
                view = view[written:]
        except OSError as error:
            raise self.error(error) from error

    def _write_some(self, offset: int, view: memoryview) -> int:
        file = self._opened
        if hasattr(os, "pwrite"):
            return os.pwrite(file.fileno(), view, offset)
        with self._seek:  # Windows
            file.seek(offset)
            return file.write(view) or 0

    @property
    def _opened(self) -> BinaryIO:
        if self._file is None:
            raise FileError(f"{self.path.name} is closed.", "Start the download again.")
        return self._file

    def save(self, journal: Journal) -> None:
        """Put the bytes on the disk, then the journal that says so.

        Raises:
            NoRoom, FileError: the disk refuses.
        """
        temporary = self.journal_path.with_name(self.journal_path.name + ".new")
        try:
            os.fsync(self._opened.fileno())
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(journal.to_json())
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.journal_path)
        except OSError as error:
            raise self.error(error) from error

    def resize(self, size: int) -> None:
        """Give the file exactly ``size`` bytes.

        Raises:
            NoRoom, FileError: the disk refuses.
        """
        try:
            os.ftruncate(self._opened.fileno(), size)
        except OSError as error:
            raise self.error(error) from error

    def holds_anything(self) -> bool:
        """Tell whether there are bytes that a later run may go on from."""
        journal = self.load()
        return journal is not None and bool(journal.done)

    def newest(self) -> float:
        """Return when anything of it was last changed, in seconds since the epoch."""
        times = [0.0]
        for path in (self.path, self.journal_path, self._lock_path):
            with suppress(OSError):
                times.append(path.stat().st_mtime)
        return max(times)

    def discard(self) -> None:
        """Remove the bytes and the journal; nothing happens where there are none."""
        self.close()
        # The journal first: bytes without one are started over, a journal without bytes would mislead.
        for path in (self.journal_path, self.path):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise self.error(error) from error

    def error(self, error: OSError) -> FileError | NoRoom:
        """Return our error for what the operating system said."""
        if error.errno in _FULL:
            return NoRoom(
                f"The disk became full while {self.target.name} was downloaded.",
                "Free some room and resume it: what has arrived is kept.",
            )
        return FileError(
            f"{self.target.name} cannot be written into {self.target.parent}: {error.strerror or error}.",
            "Check the folder and who may write there. What has arrived is kept.",
        )


def check_room(name: str, needed: int, free: int, promised: int) -> None:
    """Refuse a download that the disk has no room for. Pure.

    Args:
        needed: bytes that are still to come.
        free: bytes on the disk.
        promised: bytes that other downloads onto it still need.

    Raises:
        NoRoom: there is none.
    """
    if needed <= free - promised:
        return
    others = f", of which other downloads will take {format_bytes(promised)}" if promised else ""
    raise NoRoom(
        f"{name} needs {format_bytes(needed)} more, and {format_bytes(max(0, free))} are free on the disk "
        f"of its folder{others}.",
        "Delete what is not needed, or keep models on another disk (extra_model_paths.yaml).",
        needed_bytes=needed,
        free_bytes=free,
        promised_bytes=promised,
    )


def find_partials(folder: Path) -> Iterator[Partial]:
    """Return the unfinished downloads below a folder, and whatever else is left of one."""
    for root, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found = {
            name.removesuffix(suffix)
            for name in names
            for suffix in (DATA_SUFFIX, JOURNAL_SUFFIX, LOCK_SUFFIX)
            if name.endswith(suffix)
        }
        for name in sorted(found - {""}):
            yield Partial(Path(root, name))


def arrived(journal: Journal) -> int:
    """Return how many bytes are safely here."""
    return count(journal.done)
