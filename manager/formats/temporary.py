"""The names of files that are still being written. Light, because ComfyUI's start needs them."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

TEMPORARY_SUFFIX = ".mmpart"
# The unfinished output of a job that the next one may go on with: data, journal, lock.
UNFINISHED_SUFFIXES = (".unfinished.mmpart", ".unfinished.mmjournal", ".unfinished.mmlock")
_TEMPORARY = re.compile(r"\.(\d+)-[0-9a-f]+\.mmpart$")


def temporary_path(path: Path) -> Path:
    """Return a fresh name beside ``path`` that no model loader lists; it carries our process id."""
    return path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")


def unfinished_paths(path: Path) -> tuple[Path, Path, Path]:
    """Return where the data, the journal and the lock of an unfinished output lie, beside it."""
    data, journal, lock = (path.with_name(path.name + suffix) for suffix in UNFINISHED_SUFFIXES)
    return data, journal, lock


def temporary_owner(path: Path) -> int | None:
    """Return the process id in a name made by :func:`temporary_path`, None for any other name."""
    match = _TEMPORARY.search(path.name)
    return int(match[1]) if match else None
