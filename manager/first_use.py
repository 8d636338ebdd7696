"""A model that somebody asks for and that is not here: what to say, and fetching it where that is allowed.

Only addresses count that a person registered or wrote down, or that ComfyUI's templates name; what a
workflow says about itself is a stranger's word, and the panel asks before it is followed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from .errors import ModelMissing, ModelNotFound
from .host import Host
from .library import Library
from .remote.address import shown

if TYPE_CHECKING:
    from .download.model import DownloadRequest
    from .download.service import Downloads
    from .needs.service import Needs

log = logging.getLogger("managed_models.first_use")
Found = TypeVar("Found")


class FirstUse:
    """Finds models, and brings those that are absent when a person allowed it.

    Args:
        host: sees progress, and may stop a download.
        library: knows what is here and what people registered.
        needs: knows where a model can be had.
        downloads: gets it.
        allowed: whether a person allowed it.
    """

    def __init__(
        self,
        host: Host,
        library: Library,
        needs: Needs,
        downloads: Downloads,
        allowed: Callable[[], bool],
    ) -> None:
        self._host = host
        self._library = library
        self._needs = needs
        self._downloads = downloads
        self._allowed = allowed

    def find(
        self, find: Callable[[], Found], name: str, folders: Sequence[str] | None = None, version: str = ""
    ) -> Found:
        """Return what ``find`` finds; what is absent is fetched first, where that is allowed.

        Args:
            find: a look-up by ``name`` in ``folders``.

        Raises:
            ModelMissing: it could be fetched, and nobody allowed that.
            ManagedModelsError: whatever ``find`` raises, or the download.
        """
        try:
            return find()
        except ModelNotFound as error:
            request = self._request(name, folders, version)
            if request is None:
                raise
            if not self._allowed():
                raise _missing(name, request) from error
            self._host.throw_if_cancelled()
            log.info("%s is not here: fetching it from %s", name, shown(request.url))
            self._downloads.fetch(request, self._host)
            return find()

    def check(
        self, find: Callable[[], object], name: str, folders: Sequence[str] | None = None, version: str = ""
    ) -> bool:
        """Return whether ``find`` finds the model now; False when it would be fetched first.

        Asks nothing of the network.

        Raises:
            ModelMissing: it could be fetched, and nobody allowed that.
            ManagedModelsError: whatever ``find`` raises, or why its host may not be asked.
        """
        try:
            find()
            return True
        except ModelNotFound as error:
            request = self._request(name, folders, version)
            if request is None:
                raise
            if not self._allowed():
                raise _missing(name, request) from error
            self._downloads.check(request)
            return False

    def _request(self, name: str, folders: Sequence[str] | None, version: str) -> DownloadRequest | None:
        """Return the download that would bring it, None when nobody knows one."""
        from .download.model import DownloadRequest  # with requests, which the start need not wait for

        info = self._library.registered(name, version)
        if info is not None:
            if not info.url or info.file_path == Path() or info.file_path.exists():
                return None
            folder = next(
                (f.type for f in self._host.folders() if f.path in info.file_path.absolute().parents), ""
            )
            if folders is not None and folder and folder not in folders:
                return None
            return DownloadRequest(info.url, info.file_path, folder, info.sha256)
        folder, _, entries = self._needs.addresses(name, folders or self._host.folder_types())
        if version or not entries:
            return None
        return self._needs.request(folder, entries[0])


def _missing(name: str, request: DownloadRequest) -> ModelMissing:
    from .words.needs import missing_words

    facts = {"name": name, "file": request.target.name, "folder": request.folder, "url": shown(request.url)}
    return ModelMissing(*missing_words(facts), **facts)
