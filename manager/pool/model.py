"""What the pool says of a model: what makes two loads the same, and how one is at a moment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..files import FileIdentity
from ..host import AS_STORED, LoadRequest
from ..model import ModelType


class Moment(NamedTuple):
    """When something was asked for: the pool's seconds, and the prompt that ran then, if any."""

    seconds: float
    prompt: str | None


@dataclass(frozen=True)
class PoolKey:
    """What makes two loads the same: kind, files as they are now, and options."""

    kind: ModelType
    files: tuple[FileIdentity, ...]
    options: tuple[str, ...]

    @classmethod
    def of(cls, request: LoadRequest) -> PoolKey:
        """Look at the files now.

        Raises:
            ModelNotFound: one is not there.
        """
        files = tuple(FileIdentity.of(Path(path)) for path in request.paths)
        dtype = request.stored_dtype if request.weight_dtype == AS_STORED else request.weight_dtype
        return cls(request.kind, files, (dtype, request.device, request.encoder_type))

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(file.path for file in self.files)


@dataclass(frozen=True)
class PooledModel:
    """One model of the pool at one moment, JSON-safe apart from ``paths``.

    Attributes:
        ids: under which the host lists its parts.
        held: somebody besides the pool has it: a cached output, another extension, a script.
        expires_in: seconds until it has rested long enough; None for never.
    """

    key: str
    ids: tuple[str, ...]
    title: str
    paths: tuple[Path, ...]
    loader: str
    keep_alive: float
    idle_seconds: float
    expires_in: float | None
    pinned: bool
    busy: bool
    held: bool
    device: str
    ram_bytes: int
    vram_bytes: int

    def stay(self) -> dict[str, Any]:
        """Return what the memory report says of how long it stays; seconds in tenths."""
        return {
            "pooled": True,
            "pinned": self.pinned,
            "busy": self.busy,
            "held": self.held,
            "idle_seconds": round(self.idle_seconds, 1),
            "expires_in": None if self.expires_in is None else round(self.expires_in, 1),
        }
