"""What memory holds right now, as one JSON-safe snapshot."""

from __future__ import annotations

from typing import Any

from .host import Host


def memory_report(host: Host) -> dict[str, Any]:
    """Return video memory per device, RAM, this process, and every model in memory. Bytes.

    ``models_bytes`` of a device is what the listed models hold there; ``mapped_bytes`` is the part
    of the process that maps files, which the system takes back when it needs room (None where the
    platform does not tell).
    """
    system = host.system()
    process = host.memory()
    models = [model.to_dict() for model in host.resident()]
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


def _on(device: str, backend: str, index: int) -> bool:
    """Tell whether torch's name of a device (``cuda:0``, ``cuda``, ``mps``) means this GPU."""
    kind, _, number = device.partition(":")
    return kind == {"rocm": "cuda"}.get(backend, backend) and int(number or 0) == index
