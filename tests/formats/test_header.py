"""Reading a safetensors header: what is accepted, and every way in which a file is refused."""

from __future__ import annotations

import json
import os
import struct
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from managed_models.manager.errors import (
    FileError,
    InvalidHeader,
    ManagedModelsError,
    ModelNotFound,
    NotSafetensors,
)
from managed_models.manager.formats.dtypes import DTYPE_BITS
from managed_models.manager.formats.safetensors import MAX_HEADER_BYTES, Header, TensorInfo, read_header
from managed_models.manager.formats.writer import SafetensorsWriter, TensorSpec
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from support.files import entry, raw_file, shapes_file
from support.permissions import nobody

FLOAT = entry("F32", [1], 0, 4)
FOUR = b"\x00" * 4


def refused(path: Path) -> InvalidHeader:
    """Read a header that has to be refused, and check what every refusal has."""
    with pytest.raises(InvalidHeader) as caught:
        read_header(path)
    error = caught.value
    assert error.code == "invalid_header"
    assert error.message.startswith(f"{path.name} is a broken safetensors file: ")
    assert error.remedy
    assert json.loads(json.dumps(error.to_dict())) == error.to_dict()
    return error


def the_library_refuses(path: Path) -> bool:
    try:
        with safe_open(path, framework="np"):
            return False
    except SafetensorError:
        return True


# What is accepted


def test_a_header_says_what_the_library_says(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tensors = {
        "b.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a": np.array(7, dtype=np.int64),
        "none": np.zeros((0, 4), dtype=np.float16),
        "flags": np.array([True, False]),
        "bytes": np.arange(5, dtype=np.uint8),
        "täöß 名": np.ones((1, 2, 1), dtype=np.float64),
    }
    save_file(tensors, path, metadata={"format": "pt", "author": "née"})
    header = read_header(path)
    with safe_open(path, framework="np") as library:
        assert dict(header.metadata) == library.metadata()
        assert set(header.tensors) == set(library.keys()) == set(tensors)
        raw = path.read_bytes()
        for name, info in header.tensors.items():
            view = library.get_slice(name)
            assert info.dtype == view.get_dtype()
            assert list(info.shape) == view.get_shape()
            data = raw[header.data_start + info.start : header.data_start + info.end]
            assert data == library.get_tensor(name).tobytes()
    assert header.file_size == len(raw)
    assert header.path == path


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ("{}", b""),
        ("{}      ", b""),  # padded as the format asks
        ('{"__metadata__": {"a": "1"}}', b""),
        ('{"__metadata__": null}', b""),
        (json.dumps({"a": entry("U8", [], 0, 1)}), b"\x01"),  # a single number
        (json.dumps({"a": entry("F32", [0, 3], 0, 0)}), b""),
        (json.dumps({"a": entry("U8", [4], 0, 4), "b": entry("F32", [0], 4, 4)}), FOUR),
        (json.dumps({"late": entry("U8", [1], 1, 2), "early": entry("U8", [1], 0, 1)}), b"ab"),
        (json.dumps({"a": entry("F4", [2, 4], 0, 4)}), FOUR),  # two to a byte
        (json.dumps({"a": {**FLOAT, "note": "of a later version of the format"}}), FOUR),
    ],
)
def test_unusual_but_correct(tmp_path: Path, header: str, data: bytes) -> None:
    path = raw_file(tmp_path / "m.safetensors", header, data)
    found = read_header(path)
    with safe_open(path, framework="np") as library:
        assert set(found.tensors) == set(library.keys())
        assert dict(found.metadata) == (library.metadata() or {})


def test_tensors_come_in_file_order(tmp_path: Path) -> None:
    header = {"b": entry("U8", [1], 2, 3), "c": entry("U8", [1], 0, 1), "a": entry("U8", [1], 1, 2)}
    found = read_header(raw_file(tmp_path / "m.safetensors", header, b"abc"))
    assert list(found.tensors) == ["c", "a", "b"]


