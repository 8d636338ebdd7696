"""A file that has the name already: the very same one is done at once, another is never replaced."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ..errors import FileError
from ..files import file_sha256
from ..watch import Watch
from .partial import Partial
from .publish import target_exists


def same_file(
    target: Path, partial: Partial, sha256: str | None, ask_sha256: Callable[[], str | None], watch: Watch
) -> str:
    """Return the hash of the file at ``target``, which is the one wanted.

    Args:
        partial: what may be left of a run that was killed.
        sha256: what it has to be; ``ask_sha256`` asks the server when nobody said.

    Raises:
        TargetExists: it is another file, or nobody can tell.
        FileError: it is none, or cannot be read.
    """
    if partial.path.exists() and os.path.samefile(partial.path, target):
        partial.discard()  # a run was killed between giving the name and tidying up
    if not target.is_file():
        raise FileError(f"{target.name} is no file.", "Give another name.")
    expected = sha256 or ask_sha256()
    if expected is None:
        raise target_exists(target, "is there already, and nobody says whether it is the same file")
    try:
        measured = file_sha256(target, watch)
    except OSError as error:
        raise partial.error(error) from error
    if measured != expected:
        raise target_exists(target, "is there already, and is another file")
    partial.discard()
    return measured
