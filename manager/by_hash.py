"""From a SHA-256 to a file, wherever it has moved: pure decisions, and a finder that may measure."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import AmbiguousModel, HashUnverified, ModelNotFound
from .files import FileIdentity, file_sha256, is_unchanged
from .host import ModelFile
from .registry import Registry
from .registry.by_hash import HashRecord
from .watch import Watch

PREFIX = "sha256:"
# Shorter ones could fit by chance: among 100,000 files, 12 digits do so once in 50,000 libraries.
LEAST_DIGITS = 12
_DIGITS = 64
_HEX = re.compile(rf"[0-9a-f]{{{LEAST_DIGITS},{_DIGITS}}}")
_SHOWN = 3


@dataclass(frozen=True)
class Located:
    """What is known of a hash.

    Attributes:
        digests: the whole hashes that fit; more than one is an ambiguous beginning.
        found: files that have it, the first to be taken.
        candidates: files that may have it: as large, and nobody has measured them. Likeliest first.
        names: what files with this hash were called.
    """

    digests: tuple[str, ...] = ()
    found: tuple[Path, ...] = ()
    candidates: tuple[Path, ...] = ()
    names: tuple[str, ...] = ()


def locate(
    records: Sequence[HashRecord],
    here: Sequence[FileIdentity],
    measured: Mapping[FileIdentity, str],
) -> Located:
    """Decide which of the files that are here have a hash.

    A measured hash holds for the file as it was then. What a person or a server said of a file holds
    as long as it is as large, and nobody has measured another hash.

    Args:
        records: what is known of the hash.
        here: the files, in the order of preference.
        measured: hashes that are known of them, whatever they are.
    """
    digests = tuple(sorted({record.sha256 for record in records}))
    said = {record.path: record for record in records if not record.measured}
    sizes = {record.size for record in records if record.size is not None}
    names = tuple(dict.fromkeys(record.path.name for record in records if record.path.name))
    times = {record.mtime_ns for record in records}
    found, maybe = [], []
    for file in here:
        known = measured.get(file)
        word = said.get(file.path)
        if known is not None:
            if known in digests:
                found.append(file)
        elif word is not None and word.size in (None, file.size):
            found.append(file)
        elif file.size in sizes:
            maybe.append(file)
    maybe.sort(key=lambda file: (file.path.name not in names, file.mtime_ns not in times))
    proven = [file for file in found if file in measured]
    first = [file.path for file in proven] + [file.path for file in found if file not in measured]
    return Located(digests, tuple(first), tuple(file.path for file in maybe), names)


class HashFinder:
    """Find model files by their hash.

    Args:
        registry: knows hashes.
        defer: runs a write that nobody waits for.
    """

    def __init__(self, registry: Registry, defer: Callable[[Callable[[], None]], None]) -> None:
        self._registry = registry
        self._defer = defer
        self._measured: dict[FileIdentity, str] = {}
        self._lock = threading.Lock()

    def find(
        self, digest: str, files: Sequence[ModelFile], watch: Watch | None = None, anywhere: bool = False
    ) -> ModelFile:
        """Return the file with this hash, or with the only known one that begins so.

        Args:
            digest: 12 to 64 hex digits in lower case.
            files: where to look, in the order of preference.
            watch: shows progress while files are hashed that may be it; nothing is hashed without one.
            anywhere: also where people keep files that they registered.

        Raises:
            ModelNotFound: nobody knows it, or its file is not here.
            AmbiguousModel: several known hashes begin so.
            HashUnverified: a file may have it, and there is no ``watch`` to hash it with.
        """
        records = self._registry.hash_records(digest) if _HEX.fullmatch(digest) else []
        by_path = {file.path: file for file in files}
        for record in records if anywhere else ():
            if record.path.name:
                by_path.setdefault(record.path, ModelFile("", record.path.name, record.path))
        here = _likely(records, _present(by_path)) if records else []
        located = locate(records, here, self._known(here))
        if len(located.digests) > 1:
            shown = ", ".join(located.digests[:_SHOWN])
            raise AmbiguousModel(f"{digest!r} begins several SHA-256: {shown}.", "Give more digits.")
        if located.found:
            return by_path[located.found[0]]
        if not located.candidates:
            raise _unknown(digest, located)
        candidates = [by_path[path] for path in located.candidates]
        if watch is None:
            raise _unverified(digest, candidates)
        for file in candidates:
            if self._measure(file.path, watch).startswith(digest):
                return file
        raise _unknown(digest, located)

    def _known(self, here: Sequence[FileIdentity]) -> dict[FileIdentity, str]:
        """Return the hashes that anybody has measured of these files."""
        with self._lock:
            known = {file: self._measured[file] for file in here if file in self._measured}
        for file in here:  # few: the rest was left out
            digest = known.get(file) or self._registry.sha256(file)
            if digest is not None:
                known[file] = digest
        return known

    def _measure(self, path: Path, watch: Watch) -> str:
        """Return the hash of a file, empty when it changed meanwhile."""
        file = FileIdentity.of(path)
        digest = file_sha256(path, watch)
        if not is_unchanged(file):  # written to meanwhile: this is the hash of nothing
            return ""
        with self._lock:
            self._measured[file] = digest
        self._defer(lambda: self._registry.put_sha256(file, digest))
        return digest


def _likely(records: Sequence[HashRecord], here: Sequence[FileIdentity]) -> list[FileIdentity]:
    """Return the files that the records can be about: of such a path, or as large."""
    paths, sizes = {record.path for record in records}, {record.size for record in records}
    return [file for file in here if file.path in paths or file.size in sizes]


def _present(by_path: Mapping[Path, ModelFile]) -> list[FileIdentity]:
    here = []
    for path in by_path:
        try:
            here.append(FileIdentity.of(path))
        except ModelNotFound:  # a link that leads nowhere, or just removed
            continue
    return here


def _unknown(digest: str, located: Located) -> ModelNotFound:
    was = f" It was {', '.join(located.names[:_SHOWN])}, which is not here any more." if located.names else ""
    remedy = "Check the hash; a file's hash is known once it was registered or verified."
    if not _HEX.fullmatch(digest):
        remedy = f"Give {LEAST_DIGITS} to {_DIGITS} hex digits of it. {remedy}"
    elif was:
        remedy = "Get it again, or scan the folder that it was moved to."
    return ModelNotFound(f"No model here is known to have the SHA-256 {digest}.{was}", remedy)


def _unverified(digest: str, candidates: Sequence[ModelFile]) -> HashUnverified:
    names = [file.name for file in candidates]
    shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    return HashUnverified(
        f"No model here is known to have the SHA-256 {digest}. {shown} may have it: "
        "as large, and never hashed.",
        f"Verify {names[0]}, and try again.",
        candidates=names,
    )
