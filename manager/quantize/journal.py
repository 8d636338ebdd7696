"""What a run has written so far, so that the next one can go on after it was killed.

A text file beside the unfinished one: a first line that says which run it is, then one line for each
block of a tensor. Every line carries its own CRC-32, and reading stops at the first that is not whole.
Small pieces of a block, such as the scales of its rows, stand in the line itself: hundreds of small writes
into a file that several threads write to make them wait for each other.
What a process wrote survives its end, but not that of the machine: after a restart only what lies
before the last "synced" line counts, since everything before it was flushed to the disk.
"""

from __future__ import annotations

import json
import os
import threading
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import psutil

VERSION = 2
_SYNCED = "synced"
_HASHED = "sha256"


class TensorState(NamedTuple):
    """How far one tensor of the source is.

    Attributes:
        blocks: how many of its blocks are written.
        written: bytes of each of its outputs.
        checksums: CRC-32 of those bytes.
        noise, signal: sums of squares of those blocks, see ``kernels.Error``.
        pending: what comes after the written bytes of each output, and is in the journal only.
    """

    blocks: int = 0
    written: tuple[int, ...] = ()
    checksums: tuple[int, ...] = ()
    noise: float = 0.0
    signal: float = 0.0
    pending: tuple[bytes, ...] = ()


class Found(NamedTuple):
    """What an earlier run left: states by tensor number, the source's hash if it was known."""

    states: Mapping[int, TensorState]
    sha256: str | None
    size: int


class Journal:
    """Appends to a journal. Safe to call from any thread.

    Args:
        path: the file.
        run: identifies the run; an earlier journal of another one is overwritten.
    """

    def __init__(self, path: Path, run: str) -> None:
        self.path = path
        self._run = run
        self._file: BinaryIO | None = None
        self._lock = threading.Lock()
        self._lines = 0

    def resume(self) -> Found | None:
        """Go on after the lines of an earlier run of the same kind; None when there are none."""
        found = _read(self.path, self._run)
        if found is None:
            return None
        lines, kept = found
        self._file = open(self.path, "r+b", buffering=0)  # type: ignore[assignment]  # noqa: SIM115
        self._stream.truncate(kept.size)
        self._stream.seek(kept.size)
        self._lines = lines
        return kept

    def start(self) -> None:
        """Begin a new journal."""
        self._file = open(self.path, "wb", buffering=0)  # type: ignore[assignment]  # noqa: SIM115
        self._append({"version": VERSION, "run": self._run, "pid": os.getpid(), "boot": _boot()})

    def note(self, tensor: int, state: TensorState, added: Sequence[bytes] = ()) -> None:
        """Say that ``state`` is written (it need not be on the disk yet).

        Args:
            added: what is new among the pending bytes of each output.
        """
        *facts, _ = state
        self._append([tensor, *facts, [piece.hex() for piece in added]])

    def note_hash(self, digest: str) -> None:
        """Say what the SHA-256 of the source is."""
        self._append([_HASHED, digest])

    def mark(self) -> int:
        """Return a mark: what has been noted until now."""
        return self._lines

    def note_synced(self, mark: int) -> None:
        """Say that everything up to a mark was flushed to the disk; call it after that."""
        self._append([_SYNCED, mark])
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def _stream(self) -> BinaryIO:
        if self._file is None:
            raise ValueError("the journal is not open")
        return self._file

    def _append(self, entry: Any) -> None:
        text = json.dumps(entry, separators=(",", ":")).encode()
        with self._lock:
            self._stream.write(b"%08x %s\n" % (zlib.crc32(text), text))
            self._lines += 1


def writer_of(path: Path) -> int | None:
    """Return the process that began the journal at ``path``, None when nobody can tell."""
    try:
        with open(path, "rb") as file:
            first = _entry(file.readline())
        return int(first["pid"])
    except (OSError, TypeError, KeyError, ValueError):
        return None


def _read(path: Path, run: str) -> tuple[int, Found] | None:
    try:
        raw = path.read_bytes()
    except OSError:
        return None
    entries: list[Any] = []
    ends: list[int] = []
    position = 0
    for line in raw.splitlines(keepends=True):
        entry = _entry(line)
        if entry is None:
            break
        position += len(line)
        entries.append(entry)
        ends.append(position)
    first = entries[0] if entries else None
    if not isinstance(first, dict) or first.get("run") != run or first.get("version") != VERSION:
        return None
    count = len(entries)
    if first.get("boot") != _boot():
        count = max((e[1] for e in entries[1:] if e[0] == _SYNCED), default=0)
    if count < 1:
        return None
    states: dict[int, TensorState] = {}
    sha256 = None
    for entry in entries[1:count]:
        if entry[0] == _HASHED:
            sha256 = entry[1]
        elif entry[0] != _SYNCED:
            number, blocks, written, checksums, noise, signal, added = entry
            pending = _pending(states.get(number), written, added)
            states[number] = TensorState(blocks, tuple(written), tuple(checksums), noise, signal, pending)
    return count, Found(states, sha256, ends[count - 1])


def _pending(before: TensorState | None, written: list[int], added: list[str]) -> tuple[bytes, ...]:
    """Return what is pending after a line: an output that was written to has nothing left."""
    pieces = [bytes.fromhex(piece) for piece in added]
    if before is None or not before.pending:
        return tuple(pieces)
    kept = [
        old if count == last else b""
        for old, count, last in zip(before.pending, written, before.written, strict=True)
    ]
    return tuple(old + new for old, new in zip(kept, pieces or [b""] * len(kept), strict=True))


def _entry(line: bytes) -> Any:
    """Return what a whole line says, None for any other."""
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
        return None
    return json.loads(text)


def _boot() -> str:
    """Name this start of the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(round(psutil.boot_time(), -1))  # it wanders by a second
