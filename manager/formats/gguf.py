"""The header of a GGUF file, read and checked without touching a tensor.

Layout (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), little-endian: magic ``GGUF``,
version, counts of tensors and of key-value pairs, the pairs, one entry per tensor, then the aligned
data. Names and sizes of the element types come from the ``gguf`` package where it is installed.
"""

from __future__ import annotations

import io
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

from ..errors import FileError, InvalidGguf, ModelNotFound
from ..units import format_bytes

MAGIC = b"GGUF"
# A tokenizer in the header takes 10 MB; nothing real comes near these.
MAX_HEADER_BYTES = 100_000_000
MAX_TENSORS = 200_000
MAX_FIELDS = 200_000
_MAX_NAME_BYTES = 64 * 1024
_MAX_DIMENSIONS = 8  # ggml knows 4, and Wan's converters write 5
_VERSIONS = (2, 3)
_KEPT_ITEMS = 16  # longer arrays are tokenizers
_ALIGNMENT = 32
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_STRING, _ARRAY = 8, 9
_SCALARS = {
    code: struct.Struct("<" + letter)
    for code, letter in zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True)
}
_AGAIN = "The file is damaged: get it again."


class ShortRead(Exception):
    """The header goes on after the bytes that are here."""


class GgufTensor(NamedTuple):
    """One tensor: shape as PyTorch writes it, ggml's number of its type, bytes (None if unknown)."""

    shape: tuple[int, ...]
    type: int
    offset: int
    nbytes: int | None

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class GgufHeader:
    """A checked header.

    Attributes:
        fields: numbers, texts and short arrays by key; a long array is left out.
        tensors: by name, in file order.
        types: ggml's number of each type that occurs -> its name; empty without the ``gguf`` package.
    """

    path: Path
    file_size: int
    data_start: int
    version: int
    fields: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]
    types: Mapping[int, str]

    @property
    def architecture(self) -> str:
        """What the file says it is, in llama.cpp's and ComfyUI-GGUF's words; empty when it does not."""
        found = self.fields.get("general.architecture")
        return found if isinstance(found, str) else ""


def looks_like_gguf(start: bytes) -> bool:
    """Tell whether a file's first bytes are those of GGUF."""
    return start[:4] == MAGIC


