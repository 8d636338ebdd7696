"""GGUF headers: whole ones, broken ones, and any bytes at all."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest
from gguf import GGUFReader
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from managed_models.manager.errors import InvalidGguf, ModelNotFound
from managed_models.manager.formats.gguf import ShortRead, gguf_from_bytes, known_types, read_gguf
from support.gguf_files import gguf_file

SHAPES = {"a.weight": (4, 512), "b.weight": (3, 256), "c.bias": (7,), "conv.weight": (2, 3, 1, 4, 5)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return gguf_file(tmp_path / "model.gguf", SHAPES, "wan", fields={"general.name": "x", "list": [1, 2]})


def raw(tensors: int = 0, fields: int = 0, rest: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, fields) + rest


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    dims = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + dims + struct.pack("<IQ", kind, offset)


def padded(data: bytes, more: int) -> bytes:
    return data + bytes(-len(data) % 32) + bytes(more)


def test_it_agrees_with_the_gguf_package(file: Path) -> None:
    header, theirs = read_gguf(file), GGUFReader(file)
    assert header.version == 3
    assert header.architecture == "wan"
    assert header.fields["list"] == (1, 2)
    assert header.fields["general.name"] == "x"
    assert header.data_start == theirs.data_offset
    for found in theirs.tensors:
        ours = header.tensors[found.name]
        assert ours.shape == tuple(int(d) for d in reversed(found.shape)), found.name
        assert ours.nbytes == int(found.n_bytes)
        assert header.data_start + ours.offset == int(found.data_offset)
        assert header.types[ours.type] == found.tensor_type.name
    assert list(header.tensors) == list(SHAPES)


def test_the_original_shape_counts(tmp_path: Path) -> None:
    file = gguf_file(tmp_path / "a.gguf", {"conv.weight": (320, 4, 3, 3)}, "sd1", flatten=True)
    assert read_gguf(file).tensors["conv.weight"].shape == (320, 4, 3, 3)


def test_no_tensor_is_read(tmp_path: Path) -> None:
    """A header of many tensors over a hole: the file is far larger than what is here of it."""
    header = raw(1, 0, tensor("a", (1 << 33,)))
    path = tmp_path / "large.gguf"
    path.write_bytes(padded(header, 0))
    with open(path, "r+b") as handle:
        handle.truncate(path.stat().st_size + (1 << 35))
    assert read_gguf(path).tensors["a"].nbytes == 1 << 35


def test_long_arrays_are_passed_over(tmp_path: Path) -> None:
    words = [f"token {i}" for i in range(5000)]
    file = gguf_file(
        tmp_path / "a.gguf", SHAPES, "llama", fields={"tokens": words, "scores": list(range(99))}
    )
    header = read_gguf(file)
    assert "tokens" not in header.fields
    assert "scores" not in header.fields
    assert len(header.tensors) == len(SHAPES)


def test_without_the_package_types_have_no_size(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.setitem(sys.modules, "gguf.constants", None)
    assert known_types() == {}
    header = read_gguf(file)
    assert header.types == {}
    assert {t.nbytes for t in header.tensors.values()} == {None}


LIE = 1 << 60
BROKEN = {
    "magic only": (b"GGUF", "truncated"),
    "no counts": (raw()[:12], "truncated"),
    "version": (raw(version=9), "version"),
    "version 1": (raw(version=1), "version"),
    "big endian": (raw(version=3 << 24), "byte_order"),
    "tensors": (raw(tensors=LIE), "count"),
    "fields": (raw(fields=LIE), "count"),
    "more tensors than fit": (raw(tensors=2, rest=tensor("a", (1,))), "count"),
    "key": (raw(fields=1, rest=struct.pack("<Q", LIE) + bytes(64)), "count"),
    "key that ends late": (raw(fields=1, rest=struct.pack("<Q", 500) + bytes(64)), "truncated"),
    "key no text": (raw(fields=1, rest=text(b"\xff\xfe") + struct.pack("<IB", 0, 1)), "not_utf8"),
    "value of no type": (raw(fields=1, rest=text("key") + struct.pack("<I", 77) + bytes(8)), "value_type"),
    "value cut": (raw(fields=1, rest=text("key") + struct.pack("<I", 10) + bytes(2)), "truncated"),
    "array too long": (
        raw(fields=1, rest=text("key") + struct.pack("<IIQ", 9, 4, LIE) + bytes(8)),
        "count",
    ),
    "array of texts too long": (
        raw(fields=1, rest=text("key") + struct.pack("<IIQ", 9, 8, LIE) + bytes(8)),
        "count",
    ),
    "array of arrays": (
        raw(fields=1, rest=text("key") + struct.pack("<IIQ", 9, 9, 1) + bytes(8)),
        "value_type",
    ),
    "same key twice": (raw(fields=2, rest=(text("key") + struct.pack("<IB", 0, 1)) * 2), "duplicate_key"),
    "same tensor twice": (padded(raw(2, 0, tensor("a", (1,)) * 2), 64), "duplicate_key"),
    "dimensions": (padded(raw(1, 0, text("a") + struct.pack("<I", LIE >> 40) + bytes(64)), 64), "shape"),
    "shape": (padded(raw(1, 0, tensor("a", (LIE, LIE))), 64), "shape"),
    "row of half a block": (padded(raw(1, 0, tensor("a", (100, 2), kind=12)), 4096), "shape"),
    "overlap": (padded(raw(2, 0, tensor("a", (8,)) + tensor("b", (8,), offset=16)), 64), "overlap"),
    "data missing": (padded(raw(1, 0, tensor("a", (1024,))), 100), "truncated"),
    "data far away": (padded(raw(1, 0, tensor("a", (1,), offset=LIE)), 100), "truncated"),
    "alignment": (
        padded(raw(0, 1, text("general.alignment") + struct.pack("<II", 4, 33)), 64),
        "alignment",
    ),
    "alignment none": (
        padded(raw(0, 1, text("general.alignment") + struct.pack("<II", 4, 0)), 64),
        "alignment",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_explained(tmp_path: Path, case: str) -> None:
    data, problem = BROKEN[case]
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(InvalidGguf) as caught:
        read_gguf(path)
    assert caught.value.details["problem"] == problem
    assert caught.value.message.startswith("bad.gguf is a broken GGUF file: ")
    assert caught.value.remedy


def test_a_partial_download_says_how_much_is_missing(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[:-100])
    with pytest.raises(InvalidGguf, match="100 bytes are missing"):
        read_gguf(file)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        read_gguf(tmp_path / "a.gguf")


def test_every_beginning_of_a_header_asks_for_more(file: Path) -> None:
    data = file.read_bytes()
    start = read_gguf(file).data_start
    end = data.index(b"conv.weight") + len("conv.weight") + 4 + 5 * 8 + 12
    assert end <= start
    for length in range(0, end, 7):
        with pytest.raises(ShortRead):
            gguf_from_bytes(file, data[:length], len(data))
    assert gguf_from_bytes(file, data[:end], len(data)) == read_gguf(file)
    assert gguf_from_bytes(file, data[:end], None).tensors == read_gguf(file).tensors


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.integers(0, 400), st.binary(min_size=1, max_size=12))
def test_a_damaged_header_is_read_or_refused(file: Path, position: int, damage: bytes) -> None:
    data = bytearray(file.read_bytes())
    data[position : position + len(damage)] = damage
    try:
        header = gguf_from_bytes(file, bytes(data), len(data))
    except (InvalidGguf, ShortRead):
        return
    assert all(t.nbytes is None or 0 <= t.nbytes <= len(data) for t in header.tensors.values())


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_read(data: bytes) -> None:
    try:
        gguf_from_bytes(Path("a.gguf"), raw(3, 3, data), None)
    except (InvalidGguf, ShortRead):
        pass
