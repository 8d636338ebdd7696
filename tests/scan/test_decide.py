"""What a scan decides, from records and listings alone."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from managed_models.manager.registry import Record
from managed_models.manager.scan.decide import NOT_MOUNTED, Found, compare, match_moves
from managed_models.manager.scan.walk import Seen, Tree

ROOT = os.path.join(os.sep, "models", "loras")
DEVICE = 7


def at(name: str) -> str:
    return os.path.join(ROOT, *name.split("/"))


def record(name: str = "a", size: int = 10, time: int = 5, **more: object) -> Record:
    facts: dict[str, object] = {
        "node": f"{DEVICE}:{abs(hash(name)) % 1000}",
        "digest": "d",
        "complete": True,
        "missing": False,
    }
    facts.update(more)
    return Record(at(name), size, time, **facts)  # type: ignore[arg-type]


def seen(name: str = "a", size: int = 10, time: int = 5, node: str | None = f"{DEVICE}:1") -> Seen:
    return Seen(at(name), "loras", name, size, time, node)


def tree(*files: Seen, listed: dict[str, int | None] | None = None, **failed: str) -> Tree:
    folders = {os.path.dirname(file.path): DEVICE for file in files} | {ROOT: DEVICE}
    return Tree(list(files), folders if listed is None else listed, dict(failed))  # type: ignore[arg-type]


def known(*records: Record) -> dict[str, Record]:
    return {record.path: record for record in records}


def test_an_unchanged_file_needs_no_look() -> None:
    found = compare(known(record()), tree(seen()))
    assert found.unchanged == 1
    assert (found.new, found.changed, found.stale, found.back, found.absent) == ([], [], [], [], [])


@pytest.mark.parametrize(
    ("before", "where"),
    [
        (None, "new"),
        (record(size=11), "changed"),
        (record(time=6), "changed"),
        (record(digest=None, complete=False), "new"),
        (record(complete=False), "stale"),
        (record(missing=True, size=11), "changed"),
    ],
    ids=["unknown", "size", "time", "no scan has read it", "an older version read it", "back and changed"],
)
def test_what_has_to_be_read(before: Record | None, where: str) -> None:
    found = compare(known(before) if before else {}, tree(seen()))
    assert [file.path for file in getattr(found, where)] == [at("a")]
    assert found.unchanged == 0


def test_a_missing_file_is_back() -> None:
    found = compare(known(record(missing=True)), tree(seen()))
    assert (found.back, found.new, found.unchanged) == ([at("a")], [], 0)


def test_a_file_that_its_folder_does_not_list_is_absent() -> None:
    found = compare(known(record("gone"), record("deep/er/gone")), tree(seen()))
    assert [r.path for r in found.absent] == [at("gone"), at("deep/er/gone")]
    assert found.held == {}


def test_a_file_elsewhere_is_none_of_this_scan() -> None:
    other = record()._replace(path=os.path.join(os.sep, "other", "a"))
    found = compare(known(other), tree(seen()))
    assert (found.absent, found.held) == ([], {})


def test_files_of_a_folder_that_cannot_be_listed_are_left_as_they_are() -> None:
    listing = Tree([], {}, {ROOT: "No such file or directory"})
    found = compare(known(record("a"), record("b/c")), listing)
    assert found.absent == []
    assert set(found.held) == {at("a"), at("b/c")}
    assert all("No such file or directory" in why for why in found.held.values())


@pytest.mark.parametrize(
    ("node", "held"), [(f"{DEVICE}:3", False), ("8:3", True), (None, True)], ids=["same", "other", "unknown"]
)
def test_an_empty_folder_on_another_device_may_be_a_drive_that_is_not_mounted(
    node: str | None, held: bool
) -> None:
    found = compare(known(record("nas/a", node=node)), tree(listed={ROOT: DEVICE, at("nas"): DEVICE}))
    assert found.held == ({at("nas/a"): NOT_MOUNTED} if held else {})
    assert len(found.absent) == (0 if held else 1)


def test_another_device_with_files_is_a_drive_that_got_another_number() -> None:
    listed = {ROOT: DEVICE, at("nas"): 9}
    there = seen("nas/deeper/b", node="9:1")
    found = compare(known(record("nas/a", node="8:3")), tree(there, listed=listed))
    assert [r.path for r in found.absent] == [at("nas/a")]


# Moves


def test_a_file_with_the_same_size_time_and_samples_has_moved() -> None:
    moves = match_moves([record("old")], [Found(seen("new"), "d")])
    assert [(r.path, s.path) for r, s in moves.pairs] == [(at("old"), at("new"))]
    assert moves.ambiguous == ()


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (Found(seen("new", size=11), "d"), "size"),
        (Found(seen("new", time=6), "d"), "time"),
        (Found(seen("new"), "e"), "samples"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_differs_has_not_moved(found: Found, why: str) -> None:
    moves = match_moves([record("old")], [found])
    assert (moves.pairs, moves.ambiguous) == ((), ())


def test_a_record_without_samples_is_never_matched() -> None:
    assert match_moves([record("old", digest=None)], [Found(seen("new"), "")]).pairs == ()


def test_two_equal_files_are_not_guessed() -> None:
    two = [Found(seen("x", node="7:71"), "d"), Found(seen("y", node="7:72"), "d")]
    moves = match_moves([record("old", node="7:1")], two)
    assert (moves.pairs, moves.ambiguous) == ((), (at("x"), at("y")))
    moves = match_moves([record("old", node="7:1"), record("older", node="7:2")], two[:1])
    assert (moves.pairs, moves.ambiguous) == ((), (at("x"),))


def test_equal_files_are_told_apart_by_their_inodes() -> None:
    records = [record("a1", node="7:1"), record("b1", node="7:2")]
    files = [Found(seen("b2", node="7:2"), "d"), Found(seen("a2", node="7:1"), "d")]
    moves = match_moves(records, files)
    assert {(r.path, s.path) for r, s in moves.pairs} == {(at("a1"), at("a2")), (at("b1"), at("b2"))}
    assert moves.ambiguous == ()


def test_an_inode_alone_proves_nothing() -> None:
    """File systems use the number of a deleted file again."""
    assert (
        match_moves([record("old", node="7:1")], [Found(seen("new", size=99, node="7:1"), "d")]).pairs == ()
    )


few = st.integers(0, 2)
records_of = st.lists(
    st.builds(
        lambda n, size, time, node, digest: record(f"old{n}", size, time, node=node, digest=digest),
        st.integers(0, 99),
        few,
        few,
        st.sampled_from([None, "7:1", "7:2", "7:3"]),
        st.sampled_from(["d", "e", None]),
    ),
    unique_by=lambda r: r.path,
    max_size=6,
)
found_of = st.lists(
    st.builds(
        lambda n, size, time, node, digest: Found(seen(f"new{n}", size, time, node), digest),
        st.integers(0, 99),
        few,
        few,
        st.sampled_from([None, "7:1", "7:2", "7:3"]),
        st.sampled_from(["d", "e"]),
    ),
    unique_by=lambda f: f.seen.path,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(records_of, found_of)
def test_moves_are_pairs_of_equal_files_each_used_once(records: list[Record], found: list[Found]) -> None:
    moves = match_moves(records, found)
    digests = {f.seen.path: f.digest for f in found}
    for old, new in moves.pairs:
        assert (old.size, old.mtime_ns, old.digest) == (new.size, new.mtime_ns, digests[new.path])
    assert len({old.path for old, _ in moves.pairs}) == len(moves.pairs)
    assert len({new.path for _, new in moves.pairs}) == len(moves.pairs)
    assert not {new.path for _, new in moves.pairs} & set(moves.ambiguous)
    # What is asked in another order is answered the same.
    again = match_moves(records[::-1], found[::-1])
    assert {(a.path, b.path) for a, b in again.pairs} == {(a.path, b.path) for a, b in moves.pairs}
    assert set(again.ambiguous) == set(moves.ambiguous)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from("abcdef"), unique=True), st.lists(st.sampled_from("abcdef"), unique=True))
def test_every_file_is_in_exactly_one_group(before: list[str], now: list[str]) -> None:
    found = compare(known(*(record(n, node=f"{DEVICE}:{n}") for n in before)), tree(*map(seen, now)))
    assert found.unchanged == len(set(before) & set(now))
    assert {s.path for s in found.new} == {at(n) for n in set(now) - set(before)}
    assert {r.path for r in found.absent} == {at(n) for n in set(before) - set(now)}
