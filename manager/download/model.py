"""What is asked of a download, and what is told of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ..errors import BadInput

QUEUED = "queued"
RUNNING = "running"
PAUSED = "paused"
CHECKING = "checking"
DONE = "done"
FAILED = "failed"
CANCELLED = "cancelled"
ENDED = frozenset({PAUSED, DONE, FAILED, CANCELLED})

# Why one is stopped.
PAUSE, CANCEL = "pause", "cancel"

AUTOMATIC = 0
MAX_CONNECTIONS = 16
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class DownloadRequest:
    """A file to get.

    Attributes:
        url: ``https://...`` or ``hf:owner/repository/path[@revision]``; may hold a secret.
        target: the file to make.
        folder: type of the model folder that ``target`` is in, empty outside them.
        sha256: what it has to be, lower-case hex.
        size_bytes: what it has to have.
        connections: how many at once; ``AUTOMATIC`` adds some while that makes it faster.
        allow_local: also ask hosts that are no public ones, plain http, and hosts that are not listed.
        any_host: ask every public host; a person at this machine typed the address.
    """

    url: str
    target: Path
    folder: str = ""
    sha256: str | None = None
    size_bytes: int | None = None
    connections: int = AUTOMATIC
    allow_local: bool = False
    any_host: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", Path(self.target).absolute())
        object.__setattr__(self, "sha256", checked_sha256(self.sha256))
        if not 0 <= self.connections <= MAX_CONNECTIONS:
            raise BadInput(
                f"connections is {self.connections!r}.",
                f"Give 1 to {MAX_CONNECTIONS}, or {AUTOMATIC} for as many as make it faster.",
            )

    @property
    def id(self) -> str:
        """The same for every download of this target, also after a restart; tells nothing of its place."""
        return download_id(self.target)


def download_id(target: Path) -> str:
    """Return the id of a download into ``target``."""
    return blake2b(str(target).encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


def checked_sha256(text: str | None) -> str | None:
    """Return a hash in lower case; ``sha256:`` before it is fine.

    Raises:
        BadInput: it is none.
    """
    if not text:
        return None
    found = text.strip().lower().removeprefix("sha256:")
    if not _SHA256.fullmatch(found):
        raise BadInput(f"{text[:80]!r} is no SHA-256.", "Give 64 hexadecimal digits, or leave it out.")
    return found


@dataclass(frozen=True)
class DownloadState:
    """How a download stands. Bytes; ``total_bytes`` is None until the server has said it.

    Attributes:
        url: without query, which may hold a secret.
        state: queued, running, paused, checking, done, failed or cancelled.
        bytes_per_second: lately, 0 when it does not run.
        seconds_left: None when nobody can tell.
        error: ``{"code", "message", "remedy"}`` of a failed one.
        sha256: measured, of one that is done.
    """

    id: str
    name: str
    folder: str
    url: str
    state: str
    done_bytes: int = 0
    total_bytes: int | None = None
    bytes_per_second: float = 0.0
    seconds_left: float | None = None
    connections: int = 0
    error: dict[str, str] | None = None
    sha256: str | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more happens by itself."""
        return self.state in ENDED

    def to_dict(self) -> dict[str, Any]:
        """Return it JSON-safe."""
        return {
            "id": self.id,
            "name": self.name,
            "folder": self.folder,
            "url": self.url,
            "state": self.state,
            "done_bytes": self.done_bytes,
            "total_bytes": self.total_bytes,
            "bytes_per_second": round(self.bytes_per_second),
            "seconds_left": None if self.seconds_left is None else round(self.seconds_left, 1),
            "connections": self.connections,
            "error": self.error,
            "sha256": self.sha256,
        }


@dataclass(frozen=True)
class Outcome:
    """A file that is in its place.

    Attributes:
        fetched: False when it was there already.
        etag: what the server called it, None where it did not say.
    """

    path: Path
    url: str
    sha256: str
    size_bytes: int
    etag: str | None
    fetched: bool
