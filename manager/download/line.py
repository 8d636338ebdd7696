"""One connection: asks for a range, writes what comes, and asks again when the line breaks."""

from __future__ import annotations

import logging
import random
import socket
import threading
import time
from typing import TYPE_CHECKING

from ..errors import ManagedModelsError, RemoteError
from ..remote.address import shown
from ..remote.refusal import AGAIN, refuse_encoding, refuse_page, refuse_status, retry_after
from ..remote.request import Answer, Asker
from .board import Claim
from .facts import FileChanged, range_headers
from .retry import is_passing, seconds_to_wait

if TYPE_CHECKING:
    from .transfer import Transfer

log = logging.getLogger("managed_models.download")

_LEAST_READ, _MOST_READ = 16 * 1024, 1024 * 1024
_QUICK, _SLOW = 0.02, 0.25
_CLIENT_ERRORS = range(400, 500)
_RANGE = 416
_BUSY = frozenset({408, 425, 429})


class Stopped(Exception):
    """The whole download ends."""


class _AskAgain(Exception):
    """The address that redirects once led to is no good any more."""


class Line(threading.Thread):
    """Fetches claims until there are none left, or until it is one connection too many.

    Args:
        transfer: the download that it works for.
        number: 0 for the first.
    """

    def __init__(self, transfer: Transfer, number: int) -> None:
        super().__init__(name=f"managed-models-line-{number}", daemon=True)
        self.number = number
        self.stalled = False
        self._transfer = transfer
        self._busy_since: float | None = None
        self._failures = 0
        self._asked_wait: float | None = None
        self._socket: socket.socket | None = None
        self._cut = False
        self._lock = threading.Lock()
        self._asker = self._new_asker()

    def _new_asker(self) -> Asker:
        transfer = self._transfer
        return Asker(
            transfer.reach,
            self._connected,
            transfer.environ,
            transfer.tokens,
            read_seconds=transfer.limits.stall_seconds,
            interrupted=self._interrupted,
        )

    # Called by the thread that watches over the lines

    def silent_seconds(self, now: float) -> float:
        """Return how long nothing has come though something was asked for."""
        since = self._busy_since
        return 0.0 if since is None else now - since

    def cut(self) -> None:
        """Break the connection; whoever reads from it gets an error."""
        with self._lock:
            self._cut = True
            self._shut()

    # The thread itself

    def run(self) -> None:
        try:
            while (claim := self._transfer.crew.claim(self)) is not None:
                try:
                    self._fetch(claim)
                finally:
                    self._transfer.board.release(claim)
        except Stopped:
            pass
        except Exception as error:  # handed to the thread that waits for this one
            self._transfer.crew.fail(error)
        finally:
            self._asker.close()
            with self._lock:
                self._forget_socket()
            self._transfer.crew.ended(self)

    def _fetch(self, claim: Claim) -> None:
        """Fetch one claim, or what can be had of it.

        Raises:
            Stopped: the download ends.
            ManagedModelsError, FileChanged: it cannot go on.
        """
        before = claim.position
        try:
            self._stream(claim)
        except _AskAgain:
            self._asker.close()
            self._asker = self._new_asker()
        except ManagedModelsError as error:
            if self._transfer.crew.is_stopping:
                raise Stopped from None
            if claim.position > before:
                self._failures = 0
            self._after(error)
        else:
            self._failures = 0
            if self._transfer.crew.is_stopping:
                raise Stopped

    def _after(self, error: ManagedModelsError) -> None:
        """Wait before the next attempt, or give up."""
        self._failures += 1
        log.info("Line %d after %d failures: %s", self.number, self._failures, error.message)
        transfer, limits = self._transfer, self._transfer.limits
        if not is_passing(error):
            raise error
        asked, self._asked_wait = self._asked_wait, None
        if transfer.crew.resigns(self, self._failures, refused=error.details.get("status") in (429, 503)):
            raise Stopped
        most = limits.failures if transfer.has_answered else limits.first_failures
        if self._failures >= most:
            raise error
        if asked is not None and asked > limits.wait_asked:
            error.remedy = f"The server asks to wait {asked:.0f} s: resume the download after that."
            raise error
        wait = seconds_to_wait(self._failures, random.random(), asked, limits.wait_first, limits.wait_most)
        if transfer.crew.pause(wait):
            raise Stopped

    def _stream(self, claim: Claim) -> None:
        transfer = self._transfer
        start, end = claim.position, claim.end
        url, is_direct = transfer.address()
        with self._lock:
            self.stalled = False
            self._asked_wait = None
            self._cut = transfer.crew.is_stopping
        self._busy_since = time.monotonic()
        try:
            with self._asker.ask(url, range_headers(start, end, transfer.facts)) as answer:
                transfer.crew.note_latency(time.monotonic() - self._busy_since)
                self._refuse(answer, is_direct, start)
                skip = transfer.judge(answer, (start, end))
                self._read(answer, claim, skip)
        finally:
            self._busy_since = None

    def _refuse(self, answer: Answer, is_direct: bool, start: int) -> None:
        status = answer.status
        self._asked_wait = retry_after(answer.headers)
        if is_direct and status in _CLIENT_ERRORS and status not in _BUSY and status != _RANGE:
            self._transfer.forget_direct()
            raise _AskAgain
        if status == _RANGE and start > 0:
            raise FileChanged
        refuse_status(answer.url, status, answer.headers, self._asker.token_sent(answer.url))
        refuse_encoding(answer.url, answer.headers, "Look for another address of the file.")
        refuse_page(answer.url, answer.headers, b"")

    def _read(self, answer: Answer, claim: Claim, skip: int) -> None:
        transfer, board, raw = self._transfer, self._transfer.board, answer.raw.raw
        size = _LEAST_READ
        while (left := claim.left) != 0 or skip:
            if transfer.crew.is_stopping:
                raise Stopped
            wanted = size if left is None else min(size, left + skip)
            began = time.monotonic()
            data = raw.read(wanted, decode_content=False)
            now = self._busy_since = time.monotonic()
            if not data:
                self._ended_early(answer, claim)
                return
            size = _next_size(size, now - began)
            if skip:
                dropped = min(skip, len(data))
                skip -= dropped
                data = data[dropped:]
            left = claim.left
            data = data if left is None else data[:left]
            if data:
                transfer.write(claim.position, data)
                board.advance(claim, len(data))

    def _ended_early(self, answer: Answer, claim: Claim) -> None:
        """The body ended: of a file whose size nobody said, that is its end."""
        if claim.end is None:
            self._transfer.board.set_total(claim.position)
            return
        if claim.left:
            raise RemoteError(
                f"{shown(answer.url)} broke off {claim.left} bytes too early.", AGAIN, problem="truncated"
            )

    def _connected(self, connected: socket.socket) -> None:
        with self._lock:
            self._forget_socket()
            self._socket = connected.dup()  # a copy, as TLS takes the original over
            if self._cut:
                self._shut()

    def _shut(self) -> None:
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:  # closed by the other end
                pass

    def _forget_socket(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _interrupted(self, url: str) -> RemoteError | None:
        if not self._cut:
            return None
        if self.stalled:
            words = f"{shown(url)} sent nothing for {self._transfer.limits.stall_seconds:g} s."
            return RemoteError(words, AGAIN, problem="stalled")
        return RemoteError(f"{shown(url)} was left.", AGAIN, problem="stalled")


def _next_size(size: int, seconds: float) -> int:
    """Return how much to read next: much from a quick line, little from a slow one."""
    if seconds < _QUICK:
        return min(_MOST_READ, size * 2)
    if seconds > _SLOW:
        return max(_LEAST_READ, size // 2)
    return size
