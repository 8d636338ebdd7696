"""The model files of this machine, a page at a time: as the loaders list them, found by words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .errors import BadInput, ModelNotFound
from .files import FileIdentity
from .host import ModelFile
from .library import Library, is_storable
from .registry import FileRow, Registry

MAX_LIMIT = 200


@dataclass(frozen=True)
class Listed:
    """One file, with what the registry knows of it as it is.

    Attributes:
        known: what a scan or a use recorded; None when there was none.
        health: what verifying it found, with ``checked_at``; None when nobody did.
    """

    file: ModelFile
    known: FileRow | None
    health: dict[str, Any] | None


@dataclass(frozen=True)
class Listing:
    """A page, and how many files there are in all pages."""

    rows: list[Listed]
    total: int


def list_models(
    library: Library,
    registry: Registry,
    text: str = "",
    folder: str | None = None,
    offset: int = 0,
    limit: int = MAX_LIMIT,
) -> Listing:
    """Return the files that every word of ``text`` fits, in the loaders' order.

    The names come from the loaders' own lists, so that what nobody has scanned is found too; what files
    are, and what people call them, comes from the registry.

    Args:
        folder: a folder type; all when None.

    Raises:
        BadInput: ``offset`` or ``limit`` is out of bounds.
    """
    if offset < 0 or not 1 <= limit <= MAX_LIMIT:
        raise BadInput(
            f"offset is {offset} and limit is {limit}.", f"offset is 0 or more, limit 1 to {MAX_LIMIT}."
        )
    names = [entry for entry in library.names() if folder is None or entry[0] == folder]
    words = text.casefold().replace("\\", "/").split()
    if words:
        described = registry.described(text) if is_storable(text) else set()
        names = [entry for entry in names if _fits(entry, words) or entry in described]
    files = library.located(names[offset : offset + limit])
    return Listing(_with_facts(files, registry), len(names))


def _fits(entry: tuple[str, str], words: Sequence[str]) -> bool:
    text = f"{entry[0]}/{entry[1]}".casefold().replace("\\", "/")
    return all(word in text for word in words)


def _with_facts(files: Sequence[ModelFile], registry: Registry) -> list[Listed]:
    storable = [path for path in (str(file.path) for file in files) if is_storable(path)]
    known, health = registry.rows_of(storable), registry.health_of(storable)
    rows = []
    for file in files:
        try:
            now = FileIdentity.of(file.path)
        except ModelNotFound:  # it was just removed
            rows.append(Listed(file, None, None))
            continue
        row = known.get(str(file.path))
        current = row is not None and (row.size, row.mtime_ns) == (now.size, now.mtime_ns)
        rows.append(Listed(file, row if current else None, health.get(now)))
    return rows
