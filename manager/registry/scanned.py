"""What scans record: every file that was seen, where files moved, and which are missing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import Connection

from ..files import FileIdentity
from .base import Store, chunks, reads, writes
from .files import OF_A_FILE, put_variant
from .schema import files, hashes, health, usage, variants, versions
from .text import file_text, refresh_texts, said_of


class Record(NamedTuple):
    """A recorded file, as a scan compares it.

    Attributes:
        node: ``device:inode``, None where the file system has none.
        digest: of a few samples, None when no scan has read it.
        complete: whether this version has read all that it wants to know.
        missing: whether the last scan of its folder did not find it.
    """

    path: str
    size: int
    mtime_ns: int
    node: str | None
    digest: str | None
    complete: bool
    missing: bool


class MadeFrom(NamedTuple):
    """What a file of ours says it was made from."""

    format: str
    source_name: str
    source_sha256: str | None


@dataclass(frozen=True)
class Scanned:
    """What reading one file found: ``identity``, or the ``problem`` that its header has.

    Attributes:
        folder: type of the model folder; ``name`` is relative to it.
        reader: who read it; another one will want to read it again.
    """

    file: FileIdentity
    folder: str
    name: str
    node: str | None
    digest: str | None
    identity: dict[str, Any] | None
    problem: dict[str, Any] | None
    reader: str
    made_from: MadeFrom | None = None


@dataclass(frozen=True)
class Moved:
    """A file that is at ``file.path`` now, unchanged, and was at ``old`` before."""

    old: str
    file: FileIdentity
    folder: str
    name: str
    node: str | None


class Scans(Store):
    """The part of the registry that scans keep true to the disk."""

    @reads
    def records(self, db: Connection, reader: str) -> list[Record]:
        """Return every recorded file, by path; those that ``reader`` did not read are not complete."""
        query = (
            "SELECT path, size, mtime_ns, node, digest, "
            "digest IS NOT NULL AND reader = ?, missing_since IS NOT NULL FROM files ORDER BY path"
        )
        driver = db.connection.driver_connection  # its plain tuples take half as long as SQLAlchemy's rows
        assert driver is not None
        return list(map(Record._make, driver.execute(query, (reader,))))

    @writes
    def put_scanned(self, db: Connection, found: Sequence[Scanned]) -> None:
        """Record what was read; a changed file loses its hash, its health and what it was made from."""
        if not found:
            return
        said = said_of(db, [str(row.file.path) for row in found])
        now = time.time()
        rows = [_row(row, said.get(str(row.file.path), ()), now) for row in found]
        statement = insert(files)
        new = {key: statement.excluded[key] for key in rows[0] if key != "path"}
        db.execute(statement.on_conflict_do_update(index_elements=["path"], set_=new), rows)
        as_they_are = [{k: row[k] for k in ("path", "size", "mtime_ns")} for row in rows]
        for table in (hashes, health, variants):
            db.execute(
                text(
                    f"DELETE FROM {table.name} "
                    "WHERE path = :path AND (size <> :size OR mtime_ns <> :mtime_ns)"
                ),
                as_they_are,
            )
        for row in found:
            if row.made_from is not None:
                put_variant(db, row.file, *row.made_from)

    @writes
    def move_files(self, db: Connection, moves: Sequence[Moved]) -> None:
        """Let everything that is known and said of files follow them."""
        for moved in moves:
            path = str(moved.file.path)
            _add_usage(db, moved.old, path)
            for table in OF_A_FILE:
                has_more = select(table.c.path).where(table.c.path == moved.old).exists()
                db.execute(delete(table).where(table.c.path == path, has_more))
                db.execute(update(table).where(table.c.path == moved.old).values(path=path))
            values = {"folder": moved.folder, "name": moved.name, "node": moved.node, "missing_since": None}
            db.execute(update(files).where(files.c.path == path).values(**values))
            query = select(versions.c.id, versions.c.info).where(versions.c.file_path == moved.old)
            for row in db.execute(query).all():
                said = {"file_path": path, "info": {**row.info, "file_path": path}}
                db.execute(update(versions).where(versions.c.id == row.id).values(**said))
        refresh_texts(db, [str(moved.file.path) for moved in moves])

    @writes
    def mark_missing(self, db: Connection, paths: Iterable[str]) -> None:
        """Record that a scan did not find these files any more; what is known of them stays."""
        for some in chunks(list(paths)):
            known = files.c.path.in_(some) & files.c.missing_since.is_(None)
            db.execute(update(files).where(known).values(missing_since=time.time()))

    @writes
    def mark_present(self, db: Connection, paths: Iterable[str]) -> None:
        """Record that these files are there again, unchanged."""
        for some in chunks(list(paths)):
            db.execute(update(files).where(files.c.path.in_(some)).values(missing_since=None))

    @reads
    def missing_files(self, db: Connection) -> list[FileIdentity]:
        """Return the files that scans do not find any more, as they were, by path."""
        query = select(files.c.path, files.c.size, files.c.mtime_ns).where(files.c.missing_since.is_not(None))
        return [FileIdentity.recorded(*row) for row in db.execute(query.order_by(files.c.path))]


def _add_usage(db: Connection, old: str, new: str) -> None:
    """Count what was loaded at its new place already with what was loaded at the old one."""
    here = db.execute(select(usage).where(usage.c.path == new)).first()
    if here is not None:
        last = func.max(usage.c.last_used_at, here.last_used_at)
        values = {"times": usage.c.times + here.times, "last_used_at": last}
        db.execute(update(usage).where(usage.c.path == old).values(**values))


def _row(found: Scanned, said: Iterable[str], now: float) -> dict[str, Any]:
    return {
        "path": str(found.file.path),
        "size": found.file.size,
        "mtime_ns": found.file.mtime_ns,
        "node": found.node,
        "digest": found.digest,
        "folder": found.folder,
        "name": found.name,
        "identity": found.identity,
        "problem": found.problem,
        "reader": found.reader,
        "text": file_text(found.name, found.folder, found.identity, said),
        "seen_at": now,
        "missing_since": None,
    }
