"""Writing a safetensors file in pieces: whole under its final name, or not there at all."""

from __future__ import annotations

import errno
import json
import mmap
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from managed_models.manager.errors import FileError, ManagedModelsError, NotEnoughDisk, OutputExists
from managed_models.manager.formats.safetensors import read_header
from managed_models.manager.formats.temporary import TEMPORARY_SUFFIX, temporary_owner, temporary_path
from managed_models.manager.formats.writer import (
    FileLayout,
    SafetensorsWriter,
    TensorSpec,
    disk_error,
    find_damage,
    planned_file_size,
)
from managed_models.manager.model import MODEL_SUFFIXES
from safetensors import safe_open
from support.files import entry, raw_file
from support.permissions import nobody

BIG = 1 << 20  # more than a file object keeps back, so that the bytes are on the disk
SPECS = [TensorSpec("b", "F32", (2, 3)), TensorSpec("a", "U8", (5,)), TensorSpec("none", "F16", (0, 4))]
CONTENT = {"b": np.arange(6, dtype="<f4").tobytes(), "a": b"12345"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def write(path: Path, overwrite: bool = False, content: dict[str, bytes] = CONTENT) -> None:
    with SafetensorsWriter(path, SPECS, {}) as writer:
        for name, data in content.items():
            writer.write(name, data)
        writer.finish({}, overwrite=overwrite)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# What is written


def test_the_library_reads_what_was_written(path: Path) -> None:
    with SafetensorsWriter(path, SPECS, {"format": "pt", "née": "名"}, spare=100) as writer:
        for name, data in CONTENT.items():
            writer.write(name, data)
        writer.finish({"later": "said"})
    with safe_open(path, framework="np") as library:
        assert library.metadata() == {"format": "pt", "née": "名", "later": "said"}
        assert set(library.keys()) == {"b", "a", "none"}
        np.testing.assert_array_equal(library.get_tensor("b"), np.arange(6, dtype="f4").reshape(2, 3))
        assert library.get_tensor("a").tobytes() == b"12345"
        assert library.get_tensor("none").shape == (0, 4)
    assert names(path.parent) == ["model.safetensors"]


def test_tensors_lie_in_the_order_that_was_given(path: Path) -> None:
    write(path)
    header = read_header(path)
    assert list(header.tensors) == ["b", "a", "none"]
    assert path.read_bytes()[header.data_start :] == CONTENT["b"] + CONTENT["a"]


def test_tensors_of_whole_pages_come_first_and_share_no_page(path: Path) -> None:
    specs = [
        TensorSpec("small", "F32", (3,)),
        TensorSpec("page", "U8", (4096,)),
        TensorSpec("none", "U8", (0,)),
        TensorSpec("pages", "BF16", (64, 64)),
        TensorSpec("more", "U8", (4097,)),
    ]
    content = {spec.name: bytes([65 + number]) * spec.nbytes for number, spec in enumerate(specs)}
    with SafetensorsWriter(path, specs, {"format": "pt"}) as writer:
        for name, data in content.items():
            writer.write(name, data)
        writer.finish({})
    header = read_header(path)
    assert list(header.tensors) == ["page", "pages", "small", "none", "more"]
    assert list(FileLayout(specs).offsets) == list(header.tensors)  # the order that checksums go by
    assert header.data_start % 4096 == 0
    assert path.read_bytes()[header.data_start :] == b"".join(
        content[name] for name in ("page", "pages", "small", "more")
    )
    with safe_open(path, framework="np") as library:
        assert {name: library.get_tensor(name).tobytes() for name in ("small", "page", "more")} == {
            name: content[name] for name in ("small", "page", "more")
        }


def test_a_file_without_tensors_and_metadata(path: Path) -> None:
    with SafetensorsWriter(path, [], {}) as writer:
        writer.finish({})
    header = read_header(path)
    assert (header.tensors, header.metadata) == ({}, {})


def test_data_starts_where_a_processor_likes_it(path: Path) -> None:
    for count in range(70):
        with SafetensorsWriter(path, SPECS[2:], {"x": "y" * count}) as writer:
            writer.finish({}, overwrite=True)
        assert read_header(path).data_start % 64 == 0


def test_tensors_come_in_pieces_and_in_any_order(path: Path) -> None:
    with SafetensorsWriter(path, SPECS, {}) as writer:
        writer.write("a", b"12")
        writer.write("b", bytearray(CONTENT["b"][:7]))
        writer.write("a", memoryview(b"345"))
        writer.write("b", b"")
        writer.write("b", memoryview(CONTENT["b"])[7:])
        assert writer.checksums == {name: zlib.crc32(data) for name, data in CONTENT.items()}
        writer.finish({})
    assert find_damage(path, {name: zlib.crc32(data) for name, data in CONTENT.items()}) is None


def test_an_array_of_numbers_is_written_as_its_bytes(path: Path) -> None:
    with SafetensorsWriter(path, SPECS, {}) as writer:
        writer.write("b", memoryview(np.arange(6, dtype="<f4").reshape(2, 3)))
        writer.write("a", b"12345")
        writer.finish({})
    with safe_open(path, framework="np") as library:
        np.testing.assert_array_equal(library.get_tensor("b"), np.arange(6, dtype="f4").reshape(2, 3))


def test_the_size_is_known_before(path: Path) -> None:
    specs = [*SPECS, TensorSpec("packed", "F4", (4, 4)), TensorSpec("one", "F64", ())]
    assert planned_file_size(specs) == 24 + 5 + 0 + 8 + 8
    with SafetensorsWriter(path, specs, {}) as writer:
        for spec in specs:
            writer.write(spec.name, bytes(spec.nbytes))
        writer.finish({})
    assert path.stat().st_size - read_header(path).data_start == planned_file_size(specs)


# Room in the header


def test_facts_that_are_known_at_the_end_fit_into_spare_room(path: Path) -> None:
    late = {"managed_models.crc32": "0" * 5000}
    with SafetensorsWriter(path, SPECS[2:], {"x": "1"}, spare=len(json.dumps(late))) as writer:
        writer.finish(late)
    assert read_header(path).metadata == {"x": "1"} | late


def test_the_last_word_on_a_fact_counts(path: Path) -> None:
    with SafetensorsWriter(path, SPECS[2:], {"x": "old"}) as writer:
        writer.finish({"x": "new"})
    assert read_header(path).metadata == {"x": "new"}


def test_more_facts_than_there_is_room_for_leave_nothing(path: Path) -> None:
    writer = SafetensorsWriter(path, SPECS[2:], {}, spare=100)
    with writer, pytest.raises(ValueError, match="the header needs"):
        writer.finish({"x": "y" * 1000})
    assert names(path.parent) == []


# Mistakes of the caller


def test_a_name_twice_is_refused_before_anything_is_written(path: Path) -> None:
    with pytest.raises(ValueError, match="'a' is given twice"):
        SafetensorsWriter(path, [TensorSpec("a", "U8", (1,)), TensorSpec("a", "U8", (2,))], {})
    assert names(path.parent) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "tensor 'b' is not complete"),
        ({"b": CONTENT["b"]}, "tensor 'a' is not complete"),
        ({"b": CONTENT["b"], "a": b"1234"}, "tensor 'a' is not complete"),
        ({"b": CONTENT["b"], "a": b"123456"}, "tensor 'a' takes 5 bytes, not 6"),
        ({"none": b"1"}, "tensor 'none' takes 0 bytes, not 1"),
    ],
)
def test_too_little_or_too_much_data_leaves_nothing(
    path: Path, content: dict[str, bytes], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        write(path, content=content)
    assert names(path.parent) == []


def test_too_much_in_pieces_is_noticed_at_the_piece_that_is_too_much(path: Path) -> None:
    with SafetensorsWriter(path, SPECS, {}) as writer:
        writer.write("b", CONTENT["b"])
        writer.write("a", b"1234")
        with pytest.raises(ValueError, match="takes 5 bytes, not 6"):
            writer.write("a", b"56")
        writer.write("a", b"5")
        writer.finish({})
    with safe_open(path, framework="np") as library:
        assert library.get_tensor("a").tobytes() == b"12345"


def test_an_unknown_tensor_is_refused(path: Path) -> None:
    with SafetensorsWriter(path, SPECS, {}) as writer, pytest.raises(KeyError, match="'c'"):
        writer.write("c", b"1")


# The temporary file


def test_the_final_name_appears_only_at_the_end(path: Path) -> None:
    with SafetensorsWriter(path, SPECS, {}) as writer:
        for name, data in CONTENT.items():
            writer.write(name, data)
            assert names(path.parent) == [writer.temporary.name]
        writer.finish({})
        assert names(path.parent) == ["model.safetensors"]


def test_nothing_is_made_before_the_writer_is_entered(path: Path) -> None:
    writer = SafetensorsWriter(path, SPECS, {})
    assert names(path.parent) == []
    with pytest.raises(ValueError, match="has to be entered first"):
        writer.write("a", b"12345")
    assert names(path.parent) == []


def test_no_loader_lists_the_temporary_file(path: Path) -> None:
    with SafetensorsWriter(path, SPECS, {}) as writer:
        assert writer.temporary.parent == path.parent
        assert writer.temporary.suffix == TEMPORARY_SUFFIX
        assert writer.temporary.suffix not in MODEL_SUFFIXES


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, ManagedModelsError])
def test_whatever_goes_wrong_the_temporary_file_is_removed(path: Path, error: type[BaseException]) -> None:
    def work() -> None:
        with SafetensorsWriter(path, SPECS, {}) as writer:
            writer.write("b", CONTENT["b"])
            raise error("stop")

    with pytest.raises(error):
        work()
    assert names(path.parent) == []


