"""The journal of an unfinished output: what it remembers, and what it does not believe."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from managed_models.manager.quantize import journal as journal_module
from managed_models.manager.quantize.journal import Found, Journal, TensorState, writer_of

numbers = st.integers(0, 2**40)
states = st.builds(
    TensorState,
    blocks=st.integers(1, 10**6),
    written=st.lists(numbers, min_size=1, max_size=3).map(tuple),
    checksums=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=3).map(tuple),
    noise=st.floats(0, 1e30),
    signal=st.floats(0, 1e30),
    pending=st.just(()),
)
notes = st.lists(st.tuples(st.integers(0, 5), states), max_size=8)


def write(path: Path, entries: list[tuple[int, TensorState]], run: str = "run") -> Journal:
    journal = Journal(path, run)
    journal.start()
    for number, state in entries:
        journal.note(number, state)
    return journal


def resumed(path: Path, run: str = "run") -> Found | None:
    journal = Journal(path, run)
    found = journal.resume()
    journal.close()
    return found


@settings(deadline=None, max_examples=30)
@given(notes)
def test_what_was_noted_is_found(tmp_path_factory: pytest.TempPathFactory, entries: list) -> None:
    path = tmp_path_factory.mktemp("journal") / "j"
    write(path, entries).close()
    found = resumed(path)
    assert found is not None
    assert found.states == dict(entries)  # the last note of a tensor counts
    assert found.sha256 is None


# What becomes of each new piece of two outputs: kept in the journal, or written with all before it.
pieces = st.lists(st.tuples(*[st.tuples(st.binary(max_size=5), st.booleans())] * 2), min_size=1, max_size=6)


@settings(deadline=None, max_examples=40)
@given(pieces)
def test_pending_pieces_are_found_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[tuple[tuple[bytes, bool], ...]]
) -> None:
    path = tmp_path_factory.mktemp("journal") / "j"
    journal = Journal(path, "run")
    journal.start()
    written, pending = [0, 0], [b"", b""]
    for number, block in enumerate(blocks, 1):
        added = [b"", b""]
        for output, (piece, keep) in enumerate(block):
            if keep:
                added[output] = piece
                pending[output] += piece
            elif pending[output] + piece:
                written[output] += len(pending[output] + piece)
                pending[output] = b""
        state = TensorState(number, tuple(written), (0, 0), pending=tuple(pending))
        journal.note(7, state, added)
    journal.close()
    found = resumed(path)
    assert found is not None
    assert found.states == {7: state}


@settings(deadline=None, max_examples=40)
@given(notes, st.data())
def test_a_journal_cut_anywhere_is_an_earlier_one(
    tmp_path_factory: pytest.TempPathFactory, entries: list, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("journal") / "j"
    write(path, entries).close()
    whole = path.read_bytes()
    size = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:size] + data.draw(st.sampled_from([b"", b"x", b"0 1\n", b"\xff" * 30])))
    lines = whole[:size].count(b"\n")
    journal = Journal(path, "run")
    found = journal.resume()
    if lines == 0:
        assert found is None
        return
    assert found is not None
    assert found.states == dict(entries[: lines - 1])
    journal.note(9, TensorState(1, (1,), (1,)))  # and it goes on after the last whole line
    journal.close()
    again = resumed(path)
    assert again is not None
    assert again.states == {**found.states, 9: TensorState(1, (1,), (1,))}


@pytest.mark.parametrize("place", range(0, 200, 7))
def test_a_flipped_bit_ends_what_is_believed(tmp_path: Path, place: int) -> None:
    entries = [(n, TensorState(n + 1, (n,), (n,))) for n in range(6)]
    path = tmp_path / "j"
    write(path, entries).close()
    raw = bytearray(path.read_bytes())
    raw[place] ^= 4
    path.write_bytes(raw)
    line = bytes(raw[:place]).count(b"\n")
    found = resumed(path)
    assert (found.states if found else None) == (dict(entries[: line - 1]) if line else None)


def test_another_run_is_not_continued(tmp_path: Path) -> None:
    write(tmp_path / "j", [(0, TensorState(1, (1,), (1,)))], "one").close()
    assert resumed(tmp_path / "j", "other") is None


def test_nothing_there(tmp_path: Path) -> None:
    assert resumed(tmp_path / "j") is None
    assert writer_of(tmp_path / "j") is None


def test_after_a_restart_only_what_was_flushed_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = write(tmp_path / "j", [(0, TensorState(1, (1,), (1,)))])
    mark = journal.mark()
    journal.note(1, TensorState(1, (2,), (2,)))
    journal.note_synced(mark)
    journal.note(2, TensorState(1, (3,), (3,)))
    journal.note_hash("abc")
    journal.close()
    found = resumed(tmp_path / "j")
    assert found is not None
    assert set(found.states) == {0, 1, 2}
    assert found.sha256 == "abc"
    monkeypatch.setattr(journal_module, "_boot", lambda: "another start of the machine")
    found = resumed(tmp_path / "j")
    assert found is not None
    assert (set(found.states), found.sha256) == ({0}, None)


def test_what_was_not_believed_after_a_restart_is_not_believed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines of the same length: those that follow must not become part of the journal again."""
    boots = iter(["first", "second", "second"])
    monkeypatch.setattr(journal_module, "_boot", lambda: next(boots))
    journal = write(tmp_path / "j", [(0, TensorState(1, (1,), (1,)))])  # first
    journal.note_synced(journal.mark())
    for number in (1, 2, 3):
        journal.note(number, TensorState(1, (1,), (1,)))
    journal.close()
    journal = Journal(tmp_path / "j", "run")
    assert journal.resume() is not None  # second
    journal.note(4, TensorState(1, (1,), (1,)))
    journal.close()
    assert b"[2," not in (tmp_path / "j").read_bytes()
    assert b"[3," not in (tmp_path / "j").read_bytes()


def test_after_a_restart_without_a_flush_nothing_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "j", [(0, TensorState(1, (1,), (1,)))]).close()
    monkeypatch.setattr(journal_module, "_boot", lambda: "another start of the machine")
    assert resumed(tmp_path / "j") is None


def test_it_says_who_writes(tmp_path: Path) -> None:
    import os

    write(tmp_path / "j", []).close()
    assert writer_of(tmp_path / "j") == os.getpid()
