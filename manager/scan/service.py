"""A scan: list, compare, read what is new, record it.

What was read is recorded in steps, so a scan that is stopped or killed has lost nothing, and the next one
goes on where it was.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files import FileIdentity
from ..host import Host
from ..library import is_storable
from ..registry import Moved, Record, Registry, Scanned
from ..watch import Nobody, Watch
from .decide import Differences, Found, compare, match_moves
from .read import READER, read_file, try_digest
from .walk import Seen, Tree, walk

log = logging.getLogger("managed_models.scan")

_THREADS = 4
_STEP = 256  # files that are read, and then recorded in one transaction


@dataclass
class ScanResult:
    """What a scan found.

    Attributes:
        seen: model files that are there, as they were listed.
        unchanged: files that needed no look.
        added, changed, back, missing: paths.
        moved: (old path, new path).
        ambiguous: new files that may have moved here: several equal ones fit.
        held: path of a file whose folder is not there -> why; nothing is said about it.
        broken: files whose header could not be read, of those that were read now.
        unrecorded: files whose name is no text, and which the registry cannot hold.
        forgotten: missing files that were dropped because a person asked for that.
    """

    seen: list[Seen] = field(default_factory=list)
    unchanged: int = 0
    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    moved: list[tuple[str, str]] = field(default_factory=list)
    back: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    ambiguous: list[str] = field(default_factory=list)
    held: dict[str, str] = field(default_factory=dict)
    broken: list[Scanned] = field(default_factory=list)
    unrecorded: list[Scanned] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)

    @property
    def paths(self) -> list[str]:
        """The files that are there, in the order of the folders, then of names."""
        folders = {kind: number for number, kind in enumerate(dict.fromkeys(s.folder for s in self.seen))}
        return [seen.path for seen in sorted(self.seen, key=lambda s: (folders[s.folder], s.name))]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-safe details; ``words.scan`` gives words."""
        return {
            "count": len(self.seen),
            "unchanged": self.unchanged,
            "added": self.added,
            "changed": self.changed,
            "moved": [{"from": old, "to": new} for old, new in self.moved],
            "back": self.back,
            "missing": self.missing,
            "ambiguous": self.ambiguous,
            "held": [{"path": path, "reason": reason} for path, reason in self.held.items()],
            "broken": [{"path": str(row.file.path), **(row.problem or {})} for row in self.broken],
            "forgotten": self.forgotten,
        }