def test_leaving_without_finishing_leaves_nothing(path: Path) -> None:
    with SafetensorsWriter(path, SPECS, {}) as writer:
        writer.write("b", CONTENT["b"])
    assert names(path.parent) == []


def test_a_temporary_name_tells_its_owner(path: Path) -> None:
    temporary = temporary_path(path)
    assert temporary_owner(temporary) == os.getpid()
    assert temporary.name.startswith("model.safetensors.")
    assert temporary_path(path) != temporary


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "model.mmpart",
        "model.safetensors.12.mmpart",
        "model.safetensors.12-xyz.mmpart",
        "model.safetensors.-ab.mmpart",
        "model.safetensors.12-ab12.mmpart.safetensors",
        "model.safetensors.12-ab12.part",
    ],
)
def test_other_names_have_no_owner(name: str) -> None:
    assert temporary_owner(Path("/models", name)) is None


def test_a_killed_process_leaves_a_file_that_names_it(path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    code = f"""
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location("managed_models", {str(root / "__init__.py")!r})
module = sys.modules["managed_models"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from pathlib import Path
from managed_models.manager.formats.writer import SafetensorsWriter, TensorSpec
with SafetensorsWriter(Path({str(path)!r}), [TensorSpec("a", "U8", (9,))], {{}}) as writer:
    os._exit(9)
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    assert process.wait() == 9
    (left,) = path.parent.iterdir()
    assert temporary_owner(left) == process.pid


# Publishing


def test_an_existing_file_is_not_touched(path: Path) -> None:
    path.write_bytes(b"somebody else's")
    before = path.stat()
    with pytest.raises(OutputExists, match=r"model\.safetensors appeared") as caught:
        write(path)
    assert caught.value.code == "output_exists"
    assert "allow overwriting" in caught.value.remedy
    assert path.read_bytes() == b"somebody else's"
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert names(path.parent) == ["model.safetensors"]


def test_a_file_that_appears_while_writing_is_not_touched(path: Path) -> None:
    with SafetensorsWriter(path, SPECS[2:], {}) as writer:
        path.write_bytes(b"faster")
        with pytest.raises(OutputExists):
            writer.finish({})
    assert path.read_bytes() == b"faster"
    assert names(path.parent) == ["model.safetensors"]


def test_of_two_writers_of_one_name_one_wins(path: Path) -> None:
    with SafetensorsWriter(path, SPECS[2:], {"who": "first"}) as first:
        with SafetensorsWriter(path, SPECS[2:], {"who": "second"}) as second:
            assert first.temporary != second.temporary
            second.finish({})
        with pytest.raises(OutputExists):
            first.finish({})
    assert read_header(path).metadata == {"who": "second"}
    assert names(path.parent) == ["model.safetensors"]


def test_overwriting_replaces_the_file(path: Path) -> None:
    path.write_bytes(b"old")
    write(path, overwrite=True)
    assert list(read_header(path).tensors) == ["b", "a", "none"]
    assert names(path.parent) == ["model.safetensors"]


def test_overwriting_a_file_that_is_not_there(path: Path) -> None:
    write(path, overwrite=True)
    assert names(path.parent) == ["model.safetensors"]


@pytest.mark.skipif(os.name != "posix", reason="an open file cannot be replaced there")
def test_whoever_has_the_old_file_open_keeps_it(path: Path) -> None:
    write(path)
    old = path.read_bytes()
    with open(path, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        write(path, overwrite=True, content={"b": bytes(24), "a": b"new!!"})
        assert opened.read() == old
        assert mapped[:] == old
    assert path.read_bytes() != old


def test_a_failed_run_does_not_replace_the_old_file(path: Path) -> None:
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="not complete"):
        write(path, overwrite=True, content={})
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_that_name_is_not_replaced(path: Path, overwrite: bool) -> None:
    (path / "inside").mkdir(parents=True)
    with pytest.raises(ManagedModelsError, match=r"model\.safetensors"):
        write(path, overwrite)
    assert (path / "inside").is_dir()
    assert names(path.parent) == ["model.safetensors"]


@pytest.mark.parametrize("taken", [False, True])
def test_a_disk_without_hard_links(path: Path, monkeypatch: pytest.MonkeyPatch, taken: bool) -> None:
    """FAT and some network disks have none, and there are none of these here."""

    def link(source: object, target: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    if taken:
        path.write_bytes(b"old")
        with pytest.raises(OutputExists):
            write(path)
        assert path.read_bytes() == b"old"
    else:
        write(path)
        assert list(read_header(path).tensors) == ["b", "a", "none"]
    assert names(path.parent) == ["model.safetensors"]


def test_a_file_in_use_cannot_be_replaced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only Windows refuses that."""
    path.write_bytes(b"old")

    def replace(source: object, target: object) -> None:
        raise PermissionError(errno.EACCES, "The process cannot access the file")

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(FileError, match="is in use and cannot be replaced") as caught:
        write(path, overwrite=True)
    assert "Unload that model" in caught.value.remedy
    assert path.read_bytes() == b"old"
    assert names(path.parent) == ["model.safetensors"]


# Folders that cannot be written to


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot be written to: No such file or directory") as caught:
        write(tmp_path / "gone" / "m.safetensors")
    assert str(tmp_path / "gone") in caught.value.message
    assert "Nothing was written" in caught.value.remedy
    assert names(tmp_path) == []


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileError, match="cannot be written to"):
        write(tmp_path / "file" / "m.safetensors")
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(os.name != "posix", reason="has other permissions")
def test_a_folder_of_somebody_else(path: Path) -> None:
    path.parent.chmod(0o500)
    with nobody(), pytest.raises(FileError, match="cannot be written to: Permission denied"):
        write(path)
    path.parent.chmod(0o700)
    assert names(path.parent) == []


