"""Everything that people said, read at once and added to in one transaction."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from sqlalchemy import select, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import Connection

from ..files import FileIdentity
from ..model import ModelInfo
from .base import Store, reads, writes
from .files import Source, all_sources, put_source
from .people import put_alias, put_version
from .schema import aliases, models, pins, versions


@dataclass(frozen=True)
class SaidModel:
    """One registered name. ``versions`` in the order in which they were registered."""

    name: str
    active_version: str
    versions: tuple[ModelInfo, ...]
    aliases: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Said:
    """Everything that people said. ``pins`` are paths, ``sources`` what each file was fetched from."""

    models: tuple[SaidModel, ...] = ()
    pins: tuple[str, ...] = ()
    sources: tuple[tuple[FileIdentity, Source], ...] = ()


@dataclass
class Additions:
    """What is to be said from now on; ``aliases`` are (name, alias, version)."""

    infos: list[ModelInfo] = field(default_factory=list)
    active: dict[str, str] = field(default_factory=dict)
    aliases: list[tuple[str, str, str]] = field(default_factory=list)
    pins: list[str] = field(default_factory=list)
    sources: list[tuple[FileIdentity, Source]] = field(default_factory=list)


_A = TypeVar("_A", bound=Additions)


class Sayings(Store):
    """What people said, as a whole."""

    @reads
    def said(self, db: Connection) -> Said:
        """Return everything that people said, in order."""
        return _said(db)

    @writes
    def say(self, db: Connection, decide: Callable[[Said], _A]) -> _A:
        """Add what ``decide`` makes of what is said now, all of it or nothing; return that."""
        more = decide(_said(db))
        for info in more.infos:
            put_version(db, info)
        for name, version in more.active.items():
            db.execute(update(models).where(models.c.name == name).values(active_version=version))
        for name, alias, version in more.aliases:
            put_alias(db, name, alias, version)
        for path in more.pins:
            db.execute(insert(pins).values(path=path, pinned_at=time.time()).on_conflict_do_nothing())
        for file, source in more.sources:
            put_source(db, file, source)
        return more


def _said(db: Connection) -> Said:
    infos: dict[int, list[ModelInfo]] = {}
    query = select(versions.c.model_id, versions.c.info).order_by(versions.c.id)
    for row in db.execute(query):
        infos.setdefault(row.model_id, []).append(ModelInfo.from_dict(row.info))
    others: dict[int, dict[str, str]] = {}
    for row in db.execute(select(aliases).order_by(aliases.c.alias)):
        others.setdefault(row.model_id, {})[row.alias] = row.version
    found = db.execute(select(models).order_by(models.c.name)).all()
    return Said(
        tuple(
            SaidModel(row.name, row.active_version, tuple(infos.get(row.id, ())), others.get(row.id, {}))
            for row in found
        ),
        tuple(db.execute(select(pins.c.path).order_by(pins.c.path)).scalars()),
        tuple(all_sources(db)),
    )
