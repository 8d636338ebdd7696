"""ComfyUI's cache-provider API: its own loaders share the pool's models, and prompts announce themselves.

Nothing is stored here. An entry refers to the pool; on a lookup the node's inputs are read from the
running prompt, so that a managed and a stock loader of one file meet in one copy.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Protocol

from comfy_api.latest._caching import CacheContext, CacheProvider, CacheValue
from comfy_execution.cache_provider import register_cache_provider, unregister_cache_provider

from ..errors import ManagedModelsError
from ..host import LoadedParts, LoadRequest
from ..model import ModelType
from ..pool import ModelPool, PoolKey
from . import queue
from .linked import linked_name
from .load import describe
from .stock import STOCK_LOADERS, request_of_output, stock_request

log = logging.getLogger("managed_models.sharing")

_REMEMBERED = 256


class Adopter(Protocol):
    """Turns what a stock loader gave into a base of ours."""

    def adopt(self, request: LoadRequest, parts: LoadedParts) -> LoadedParts: ...


class PromptListener(Protocol):
    """Told on the thread that carries out the prompts; has to be quick."""

    def prompt_started(self, prompt_id: str) -> None: ...
    def prompt_ended(self, prompt_id: str) -> None: ...


class StockLoaderBridge(CacheProvider):  # type: ignore[misc]
    """Hands the pool's models to stock loaders, and takes in what they load."""

    def __init__(self, pool: ModelPool, adopter: Adopter, listener: PromptListener) -> None:
        self._pool = pool
        self._adopter = adopter
        self._listener = listener
        self._prompt: Mapping[str, Any] = {}
        self._prompt_id = ""
        # For names over a link from others' nodes: what a loader of the same ancestry loaded the last time.
        self._requests: OrderedDict[str, LoadRequest] = OrderedDict()
        self._missed: dict[str, PoolKey] = {}

    def connect(self) -> None:
        """Begin to be asked."""
        register_cache_provider(self)

    def disconnect(self) -> None:
        """Stop being asked; models that are shared stay in the pool."""
        unregister_cache_provider(self)

    def on_prompt_start(self, prompt_id: str) -> None:
        queue.remember_worker()
        item = queue.running_item()
        self._prompt_id = prompt_id
        self._prompt = item[2] if item is not None and item[1] == prompt_id else {}
        self._missed.clear()
        self._listener.prompt_started(prompt_id)

    def on_prompt_end(self, prompt_id: str) -> None:
        self._prompt = {}
        self._listener.prompt_ended(prompt_id)

    def should_cache(self, context: CacheContext, value: CacheValue | None = None) -> bool:
        """Say whether to ask :meth:`on_lookup`; with a value, a node has just been carried out.

        ComfyUI runs ``on_store`` later, when the prompt may have sampled already, but calls this at
        once on the prompt's thread: the moment to become the model's parent, and to give way.
        """
        if value is None:
            return context.class_type in STOCK_LOADERS
        if context.class_type in STOCK_LOADERS:
            self._take_in(context, value)
        self._pool.relieve()
        return False

    async def on_lookup(self, context: CacheContext) -> CacheValue | None:
        request = self._request(context)
        if request is None:
            return None
        try:
            key = PoolKey.of(request)
        except ManagedModelsError:  # the file is gone: the stock loader says so
            return None
        parts = self._pool.find(key)
        if parts is None:
            self._missed[context.node_id] = key
            return None
        return CacheValue(outputs=_outputs(request, parts))

    async def on_store(self, context: CacheContext, value: CacheValue) -> None:
        """Nothing: see :meth:`should_cache`."""

    def _take_in(self, context: CacheContext, value: CacheValue) -> None:
        parts = _parts(context.class_type, value.outputs)
        if parts is None:
            return
        request = self._request(context) or request_of_output(
            context.class_type, self._inputs(context), parts
        )
        if request is None:
            return
        try:
            key = PoolKey.of(request)
        except ManagedModelsError:
            return
        if self._missed.pop(context.node_id, key) != key:
            return  # the file was replaced while it was loaded: which of the two this is, nobody knows
        self._remember(context.cache_key_hash, request)
        base = self._adopter.adopt(request, parts)
        self._pool.adopt(key, base, parts, context.class_type)

    def _request(self, context: CacheContext) -> LoadRequest | None:
        said = stock_request(context.class_type, self._inputs(context))
        return said or self._requests.get(context.cache_key_hash)

    def _inputs(self, context: CacheContext) -> Mapping[str, Any]:
        """Return the node's inputs; empty for one that a node made while the prompt ran."""
        node = self._prompt.get(context.node_id)
        if not isinstance(node, dict) or node.get("class_type") != context.class_type:
            return {}
        return {
            name: linked_name(self._prompt_id, value) or value
            for name, value in node.get("inputs", {}).items()
        }

    def _remember(self, digest: str, request: LoadRequest) -> None:
        self._requests[digest] = request
        self._requests.move_to_end(digest)
        while len(self._requests) > _REMEMBERED:
            self._requests.popitem(last=False)


def _outputs(request: LoadRequest, parts: LoadedParts) -> list[list[Any]]:
    """Return a node's outputs as ComfyUI keeps them: one list per output."""
    if request.kind is ModelType.CHECKPOINT:
        return [[parts.model], [parts.clip], [parts.vae]]
    return [[next(part for part in (parts.model, parts.clip, parts.vae) if part is not None)]]


def _parts(class_type: str, outputs: Any) -> LoadedParts | None:
    """Return what a stock loader gave; None for what cannot be shared whole."""
    if not isinstance(outputs, list) or any(not isinstance(o, list) or len(o) != 1 for o in outputs):
        return None
    found = [output[0] for output in outputs]
    if class_type == "CheckpointLoaderSimple":
        if len(found) != 3:
            return None
        model, clip, vae = found
        if model is None or getattr(vae, "first_stage_model", None) is None:
            return None
        return describe(model, clip, vae)
    if len(found) != 1 or found[0] is None:
        return None
    if class_type == "UNETLoader":
        return describe(found[0])
    if class_type == "VAELoader":
        return describe(vae=found[0])
    return describe(clip=found[0])
