"""Equal files, and the room that they waste.

Size first, then a digest of a few samples, which can disprove and never prove, then the hash of all bytes
for what is left. Hard links and symbolic links are one file under several names, and waste nothing.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .errors import ModelNotFound
from .files import FileIdentity, file_sha256, is_unchanged, sample_digest
from .library import is_storable
from .registry import Registry
from .watch import Nobody, Watch

_K = TypeVar("_K", bound=Hashable)


@dataclass(frozen=True)
class Content:
    """One file on the disk as it was looked at, and the other names that lead to it."""

    file: FileIdentity
    links: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """Files with the same bytes (``proved``), or that may have."""

    files: tuple[Content, ...]
    proved: bool
    sha256: str | None = None

    @property
    def wasted_bytes(self) -> int:
        return sum(content.file.size for content in self.files[1:])

    def to_dict(self) -> dict[str, Any]:
        return {
            "size_bytes": self.files[0].file.size,
            "wasted_bytes": self.wasted_bytes,
            "proved": self.proved,
            "sha256": self.sha256,
            "paths": [str(content.file.path) for content in self.files],
            "links": [link for content in self.files for link in content.links],
        }


def together(files: Iterable[Content], key: Callable[[Content], _K | None]) -> list[tuple[_K, list[Content]]]:
    """Return the files that share a key, where at least two do; those without a key are left out."""
    groups: dict[_K, list[Content]] = defaultdict(list)
    for content in files:
        found = key(content)
        if found is not None:
            groups[found].append(content)
    return [(found, group) for found, group in groups.items() if len(group) > 1]


def unproved(group: Sequence[Content], hashes: Mapping[FileIdentity, str]) -> list[Group]:
    """Return what is known of files with the same size and samples without reading them."""
    known = [hashes.get(content.file) for content in group]
    if None in known:
        return [Group(tuple(group), proved=False)]
    same = together(group, lambda content: hashes[content.file])
    return [Group(tuple(files), True, digest) for digest, files in same]


class Duplicates:
    """Find equal files.

    Args:
        registry: knows hashes and samples from earlier, and keeps new hashes.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def find(self, paths: Iterable[Path], quick: bool = False, watch: Watch | None = None) -> dict[str, Any]:
        """Return JSON-safe details; ``words.integrity.duplicate_lines`` gives words.

        Args:
            quick: read no more than samples: files then *may* be equal, unless their hashes are known.
            watch: hears of bytes hashed of all that have to be, and may stop.
        """
        search = _Search(self._registry, watch or Nobody())
        contents = search.gather(paths)
        same_size = [c for _, group in together(contents, lambda c: c.file.size or None) for c in group]
        alike = [group for _, group in together(same_size, search.samples)]
        if quick:
            groups = [found for group in alike for found in unproved(group, search.hashes)]
        else:
            groups = search.prove([content for group in alike for content in group])
        groups.sort(key=lambda group: (-group.wasted_bytes, str(group.files[0].file.path)))
        return {
            "files": len(contents),
            "quick": quick,
            "groups": [group.to_dict() for group in groups],
            "wasted_bytes": sum(group.wasted_bytes for group in groups),
            "unreadable": [{"path": path, "reason": why} for path, why in sorted(search.unreadable.items())],
        }


class _Search:
    """One search: what is known, what could not be read, and how far it is."""

    def __init__(self, registry: Registry, watch: Watch) -> None:
        self._registry = registry
        self._watch = watch
        records = registry.records("")
        self._samples = {
            FileIdentity.recorded(r.path, r.size, r.mtime_ns): r.digest for r in records if r.digest
        }
        self.hashes = registry.known_sha256()
        self.unreadable: dict[str, str] = {}
        self._hashed = self._to_hash = 0

    def gather(self, paths: Iterable[Path]) -> list[Content]:
        """Look at every file, and return each once however many names lead to it."""
        names: dict[Hashable, list[Path]] = defaultdict(list)
        for path in dict.fromkeys(paths):
            self._watch.throw_if_cancelled()
            try:
                status = os.stat(path)
            except OSError as error:
                self.unreadable[str(path)] = error.strerror or str(error)
                continue
            key = (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)
            names[key].append(path)
        found = []
        for same in names.values():
            first, *links = sorted(same, key=os.path.islink)  # a link is the last that should be kept
            try:
                found.append(Content(FileIdentity.of(first), tuple(map(str, links))))
            except ModelNotFound:
                continue  # it was just removed
        return found

    def samples(self, content: Content) -> tuple[int, str] | None:
        """Return what equal files have in common, None for a file that cannot be read."""
        self._watch.throw_if_cancelled()
        file = content.file
        digest = self._samples.get(file) or self._read(file, lambda: sample_digest(file.path, file.size))
        return None if digest is None else (file.size, digest)

    def prove(self, candidates: Sequence[Content]) -> list[Group]:
        """Return those whose bytes are all the same."""
        self._to_hash = sum(c.file.size for c in candidates if c.file not in self.hashes)
        return [Group(tuple(same), True, digest) for digest, same in together(candidates, self._sha256)]

    def _sha256(self, content: Content) -> str | None:
        file = content.file
        if file in self.hashes:
            return self.hashes[file]
        digest = self._read(file, lambda: file_sha256(file.path, self))
        self._hashed += file.size
        if digest is None or not is_unchanged(file):
            return None
        if is_storable(str(file.path)):
            self._registry.put_sha256(file, digest)
        return digest

    def _read(self, file: FileIdentity, read: Callable[[], str]) -> str | None:
        try:
            return read()
        except OSError as error:
            self.unreadable[str(file.path)] = error.strerror or str(error)
            return None

    # Watching one file for the whole search

    def throw_if_cancelled(self) -> None:
        self._watch.throw_if_cancelled()

    def progress(self, done: int, total: int) -> None:
        self._watch.progress(self._hashed + done, self._to_hash)
