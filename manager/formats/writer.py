"""A streaming safetensors writer: the header first, then the tensors one by one, in bounded memory.

The file grows under a temporary name beside its final one and appears there whole or not at all.
Facts that are known only at the end (checksums, errors) fit into room left in the header.
"""

from __future__ import annotations

import errno
import json
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

from ..errors import FileError, NotEnoughDisk, OutputExists
from ..watch import Nobody, Watch
from ..workers import work_together
from .dtypes import DTYPE_BITS
from .safetensors import read_header
from .temporary import temporary_path

_COPY_BYTES = 8 << 20
_ALIGNMENT = 64
# What disks and file systems read and write at once.
PAGE = 4096


class TensorSpec(NamedTuple):
    """A tensor to come: its name, safetensors element type and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        bits = DTYPE_BITS[self.dtype]
        for dimension in self.shape:
            bits *= dimension
        return bits // 8


def planned_file_size(specs: Iterable[TensorSpec]) -> int:
    """Return the bytes of data that the tensors will take; the header comes on top."""
    return sum(spec.nbytes for spec in specs)


class FileLayout:
    """Where the header and every tensor of a file lie, known before a byte is written.

    Tensors of whole pages come first, each at the start of a page, so that no two of them share one
    and they can be written past the system's cache; all others follow. The header lists them as given.

    Args:
        tensors: every tensor, in the order in which the header lists them.
        metadata: known now; more may come as long as it fits into ``spare`` bytes.

    Attributes:
        offsets: first and last + 1 byte of each tensor in the file.
        data_start: the first byte after the header.
        file_size: bytes of the whole file.
    """

    def __init__(
        self, tensors: Sequence[TensorSpec], metadata: Mapping[str, str] | None = None, spare: int = 0
    ) -> None:
        self._entries: dict[str, object] = {}
        places: dict[str, tuple[int, int]] = {}
        paged = [spec for spec in tensors if spec.nbytes and spec.nbytes % PAGE == 0]
        others = [spec for spec in tensors if not spec.nbytes or spec.nbytes % PAGE]
        position = 0
        for spec in (*paged, *others):
            if spec.name in places:
                raise ValueError(f"tensor {spec.name!r} is given twice")
            places[spec.name] = (position, position + spec.nbytes)
            position += spec.nbytes
        for spec in tensors:
            entry = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": list(places[spec.name])}
            self._entries[spec.name] = entry
        needed = len(self._header_json(metadata or {})) + spare
        alignment = PAGE if paged else _ALIGNMENT
        self.data_start = -(-(needed + 8) // alignment) * alignment
        self.file_size = self.data_start + position
        first = self.data_start
        self.offsets = {name: (first + start, first + end) for name, (start, end) in places.items()}

    def header(self, metadata: Mapping[str, str]) -> bytes:
        """Return the file's first ``data_start`` bytes."""
        text = self._header_json(metadata)
        size = self.data_start - 8
        if len(text) > size:
            raise ValueError(f"the header needs {len(text)} bytes and has {size}")
        return struct.pack("<Q", size) + text.ljust(size, b" ")

    def _header_json(self, metadata: Mapping[str, str]) -> bytes:
        document: dict[str, object] = {}
        if metadata:
            document["__metadata__"] = dict(metadata)
        document.update(self._entries)
        return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode("utf-8")


class SafetensorsWriter:
    """Write one safetensors file of known tensors.

    A context manager: entering makes the temporary file, leaving without :meth:`finish` removes it.

    Args:
        path: the final name. The folder has to exist.
        tensors: every tensor, in the order in which the header lists them.
        metadata: known now; :meth:`finish` adds more.
        spare: bytes of header to keep free for what :meth:`finish` adds.

    Raises:
        FileError: on entering, when the folder is missing or cannot be written to.
    """

    def __init__(
        self,
        path: Path,
        tensors: Sequence[TensorSpec],
        metadata: Mapping[str, str],
        spare: int = 0,
    ) -> None:
        self.path = path
        self.temporary = temporary_path(path)
        self.checksums: dict[str, int] = {}
        self._metadata = dict(metadata)
        self._layout = FileLayout(tensors, metadata, spare)
        self._written: dict[str, int] = {}
        self._file: BinaryIO | None = None

    def __enter__(self) -> SafetensorsWriter:
        try:
            self._open()
        except BaseException:  # __exit__ is not called for these
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._remove()

    def _open(self) -> None:
        try:
            self._file = open(self.temporary, "xb")  # noqa: SIM115  # _remove closes it
        except OSError as error:
            raise folder_error(self.path, error) from error
        try:
            self._write_header()
            self._stream.flush()
        except OSError as error:
            raise disk_error(self.path, error) from error

    @property
    def _stream(self) -> BinaryIO:
        if self._file is None:
            raise ValueError("the writer has to be entered first")
        return self._file

    def _remove(self) -> None:
        if self._file is None:  # nothing was made
            return
        try:
            self._file.close()
        except OSError:  # what the disk would not take before, it will not take now
            pass
        finally:
            self.temporary.unlink(missing_ok=True)

    def write(self, name: str, data: bytes | bytearray | memoryview) -> None:
        """Append ``data`` to the tensor ``name``; a tensor may come in any number of pieces."""
        view = memoryview(data).cast("B")
        start, end = self._layout.offsets[name]
        done = self._written.get(name, 0)
        if start + done + len(view) > end:
            raise ValueError(f"tensor {name!r} takes {end - start} bytes, not {done + len(view)}")
        try:
            self._stream.seek(start + done)  # writes what the buffer holds
            self._stream.write(view)
        except OSError as error:
            raise disk_error(self.path, error) from error
        self.checksums[name] = zlib.crc32(view, self.checksums.get(name, 0))
        self._written[name] = done + len(view)

    def finish(self, metadata: Mapping[str, str], overwrite: bool = False) -> None:
        """Add ``metadata``, flush to the disk, read everything back, and move it into place.

        Raises:
            FileError: what was read back is not what was written.
            OutputExists: the final name is taken and ``overwrite`` is false.
        """
        for name, (start, end) in self._layout.offsets.items():
            if self._written.get(name, 0) != end - start:
                raise ValueError(f"tensor {name!r} is not complete")
        self._metadata.update(metadata)
        try:
            self._write_header()
            self._stream.truncate(self._layout.file_size)
            self._stream.flush()
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise disk_error(self.path, error) from error
        self._stream.close()
        damaged = find_damage(self.temporary, self.checksums)
        if damaged:
            raise damage_error(self.path, damaged)
        publish(self.temporary, self.path, overwrite)

    def _write_header(self) -> None:
        self._stream.seek(0)
        self._stream.write(self._layout.header(self._metadata))


