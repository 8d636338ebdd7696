"""A version that a file's metadata or name says. It stands beside ``unknown``, never in its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .naming import read_name, read_text
from .order import is_version

NAME = "name"
# Keys whose value is a version. modelspec.version is no part of the ModelSpec standard, and in use.
VERSION_KEYS = ("managed_models.version", "modelspec.version", "general.version")
# Keys whose value is a title, which is read as a name is.
TITLE_KEYS = ("modelspec.title", "general.name", "general.basename")
_LONGEST = 40


class VersionHint(NamedTuple):
    """A version, and where it stands: ``name``, or a key of the metadata."""

    version: str
    source: str

    def to_dict(self) -> dict[str, str]:
        return self._asdict()


def version_hint(name: str, metadata: Mapping[str, object] | None = None) -> VersionHint | None:
    """Return what a file says of its version, None when it says nothing that one can read.

    Args:
        name: of the file.
        metadata: of its header, where somebody has read it.
    """
    said = metadata or {}
    for key in VERSION_KEYS:
        text = str(said.get(key, "")).strip()
        if text and len(text) <= _LONGEST and is_version(text):
            return VersionHint(text, key)
    for key in TITLE_KEYS:
        found = read_text(str(said.get(key, "")))
        if found.family is not None and found.version is not None:
            return VersionHint(found.version, key)
    version = read_name(name).version
    return VersionHint(version, NAME) if version is not None else None


def hint_dict(hint: VersionHint | None) -> dict[str, str] | None:
    """Return a hint as JSON-safe details have it."""
    return hint.to_dict() if hint else None
