"""What becomes known with a file that has arrived, and downloads of registered models."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

from ..errors import BadInput, ManagedModelsError, ModelNotFound
from ..files import FileIdentity
from ..host import Host
from ..library import Library
from ..model import FOLDER_TYPES, ModelInfo
from ..registry import Registry
from ..registry.files import Source
from ..remote.address import parse_address
from .model import DownloadRequest, Outcome
from .service import Downloads
from .target import target_path


class Arrivals:
    """Writes down where files came from and what they are.

    Args:
        library: reads the header once, so that nobody waits for it later.
        registry: keeps source and hash.
        defer: runs a write that nobody waits for.
    """

    def __init__(
        self, library: Library, registry: Registry, defer: Callable[[Callable[[], None]], None]
    ) -> None:
        self._library = library
        self._registry = registry
        self._defer = defer

    def record(self, request: DownloadRequest, outcome: Outcome) -> None:
        """Record one file; nothing is registered that nobody registered."""
        file = FileIdentity.of(outcome.path)
        source = Source(outcome.url, outcome.sha256, outcome.etag, time.time())
        if outcome.fetched:
            self._defer(lambda: self._registry.put_source(file, source))
        self._defer(lambda: self._registry.put_sha256(file, outcome.sha256))
        try:
            self._library.identity(outcome.path)
        except ManagedModelsError:  # a pickle, which nobody reads
            pass


class _Progress:
    """A watch that calls a function."""

    def __init__(self, progress: Callable[[int, int], None] | None, host: Host) -> None:
        self._progress = progress
        self._host = host

    def throw_if_cancelled(self) -> None:
        self._host.throw_if_cancelled()

    def progress(self, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(done, total)
        else:
            self._host.progress(done, total)


def download_registered(
    host: Host,
    registry: Registry,
    downloads: Downloads,
    name: str,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Get the file of a registered model, into the place that was registered for it.

    Args:
        progress: called with bytes done and bytes in all; the host's own when None.

    Raises:
        ModelNotFound: nothing of that name is registered.
        BadInput: it has no address.
        ManagedModelsError: see :meth:`Downloads.fetch`.
    """
    info = registry.get(name)
    if info is None:
        raise ModelNotFound(f"Model {name!r} is not registered.", "Register it with its url first.")
    if not info.url:
        raise BadInput(f"{name} was registered without an address.", "Register it again, with its url.")
    target = _target(host, info)
    request = DownloadRequest(info.url, target, _folder(info), info.sha256)
    path = downloads.fetch(request, _Progress(progress, host))
    measured = info.sha256 or registry.sha256(FileIdentity.of(path))
    registry.put(dataclasses.replace(info, file_path=path, sha256=measured))
    return path


def _folder(info: ModelInfo) -> str:
    return next((folder for folder, kind in FOLDER_TYPES.items() if kind is info.model_type), "")


def _target(host: Host, info: ModelInfo) -> Path:
    if info.file_path != Path():
        return info.file_path
    name = parse_address(info.url or "", allow_local=True).name
    return target_path(host, _folder(info), name)