def folder_error(path: Path, error: OSError) -> FileError:
    """Return our error for an operating-system error that came up when ``path`` was to be made."""
    return FileError(
        f"{path.parent} cannot be written to: {error.strerror}.",
        "Choose another folder, or allow writing there. Nothing was written.",
    )


def damage_error(path: Path, tensor: str) -> FileError:
    """Return the error for a tensor that reads back differently from what was written."""
    return FileError(
        f"{path.name} was not written correctly: tensor {tensor!r} reads back differently.",
        "The disk may be failing. Nothing was left behind; try another disk.",
        tensor=tensor,
    )


def disk_error(path: Path, error: OSError) -> FileError | NotEnoughDisk:
    """Return our error for an operating-system error that came up while ``path`` was written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NotEnoughDisk(
            f"The disk became full while {path.name} was written.",
            "Free some room and start again. Nothing was left behind.",
        )
    return FileError(
        f"{path.name} could not be written: {error.strerror}.",
        "Check the disk. Nothing was left behind.",
    )


def find_damage(
    path: Path, checksums: Mapping[str, int], watch: Watch | None = None, workers: int = 1
) -> str | None:
    """Return the first tensor whose CRC-32 differs from ``checksums``, None when all agree.

    Tensors without a recorded checksum are not read. The header is checked in full.

    Args:
        watch: may stop it.
        workers: threads that read.
    """
    header = read_header(path)
    names = list(checksums)
    damaged: list[int] = []
    numbers = iter(range(len(names)))
    turn = threading.Lock()

    def check(tick: Callable[[], None]) -> None:
        buffer = memoryview(bytearray(_COPY_BYTES))
        with open(path, "rb", buffering=0) as file:
            while True:
                with turn:
                    number = next(numbers, None)
                if number is None or damaged:
                    return
                info = header.tensors.get(names[number])
                start = 0 if info is None else header.data_start + info.start
                found = None if info is None else _checksum(file, start, info.nbytes, buffer, tick)
                if found != checksums[names[number]]:
                    damaged.append(number)

    work_together(workers, check, watch or Nobody())
    return names[min(damaged)] if damaged else None


def _checksum(
    file: BinaryIO, start: int, left: int, buffer: memoryview, tick: Callable[[], None]
) -> int | None:
    """Return the CRC-32 of ``left`` bytes from ``start`` on, None when the file is shorter."""
    file.seek(start)
    found = 0
    while left:
        tick()
        count = file.readinto(buffer[: min(left, len(buffer))])  # type: ignore[attr-defined]
        if not count:
            return None
        found = zlib.crc32(buffer[:count], found)
        left -= count
    return found


def publish(temporary: Path, path: Path, overwrite: bool) -> None:
    """Move ``temporary`` to ``path`` in one step; without ``overwrite`` never onto another file."""
    try:
        if overwrite:
            os.replace(temporary, path)
        else:
            _publish_new(temporary, path)
    except IsADirectoryError as error:
        raise FileError(f"{path.name} is a folder.", "Choose another name.") from error
    except PermissionError as error:
        raise FileError(
            f"{path.name} is in use and cannot be replaced: {error.strerror}.",
            "Unload that model (or stop ComfyUI) and try again, or choose another name.",
        ) from error
    _sync_folder(path.parent)


def _publish_new(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)  # fails when the name is taken, unlike a rename on POSIX
    except FileExistsError:
        taken = True
    except OSError:  # a file system without hard links
        taken = path.exists()
        if not taken:
            os.replace(temporary, path)
    else:
        taken = False
        temporary.unlink()
    if taken:
        raise OutputExists(
            f"{path.name} appeared while the new file was being written.",
            "Choose another name, or allow overwriting.",
        )


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut, where folders can be flushed (not on Windows)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
