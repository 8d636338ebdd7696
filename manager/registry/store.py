"""Reading and writing the registry. Every write is one transaction."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, delete, func, select, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import Connection

from ..config import IN_MEMORY
from ..errors import FileError
from ..files import FileIdentity
from ..model import ModelInfo
from .database import database_path, open_database
from .schema import files, models, versions

log = logging.getLogger("managed_models.registry")


class Registry:
    """Models, their versions, and what is known of files. The database is opened on first use.

    Args:
        url: an SQLite address; a database in memory lives as long as this object.
        fall_back: use a database in memory when the file cannot be opened, saying so in the log.

    Raises:
        BadInput: the address is not an SQLite one.
        FileError: on first use, see :func:`open_database`.
    """

    def __init__(self, url: str = IN_MEMORY, fall_back: bool = False) -> None:
        self.url = url
        self._fall_back = fall_back
        self._engine: Engine | None = None
        self._opening = threading.Lock()
        # A database in memory is one connection, which threads must take turns on.
        self._turn = threading.RLock() if database_path(url) is None else None

    def close(self) -> None:
        """Give the file back; a later call opens it again."""
        with self._opening:
            if self._engine is not None:
                self._engine.dispose()
                self._engine = None

    def _open(self) -> Engine:
        with self._opening:
            if self._engine is None:
                try:
                    self._engine = open_database(self.url)
                except FileError as error:
                    if not self._fall_back:
                        raise
                    log.warning("%s Until then, nothing that you register is kept.", error)
                    self.url, self._turn = IN_MEMORY, threading.RLock()
                    self._engine = open_database(IN_MEMORY)
            return self._engine

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        engine = self._open()
        with self._turn or nullcontext(), engine.begin() as connection:
            yield connection

    # What people said

    def put(self, info: ModelInfo) -> None:
        """Record one version; its first version becomes a model's active one."""
        with self._transaction() as db:
            db.execute(
                insert(models).values(name=info.name, active_version=info.version).on_conflict_do_nothing()
            )
            model_id = db.execute(select(models.c.id).where(models.c.name == info.name)).scalar_one()
            path = "" if info.file_path == Path() else str(info.file_path.absolute())
            values = {"file_path": path, "info": info.to_dict()}
            db.execute(
                insert(versions)
                .values(model_id=model_id, version=info.version, **values)
                .on_conflict_do_update(index_elements=["model_id", "version"], set_=values)
            )

    def get(self, name: str, version: str | None = None) -> ModelInfo | None:
        """Return one version of a model, the active one by default, or None."""
        wanted = models.c.active_version if version is None else version
        query = (
            select(versions.c.info)
            .join(models, models.c.id == versions.c.model_id)
            .where(models.c.name == name, versions.c.version == wanted)
        )
        with self._transaction() as db:
            info = db.execute(query).scalar()
        return None if info is None else ModelInfo.from_dict(info)

    def names(self) -> list[str]:
        """Return the registered names in order."""
        with self._transaction() as db:
            return list(db.execute(select(models.c.name).order_by(models.c.name)).scalars())

    def versions(self, name: str) -> list[str]:
        """Return the versions of a model, first registered first; empty for an unknown name."""
        query = (
            select(versions.c.version)
            .join(models, models.c.id == versions.c.model_id)
            .where(models.c.name == name)
            .order_by(versions.c.id)
        )
        with self._transaction() as db:
            return list(db.execute(query).scalars())

    def active_version(self, name: str) -> str | None:
        """Return the version that is meant when none is named, or None for an unknown name."""
        with self._transaction() as db:
            return db.execute(select(models.c.active_version).where(models.c.name == name)).scalar()

    def set_active_version(self, name: str, version: str) -> bool:
        """Make ``version`` the active one; False when there is no such version."""
        with self._transaction() as db:
            known = select(versions.c.model_id).where(versions.c.version == version)
            result = db.execute(
                update(models)
                .where(models.c.name == name, models.c.id.in_(known))
                .values(active_version=version)
            )
            return bool(result.rowcount)

    def remove(self, name: str) -> bool:
        """Forget a model and its versions; False when the name is unknown."""
        with self._transaction() as db:
            return bool(db.execute(delete(models).where(models.c.name == name)).rowcount)

    def active_by_path(self) -> dict[str, ModelInfo]:
        """Return the versions by file: where several share one, the active version, else the last."""
        query = select(
            versions.c.file_path,
            versions.c.info,
            (versions.c.version == models.c.active_version).label("active"),
        ).join(models, models.c.id == versions.c.model_id)
        with self._transaction() as db:
            rows = db.execute(query.order_by("active", versions.c.id)).all()
        return {row.file_path: ModelInfo.from_dict(row.info) for row in rows}

    def find_by_sha256(self, digest: str) -> list[str]:
        """Return the paths whose hash is known to be ``digest`` (lower case)."""
        with self._transaction() as db:
            measured = db.execute(select(files.c.path).where(files.c.sha256 == digest)).scalars()
            said = db.execute(
                select(versions.c.file_path).where(
                    func.lower(func.json_extract(versions.c.info, "$.sha256")) == digest
                )
            ).scalars()
            return list(dict.fromkeys([*measured, *said]))

    # What is on the disk

    def facts(self, file: FileIdentity) -> dict[str, Any] | None:
        """Return the recorded identity of an unchanged file, or None."""
        query = select(files.c.identity).where(
            files.c.path == str(file.path), files.c.size == file.size, files.c.mtime_ns == file.mtime_ns
        )
        with self._transaction() as db:
            return db.execute(query).scalar()

    def put_facts(self, file: FileIdentity, identity: dict[str, Any]) -> None:
        """Record what a file's header says; a changed file loses its hash."""
        row = {
            "size": file.size,
            "mtime_ns": file.mtime_ns,
            "identity": identity,
            "seen_at": time.time(),
        }
        statement = insert(files).values(path=str(file.path), **row)
        changed = (files.c.size != file.size) | (files.c.mtime_ns != file.mtime_ns)
        with self._transaction() as db:
            db.execute(update(files).where(files.c.path == str(file.path), changed).values(sha256=None))
            db.execute(statement.on_conflict_do_update(index_elements=["path"], set_=row))

    def sha256(self, file: FileIdentity) -> str | None:
        """Return the measured hash of an unchanged file, or None."""
        query = select(files.c.sha256).where(
            files.c.path == str(file.path), files.c.size == file.size, files.c.mtime_ns == file.mtime_ns
        )
        with self._transaction() as db:
            return db.execute(query).scalar()

    def put_sha256(self, file: FileIdentity, digest: str) -> None:
        """Record the measured hash of a file whose facts are recorded and unchanged."""
        with self._transaction() as db:
            db.execute(
                update(files)
                .where(
                    files.c.path == str(file.path),
                    files.c.size == file.size,
                    files.c.mtime_ns == file.mtime_ns,
                )
                .values(sha256=digest)
            )

    def known_files(self) -> list[tuple[FileIdentity, dict[str, Any]]]:
        """Return every file with its recorded identity, by path."""
        with self._transaction() as db:
            rows = db.execute(select(files).order_by(files.c.path)).all()
        return [(FileIdentity(Path(r.path), r.size, r.mtime_ns), r.identity) for r in rows]

    def forget_files(self, paths: list[str]) -> None:
        """Drop what is known of files that are gone."""
        with self._transaction() as db:
            for path in paths:
                db.execute(delete(files).where(files.c.path == path))
