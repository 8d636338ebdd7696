"""Which bytes are asked for: everything, once, however often it is interrupted."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from managed_models.manager.download import plan
from managed_models.manager.download.board import Board, Claim
from managed_models.manager.download.crew import Growth
from managed_models.manager.download.limits import Limits
from managed_models.manager.download.plan import MB, Trial

RANGES = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), max_size=8)
QUICK = settings(max_examples=60, deadline=None)


def _bytes(ranges: plan.Ranges) -> set[int]:
    return {i for start, end in ranges for i in range(start, end)}


@QUICK
@given(RANGES)
def test_merged_ranges_hold_the_same_bytes_in_order_and_apart(ranges: list[tuple[int, int]]) -> None:
    merged = plan.merge(ranges)
    assert _bytes(merged) == _bytes(tuple(ranges))
    assert all(a[1] < b[0] for a, b in itertools.pairwise(merged))
    assert plan.count(merged) == len(_bytes(merged))


@QUICK
@given(RANGES, st.integers(0, 220))
def test_what_is_missing_is_the_rest_and_nothing_else(ranges: list[tuple[int, int]], total: int) -> None:
    merged = plan.merge(ranges)
    assert _bytes(plan.missing(merged, total)) == set(range(total)) - _bytes(merged)
    front = plan.front(merged)
    assert set(range(front)) <= _bytes(merged)
    assert front not in _bytes(merged)


@QUICK
@given(RANGES, st.integers(1, 220), st.integers(1, 50))
def test_pieces_cover_exactly_what_is_missing(ranges: list[tuple[int, int]], total: int, size: int) -> None:
    taken = plan.merge((s, min(e, total)) for s, e in ranges)
    have = _bytes(taken)
    while (piece := plan.next_piece(taken, total, size)) is not None:
        got = set(range(*piece))
        assert got
        assert not got & have
        assert len(got) <= size * 3 // 2
        have |= got
        taken = plan.merge([*taken, piece])
    assert have == set(range(total))


@QUICK
@given(st.integers(1, 100), st.integers(1, 30), st.integers(1, 5), st.integers(0, 10**6))
def test_connections_that_come_and_go_write_every_byte_once(
    total: int, size: int, connections: int, seed: int
) -> None:
    """Lines take pieces, write some, break off, steal from each other; now and then all is killed."""
    chance = random.Random(seed)
    board = Board((), total * MB)
    written: list[tuple[int, int]] = []
    claims: list[Claim] = []
    while not board.is_whole:
        if len(claims) < connections and (claim := board.take(size * MB)) is not None:
            claims.append(claim)
        claim = chance.choice(claims)
        step = min(claim.left or 0, chance.randint(0, 8) * MB // 2)
        written.append((claim.position, claim.position + step))
        board.advance(claim, step)
        if not claim.left or chance.random() < 0.05:
            board.release(claim)
            claims.remove(claim)
        if chance.random() < 0.02:  # killed, and started again from what was written
            claims.clear()
            board = Board(board.ranges(), total * MB)
    assert plan.merge(written) == ((0, total * MB),)
    assert sum(end - start for start, end in written) == total * MB
    assert board.take(None) is None


def test_a_whole_board_has_no_work() -> None:
    board = Board(((0, 10),), 10)
    assert board.is_whole
    assert not board.has_work()
    assert board.take(None) is None


def test_an_open_claim_ends_where_the_file_does() -> None:
    board = Board((), None)
    claim = board.take(None)
    assert claim is not None
    assert (claim.start, claim.end) == (0, None)
    assert board.take(None) is None, "nobody knows what else there is"
    board.set_total(100)
    assert claim.end == 100
    board.advance(claim, 40)
    assert (board.count(), board.is_whole) == (40, False)
    board.release(claim)
    assert board.take(None) is not None


def test_a_piece_is_halved_for_whoever_has_nothing_to_do() -> None:
    board = Board((), 8 * MB)
    first = board.take(None)
    second = board.take(None)
    assert first is not None
    assert second is not None
    assert (first.start, first.end) == (0, 4 * MB)
    assert (second.start, second.end) == (4 * MB, 8 * MB)
    board.advance(first, 4 * MB - 100)
    board.advance(second, 4 * MB - 100)
    assert board.take(None) is None, "the rest comes sooner than another request would"


@pytest.mark.parametrize(
    ("total", "latency", "connections", "size"),
    [
        (400 * MB, 0.0, 8, plan.SMALLEST_PIECE),
        (28 * 1024 * MB, 0.1, 8, plan.LARGEST_PIECE),
        (400 * MB, 0.05, 8, 17 * MB),
    ],
)
def test_pieces_are_larger_where_a_request_costs_more(
    total: int, latency: float, connections: int, size: int
) -> None:
    assert plan.piece_size(total, latency, connections) == pytest.approx(size, rel=0.1)


@pytest.mark.parametrize(
    ("trials", "left", "chosen"),
    [
        ([(1, 20)], 10_000, 4),
        ([(1, 20), (4, 80)], 10_000, 8),
        ([(1, 20), (4, 80), (8, 160)], 100_000, 8),  # no more than that
        ([(1, 200), (4, 201)], 100_000, 1),
        ([(1, 20), (4, 80), (8, 81)], 10_000, 4),
        ([(1, 20), (4, 80), (8, 81), (4, 60)], 10_000, 4),
        ([(1, 200)], 300, 1),  # done before it would pay
        ([(1, 0)], 5, 1),
    ],
)
def test_connections_are_added_while_they_pay(
    trials: list[tuple[int, float]], left: int, chosen: int
) -> None:
    tried = [Trial(connections, rate * MB) for connections, rate in trials]
    found = plan.next_connections(tried, left * MB)
    assert found == chosen
    assert plan.is_settled(tried, found) == (chosen <= trials[-1][0])


def _grown(asked: int, rates: Callable[[int], float], limit: int = 100) -> list[int]:
    """Return how many connections there were in each second of a large download."""
    growth = Growth(asked, Limits())
    arrived, seen = 0.0, []
    wanted = growth.wanted(0.0, 0, 28_000 * MB, limit)
    for second in range(1, 8):
        arrived += rates(wanted) * MB
        seen.append(wanted)
        assert growth.wanted(second - 0.5, int(arrived), 28_000 * MB, limit) == wanted, "not yet"
        wanted = growth.wanted(float(second), int(arrived), 28_000 * MB, limit)
    return seen


def test_connections_grow_in_a_few_seconds_and_stay() -> None:
    assert _grown(0, lambda n: 20 * n) == [1, 4, 8, 8, 8, 8, 8]
    assert _grown(0, lambda n: 200) == [1, 4, 1, 1, 1, 1, 1]
    assert _grown(0, lambda n: min(90, 20 * n)) == [1, 4, 8, 4, 4, 4, 4]
    assert _grown(0, lambda n: 20 * n, limit=2) == [1, 2, 2, 2, 2, 2, 2]
    assert _grown(3, lambda n: 20 * n) == [3] * 7, "as a person asked"


def test_no_more_connections_than_the_server_bears() -> None:
    assert plan.next_connections([Trial(2, 20 * MB)], 10_000 * MB, limit=2) == 2
