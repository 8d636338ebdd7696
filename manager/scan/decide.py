"""What has changed between the registry and the disk. Pure: records and listings in, differences out."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..registry import Record
from .walk import Seen, Tree

NOT_THERE = "its folder is not there"
NOT_MOUNTED = "its folder is empty and was another drive's: it may not be mounted"


@dataclass
class Differences:
    """What a listing says beside the records.

    Attributes:
        unchanged: files that need no look.
        new: files without a record, or whose record no scan has completed and which may have moved here.
        changed: files with another size or time than recorded.
        stale: unchanged files that an older version read.
        back: paths that were missing and are there again, unchanged.
        absent: records of files that their folders do not list any more.
        held: path of a record -> why nothing can be said about it.
    """

    unchanged: int = 0
    new: list[Seen] = field(default_factory=list)
    changed: list[Seen] = field(default_factory=list)
    stale: list[Seen] = field(default_factory=list)
    back: list[str] = field(default_factory=list)
    absent: list[Record] = field(default_factory=list)
    held: dict[str, str] = field(default_factory=dict)


class Found(NamedTuple):
    """A new or changed file with the digest of its samples."""

    seen: Seen
    digest: str


@dataclass(frozen=True)
class Moves:
    """Which files moved where, and new files that several records fit, or that share a record, by path."""

    pairs: tuple[tuple[Record, Seen], ...]
    ambiguous: tuple[str, ...]


def compare(records: Mapping[str, Record], tree: Tree) -> Differences:
    """Return what differs, for the files below the folders that were looked at."""
    result = Differences()
    unchanged = 0
    for seen in tree.seen:
        record = records.get(seen.path)
        if record is None:
            result.new.append(seen)
        elif record.size != seen.size or record.mtime_ns != seen.mtime_ns:
            result.changed.append(seen)
        elif not record.complete:
            (result.stale if record.digest else result.new).append(seen)
        elif record.missing:
            result.back.append(seen.path)
        else:
            unchanged += 1
    result.unchanged = unchanged
    here = {seen.path for seen in tree.seen}
    absent = [record for path, record in records.items() if path not in here]
    holding = _holding_folders(here) if absent else frozenset[str]()
    for record in absent:
        _judge_absent(record, tree, holding, result)
    return result


def _judge_absent(record: Record, tree: Tree, holding: frozenset[str], result: Differences) -> None:
    folder = os.path.dirname(record.path)
    while folder not in tree.listed and folder not in tree.failed:
        above = os.path.dirname(folder)
        if above == folder:
            return  # not below what was looked at
        folder = above
    if folder in tree.failed:
        result.held[record.path] = f"{NOT_THERE}: {tree.failed[folder]}"
        return
    device = record.node.split(":")[0] if record.node else None
    if folder not in holding and device != str(tree.listed[folder]):
        result.held[record.path] = NOT_MOUNTED
    else:
        result.absent.append(record)


def _holding_folders(paths: Iterable[str]) -> frozenset[str]:
    """Return every folder that holds one of these files at any depth."""
    found: set[str] = set()
    for path in paths:
        folder = os.path.dirname(path)
        while folder not in found:
            found.add(folder)
            folder = os.path.dirname(folder)
    return frozenset(found)


def match_moves(gone: Sequence[Record], found: Sequence[Found]) -> Moves:
    """Return which of the records that have no file any more are which of the new files.

    Size, time and digest have to agree, and only one pair may fit; where several files are equal, the one
    with the same inode is it, and without such a hint nothing is guessed.
    """
    groups: dict[tuple[int, int, str], tuple[list[Record], list[Seen]]] = defaultdict(lambda: ([], []))
    for record in gone:
        if record.digest:
            groups[record.size, record.mtime_ns, record.digest][0].append(record)
    for seen, digest in found:
        groups[seen.size, seen.mtime_ns, digest][1].append(seen)
    pairs: list[tuple[Record, Seen]] = []
    ambiguous: list[str] = []
    for records, files in groups.values():
        sure = _by_node(records, files)
        pairs += sure
        left = [record for record in records if all(record is not pair[0] for pair in sure)]
        free = [seen for seen in files if all(seen is not pair[1] for pair in sure)]
        if len(left) == 1 and len(free) == 1:
            pairs.append((left[0], free[0]))
        elif left and free:
            ambiguous += [seen.path for seen in free]
    return Moves(tuple(pairs), tuple(ambiguous))


def _by_node(records: Sequence[Record], files: Sequence[Seen]) -> list[tuple[Record, Seen]]:
    had = Counter(record.node for record in records)
    has = Counter(seen.node for seen in files)
    there = {seen.node: seen for seen in files}
    return [
        (record, there[record.node])
        for record in records
        if record.node and had[record.node] == has[record.node] == 1
    ]
