"""What memory holds right now, as one JSON-safe snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .host import Host
from .pool import ModelPool, PooledModel


@dataclass(frozen=True)
class UnloadResult:
    """What came back, in bytes; ``still_in_ram_bytes`` goes when whoever has the model lets go."""

    vram_bytes: int
    ram_bytes: int
    still_in_ram_bytes: int


def unload(host: Host, pool: ModelPool, ids: Sequence[str], vram_only: bool) -> UnloadResult:
    """Take the models with these ids out of video memory, and out of RAM unless ``vram_only``.

    Raises:
        HostBusy: a prompt is running.
    """
    freed = sum(host.unload(ids).values())
    before = _ram_of(host, ids)
    if not vram_only:
        wanted = set(ids)
        pool.release([m.key for m in pool.models() if wanted.intersection(m.ids)], "somebody unloaded it")
    left = _ram_of(host, ids)
    return UnloadResult(freed, before - left, left)


def _ram_of(host: Host, ids: Sequence[str]) -> int:
    return sum(model.ram_bytes for model in host.resident() if model.id in ids)


def memory_report(host: Host, pool: ModelPool | None = None) -> dict[str, Any]:
    """Return video memory per device, RAM, this process, and every model in memory. Bytes.

    ``models_bytes`` of a device is what the listed models hold there; ``mapped_bytes`` is the part
    of the process that maps files, which the system takes back when it needs room (None where the
    platform does not tell).
    """
    system = host.system()
    process = host.memory()
    pooled = {id: model for model in (pool.models() if pool else []) for id in model.ids}
    models = [model.to_dict() | _pool_facts(pooled.get(model.id)) for model in host.resident()]
    devices = [
        {
            "name": gpu.name,
            "backend": gpu.backend,
            "total_bytes": gpu.total_bytes,
            "free_bytes": gpu.free_bytes,
            "models_bytes": sum(m["loaded_bytes"] for m in models if _on(m["device"], gpu.backend, index)),
        }
        for index, gpu in enumerate(system.gpus)
    ]
    mapped = process.mapped_bytes
    return {
        "host": system.host,
        "devices": devices,
        "ram": {
            "total_bytes": system.total_ram_bytes,
            "available_bytes": system.available_ram_bytes,
            "process_bytes": process.rss_bytes,
            "mapped_bytes": mapped,
            "anonymous_bytes": None if mapped is None else process.rss_bytes - mapped,
        },
        "models": models,
    }


def _pool_facts(model: PooledModel | None) -> dict[str, Any]:
    """Return what the pool knows of a model; all None for one that it does not have."""
    if model is None:
        return {"pooled": False, "pinned": False, "held": None, "idle_seconds": None, "expires_in": None}
    return {
        "pooled": True,
        "pinned": model.pinned,
        "held": model.held,
        "idle_seconds": round(model.idle_seconds, 1),
        "expires_in": None if model.expires_in is None else round(model.expires_in, 1),
    }


def _on(device: str, backend: str, index: int) -> bool:
    """Tell whether torch's name of a device (``cuda:0``, ``cuda``, ``mps``) means this GPU."""
    kind, _, number = device.partition(":")
    return kind == {"rocm": "cuda"}.get(backend, backend) and int(number or 0) == index
