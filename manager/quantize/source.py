"""The model that is read: one safetensors file, or the parts that an index names."""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..errors import FileError, ModelNotFound
from ..files import FileIdentity
from ..formats.safetensors import Header, read_header
from ..formats.shards import is_index, read_shards

_HASH_BYTES = 4 << 20


@dataclass(frozen=True)
class Part:
    """One file. ``first`` is where its data begins among the data of all parts."""

    file: FileIdentity
    data_start: int
    first: int


@dataclass(frozen=True)
class Source:
    """A model to read.

    Attributes:
        path: the file, or the index.
        header: of the whole model; offsets count through the data of all parts.
        parts: in the order of their data.
        index: identity of the index, None for one file.
    """

    path: Path
    header: Header
    parts: tuple[Part, ...]
    index: FileIdentity | None = None

    @property
    def identity(self) -> FileIdentity:
        """The model as one file: bytes of all parts, and the newest time among them."""
        files = [part.file for part in self.parts]
        if self.index is None:
            return files[0]
        newest = max(file.mtime_ns for file in (*files, self.index))
        return FileIdentity(self.path, sum(file.size for file in files), newest)

    @property
    def digest(self) -> str:
        """Changes with any file's size or time, and with what the headers say."""
        files = [(part.file.path.name, part.file.size, part.file.mtime_ns) for part in self.parts]
        facts = [files, dict(self.header.metadata), list(self.header.tensors.items())]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def check_unchanged(self) -> None:
        """Raise FileError when a file is not what it was when its header was read."""
        for part in self.parts:
            try:
                same = FileIdentity.of(part.file.path) == part.file
            except ModelNotFound:
                same = False
            if not same:
                raise FileError(
                    f"{part.file.path.name} changed while it was being read.",
                    "Start again when nothing writes to it any more. Nothing was left behind.",
                )


def read_source(path: Path) -> Source:
    """Read and check the header of a model, or those of all its parts.

    Raises:
        ModelNotFound: a file is not there.
        FileError: a header, or the index, is broken.
    """
    if not is_index(path):
        file = FileIdentity.of(path)
        header = read_header(path)
        return Source(path, header, (Part(file, header.data_start, 0),))
    index = FileIdentity.of(path)
    joined, headers = read_shards(path)
    parts: list[Part] = []
    first = 0
    for header in headers:
        parts.append(Part(FileIdentity.of(header.path), header.data_start, first))
        first += header.file_size - header.data_start
    return Source(path, joined, tuple(parts), index)


class Reader:
    """Reads a source's data through handles of its own: one for each thread."""

    def __init__(self, source: Source) -> None:
        self._parts = source.parts
        self._firsts = [part.first for part in source.parts]
        self._files: dict[int, BinaryIO] = {}

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def read(self, position: int, view: memoryview) -> None:
        """Fill ``view`` with the data from ``position`` on; a tensor lies in one part.

        Raises:
            FileError: the file is shorter than its header said.
        """
        number, start = self._place(position)
        file = self._open(number)
        file.seek(start)
        fill(file, view, self._parts[number].file.path)

    def forget(self, position: int, length: int) -> None:
        """Let go of what the system caches of the data from ``position`` on."""
        end = position + length
        while position < end:
            number, start = self._place(position)
            last = self._firsts[number + 1] if number + 1 < len(self._firsts) else end
            drop_cached(self._open(number).fileno(), start, min(end, last) - position)
            position = min(end, last)

    def _place(self, position: int) -> tuple[int, int]:
        number = bisect_right(self._firsts, position) - 1
        part = self._parts[number]
        return number, part.data_start + position - part.first

    def _open(self, number: int) -> BinaryIO:
        if number not in self._files:
            self._files[number] = open_to_read(self._parts[number].file.path)
        return self._files[number]


def open_to_read(path: Path) -> BinaryIO:
    """Open without a buffer.

    Raises:
        FileError: it cannot be read any more.
    """
    try:
        return open(path, "rb", buffering=0)  # type: ignore[return-value]
    except OSError as error:
        raise FileError(
            f"{path.name} cannot be read: {error.strerror}.", "Check who may read it, and start again."
        ) from error


def fill(file: BinaryIO, view: memoryview, path: Path) -> None:
    """Read as many bytes as ``view`` takes."""
    done = 0
    while done < len(view):
        count = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise FileError(
                f"{path.name} became shorter while it was being read.",
                "Start again when nothing writes to it any more. Nothing was left behind.",
            )
        done += count


def drop_cached(descriptor: int, start: int, length: int) -> None:
    """Tell the system that these bytes are not needed any more, where it can be told."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, start, length, os.POSIX_FADV_DONTNEED)


def source_sha256(source: Source, tick: Callable[[int], None]) -> str:
    """Return the SHA-256 of the file; of a model in parts, that of all parts one after the other.

    Args:
        tick: called before each piece with how much of the parts' data is hashed; may raise to stop.
    """
    digest = hashlib.sha256()
    view = memoryview(bytearray(_HASH_BYTES))
    for part in source.parts:
        with _opened(part.file.path) as file:
            for start in range(0, part.file.size, _HASH_BYTES):
                tick(part.first + max(0, start - part.data_start))
                piece = view[: min(_HASH_BYTES, part.file.size - start)]
                fill(file, piece, part.file.path)
                digest.update(piece)
    return digest.hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    file = open_to_read(path)
    try:
        yield file
    finally:
        file.close()
