"""A few bytes of a file behind an address, every answer checked."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import RemoteError
from .address import shown
from .guard import Deadline
from .reach import Reach
from .refusal import AGAIN, refuse_encoding, refuse_page, refuse_status
from .request import MAX_REDIRECTS, Answer, Asker
from .tokens import TOKENS, Token

__all__ = ["MAX_REDIRECTS", "SECONDS", "Fetcher", "Piece"]

SECONDS = 60.0
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_IN_PARTS = "This server cannot be read in parts: download the file, and check it here."


@dataclass(frozen=True)
class Piece:
    """Bytes of a file.

    Attributes:
        url: where the redirects led; its query may hold a secret.
        total: size of the whole file, None where the server does not say.
        name: what the server calls the file, empty where it does not say.
    """

    url: str
    data: bytes
    total: int | None
    name: str


class Fetcher:
    """Asks addresses for a few bytes.

    Args:
        allow_local: also ask hosts that are no public ones, plain http, and through a proxy.
        seconds: for everything together, looking names up excepted.
        environ, tokens: where tokens are, and whom they are for.
        reach: who may be asked; every public host by default.
    """

    def __init__(
        self,
        allow_local: bool = False,
        seconds: float = SECONDS,
        environ: Mapping[str, str] = os.environ,
        tokens: Sequence[Token] = TOKENS,
        reach: Reach | None = None,
    ) -> None:
        self.bytes_read = 0
        self._seconds = seconds
        self._deadline = Deadline(seconds)
        self._asker = Asker(
            reach or Reach(allow_local),
            self._deadline.watch,
            environ,
            tokens,
            interrupted=self._interrupted,
        )

    def __enter__(self) -> Fetcher:
        self._deadline.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._asker.close()
        self._deadline.__exit__(None, None, None)

    @property
    def requests(self) -> int:
        """How many requests were made."""
        return self._asker.requests

    def get(self, url: str, start: int, count: int) -> Piece:
        """Return ``count`` bytes from ``start`` on, fewer where the file ends.

        Raises:
            RemoteError, AccessDenied, NotPublic: the answer is none, each with what to do.
        """
        with self._asker.ask(url, {"Range": f"bytes={start}-{start + count - 1}"}) as answer:
            token_sent = self._asker.token_sent(answer.url)
            refuse_status(answer.url, answer.status, answer.headers, token_sent)
            return self._piece(answer, start, count)

    def _interrupted(self, url: str) -> RemoteError | None:
        if not self._deadline.passed:
            return None
        return RemoteError(
            f"{shown(url)} took longer than {self._seconds:g} s to answer.", AGAIN, problem="slow"
        )

    def _piece(self, answer: Answer, start: int, count: int) -> Piece:
        url = answer.url
        refuse_encoding(url, answer.headers, _IN_PARTS)
        skip = 0
        if answer.status == 206:
            length, total = _partial(answer, start, count)
        else:  # the server knows no Range and sends everything: what is needed is read, the rest left
            total = answer.length
            skip = start
            length = count if total is None else max(0, min(count, total - start))
        data = self._read(answer, skip + length)
        if total is not None and len(data) < skip + length:
            raise RemoteError(
                f"{shown(url)} broke off: {len(data)} of {skip + length} bytes came.",
                "Try again.",
                problem="truncated",
            )
        refuse_page(url, answer.headers, data)
        return Piece(url, data[skip:], total, answer.name)

    def _read(self, answer: Answer, count: int) -> bytes:
        parts: list[bytes] = []
        left = count
        while left:
            part = answer.raw.raw.read(min(left, 1 << 16), decode_content=False)
            if not part:
                break
            self.bytes_read += len(part)
            parts.append(part)
            left -= len(part)
        if self._deadline.passed:
            raise TimeoutError
        return b"".join(parts)


def _partial(answer: Answer, start: int, count: int) -> tuple[int, int | None]:
    """Return how many bytes a 206 brings and the size of the file, from its Content-Range."""
    text = answer.headers.get("Content-Range", "")
    found = content_range(text)
    if found:
        first, last, total = found
        wanted = start + count - 1 if total is None else min(start + count, total) - 1
        if first == start and start <= last <= wanted and (last == wanted or total is None):
            return last - first + 1, total
    raise RemoteError(
        f"{shown(answer.url)} was asked for the bytes {start}-{start + count - 1} and says it sends "
        f"{text[:80]!r}.",
        _IN_PARTS,
        problem="content_range",
    )


def content_range(text: str) -> tuple[int, int, int | None] | None:
    """Return first byte, last byte and size from a Content-Range; None for one that cannot be read."""
    match = _CONTENT_RANGE.fullmatch(text.strip())
    if not match:
        return None
    return int(match[1]), int(match[2]), None if match[3] == "*" else int(match[3])
