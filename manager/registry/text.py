"""What a file is found by: its name, its folder, and what its header and people say of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.engine import Connection

from .base import chunks
from .schema import files, models, versions

_FACTS = ("title", "precision")


def file_text(name: str, folder: str, identity: Any, said: Iterable[str] = ()) -> str:
    """Return the text of a file, folded for comparing; it begins with the name, so that it also sorts.

    Args:
        identity: as :meth:`ModelIdentity.to_dict` gives it, or nothing that anyone can read.
        said: words of people: names, versions, tags.
    """
    known = identity if isinstance(identity, Mapping) else {}
    facts = [str(known[key]) for key in _FACTS if known.get(key)]
    return "\n".join([name.replace("\\", "/"), folder, " ".join([*facts, *said])]).casefold()


def said_of(db: Connection, paths: Iterable[str]) -> dict[str, list[str]]:
    """Return what people call these files: registered names, versions and tags, by path."""
    said: dict[str, list[str]] = {}
    for some in chunks(list(paths)):
        query = select(versions.c.file_path, models.c.name, versions.c.version, versions.c.info).join(
            models, models.c.id == versions.c.model_id
        )
        for row in db.execute(query.where(versions.c.file_path.in_(some)).order_by(versions.c.id)):
            tags = row.info.get("tags") or []
            said.setdefault(row.file_path, []).extend([row.name, row.version, *map(str, tags)])
    return said


def refresh_texts(db: Connection, paths: Iterable[str]) -> None:
    """Write the texts of these files anew: what is said of them has changed."""
    wanted = [path for path in paths if path]
    said = said_of(db, wanted)
    for some in chunks(wanted):
        query = select(files.c.path, files.c.name, files.c.folder, files.c.identity)
        for row in db.execute(query.where(files.c.path.in_(some))).all():
            text = file_text(row.name, row.folder, row.identity, said.get(row.path, ()))
            db.execute(update(files).where(files.c.path == row.path).values(text=text))
