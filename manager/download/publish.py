"""Giving a whole file its name, never over another one."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import FileError, TargetExists


def publish(temporary: Path, target: Path) -> None:
    """Move ``temporary`` to ``target`` in one step, so that it survives a power cut.

    Raises:
        TargetExists: the name was taken meanwhile.
        FileError: the folder refuses.
    """
    try:
        _move(temporary, target)
        _sync_folder(target.parent)
    except FileExistsError:
        raise target_exists(target, "appeared while it was being downloaded") from None
    except OSError as error:
        raise FileError(
            f"{target.name} cannot be put into {target.parent}: {error.strerror or error}.",
            "Check the folder and who may write there, and resume the download.",
        ) from error


def target_exists(target: Path, words: str) -> TargetExists:
    """Return the refusal to write over another file."""
    return TargetExists(
        f"{target.name} {words} ({target.parent}).",
        "Give another name, or move that file away.",
    )


def _move(temporary: Path, target: Path) -> None:
    try:
        os.link(temporary, target)  # fails when the name is taken, unlike a rename on POSIX
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(target):
            raise FileExistsError from None
        os.rename(temporary, target)
    else:
        os.unlink(temporary)


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut, where folders can be flushed (not on Windows)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
