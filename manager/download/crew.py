"""The connections of one download: how many there are, what each fetches, and when they end."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from .board import Board, Claim
from .limits import Limits
from .model import AUTOMATIC
from .plan import AUTOMATIC_CONNECTIONS, Trial, is_settled, next_connections, piece_size

if TYPE_CHECKING:
    from .line import Line

_RATE_SECONDS = 3.0
_NO_LIMIT = 1 << 10


class Rate:
    """Bytes a second over the last seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, now: float, arrived: int) -> None:
        """Hear how much has arrived."""
        self._seen.append((now, arrived))
        while now - self._seen[0][0] > _RATE_SECONDS:
            self._seen.popleft()

    def restart(self) -> None:
        """Forget what was seen."""
        self._seen.clear()

    @property
    def bytes_per_second(self) -> float:
        seen = list(self._seen)
        if len(seen) < 2 or seen[-1][0] <= seen[0][0]:
            return 0.0
        return max(0.0, (seen[-1][1] - seen[0][1]) / (seen[-1][0] - seen[0][0]))


class Growth:
    """Finds how many connections are best, by trying.

    Args:
        asked: how many a person asked for; ``AUTOMATIC`` begins with one.
    """

    def __init__(self, asked: int, limits: Limits) -> None:
        self._limits = limits
        self._chosen = asked or 1
        self._growing = asked == AUTOMATIC
        self._trials: list[Trial] = []
        self._began: tuple[float, int] | None = None

    def wanted(self, now: float, arrived: int, total: int | None, limit: int) -> int:
        """Return how many there should be.

        Args:
            limit: what the server bears.
        """
        if self._growing and self._began is not None:
            took = now - self._began[0]
            if took < self._limits.trial_seconds:
                return min(self._chosen, limit)
            self._trials.append(Trial(self._chosen, (arrived - self._began[1]) / took))
            self._chosen = next_connections(
                self._trials,
                (total or 0) - arrived,
                min(AUTOMATIC_CONNECTIONS, limit),
                self._limits.trial_seconds,
                self._limits.smallest_piece,
            )
            self._growing = not is_settled(self._trials, self._chosen)
        self._began = (now, arrived)
        return min(self._chosen, limit)


class Crew:
    """The connections.

    Args:
        asked: how many a person asked for; ``AUTOMATIC`` begins with one.
        make: makes the connection of that number.
    """

    def __init__(self, asked: int, limits: Limits, make: Callable[[int], Line]) -> None:
        self.stop = threading.Event()
        self.rate = Rate()
        self.board = Board((), None, limits.least_stolen)
        self._asked = asked
        self._limits = limits
        self._make = make
        self._wake = threading.Condition()
        self._lines: list[Line] = []
        self._ending = False
        self._latency = 1.0
        self.begin(self.board)

    def begin(self, board: Board) -> None:
        """Forget the earlier attempt; this is what is to be fetched now."""
        self.board = board
        self.error: Exception | None = None
        self.rate.restart()
        self._wanted = 1
        self._bears = _NO_LIMIT
        self._started = 0
        self._growth = Growth(self._asked, self._limits)

    # The thread that watches over them

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._lines)

    @property
    def bytes_per_second(self) -> float:
        """Of all of them together, lately."""
        return self.rate.bytes_per_second

    def adjust(self, now: float, arrived: int) -> None:
        """Change how many there should be, now that the server has answered."""
        wanted = max(1, self._growth.wanted(now, arrived, self.board.total, self._bears))
        if wanted > self._wanted:
            self._wanted = wanted
            self.board.shorten(self._piece_size())
        self._wanted = wanted

    def fill(self) -> None:
        """Start the connections that are missing, where there is work for them."""
        for _ in range(self._wanted - len(self._lines)):
            if self.error is not None or self.is_stopping or not self.board.has_work(self._rate_of_one()):
                return
            line = self._make(self._started)
            self._started += 1
            self._lines.append(line)
            line.start()

    def wait(self) -> None:
        """Sleep for a moment, less when something happens."""
        with self._wake:
            if self.error is None and not self.stop.is_set():
                self._wake.wait(self._limits.tick)

    def cut_stalled(self, now: float) -> None:
        """Break the connections on which nothing has come for too long."""
        for line in list(self._lines):
            if line.silent_seconds(now) > self._limits.stall_seconds and not line.stalled:
                line.stalled = True
                line.cut()

    def cut(self) -> None:
        """Break every connection, whatever it waits for."""
        for line in list(self._lines):
            line.cut()

    def end(self) -> None:
        """End every connection, and wait for that."""
        self._ending = True
        lines = list(self._lines)
        self.cut()
        for line in lines:
            line.join()
        self._ending = False

    # The connections themselves

    @property
    def is_stopping(self) -> bool:
        return self._ending or self.stop.is_set()

    def claim(self, line: Line) -> Claim | None:
        """Return the next bytes for a connection, None when it is to end."""
        lines = list(self._lines)
        if self.is_stopping or (len(lines) > self._wanted and line is lines[-1]):
            return None
        return self.board.take(None if self._wanted == 1 else self._piece_size(), self._rate_of_one())

    def resigns(self, line: Line, failures: int, refused: bool) -> bool:
        """Tell a connection that has failed whether it was one too many."""
        with self._wake:
            others = len(self._lines) - 1
            if others < 1 or not (refused or failures > 1):
                return False
            self._bears = max(1, min(self._bears, others))
            self._wanted = min(self._wanted, self._bears)
            self._lines.remove(line)
            return True

    def bear_one(self) -> None:
        """Hear that no parts of the file can be asked for."""
        self._bears = self._wanted = 1

    def note_latency(self, seconds: float) -> None:
        """Hear how long an answer took."""
        self._latency = min(self._latency, seconds)

    def pause(self, seconds: float) -> bool:
        """Wait; True when everything ends meanwhile."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if self.is_stopping or self.stop.wait(min(left, self._limits.tick)):
                return True
        return self.is_stopping

    def fail(self, error: Exception) -> None:
        """End everything because of what happened to one connection."""
        with self._wake:
            self.error = self.error or error
            self._wake.notify_all()

    def ended(self, line: Line) -> None:
        """Hear that a connection has ended."""
        with self._wake:
            if line in self._lines:
                self._lines.remove(line)
        self.wake()

    def wake(self) -> None:
        """Let the thread that watches over them look at once."""
        with self._wake:
            self._wake.notify_all()

    def _rate_of_one(self) -> float:
        return self.bytes_per_second / max(1, len(self._lines))

    def _piece_size(self) -> int:
        return piece_size(self.board.total or 0, self._latency, self._wanted, self._limits.smallest_piece)
