"""How ComfyUI computes quantized layers on this device, read from the kernels themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.model_management as mm
import torch

from ..forecast.facts import Kernel
from ..forecast.kernels import Backend, KernelFacts, judge_kernels

# Asked by ComfyUI itself before it leaves a format to the kernels.
_ALLOWED_BY = {
    "float8_e4m3fn": "supports_fp8_compute",
    "float8_e5m2": "supports_fp8_compute",
    "nvfp4": "supports_nvfp4_compute",
    "mxfp8": "supports_mxfp8_compute",
}


def kernels() -> Mapping[str, Kernel] | None:
    """Return layer format -> how it is computed; None in a ComfyUI that has no such layers."""
    try:
        import comfy_kitchen
        from comfy.quant_ops import QUANT_ALGOS, get_layout_class
    except ImportError:
        return None
    device = mm.get_torch_device()
    formats = {name: _is_fast(name, algo, device, get_layout_class) for name, algo in QUANT_ALGOS.items()}
    backends = {name: _backend(facts) for name, facts in comfy_kitchen.list_backends().items()}
    facts = KernelFacts(formats, backends, str(device), torch.version.cuda)
    return {kernel.format: kernel for kernel in judge_kernels(facts)}


def _is_fast(name: str, algo: Mapping[str, Any], device: torch.device, layout_of: Any) -> bool:
    if mm.is_device_cpu(device):
        return False
    allowed = getattr(mm, _ALLOWED_BY.get(name, ""), None)
    if allowed is not None and not allowed(device):
        return False
    layout = layout_of(algo["comfy_tensor_layout"])
    supports = getattr(layout, "supports_fast_matmul", None)
    return bool(supports()) if supports else allowed is not None


def _backend(facts: Mapping[str, Any]) -> Backend:
    return Backend(
        available=bool(facts.get("available")),
        disabled=bool(facts.get("disabled")),
        reason=str(facts.get("unavailable_reason") or ""),
        functions=frozenset(facts.get("capabilities") or ()),
    )
