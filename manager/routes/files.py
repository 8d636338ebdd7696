"""Model files over HTTP: the list, and verdicts on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from ..checking import options_from
from ..errors import BadInput
from ..manager import AdvancedModelManager
from ..remote.address import is_address, shown
from ..report import render_check, render_pair
from ..route_guard import guard_read, guard_write
from .answers import PREFIX, answer, opaque_id


class FileRoutes:
    """The handlers of model files."""

    def __init__(self, get_manager: Callable[[], AdvancedModelManager]) -> None:
        self._get_manager = get_manager

    def add_to(self, table: web.RouteTableDef) -> None:
        """Add every route to ``table``."""
        table.get(f"{PREFIX}/models")(guard_read(self.models))
        table.post(f"{PREFIX}/check")(guard_write(self.check))
        table.post(f"{PREFIX}/pair")(guard_write(self.pair))

    async def models(self, request: web.Request) -> web.Response:
        """Every model file with its version and a newer one that is registered."""
        return await answer(self._models)

    async def check(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        """The verdict on one model of the model folders, never on an address: ``{"model": name}``.

        What it is wanted for goes beside it: width, height, length, batch_size, weight_dtype, and the
        names of second_model, clip, vae and lora.
        """
        return await answer(lambda: self._check(body))

    async def pair(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        """Whether files of the model folders belong together: ``{"model": name, "others": [name, ...]}``."""
        return await answer(lambda: self._pair(body))

    def _models(self) -> dict[str, Any]:
        manager = self._get_manager()
        known = manager.registry.active_by_path()
        rows = []
        for file in manager.library.files():
            info = known.get(str(file.path))
            rows.append(
                {
                    "id": opaque_id(file.path),
                    "name": file.name,
                    "folder": file.folder,
                    "size_bytes": _size(file.path),
                    "version": info.version if info else None,
                    "upgrade": manager.suggest_model_upgrade(info.name) if info else None,
                }
            )
        return {"models": rows}

    def _check(self, body: Mapping[str, Any]) -> dict[str, Any]:
        name = body.get("model")
        if not isinstance(name, str):
            raise BadInput(f"model is {name!r}.", "Send the name of a model file as text.")
        if is_address(name):
            raise BadInput(
                f"{shown(name)} is an address, and this route takes names of files that ComfyUI has.",
                "Check it on the command line, or with the url of the CheckCompatibility node.",
            )
        manager = self._get_manager()
        options = options_from(body, lambda wanted, folders: manager.library.find(wanted, folders).path)
        details = manager.check_file(manager.library.find(name), options).to_dict()
        return {"details": details, "report": render_check(details)}

    def _pair(self, body: Mapping[str, Any]) -> dict[str, Any]:
        model, others = body.get("model"), body.get("others")
        if not isinstance(others, list) or not others:
            raise BadInput(f"others is {others!r}.", "Send a list of the names of model files.")
        for name in (model, *others):
            if not isinstance(name, str):
                raise BadInput(f"{name!r} is no name.", "Send the names of model files as text.")
        manager = self._get_manager()
        model_path, *paths = (manager.library.find(name).path for name in (model, *others))
        details = manager.pairing.pair(model_path, paths)
        return {"details": details, "report": render_pair(details)}


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
