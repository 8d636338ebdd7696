"""What the loader nodes share: their common inputs, and how they find and watch files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from comfy_api.latest import io

from ..manager.comfy_host import get_manager
from ..manager.config import parse_duration
from ..manager.errors import ManagedModelsError
from ..manager.files import FileIdentity
from ..manager.host import DEFAULT, ModelFile
from ..manager.library import model_links
from ..manager.replaced import ReplacedFiles
from .common import make_input

KEEP_ALIVE = "5m"
_replaced = ReplacedFiles()


def device_input() -> Any:
    return make_input(
        io.Combo,
        "device",
        options=[DEFAULT, *get_manager().host.devices()],
        default=DEFAULT,
        optional=True,
        advanced=True,
        tooltip="Where the model runs. default: as ComfyUI's own loader chooses, or the card with room.",
    )


def keep_alive_input() -> Any:
    return make_input(
        io.String,
        "keep_alive",
        default=KEEP_ALIVE,
        optional=True,
        advanced=True,
        tooltip="How long the model stays in memory after its last use: 0, 30s, 5m, 1h or forever. "
        "When several nodes differ, the longest counts.",
    )


def refusal(names: Iterable[str | None], folders: Sequence[str], keep_alive: str | None) -> str | None:
    """Return why these names or this time cannot be used, None when they can; None comes over a link."""
    try:
        for name in names:
            if name is not None:
                get_manager().library.find(name, folders)
        if keep_alive is not None:
            parse_duration(keep_alive)
    except ManagedModelsError as error:
        return str(error)
    return None


def fingerprint(files: Iterable[ModelFile] | None) -> Any:
    """Return what changes when one of the files does; of names that come over a link, any file's change."""
    if files is None:
        return _replaced.generation()
    return "|".join(FileIdentity.of(file.path).key for file in files)


def watch(files: Iterable[ModelFile]) -> None:
    """Notice when these files are replaced, also where their names come over a link."""
    for file in files:
        _replaced.remember(file.path)


def links(files: Iterable[ModelFile]) -> list[dict[str, str]]:
    """Return what ComfyUI's missing-models dialog needs to name these files."""
    known = get_manager().registry.active_by_path()
    return [link for file in files for link in model_links(file, known.get(str(file.path)))]
