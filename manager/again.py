"""Getting a damaged file once more, from where it came; it stays until the new one is whole."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .catalogue import Catalogue
from .errors import ModelNotFound
from .files import FileIdentity
from .host import ModelFile
from .library import Library
from .registry import Registry

if TYPE_CHECKING:
    from .download.model import DownloadRequest, DownloadState, Outcome
    from .download.service import Downloads

    Record = Callable[[DownloadRequest, Outcome], None]

# Behind a dot, which no name begins with that a workflow, a page or a person may give to a download.
_MARK = ".fetched-again"
log = logging.getLogger("managed_models.again")


class FetchAgain:
    """Fetches files that are here already, and puts the new one in the old one's place.

    The new one comes under a name of its own, which says what it is for: it takes its place whenever it
    is whole, also when its download was paused, or went on after a restart.

    Args:
        library, registry: know where a file came from, and what people said.
        catalogue: knows other addresses.
        downloads: gets it.
    """

    def __init__(
        self,
        library: Library,
        registry: Registry,
        catalogue: Catalogue,
        downloads: Callable[[], Downloads],
    ) -> None:
        self._library = library
        self._registry = registry
        self._catalogue = catalogue
        self._downloads = downloads

    def start(self, folder: str, name: str) -> DownloadState:
        """Begin to fetch a file of the model folders again; it is replaced when the new one is whole.

        Raises:
            ModelNotFound: it is not here, or nobody knows where it came from.
            ManagedModelsError: the download may not begin.
        """
        file = self._library.find(f"{folder}/{name}", [folder])
        return self._downloads().start(self._request(file))

    def recording(self, record: Record) -> Record:
        """Return what to call with each file that has come: ``record``, then the change of places."""

        def recorded(request: DownloadRequest, outcome: Outcome) -> None:
            record(request, outcome)
            path = replaced_path(outcome.path)
            if path is not None and path.is_file():
                self._replace(outcome.path, path)

        return recorded

    def _request(self, file: ModelFile) -> DownloadRequest:
        from .download.model import DownloadRequest  # with requests, which the start need not wait for

        url, sha256 = self._source(file)
        beside = file.path.with_name(f".{file.path.stem}{_MARK}{file.path.suffix}")
        return DownloadRequest(url, beside, file.folder, sha256)

    def _source(self, file: ModelFile) -> tuple[str, str | None]:
        info = self._library.info_of(file.path)
        if info is not None and info.url:
            return info.url, info.sha256
        came = self._registry.source_of(FileIdentity.of(file.path))
        if came is not None:
            return came[1].url, came[1].sha256
        entries = self._catalogue.find(file.name, [file.folder])
        if entries:
            return entries[0].url, entries[0].sha256 or None
        raise ModelNotFound(
            f"Nobody knows where {file.name} came from.",
            "Delete it and download it anew, or write its address into the catalogue file.",
        )

    def _replace(self, new: Path, path: Path) -> None:
        """Put a file in the place of another, with what is known of it."""
        source = self._registry.source(FileIdentity.of(new))
        digest = self._registry.sha256(FileIdentity.of(new))
        os.replace(new, path)
        log.info("%s was fetched again", path.name)
        now = FileIdentity.of(path)
        if source is not None:
            self._registry.put_source(now, source)
        if digest is not None:
            self._registry.put_sha256(now, digest)


def replaced_path(path: Path) -> Path | None:
    """Return the file that ``path`` is to take the place of, None for any other file."""
    stem = path.stem.removeprefix(".").removesuffix(_MARK)
    marked = bool(stem) and path.name == f".{stem}{_MARK}{path.suffix}"
    return path.with_name(stem + path.suffix) if marked else None
