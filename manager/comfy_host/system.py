"""The machine as ComfyUI uses it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import comfy.model_management as mm
import psutil
import torch

import nodes

from ..hardware import apple_gpus, torch_gpus
from ..host import Gpu, SystemSnapshot


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


def _layer_formats() -> frozenset[str]:
    """Return the layer formats that this ComfyUI loads; an older one ignores their markers."""
    try:
        from comfy.quant_ops import QUANT_ALGOS
    except ImportError:
        return frozenset()
    return frozenset(QUANT_ALGOS)


def _extensions() -> tuple[str, ...]:
    """Return the folder names of the installed extensions."""
    return tuple(Path(folder).name for folder in getattr(nodes, "LOADED_MODULE_DIRS", {}).values())
