"""The catalogue: every address that this machine knows of, read when it is first asked for."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..formats.temporary import temporary_path
from ..remote.reach import Reach
from .entry import PUBLIC, Entry, Origin, Refusal, plain_folder, read_entry
from .own import read_own
from .templates import Package, find_packages, read_packages

log = logging.getLogger("managed_models.catalogue")
_CACHE_FORMAT = 1


@dataclass(frozen=True)
class Places:
    """Where the catalogue looks.

    Attributes:
        search_path: ``site-packages`` folders that may hold ComfyUI's template packages.
        own: catalogue files that people wrote, the first has the last word.
        cache: where to keep what the templates said; None keeps it in memory alone.
    """

    search_path: tuple[Path, ...] = ()
    own: tuple[Path, ...] = ()
    cache: Path | None = None


class Catalogue:
    """Addresses by name and folder. Asks nothing of the network.

    Args:
        folder_types: the folder types that there are; None takes any plain word.
        places: nowhere by default, so that a script depends on nothing that lies about.
        reach: the addresses that may be asked at all.
    """

    def __init__(
        self,
        folder_types: Callable[[], Collection[str] | None] = lambda: None,
        places: Places = Places(),
        reach: Callable[[], Reach] = lambda: PUBLIC,
    ) -> None:
        self.places = places
        self._folder_types = folder_types
        self._reach = reach
        self._lock = threading.Lock()
        self._templates: tuple[dict[str, str], list[Entry]] | None = None
        self._own: tuple[Any, list[Entry], list[str]] | None = None

    def find(self, name: str, folders: Sequence[str] = ()) -> list[Entry]:
        """Return the addresses of a model, the one to take first.

        Args:
            name: relative to its folder, with either separator.
            folders: folder types, any where none is named.
        """
        wanted = name.replace("\\", "/")
        kinds = {plain_folder(folder) for folder in folders}
        found = [e for e in self.entries() if e.name == wanted and (not kinds or e.folder in kinds)]
        return ranked(found)

    def entries(self) -> list[Entry]:
        """Return every address, a person's own first."""
        return [*self._own_entries()[0], *self._template_entries()]

    def problems(self) -> list[str]:
        """Return what is wrong with the catalogue files, in words."""
        return self._own_entries()[1]

    def _own_entries(self) -> tuple[list[Entry], list[str]]:
        stamp = [(str(path), _stamp(path)) for path in self.places.own]
        with self._lock:
            if self._own is None or self._own[0] != stamp:
                entries: list[Entry] = []
                problems: list[str] = []
                for path in self.places.own:
                    found, wrong = read_own(path, self._folder_types(), self._reach())
                    entries += found
                    problems += wrong
                for problem in problems:
                    log.warning("%s", problem)
                self._own = (stamp, entries, problems)
            return self._own[1], self._own[2]

    def _template_entries(self) -> list[Entry]:
        packages = find_packages(self.places.search_path)
        versions = {package.name: package.version for package in packages}
        with self._lock:
            if self._templates is None or self._templates[0] != versions:
                self._templates = (versions, self._read_templates(packages, versions))
            return self._templates[1]

    def _read_templates(self, packages: Sequence[Package], versions: dict[str, str]) -> list[Entry]:
        cache = self.places.cache
        known = _read_cache(cache, versions) if cache else None
        if known is not None:
            return known
        entries = read_packages(packages)
        if cache and packages:
            with suppress(OSError):  # a place to write is no must
                _write_cache(cache, versions, entries)
        return entries


_ORDER = list(Origin)


def ranked(entries: Collection[Entry]) -> list[Entry]:
    """Return entries with the one to take first: by who says it, then how often it is named."""
    return sorted(entries, key=lambda e: (_ORDER.index(e.origin), -e.times, not e.sha256, e.url))


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _read_cache(path: Path, versions: dict[str, str]) -> list[Entry] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != _CACHE_FORMAT or found["versions"] != versions:
            return None
        entries = []
        for item in found["models"]:
            entry = read_entry(item, Origin.TEMPLATES, None)
            if isinstance(entry, Refusal):
                return None
            entries.append(_with_times(entry, item["times"]))
        return entries
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _with_times(entry: Entry, times: int) -> Entry:
    return Entry(**{**entry.__dict__, "times": int(times)})


def _write_cache(path: Path, versions: dict[str, str], entries: Sequence[Entry]) -> None:
    models = [
        {"name": e.name, "directory": e.folder, "url": e.url, "sha256": e.sha256, "times": e.times}
        for e in entries
    ]
    document = {"format": _CACHE_FORMAT, "versions": versions, "models": models}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
