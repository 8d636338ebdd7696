"""One download from its first request to its final name."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence

from ..errors import (
    AlreadyDownloading,
    Cancelled,
    DownloadPaused,
    HashMismatch,
    InvalidGguf,
    InvalidHeader,
    ManagedModelsError,
    NotSafetensors,
    RemoteError,
)
from ..remote.address import Address, parse_address, shown
from ..remote.reach import Reach
from ..remote.refusal import refuse_status
from ..remote.request import Answer, Asker
from ..remote.tokens import TOKENS, Token
from .address import public_part
from .board import Board
from .content import SAFE_SUFFIXES, ContentCheck
from .crew import Crew
from .existing import same_file
from .facts import CannotJoin, Facts, FileChanged, check_expected, judge, with_links
from .hasher import Hasher
from .limits import Limits
from .line import Line
from .model import CANCEL, CHECKING, RUNNING, DownloadRequest, Outcome
from .partial import Journal, Partial
from .plan import Ranges, count, front
from .publish import publish

log = logging.getLogger("managed_models.download")


class Transfer:
    """Gets one file. :meth:`run` blocks; everything else may be called from other threads.

    Args:
        request: what to get.
        reach: who may be asked.
        room: called with the bytes still to come; raises when the disk has no room.
        limits, environ, tokens: for tests.
    """

    def __init__(
        self,
        request: DownloadRequest,
        reach: Reach,
        room: Callable[[int], None] = lambda needed: None,
        limits: Limits | None = None,
        environ: Mapping[str, str] = os.environ,
        tokens: Sequence[Token] = TOKENS,
    ) -> None:
        self.request = request
        self.reach = reach
        self.limits = limits or Limits()
        self.environ = environ
        self.tokens = tokens
        self.crew = Crew(request.connections, self.limits, lambda number: Line(self, number))
        self.facts: Facts | None = None
        self.has_answered = False
        self.phase = RUNNING
        self._room = room
        self._partial = Partial(request.target)
        self._address: Address | None = None
        self._direct: str | None = None
        self._why: str | None = None
        self._expected: str | None = None
        self._hashed: tuple[int, int] = (0, 0)
        self._dirty_since = 0.0
        self._saved = 0

    # What others see and say

    @property
    def done_bytes(self) -> int:
        """How much is here, or hashed when the file is only checked."""
        return self._hashed[0] if self.phase == CHECKING and self._hashed[1] else self.board.count()

    @property
    def total_bytes(self) -> int | None:
        return self._hashed[1] or self.board.total or self.request.size_bytes

    @property
    def bytes_per_second(self) -> float:
        """Over the last seconds."""
        return self.crew.bytes_per_second

    @property
    def connections(self) -> int:
        return self.crew.count

    @property
    def board(self) -> Board:
        """Which bytes are here."""
        return self.crew.board

    def stop(self, why: str) -> None:
        """End soon: ``PAUSE`` keeps what is here, ``CANCEL`` removes it."""
        self._why = why if self._why is None else self._why
        self.crew.stop.set()
        self.crew.wake()
        self.crew.cut()

    # The one thread that runs it

    def run(self) -> Outcome:
        """Get the file, or find that it is there already.

        Raises:
            DownloadPaused, Cancelled: somebody stopped it.
            ManagedModelsError: it could not be had; what is here is kept, where it is any good.
        """
        self._address = parse_address(self.request.url, allow_local=True)
        self.reach.check(self.reach.at_mirror(self._address.url))
        with self._partial.lock():
            try:
                if os.path.lexists(self.request.target):
                    return self._already_there()
                return self._get()
            except (DownloadPaused, Cancelled):
                raise
            except ManagedModelsError:
                self._throw_if_stopped()
                raise
            finally:
                self._partial.close()
                if self._why == CANCEL or not self._partial.holds_anything():
                    self._partial.discard()

    def _get(self) -> Outcome:
        journal = self._resume()
        self._partial.open()
        changes = breaks = 0
        while changes <= self.limits.restarts:
            try:
                return self._fetch(journal)
            except CannotJoin:
                breaks += 1
                if breaks >= self.limits.failures:
                    raise _cannot_join(self.address_text) from None
            except FileChanged:
                changes += 1
            except (NotSafetensors, InvalidHeader, InvalidGguf):
                self._partial.discard()  # not one byte of it is any good
                raise
            log.info("%s is started over", self.request.target.name)
            journal = self._empty_journal()
            self._start_over()
        raise RemoteError(
            f"{shown(self.address_text)} changes again and again while it is downloaded.",
            "Give an address of one fixed state of the file, such as a revision.",
            problem="changed",
        )

    @property
    def address_text(self) -> str:
        assert self._address is not None
        return self._address.url

    def _empty_journal(self) -> Journal:
        url, whole = public_part(self.address_text)
        return Journal(
            url, whole, self.request.folder, self.request.sha256, connections=self.request.connections
        )

    def _resume(self) -> Journal:
        """Return the journal to go on with: an earlier one where its bytes are of this very file.

        Raises:
            AlreadyDownloading: what is here is of another address.
        """
        fresh, found = self._empty_journal(), self._partial.load()
        if found is None or found.total is None or not found.done:
            return fresh
        if found.measured is not None:  # whole, and not what was wanted then
            is_wanted = fresh.sha256 in (None, found.measured)
            return dataclasses.replace(found, sha256=fresh.sha256) if is_wanted else fresh
        if found.url != fresh.url:
            found = self._from_another_address(found, fresh)
        sha256 = fresh.sha256 or found.sha256
        known = Facts(found.total, found.etag, found.last_modified)
        if not known.can_join(sha256 if sha256 == found.sha256 else None):
            return fresh
        return dataclasses.replace(
            found, sha256=sha256, url=fresh.url, whole_url=fresh.whole_url, folder=fresh.folder,
            connections=fresh.connections,
        )  # fmt: skip

    def _from_another_address(self, found: Journal, fresh: Journal) -> Journal:
        """Return a journal whose bytes the hash alone vouches for: another server names no states of them."""
        if found.sha256 is None or found.sha256 != fresh.sha256:
            raise AlreadyDownloading(
                f"{self.request.target.name} is half downloaded from another address: {shown(found.url)}.",
                "Go on with that one, give another name, or delete "
                f"{self._partial.path.name} to let go of what has arrived.",
            )
        return dataclasses.replace(found, etag=None, last_modified=None, vouched=False)

    def _start_over(self) -> None:
        self.facts, self._direct = None, None
        self._partial.resize(0)

    # Fetching

    def _fetch(self, journal: Journal) -> Outcome:
        self.facts = None
        board = Board((), None, self.limits.least_stolen)
        if journal.total is not None and journal.done:
            self.facts = Facts(journal.total, journal.etag, journal.last_modified, vouched=journal.vouched)
            board = Board(journal.done, journal.total, self.limits.least_stolen)
        else:
            self._partial.resize(0)
        self.crew.begin(board)
        self._saved = board.count()
        self._expected = journal.sha256
        hasher = Hasher(self._partial.path)
        content = ContentCheck(self.request.target.name, self._partial.path)
        hasher.start()
        try:
            try:
                if not self.board.is_whole:
                    self._watch_over(journal, hasher, content)
            finally:
                self.crew.end()
                self._save(journal, force=True)
            return self._finish(journal, hasher, content)
        finally:
            hasher.stop()

    def _watch_over(self, journal: Journal, hasher: Hasher, content: ContentCheck) -> None:
        """Keep the lines going until every byte is here."""
        while not self.board.is_whole:
            now = time.monotonic()
            self._throw_if_stopped()
            if self.crew.error is not None:
                raise self.crew.error
            arrived = self.board.ranges()
            self.crew.rate.note(now, count(arrived))
            hasher.advance(front(arrived))
            content.look(front(arrived), self.board.total)
            self.crew.cut_stalled(now)
            self._save(journal)
            if self.facts is not None and self.facts.ranges and self.facts.can_join(self._expected):
                self.crew.adjust(now, count(arrived))
            self.crew.fill()
            self.crew.wait()

    def _save(self, journal: Journal, force: bool = False) -> None:
        arrived = self.board.count()
        new = arrived - self._saved
        now = time.monotonic()
        due = new >= self.limits.sync_bytes or (new and now - self._dirty_since >= self.limits.sync_seconds)
        if self.facts is None or not (due or force):
            return
        ranges = self.board.ranges()  # before the flush: everything in it is flushed
        self._partial.save(self._journal_now(journal, ranges))
        self._saved, self._dirty_since = count(ranges), now

    def _journal_now(self, journal: Journal, ranges: Ranges) -> Journal:
        assert self.facts is not None
        return dataclasses.replace(
            journal,
            sha256=self._expected,
            etag=self.facts.etag,
            last_modified=self.facts.last_modified,
            total=self.board.total,
            done=ranges,
            measured=None,
            vouched=self.facts.vouched,
        )

    def _finish(self, journal: Journal, hasher: Hasher, content: ContentCheck) -> Outcome:
        """Check every byte, and give the file its name."""
        total = self.board.total
        assert total is not None
        self.phase = CHECKING
        self._partial.resize(total)
        hasher.advance(total)
        self._wait_for_hash(hasher, total)
        measured = hasher.hexdigest()
        hasher.stop()  # Windows gives no other name to a file that is open
        if self._expected not in (None, measured):
            self._keep_rejected(journal, measured)
        content.finish(total)
        self._refuse_unsure(measured)
        self._throw_if_stopped()
        self._partial.close()
        publish(self._partial.path, self.request.target)
        self._partial.discard()
        etag = self.facts.etag if self.facts else None
        return Outcome(self.request.target, journal.url, measured, total, etag, fetched=True)

    def _wait_for_hash(self, hasher: Hasher, total: int) -> None:
        try:
            while not hasher.is_done(total):
                self._hashed = (hasher.position, total)
                self._throw_if_stopped()
                self.crew.stop.wait(min(self.limits.tick, 0.01))
        except OSError as error:
            raise self._partial.error(error) from error
        self._hashed = (total, total)

    def _keep_rejected(self, journal: Journal, measured: str) -> None:
        """Refuse a whole file of the wrong hash; it stays for whoever finds that the hash was wrong."""
        if self.facts is not None:
            rejected = dataclasses.replace(self._journal_now(journal, self.board.ranges()), measured=measured)
            self._partial.save(rejected)
        raise HashMismatch(
            f"{self.request.target.name} came whole, but its SHA-256 is {measured}, and "
            f"{self._expected} was expected.",
            "Start it again to fetch it anew. If the expected hash was wrong, start it with the right one, "
            "or with none: then it is not fetched again.",
            sha256=measured,
            expected=self._expected,
        )

    def _refuse_unsure(self, measured: str) -> None:
        framed = self.facts is None or self.facts.framed
        if framed or self._expected == measured or self.request.target.suffix.lower() in SAFE_SUFFIXES:
            return
        raise RemoteError(
            f"{shown(self.address_text)} does not say how large the file is, so nobody can tell "
            "whether it is whole.",
            "Give its SHA-256, too.",
            problem="size",
        )

    # A file of that name

    def _already_there(self) -> Outcome:
        target = self.request.target
        self.phase = CHECKING
        measured = same_file(target, self._partial, self.request.sha256, self._linked_sha256, _Progress(self))
        url, _ = public_part(self.address_text)
        return Outcome(target, url, measured, target.stat().st_size, None, fetched=False)

    def _linked_sha256(self) -> str | None:
        """Ask what the file at the address is, without fetching it."""
        asker = Asker(
            self.reach, lambda connected: None, self.environ, self.tokens, self.limits.stall_seconds
        )
        try:
            with asker.ask(self.address_text, {"Range": "bytes=0-0"}) as answer:
                refuse_status(answer.url, answer.status, answer.headers, asker.token_sent(answer.url))
                return with_links(Facts(None), self._believed(answer)).linked_sha256
        finally:
            asker.close()

    # What the lines ask for

    def address(self) -> tuple[str, bool]:
        """Return the address to ask, and whether redirects led to it earlier."""
        direct = self._direct
        return (direct, True) if direct is not None else (self.address_text, False)

    def forget_direct(self) -> None:
        """Ask the original address again: signed ones expire."""
        self._direct = None

    def judge(self, answer: Answer, asked: tuple[int, int | None]) -> int:
        """Take in what an answer says; return how many bytes of its body to drop first.

        Raises:
            RemoteError, FileChanged, NoRoom, HashMismatch: it cannot be used.
        """
        verdict = judge(
            answer.url, answer.status, answer.headers, answer.length, asked, self.facts, self._expected
        )
        facts = with_links(verdict.facts, self._believed(answer))
        first = not self.has_answered
        self.has_answered = True
        if first or self.facts is None:
            self._accept(facts)
            self.crew.wake()  # further connections may start now
        if answer.hops:
            self._direct = answer.url
        if not verdict.facts.ranges and self.facts is not None and self.facts.ranges:
            self.facts = dataclasses.replace(self.facts, ranges=False)
            self.crew.bear_one()
        return verdict.skip

    def _believed(self, answer: Answer) -> list[Mapping[str, str]]:
        """Return the headers that Hugging Face sent on the way to this answer."""
        sent = [*answer.hops, (answer.url, answer.headers)]
        return [headers for url, headers in sent if self.reach.speaks_for_hugging_face(url)]

    def _accept(self, facts: Facts) -> None:
        """Hold the first answer against what was asked for."""
        total = facts.total
        check_expected(self.request.target.name, facts, self.request.size_bytes, self.request.sha256)
        if facts.linked_sha256 is not None:
            if self._expected not in (None, facts.linked_sha256):
                raise FileChanged
            self._expected = facts.linked_sha256
        if total is not None:
            self._room(total - self.board.count())
            self.board.set_total(total)
        known = self.facts
        self.facts = facts if known is None else dataclasses.replace(known, ranges=facts.ranges)

    def write(self, offset: int, data: bytes) -> None:
        """Put bytes into the file."""
        self._partial.write(offset, data)

    def _throw_if_stopped(self) -> None:
        if not self.crew.stop.is_set():
            return
        if self._why == CANCEL:
            raise Cancelled("The download was stopped.", "Nothing was left behind.")
        raise DownloadPaused(
            f"{self.request.target.name} is paused.", "Start it again: what has arrived is kept."
        )


def _cannot_join(url: str) -> RemoteError:
    return RemoteError(
        f"{shown(url)} broke off again and again, and its server has no way to go on from there.",
        "Try again when the line is better, or give the SHA-256 of the file: then what has arrived is kept.",
        problem="truncated",
    )


class _Progress:
    """Shows how far the hash of a file is that was there already."""

    def __init__(self, transfer: Transfer) -> None:
        self._transfer = transfer

    def throw_if_cancelled(self) -> None:
        self._transfer._throw_if_stopped()

    def progress(self, done: int, total: int) -> None:
        self._transfer._hashed = (done, total)
