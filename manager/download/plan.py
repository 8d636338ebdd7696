"""Which bytes are there, which are to be asked for, and by how many connections. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

# Sorted (first, last + 1), apart from each other.
Ranges = tuple[tuple[int, int], ...]

MB = 1024**2
SMALLEST_PIECE = 4 * MB
LARGEST_PIECE = 64 * MB
# Bytes a second: a guess at how fast the rest is hashed when everything has come.
HASHED_PER_SECOND = 1e9
AUTOMATIC_CONNECTIONS = 8
_STEP = 4
# More connections have to bring this much more, or they were too many.
WORTH_IT = 1.2
# What is done within so many trials gets no further connections.
_NOT_WORTH_TRIALS = 3
LEAST_STOLEN = 256 * 1024


def merge(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Return the union of ranges."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if end <= start:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return tuple(merged)


def count(ranges: Ranges) -> int:
    """Return how many bytes ranges hold."""
    return sum(end - start for start, end in ranges)


def front(ranges: Ranges) -> int:
    """Return how many bytes are there from the first one on without a hole."""
    return ranges[0][1] if ranges and ranges[0][0] == 0 else 0


def missing(ranges: Ranges, total: int) -> Ranges:
    """Return what a file of ``total`` bytes lacks."""
    holes: list[tuple[int, int]] = []
    position = 0
    for start, end in ranges:
        if start >= total:
            break
        if position < start:
            holes.append((position, start))
        position = max(position, end)
    if position < total:
        holes.append((position, total))
    return tuple(holes)


def next_piece(taken: Ranges, total: int, size: int) -> tuple[int, int] | None:
    """Return the first bytes that nobody has or fetches, at most ``size``; None when there are none.

    From the front, so that hashing can follow. A rest of less than half a piece is taken along.
    """
    holes = missing(taken, total)
    if not holes:
        return None
    start, end = holes[0]
    return (start, end) if end - start <= size * 3 // 2 else (start, start + size)


def piece_size(total: int, latency: float, connections: int, smallest: int = SMALLEST_PIECE) -> int:
    """Return how many bytes one request asks for when several run.

    Each request costs its latency; what is in flight at the end is still to be hashed, which small pieces
    keep little. This is where the sum of both is least.

    Args:
        total: bytes of the file.
        latency: seconds from a request to its answer.
    """
    best = math.sqrt(total * latency * HASHED_PER_SECOND) / max(1, connections)
    return int(min(LARGEST_PIECE, max(smallest, best)))


def split(
    open_pieces: Sequence[tuple[int, int]], bytes_per_second: float = 0.0, least: int = LEAST_STOLEN
) -> tuple[int, int] | None:
    """Return which of the pieces in flight to halve, and where; None when none is worth it.

    Args:
        open_pieces: what is left of each.
        bytes_per_second: of one connection: what arrives within half a second is left alone.
    """
    if not open_pieces:
        return None
    index = max(range(len(open_pieces)), key=lambda i: open_pieces[i][1] - open_pieces[i][0])
    start, end = open_pieces[index]
    if end - start < 2 * max(least, bytes_per_second / 2):
        return None
    return index, start + (end - start) // 2


class Trial(NamedTuple):
    """What so many connections brought together."""

    connections: int
    bytes_per_second: float


def next_connections(
    trials: Sequence[Trial],
    left_bytes: int,
    limit: int = AUTOMATIC_CONNECTIONS,
    trial_seconds: float = 1.0,
    smallest: int = SMALLEST_PIECE,
) -> int:
    """Return how many connections to use from now on: four times as many while that pays.

    Args:
        trials: what was tried so far, in order; at least one.
        left_bytes: what is still to come.
        limit: what the server was seen to bear.
        trial_seconds: how long each was tried.
        smallest: what one request asks for at least.
    """
    last = trials[-1]
    if len(trials) > 1:
        before = trials[-2]
        if last.connections < before.connections:
            return last.connections
        if last.bytes_per_second < before.bytes_per_second * WORTH_IT:
            return before.connections
    soon = last.bytes_per_second * trial_seconds * _NOT_WORTH_TRIALS
    if left_bytes < max(soon, 2 * smallest):
        return last.connections
    return max(1, min(limit, last.connections * _STEP))


def is_settled(trials: Sequence[Trial], chosen: int) -> bool:
    """Tell whether :func:`next_connections` has found its answer."""
    return chosen <= trials[-1].connections