def test_a_path_may_be_text(tmp_path: Path) -> None:
    path = raw_file(tmp_path / "m.safetensors", "{}")
    assert read_header(str(path)) == Header(path, 10, 10, {}, {})


@pytest.mark.parametrize(
    ("dtype", "shape", "nbytes"),
    [("F4", (3, 4), 6), ("F6_E2M3", (4,), 3), ("BF16", (2, 2), 8), ("BOOL", (5,), 5), ("C64", (), 8)],
)
def test_elements_are_counted_whatever_their_width(dtype: str, shape: tuple[int, ...], nbytes: int) -> None:
    info = TensorInfo(dtype, shape, 100, 100 + nbytes)
    assert info.nbytes == nbytes
    assert info.elements == int(np.prod(shape))


def test_every_type_of_the_library_is_known(tmp_path: Path) -> None:
    for dtype, bits in DTYPE_BITS.items():
        path = raw_file(tmp_path / "m.safetensors", {"a": entry(dtype, [8], 0, bits)}, bytes(bits))
        assert read_header(path).tensors["a"].elements == 8
        with safe_open(path, framework="np") as library:
            assert library.get_slice("a").get_dtype() == dtype


@pytest.mark.parametrize("length", [0x7B, 0x5B, 0x0280, 0x0580, 0x8B1F])
def test_a_length_that_looks_like_another_format_is_no_reason_to_refuse(tmp_path: Path, length: int) -> None:
    path = raw_file(tmp_path / "m.safetensors", json.dumps({"a": FLOAT}).ljust(length), FOUR)
    assert path.read_bytes()[:8] == struct.pack("<Q", length)
    assert list(read_header(path).tensors) == ["a"]


def test_a_hole_of_thirty_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = shapes_file(tmp_path / "m.safetensors", {"a": (30, 2**29)}, "BF16")
    assert read_header(path).tensors["a"].nbytes == 30 * 2**30


# Truncated


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"\x10", "it has 1 bytes, and the header's length alone takes 8"),
        (b"\x10\x00\x00\x00\x00\x00\x00", "it has 7 bytes, and the header's length alone takes 8"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00", "its header needs 24 bytes and the file has 8"),
        (b'\x10\x00\x00\x00\x00\x00\x00\x00{"a": ', "its header needs 24 bytes and the file has 14"),
    ],
)
def test_cut_off_in_the_header(tmp_path: Path, start: bytes, words: str) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(start)
    error = refused(path)
    assert error.details == {"problem": "truncated"}
    assert words in error.message
    assert the_library_refuses(path)


def test_cut_off_in_the_data(tmp_path: Path) -> None:
    whole = shapes_file(tmp_path / "m.safetensors", {"a": (1024, 1024)}, "F32")
    os.truncate(whole, whole.stat().st_size - 1024 * 1024)
    error = refused(whole)
    assert error.details == {"problem": "truncated", "missing_bytes": 1024 * 1024}
    assert "its tensors need 4194304 bytes and 3145728 are there: 1.0 MB are missing" in error.message
    assert "not complete" in error.remedy
    assert the_library_refuses(whole)


# The length of the header


@pytest.mark.parametrize("length", [MAX_HEADER_BYTES + 1, 2**40, 2**63, 2**64 - 1])
def test_a_header_longer_than_the_format_allows(tmp_path: Path, length: int) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b'{"a": 1}')
    error = refused(path)
    assert error.details == {"problem": "header_too_large"}
    assert f"its header says it is {length} bytes long, and the format allows 100000000" in error.message
    assert the_library_refuses(path)


def test_the_longest_header_that_the_format_allows_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", MAX_HEADER_BYTES) + b'{"a": 1}')
    assert refused(path).details["problem"] == "truncated"


# The header's text


