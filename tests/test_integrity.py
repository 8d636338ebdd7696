"""Whether a file is whole: header, its own checksums, and a hash that someone knows."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from pathlib import Path

import pytest
from managed_models.manager import AdvancedModelManager, ModelInfo, ModelManagerConfig, ModelType
from managed_models.manager.compatibility import Severity
from managed_models.manager.demo import make_demo_model
from managed_models.manager.errors import Cancelled, Incompatible
from managed_models.manager.files import FileIdentity
from managed_models.manager.formats.safetensors import read_header
from managed_models.manager.formats.writer import SafetensorsWriter, TensorSpec
from managed_models.manager.integrity import Integrity, verify_file
from managed_models.manager.lineage import recorded_checksums
from managed_models.manager.local_host import LocalHost
from managed_models.manager.registry import Registry, Source
from managed_models.manager.report import render_check
from managed_models.manager.words.integrity import verify_line, verify_lines
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
        "unchecked": "",
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


# Against everything that is known, and what is kept of it


class Known:
    """A registry, the service on it, and what people registered, by path."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.infos: dict[Path, ModelInfo] = {}
        self.integrity = Integrity(self.registry, self.infos.get)


@pytest.fixture
def known() -> Known:
    return Known()


def replace(path: Path, content: bytes) -> None:
    """Write other bytes behind the file system's back: as a failing disk does."""
    times = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_the_first_look_measures_and_the_next_compares(known: Known, tmp_path: Path) -> None:
    path = shapes_file(tmp_path / "m.safetensors", {"a": (64,)})
    file = FileIdentity.of(path)
    first = known.integrity.verify(path)
    assert (first["ok"], first["checked"], first["sha256"]) == (True, ["header"], sha256(path))
    assert known.registry.sha256(file) == sha256(path)
    assert "SHA-256 noted" in verify_line(first)
    second = known.integrity.verify(path)
    assert (second["ok"], second["checked"]) == (True, ["header", "SHA-256"])
    assert verify_line(second) == "m.safetensors: whole (checked: header, SHA-256)"


def test_bytes_that_change_behind_the_file_system_are_found(known: Known, tmp_path: Path) -> None:
    path = shapes_file(tmp_path / "m.safetensors", {"a": (64,)})
    good = sha256(path)
    known.integrity.verify(path)
    replace(path, path.read_bytes()[:-1] + b"\1")
    details = known.integrity.verify(path)
    assert (details["ok"], details["code"]) == (False, "bytes_changed")
    assert good in details["problem"]
    assert known.registry.sha256(FileIdentity.of(path)) == good  # what it should be is not forgotten
    assert not known.integrity.verify(path)["ok"]
    replace(path, path.read_bytes()[:-1] + b"\0")
    assert known.integrity.verify(path)["ok"]


def test_who_says_what_the_hash_should_be(known: Known, tmp_path: Path) -> None:
    path = shapes_file(tmp_path / "m.safetensors", {"a": (64,)})
    known.registry.put_source(FileIdentity.of(path), Source("https://example.org/m", "CD" * 32))
    details = known.integrity.verify(path)
    assert details["checked"] == ["header", "size", "SHA-256"]
    assert f"{'cd' * 32} was expected, as where it came from said" in details["problem"]
    known.infos[path] = ModelInfo("m", ModelType.LORA, path, sha256="EF" * 32)
    assert f"{'ef' * 32} was expected, as registered" in known.integrity.verify(path)["problem"]


def test_a_file_that_lost_bytes_since_it_came(known: Known, tmp_path: Path) -> None:
    path = tmp_path / "old.ckpt"
    path.write_bytes(b"PK\x03\x04" + bytes(96))
    known.registry.put_source(FileIdentity.of(path), Source("https://example.org/m"))
    assert known.integrity.verify(path)["checked"] == ["size"]
    replace(path, path.read_bytes()[:50])
    details = known.integrity.verify(path)
    assert details["problem"] == "It has 50 bytes, and 100 had come from where it came from."


def test_a_file_that_a_person_replaced_is_not_held_against_its_source(known: Known, tmp_path: Path) -> None:
    path = shapes_file(tmp_path / "m.safetensors", {"a": (64,)})
    known.registry.put_source(FileIdentity.of(path), Source("https://example.org/m", "cd" * 32))
    shapes_file(path, {"b": (32,)})
    os.utime(path, ns=(1, 1))
    assert known.integrity.verify(path)["ok"]


def test_a_pickle_is_not_called_whole(known: Known, tmp_path: Path) -> None:
    path = tmp_path / "old.ckpt"
    path.write_bytes(b"PK\x03\x04" + bytes(96))
    details = known.integrity.verify(path)
    assert (details["ok"], details["checked"], details["sha256"]) == (True, [], sha256(path))
    assert "cannot be checked without running it" in details["unchecked"]
    assert "whole" not in verify_line(details)
    details = known.integrity.verify(path)
    assert (details["checked"], details["unchecked"]) == (["SHA-256"], "")


