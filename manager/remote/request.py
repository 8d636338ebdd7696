"""One request with its redirects, each looked at before anything is sent."""

from __future__ import annotations

import http.client
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import unquote

import requests
import urllib3

from ..errors import BadInput, HostNotAllowed, NotPublic, RemoteError
from .address import plain_name, shown
from .guard import guarded_session, proxies_for, refuse_inner
from .reach import Reach
from .refusal import failure
from .tokens import TOKENS, Token, token_headers

MAX_REDIRECTS = 5
CONNECT_SECONDS = 10.0
_FILE_NAME = re.compile(r"filename\*=(?:UTF-8|utf-8)''([^;]+)|filename=\"([^\"]+)\"|filename=([^;\"]+)")


class Answer(NamedTuple):
    """What came back.

    Attributes:
        url: where the redirects led; its query may hold a secret.
        raw: the response, whose body is not read yet.
        hops: addresses that redirected, with the headers they sent.
    """

    url: str
    raw: requests.Response
    hops: tuple[tuple[str, Mapping[str, str]], ...]

    @property
    def status(self) -> int:
        return self.raw.status_code

    @property
    def headers(self) -> Mapping[str, str]:
        return self.raw.headers

    @property
    def length(self) -> int | None:
        """The Content-Length, None where there is none."""
        text = self.headers.get("Content-Length", "").strip()
        return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None

    @property
    def name(self) -> str:
        """What the server calls the file, empty where it does not say."""
        match = _FILE_NAME.search(self.headers.get("Content-Disposition", ""))
        if not match:
            return ""
        return plain_name(unquote(match[1]) if match[1] else match[2] or match[3])


class Asker:
    """Asks addresses, one request at a time, over connections that are kept.

    Args:
        reach: who may be asked.
        on_connect: gets every new connection, before TLS.
        environ, tokens: where tokens are, and whom they are for.
        read_seconds: how long to wait for the next bytes.
        interrupted: says why a request failed that was cut from here; None where it was not.
    """

    def __init__(
        self,
        reach: Reach,
        on_connect: Callable[[socket.socket], None],
        environ: Mapping[str, str] = os.environ,
        tokens: Sequence[Token] = TOKENS,
        read_seconds: float = 20.0,
        interrupted: Callable[[str], RemoteError | None] = lambda url: None,
    ) -> None:
        self.requests = 0
        self._reach = reach
        self._on_connect = on_connect
        self._environ = environ
        self._tokens = tokens
        self._read_seconds = read_seconds
        self._interrupted = interrupted
        self._may_be_inner = False
        self._session = guarded_session(self._connected, environ)

    def close(self) -> None:
        """Drop the kept connections."""
        self._session.close()

    def token_sent(self, url: str) -> bool:
        """Tell whether a request to this address carries a token."""
        return bool(token_headers(url, self._environ, self._tokens))

    @contextmanager
    def ask(self, url: str, headers: Mapping[str, str]) -> Iterator[Answer]:
        """Give the answer of an address, redirects followed. The address itself is the caller's to check.

        Raises:
            RemoteError, NotPublic, HostNotAllowed: there is none; also for a body that cannot be read.
        """
        hops: list[tuple[str, Mapping[str, str]]] = []
        url = self._reach.at_mirror(url)
        for _ in range(MAX_REDIRECTS + 1):
            with self._one(url, headers) as raw:
                location = raw.headers.get("Location")
                if raw.status_code not in (301, 302, 303, 307, 308) or not location:
                    yield Answer(url, raw, tuple(hops))
                    return
                hops.append((url, raw.headers))
            url = self._follow(url, location)
        raise RemoteError(
            f"{shown(url)} redirects more than {MAX_REDIRECTS} times.",
            "Open it in a browser, and give the address that the download really comes from.",
            problem="redirects",
        )

    def _connected(self, host: str, connected: socket.socket) -> None:
        if not self._may_be_inner:
            refuse_inner(host, connected)
        self._on_connect(connected)

    def _follow(self, url: str, location: str) -> str:
        try:
            return self._reach.next_url(url, location)
        except (BadInput, NotPublic, HostNotAllowed) as error:
            kind = type(error) if isinstance(error, RemoteError) else RemoteError
            raise kind(
                f"{shown(url)} redirects where it must not: {error.message}", error.remedy, problem="redirect"
            ) from None

    @contextmanager
    def _one(self, url: str, headers: Mapping[str, str]) -> Iterator[requests.Response]:
        self._may_be_inner = self._reach.is_trusted(url)
        proxies = proxies_for(url, self._may_be_inner)
        sent = {
            "Accept-Encoding": "identity",
            "User-Agent": "managed-models",
            **headers,
            **token_headers(url, self._environ, self._tokens),
        }
        self.requests += 1
        try:
            with self._session.get(
                url,
                headers=sent,
                proxies=proxies,
                stream=True,
                allow_redirects=False,
                timeout=(CONNECT_SECONDS, self._read_seconds),
            ) as answer:
                yield answer
        except (
            requests.RequestException,
            urllib3.exceptions.HTTPError,
            http.client.HTTPException,
            OSError,
            ValueError,  # such as a read from a connection that was closed from here
        ) as error:
            # Their words have the whole address in them.
            raise self._interrupted(url) or failure(url, error) from None
