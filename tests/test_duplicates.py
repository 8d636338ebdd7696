"""Equal files: what proves it, what can only disprove it, and what wastes no room."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from managed_models.manager.duplicates import Content, Duplicates, together, unproved
from managed_models.manager.errors import Cancelled
from managed_models.manager.files import FileIdentity, file_sha256
from managed_models.manager.registry import Registry
from managed_models.manager.words.integrity import duplicate_lines

SIZE = 100_000


@pytest.fixture
def registry() -> Registry:
    return Registry()


def write(path: Path, *changes: tuple[int, int]) -> Path:
    """Write the usual bytes, with some of them changed."""
    data = bytearray(range(256)) * (SIZE // 256 + 1)
    del data[SIZE:]
    for at, value in changes:
        data[at] = value
    path.write_bytes(data)
    return path


def names(details: dict[str, object]) -> list[list[str]]:
    groups = details["groups"]
    assert isinstance(groups, list)
    return [[Path(path).name for path in group["paths"]] for group in groups]


def test_equal_files_are_found_with_the_room_that_they_waste(tmp_path: Path, registry: Registry) -> None:
    paths = [write(tmp_path / name) for name in ("a", "b", "c")] + [write(tmp_path / "d", (0, 9))]
    details = Duplicates(registry).find(paths)
    assert names(details) == [["a", "b", "c"]]
    assert details["wasted_bytes"] == 2 * SIZE
    (group,) = details["groups"]
    assert (group["proved"], group["size_bytes"], group["sha256"]) == (True, SIZE, file_sha256(paths[0]))
    lines = duplicate_lines(details)
    assert lines[0] == "The same, 98 KB each, 195 KB too much:"
    assert lines[-1] == "195 KB are wasted."


def test_samples_disprove_and_never_prove(tmp_path: Path, registry: Registry) -> None:
    """The byte that differs lies where no sample is taken."""
    paths = [write(tmp_path / "a"), write(tmp_path / "b", (20_000, 7))]
    quick = Duplicates(registry).find(paths, quick=True)
    assert names(quick) == [["a", "b"]]
    assert quick["groups"][0]["proved"] is False
    assert duplicate_lines(quick)[0].startswith("May be the same")
    assert "may be wasted" in duplicate_lines(quick)[-1]
    assert Duplicates(registry).find(paths)["groups"] == []
    # Hashes that are known tell without reading.
    assert Duplicates(registry).find(paths, quick=True)["groups"] == []


@pytest.mark.parametrize("place", [0, SIZE // 2, SIZE - 1])
def test_a_sample_that_differs_saves_the_hash(tmp_path: Path, registry: Registry, place: int) -> None:
    paths = [write(tmp_path / "a"), write(tmp_path / "b", (place, 77))]
    assert Duplicates(registry).find(paths)["groups"] == []
    assert registry.known_sha256() == {}


def test_only_what_may_be_equal_is_hashed_and_each_file_once(tmp_path: Path, registry: Registry) -> None:
    paths = [write(tmp_path / "a"), write(tmp_path / "b")]
    (tmp_path / "other").write_bytes(b"of another size")
    Duplicates(registry).find([*paths, tmp_path / "other"])
    assert set(registry.known_sha256()) == {FileIdentity.of(path) for path in paths}
    times = paths[0].stat()
    write(paths[0], (20_000, 7))  # which another look would notice
    os.utime(paths[0], ns=(times.st_atime_ns, times.st_mtime_ns))
    assert names(Duplicates(registry).find(paths)) == [["a", "b"]]


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links_waste_nothing(tmp_path: Path, registry: Registry) -> None:
    path = write(tmp_path / "a")
    os.link(path, tmp_path / "hard")
    (tmp_path / "0 soft").symlink_to(path)
    details = Duplicates(registry).find([path, tmp_path / "hard", tmp_path / "0 soft"])
    assert (details["files"], details["groups"], details["wasted_bytes"]) == (1, [], 0)
    copy = write(tmp_path / "copy")
    details = Duplicates(registry).find([tmp_path / "0 soft", path, tmp_path / "hard", copy])
    (group,) = details["groups"]
    assert group["wasted_bytes"] == SIZE
    assert [Path(p).name for p in group["paths"]] == ["a", "copy"]
    assert sorted(Path(p).name for p in group["links"]) == ["0 soft", "hard"]
    assert "takes no room" in "\n".join(duplicate_lines(details))


def test_empty_files_are_no_duplicates(tmp_path: Path, registry: Registry) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"")
    details = Duplicates(registry).find([tmp_path / "a", tmp_path / "b"])
    assert details["groups"] == []
    assert duplicate_lines(details) == ["No two of 2 files are the same."]


def test_what_is_not_there_is_named(tmp_path: Path, registry: Registry) -> None:
    details = Duplicates(registry).find([write(tmp_path / "a"), tmp_path / "gone"])
    assert [Path(row["path"]).name for row in details["unreadable"]] == ["gone"]
    assert "No such file" in duplicate_lines(details)[-1]


def test_progress_is_told_in_bytes_and_it_may_be_stopped(tmp_path: Path, registry: Registry) -> None:
    paths = [write(tmp_path / name) for name in ("a", "b")]
    steps: list[tuple[int, int]] = []

    class Watch:
        stop = False

        def throw_if_cancelled(self) -> None:
            if self.stop:
                raise Cancelled("Stopped.")

        def progress(self, done: int, total: int) -> None:
            steps.append((done, total))
            self.stop = True

    with pytest.raises(Cancelled):
        Duplicates(registry).find(paths, watch=Watch())
    assert steps == [(SIZE, 2 * SIZE)]
    assert len(registry.known_sha256()) <= 1
    assert names(Duplicates(registry).find(paths)) == [["a", "b"]]


def test_a_changed_copy_is_no_duplicate_any_more(tmp_path: Path, registry: Registry) -> None:
    paths = [write(tmp_path / name) for name in ("a", "b")]
    assert names(Duplicates(registry).find(paths)) == [["a", "b"]]
    shutil.copyfile(write(tmp_path / "other", (20_000, 1)), paths[1])
    os.utime(paths[1], ns=(1, 1))
    assert Duplicates(registry).find(paths)["groups"] == []


contents = st.lists(
    st.builds(
        lambda n, size: Content(FileIdentity(Path(str(n)), size, n)), st.integers(0, 99), st.integers(0, 3)
    ),
    unique_by=lambda c: c.file.path,
)


@settings(max_examples=30, deadline=None)
@given(contents)
def test_together_puts_each_file_in_at_most_one_group(files: list[Content]) -> None:
    groups = together(files, lambda c: c.file.size or None)
    flat = [c for _, group in groups for c in group]
    assert len(set(flat)) == len(flat)
    assert all(len(group) > 1 and {c.file.size for c in group} == {size} for size, group in groups)
    lonely = [c for c in files if c not in flat]
    assert len({c.file.size for c in lonely if c.file.size}) == len([c for c in lonely if c.file.size])


@settings(max_examples=30, deadline=None)
@given(contents.filter(lambda c: len(c) > 1), st.data())
def test_what_hashes_disprove_is_not_said_to_be_the_same(files: list[Content], data: st.DataObject) -> None:
    known = {c.file: data.draw(st.sampled_from("ab")) for c in files}
    for group in unproved(files, known):
        assert group.proved
        assert {known[c.file] for c in group.files} == {group.sha256}
    some = dict(list(known.items())[1:])
    assert [group.proved for group in unproved(files, some)] == [False]
