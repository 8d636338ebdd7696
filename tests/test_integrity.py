"""Whether a file is whole: header, its own checksums, and a hash that someone knows."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from pathlib import Path

import pytest
from managed_models.manager.errors import Cancelled
from managed_models.manager.formats.safetensors import read_header
from managed_models.manager.formats.writer import SafetensorsWriter, TensorSpec
from managed_models.manager.integrity import verify_file
from managed_models.manager.lineage import recorded_checksums
from managed_models.manager.local_host import LocalHost
from support.files import shapes_file
from support.gguf_files import gguf_file

CONTENT = {"a.weight": b"\x01" * 64, "b.weight": b"\x02" * 32, "empty": b""}
KEY = "managed_models.crc32"


def write(path: Path, checksums: str | None = None) -> Path:
    """Write a file that carries checksums, the right ones unless they are given."""
    specs = [TensorSpec(name, "U8", (len(data),)) for name, data in CONTENT.items()]
    with SafetensorsWriter(path, specs, {}, spare=1000) as writer:
        for name, data in CONTENT.items():
            writer.write(name, data)
        right = ",".join(f"{zlib.crc32(data):x}" for data in CONTENT.values())
        writer.finish({KEY: right if checksums is None else checksums}, overwrite=True)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "model.safetensors")


def flip(path: Path, name: str) -> None:
    header = read_header(path)
    with open(path, "r+b") as file:
        file.seek(header.data_start + header.tensors[name].start)
        (byte,) = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte ^ 0x10]))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_of_ours_is_checked_tensor_by_tensor(path: Path) -> None:
    assert verify_file(path) == {
        "model": "model.safetensors",
        "ok": True,
        "checked": ["header", "3 tensor checksums"],
        "problem": "",
        "code": "",
        "sha256": None,
    }


def test_a_file_of_others_is_checked_as_far_as_can_be(tmp_path: Path) -> None:
    details = verify_file(shapes_file(tmp_path / "m.safetensors", {"a": (4,)}))
    assert (details["ok"], details["checked"]) == (True, ["header"])


@pytest.mark.parametrize("name", ["a.weight", "b.weight"])
def test_a_flipped_bit_is_found_and_its_tensor_named(path: Path, name: str) -> None:
    flip(path, name)
    details = verify_file(path)
    assert (details["ok"], details["code"]) == (False, "damaged")
    assert f"The bytes of tensor {name!r} are not those that were written" in details["problem"]
    assert json.loads(json.dumps(details)) == details


def test_a_damaged_file_is_not_hashed(path: Path) -> None:
    good = sha256(path)
    flip(path, "a.weight")
    details = verify_file(path, good)
    assert (details["checked"], details["sha256"]) == (["header", "3 tensor checksums"], None)


@pytest.mark.parametrize("spell", [str.lower, str.upper])
def test_a_known_hash_is_measured(path: Path, spell: object) -> None:
    expected = sha256(path)
    details = verify_file(path, spell(expected))  # type: ignore[operator]
    assert details["ok"]
    assert details["checked"] == ["header", "3 tensor checksums", "SHA-256"]
    assert details["sha256"] == expected


def test_another_hash_is_a_problem_that_names_both(path: Path) -> None:
    details = verify_file(path, "AB" * 32)
    assert (details["ok"], details["code"]) == (False, "damaged")
    assert details["sha256"] == sha256(path)
    assert sha256(path) in details["problem"]
    assert "ab" * 32 in details["problem"]


@pytest.mark.parametrize(
    ("spoil", "code", "words"),
    [
        (lambda path: path.unlink(), "model_not_found", "There is no file at"),
        (lambda path: os.truncate(path, path.stat().st_size - 1), "invalid_header", "1 bytes are missing"),
        (lambda path: path.write_bytes(b"<html>"), "not_safetensors", "a web page"),
        (lambda path: path.write_bytes(b""), "not_safetensors", "an empty file"),
        (lambda path: (path.unlink(), path.mkdir()), "file_error", "is a folder"),
    ],
    ids=["gone", "cut off", "web page", "empty", "folder"],
)
def test_a_file_that_cannot_be_read_is_a_problem_and_no_exception(
    path: Path, spoil: object, code: str, words: str
) -> None:
    spoil(path)  # type: ignore[operator]
    details = verify_file(path, "ab" * 32)
    assert (details["ok"], details["code"], details["checked"]) == (False, code, ["header"])
    assert words in details["problem"]
    assert details["model"] == "model.safetensors"


def test_hashing_shows_progress_and_may_be_stopped(path: Path) -> None:
    steps: list[tuple[int, int]] = []
    host = LocalHost(on_progress=lambda done, total: steps.append((done, total)))
    assert verify_file(path, sha256(path), host)["ok"]
    assert steps == [(path.stat().st_size, path.stat().st_size)]
    host.cancel()
    with pytest.raises(Cancelled):
        verify_file(path, sha256(path), host)


# The checksums that a file carries


def test_checksums_are_in_file_order(path: Path) -> None:
    assert recorded_checksums(read_header(path)) == {n: zlib.crc32(data) for n, data in CONTENT.items()}


@pytest.mark.parametrize("text", ["", "1,2", "1,2,3,4", "1,,3", "1,2,x", "1 2 3", ",,", "[1,2,3]"])
def test_checksums_that_cannot_be_read_are_left_out(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "m.safetensors", text)
    assert recorded_checksums(read_header(path)) == {}
    assert verify_file(path)["checked"] == ["header"]


def test_a_file_without_tensors_has_no_checksums(tmp_path: Path) -> None:
    path = shapes_file(tmp_path / "m.safetensors", {}, metadata={KEY: ""})
    assert recorded_checksums(read_header(path)) == {}
    assert verify_file(path)["ok"]


def test_a_gguf_file_is_checked_by_its_header(tmp_path: Path) -> None:
    path = gguf_file(tmp_path / "a.gguf", {"blocks.0.q.weight": (4, 256)}, "wan")
    assert verify_file(path)["ok"]
    path.write_bytes(path.read_bytes()[:-1])
    found = verify_file(path)
    assert (found["ok"], found["code"]) == (False, "invalid_gguf")
    assert "not complete" in found["problem"]
