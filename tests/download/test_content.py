"""What arrives is looked at as soon as it can be told, and in full at the end."""

from __future__ import annotations

import itertools
import json
import struct
from pathlib import Path

import pytest
from managed_models.manager.download.content import ContentCheck
from managed_models.manager.errors import FileError, InvalidGguf, InvalidHeader, NotSafetensors
from support.gguf_files import gguf_file


def checked(tmp_path: Path, name: str, data: bytes, step: int = 100) -> int:
    """Let ``data`` arrive in steps; return how much was here when it was refused, or all of it."""
    path = tmp_path / "partial"
    for front in itertools.chain(range(0, len(data), step), [len(data)]):
        path.write_bytes(data[:front])
        check = ContentCheck(name, path)
        check.look(front, len(data))
        last = front
    check.finish(len(data))
    return last


def refused_at(tmp_path: Path, name: str, data: bytes, kind: type[FileError]) -> int:
    """Let ``data`` arrive a little at a time; return how much was here when it was refused, or all of it."""
    path = tmp_path / "partial"
    check = ContentCheck(name, path)
    for front in range(0, len(data) + 1, 8):
        path.write_bytes(data[:front])
        try:
            check.look(front, len(data))
        except kind:
            return front
    with pytest.raises(kind):
        check.finish(len(data))
    return len(data)


@pytest.fixture
def gguf(tmp_path: Path) -> bytes:
    return gguf_file(tmp_path / "whole.gguf", {"a": (4, 256), "b": (8,)}, "wan").read_bytes()


def safetensors(size: int = 400, **change: object) -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size], **change}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(size)


def test_good_files_pass(tmp_path: Path, gguf: bytes) -> None:
    checked(tmp_path, "a.safetensors", safetensors())
    checked(tmp_path, "a.sft", safetensors(0))
    checked(tmp_path, "a.gguf", gguf)
    checked(tmp_path, "a.pth", b"PK\x03\x04" + bytes(500))
    checked(tmp_path, "a.pt", b"\x80\x02}q\x00." + bytes(500))


@pytest.mark.parametrize("name", ["a.safetensors", "a.gguf", "a.pth", "a.bin"])
def test_a_web_page_is_refused_at_once(tmp_path: Path, name: str) -> None:
    page = b"<!doctype html><html>" + b"x" * 1000
    kind = InvalidGguf if name.endswith("gguf") else NotSafetensors
    assert refused_at(tmp_path, name, page, kind) <= 64


def test_another_kind_than_the_name_says(tmp_path: Path, gguf: bytes) -> None:
    assert refused_at(tmp_path, "a.safetensors", gguf, NotSafetensors) <= 64
    assert refused_at(tmp_path, "a.gguf", safetensors(), InvalidGguf) <= 64
    assert refused_at(tmp_path, "a.safetensors", b"PK\x03\x04" + bytes(500), NotSafetensors) <= 64


def test_a_broken_header_is_refused_when_it_is_here(tmp_path: Path, gguf: bytes) -> None:
    data = safetensors(dtype="NONE")
    assert refused_at(tmp_path, "a.safetensors", data, InvalidHeader) < 200
    assert refused_at(tmp_path, "a.safetensors", safetensors()[:-9], InvalidHeader) < 200
    assert refused_at(tmp_path, "a.gguf", gguf[:60], InvalidGguf) <= 64


@pytest.mark.parametrize("name", ["a.safetensors", "a.gguf", "a.pth"])
def test_nothing_is_no_model(tmp_path: Path, name: str) -> None:
    path = tmp_path / "partial"
    path.touch()
    with pytest.raises(FileError):
        ContentCheck(name, path).finish(0)
