"""What is known of files on the disk, each as it was: identity, hash, health, source, usage, variants."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Table, case, delete, func, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import Connection

from ..files import FileIdentity, is_unchanged
from .base import Store, chunks, reads, writes
from .schema import files, hashes, health, peaks, pins, sources, usage, variants, versions
from .text import file_text, said_of

# Everything that is kept by path: it goes and moves with its file.
OF_A_FILE: Sequence[Table] = (files, hashes, health, sources, variants, usage, pins, peaks)


@dataclass(frozen=True)
class Source:
    """Where a file came from.

    Attributes:
        url: without query, user or password.
        sha256: what the server or the person who asked said it should be, lower case.
        fetched_at: seconds since the epoch.
    """

    url: str
    sha256: str | None = None
    etag: str | None = None
    fetched_at: float = 0.0
    license: str | None = None


@dataclass(frozen=True)
class Usage:
    """When a file was loaded last, in seconds since the epoch, and how many times in all."""

    last_used_at: float
    times: int


@dataclass(frozen=True)
class Variant:
    """A file that is one model with others: the source, or made from it by our quantizer.

    Attributes:
        precision: in words; empty when nobody has looked.
        format: what it was quantized to; empty for the source.
        source_sha256: None for the source itself.
    """

    path: Path
    precision: str
    format: str
    source_sha256: str | None


class Files(Store):
    """Facts about files. What was recorded of a file holds while its size and mtime are the same."""

    @reads
    def facts(self, db: Connection, file: FileIdentity) -> dict[str, Any] | None:
        """Return the recorded identity of an unchanged file, or None."""
        return db.execute(select(files.c.identity).where(_as_it_was(files, file))).scalar()

    @writes
    def put_facts(self, db: Connection, file: FileIdentity, identity: dict[str, Any]) -> None:
        """Record what a file's header says; a changed file loses its hash and its place in a scan."""
        path = str(file.path)
        known = db.execute(select(files.c.name, files.c.folder).where(files.c.path == path)).first()
        name, folder = known if known else (file.path.name, "")
        row = {
            "size": file.size,
            "mtime_ns": file.mtime_ns,
            "identity": identity,
            "problem": None,
            "text": file_text(name, folder, identity, said_of(db, [path]).get(path, ())),
            "seen_at": time.time(),
            "missing_since": None,
        }
        statement = insert(files).values(path=path, name=name, folder=folder, reader="", **row)
        changed = (files.c.size != file.size) | (files.c.mtime_ns != file.mtime_ns)
        db.execute(
            statement.on_conflict_do_update(
                index_elements=["path"],
                set_=row | {key: case((changed, None), else_=files.c[key]) for key in ("node", "digest")},
            )
        )
        db.execute(delete(hashes).where(hashes.c.path == path, ~_as_it_was(hashes, file)))

    @reads
    def known_files(self, db: Connection) -> list[tuple[FileIdentity, dict[str, Any]]]:
        """Return every file with its recorded identity, by path."""
        rows = db.execute(select(files).where(files.c.identity.is_not(None)).order_by(files.c.path)).all()
        return [(FileIdentity.recorded(r.path, r.size, r.mtime_ns), r.identity) for r in rows]

    @writes
    def forget_files(self, db: Connection, paths: list[str]) -> None:
        """Drop everything that is known of these files, history and pins too; registrations stay."""
        for some in chunks(paths):
            for table in OF_A_FILE:
                db.execute(delete(table).where(table.c.path.in_(some)))

    # Hashes

    @reads
    def sha256(self, db: Connection, file: FileIdentity) -> str | None:
        """Return the measured hash of an unchanged file, or None."""
        return db.execute(select(hashes.c.sha256).where(_as_it_was(hashes, file))).scalar()

    @writes
    def put_sha256(self, db: Connection, file: FileIdentity, digest: str) -> None:
        """Record the measured hash of a file."""
        _put(db, hashes, file, sha256=digest.lower(), measured_at=time.time())

    @reads
    def known_sha256(self, db: Connection) -> dict[FileIdentity, str]:
        """Return every measured hash."""
        rows = db.execute(select(hashes))
        return {FileIdentity.recorded(r.path, r.size, r.mtime_ns): r.sha256 for r in rows}

    @reads
    def find_by_sha256(self, db: Connection, digest: str) -> list[str]:
        """Return the paths whose hash is known to be ``digest`` (lower case).

        A hash that was measured holds for the file as it was then: one that has changed is left out.
        """
        measured = db.execute(
            select(hashes.c.path, hashes.c.size, hashes.c.mtime_ns).where(hashes.c.sha256 == digest)
        ).all()
        # CASE, because a figure that is no number makes JSON that SQLite does not read.
        said = case((func.json_valid(versions.c.info), func.json_extract(versions.c.info, "$.sha256")))
        registered = db.execute(select(versions.c.file_path).where(func.lower(said) == digest)).scalars()
        unchanged = [
            r.path for r in measured if is_unchanged(FileIdentity.recorded(r.path, r.size, r.mtime_ns))
        ]
        return list(dict.fromkeys([*unchanged, *registered]))

    # Sources

    @writes
    def put_source(self, db: Connection, file: FileIdentity, source: Source) -> None:
        """Record where a file came from, as it was when it came."""
        put_source(db, file, source)

    @reads
    def source(self, db: Connection, file: FileIdentity) -> Source | None:
        """Return where an unchanged file came from, or None."""
        row = db.execute(select(sources).where(_as_it_was(sources, file))).first()
        return None if row is None else _source(row)

    @reads
    def source_of(self, db: Connection, file: FileIdentity) -> tuple[int, Source] | None:
        """Return the bytes that a file had when it came, and where from; None where it was changed since.

        Its time tells: a file that only lost bytes on a failing disk keeps it.
        """
        same = (sources.c.path == str(file.path)) & (sources.c.mtime_ns == file.mtime_ns)
        row = db.execute(select(sources).where(same)).first()
        return None if row is None else (row.size, _source(row))

    @reads
    def sources(self, db: Connection) -> list[tuple[FileIdentity, Source]]:
        """Return where every file came from, by path."""
        return all_sources(db)

    # Health

    @writes
    def put_health(self, db: Connection, file: FileIdentity, details: dict[str, Any]) -> None:
        """Record what verifying the file found; ``details["ok"]`` says whether it is whole."""
        _put(db, health, file, ok=bool(details["ok"]), details=details, checked_at=time.time())

    @reads
    def health(self, db: Connection, file: FileIdentity) -> dict[str, Any] | None:
        """Return what verifying the unchanged file found last, with ``checked_at``; None when nobody did."""
        row = db.execute(select(health).where(_as_it_was(health, file))).first()
        return None if row is None else {**row.details, "checked_at": row.checked_at}

    @reads
    def unhealthy(self, db: Connection) -> list[tuple[FileIdentity, dict[str, Any]]]:
        """Return the files that were found damaged, as they were then, by path."""
        rows = db.execute(select(health).where(health.c.ok.is_(False)).order_by(health.c.path)).all()
        return [
            (
                FileIdentity.recorded(r.path, r.size, r.mtime_ns),
                {**r.details, "checked_at": r.checked_at},
            )
            for r in rows
        ]

    # Usage

    @writes
    def touch(self, db: Connection, file: FileIdentity) -> None:
        """Record that the file was loaded now."""
        _touch(db, file)

    @writes
    def touch_all(self, db: Connection, files: Sequence[FileIdentity]) -> None:
        """Record that these files were loaded now, as one model."""
        for file in files:
            _touch(db, file)

    @reads
    def usage(self, db: Connection, file: FileIdentity) -> Usage | None:
        """Return how the file at this path was used, or None; a new file of that name goes on counting."""
        row = db.execute(select(usage).where(usage.c.path == str(file.path))).first()
        return None if row is None else Usage(row.last_used_at, row.times)

    # Variants

    @writes
    def put_variant(
        self, db: Connection, file: FileIdentity, format: str, source_name: str, source_sha256: str | None
    ) -> None:
        """Record what a file of ours was made from, as its metadata says."""
        put_variant(db, file, format, source_name, source_sha256)

    @reads
    def variants_of(self, db: Connection, model: FileIdentity | str) -> list[Variant]:
        """Return the files that are one model: the source, and what our quantizer made from it.

        Args:
            model: the source's hash, or any of these files.
        """
        source = model.lower() if isinstance(model, str) else _source_hash(db, model)
        if source is None:
            return []
        made = select(variants.c.path, variants.c.size, variants.c.mtime_ns, variants.c.format).where(
            variants.c.source_sha256 == source
        )
        own = select(hashes.c.path, hashes.c.size, hashes.c.mtime_ns).where(hashes.c.sha256 == source)
        rows = [(*row, None) for row in db.execute(own)] + [
            (*row[:3], row.format) for row in db.execute(made)
        ]
        found = []
        for path, size, mtime_ns, format in sorted(rows, key=lambda row: (row[3] is not None, row[0])):
            file = FileIdentity(Path(path), size, mtime_ns)
            facts = db.execute(select(files.c.identity).where(_as_it_was(files, file))).scalar()
            precision = str((facts or {}).get("precision", ""))
            found.append(Variant(file.path, precision, format or "", source if format else None))
        return found