def test_a_quick_look_reads_the_header_alone_and_forgets_no_damage(known: Known, path: Path) -> None:
    details = known.integrity.verify(path, quick=True)
    assert (details["ok"], details["checked"], details["sha256"]) == (True, ["header"], None)
    flip(path, "a.weight")
    assert not known.integrity.verify(path)["ok"]
    assert known.integrity.verify(path, quick=True)["ok"]
    assert known.integrity.problem(path) is not None


def test_a_kept_result_is_a_blocker_and_says_where_to_get_the_file(known: Known, path: Path) -> None:
    assert known.integrity.problem(path) is None
    known.integrity.verify(path)
    assert known.integrity.problem(path) is None
    flip(path, "a.weight")
    assert known.integrity.problem(path) is None  # as it is now nobody has looked at it
    known.registry.put_source(FileIdentity.of(path), Source("https://example.org/m"))
    known.integrity.verify(path)
    finding = known.integrity.problem(path)
    assert finding is not None
    assert (finding.code, finding.severity) == ("corrupt", Severity.BLOCKER)
    assert finding.message.startswith("model.safetensors is damaged: The bytes of tensor 'a.weight'")
    assert finding.remedy == "Get it again from https://example.org/m."
    write(path)
    assert known.integrity.problem(path) is None
    path.unlink()
    assert known.integrity.problem(path) is None


def test_a_check_says_what_was_kept_and_reads_nothing(tmp_path: Path) -> None:
    path = make_demo_model("wan21_t2v", tmp_path)
    manager = AdvancedModelManager(ModelManagerConfig(model_roots=[tmp_path]))
    assert "health" not in manager.check(str(path)).to_dict()
    assert manager.verify(path)["ok"]
    details = manager.check(str(path)).to_dict()
    assert details["health"]["ok"] is True
    assert "  Verified: nothing wrong, on " in render_check(details)
    file = FileIdentity.of(path)
    manager.registry.put_health(file, {"ok": False, "checked": ["header"], "problem": "Bad."})
    details = manager.check(str(path)).to_dict()
    assert not details["compatible"]
    assert [f["code"] for f in details["findings"]].count("corrupt") == 1
    assert f"Problem: {path.name} is damaged: Bad." in render_check(details)
    loaded = manager.loader.load(path.name, path)
    assert loaded.details["findings"][0]["code"] == "corrupt"
    with pytest.raises(Incompatible, match="is damaged"):
        manager.loader.load(path.name, path, on_misfit="error")
    manager.close()


def test_a_damaged_vae_is_noted_when_it_is_loaded(tmp_path: Path) -> None:
    vae = shapes_file(tmp_path / "vae.safetensors", {"decoder.conv_in.weight": (4, 4)})
    manager = AdvancedModelManager(ModelManagerConfig(model_roots=[tmp_path]))
    assert manager.loader.load_vae(vae.name, [vae]).details["notes"] == []
    manager.registry.put_health(FileIdentity.of(vae), {"ok": False, "checked": [], "problem": "Bad."})
    (note,) = manager.loader.load_vae(vae.name, [vae]).details["notes"]
    assert note == "vae.safetensors is damaged: Bad. Get it again from where it came from."
    manager.close()


def test_a_load_counts_as_use(tmp_path: Path) -> None:
    path = make_demo_model("wan21_t2v", tmp_path)
    manager = AdvancedModelManager(ModelManagerConfig(model_roots=[tmp_path]))
    manager.load_model(str(path))
    manager.load_model(str(path))
    assert manager.integrity.known(path)["usage"]["times"] == 2
    manager.close()


def test_many_files_are_verified_together(known: Known, tmp_path: Path) -> None:
    paths = [shapes_file(tmp_path / f"{n}.safetensors", {"a": (n + 1, 1000)}) for n in range(6)]
    paths.append(tmp_path / "gone.safetensors")
    steps: list[tuple[int, int]] = []
    total = sum(path.stat().st_size for path in paths[:-1])
    host = LocalHost(on_progress=lambda done, total: steps.append((done, total)))
    found = known.integrity.verify_all(paths, host)
    assert [path for path, _ in found] == paths
    assert [details["ok"] for _, details in found] == [True] * 6 + [False]
    assert steps[-1] == (total, total)
    assert verify_lines([details for _, details in found])[-1] == "7 files verified, 1 damaged."


def test_stopping_many_keeps_what_was_found(known: Known, tmp_path: Path) -> None:
    paths = [shapes_file(tmp_path / f"{n}.safetensors", {"a": (1000,)}) for n in range(20)]
    host = LocalHost(on_progress=lambda done, total: host.cancel())
    with pytest.raises(Cancelled):
        known.integrity.verify_all(paths, host)
    kept = known.registry.known_sha256()
    assert len(kept) < 20
    assert all(digest == sha256(file.path) for file, digest in kept.items())


def test_a_file_that_changes_while_it_is_read_is_no_verdict(known: Known, tmp_path: Path) -> None:
    path = shapes_file(tmp_path / "m.safetensors", {"a": (64,)})
    host = LocalHost(on_progress=lambda done, total: os.utime(path, ns=(7, 7)))
    details = known.integrity.verify(path, host)
    assert (details["ok"], details["code"]) == (False, "changing")
    assert known.registry.health(FileIdentity.of(path)) is None
    assert known.registry.known_sha256() == {}