def read_gguf(path: Path | str) -> GgufHeader:
    """Read and check the header of the GGUF file at ``path``.

    Raises:
        ModelNotFound: nothing is there.
        FileError: it cannot be read.
        InvalidGguf: it is broken; ``details["problem"]`` names the defect.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            try:
                return _Reader(path, file, size).header()
            except ShortRead:
                _fail(path, "truncated", "it ends inside its header")
    except FileNotFoundError:
        raise ModelNotFound(
            f"There is no file at {path}.", "Check the path, or download the model first."
        ) from None
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}.", "Check who may read it.") from error


def gguf_from_bytes(path: Path, data: bytes, size: int | None) -> GgufHeader:
    """Check the header in a file's first bytes.

    Args:
        path: names the file in words.
        size: of the whole file, None where nobody says.

    Raises:
        ShortRead: more bytes are needed.
        InvalidGguf: see :func:`read_gguf`.
    """
    return _Reader(path, io.BytesIO(data), size).header()


def _fail(path: Path, problem: str, words: str, remedy: str = _AGAIN) -> NoReturn:
    raise InvalidGguf(f"{path.name} is a broken GGUF file: {words}.", remedy, problem=problem)


class _Reader:
    """Walks through one header; every length is held against the file before anything is read."""

    def __init__(self, path: Path, file: BinaryIO, size: int | None) -> None:
        self._path = path
        self._file = file
        self._size = size
        self._position = 0

    def header(self) -> GgufHeader:
        if self._take(4, "its magic") != MAGIC:
            _fail(self._path, "magic", "it does not begin with GGUF")
        version = self._version()
        tensor_count, field_count = self._u64("its counts"), self._u64("its counts")
        self._check_count("tensors", tensor_count, MAX_TENSORS, 24)
        self._check_count("metadata fields", field_count, MAX_FIELDS, 13)
        fields = self._fields(field_count)
        entries = self._entries(tensor_count)
        start = self._data_start(fields)
        known = known_types()
        tensors = {name: self._tensor(name, entry, fields, known) for name, entry in entries.items()}
        end = start + self._check_layout(tensors, start)
        types = {t.type: known[t.type].name for t in tensors.values() if t.type in known}
        size = end if self._size is None else self._size
        return GgufHeader(self._path, size, start, version, fields, tensors, types)

    def _version(self) -> int:
        version = self._u32("its version")
        if version & 0xFFFF == 0 and version:
            _fail(self._path, "byte_order", "it is written for big-endian machines", "Get another one.")
        if version not in _VERSIONS:
            words = f"its version is {version}, and {' and '.join(map(str, _VERSIONS))} are known"
            _fail(self._path, "version", words)
        return version

    def _check_count(self, what: str, count: int, limit: int, least: int) -> None:
        left = self._left()
        if count > limit or count * least > left:
            words = f"it says it has {count} {what}, and {format_bytes(left)} are left for them"
            _fail(self._path, "count", words if count <= limit else f"it says it has {count} {what}")

    def _fields(self, count: int) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for _ in range(count):
            key = self._text("a metadata key", _MAX_NAME_BYTES)
            if key in fields:
                _fail(self._path, "duplicate_key", f"it has the metadata key {key[:80]!r} twice")
            fields[key] = self._value(self._u32(f"the type of {key[:80]!r}"), key)
        return {key: value for key, value in fields.items() if value is not None}

    def _value(self, kind: int, key: str) -> Any:
        where = f"the value of {key[:80]!r}"
        if kind in _SCALARS:
            layout = _SCALARS[kind]
            return layout.unpack(self._take(layout.size, where))[0]
        if kind == _STRING:
            return self._text(where, MAX_HEADER_BYTES)
        if kind == _ARRAY:
            return self._array(self._u32(where), self._u64(where), where)
        _fail(self._path, "value_type", f"{where} is of the unknown type {kind}")

    def _array(self, kind: int, count: int, where: str) -> tuple[Any, ...] | None:
        layout = _SCALARS.get(kind)
        if layout is None and kind != _STRING:
            _fail(self._path, "value_type", f"{where} is an array of the unknown type {kind}")
        least = layout.size if layout else 8
        if count * least > self._left():
            words = f"{where} has {count} items, and {format_bytes(self._left())} are left for them"
            _fail(self._path, "count", words)
        if layout is None:
            if count <= _KEPT_ITEMS:
                return tuple(self._text(where, MAX_HEADER_BYTES) for _ in range(count))
            for _ in range(count):
                self._skip(self._u64(where), where)
            return None
        if count > _KEPT_ITEMS:
            self._skip(count * layout.size, where)
            return None
        raw = self._take(count * layout.size, where)
        return tuple(item for (item,) in layout.iter_unpack(raw)) if raw else ()

    def _entries(self, count: int) -> dict[str, tuple[tuple[int, ...], int, int]]:
        entries: dict[str, tuple[tuple[int, ...], int, int]] = {}
        for number in range(count):
            name = self._text(f"the name of tensor {number}", _MAX_NAME_BYTES)
            where = f"tensor {name[:80]!r}"
            if name in entries:
                _fail(self._path, "duplicate_key", f"it has {where} twice")
            dimensions = self._u32(where)
            if dimensions > _MAX_DIMENSIONS:
                _fail(self._path, "shape", f"{where} says it has {dimensions} dimensions")
            shape = tuple(self._u64(where) for _ in range(dimensions))
            if math.prod(shape) >= 1 << 62:
                _fail(self._path, "shape", f"{where} has the shape {shape}")
            entries[name] = shape, self._u32(where), self._u64(where)
        return entries

    def _data_start(self, fields: Mapping[str, Any]) -> int:
        alignment = fields.get("general.alignment", _ALIGNMENT)
        if type(alignment) is not int or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
            _fail(self._path, "alignment", f"its alignment is {alignment!r}, which is no power of two")
        return -(-self._position // alignment) * alignment

    def _tensor(
        self,
        name: str,
        entry: tuple[tuple[int, ...], int, int],
        fields: Mapping[str, Any],
        known: Mapping[int, GgmlType],
    ) -> GgufTensor:
        shape, kind, offset = entry
        nbytes = None
        if kind in known:
            row = shape[0] if shape else 1
            blocks, rest = divmod(row, known[kind].block)
            if rest:
                packs = f"{known[kind].name} packs {known[kind].block} weights"
                _fail(self._path, "shape", f"tensor {name[:80]!r} has rows of {row}, and {packs}")
            nbytes = blocks * known[kind].nbytes * math.prod(shape[1:])
        return GgufTensor(_torch_shape(name, shape, fields), kind, offset, nbytes)

    def _check_layout(self, tensors: Mapping[str, GgufTensor], start: int) -> int:
        """Check that no two tensors overlap and that the file has them all; return where the last ends."""
        end = 0
        for name, tensor in sorted(tensors.items(), key=lambda item: item[1].offset):
            if tensor.offset < end:
                _fail(self._path, "overlap", f"tensor {name[:80]!r} overlaps the one before it")
            end = tensor.offset + (tensor.nbytes or 0)
        if self._size is not None and tensors and start + end > self._size:
            missing = format_bytes(start + end - self._size)
            _fail(
                self._path,
                "truncated",
                f"its tensors need {start + end} bytes and {self._size} are there: {missing} are missing",
                "The download is not complete: get it again.",
            )
        return end

    def _left(self) -> int:
        limit = MAX_HEADER_BYTES if self._size is None else min(self._size, MAX_HEADER_BYTES)
        return max(0, limit - self._position)

    def _reserve(self, count: int, where: str) -> None:
        if count > self._left():
            if self._size is not None and self._position + count > self._size:
                words = f"it has {self._size} bytes and ends inside {where}"
                _fail(self._path, "truncated", words, "The download is not complete: get it again.")
            _fail(self._path, "header_too_large", f"{where} goes past {MAX_HEADER_BYTES} bytes of header")
        self._position += count

    def _take(self, count: int, where: str) -> bytes:
        self._reserve(count, where)
        data = self._file.read(count)
        if len(data) < count:
            raise ShortRead
        return data

    def _skip(self, count: int, where: str) -> None:
        self._reserve(count, where)
        self._file.seek(count, os.SEEK_CUR)

    def _u32(self, where: str) -> int:
        return int(_U32.unpack(self._take(4, where))[0])

    def _u64(self, where: str) -> int:
        return int(_U64.unpack(self._take(8, where))[0])

    def _text(self, where: str, limit: int) -> str:
        length = self._u64(where)
        if length > limit:
            _fail(self._path, "count", f"{where} is {length} bytes long")
        try:
            return self._take(length, where).decode("utf-8")
        except UnicodeDecodeError:
            _fail(self._path, "not_utf8", f"{where} is not UTF-8 text")


def _torch_shape(name: str, shape: tuple[int, ...], fields: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape in PyTorch's order; ComfyUI-GGUF's converter notes one that it had to flatten."""
    original = fields.get(f"comfy.gguf.orig_shape.{name}")
    if (
        isinstance(original, tuple)
        and all(type(d) is int and d >= 0 for d in original)
        and math.prod(original) == math.prod(shape)
    ):
        return original
    return shape[::-1]


class GgmlType(NamedTuple):
    """One element type: its name, and how many elements and bytes a block of it has."""

    name: str
    block: int
    nbytes: int


def known_types() -> dict[int, GgmlType]:
    """Return the element types that the ``gguf`` package knows, by number; none without it."""
    try:
        from gguf.constants import GGML_QUANT_SIZES
    except ImportError:
        return {}
    return {int(kind): GgmlType(kind.name, *sizes) for kind, sizes in GGML_QUANT_SIZES.items()}