@pytest.mark.parametrize(
    ("header", "problem", "words"),
    [
        (b"{" + b"\xff" * 20, "not_utf8", "byte 1"),
        (b'{"\xc3": 1}', "not_utf8", "is not UTF-8 text"),
        (b"{a: 1}", "not_json", "is not JSON"),
        (b"{", "not_json", "is not JSON"),
        (b'{"a": 1', "not_json", "is not JSON"),
        (b"{} {}", "not_json", "Extra data"),
        (b"{}\x00\x00\x00\x00", "not_json", "Extra data"),
        (b'{"a\x01": 1}', "not_json", "is not JSON"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not_json", "nested without end"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "not_json", "nested without end"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "not_json", "is not JSON"),
        (b'{"__metadata__": []}', "metadata", "is a list, not an object"),
        (b'{"__metadata__": "text"}', "metadata", "is a str, not an object"),
        (b'{"__metadata__": {"a": 1}}', "metadata", "'a' is a int, and only text is allowed"),
        (b'{"__metadata__": {"a": null}}', "metadata", "only text is allowed"),
        (b'{"__metadata__": {"a": {"b": "c"}}}', "metadata", "only text is allowed"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else str(value).replace(" ", "_"),
)
def test_a_header_that_is_no_good_as_text(tmp_path: Path, header: bytes, problem: str, words: str) -> None:
    path = raw_file(tmp_path / "m.safetensors", header, FOUR)
    error = refused(path)
    assert error.details == {"problem": problem}
    assert words in error.message
    assert the_library_refuses(path)


_ONE = json.dumps(FLOAT)


@pytest.mark.parametrize(
    ("header", "key"),
    [
        (f'{{"a": {_ONE}, "a": {_ONE}}}', "a"),
        (f'{{"a": {_ONE}, "b": {_ONE}, "a": {_ONE}}}', "a"),
        (f'{{"a": {_ONE[:-1]}, "dtype": "F32"}}}}', "dtype"),
        (f'{{"a": {_ONE[:-1]}, "note": {{"x": 1, "x": 1}}}}}}', "x"),
        (f'{{"__metadata__": {{"x": "1", "x": "2"}}, "a": {_ONE}}}', "x"),
        (f'{{"__metadata__": {{}}, "__metadata__": {{}}, "a": {_ONE}}}', "__metadata__"),
    ],
)
def test_no_key_may_come_twice(tmp_path: Path, header: str, key: str) -> None:
    """The library takes the last of two in some of these places: two readers could differ on the file."""
    error = refused(raw_file(tmp_path / "m.safetensors", header, FOUR))
    assert error.details == {"problem": "duplicate_key"}
    assert f"its header has the key {key!r} twice" in error.message


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize(
    "header",
    [
        '{{"a": {{"dtype": "F32", "shape": [1], "data_offsets": [0, 4], "note": {0}}}}}',
        '{{"a": {{"dtype": "F32", "shape": [{0}], "data_offsets": [0, 4]}}}}',
        '{{"a": {{"dtype": "F32", "shape": [1], "data_offsets": [0, {0}]}}}}',
        '{{"a": {{"dtype": {0}, "shape": [1], "data_offsets": [0, 4]}}}}',
        '{{"a": {0}}}',
        '{{"__metadata__": {{"x": {0}}}}}',
    ],
)
def test_constants_that_python_reads_are_not_json(tmp_path: Path, header: str, constant: str) -> None:
    path = raw_file(tmp_path / "m.safetensors", header.format(constant), FOUR)
    assert the_library_refuses(path)
    refused(path)


@pytest.mark.parametrize(
    "header",
    [
        '{"\\ud800": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
        '{"__metadata__": {"a": "\\udc80"}, "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
    ],
)
def test_half_a_character_is_no_text(tmp_path: Path, header: str) -> None:
    """Python reads it, and then fails wherever the name is printed or written."""
    path = raw_file(tmp_path / "m.safetensors", header, FOUR)
    assert the_library_refuses(path)
    refused(path)


# The entries


def changed(**facts: Any) -> dict[str, Any]:
    return {**FLOAT, **facts}


def without(key: str) -> dict[str, Any]:
    return {k: v for k, v in FLOAT.items() if k != key}


@pytest.mark.parametrize(
    ("found", "problem", "words"),
    [
        ([0, 4], "entry", "is a list, not an object"),
        ("F32", "entry", "is a str, not an object"),
        (None, "entry", "is a NoneType, not an object"),
        ({}, "entry", "has no dtype"),
        (without("dtype"), "entry", "has no dtype"),
        (without("shape"), "entry", "has no shape"),
        (without("data_offsets"), "entry", "has no data_offsets"),
        (changed(dtype="F33"), "dtype", "has the unknown type 'F33'"),
        (changed(dtype="f32"), "dtype", "has the unknown type 'f32'"),
        (changed(dtype=None), "dtype", "has the unknown type None"),
        (changed(dtype=32), "dtype", "has the unknown type 32"),
        (changed(dtype=["F32"]), "dtype", "has the unknown type ['F32']"),
        (changed(shape=1), "shape", "has the shape 1"),
        (changed(shape="1"), "shape", "has the shape '1'"),
        (changed(shape=None), "shape", "has the shape None"),
        (changed(shape={"0": 1}), "shape", "has the shape {'0': 1}"),
        (changed(shape=[-1]), "shape", "has the shape [-1]"),
        (changed(shape=[-1, -1]), "shape", "has the shape [-1, -1]"),
        (changed(shape=[1.0]), "shape", "has the shape [1.0]"),
        (changed(shape=[True]), "shape", "has the shape [True]"),
        (changed(shape=["1"]), "shape", "has the shape ['1']"),
        (changed(shape=[[1]]), "shape", "has the shape [[1]]"),
        (changed(data_offsets=[]), "offsets", "has the offsets []"),
        (changed(data_offsets=[4]), "offsets", "has the offsets [4]"),
        (changed(data_offsets=[0, 2, 4]), "offsets", "has the offsets [0, 2, 4]"),
        (changed(data_offsets=4), "offsets", "has the offsets 4"),
        (changed(data_offsets="04"), "offsets", "has the offsets '04'"),
        (changed(data_offsets={"0": 0, "4": 4}), "offsets", "has the offsets {'0': 0, '4': 4}"),
        (changed(data_offsets=[-4, 0]), "offsets", "has the offsets [-4, 0]"),
        (changed(data_offsets=[4, 0]), "offsets", "has the offsets [4, 0]"),
        (changed(data_offsets=[0.0, 4.0]), "offsets", "has the offsets [0.0, 4.0]"),
        (changed(data_offsets=[False, 4]), "offsets", "has the offsets [False, 4]"),
        (changed(data_offsets=[None, 4]), "offsets", "has the offsets [None, 4]"),
        (changed(shape=[2]), "size", "shape [2] needs 8 bytes and its offsets give 4"),
        (changed(shape=[0]), "size", "needs 0 bytes and its offsets give 4"),
        (changed(shape=[2**32, 2**32, 2**32]), "size", "needs 3.16913e+29 bytes"),
        (changed(dtype="F16"), "size", "of type F16 and shape [1] needs 2 bytes and its offsets give 4"),
        (changed(dtype="F4", shape=[7]), "size", "needs 3.5 bytes and its offsets give 4"),
        (changed(data_offsets=[0, 5]), "size", "needs 4 bytes and its offsets give 5"),
    ],
    ids=str,
)
def test_an_entry_that_is_no_good(tmp_path: Path, found: Any, problem: str, words: str) -> None:
    path = raw_file(tmp_path / "m.safetensors", {"the.weight": found}, FOUR)
    error = refused(path)
    assert error.details == {"problem": problem, "tensor": "the.weight"}
    assert "'the.weight'" in error.message
    assert words in error.message
    assert the_library_refuses(path)


@pytest.mark.parametrize("digits", [30, 400])
@pytest.mark.parametrize("shape", ["1{0}", "1{0}, 1{0}"])
def test_a_shape_beyond_every_number_is_refused(tmp_path: Path, digits: int, shape: str) -> None:
    shape = shape.format("0" * digits)
    header = f'{{"a": {{"dtype": "F32", "shape": [{shape}], "data_offsets": [0, 4]}}}}'
    path = raw_file(tmp_path / "m.safetensors", header, FOUR)
    assert refused(path).details == {"problem": "size", "tensor": "a"}
    assert the_library_refuses(path)


@pytest.mark.parametrize(
    ("first", "second", "problem", "words"),
    [
        ((0, 4), (2, 6), "overlap", "tensor 'b' overlaps the one before it (byte 2, expected 4)"),
        ((0, 4), (0, 4), "overlap", "(byte 0, expected 4)"),
        ((0, 4), (5, 9), "hole", "tensor 'b' leaves a hole before it (byte 5, expected 4)"),
        ((1, 5), (5, 9), "hole", "tensor 'a' leaves a hole before it (byte 1, expected 0)"),
        ((0, 4), (2, 2), "overlap", "tensor 'b' overlaps the one before it"),  # even an empty one
    ],
)
def test_tensors_have_to_lie_back_to_back(
    tmp_path: Path, first: tuple[int, int], second: tuple[int, int], problem: str, words: str
) -> None:
    header = {
        "a": entry("U8", [first[1] - first[0]], *first),
        "b": entry("U8", [second[1] - second[0]], *second),
    }
    path = raw_file(tmp_path / "m.safetensors", header, bytes(max(first[1], second[1])))
    error = refused(path)
    assert error.details["problem"] == problem
    assert words in error.message
    assert the_library_refuses(path)


@pytest.mark.parametrize("extra", [1, 4096])
def test_bytes_after_the_last_tensor(tmp_path: Path, extra: int) -> None:
    path = raw_file(tmp_path / "m.safetensors", {"a": FLOAT}, FOUR + bytes(extra))
    error = refused(path)
    assert error.details == {"problem": "trailing_bytes"}
    assert f"{extra} bytes follow its last tensor" in error.message
    assert the_library_refuses(path)


def test_data_without_any_tensor(tmp_path: Path) -> None:
    path = raw_file(tmp_path / "m.safetensors", {}, b"abc")
    assert refused(path).details == {"problem": "trailing_bytes"}
    assert the_library_refuses(path)


# Other kinds of files, and no file at all

_PICKLE = "use the .safetensors version of this model"


@pytest.mark.parametrize(
    ("content", "looks_like", "remedy"),
    [
        (b"PK\x03\x04\x00\x00\x08\x08" + bytes(50), "a PyTorch pickle checkpoint", _PICKLE),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "a PyTorch pickle checkpoint", _PICKLE),
        (b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}\x94.", "a PyTorch pickle checkpoint", _PICKLE),
        (b"<!DOCTYPE html><html><head>", "a web page", "Get the .safetensors file"),
        (b"\xef\xbb\xbf\r\n  <html lang='en'>", "a web page", "Get the .safetensors file"),
        (b'{"error": "Entry not found", "status": 404}', "a JSON document", "Get the .safetensors file"),
        (b'[{"name": "model"}]', "a JSON document", "Get the .safetensors file"),
        (b"[" + b" " * 7 + b"{" + b" " * 50, "a JSON document", "Get the .safetensors file"),
        (b"GGUF\x03\x00\x00\x00" + bytes(40), "a GGUF file", "ComfyUI-GGUF"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
            "a Git LFS pointer",
            "Get the .safetensors file",
        ),
        (b"", "an empty file", "Get the .safetensors file"),
        (bytes(100), "a file of zeros", "Get the .safetensors file"),
        (bytes(5), "a file of zeros", "Get the .safetensors file"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "a PNG picture", "Get the .safetensors file"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "Get the .safetensors file"),
        (b"hello, I am a text file", "some other kind of file", "Get the .safetensors file"),
        (struct.pack("<Q", 2) + b"[]", "some other kind of file", "Get the .safetensors file"),
        (struct.pack("<Q", 6) + b'"text"', "some other kind of file", "Get the .safetensors file"),
    ],
    ids=lambda value: repr(value[:12]),
)
def test_a_file_of_another_kind_is_named(
    tmp_path: Path, content: bytes, looks_like: str, remedy: str
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(NotSafetensors) as caught:
        read_header(path)
    error = caught.value
    assert error.code == "not_safetensors"
    assert error.message.startswith(
        f"model.safetensors is not a safetensors file: it looks like {looks_like}"
    )
    assert error.details["looks_like"].startswith(looks_like)
    assert remedy in error.remedy
    assert the_library_refuses(path)


def test_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "gone.safetensors"
    with pytest.raises(ModelNotFound, match="There is no file at") as caught:
        read_header(path)
    assert str(path) in caught.value.message


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="is a folder") as caught:
        read_header(tmp_path)
    assert str(tmp_path) in caught.value.message
    assert caught.value.code == "file_error"


def test_a_path_that_no_file_can_have(tmp_path: Path) -> None:
    with pytest.raises(ManagedModelsError):
        read_header(tmp_path / "a\0b.safetensors")


def test_a_file_below_a_file(tmp_path: Path) -> None:
    path = raw_file(tmp_path / "m.safetensors", "{}")
    with pytest.raises(ManagedModelsError) as caught:
        read_header(path / "inside.safetensors")
    assert str(path) in caught.value.message


@pytest.mark.skipif(os.name != "posix", reason="has other permissions")
@pytest.mark.parametrize("locked", ["file", "folder"])
def test_an_unreadable_file(locked: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = raw_file(Path(folder, "m.safetensors"), "{}")
        Path(folder).chmod(0o755 if locked == "file" else 0)
        path.chmod(0)
        try:
            with nobody(), pytest.raises(FileError, match="cannot be read: Permission denied") as caught:
                read_header(path)
        finally:
            Path(folder).chmod(0o700)
        assert str(path) in caught.value.message
        assert "who may read" in caught.value.remedy


@pytest.mark.skipif(os.name != "posix", reason="links need a right there")
def test_a_link_that_leads_to_itself(tmp_path: Path) -> None:
    path = tmp_path / "loop.safetensors"
    path.symlink_to(path)
    with pytest.raises(FileError, match="cannot be read"):
        read_header(path)


@pytest.mark.skipif(not os.path.exists("/dev/null"), reason="has no devices among its files")
def test_a_device_is_no_file() -> None:
    with pytest.raises(FileError, match="/dev/null is not a regular file"):
        read_header("/dev/null")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no named pipes")
def test_a_pipe_is_refused_without_waiting_for_its_other_end(tmp_path: Path) -> None:
    path = tmp_path / "pipe.safetensors"
    os.mkfifo(path)
    errors: list[Exception] = []

    def read() -> None:
        try:
            read_header(path)
        except Exception as error:
            errors.append(error)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(1)
    waited = reader.is_alive()
    if waited:  # let it go, so that no thread outlives the test
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        reader.join()
    assert not waited, "reading a pipe waits for somebody to write into it"
    assert [type(error) for error in errors] == [FileError]


# Properties

_DTYPES = [name for name, bits in DTYPE_BITS.items() if bits >= 8]
_NAMES = st.text(
    st.characters(blacklist_categories=("Cs",)),
    min_size=1,
    max_size=20,  # no half characters
).filter(lambda name: name != "__metadata__")
_SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)
_LAYOUTS = st.dictionaries(_NAMES, st.tuples(st.sampled_from(_DTYPES), _SHAPES), max_size=6)
_METADATA = st.dictionaries(_NAMES, st.text(st.characters(blacklist_categories=("Cs",)), max_size=20))


@settings(deadline=None, max_examples=50)
@given(layout=_LAYOUTS, metadata=_METADATA, more=_METADATA, seed=st.integers(0, 255))
def test_what_was_written_is_read_back(
    layout: dict[str, tuple[str, tuple[int, ...]]],
    metadata: dict[str, str],
    more: dict[str, str],
    seed: int,
) -> None:
    specs = [TensorSpec(name, dtype, shape) for name, (dtype, shape) in layout.items()]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.safetensors")
        room = 10 + sum(12 * len(k) + 12 * len(v) + 8 for k, v in more.items())
        with SafetensorsWriter(path, specs, metadata, spare=room) as writer:
            for spec in specs:
                writer.write(spec.name, bytes([seed]) * spec.nbytes)
            writer.finish(more)
        header = read_header(path)
        assert {n: (i.dtype, i.shape) for n, i in header.tensors.items()} == layout
        # Empty tensors may stand before or after the one that starts where they are.
        assert [n for n in header.tensors if header.tensors[n].nbytes] == [s.name for s in specs if s.nbytes]
        assert header.metadata == metadata | more
        assert header.file_size == path.stat().st_size
        assert path.read_bytes()[header.data_start :] == bytes([seed]) * sum(s.nbytes for s in specs)
        with safe_open(path, framework="np") as library:
            assert set(library.keys()) == set(layout)
            assert (library.metadata() or {}) == metadata | more


_GOOD = json.dumps(
    {
        "__metadata__": {"format": "pt"},
        "a.weight": entry("F32", [2, 2], 0, 16),
        "a.bias": entry("BF16", [2], 16, 20),
        "empty": entry("U8", [0], 20, 20),
    }
).encode()
_WHOLE = struct.pack("<Q", len(_GOOD)) + _GOOD + bytes(range(20))


def _tell(content: bytes) -> Header | ManagedModelsError:
    """Read these bytes as a file; anything but our own errors comes through."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.safetensors")
        path.write_bytes(content)
        try:
            return read_header(path)
        except ManagedModelsError as error:
            return error


@settings(deadline=None, max_examples=50)
@given(st.integers(0, len(_WHOLE) - 1))
def test_a_file_cut_off_anywhere_is_refused(length: int) -> None:
    error = _tell(_WHOLE[:length])
    assert isinstance(error, ManagedModelsError)
    assert "m.safetensors" in error.message


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 8 * (8 + len(_GOOD)) - 1), min_size=1, max_size=3, unique=True))
def test_flipped_bits_are_refused_or_leave_a_correct_header(bits: list[int]) -> None:
    content = bytearray(_WHOLE)
    for bit in bits:
        content[bit // 8] ^= 1 << bit % 8
    found = _tell(bytes(content))
    if isinstance(found, Header):
        assert sum(info.nbytes for info in found.tensors.values()) == len(_WHOLE) - found.data_start


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    assert isinstance(_tell(noise), ManagedModelsError)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_ENTRIES = st.fixed_dictionaries(
    {},
    optional={"dtype": st.sampled_from([*DTYPE_BITS, "F33"]) | _JSON, "shape": _JSON, "data_offsets": _JSON},
)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.text(max_size=5) | st.just("__metadata__"), _ENTRIES | _JSON, max_size=3))
def test_any_json_object_is_read_or_refused(document: dict[str, Any]) -> None:
    raw = json.dumps(document).encode()
    found = _tell(struct.pack("<Q", len(raw)) + raw + FOUR)
    if isinstance(found, Header):
        assert sum(info.nbytes for info in found.tensors.values()) == 4
