"""What a foreign file looks like from its first bytes."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from managed_models.manager.formats.sniff import SNIFF_BYTES, describe_foreign
from PIL import Image


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"weight": [1.0]}))
    return file.getvalue()


def picture(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (zipped(), "a PyTorch pickle checkpoint or another zip archive"),
        *((pickle.dumps({"a": 1}, protocol), "a PyTorch pickle checkpoint") for protocol in (2, 3, 4, 5)),
        (b"GGUF" + struct.pack("<IQQ", 3, 291, 24), "a GGUF file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (picture("PNG"), "a PNG picture"),
        (picture("JPEG"), "a JPEG picture"),
        (b"%PDF-1.7\n", "a PDF document"),
        (gzip.compress(b"weights", mtime=0), "a gzip archive"),
        (b"7z\xbc\xaf\x27\x1c\x00\x04", "a 7z archive"),
        (b"Rar!\x1a\x07\x01\x00", "a RAR archive"),
        (b"\x28\xb5\x2f\xfd\x04\x00", "a zstd archive"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"  \r\n<HTML>", "a web page"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>", "a web page"),
        (b"<head><title>Sign in</title>", "a web page"),
        (b'{"error":"Repository not found"}', "a JSON document"),
        (b'\n\n[\n {"a": 1}', "a JSON document"),
        (b"{", "a JSON document"),
        (bytes(SNIFF_BYTES), "a file of zeros"),
        (b"\x00", "a file of zeros"),
        (b"just some words", "some other kind of file"),
        (struct.pack("<Q", 16) + b" {", "some other kind of file"),
    ],
)
def test_describe_foreign(content: bytes, words: str) -> None:
    found = describe_foreign(content[:SNIFF_BYTES])
    assert found is not None
    assert found.startswith(words)


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 16) + b'{"a": 1}',
        struct.pack("<Q", 16) + b"{",
        struct.pack("<Q", 16),  # cut off right after the length
        b"\x10\x00",
        b"\x80",  # one byte of a length, or of a pickle
        b"\x80\x01",
    ],
)
def test_what_may_be_safetensors_is_not_foreign(content: bytes) -> None:
    assert describe_foreign(content) is None


def test_a_web_page_says_what_probably_happened() -> None:
    assert "the address asked for a login" in str(describe_foreign(b"<html>"))


@given(st.binary(max_size=SNIFF_BYTES))
def test_anything_can_be_described(content: bytes) -> None:
    found = describe_foreign(content)
    assert found is None or found.startswith(("a ", "an ", "some "))
    if found is None:
        assert any(content)
        assert len(content) <= 8 or content[8:9] == b"{"
