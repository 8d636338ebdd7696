"""What prompts took at most, as the registry keeps it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import Connection

from ..files import FileIdentity
from .base import Store, reads, writes
from .schema import PEAK_KEY, peaks


@dataclass(frozen=True)
class PeakKey:
    """What makes the memory of two prompts comparable.

    Attributes:
        file: of the model that was sampled with.
        options: how it was loaded, in words.
        shape: of the latent, ``1x16x21x60x104``.
        device: its name; ``cpu`` for the CPU.
    """

    file: FileIdentity
    options: str
    shape: str
    device: str
    comfyui_version: str
    torch_version: str


@dataclass(frozen=True)
class Peak:
    """The most that any of ``count`` prompts took, in bytes.

    Attributes:
        vram_bytes: of the device, by this process as far as the platform tells; None on a CPU.
        ram_bytes: growth of this process's own memory; None where the platform does not tell.
        seen_at: when the last of them ended, in seconds since the epoch.
    """

    key: PeakKey
    vram_bytes: int | None
    ram_bytes: int | None
    count: int
    seen_at: float


class Peaks(Store):
    """The most memory that comparable prompts took."""

    @writes
    def put_peak(self, db: Connection, key: PeakKey, vram_bytes: int | None, ram_bytes: int | None) -> None:
        """Record what a prompt took; the most of all comparable ones is kept.

        What was recorded of the file as it was before it changed goes.
        """
        file = key.file
        stale = (peaks.c.size != file.size) | (peaks.c.mtime_ns != file.mtime_ns)
        db.execute(delete(peaks).where(peaks.c.path == str(file.path), stale))
        statement = insert(peaks).values(
            path=str(file.path),
            size=file.size,
            mtime_ns=file.mtime_ns,
            options=key.options,
            shape=key.shape,
            device=key.device,
            comfyui_version=key.comfyui_version,
            torch_version=key.torch_version,
            vram_bytes=vram_bytes,
            ram_bytes=ram_bytes,
            count=1,
            seen_at=time.time(),
        )
        new = statement.excluded
        db.execute(
            statement.on_conflict_do_update(
                index_elements=PEAK_KEY,
                set_={
                    "vram_bytes": _larger(peaks.c.vram_bytes, new.vram_bytes),
                    "ram_bytes": _larger(peaks.c.ram_bytes, new.ram_bytes),
                    "count": peaks.c.count + 1,
                    "seen_at": new.seen_at,
                },
            )
        )

    @reads
    def peaks(self, db: Connection, file: FileIdentity) -> list[Peak]:
        """Return what prompts took that sampled with this unchanged file, the last seen first."""
        query = select(peaks).where(
            peaks.c.path == str(file.path), peaks.c.size == file.size, peaks.c.mtime_ns == file.mtime_ns
        )
        rows = db.execute(query.order_by(peaks.c.seen_at.desc(), peaks.c.id.desc())).all()
        return [
            Peak(
                PeakKey(file, r.options, r.shape, r.device, r.comfyui_version, r.torch_version),
                r.vram_bytes,
                r.ram_bytes,
                r._mapping["count"],  # a row is a tuple, which has a count of its own
                r.seen_at,
            )
            for r in rows
        ]


def _larger(known: ColumnElement[Any], new: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the larger of two columns, the known one where the other is not."""
    return func.max(func.coalesce(known, new), func.coalesce(new, known))
