"""What memory holds right now, as one JSON-safe snapshot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .host import DeviceUse, Gpu, Host, ResidentModel
from .monitor import Monitor
from .pool import ModelPool, PooledModel


@dataclass(frozen=True)
class UnloadResult:
    """What came back, in bytes; ``still_in_ram_bytes`` goes when whoever has the model lets go."""

    vram_bytes: int
    ram_bytes: int
    still_in_ram_bytes: int


def unload(host: Host, pool: ModelPool, ids: Sequence[str], vram_only: bool) -> UnloadResult:
    """Take the models with these ids out of video memory, and out of RAM unless ``vram_only``.

    The pool lets go first: what nobody has then need not be copied from video memory to RAM.

    Raises:
        HostBusy: a prompt is running.
    """
    on_device, in_ram = _held(host, ids)
    if not vram_only:
        wanted = set(ids)
        pool.release([m.key for m in pool.models() if wanted.intersection(m.ids)], "somebody unloaded it")
    host.unload(ids)
    on_device_left, left = _held(host, ids)
    return UnloadResult(max(0, on_device - on_device_left), max(0, in_ram - left), left)


def _held(host: Host, ids: Sequence[str]) -> tuple[int, int]:
    """Return what these models hold on their devices and in RAM, in bytes."""
    models = [model for model in host.resident() if model.id in ids]
    return sum(model.loaded_bytes for model in models), sum(model.ram_bytes for model in models)


def memory_report(
    host: Host,
    pool: ModelPool | None = None,
    monitor: Monitor | None = None,
    history_seconds: float = 300.0,
) -> dict[str, Any]:
    """Return video memory per device, RAM, this process, every model, and the time until now. Bytes.

    ``models_bytes`` of a device is what the listed models hold there, ``torch_bytes`` what PyTorch has
    taken there in this process, ``others_bytes`` what other processes hold. ``mapped_bytes`` of ``ram``
    is the part of the process that maps files, which the system takes back when it needs room. None
    stands where the platform does not tell. ``history``, ``warning`` and ``post_mortem`` are the
    monitor's (see :meth:`Monitor.facts`), None without one.
    """
    system = host.system()
    process = host.memory()
    pooled = {id: model for model in (pool.models() if pool else []) for id in model.ids}
    models = [_model_facts(model, pooled.get(model.id)) for model in host.resident()]
    uses = host.device_use()
    mapped = process.mapped_bytes
    past = {"history": None, "warning": None, "post_mortem": None}
    return {
        "host": system.host,
        "devices": [_device_facts(gpu, index, models, uses) for index, gpu in enumerate(system.gpus)],
        "ram": {
            "total_bytes": system.total_ram_bytes,
            "available_bytes": system.available_ram_bytes,
            "headroom_bytes": host.ram_headroom(),
            "process_bytes": process.rss_bytes,
            "mapped_bytes": mapped,
            "anonymous_bytes": None if mapped is None else process.rss_bytes - mapped,
        },
        "models": models,
        **(monitor.facts(history_seconds) if monitor else past),
    }


def _device_facts(
    gpu: Gpu, index: int, models: Sequence[Mapping[str, Any]], uses: Sequence[DeviceUse]
) -> dict[str, Any]:
    use = next((use for use in uses if _on(use.device, gpu.backend, index)), None)
    return {
        "device": use.device if use else None,
        "name": gpu.name,
        "backend": gpu.backend,
        "total_bytes": gpu.total_bytes,
        "free_bytes": gpu.free_bytes,
        "models_bytes": sum(m["loaded_bytes"] for m in models if _on(m["device"], gpu.backend, index)),
        "torch_bytes": use.torch_bytes if use else None,
        "others_bytes": use.others_bytes if use else None,
    }


def _model_facts(model: ResidentModel, pooled: PooledModel | None) -> dict[str, Any]:
    """Return where a model is, and how long the pool keeps it: nothing is known of one it does not have."""
    unknown = {"held": None, "idle_seconds": None, "expires_in": None}
    stay = pooled.stay() if pooled else {"pooled": False, "pinned": False, "busy": False, **unknown}
    return {**model.to_dict(), "file_bytes": model.file_bytes, **stay}


def _on(device: str, backend: str, index: int) -> bool:
    """Tell whether torch's name of a device (``cuda:0``, ``cuda``, ``mps``) means this GPU."""
    kind, _, number = device.partition(":")
    return kind == {"rocm": "cuda"}.get(backend, backend) and int(number or 0) == index
