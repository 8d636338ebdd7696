"""What a server's answer says about the file, and whether it goes with what is here. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from ..errors import HashMismatch, RemoteError
from ..remote.address import shown
from ..remote.fetch import content_range

_LINKED_ETAG = re.compile(r"\"?([0-9a-f]{64})\"?", re.IGNORECASE)
_MAX_HEADER = 300


class FileChanged(Exception):
    """The address has another file than the one of which some bytes are here."""


class CannotJoin(FileChanged):
    """Nothing would notice if the rest were of another file than what is here."""


@dataclass(frozen=True)
class Facts:
    """One state of a file at an address.

    Attributes:
        total: bytes, None where nobody says.
        etag, last_modified: the server's names for this state.
        ranges: whether parts of it can be asked for.
        linked_sha256, linked_size: what Hugging Face says that the file is.
        framed: whether the end of the body can be told from a line that broke.
        vouched: Hugging Face named the hash, so that ETags, which its storage may change, do not matter.
    """

    total: int | None
    etag: str | None = None
    last_modified: str | None = None
    ranges: bool = True
    linked_sha256: str | None = None
    linked_size: int | None = None
    framed: bool = True
    vouched: bool = False

    @property
    def validator(self) -> str | None:
        """What If-Range may carry: a strong ETag, else a date."""
        if self.etag and not self.etag.startswith("W/"):
            return self.etag
        return self.last_modified

    def can_join(self, sha256: str | None) -> bool:
        """Tell whether bytes of two answers may go into one file: something has to notice a change."""
        return self.validator is not None or (sha256 or self.linked_sha256) is not None


class Verdict(NamedTuple):
    """What to do with an answer.

    Attributes:
        skip: bytes of its body that come before those wanted.
        end: where its body ends in the file, None where it does not say.
    """

    facts: Facts
    skip: int
    end: int | None


def judge(
    url: str,
    status: int,
    headers: Mapping[str, str],
    length: int | None,
    asked: tuple[int, int | None],
    known: Facts | None,
    sha256: str | None,
) -> Verdict:
    """Return what an answer of status 200 or 206 brings.

    Args:
        length: its Content-Length.
        asked: the range: first byte, and last + 1 or None for all.
        known: the facts of the bytes that are here; None when there are none.
        sha256: what the file has to be.

    Raises:
        RemoteError: it is no answer to what was asked.
        FileChanged: it is of another file.
    """
    start, end = asked
    if status == 206:
        found = content_range(headers.get("Content-Range", ""))
        if found is None or found[0] != start or found[1] < start or (end is not None and found[1] >= end):
            raise RemoteError(
                f"{shown(url)} was asked for the bytes from {start} on and says it sends "
                f"{headers.get('Content-Range', '')[:80]!r}.",
                "Try again, or download it in a browser: this server mixes up parts of files.",
                problem="content_range",
            )
        total = found[2] if found[2] is not None else (found[1] + 1 if end is None else None)
        facts = _facts(headers, total, ranges=True)
        body_end: int | None = found[1] + 1
        skip = 0
    else:
        facts = _facts(headers, length, ranges=False)
        facts = replace(facts, framed=length is not None or _is_chunked(headers))
        body_end = length
        skip = start
    if known is not None:
        _compare(facts, known)
        if start > 0 and not known.can_join(sha256):
            raise CannotJoin
    return Verdict(facts, skip, body_end)


def _compare(found: Facts, known: Facts) -> None:
    if found.total is not None and known.total is not None and found.total != known.total:
        raise FileChanged
    if known.vouched:
        return
    if found.etag is not None and known.etag is not None:
        if found.etag != known.etag:
            raise FileChanged
    elif found.last_modified != known.last_modified and found.last_modified and known.last_modified:
        raise FileChanged


def _facts(headers: Mapping[str, str], total: int | None, ranges: bool) -> Facts:
    return Facts(
        total,
        etag=_text(headers.get("ETag")),
        last_modified=_text(headers.get("Last-Modified")),
        ranges=ranges,
    )


def _text(value: str | None) -> str | None:
    value = (value or "").strip()
    return value if value and value.isprintable() and value.isascii() and len(value) <= _MAX_HEADER else None


def _is_chunked(headers: Mapping[str, str]) -> bool:
    return "chunked" in headers.get("Transfer-Encoding", "").lower()


def with_links(facts: Facts, believed: Iterable[Mapping[str, str]]) -> Facts:
    """Return the facts with what Hugging Face says of the file in a redirect, or an answer of its own.

    Args:
        believed: headers that Hugging Face or its mirror sent.
    """
    for headers in believed:
        match = _LINKED_ETAG.fullmatch(headers.get("X-Linked-ETag", "").strip())
        size = headers.get("X-Linked-Size", "").strip()
        if match:
            facts = replace(facts, linked_sha256=match[1].lower(), vouched=True)
        if size.isascii() and size.isdigit() and len(size) <= 18:
            facts = replace(facts, linked_size=int(size))
    return facts


def check_expected(name: str, facts: Facts, size_bytes: int | None, sha256: str | None) -> None:
    """Hold what the server says against what was asked for, before anything is fetched.

    Raises:
        RemoteError: the size is another.
        HashMismatch: Hugging Face says another hash.
    """
    for size, who in ((size_bytes, "was expected to have"), (facts.linked_size, "has, its page says,")):
        if size is not None and facts.total is not None and size != facts.total:
            raise RemoteError(
                f"{name} {who} {size} bytes, and the address has a file of {facts.total}.",
                "Check the address.",
                problem="size",
            )
    if facts.linked_sha256 is not None and sha256 not in (None, facts.linked_sha256):
        raise HashMismatch(
            f"The address has a file whose SHA-256 is {facts.linked_sha256}, and {sha256} was expected. "
            "Nothing was fetched.",
            "Check the address, or its revision.",
            sha256=facts.linked_sha256,
            expected=sha256,
        )


def range_headers(start: int, end: int | None, known: Facts | None) -> dict[str, str]:
    """Return the headers that ask for a range, of the known state of the file only."""
    last = "" if end is None else str(end - 1)
    headers = {"Range": f"bytes={start}-{last}"}
    if known is not None and known.validator is not None and known.total is not None and not known.vouched:
        headers["If-Range"] = known.validator
    return headers
