"""What the model folders hold now: names and stats, nothing opened."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..host import Host
from ..model import MODEL_SUFFIXES


class Seen(NamedTuple):
    """A model file as its folder lists it: ``name`` is relative to the model folder of type ``folder``.

    ``node`` is ``device:inode``, None where the file system has none.
    """

    path: str
    folder: str
    name: str
    size: int
    mtime_ns: int
    node: str | None


@dataclass
class Tree:
    """What was listed.

    Attributes:
        seen: every model file, once.
        listed: folder that could be listed -> its device, None where there is none.
        failed: folder that could not be listed -> why.
    """

    seen: list[Seen] = field(default_factory=list)
    listed: dict[str, int | None] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def walk(host: Host, on_folder: Callable[[], None] = lambda: None) -> Tree:
    """List every model folder of the host.

    Args:
        on_folder: called before each folder; may raise to stop.
    """
    types: dict[str, list[str]] = {}
    for kind, path in host.folders():
        types.setdefault(str(path), []).append(kind)
    tree = Tree()
    for root, kinds in types.items():
        _walk_root(tree, root, _label(host, kinds), types.keys() - {root}, on_folder)
    return tree


def _label(host: Host, kinds: Sequence[str]) -> Callable[[str], str]:
    """Return what tells the type of a file in a folder that several types share, GGUF's and others'."""
    if len(kinds) == 1:
        return lambda name: kinds[0]
    names = {kind: frozenset(host.names(kind)) for kind in kinds}
    return lambda name: next((kind for kind in kinds if name in names[kind]), kinds[0])


def _walk_root(
    tree: Tree,
    root: str,
    label: Callable[[str], str],
    other_roots: set[str],
    on_folder: Callable[[], None],
) -> None:
    """List one model folder; linked folders are followed once, and other model folders left to themselves."""
    start = len(root) if root.endswith(os.sep) else len(root) + 1
    visited: set[tuple[int, int]] = set()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        on_folder()
        try:
            status = os.stat(folder)
            key = (status.st_dev, status.st_ino)
            if status.st_ino and key in visited:
                continue
            visited.add(key)
            with os.scandir(folder) as entries:
                waiting += _list(tree, entries, start, label)
        except OSError as error:
            tree.failed[folder] = error.strerror or str(error)
            continue
        tree.listed[folder] = status.st_dev if status.st_ino else None
        waiting = [path for path in waiting if path not in other_roots]


def _list(
    tree: Tree, entries: Iterable[os.DirEntry[str]], start: int, label: Callable[[str], str]
) -> list[str]:
    """Take in the model files of one folder and return its sub-folders."""
    folders: list[str] = []
    for entry in entries:
        name = entry.name
        try:
            if entry.is_dir():
                if not name.startswith("."):
                    folders.append(entry.path)
                continue
            if name[name.rfind(".") :].lower() not in MODEL_SUFFIXES:
                continue
            status = entry.stat()
        except OSError:  # it was just removed, or is a link that leads nowhere
            continue
        node = f"{status.st_dev}:{status.st_ino}" if status.st_ino else None
        relative = entry.path[start:]
        tree.seen.append(
            Seen(entry.path, label(relative), relative, status.st_size, status.st_mtime_ns, node)
        )
    return folders
