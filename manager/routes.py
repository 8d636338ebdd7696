"""The HTTP door: the panel's page and ``--server`` of the command line talk to these routes."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

from aiohttp import web

from . import __version__
from .errors import BadInput, HostBusy, ManagedModelsError, ModelNotFound
from .manager import AdvancedModelManager
from .memory import UnloadResult
from .report import render_check, render_memory
from .route_guard import guard_read, guard_write

PREFIX = "/managed-models"
# Sent in place of paths, and good for this process only.
_SECRET = secrets.token_bytes(16)


def add_routes(table: web.RouteTableDef, get_manager: Callable[[], AdvancedModelManager]) -> None:
    """Add every route to ``table``; the manager is asked for when the first request comes."""
    routes = Routes(get_manager)
    table.get(f"{PREFIX}/status")(guard_read(routes.status))
    table.get(f"{PREFIX}/models")(guard_read(routes.models))
    table.get(f"{PREFIX}/memory")(guard_read(routes.memory))
    table.post(f"{PREFIX}/check")(guard_write(routes.check))
    table.post(f"{PREFIX}/unload")(guard_write(routes.unload))


class Routes:
    """The handlers. Whatever may wait for a disk or a lock runs in a worker thread."""

    def __init__(self, get_manager: Callable[[], AdvancedModelManager]) -> None:
        self._get_manager = get_manager

    async def status(self, request: web.Request) -> web.Response:
        """Versions, memory and loaded models: what the panel shows live."""
        return await self._answer(self._status)

    async def models(self, request: web.Request) -> web.Response:
        """Every model file with its version and a newer one that is registered."""
        return await self._answer(self._models)

    async def memory(self, request: web.Request) -> web.Response:
        """The memory report with its words."""
        return await self._answer(self._memory)

    async def check(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        """The verdict on one model of the model folders: ``{"model": name}``."""
        name = body.get("model")
        return await self._answer(lambda: self._check(name))

    async def unload(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        """Take one model out of the device's memory, ``{"id": ...}``, or all, ``{"all": true}``."""
        return await self._answer(lambda: self._unload(body))

    async def _answer(self, work: Callable[[], dict[str, Any]]) -> web.Response:
        try:
            return web.json_response(await asyncio.to_thread(work))
        except ManagedModelsError as error:
            status = 409 if isinstance(error, HostBusy) else 404 if isinstance(error, ModelNotFound) else 400
            return web.json_response({"error": error.to_dict()}, status=status)

    def _status(self) -> dict[str, Any]:
        manager = self._get_manager()
        report = manager.get_memory_report()
        return {
            "version": __version__,
            "system": manager.get_system_info(),
            "memory": {**report, "models": [_public(model) for model in report["models"]]},
        }

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

    def _memory(self) -> dict[str, Any]:
        report = self._get_manager().get_memory_report()
        details = {**report, "models": [_public(model) for model in report["models"]]}
        return {"details": details, "report": render_memory(details)}

    def _check(self, name: Any) -> dict[str, Any]:
        if not isinstance(name, str):
            raise BadInput(f"model is {name!r}.", "Send the name of a model file as text.")
        manager = self._get_manager()
        details = manager.check_file(manager.library.find(name)).to_dict()
        return {"details": details, "report": render_check(details)}

    def _unload(self, body: dict[str, Any]) -> dict[str, Any]:
        manager = self._get_manager()
        vram_only = body.get("vram_only", False)
        if not isinstance(vram_only, bool):
            raise BadInput(f"vram_only is {vram_only!r}.", "Send true or false.")
        if body.get("all") is True:
            if vram_only:
                return _unloaded(manager.unload([m.id for m in manager.host.resident()], vram_only=True))
            manager.unload_all()
            return {"freed_bytes": None, "ram_bytes": None, "still_in_ram_bytes": None, "scheduled": True}
        wanted = body.get("id")
        if not isinstance(wanted, str):
            raise BadInput("No model was named.", 'Send {"id": ...} from the status, or {"all": true}.')
        if all(model.id != wanted for model in manager.host.resident()):
            raise ModelNotFound("That model is not in memory any more.", "Look at the list again.")
        return _unloaded(manager.unload([wanted], vram_only))


def _unloaded(result: UnloadResult) -> dict[str, Any]:
    return {
        "freed_bytes": result.vram_bytes,
        "ram_bytes": result.ram_bytes,
        "still_in_ram_bytes": result.still_in_ram_bytes,
        "scheduled": False,
    }


def opaque_id(path: Path) -> str:
    """Return a name for a file that says nothing about where it is."""
    return blake2b(str(path).encode(), digest_size=12, key=_SECRET).hexdigest()


def _public(model: dict[str, Any]) -> dict[str, Any]:
    """Return a resident model without its path."""
    return {key: value for key, value in model.items() if key != "path"}


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
