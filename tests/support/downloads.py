"""Downloads in tests: small times, and the answers of servers that misbehave."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from managed_models.manager.download.limits import Limits
from managed_models.manager.download.model import DownloadRequest, Outcome
from managed_models.manager.download.partial import Partial
from managed_models.manager.download.transfer import Transfer
from managed_models.manager.remote.reach import Reach

from .range_server import Server, send_all, send_range, status

QUICK = Limits(
    stall_seconds=0.4,
    failures=4,
    first_failures=2,
    wait_first=0.005,
    wait_most=0.02,
    wait_asked=5.0,
    sync_bytes=128 * 1024,
    sync_seconds=1.0,
    trial_seconds=1000.0,  # more connections ask for more, and tests count what was sent
    smallest_piece=32 * 1024,
    least_stolen=8 * 1024,
    tick=0.005,
)
Handler = BaseHTTPRequestHandler
Answer = Callable[[Handler], None]
_SLOW_BYTES = 8192


@dataclass
class Served:
    """A file on a server."""

    server: Server
    file: Path
    url: str

    @property
    def data(self) -> bytes:
        return self.file.read_bytes()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def misbehave(self, answer: Answer, path: str = "/model.safetensors") -> None:
        """Let a path be answered like this from now on."""
        self.server.special[path] = answer

    def behave(self) -> None:
        """Let every path be answered well again."""
        self.server.special.clear()

    def well(self, handler: Handler) -> None:
        """Answer as a good server does."""
        send_range(handler, self.file, self.server)


def get(url: str, target: Path, limits: Limits = QUICK, **options: Any) -> Outcome:
    """Download in this thread."""
    environ = options.pop("environ", {})
    tokens = options.pop("tokens", ())
    reach = options.pop("reach", Reach(allow_local=True))
    request = DownloadRequest(url, target, allow_local=True, **options)
    return Transfer(request, reach, limits=limits, environ=environ, tokens=tokens).run()


def left_of(target: Path) -> dict[str, int]:
    """Return the names and sizes of everything beside a target."""
    return {path.name: path.stat().st_size for path in target.parent.iterdir()}


def arrived_of(target: Path) -> int:
    """Return how many bytes the journal has."""
    journal = Partial(target).load()
    return 0 if journal is None else sum(end - start for start, end in journal.done)


def cut_after(served: Served, *counts: int) -> Answer:
    """Answer well, but break the line after so many bytes of a body; each count once, then no more."""
    left = list(counts)

    def answer(handler: Handler) -> None:
        if not left:
            served.well(handler)
            return
        handler.wfile = _Short(handler.wfile, left.pop(0))  # type: ignore[assignment]
        served.well(handler)

    return answer


class _Short:
    """A stream that ends, after the headers, in the middle of a body."""

    def __init__(self, stream: Any, count: int) -> None:
        self._stream = stream
        self._left = count
        self._in_body = False

    def write(self, data: bytes) -> int:
        if not self._in_body:
            self._in_body = data.endswith(b"\r\n\r\n")
            return int(self._stream.write(data))
        self._stream.write(data[: self._left])
        self._left -= len(data)
        if self._left < 0:
            self._stream.flush()
            raise ConnectionResetError
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def after(count: int, first: Answer, then: Answer) -> Answer:
    """Answer the first so many requests in one way, the rest in another."""
    seen = [0]

    def answer(handler: Handler) -> None:
        seen[0] += 1
        (first if seen[0] <= count else then)(handler)

    return answer


def refuse(code: int, **headers: str) -> Answer:
    """Answer with a status alone."""
    return lambda handler: status(handler, code, **headers)


def whole(file: Path, length: bool = True, **headers: str) -> Answer:
    """Answer 200 with the whole file, whatever was asked for."""
    return lambda handler: send_all(handler, file, length, **headers)


def slowly(served: Served, answer: Answer | None = None) -> Answer:
    """Answer well, or as ``answer`` does, but a little at a time: 8 KB every 10 ms."""

    def send(handler: Handler) -> None:
        handler.wfile = _Slow(handler.wfile)  # type: ignore[assignment]
        (answer or served.well)(handler)

    return send


class _Slow:
    """A stream that takes its time over a body."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, data: bytes) -> int:
        for start in range(0, len(data), _SLOW_BYTES):
            self._stream.write(data[start : start + _SLOW_BYTES])
            self._stream.flush()
            if len(data) > _SLOW_BYTES:
                time.sleep(0.01)
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
