"""A few bytes of a file behind an address: one request, its redirects by hand, every answer checked."""

from __future__ import annotations

import http.client
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
import urllib3

from ..errors import AccessDenied, BadInput, NotPublic, RemoteError
from .address import HUGGING_FACE, next_url, plain_name, shown
from .guard import Deadline, guarded_session, proxies_for, refuse_inner
from .tokens import TOKENS, Token, token_for, token_headers

MAX_REDIRECTS = 5
SECONDS = 60.0
_CONNECT_SECONDS = 10.0
_READ_SECONDS = 20.0
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_FILE_NAME = re.compile(r"filename\*=(?:UTF-8|utf-8)''([^;]+)|filename=\"([^\"]+)\"|filename=([^;\"]+)")
_AGAIN = "Try again later."


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
    """

    def __init__(
        self,
        allow_local: bool = False,
        seconds: float = SECONDS,
        environ: Mapping[str, str] = os.environ,
        tokens: Sequence[Token] = TOKENS,
    ) -> None:
        self.requests = 0
        self.bytes_read = 0
        self._allow_local = allow_local
        self._seconds = seconds
        self._environ = environ
        self._tokens = tokens
        self._deadline = Deadline(seconds)
        self._session = guarded_session(self._connected, environ)

    def __enter__(self) -> Fetcher:
        self._deadline.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._session.close()
        self._deadline.__exit__(None, None, None)

    def get(self, url: str, start: int, count: int) -> Piece:
        """Return ``count`` bytes from ``start`` on, fewer where the file ends.

        Raises:
            RemoteError, AccessDenied, NotPublic: the answer is none, each with what to do.
        """
        for _ in range(MAX_REDIRECTS + 1):
            with self._ask(url, start, count) as answer:
                location = answer.headers.get("Location")
                if answer.status_code in (301, 302, 303, 307, 308) and location:
                    url = self._follow(url, location)
                    continue
                _refuse_status(url, answer, self._token_sent(url))
                return self._piece(url, answer, start, count)
        raise RemoteError(
            f"{shown(url)} redirects more than {MAX_REDIRECTS} times.",
            "Open it in a browser, and give the address that the download really comes from.",
            problem="redirects",
        )

    def _connected(self, host: str, connected: Any) -> None:
        if not self._allow_local:
            refuse_inner(host, connected)
        self._deadline.watch(connected)

    def _follow(self, url: str, location: str) -> str:
        try:
            return next_url(url, location, self._allow_local)
        except (BadInput, NotPublic) as error:
            kind = NotPublic if isinstance(error, NotPublic) else RemoteError
            raise kind(
                f"{shown(url)} redirects where it must not: {error.message}", error.remedy, problem="redirect"
            ) from None

    def _token_sent(self, url: str) -> bool:
        return bool(token_headers(url, self._environ, self._tokens))

    @contextmanager
    def _ask(self, url: str, start: int, count: int) -> Iterator[requests.Response]:
        proxies = proxies_for(url, self._allow_local)
        headers = {
            "Range": f"bytes={start}-{start + count - 1}",
            "Accept-Encoding": "identity",
            "User-Agent": "managed-models",
            **token_headers(url, self._environ, self._tokens),
        }
        self.requests += 1
        try:
            with self._session.get(
                url,
                headers=headers,
                proxies=proxies,
                stream=True,
                allow_redirects=False,
                timeout=(_CONNECT_SECONDS, _READ_SECONDS),
            ) as answer:
                yield answer
        except (
            requests.RequestException,
            urllib3.exceptions.HTTPError,
            http.client.HTTPException,
            OSError,
            ValueError,  # such as a read from a connection that the deadline has closed
        ) as error:
            raise self._failure(url, error) from None  # their words have the whole address in them

    def _failure(self, url: str, error: Exception) -> RemoteError:
        if self._deadline.passed:
            return RemoteError(
                f"{shown(url)} took longer than {self._seconds:g} s to answer.", _AGAIN, problem="slow"
            )
        if isinstance(error, requests.exceptions.SSLError):
            return RemoteError(
                f"The certificate of {urlsplit(url).hostname} is not to be trusted.",
                "Check the address. A company's own certificate goes into REQUESTS_CA_BUNDLE.",
                problem="certificate",
            )
        if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
            return RemoteError(f"{shown(url)} does not answer in time.", _AGAIN, problem="slow")
        return RemoteError(
            f"{shown(url)} cannot be reached ({type(error).__name__}).",
            "Check the address, and whether this machine is online.",
            problem="unreachable",
        )

    def _piece(self, url: str, answer: requests.Response, start: int, count: int) -> Piece:
        encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise _odd(url, f"packs what it sends ({encoding[:20]}), though asked not to", "encoding")
        skip = 0
        if answer.status_code == 206:
            length, total = _partial(url, answer, start, count)
        else:  # the server knows no Range and sends everything: what is needed is read, the rest left
            total = _content_length(answer)
            skip = start
            length = count if total is None else max(0, min(count, total - start))
        data = self._read(answer, skip + length)
        if total is not None and len(data) < skip + length:
            raise RemoteError(
                f"{shown(url)} broke off: {len(data)} of {skip + length} bytes came.",
                "Try again.",
                problem="truncated",
            )
        _refuse_page(url, answer, data)
        return Piece(url, data[skip:], total, _file_name(answer))

    def _read(self, answer: requests.Response, count: int) -> bytes:
        parts: list[bytes] = []
        left = count
        while left:
            part = answer.raw.read(min(left, 1 << 16), decode_content=False)
            if not part:
                break
            self.bytes_read += len(part)
            parts.append(part)
            left -= len(part)
        if self._deadline.passed:
            raise TimeoutError
        return b"".join(parts)


def _partial(url: str, answer: requests.Response, start: int, count: int) -> tuple[int, int | None]:
    """Return how many bytes a 206 brings and the size of the file, from its Content-Range."""
    text = answer.headers.get("Content-Range", "")
    match = _CONTENT_RANGE.fullmatch(text.strip())
    if match:
        first, last = int(match[1]), int(match[2])
        total = None if match[3] == "*" else int(match[3])
        wanted = start + count - 1 if total is None else min(start + count, total) - 1
        if first == start and start <= last <= wanted and (last == wanted or total is None):
            return last - first + 1, total
    raise _odd(
        url,
        f"was asked for the bytes {start}-{start + count - 1} and says it sends {text[:80]!r}",
        "content_range",
    )


def _content_length(answer: requests.Response) -> int | None:
    text = answer.headers.get("Content-Length", "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def _file_name(answer: requests.Response) -> str:
    match = _FILE_NAME.search(answer.headers.get("Content-Disposition", ""))
    if not match:
        return ""
    return plain_name(unquote(match[1]) if match[1] else match[2] or match[3])


def _odd(url: str, words: str, problem: str) -> RemoteError:
    return RemoteError(
        f"{shown(url)} {words}.",
        "This server cannot be read in parts: download the file, and check it here.",
        problem=problem,
    )


def _refuse_page(url: str, answer: requests.Response, data: bytes) -> None:
    kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    start = data[:200].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if kind in ("text/html", "application/xhtml+xml") or start.startswith((b"<!doctype html", b"<html")):
        raise RemoteError(
            f"{shown(url)} is a web page, not a model file: a login, or the page about the model.",
            "Give the address of the download itself. Where it needs a login, set "
            "HF_TOKEN (huggingface.co) or CIVITAI_API_TOKEN (civitai.com).",
            problem="web_page",
        )


def _refuse_status(url: str, answer: requests.Response, token_sent: bool) -> None:
    status = answer.status_code
    where = shown(url)
    if status in (200, 206):
        return
    if status in (401, 403):
        raise AccessDenied(
            f"{where} may not be read ({status}).",
            _access_remedy(url, token_sent),
            problem="access",
            status=status,
        )
    if status == 404:
        words, remedy, problem = "does not exist", "Check its path and its revision.", "not_found"
    elif status == 410:
        words, remedy, problem = "was removed", "Look for another address.", "not_found"
    elif status == 416:
        words, remedy, problem = "is empty, or shorter than its header says", "It is damaged there.", "range"
    elif status == 429:
        words, remedy, problem = "was asked too often", _wait(answer), "too_many_requests"
    elif status >= 500:
        words, remedy, problem = "cannot be had now: its server has trouble", _wait(answer), "server"
    else:
        words, remedy, problem = "gave no file", "Open it in a browser to see why.", "status"
    raise RemoteError(f"{where} {words} ({status}).", remedy, problem=problem, status=status)


def _wait(answer: requests.Response) -> str:
    text = answer.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit() and len(text) < 6:
        return f"Try again in {int(text)} s."
    return _AGAIN


def _access_remedy(url: str, token_sent: bool) -> str:
    host = urlsplit(url).hostname
    token = token_for(url)
    if host == HUGGING_FACE:
        page = "/".join(shown(url).split("/")[:5])
        licence = f"Open {page} in a browser, log in and accept its licence if it has one"
        if token_sent:
            return f"{licence}; the token in HF_TOKEN must be of that account and allow reading."
        return f"{licence}; then put a token of that account into HF_TOKEN. Or no such repository exists."
    if token is not None:
        state = "does not allow it: make a new one" if token_sent else "is not set: make one"
        return f"{token.variable} {state} in your account's settings at {host}."
    return "Managed Models sends a token to huggingface.co and civitai.com alone: download it in a browser."
