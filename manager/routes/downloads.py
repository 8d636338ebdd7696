"""Downloads over HTTP: the list, new ones, and changes to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from aiohttp import web

from ..errors import BadInput
from ..manager import AdvancedModelManager
from ..route_guard import guard_read, guard_write
from .answers import PREFIX, answer

if TYPE_CHECKING:
    from ..download.model import DownloadState
    from ..download.service import Downloads


class DownloadRoutes:
    """The handlers of downloads. No secret and no path goes out."""

    def __init__(self, get_manager: Callable[[], AdvancedModelManager]) -> None:
        self._get_manager = get_manager

    def add_to(self, table: web.RouteTableDef) -> None:
        """Add every route to ``table``."""
        table.get(f"{PREFIX}/downloads")(guard_read(self.downloads))
        table.post(f"{PREFIX}/download")(guard_write(self.download))
        table.post(f"{PREFIX}/download/pause")(guard_write(self.pause))
        table.post(f"{PREFIX}/download/resume")(guard_write(self.resume))
        table.post(f"{PREFIX}/download/cancel")(guard_write(self.cancel))

    async def downloads(self, request: web.Request) -> web.Response:
        """Every download, unfinished ones of earlier runs included, with words."""
        return await answer(self._states)

    async def download(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        """Queue one: ``{"url", "folder", "name", "sha256"}``; the last two may be left out.

        Only hosts of the settings are asked, and only files that no code can hide in are taken.
        """
        return await answer(lambda: self._start(body))

    async def pause(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        """Stop ``{"id"}`` and keep what has arrived."""
        return await answer(lambda: self._change(body, lambda downloads, id: downloads.pause(id)))

    async def resume(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        """Go on with ``{"id"}``."""
        return await answer(lambda: self._change(body, lambda downloads, id: downloads.resume(id)))

    async def cancel(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        """Stop ``{"id"}`` and remove what has arrived."""
        return await answer(lambda: self._change(body, lambda downloads, id: downloads.cancel(id)))

    def _states(self) -> dict[str, Any]:
        from ..words.download import render_downloads

        states = [state.to_dict() for state in self._get_manager().downloads.states()]
        return {"downloads": states, "report": render_downloads(states)}

    def _start(self, body: Mapping[str, Any]) -> dict[str, Any]:
        from ..download.model import DownloadRequest
        from ..download.naming import name_at
        from ..download.target import target_path

        url, folder = _text(body, "url"), _text(body, "folder")
        name, sha256 = _text(body, "name", ""), _text(body, "sha256", "")
        manager = self._get_manager()
        name = name or name_at(url, manager.downloads.reach(DownloadRequest(url, Path("unnamed"))))
        refuse_code(name)
        target = target_path(manager.host, folder, name)
        return {"download": manager.downloads.start(DownloadRequest(url, target, folder, sha256)).to_dict()}

    def _change(
        self, body: Mapping[str, Any], change: Callable[[Downloads, str], DownloadState]
    ) -> dict[str, Any]:
        return {"download": change(self._get_manager().downloads, _text(body, "id")).to_dict()}


def refuse_code(name: str) -> None:
    """Refuse files that a page must not bring here: pickles can run code when they are opened.

    Raises:
        BadInput: the name is of one.
    """
    from ..download.content import SAFE_SUFFIXES

    if PurePath(name).suffix.lower() not in SAFE_SUFFIXES:
        raise BadInput(
            f"{name[:120]} is of a kind that can run code when it is opened.",
            f"Take a file that ends with {', '.join(sorted(SAFE_SUFFIXES))}, or download it with the command "
            "line.",
        )


def _text(body: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = body.get(key, default)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise BadInput(f"{key} is {value!r}.", f"Send {key} as text.")
    return value