# Damage between writing and reading back


def flip(path: Path, position: int) -> None:
    with open(path, "r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("where", [0, BIG // 2])
def test_a_flipped_bit_on_the_disk_is_found_before_the_file_appears(
    path: Path, where: int, overwrite: bool
) -> None:
    if overwrite:
        path.write_bytes(b"old")
    specs = [TensorSpec("good", "U8", (BIG,)), TensorSpec("bad", "U8", (BIG,))]
    with SafetensorsWriter(path, specs, {}) as writer:
        for spec in specs:
            writer.write(spec.name, bytes(BIG))
        start = writer.temporary.stat().st_size - 2 * BIG
        assert start > 0
        flip(writer.temporary, start + BIG + where)
        with pytest.raises(FileError, match="'bad' reads back differently") as caught:
            writer.finish({}, overwrite)
    assert caught.value.details == {"tensor": "bad"}
    assert path.name in caught.value.message
    assert names(path.parent) == (["model.safetensors"] if overwrite else [])


def test_data_that_the_disk_lost_is_noticed(path: Path) -> None:
    with SafetensorsWriter(path, [TensorSpec("a", "U8", (BIG,))], {}) as writer:
        writer.write("a", b"\x01" * BIG)
        os.truncate(writer.temporary, BIG // 2)
        with pytest.raises(FileError, match="'a' reads back differently"):
            writer.finish({})
    assert names(path.parent) == []


@pytest.mark.parametrize("damage", [0, 28])
def test_find_damage_names_the_first_bad_tensor(path: Path, damage: int) -> None:
    write(path)
    flip(path, read_header(path).data_start + damage)
    checksums = {name: zlib.crc32(data) for name, data in CONTENT.items()}
    assert find_damage(path, checksums) == ("b" if damage < 24 else "a")


def test_find_damage_reads_only_what_has_a_checksum(path: Path) -> None:
    write(path)
    flip(path, read_header(path).data_start)
    assert find_damage(path, {"a": zlib.crc32(CONTENT["a"])}) is None
    assert find_damage(path, {}) is None


def test_find_damage_misses_no_tensor(path: Path) -> None:
    write(path)
    assert find_damage(path, {"a": zlib.crc32(CONTENT["a"]), "gone": 0}) == "gone"


def test_find_damage_checks_the_header(path: Path) -> None:
    raw_file(path, {"a": entry("U8", [2], 0, 1)}, b"1")
    with pytest.raises(FileError):
        find_damage(path, {})


# A full disk


@contextmanager
def room_for(count: int) -> Iterator[None]:
    """Let no file of this process grow beyond ``count`` bytes."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("room", "count", "nbytes"),
    [
        (1 << 20, 1, 4 << 20),  # in the middle of a large tensor
        (1 << 20, 40, 100_000),
        (1 << 20, 4000, 1000),  # small ones, which wait in a buffer
        (1 << 9, 1, 1000),  # nothing fails before the end
        (1 << 14, 4000, 10),  # already in the header
    ],
)
def test_a_disk_that_becomes_full_leaves_nothing(path: Path, room: int, count: int, nbytes: int) -> None:
    specs = [TensorSpec(f"tensor.{i}", "U8", (nbytes,)) for i in range(count)]

    def work() -> None:
        with SafetensorsWriter(path, specs, {}) as writer:
            for spec in specs:
                writer.write(spec.name, bytes(nbytes))
            writer.finish({})

    with room_for(room), pytest.raises(FileError, match=r"model\.safetensors could not be written"):
        work()
    assert names(path.parent) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_the_words_for_a_full_disk(path: Path, number: int) -> None:
    error = disk_error(path, OSError(number, os.strerror(number)))
    assert isinstance(error, NotEnoughDisk)
    assert error.code == "not_enough_disk"
    assert "became full while model.safetensors was written" in error.message
    assert "Nothing was left behind" in error.remedy


def test_the_words_for_another_failure_of_the_disk(path: Path) -> None:
    error = disk_error(path, OSError(errno.EIO, "Input/output error"))
    assert type(error) is FileError
    assert error.message == "model.safetensors could not be written: Input/output error."