def _as_it_was(table: Table, file: FileIdentity) -> ColumnElement[bool]:
    return (
        (table.c.path == str(file.path)) & (table.c.size == file.size) & (table.c.mtime_ns == file.mtime_ns)
    )


def _touch(db: Connection, file: FileIdentity) -> None:
    now = time.time()
    db.execute(
        insert(usage)
        .values(path=str(file.path), last_used_at=now, times=1)
        .on_conflict_do_update(
            index_elements=["path"], set_={"last_used_at": now, "times": usage.c.times + 1}
        )
    )


def _put(db: Connection, table: Table, file: FileIdentity, **values: Any) -> None:
    row = {"size": file.size, "mtime_ns": file.mtime_ns, **values}
    statement = insert(table).values(path=str(file.path), **row)
    db.execute(statement.on_conflict_do_update(index_elements=["path"], set_=row))


def put_variant(
    db: Connection, file: FileIdentity, format: str, source_name: str, source_sha256: str | None
) -> None:
    """Record what a file of ours was made from; see :meth:`Files.put_variant`."""
    digest = source_sha256.lower() if source_sha256 else None
    _put(db, variants, file, format=format, source_name=source_name, source_sha256=digest)


def put_source(db: Connection, file: FileIdentity, source: Source) -> None:
    """Record where a file came from; see :meth:`Files.put_source`."""
    _put(
        db,
        sources,
        file,
        url=source.url,
        sha256=source.sha256.lower() if source.sha256 else None,
        etag=source.etag,
        fetched_at=source.fetched_at or time.time(),
        license=source.license,
    )


def all_sources(db: Connection) -> list[tuple[FileIdentity, Source]]:
    """Return where every file came from, by path."""
    rows = db.execute(select(sources).order_by(sources.c.path)).all()
    return [(FileIdentity.recorded(r.path, r.size, r.mtime_ns), _source(r)) for r in rows]


def _source(row: Any) -> Source:
    return Source(row.url, row.sha256, row.etag, row.fetched_at, row.license)


def _source_hash(db: Connection, file: FileIdentity) -> str | None:
    """Return the hash of what a file was made from, else its own."""
    made = db.execute(select(variants.c.source_sha256).where(_as_it_was(variants, file))).scalar()
    return made or db.execute(select(hashes.c.sha256).where(_as_it_was(hashes, file))).scalar()
