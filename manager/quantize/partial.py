"""The unfinished output: locked, written at any place by several threads, and resumable.

Three files beside the final one: the data, the journal, and the lock. A run that ends, well or badly,
removes them; only one that is killed leaves them, for the next run of the same kind.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from ..errors import AlreadyRunning
from ..file_lock import FileLock
from ..formats.temporary import unfinished_paths
from ..formats.writer import (
    FileLayout,
    damage_error,
    disk_error,
    find_damage,
    folder_error,
    publish,
)
from ..watch import Watch
from .direct import Output, reserve
from .journal import Journal, TensorState, writer_of
from .source import drop_cached

# How much is written before the next flush to the disk begins.
_SYNC_BYTES = 256 << 20


class PartialFile:
    """One unfinished output. A context manager; leaving without :meth:`publish` removes everything.

    Args:
        path: the final name.
        layout: where everything lies.
        run: identifies the run: an unfinished file of another one is not continued.
        forget: drop from the system's cache what is on the disk.

    Attributes:
        states: by number of the source's tensor; of an earlier run at first.
        sha256: the source's hash, as an earlier run noted it.

    Raises:
        AlreadyRunning: on entering, when another run writes this output.
        FileError: on entering, when the folder cannot be written to.
    """

    def __init__(self, path: Path, layout: FileLayout, run: str, forget: bool = False) -> None:
        self.path = path
        self.layout = layout
        self.states: dict[int, TensorState] = {}
        self.sha256: str | None = None
        self.temporary, journal, lock = unfinished_paths(path)
        self._journal = Journal(journal, run)
        self._lock = FileLock(lock)
        self._forget = forget
        self._unsynced = 0
        self._wake = threading.Event()
        self._closing = False
        self._syncer: threading.Thread | None = None
        self._sync_error: OSError | None = None

    def __enter__(self) -> PartialFile:
        self._take_lock()
        try:
            self._open()
            self._syncer = threading.Thread(target=self._keep_syncing, name="managed-models-sync")
            self._syncer.start()  # waits for the thread, where Ctrl-C may come
        except BaseException as error:
            self._stop_syncing()
            self._remove()
            if isinstance(error, OSError):
                raise folder_error(self.path, error) from error
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop_syncing()
        self._remove()

    def _take_lock(self) -> None:
        try:
            free = self._lock.acquire()
        except OSError as error:
            raise folder_error(self.path, error) from error
        if not free:
            owner = writer_of(self._journal.path)
            who = f"process {owner}" if owner else "another process"
            if owner == os.getpid():
                who = "another job of this process"
            raise AlreadyRunning(
                f"{self.path.name} is being written by {who}.",
                "Wait until it is done, or choose another output name.",
                process=owner,
            )

    def _open(self) -> None:
        found = self._journal.resume() if self._can_go_on() else None
        if found is not None:
            self.states = dict(found.states)
            self.sha256 = found.sha256
            return
        self._journal.close()
        self.temporary.unlink(missing_ok=True)
        with open(self.temporary, "xb") as file:
            try:
                reserve(file, self.layout.file_size)
            except OSError as error:
                raise disk_error(self.path, error) from error
        self._journal.start()

    def _can_go_on(self) -> bool:
        """Tell whether the data of an earlier run is there, and nothing but that.

        A process that was killed while it gave the file its final name leaves both names.
        """
        try:
            status = self.temporary.stat()
        except FileNotFoundError:
            return False
        return status.st_size == self.layout.file_size and status.st_nlink == 1

    def open(self) -> Output:
        """Return a handle to write with, for one thread."""
        return Output(self.temporary)

    def write(self, output: Output, position: int, data: memoryview) -> None:
        """Write ``data`` at a place of the file.

        Raises:
            NotEnoughDisk, FileError: the disk refused.
        """
        try:
            output.write(position, data)
        except OSError as error:
            raise disk_error(self.path, error) from error

    def note(self, tensor: int, state: TensorState, count: int, added: Sequence[bytes] = ()) -> None:
        """Say that ``count`` more bytes are written, and how far that tensor is now.

        Args:
            added: what is new among the state's pending bytes.
        """
        self.states[tensor] = state
        try:
            self._journal.note(tensor, state, added)
        except OSError as error:
            raise disk_error(self.path, error) from error
        self._unsynced += count
        if self._unsynced >= _SYNC_BYTES:
            self._wake.set()
        if self._sync_error is not None:
            raise disk_error(self.path, self._sync_error)

    def note_hash(self, digest: str) -> None:
        """Remember the source's hash for a run that goes on."""
        self.sha256 = digest
        self._journal.note_hash(digest)

    def seal(self, metadata: Mapping[str, str]) -> None:
        """Write the header and flush everything to the disk.

        Raises:
            NotEnoughDisk, FileError: the disk refused.
        """
        self._stop_syncing()
        if self._sync_error is not None:
            raise disk_error(self.path, self._sync_error)
        try:
            with open(self.temporary, "r+b", buffering=0) as file:
                file.write(self.layout.header(metadata))
                os.fsync(file.fileno())
                drop_cached(file.fileno(), 0, 0)  # so that it is read back from the disk
        except OSError as error:
            raise disk_error(self.path, error) from error

    def publish(self, checksums: Mapping[str, int], watch: Watch, workers: int, overwrite: bool) -> None:
        """Read the sealed file back, and move it to its final name.

        Raises:
            FileError: what was read back is not what was written.
            OutputExists: the final name is taken and ``overwrite`` is false.
        """
        damaged = find_damage(self.temporary, checksums, watch, workers)
        if damaged:
            raise damage_error(self.path, damaged)
        publish(self.temporary, self.path, overwrite)

    def _keep_syncing(self) -> None:
        """Flush what was written while more is being written, in a thread of its own."""
        while not self._closing:
            self._wake.wait()
            self._wake.clear()
            if self._closing or self._unsynced < _SYNC_BYTES:
                continue
            self._unsynced = 0
            mark = self._journal.mark()
            try:
                with open(self.temporary, "r+b", buffering=0) as file:
                    getattr(os, "fdatasync", os.fsync)(file.fileno())
                    if self._forget:
                        drop_cached(file.fileno(), 0, 0)
                self._journal.note_synced(mark)
            except OSError as error:
                self._sync_error = error
                return

    def _stop_syncing(self) -> None:
        if self._syncer is not None:
            self._closing = True
            self._wake.set()
            with suppress(RuntimeError):  # it has not begun yet, and ends by itself when it does
                self._syncer.join()
            self._syncer = None

    def _remove(self) -> None:
        self._journal.close()
        try:
            self.temporary.unlink(missing_ok=True)
            self._journal.path.unlink(missing_ok=True)
        finally:
            self._lock.release()
