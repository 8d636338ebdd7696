"""Reading and writing the registry. Every write is one transaction."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import ColumnElement, Engine, case, delete, func, select, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError

from ..config import IN_MEMORY
from ..errors import FileError
from ..files import FileIdentity, is_unchanged
from ..model import ModelInfo
from .database import database_path, open_database, unusable
from .peaks import Peak, PeakKey
from .schema import PEAK_KEY, files, models, peaks, versions

log = logging.getLogger("managed_models.registry")
_P = ParamSpec("_P")
_T = TypeVar("_T")


def _transaction(
    work: Callable[Concatenate[Registry, Connection, _P], _T],
) -> Callable[Concatenate[Registry, _P], _T]:
    """Run ``work`` in one transaction; a database that turns out to be damaged is an error of ours."""

    @wraps(work)
    def call(registry: Registry, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        while True:
            engine = registry._open()
            try:
                with registry._turn or nullcontext(), engine.begin() as db:
                    return work(registry, db, *args, **kwargs)
            except IntegrityError:
                raise
            except DatabaseError as error:
                registry._give_up(engine, error)

    return call


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
                    self._engine = self._in_memory(error)
            return self._engine

    def _in_memory(self, error: FileError) -> Engine:
        log.warning("%s Until then, nothing that you register is kept.", error)
        self.url, self._turn = IN_MEMORY, threading.RLock()
        return open_database(IN_MEMORY)

    def _give_up(self, engine: Engine, error: DatabaseError) -> None:
        """Raise our error for a database that failed in use, or fall back where that was asked for.

        A lock or a full disk passes; a damaged file does not.
        """
        path = database_path(self.url)
        if path is None:
            if self._engine is not engine:  # another thread has fallen back meanwhile
                return
            raise error
        failure = unusable(path, error)
        if not self._fall_back or isinstance(error, OperationalError):
            raise failure from error
        with self._opening:
            if self._engine is engine:
                engine.dispose()
                self._engine = self._in_memory(failure)

    # What people said

    @_transaction
    def put(self, db: Connection, info: ModelInfo) -> None:
        """Record one version; its first version becomes a model's active one."""
        db.execute(
            insert(models).values(name=info.name, active_version=info.version).on_conflict_do_nothing()
        )
        model_id = db.execute(select(models.c.id).where(models.c.name == info.name)).scalar_one()
        path = "" if info.file_path == Path() else str(info.file_path.absolute())
        values = {"file_path": path, "info": {**info.to_dict(), "file_path": path}}
        db.execute(
            insert(versions)
            .values(model_id=model_id, version=info.version, **values)
            .on_conflict_do_update(index_elements=["model_id", "version"], set_=values)
        )

    @_transaction
    def get(self, db: Connection, name: str, version: str | None = None) -> ModelInfo | None:
        """Return one version of a model, the active one by default, or None."""
        wanted = models.c.active_version if version is None else version
        query = (
            select(versions.c.info)
            .join(models, models.c.id == versions.c.model_id)
            .where(models.c.name == name, versions.c.version == wanted)
        )
        info = db.execute(query).scalar()
        return None if info is None else ModelInfo.from_dict(info)

    @_transaction
    def names(self, db: Connection) -> list[str]:
        """Return the registered names in order."""
        return list(db.execute(select(models.c.name).order_by(models.c.name)).scalars())

    @_transaction
    def versions(self, db: Connection, name: str) -> list[str]:
        """Return the versions of a model, first registered first; empty for an unknown name."""
        query = (
            select(versions.c.version)
            .join(models, models.c.id == versions.c.model_id)
            .where(models.c.name == name)
            .order_by(versions.c.id)
        )
        return list(db.execute(query).scalars())

    @_transaction
    def active_version(self, db: Connection, name: str) -> str | None:
        """Return the version that is meant when none is named, or None for an unknown name."""
        return db.execute(select(models.c.active_version).where(models.c.name == name)).scalar()

    @_transaction
    def set_active_version(self, db: Connection, name: str, version: str) -> bool:
        """Make ``version`` the active one; False when there is no such version."""
        known = select(versions.c.model_id).where(versions.c.version == version)
        result = db.execute(
            update(models).where(models.c.name == name, models.c.id.in_(known)).values(active_version=version)
        )
        return bool(result.rowcount)

    @_transaction
    def remove(self, db: Connection, name: str) -> bool:
        """Forget a model and its versions; False when the name is unknown."""
        return bool(db.execute(delete(models).where(models.c.name == name)).rowcount)

    @_transaction
    def active_by_path(self, db: Connection) -> dict[str, ModelInfo]:
        """Return the versions by file: where several share one, the active version, else the last."""
        query = select(
            versions.c.file_path,
            versions.c.info,
            (versions.c.version == models.c.active_version).label("active"),
        ).join(models, models.c.id == versions.c.model_id)
        rows = db.execute(query.order_by("active", versions.c.id)).all()
        return {row.file_path: ModelInfo.from_dict(row.info) for row in rows}

    @_transaction
    def find_by_sha256(self, db: Connection, digest: str) -> list[str]:
        """Return the paths whose hash is known to be ``digest`` (lower case).

        A hash that was measured holds for the file as it was then: one that has changed is left out.
        """
        measured = db.execute(
            select(files.c.path, files.c.size, files.c.mtime_ns).where(files.c.sha256 == digest)
        ).all()
        # CASE, because a figure that is no number makes JSON that SQLite does not read.
        said = case((func.json_valid(versions.c.info), func.json_extract(versions.c.info, "$.sha256")))
        registered = db.execute(select(versions.c.file_path).where(func.lower(said) == digest)).scalars()
        unchanged = [r.path for r in measured if is_unchanged(FileIdentity(Path(r.path), r.size, r.mtime_ns))]
        return list(dict.fromkeys([*unchanged, *registered]))

    # What is on the disk

    @_transaction
    def facts(self, db: Connection, file: FileIdentity) -> dict[str, Any] | None:
        """Return the recorded identity of an unchanged file, or None."""
        query = select(files.c.identity).where(
            files.c.path == str(file.path), files.c.size == file.size, files.c.mtime_ns == file.mtime_ns
        )
        return db.execute(query).scalar()

    @_transaction
    def put_facts(self, db: Connection, file: FileIdentity, identity: dict[str, Any]) -> None:
        """Record what a file's header says; a changed file loses its hash."""
        row = {
            "size": file.size,
            "mtime_ns": file.mtime_ns,
            "identity": identity,
            "seen_at": time.time(),
        }
        statement = insert(files).values(path=str(file.path), **row)
        changed = (files.c.size != file.size) | (files.c.mtime_ns != file.mtime_ns)
        db.execute(update(files).where(files.c.path == str(file.path), changed).values(sha256=None))
        db.execute(statement.on_conflict_do_update(index_elements=["path"], set_=row))

    @_transaction
    def sha256(self, db: Connection, file: FileIdentity) -> str | None:
        """Return the measured hash of an unchanged file, or None."""
        query = select(files.c.sha256).where(
            files.c.path == str(file.path), files.c.size == file.size, files.c.mtime_ns == file.mtime_ns
        )
        return db.execute(query).scalar()

    @_transaction
    def put_sha256(self, db: Connection, file: FileIdentity, digest: str) -> None:
        """Record the measured hash of a file whose facts are recorded and unchanged."""
        db.execute(
            update(files)
            .where(
                files.c.path == str(file.path),
                files.c.size == file.size,
                files.c.mtime_ns == file.mtime_ns,
            )
            .values(sha256=digest)
        )

    @_transaction
    def known_files(self, db: Connection) -> list[tuple[FileIdentity, dict[str, Any]]]:
        """Return every file with its recorded identity, by path."""
        rows = db.execute(select(files).order_by(files.c.path)).all()
        return [(FileIdentity(Path(r.path), r.size, r.mtime_ns), r.identity) for r in rows]

    @_transaction
    def forget_files(self, db: Connection, paths: list[str]) -> None:
        """Drop what is known of files that are gone."""
        for path in paths:
            db.execute(delete(files).where(files.c.path == path))

    # What prompts took

    @_transaction
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

    @_transaction
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
