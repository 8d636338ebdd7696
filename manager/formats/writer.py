"""A streaming safetensors writer: the header first, then the tensors one by one, in bounded memory.

The file grows under a temporary name beside its final one and appears there whole or not at all.
Facts that are known only at the end (checksums, errors) fit into room left in the header.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

from ..errors import FileError, NotEnoughDisk, OutputExists
from .dtypes import DTYPE_BITS
from .safetensors import read_header

TEMPORARY_SUFFIX = ".mmpart"
_TEMPORARY = re.compile(r"\.(\d+)-[0-9a-f]+\.mmpart$")
_COPY_BYTES = 8 << 20
_ALIGNMENT = 64


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


def temporary_path(path: Path) -> Path:
    """Return a fresh name beside ``path`` that no model loader lists; it carries our process id."""
    return path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")


def temporary_owner(path: Path) -> int | None:
    """Return the process id in a name made by :func:`temporary_path`, None for any other name."""
    match = _TEMPORARY.search(path.name)
    return int(match[1]) if match else None


class SafetensorsWriter:
    """Write one safetensors file of known tensors.

    A context manager: entering makes the temporary file, leaving without :meth:`finish` removes it.

    Args:
        path: the final name. The folder has to exist.
        tensors: every tensor, in the order in which they lie in the file.
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
        self._offsets: dict[str, tuple[int, int]] = {}
        self._written: dict[str, int] = {}
        self._entries: dict[str, object] = {}
        self._file: BinaryIO | None = None
        position = 0
        for spec in tensors:
            if spec.name in self._offsets:
                raise ValueError(f"tensor {spec.name!r} is given twice")
            end = position + spec.nbytes
            self._offsets[spec.name] = (position, end)
            self._entries[spec.name] = {
                "dtype": spec.dtype,
                "shape": list(spec.shape),
                "data_offsets": [position, end],
            }
            position = end
        self._data_size = position
        needed = len(self._header_json()) + spare
        self._header_size = -(-(needed + 8) // _ALIGNMENT) * _ALIGNMENT - 8

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
            raise FileError(
                f"{self.path.parent} cannot be written to: {error.strerror}.",
                "Choose another folder, or allow writing there. Nothing was written.",
            ) from error
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
        start, end = self._offsets[name]
        done = self._written.get(name, 0)
        if start + done + len(view) > end:
            raise ValueError(f"tensor {name!r} takes {end - start} bytes, not {done + len(view)}")
        try:
            self._stream.seek(8 + self._header_size + start + done)  # writes what the buffer holds
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
        for name, (start, end) in self._offsets.items():
            if self._written.get(name, 0) != end - start:
                raise ValueError(f"tensor {name!r} is not complete")
        self._metadata.update(metadata)
        try:
            self._write_header()
            self._stream.truncate(8 + self._header_size + self._data_size)
            self._stream.flush()
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise disk_error(self.path, error) from error
        self._stream.close()
        damaged = find_damage(self.temporary, self.checksums)
        if damaged:
            raise FileError(
                f"{self.path.name} was not written correctly: tensor {damaged!r} reads back differently.",
                "The disk may be failing. Nothing was left behind; try another disk.",
                tensor=damaged,
            )
        _publish(self.temporary, self.path, overwrite)

    def _header_json(self) -> bytes:
        document: dict[str, object] = {}
        if self._metadata:
            document["__metadata__"] = self._metadata
        document.update(self._entries)
        return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode("utf-8")

    def _write_header(self) -> None:
        text = self._header_json()
        if len(text) > self._header_size:
            raise ValueError(f"the header needs {len(text)} bytes and has {self._header_size}")
        self._stream.seek(0)
        self._stream.write(struct.pack("<Q", self._header_size) + text.ljust(self._header_size, b" "))


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


def find_damage(path: Path, checksums: Mapping[str, int]) -> str | None:
    """Return the first tensor whose CRC-32 differs from ``checksums``, None when all agree.

    Tensors without a recorded checksum are not read. The header is checked in full.
    """
    header = read_header(path)
    buffer = memoryview(bytearray(_COPY_BYTES))
    with open(path, "rb", buffering=0) as file:
        for name, expected in checksums.items():
            info = header.tensors.get(name)
            if info is None:
                return name
            file.seek(header.data_start + info.start)
            found, left = 0, info.nbytes
            while left:
                count = file.readinto(buffer[: min(left, _COPY_BYTES)])
                if not count:
                    return name
                found = zlib.crc32(buffer[:count], found)
                left -= count
            if found != expected:
                return name
    return None


def _publish(temporary: Path, path: Path, overwrite: bool) -> None:
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
