"""Connects the pool with ComfyUI's life: prompts, sampling, stock loaders, and requests for memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import comfy.cli_args
import comfy.model_management as mm
from aiohttp import web
from server import PromptServer

from ..manager import AdvancedModelManager
from ..sharing import Sharing, decide_sharing

log = logging.getLogger("managed_models.sharing")


class Residency:
    """What happens to the pool while ComfyUI runs.

    Args:
        manager: whose pool it is.
        adopter: the host, which turns a stock loader's model into a base of ours.
    """

    def __init__(self, manager: AdvancedModelManager, adopter: Any) -> None:
        self._manager = manager
        self._bridge = self._make_bridge(adopter)
        self._connected = False
        self._words = ""

    def start(self, setting: str) -> Sharing:
        """Begin: the threads that let go of idle models and look at memory, and sharing if it is to be."""
        self._manager.keeper.start()
        self._manager.monitor.start()
        return self.apply(setting)

    def apply(self, setting: str) -> Sharing:
        """Share with stock loaders or not, from now on; says in the log when that changes."""
        decision = decide_sharing(
            setting,
            "cpu" if mm.is_device_cpu(mm.get_torch_device()) else mm.get_torch_device().type,
            self._bridge is not None,
            bool(comfy.cli_args.args.cache_none),
        )
        if decision.words != self._words:
            log.info("%s", decision.words)
        if self._bridge is not None and decision.active != self._connected:
            (self._bridge.connect if decision.active else self._bridge.disconnect)()
            self._connected = decision.active
        self._words = decision.words
        return decision

    def prompt_started(self, prompt_id: str) -> None:
        self._manager.keeper.prompt_started()
        self._manager.monitor.prompt_started(prompt_id)

    def prompt_ended(self, prompt_id: str) -> None:
        self._manager.pool.prompt_ended(prompt_id)
        self._manager.pool.sweep()
        self._manager.monitor.prompt_ended(prompt_id)

    def sampling_started(self, model_ids: list[str], shape: tuple[int, ...]) -> None:
        self._manager.pool.touch(model_ids)
        self._manager.monitor.sampling_started(model_ids, shape)

    def sampling_ended(self, model_ids: list[str]) -> None:
        self._manager.pool.touch(model_ids)
        self._manager.monitor.sampling_ended(model_ids)

    def _make_bridge(self, adopter: Any) -> Any:
        try:
            from .bridge import StockLoaderBridge
        except ImportError:  # before ComfyUI 0.33
            return None
        return StockLoaderBridge(self._manager.pool, adopter, self)


def notice_free_requests(get_manager: Callable[[], AdvancedModelManager]) -> None:
    """Empty the pool when somebody asks ComfyUI to free models and node cache.

    ComfyUI tells no extension of it, so we look at the request on its way.
    """

    @web.middleware
    async def look(request: web.Request, handler: Any) -> web.StreamResponse:
        response: web.StreamResponse = await handler(request)
        if request.method == "POST" and request.path in ("/free", "/api/free") and response.status == 200:
            asked = await request.json()
            if isinstance(asked, dict) and asked.get("free_memory"):
                get_manager().keeper.empty()
        return response

    PromptServer.instance.app.middlewares.append(look)
