"""The machine as ComfyUI uses it."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import comfy.cli_args
import comfy.model_management as mm
import psutil
import torch

import nodes

from ..hardware import apple_gpus, other_processes_bytes, swap_bytes, torch_gpus
from ..host import DeviceUse, Gpu, SystemSnapshot
from ..units import GB

if TYPE_CHECKING:
    from ..forecast.facts import Kernel


def comfyui_version() -> str:
    """Return ComfyUI's version, ``unknown`` before it had one."""
    try:
        from comfyui_version import __version__
    except ImportError:
        return "unknown"
    return str(__version__)


def snapshot(name: str) -> SystemSnapshot:
    """Look at the machine now."""
    memory = psutil.virtual_memory()
    gpus = _gpus(memory.total, memory.available)
    return SystemSnapshot(
        host=name,
        knows_comfyui=True,
        platform=f"{platform.system()} {platform.release()}",
        python_version=platform.python_version(),
        torch_version=torch.__version__,
        cuda_version=torch.version.cuda,
        device=gpus[0].backend if gpus else "cpu",
        gpus=gpus,
        total_ram_bytes=memory.total,
        available_ram_bytes=memory.available,
        cpu_count=os.cpu_count() or 1,
        comfyui_version=comfyui_version(),
        extensions=_extensions(),
        layer_formats=_layer_formats(),
        kernels=_kernels(),
        swap_bytes=swap_bytes(),
    )


def _gpus(total_ram: int, available_ram: int) -> tuple[Gpu, ...]:
    device = mm.get_torch_device()
    if mm.is_device_cpu(device):
        return ()
    if mm.is_device_mps(device):
        return apple_gpus(total_ram, available_ram)
    found = torch_gpus(torch)
    if found:
        return found
    total = int(mm.get_total_memory(device))
    return (Gpu(str(device), device.type, total, int(mm.get_free_memory(device))),)


def ram_headroom() -> int:
    """Return the bytes of available RAM below which ComfyUI's cache drops what the prompt uses.

    ComfyUI keeps the figure only while a prompt runs; these are its own flag and default.
    """
    said = getattr(comfy.cli_args.args, "cache_ram", None)
    if isinstance(said, list) and said:
        return int(said[0] * GB)
    return int(min(10 * GB, max(2 * GB, psutil.virtual_memory().total * 0.10)))


def vram_reserve() -> int:
    """Return the bytes of video memory that ComfyUI leaves to other programs (``--reserve-vram``)."""
    return int(mm.extra_reserved_memory())


def devices() -> Sequence[str]:
    """Return the devices that a model may be sent to; none but the CPU under ``--cpu``."""
    device = mm.get_torch_device()
    if mm.is_device_cpu(device):
        return ["cpu"]
    listed = getattr(mm, "get_all_torch_devices", None)  # since 0.33
    return [*(str(d) for d in (listed() if listed else [device])), "cpu"]


def device_use() -> Sequence[DeviceUse]:
    """Look at every accelerator now."""
    return [_use(torch.device(name)) for name in devices() if name != "cpu"]


def _use(device: torch.device) -> DeviceUse:
    backend = getattr(torch, device.type, None)
    taken: int | None
    try:
        taken = int(backend.memory_reserved(device)) if backend else None
    except (AttributeError, RuntimeError):  # a backend that does not tell
        taken = None
    return DeviceUse(
        device=str(device),
        name=mm.get_torch_device_name(device),
        total_bytes=int(mm.get_total_memory(device)),
        free_bytes=int(mm.get_free_memory(device)),
        torch_bytes=taken,
        others_bytes=other_processes_bytes(device.index or 0) if device.type == "cuda" else None,
    )


def _layer_formats() -> frozenset[str]:
    """Return the layer formats that this ComfyUI loads; an older one ignores their markers."""
    try:
        from comfy.quant_ops import QUANT_ALGOS
    except ImportError:
        return frozenset()
    return frozenset(QUANT_ALGOS)


def _kernels() -> tuple[Kernel, ...] | None:
    from . import kernels

    found = kernels.kernels()
    return None if found is None else tuple(found.values())


def _extensions() -> tuple[str, ...]:
    """Return the folder names of the installed extensions."""
    return tuple(Path(folder).name for folder in getattr(nodes, "LOADED_MODULE_DIRS", {}).values())
