"""Where the result goes: whether it can be written there, and whether it has room."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from ..errors import BadInput, FileError, InvalidOutputName, ModelNotFound, NotEnoughDisk
from ..file_lock import FileLock
from ..formats.temporary import unfinished_paths
from ..formats.writer import planned_file_size
from ..units import format_bytes
from .names import SUFFIX
from .policy import TensorPlan
from .source import Source

_HEADER_ROOM = 16 << 20


def check_target(source: Source, output: Path) -> None:
    """Raise when ``output`` is no place to write to, or one of the files that are read."""
    if output.suffix.lower() != SUFFIX:
        raise InvalidOutputName(
            f"{output.name} does not end with {SUFFIX}.", "Only safetensors files are written."
        )
    folder = output.parent
    if not folder.is_dir():
        raise ModelNotFound(f"There is no folder {folder}.", "Make it first, or choose another.")
    if output.is_dir():
        raise FileError(f"{output} is a folder.", "Name a file.")
    if output.exists():
        for part in source.parts:
            if output.samefile(part.file.path):
                raise BadInput(f"{output.name} is its own target.", "Give the result another name.")


def check_room(output: Path, plans: Sequence[TensorPlan]) -> None:
    """Raise NotEnoughDisk when the result does not fit; what a killed run has written of it counts."""
    needed = planned_file_size(spec for plan in plans for spec in plan.outputs()) + _HEADER_ROOM
    there = _allocated(unfinished_paths(output)[0])
    free = shutil.disk_usage(output.parent).free
    if free + there < needed:
        raise NotEnoughDisk(
            f"{output.name} needs {format_bytes(needed)}, and {format_bytes(free + there)} are free.",
            "Free some room on that disk. Nothing was written.",
            needed_bytes=needed,
            free_bytes=free,
        )


def remove_unfinished(output: Path) -> None:
    """Remove what a run left that was killed when its output had just got its name."""
    data, journal, lock = unfinished_paths(output)
    if not any(path.exists() for path in (data, journal, lock)):
        return
    held = FileLock(lock)
    if held.acquire():
        data.unlink(missing_ok=True)
        journal.unlink(missing_ok=True)
        held.release()


def _allocated(path: Path) -> int:
    """Return the bytes that a file takes on the disk: an unfinished one has holes."""
    try:
        status = os.stat(path)
    except OSError:
        return 0
    return int(getattr(status, "st_blocks", 0)) * 512
