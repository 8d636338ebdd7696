"""Everything that is known of a hash: who said it, and of which file as it was then."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import case, func, select
from sqlalchemy.engine import Connection

from .base import Store, reads
from .schema import hashes, sources, versions


@dataclass(frozen=True)
class HashRecord:
    """One word about a hash.

    Attributes:
        sha256: in lower case.
        path: of the file that it is about; ``Path()`` for one without.
        size, mtime_ns: of that file then; None when nobody wrote it down.
        measured: read from the bytes, by this program; else a person or a server said it.
    """

    sha256: str
    path: Path
    size: int | None = None
    mtime_ns: int | None = None
    measured: bool = False


class Hashes(Store):
    """Finding files by their hash."""

    @reads
    def hash_records(self, db: Connection, prefix: str) -> list[HashRecord]:
        """Return what is known of hashes that begin with ``prefix`` (lower-case hex), measured ones first."""
        found = [
            HashRecord(row.sha256, Path(row.path), row.size, row.mtime_ns, measured=True)
            for row in db.execute(select(hashes).where(hashes.c.sha256.startswith(prefix)))
        ]
        # CASE, because a figure that is no number makes JSON that SQLite does not read.
        said = case((func.json_valid(versions.c.info), func.json_extract(versions.c.info, "$.sha256")))
        registered = select(versions.c.file_path, versions.c.info).where(func.lower(said).startswith(prefix))
        found += [_registered(row.file_path, row.info) for row in db.execute(registered)]
        fetched = select(sources).where(sources.c.sha256.startswith(prefix))
        found += [HashRecord(r.sha256, Path(r.path), r.size, r.mtime_ns) for r in db.execute(fetched)]
        return found


def _registered(path: str, info: dict[str, Any]) -> HashRecord:
    file = info.get("file")
    then = file if isinstance(file, dict) else {}
    return HashRecord(str(info["sha256"]).lower(), Path(path), then.get("size"), then.get("mtime_ns"))
