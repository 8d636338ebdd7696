"""From a hash to a file, wherever it has moved."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from managed_models.manager.by_hash import Located, locate
from managed_models.manager.errors import AmbiguousModel, HashUnverified, ModelNotFound
from managed_models.manager.files import FileIdentity
from managed_models.manager.library import Library
from managed_models.manager.local_host import LocalHost
from managed_models.manager.model import ModelInfo, ModelType
from managed_models.manager.registry import Registry, Source
from managed_models.manager.registry.by_hash import HashRecord
from support.files import shapes_file

WAN = {"head.modulation": (1, 2, 64), "patch_embedding.weight": (64, 16, 1, 2, 2)}
FOLDERS = ("diffusion_models", "checkpoints")
A, B = "a" * 64, "b" * 64


# The decision


def file(name: str, size: int = 10, mtime_ns: int = 1) -> FileIdentity:
    return FileIdentity(Path(name), size, mtime_ns)


def record(name: str, digest: str = A, size: int | None = 10, measured: bool = True) -> HashRecord:
    return HashRecord(digest, Path(name), size, 1, measured)


@pytest.mark.parametrize(
    ("records", "here", "measured", "found", "candidates"),
    [
        ([], [file("x")], {}, [], []),
        ([record("x")], [file("x")], {file("x"): A}, ["x"], []),
        ([record("x")], [file("x", mtime_ns=2)], {}, [], ["x"]),  # written again: who knows
        ([record("x")], [file("x", size=11)], {}, [], []),
        ([record("x")], [file("y")], {file("y"): B}, [], []),  # as large, and known to be another
        ([record("x")], [file("y"), file("z"), file("x", mtime_ns=2)], {}, [], ["x", "y", "z"]),
        ([record("old/x")], [file("z", mtime_ns=7), file("y"), file("new/x")], {}, [], ["new/x", "y", "z"]),
        ([record("x", size=None, measured=False)], [file("x")], {}, ["x"], []),  # a person's word
        ([record("x", measured=False)], [file("x", size=11)], {}, [], []),  # replaced since
        ([record("x", measured=False)], [file("x")], {file("x"): B}, [], []),  # and measured otherwise
        (
            [record("said", measured=False), record("x")],
            [file("said"), file("x")],
            {file("x"): A},
            ["x", "said"],  # what was measured comes first
            [],
        ),
    ],
)
def test_where_a_hash_is(
    records: Sequence[HashRecord],
    here: Sequence[FileIdentity],
    measured: dict[FileIdentity, str],
    found: list[str],
    candidates: list[str],
) -> None:
    located = locate(records, here, measured)
    assert [str(path) for path in located.found] == found
    assert [str(path) for path in located.candidates] == candidates


_SIZES, _DIGESTS, _NAMES = st.integers(1, 2), st.sampled_from([A, B]), st.sampled_from(["x", "y", "z"])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.builds(record, _NAMES, st.just(A), _SIZES, st.booleans()), max_size=3),
    st.lists(st.builds(file, _NAMES, _SIZES), max_size=3, unique_by=lambda f: f.path),
    st.dictionaries(st.builds(file, _NAMES, _SIZES), _DIGESTS, max_size=2),
)
def test_no_file_is_taken_that_was_measured_otherwise(
    records: list[HashRecord], here: list[FileIdentity], measured: dict[FileIdentity, str]
) -> None:
    located: Located = locate(records, here, measured)
    by_path = {file.path: file for file in here}
    assert not set(located.found) & set(located.candidates)
    for path in (*located.found, *located.candidates):
        assert measured.get(by_path[path], A) == A
        assert records
    assert all(measured.get(by_path[path]) is None for path in located.candidates)


# On a disk


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    (root / "diffusion_models").mkdir(parents=True)
    shapes_file(root / "diffusion_models" / "wan.safetensors", WAN)
    return root


@pytest.fixture
def wan(root: Path) -> Path:
    return root / "diffusion_models" / "wan.safetensors"


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def library(root: Path, registry: Registry) -> Library:
    return Library(LocalHost([root]), registry)


class Watcher:
    """Looks on, and counts."""

    def __init__(self) -> None:
        self.bytes = 0

    def throw_if_cancelled(self) -> None:
        pass

    def progress(self, done: int, total: int) -> None:
        self.bytes += done == total and total


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def find(library: Library, digest: str, watch: Watcher | None = None) -> Path:
    return library.find(f"sha256:{digest}", FOLDERS, watch=watch).path


def test_twelve_digits_are_enough_and_fewer_are_not(library: Library, registry: Registry, wan: Path) -> None:
    digest = sha256(wan)
    registry.put_sha256(FileIdentity.of(wan), digest)
    for digits in (64, 63, 20, 12):
        assert find(library, digest[:digits].upper()) == wan
    with pytest.raises(ModelNotFound) as caught:
        find(library, digest[:11])
    assert "12 to 64 hex digits" in caught.value.remedy


def test_digits_that_begin_several_hashes_are_ambiguous(
    library: Library, registry: Registry, wan: Path
) -> None:
    other = shapes_file(wan.with_name("other.safetensors"), WAN)
    for path, digest in ((wan, "ab" * 31 + "00"), (other, "ab" * 31 + "01")):
        registry.put_sha256(FileIdentity.of(path), digest)
    with pytest.raises(AmbiguousModel, match="begins several SHA-256: ab") as caught:
        find(library, "ab" * 6)
    assert "more digits" in caught.value.remedy
    assert find(library, "ab" * 31 + "01") == other


@pytest.mark.parametrize(
    "moved", ["renamed.safetensors", "sub/wan.safetensors", "sub/deep/other.safetensors"]
)
def test_a_file_that_moved_is_found_once_somebody_may_hash_it(
    library: Library, registry: Registry, wan: Path, moved: str
) -> None:
    digest = sha256(wan)
    registry.put_sha256(FileIdentity.of(wan), digest)
    decoy = shapes_file(wan.with_name("decoy.safetensors"), {**WAN, "head.modulation": (1, 64, 2)})
    assert decoy.stat().st_size == wan.stat().st_size
    target = wan.parent / moved
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(wan, target)
    with pytest.raises(HashUnverified) as caught:  # nothing is hashed where nobody may wait
        find(library, digest)
    assert moved in caught.value.details["candidates"]
    assert "Verify" in caught.value.remedy
    watcher = Watcher()
    assert find(library, digest, watcher) == target
    assert watcher.bytes > 0
    assert registry.sha256(FileIdentity.of(target)) == digest
    again = Watcher()
    assert find(library, digest, again) == find(library, digest) == target
    assert again.bytes == 0


def test_a_file_whose_move_a_scan_recorded_is_found_at_once(
    library: Library, registry: Registry, wan: Path
) -> None:
    digest = sha256(wan)
    registry.put_sha256(FileIdentity.of(wan), digest)
    target = wan.with_name("renamed.safetensors")
    shutil.move(wan, target)
    registry.put_sha256(FileIdentity.of(target), digest)  # as a scan writes it
    assert find(library, digest) == target


def test_a_file_as_large_that_turns_out_to_be_another_is_not_taken(
    library: Library, registry: Registry, wan: Path
) -> None:
    digest = sha256(wan)
    registry.put_sha256(FileIdentity.of(wan), digest)
    shapes_file(wan, {**WAN, "head.modulation": (1, 64, 2)})
    watcher = Watcher()
    with pytest.raises(ModelNotFound, match=r"It was wan\.safetensors, which is not here any more") as caught:
        find(library, digest, watcher)
    assert not isinstance(caught.value, HashUnverified)
    assert watcher.bytes == wan.stat().st_size
    with pytest.raises(ModelNotFound) as caught:  # it is known now
        find(library, digest)
    assert not isinstance(caught.value, HashUnverified)


def test_the_size_may_come_from_a_registration_or_a_download(
    library: Library, registry: Registry, wan: Path
) -> None:
    digest, gone = sha256(wan), wan.with_name("gone.safetensors")
    shutil.copy(wan, gone)
    registry.put(ModelInfo("wan", ModelType.DIFFUSION, gone, sha256=digest.upper()))
    gone.unlink()
    assert find(library, digest, Watcher()) == wan
    other = Registry()
    as_fetched = FileIdentity(gone, wan.stat().st_size, 1)
    other.put_source(as_fetched, Source("https://example.com/x", sha256=digest))
    assert find(Library(LocalHost([wan.parents[1]]), other), digest, Watcher()) == wan


def test_a_registered_hash_that_the_file_does_not_have(
    library: Library, registry: Registry, wan: Path
) -> None:
    registry.put(ModelInfo("wan", ModelType.DIFFUSION, wan, sha256=A))
    assert find(library, A) == wan  # a person said so, and nobody knows better
    registry.put_sha256(FileIdentity.of(wan), sha256(wan))
    with pytest.raises(ModelNotFound):
        find(library, A)


def test_a_file_outside_the_folders_is_found_where_any_file_will_do(
    library: Library, registry: Registry, tmp_path: Path
) -> None:
    mine = shapes_file(tmp_path / "mine.safetensors", WAN)
    registry.put_sha256(FileIdentity.of(mine), sha256(mine))
    assert library.find_path(f"sha256:{sha256(mine)}") == mine
    with pytest.raises(ModelNotFound):
        find(library, sha256(mine))


def test_a_file_that_changes_while_it_is_hashed_is_not_taken(
    library: Library, registry: Registry, wan: Path
) -> None:
    digest, target = sha256(wan), wan.with_name("renamed.safetensors")
    registry.put_sha256(FileIdentity.of(wan), digest)
    shutil.move(wan, target)

    class Meddler(Watcher):
        def progress(self, done: int, total: int) -> None:
            with open(target, "r+b") as file:  # where it was read already
                file.write(b"x")

    with pytest.raises(ModelNotFound):
        find(library, digest, Meddler())
    assert registry.sha256(FileIdentity.of(target)) is None