class Scanner:
    """Hold the registry against the model folders.

    Args:
        host: says where models are, and recognises them.
        registry: is made true.
        moved: hears of (old path, new path) of files that were found elsewhere.
    """

    def __init__(
        self,
        host: Host,
        registry: Registry,
        moved: Callable[[Sequence[tuple[str, str]]], None] = lambda moves: None,
    ) -> None:
        self._host = host
        self._registry = registry
        self._moved = moved

    def scan(self, watch: Watch | None = None, forget_missing: bool = False) -> ScanResult:
        """Look at every model folder and record what has changed.

        Args:
            watch: hears how many files were read of how many; may stop the scan between two files.
            forget_missing: drop what is known of files that are missing, instead of keeping it.
        """
        watch = watch or Nobody()
        tree = walk(self._host, watch.throw_if_cancelled)
        records = {record.path: record for record in self._registry.records(READER)}
        unstorable = [s for s in tree.seen if not s.path.isascii() and not is_storable(s.path)]
        differences = compare(records, tree)
        result = ScanResult(tree.seen, unchanged=differences.unchanged, held=differences.held)
        absent = self._really_absent(differences, result)
        self._record_back(differences, result)
        to_read = self._follow_moves(differences, absent, records, tree, result)
        self._read([seen for seen in to_read if is_storable(seen.path)], result, watch)
        result.unrecorded = [read_file(seen, self._host.detect) for seen in unstorable]
        self._record_missing(absent, result)
        if forget_missing:
            self._forget(tree, result)
        return result

    def _really_absent(self, differences: Differences, result: ScanResult) -> list[Record]:
        """Return the records whose file is gone, and not just listed elsewhere or behind a dead link."""
        gone = []
        for record in differences.absent:
            if not os.path.lexists(record.path):
                gone.append(record)
            elif not os.path.exists(record.path):
                result.held[record.path] = "its link leads nowhere now"
        return gone

    def _record_back(self, differences: Differences, result: ScanResult) -> None:
        if differences.back:
            self._registry.mark_present(differences.back)
            result.back = sorted(differences.back)

    def _follow_moves(
        self,
        differences: Differences,
        absent: Sequence[Record],
        records: dict[str, Record],
        tree: Tree,
        result: ScanResult,
    ) -> list[Seen]:
        """Let histories follow their files, and return the files that are still to be read."""
        candidates = [seen for seen in (*differences.new, *differences.changed) if is_storable(seen.path)]
        gone = _gone_elsewhere(candidates, absent, records, tree)
        wanted = {(record.size, record.mtime_ns) for record in gone}
        digests = ((s, try_digest(s)) for s in candidates if (s.size, s.mtime_ns) in wanted)
        moves = match_moves(gone, [Found(seen, digest) for seen, digest in digests if digest])
        if moves.pairs:
            self._registry.move_files([_moved(record, seen) for record, seen in moves.pairs])
        result.moved = sorted((record.path, seen.path) for record, seen in moves.pairs)
        if result.moved:
            self._moved(result.moved)
        result.ambiguous = sorted(moves.ambiguous)
        arrived = {seen.path for record, seen in moves.pairs if record.complete}
        followed = {seen.path for _, seen in moves.pairs}
        result.added = sorted(seen.path for seen in differences.new if seen.path not in followed)
        result.changed = sorted(s.path for s in differences.changed if s.path not in followed)
        to_read = (*differences.new, *differences.changed, *differences.stale)
        return [seen for seen in to_read if seen.path not in arrived]

    def _read(self, files: Sequence[Seen], result: ScanResult, watch: Watch) -> None:
        """Read these files and record each step."""
        with ThreadPoolExecutor(_THREADS) as threads:
            for start in range(0, len(files), _STEP):
                watch.throw_if_cancelled()
                step = files[start : start + _STEP]
                found = list(threads.map(lambda seen: read_file(seen, self._host.detect), step))
                self._registry.put_scanned(found)
                result.broken += [row for row in found if row.problem is not None]
                watch.progress(start + len(step), len(files))

    def _record_missing(self, absent: Iterable[Record], result: ScanResult) -> None:
        moved = {old for old, _ in result.moved}
        new = [record.path for record in absent if not record.missing and record.path not in moved]
        if new:
            self._registry.mark_missing(new)
            result.missing = sorted(new)

    def _forget(self, tree: Tree, result: ScanResult) -> None:
        """Drop the missing files of the folders that were looked at, but for those that are held."""
        looked_at = tree.listed.keys()
        paths = [str(file.path) for file in self._registry.missing_files()]
        gone = [path for path in paths if path not in result.held and _below(path, looked_at)]
        self._registry.forget_files(gone)
        result.forgotten = gone


def _gone_elsewhere(
    candidates: Sequence[Seen], absent: Sequence[Record], records: dict[str, Record], tree: Tree
) -> list[Record]:
    """Return the absent records, and those of folders that were not looked at whose file is not there."""
    known = {record.path for record in absent}
    here = {seen.path for seen in tree.seen}
    wanted = {(seen.size, seen.mtime_ns) for seen in candidates}
    return list(absent) + [
        record
        for path, record in records.items()
        if (record.size, record.mtime_ns) in wanted
        and path not in known
        and path not in here
        and not os.path.lexists(path)
        and os.path.isdir(os.path.dirname(path))
        and not _below(path, (*tree.listed, *tree.failed))
    ]


def _moved(record: Record, seen: Seen) -> Moved:
    file = FileIdentity(Path(seen.path), seen.size, seen.mtime_ns)
    return Moved(record.path, file, seen.folder, seen.name, seen.node)


def _below(path: str, folders: Iterable[str]) -> bool:
    folders = folders if isinstance(folders, (set, dict)) else set(folders)
    folder = os.path.dirname(path)
    while folder not in folders:
        above = os.path.dirname(folder)
        if above == folder:
            return False
        folder = above
    return True
