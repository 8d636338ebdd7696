"""What people said about models: versions, which is meant, other names for them, and what stays loaded."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import Connection

from ..errors import ModelNotFound
from ..files import FileIdentity
from ..model import ModelInfo
from .base import Store, reads, writes
from .schema import aliases, models, pins, versions
from .text import refresh_texts


class People(Store):
    """Models and their versions, aliases and pins."""

    @writes
    def put(self, db: Connection, info: ModelInfo) -> None:
        """Record one version; its first version becomes a model's active one."""
        put_version(db, info)

    @reads
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

    @reads
    def names(self, db: Connection) -> list[str]:
        """Return the registered names in order."""
        return list(db.execute(select(models.c.name).order_by(models.c.name)).scalars())

    @reads
    def versions(self, db: Connection, name: str) -> list[str]:
        """Return the versions of a model, first registered first; empty for an unknown name."""
        query = (
            select(versions.c.version)
            .join(models, models.c.id == versions.c.model_id)
            .where(models.c.name == name)
            .order_by(versions.c.id)
        )
        return list(db.execute(query).scalars())

    @reads
    def registered(self, db: Connection, name: str) -> list[tuple[ModelInfo, FileIdentity | None]]:
        """Return every version of a model, first registered first, and its file as it was then, if it was."""
        query = (
            select(versions.c.info)
            .join(models, models.c.id == versions.c.model_id)
            .where(models.c.name == name)
            .order_by(versions.c.id)
        )
        return [(ModelInfo.from_dict(info), _file_then(info)) for info in db.execute(query).scalars()]

    @reads
    def active_version(self, db: Connection, name: str) -> str | None:
        """Return the version that is meant when none is named, or None for an unknown name."""
        return db.execute(select(models.c.active_version).where(models.c.name == name)).scalar()

    @writes
    def set_active_version(self, db: Connection, name: str, version: str) -> bool:
        """Make ``version`` the active one; False when there is no such version."""
        known = select(versions.c.model_id).where(versions.c.version == version)
        result = db.execute(
            update(models).where(models.c.name == name, models.c.id.in_(known)).values(active_version=version)
        )
        return bool(result.rowcount)

    @writes
    def remove(self, db: Connection, name: str) -> bool:
        """Forget a model, its versions and aliases; False when the name is unknown."""
        wanted = select(models.c.id).where(models.c.name == name).scalar_subquery()
        paths = db.execute(select(versions.c.file_path).where(versions.c.model_id == wanted)).scalars().all()
        removed = bool(db.execute(delete(models).where(models.c.name == name)).rowcount)
        refresh_texts(db, paths)
        return removed

    @reads
    def active_by_path(self, db: Connection) -> dict[str, ModelInfo]:
        """Return the versions by file: where several share one, the active version, else the last."""
        return _active(db, None)

    @reads
    def active_of(self, db: Connection, paths: Iterable[str]) -> dict[str, ModelInfo]:
        """Return the same for these files alone."""
        return _active(db, list(paths))

    # Aliases

    @writes
    def put_alias(self, db: Connection, name: str, alias: str, version: str) -> bool:
        """Let ``alias`` mean ``version`` of a model from now on; False for an unknown name."""
        return put_alias(db, name, alias, version)

    @reads
    def aliases(self, db: Connection, name: str) -> dict[str, str]:
        """Return alias -> version of a model, in order; empty for an unknown name."""
        query = (
            select(aliases.c.alias, aliases.c.version)
            .join(models, models.c.id == aliases.c.model_id)
            .where(models.c.name == name)
            .order_by(aliases.c.alias)
        )
        return {row.alias: row.version for row in db.execute(query)}

    @writes
    def remove_alias(self, db: Connection, name: str, alias: str) -> bool:
        """Forget an alias; False when there is none."""
        known = select(models.c.id).where(models.c.name == name).scalar_subquery()
        found = db.execute(delete(aliases).where(aliases.c.model_id == known, aliases.c.alias == alias))
        return bool(found.rowcount)

    # Pins

    @writes
    def put_pin(self, db: Connection, path: Path, pinned: bool = True) -> None:
        """Record whether a file's models are to stay in memory."""
        if pinned:
            row = insert(pins).values(path=str(path), pinned_at=time.time())
            db.execute(row.on_conflict_do_nothing())
        else:
            db.execute(delete(pins).where(pins.c.path == str(path)))

    @reads
    def pins(self, db: Connection) -> list[Path]:
        """Return the files whose models are to stay in memory, in order."""
        return [Path(path) for path in db.execute(select(pins.c.path).order_by(pins.c.path)).scalars()]


def put_version(db: Connection, info: ModelInfo) -> None:
    """Record one version; see :meth:`People.put`."""
    db.execute(insert(models).values(name=info.name, active_version=info.version).on_conflict_do_nothing())
    model_id = db.execute(select(models.c.id).where(models.c.name == info.name)).scalar_one()
    same = (versions.c.model_id == model_id) & (versions.c.version == info.version)
    before = db.execute(select(versions.c.file_path).where(same)).scalar()
    path = "" if info.file_path == Path() else str(info.file_path.absolute())
    values = {"file_path": path, "info": {**info.to_dict(), "file_path": path, **_file_now(path)}}
    db.execute(
        insert(versions)
        .values(model_id=model_id, version=info.version, **values)
        .on_conflict_do_update(index_elements=["model_id", "version"], set_=values)
    )
    refresh_texts(db, {path, before or ""} - {""})


def _file_now(path: str) -> dict[str, dict[str, int]]:
    """Return what tells later whether the file is still the one that was registered."""
    try:
        file = FileIdentity.of(Path(path)) if path else None
    except ModelNotFound:
        return {}
    return {"file": {"size": file.size, "mtime_ns": file.mtime_ns}} if file else {}


def _file_then(info: dict[str, Any]) -> FileIdentity | None:
    """Read what :func:`_file_now` wrote, with the path where a scan has found the file since."""
    try:
        return FileIdentity(Path(info["file_path"]), int(info["file"]["size"]), int(info["file"]["mtime_ns"]))
    except (KeyError, TypeError, ValueError):
        return None


def put_alias(db: Connection, name: str, alias: str, version: str) -> bool:
    """Let an alias mean a version; see :meth:`People.put_alias`."""
    model_id = db.execute(select(models.c.id).where(models.c.name == name)).scalar()
    if model_id is None:
        return False
    db.execute(
        insert(aliases)
        .values(model_id=model_id, alias=alias, version=version)
        .on_conflict_do_update(index_elements=["model_id", "alias"], set_={"version": version})
    )
    return True


def _active(db: Connection, paths: list[str] | None) -> dict[str, ModelInfo]:
    query = select(
        versions.c.file_path,
        versions.c.info,
        (versions.c.version == models.c.active_version).label("active"),
    ).join(models, models.c.id == versions.c.model_id)
    if paths is not None:
        query = query.where(versions.c.file_path.in_(paths))
    rows = db.execute(query.order_by("active", versions.c.id)).all()
    return {row.file_path: ModelInfo.from_dict(row.info) for row in rows}
