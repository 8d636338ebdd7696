"""Who fetches which bytes of one file, kept straight between threads."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from .plan import LEAST_STOLEN, Ranges, count, front, merge, missing, next_piece, split


@dataclass
class Claim:
    """Bytes that one connection fetches; ``end`` is None while nobody knows the file's size."""

    start: int
    position: int
    end: int | None

    @property
    def left(self) -> int | None:
        return None if self.end is None else max(0, self.end - self.position)


class Board:
    """The ranges of one file: written, and claimed by a connection.

    Args:
        done: what is there already.
        total: of the whole file, None while nobody knows.
        least_stolen: what is smaller is left to the connection that has it.
    """

    def __init__(self, done: Ranges, total: int | None, least_stolen: int = LEAST_STOLEN) -> None:
        self._least_stolen = least_stolen
        self._lock = threading.Lock()
        self._done = done
        self._claims: list[Claim] = []
        self._total = total

    @property
    def total(self) -> int | None:
        return self._total

    def set_total(self, total: int) -> None:
        """Say how large the file is; an open claim ends there."""
        with self._lock:
            self._total = total
            for claim in self._claims:
                if claim.end is None:
                    claim.end = total

    def take(self, size: int | None, bytes_per_second: float = 0.0) -> Claim | None:
        """Claim the next bytes, or half of what somebody else has still to fetch; None when none are left.

        Args:
            size: at most so many; None takes all of the first hole.
            bytes_per_second: of one connection.
        """
        with self._lock:
            piece: tuple[int, int | None] | None
            if self._total is not None:
                piece = next_piece(self._taken(), self._total, size or self._total)
            else:
                piece = None if self._claims else (front(self._done), None)
            piece = piece or self._half(bytes_per_second)
            if piece is None:
                return None
            claim = Claim(piece[0], piece[0], piece[1])
            self._claims.append(claim)
            return claim

    def has_work(self, bytes_per_second: float = 0.0) -> bool:
        """Tell whether :meth:`take` would find something."""
        with self._lock:
            if self._total is None:
                return not self._claims
            if next_piece(self._taken(), self._total, 1) is not None:
                return True
            return self._largest(bytes_per_second) is not None

    def advance(self, claim: Claim, written: int) -> None:
        """Record that ``written`` bytes at the claim's position are in the file."""
        with self._lock:
            claim.position += written

    def release(self, claim: Claim) -> None:
        """Give a claim up: what was written stays, the rest is free."""
        with self._lock:
            if claim in self._claims:
                self._claims.remove(claim)
                self._done = merge([*self._done, (claim.start, claim.position)])

    def shorten(self, size: int) -> None:
        """Let every claim end ``size`` bytes from where it is, so that others find work."""
        with self._lock:
            for claim in self._claims:
                if claim.end is not None:
                    claim.end = min(claim.end, claim.position + size)

    def ranges(self) -> Ranges:
        """Return what is written."""
        with self._lock:
            return merge([*self._done, *((c.start, c.position) for c in self._claims)])

    @property
    def is_whole(self) -> bool:
        """Whether every byte is written."""
        return self._total is not None and not missing(self.ranges(), self._total)

    def count(self) -> int:
        """Return how many bytes are written."""
        return count(self.ranges())

    def _taken(self) -> Ranges:
        claimed = ((c.start, max(c.position, c.end or c.position)) for c in self._claims)
        return merge([*self._done, *claimed])

    def _largest(self, bytes_per_second: float) -> tuple[Claim, int] | None:
        """Return the piece in flight with most to come, and its middle."""
        open_claims = [c for c in self._claims if c.end is not None]
        found = split([(c.position, c.end or 0) for c in open_claims], bytes_per_second, self._least_stolen)
        return None if found is None else (open_claims[found[0]], found[1])

    def _half(self, bytes_per_second: float) -> tuple[int, int | None] | None:
        """Take the second half of the largest piece in flight from the one who has it."""
        found = self._largest(bytes_per_second)
        if found is None:
            return None
        victim, middle = found
        end, victim.end = victim.end, middle
        return middle, end
