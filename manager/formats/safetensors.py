"""The header of a safetensors file, read and checked without touching a tensor.

Layout (https://github.com/huggingface/safetensors): 8 bytes little-endian header length, the
header as a JSON object padded with spaces, then the tensors back to back.
"""

from __future__ import annotations

import json
import os
import re
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

from ..errors import FileError, InvalidHeader, ModelNotFound, NotSafetensors
from ..units import format_bytes
from .dtypes import DTYPE_BITS
from .sniff import GGUF_FILE, SNIFF_BYTES, describe_foreign

MAX_HEADER_BYTES = 100_000_000
_LENGTH = struct.Struct("<Q")
_MAX_ELEMENTS = 1 << 200  # beyond it a shape is no longer multiplied out: a header may name millions of them
_HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]")
_AGAIN = "The file is damaged: get it again."


class TensorInfo(NamedTuple):
    """One tensor: element type, shape, and its first and last + 1 byte after the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.start

    @property
    def elements(self) -> int:
        return self.nbytes * 8 // DTYPE_BITS[self.dtype]


@dataclass(frozen=True)
class Header:
    """A checked header. ``tensors`` is in file order and covers every byte after ``data_start``.

    ``in_file`` is False where only the header is here: ``path`` is a name then, and no tensor can be read.
    """

    path: Path
    file_size: int
    data_start: int
    metadata: Mapping[str, str]
    tensors: Mapping[str, TensorInfo]
    in_file: bool = True


class _Duplicate(Exception):
    pass


def read_header(path: Path | str) -> Header:
    """Read and fully check the header of the safetensors file at ``path``.

    Raises:
        ModelNotFound: nothing is there.
        FileError: it is a folder, or it cannot be read.
        NotSafetensors: it is another kind of file; the message says which.
        InvalidHeader: it is a safetensors file with a defect; ``details["problem"]`` names it.
    """
    path = Path(path)
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            return _read(path, file)
    except FileNotFoundError:
        raise ModelNotFound(
            f"There is no file at {path}.", "Check the path, or download the model first."
        ) from None
    except OSError as error:
        if os.path.isdir(path):
            raise FileError(f"{path} is a folder.", "Name a model file inside it.") from None
        raise FileError(f"{path} cannot be read: {error.strerror}.", "Check who may read it.") from error
    except ValueError as error:  # a NUL in the name
        raise ModelNotFound(f"{str(path)!r} is no path: {error}.", "Check the path.") from error


def _without_waiting(name: str, flags: int) -> int:
    """Open without waiting for the other end of a named pipe, which is then refused."""
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))


def _read(path: Path, file: BinaryIO) -> Header:
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise FileError(f"{path} is not a regular file.", "Name a model file.")
    size = status.st_size
    start = file.read(SNIFF_BYTES)
    needed = header_end(path, start, size) - len(start)
    return header_from_bytes(path, start + file.read(needed) if needed > 0 else start, size)


def header_end(path: Path, start: bytes, size: int | None) -> int:
    """Return how many bytes from the first one hold the whole header.

    Args:
        path: names the file in words.
        start: its first bytes, ``SNIFF_BYTES`` or more where it has them.
        size: of the whole file, None where nobody says.

    Raises:
        NotSafetensors, InvalidHeader: see :func:`read_header`.
    """
    if not _looks_right(start):
        _refuse_foreign(path, start)
    if len(start) < 8:
        _fail(path, "truncated", f"it has {len(start)} bytes, and the header's length alone takes 8")
    (length,) = _LENGTH.unpack_from(start)
    if length > MAX_HEADER_BYTES:
        _fail(
            path,
            "header_too_large",
            f"its header says it is {length} bytes long, and the format allows {MAX_HEADER_BYTES}",
        )
    if size is not None and 8 + length > size:
        _fail(
            path,
            "truncated",
            f"its header needs {8 + length} bytes and the file has {size}",
            "The download is not complete: get it again.",
        )
    return int(8 + length)


def header_from_bytes(path: Path, start: bytes, size: int | None, in_file: bool = True) -> Header:
    """Check the header in the first bytes of a file, :func:`header_end` of them or more.

    Args:
        path, size: see :func:`header_end`; where nobody says the size, what the tensors need is taken.
        in_file: whether the tensors can be read from ``path``.

    Raises:
        NotSafetensors, InvalidHeader: see :func:`read_header`.
    """
    end = header_end(path, start, size)
    document = _parse(path, start[8:end])
    metadata = _metadata(path, document.pop("__metadata__", None))
    tensors = _tensors(path, document, None if size is None else size - end)
    needed = end + max((info.end for info in tensors.values()), default=0)
    return Header(path, needed if size is None else size, end, metadata, tensors, in_file)


def _looks_right(start: bytes) -> bool:
    """Tell whether a length that the format allows is followed by the start of an object.

    Asked before anything else: the length's first byte may be any, also that of another format.
    """
    return len(start) > 8 and start[8:9] == b"{" and _LENGTH.unpack_from(start)[0] <= MAX_HEADER_BYTES


def _refuse_foreign(path: Path, start: bytes) -> None:
    foreign = describe_foreign(start)
    if foreign:
        raise NotSafetensors(
            f"{path.name} is not a safetensors file: it looks like {foreign}.",
            _remedy_for(foreign),
            looks_like=foreign,
        )


def _remedy_for(foreign: str) -> str:
    if "pickle" in foreign:
        return (
            "Pickles can run code when they are opened, so Managed Models leaves them alone: "
            "use the .safetensors version of this model, or ComfyUI's own loader."
        )
    if foreign == GGUF_FILE:
        return "Use the loader of the ComfyUI-GGUF extension for it."
    return "Get the .safetensors file of this model again."


def _fail(path: Path, problem: str, words: str, remedy: str = _AGAIN, **details: Any) -> NoReturn:
    raise InvalidHeader(
        f"{path.name} is a broken safetensors file: {words}.", remedy, problem=problem, **details
    )


def _parse(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        _fail(path, "not_utf8", f"its header is not UTF-8 text (byte {error.start})")
    try:
        document = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        if _HALF_CHARACTER.search(raw):
            json.dumps(document, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        _fail(path, "not_utf8", "its header has half of a UTF-16 pair in it, which is no character")
    except _Duplicate as error:
        _fail(path, "duplicate_key", f"its header has the key {error.args[0]!r} twice")
    except RecursionError:
        _fail(path, "not_json", "its header is nested without end")
    except ValueError as error:
        _fail(path, "not_json", f"its header is not JSON ({error})")
    if not isinstance(document, dict):
        _fail(path, "not_an_object", f"its header is a JSON {type(document).__name__}, not an object")
    return document


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        raise _Duplicate(next(key for key, _ in pairs if key in seen or seen.add(key)))  # type: ignore[func-returns-value]
    return result


def _metadata(path: Path, found: Any) -> dict[str, str]:
    if found is None:
        return {}
    if not isinstance(found, dict):
        _fail(path, "metadata", f"its __metadata__ is a {type(found).__name__}, not an object")
    for key, value in found.items():
        if not isinstance(value, str):
            kind = type(value).__name__
            _fail(path, "metadata", f"its metadata {key!r} is a {kind}, and only text is allowed")
    return found


def _tensors(path: Path, document: dict[str, Any], data_size: int | None) -> dict[str, TensorInfo]:
    infos: list[tuple[int, int, str, TensorInfo]] = []
    bits_of = DTYPE_BITS.get
    for name, entry in document.items():
        try:
            dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
            start, end = offsets
            bits = bits_of(dtype)
            elements = 1
            if type(shape) is not list:
                raise TypeError
            for dimension in shape:
                if type(dimension) is not int or dimension < 0:
                    raise ValueError
                elements *= dimension
                if elements > _MAX_ELEMENTS:
                    break
        except (TypeError, KeyError, ValueError):
            _explain(path, name, entry)
        if bits is None:
            _fail(path, "dtype", f"tensor {name!r} has the unknown type {dtype!r}", tensor=name)
        if type(start) is not int or type(end) is not int or not 0 <= start <= end:
            _fail(path, "offsets", f"tensor {name!r} has the offsets {offsets!r}", tensor=name)
        if (end - start) * 8 != elements * bits:
            _fail(
                path,
                "size",
                f"tensor {name!r} of type {dtype} and shape {shape} needs {_bytes(elements * bits)}"
                f" and its offsets give {end - start}",
                tensor=name,
            )
        infos.append((start, end, name, TensorInfo(dtype, tuple(shape), start, end)))
    infos.sort()
    _check_cover(path, infos, data_size)
    return {name: info for _, _, name, info in infos}


def _bytes(bits: int) -> str:
    return f"{bits / 8:g} bytes" if bits <= _MAX_ELEMENTS else "more than any file holds"


def _explain(path: Path, name: str, entry: Any) -> NoReturn:
    """Say which part of a tensor's entry has the wrong form."""
    if not isinstance(entry, dict):
        _fail(path, "entry", f"the entry of {name!r} is a {type(entry).__name__}, not an object", tensor=name)
    for key in ("dtype", "shape", "data_offsets"):
        if key not in entry:
            _fail(path, "entry", f"tensor {name!r} has no {key}", tensor=name)
    if not isinstance(entry["dtype"], str):
        _fail(path, "dtype", f"tensor {name!r} has the unknown type {entry['dtype']!r}", tensor=name)
    offsets = entry["data_offsets"]
    if not isinstance(offsets, list) or len(offsets) != 2:
        _fail(path, "offsets", f"tensor {name!r} has the offsets {offsets!r}", tensor=name)
    _fail(path, "shape", f"tensor {name!r} has the shape {entry['shape']!r}", tensor=name)


def _check_cover(path: Path, infos: list[tuple[int, int, str, TensorInfo]], data_size: int | None) -> None:
    """Check that the tensors lie back to back from the first byte of data to the last."""
    position = 0
    for start, end, name, _ in infos:
        if start != position:
            kind = "overlap" if start < position else "hole"
            words = "overlaps the one before it" if kind == "overlap" else "leaves a hole before it"
            _fail(path, kind, f"tensor {name!r} {words} (byte {start}, expected {position})", tensor=name)
        position = end
    if data_size is None:
        return
    if position > data_size:
        _fail(
            path,
            "truncated",
            f"its tensors need {position} bytes and {data_size} are there: "
            f"{format_bytes(position - data_size)} are missing",
            "The download is not complete: get it again.",
            missing_bytes=position - data_size,
        )
    if position < data_size:
        _fail(path, "trailing_bytes", f"{data_size - position} bytes follow its last tensor")
