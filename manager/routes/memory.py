"""Memory over HTTP: what it holds, and letting go of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from aiohttp import web

from .. import __version__
from ..errors import BadInput, ModelNotFound
from ..loaded import LoadedModel, find_loaded, is_clearing, loaded_models, wait_until_gone
from ..manager import AdvancedModelManager
from ..memory import UnloadResult
from ..report import memory_notices, render_memory, render_pin, render_unload
from ..route_guard import guard_read, guard_write
from .answers import PREFIX, answer


class MemoryRoutes:
    """The handlers of memory, and of the settings that concern it."""

    def __init__(self, get_manager: Callable[[], AdvancedModelManager]) -> None:
        self._get_manager = get_manager

    def add_to(self, table: web.RouteTableDef) -> None:
        """Add every route to ``table``."""
        table.get(f"{PREFIX}/status")(guard_read(self.status))
        table.get(f"{PREFIX}/memory")(guard_read(self.memory))
        table.post(f"{PREFIX}/unload")(guard_write(self.unload))
        table.post(f"{PREFIX}/pin")(guard_write(self.pin))
        table.post(f"{PREFIX}/settings")(guard_write(self.settings))

    async def status(self, request: web.Request) -> web.Response:
        """Versions, memory and loaded models: what the panel shows live."""
        return await answer(self._status)

    async def memory(self, request: web.Request) -> web.Response:
        """The memory report with its words."""
        return await answer(self._memory)

    async def unload(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        """Take one model out of memory, ``{"id"}`` or ``{"model": name}``, or all, ``{"all": true}``.

        ``{"vram_only": true}`` leaves it in RAM.
        """
        return await answer(lambda: self._unload(body))

    async def pin(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        """Keep a model, ``{"id"}`` or ``{"model": name}``, until ``{"pinned": false}``."""
        return await answer(lambda: self._pin(body))

    async def settings(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        """Apply settings of memory from now on: fields of the config by name."""
        return await answer(lambda: self._settings(body))

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

    def _memory(self) -> dict[str, Any]:
        details = _memory_details(self._get_manager())
        return {"details": details, "report": render_memory(details)}

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
            "scheduled": bool(left) and is_clearing(manager.host),
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


def _public(model: dict[str, Any]) -> dict[str, Any]:
    """Return a resident model without its path."""
    return {key: value for key, value in model.items() if key != "path"}
