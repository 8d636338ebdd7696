"""What the loader nodes share: their common inputs, and how they find and watch files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from comfy_api.latest import io

from ..manager.comfy_host import get_manager
from ..manager.comfy_host.page import MISSING, tell_page
from ..manager.config import parse_duration
from ..manager.errors import HashUnverified, ManagedModelsError, ModelMissing, ModelNotFound
from ..manager.files import FileIdentity
from ..manager.host import DEFAULT, ModelFile
from ..manager.library import model_links
from ..manager.replaced import ReplacedFiles
from .common import make_input

KEEP_ALIVE = "5m"
Find = Callable[[str, Sequence[str]], ModelFile]
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
                check_name(name, folders)
        if keep_alive is not None:
            parse_duration(keep_alive)
    except ManagedModelsError as error:
        return str(error)
    return None


def check_name(name: str, folders: Sequence[str] | None = None) -> None:
    """Raise when a name means no file; a hash that has to be measured first is measured when the node runs.

    Validation runs on the server's loop, where nothing may take long.
    """
    manager = get_manager()
    try:
        manager.first_use.check(lambda: manager.library.find(name, folders), name, folders)
    except HashUnverified:
        pass
    except ModelMissing as error:
        tell_page(MISSING, {**error.details, "validating": True})
        raise


def find_here(name: str, folders: Sequence[str]) -> ModelFile:
    """Return the file of a name, as far as that is known without measuring or fetching anything."""
    return get_manager().library.find(name, folders)


def find_or_fetch(name: str, folders: Sequence[str], version: str = "") -> ModelFile:
    """Return the file of a name while the node runs: a hash is measured, and what is absent is fetched
    where a person allowed that.

    Raises:
        ManagedModelsError: there is no such file, or it could not be had.
    """
    manager = get_manager()
    try:
        return manager.first_use.find(
            lambda: manager.library.find(name, folders, version, manager.host), name, folders, version
        )
    except ModelMissing as error:
        tell_page(MISSING, {**error.details, "validating": False})
        raise


def fingerprint_of(find: Callable[[], Iterable[ModelFile]]) -> Any:
    """Return the fingerprint of what ``find`` finds; of what only running it finds, any file's change."""
    try:
        return fingerprint(find())
    except (HashUnverified, ModelNotFound):  # to be measured, or fetched, when the node runs
        return fingerprint(None)


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
    library = get_manager().library
    return [
        link
        for file in files
        for link in model_links(file, library.info_of(file.path), library.source_of(file.path))
    ]
