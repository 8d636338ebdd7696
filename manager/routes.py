"""The HTTP door: the panel's page and ``--server`` of the command line talk to these routes."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from aiohttp import web

from . import __version__
from .checking import options_from
from .errors import BadInput, HostBusy, ManagedModelsError, ModelNotFound
from .loaded import LoadedModel, find_loaded, loaded_models, wait_until_gone
from .manager import AdvancedModelManager
from .memory import UnloadResult
from .remote.address import is_address, shown
from .report import (
    memory_notices,
    render_check,
    render_memory,
    render_pair,
    render_pin,
    render_unload,
)
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
    table.post(f"{PREFIX}/pair")(guard_write(routes.pair))
    table.post(f"{PREFIX}/unload")(guard_write(routes.unload))
    table.post(f"{PREFIX}/pin")(guard_write(routes.pin))
    table.post(f"{PREFIX}/settings")(guard_write(routes.settings))


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
        """The verdict on one model of the model folders, never on an address: ``{"model": name}``.

        What it is wanted for goes beside it: width, height, length, batch_size, weight_dtype, and the
        names of second_model, clip, vae and lora.
        """
        return await self._answer(lambda: self._check(body))

    async def pair(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        """Whether files of the model folders belong together: ``{"model": name, "others": [name, ...]}``."""
        return await self._answer(lambda: self._pair(body))

    async def unload(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        """Take one model out of memory, ``{"id"}`` or ``{"model": name}``, or all, ``{"all": true}``.

        ``{"vram_only": true}`` leaves it in RAM.
        """
        return await self._answer(lambda: self._unload(body))

    async def pin(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        """Keep a model, ``{"id"}`` or ``{"model": name}``, until ``{"pinned": false}``."""
        return await self._answer(lambda: self._pin(body))

    async def settings(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        """Apply settings of memory from now on: fields of the config by name."""
        return await self._answer(lambda: self._settings(body))

    async def _answer(self, work: Callable[[], dict[str, Any]]) -> web.Response:
        try:
            return web.json_response(await asyncio.to_thread(work))
        except ManagedModelsError as error:
            status = 409 if isinstance(error, HostBusy) else 404 if isinstance(error, ModelNotFound) else 400
            return web.json_response({"error": error.to_dict()}, status=status)

    def _status(self) -> dict[str, Any]:
        manager = self._get_manager()
        manager.monitor.watch()
        details = _memory_details(manager)
        return {
            "version": __version__,
            "system": manager.get_system_info(),
            "sharing": manager.sharing.words,
            "memory": {
                **details,
                "loaded": [model.to_dict() for model in loaded_models(manager.host, manager.pool)],
                "notices": memory_notices(details),
            },
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
        details = _memory_details(self._get_manager())
        return {"details": details, "report": render_memory(details)}

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

    def _settings(self, body: dict[str, Any]) -> dict[str, Any]:
        manager = self._get_manager()
        manager.change_settings(**body)
        return {"sharing": manager.sharing.words}

    def _unload(self, body: dict[str, Any]) -> dict[str, Any]:
        manager = self._get_manager()
        vram_only = body.get("vram_only", False)
        if not isinstance(vram_only, bool):
            raise BadInput(f"vram_only is {vram_only!r}.", "Send true or false.")
        if body.get("all") is True:
            facts = self._unload_all(manager, vram_only)
        else:
            found = _wanted(manager, body)
            result = manager.unload(_ids(found), vram_only)
            facts = {
                "title": found[0].title,
                "models": len(found),
                **_figures(result),
                "scheduled": False,
            }
        facts["vram_only"] = vram_only
        return {**facts, "report": render_unload(facts)}

    def _unload_all(self, manager: AdvancedModelManager, vram_only: bool) -> dict[str, Any]:
        before = loaded_models(manager.host, manager.pool)
        left: list[LoadedModel] = []
        if vram_only:
            figures = _figures(manager.unload(_ids(before), vram_only=True))
        else:
            manager.unload_all()
            left = wait_until_gone(manager.host, manager.pool)
            still = sum(model.ram_bytes for model in left)
            figures = {
                "freed_bytes": sum(m.loaded_bytes for m in before) - sum(m.loaded_bytes for m in left),
                "ram_bytes": max(0, sum(m.ram_bytes for m in before) - still),
                "still_in_ram_bytes": still,
            }
        return {
            "title": None,
            "models": len(before),
            **figures,
            "scheduled": bool(left and manager.host.running()),
        }

    def _pin(self, body: dict[str, Any]) -> dict[str, Any]:
        manager = self._get_manager()
        pinned = body.get("pinned")
        if not isinstance(pinned, bool):
            raise BadInput(f"pinned is {pinned!r}.", "Send true or false.")
        path = _path_to_pin(manager, body)
        manager.pin_model(str(path), pinned)
        in_memory = any(path in model.paths for model in manager.pool.models())
        facts = {"title": path.stem, "pinned": pinned, "in_memory": in_memory}
        return {**facts, "report": render_pin(facts)}


def _wanted(manager: AdvancedModelManager, body: dict[str, Any]) -> list[LoadedModel]:
    """Return what a request names; more than one where a file is in memory several times."""
    name = body.get("model")
    if isinstance(name, str):
        return find_loaded(name, loaded_models(manager.host, manager.pool), manager.library)
    wanted = body.get("id")
    if not isinstance(wanted, str):
        raise BadInput(
            "No model was named.", 'Send {"id": ...} from the status, or {"model": its file name}.'
        )
    found = [model for model in loaded_models(manager.host, manager.pool) if wanted in model.ids]
    if found:
        return found
    raise ModelNotFound("That model is not in memory any more.", "Look at the list again.")


def _path_to_pin(manager: AdvancedModelManager, body: dict[str, Any]) -> Path:
    """Return the file that a request names; by name it need not be in memory."""
    name = body.get("model")
    if isinstance(name, str):
        try:
            return manager.library.find(name).path
        except ModelNotFound:  # a title, then
            pass
    paths = _wanted(manager, body)[0].paths
    if not paths:
        raise BadInput(
            "Nobody recorded which file that model was loaded from, so it cannot be pinned.",
            "Load it with LoadManagedModel, and pin that.",
        )
    return paths[0]


def _memory_details(manager: AdvancedModelManager) -> dict[str, Any]:
    """Return the memory report without paths."""
    report = manager.get_memory_report()
    return {**report, "models": [_public(model) for model in report["models"]]}


def _ids(models: Iterable[LoadedModel]) -> list[str]:
    return [id for model in models for id in model.ids]


def _figures(result: UnloadResult) -> dict[str, Any]:
    return {
        "freed_bytes": result.vram_bytes,
        "ram_bytes": result.ram_bytes,
        "still_in_ram_bytes": result.still_in_ram_bytes,
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
