"""Where a download goes: the folder that ComfyUI uses for that kind of model, under a plain name."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path, PurePath

from ..errors import BadInput, FileError, InvalidOutputName
from ..host import Host
from ..model import FOLDER_ALIASES, MODEL_SUFFIXES

_MAX_NAME_BYTES = 200
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
# Whether the system can tell who this process acts as.
_EFFECTIVE = os.access in os.supports_effective_ids
_FORBIDDEN = frozenset('<>:"|?*/\\')


def target_path(host: Host, folder_type: str, name: str, needed_bytes: int = 0) -> Path:
    """Return the file to make for a model of this kind: there is nothing there that it would change.

    Args:
        host: says where its folders are.
        folder_type: such as ``diffusion_models``; older names such as ``unet`` are understood.
        name: a plain file name with the suffix of a model.
        needed_bytes: the first folder with so much room is taken.

    Raises:
        InvalidOutputName: the name is no plain one.
        BadInput: there is no such folder.
        FileError: nobody may write there.
    """
    name = checked_name(name)
    wanted = FOLDER_ALIASES.get(folder_type, folder_type)
    places = [
        folder.path for folder in host.folders() if FOLDER_ALIASES.get(folder.type, folder.type) == wanted
    ]
    if not places:
        known = ", ".join(sorted({folder.type for folder in host.folders()})) or "none"
        raise BadInput(
            f"There is no model folder {folder_type[:80]!r}.",
            f"Use one of: {known}; or name the file to make.",
        )
    # ComfyUI names models/unet before models/diffusion_models, where people look for it today.
    places.sort(key=lambda place: place.name in FOLDER_ALIASES)
    writable = [place for place in places if _may_write(place)]
    if not writable:
        raise FileError(
            f"Nobody may write into {places[0]}.", "Check who may write there, or name the file to make."
        )
    for place in places:
        if (place / name).is_file():  # it is there already, or has to be told apart from what is
            return place / name
    return next((p for p in writable if _free(p) >= needed_bytes), writable[0]) / name


def checked_name(name: str, suffixes: frozenset[str] = MODEL_SUFFIXES) -> str:
    """Return a plain file name as it is.

    Raises:
        InvalidOutputName: it has folders, control characters or a reserved word in it, or no model's suffix.
    """
    problem = _name_problem(name, suffixes)
    if problem:
        raise InvalidOutputName(
            f"{name[:120]!r} cannot be the name of a model file: {problem}.",
            "Give a plain name such as model.safetensors.",
        )
    return name


def _name_problem(name: str, suffixes: frozenset[str]) -> str:
    if not name or name != name.strip() or name.startswith(".") or name.endswith("."):
        return "it is empty, or begins or ends with a dot or a space"
    if any(character in _FORBIDDEN or not character.isprintable() for character in name):
        return "it has folders or characters in it that not every system can write"
    if _RESERVED.fullmatch(name):
        return "Windows keeps that name for a device"
    try:
        length = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        return "it has half a character in it"
    if length > _MAX_NAME_BYTES:
        return f"it is longer than {_MAX_NAME_BYTES} bytes"
    if PurePath(name).suffix.lower() not in suffixes:
        return f"it does not end with {' or '.join(sorted(suffixes))}"
    return ""


def _may_write(folder: Path) -> bool:
    for place in (folder, *folder.parents):
        if os.path.lexists(place):
            return os.path.isdir(place) and os.access(place, os.W_OK | os.X_OK, effective_ids=_EFFECTIVE)
    return False


def _free(folder: Path) -> int:
    return free_bytes(folder) or 0


def free_bytes(folder: Path) -> int | None:
    """Return what is free on the disk of a folder that may not be made yet, None when nobody can tell."""
    for place in (folder, *folder.parents):
        try:
            return shutil.disk_usage(place).free
        except OSError:
            continue
    return None


def device_of(folder: Path) -> int | None:
    """Return which disk a folder is on that may not be made yet."""
    for place in (folder, *folder.parents):
        try:
            return os.stat(place).st_dev
        except OSError:
            continue
    return None
