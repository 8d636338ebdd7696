"""Memory that is about to run out, and memory that did: pure, from a sample and what the host said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..host import DeviceUse, PromptError
from ..pool import PooledModel
from ..units import format_bytes
from .prompt import Moment
from .sample import Sample

RAM = "RAM"
VRAM = "VRAM"

# ComfyUI fills a device on purpose, and what PyTorch keeps is handed out again: a full device alone
# says nothing. It does when other programs hold a good part of it.
_DEVICE_FREE_SHARE = 0.03
_OTHERS_SHARE = 0.15

_RAM_WORDS = (
    "defaultcpuallocator",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "unable to allocate",
    "paging file is too small",
)


@dataclass(frozen=True)
class Limits:
    """Where shortage begins. ``ram_headroom``: bytes below which the host lets go of what is in use."""

    ram_headroom: int


def low_memory(sample: Sample, limits: Limits) -> str | None:
    """Return what is nearly used up and what to do about it, None while there is room."""
    at = f" at {sample.node_type}" if sample.node_type else ""
    if sample.ram_available_bytes < limits.ram_headroom / 2:
        return (
            f"RAM is nearly used up{at}: {format_bytes(sample.ram_available_bytes)} of "
            f"{format_bytes(sample.ram_total_bytes)} is left. The system may end ComfyUI when nothing is. "
            "Close other programs, or unload models that this workflow does not need."
        )
    for use in sample.devices:
        if _squeezed(use):
            return (
                f"VRAM of {use.name} is nearly used up{at}: other programs hold "
                f"{format_bytes(use.others_bytes or 0)} of {format_bytes(use.total_bytes)}, "
                f"{format_bytes(use.free_bytes or 0)} is left. Close programs that use the GPU."
            )
    return None


def _squeezed(use: DeviceUse) -> bool:
    if use.free_bytes is None or use.others_bytes is None:
        return False
    full = use.free_bytes < use.total_bytes * _DEVICE_FREE_SHARE
    return full and use.others_bytes > use.total_bytes * _OTHERS_SHARE


def exhausted_memory(error: PromptError, has_device: bool = True) -> str | None:
    """Return which memory ran out, ``RAM`` or ``VRAM``; None for every other error."""
    words = error.message.lower()
    if error.exception_type.endswith("MemoryError") and not error.exception_type.endswith("OutOfMemoryError"):
        return RAM
    if any(known in words for known in _RAM_WORDS):
        return RAM
    if error.exception_type.endswith("OutOfMemoryError") or "out of memory" in words:
        return VRAM if has_device else RAM
    return None


def post_mortem(
    prompt_id: str,
    error: PromptError,
    memory: str,
    moment: Moment,
    pooled: Mapping[str, PooledModel],
    seconds: float,
) -> dict[str, Any]:
    """Return what was in memory when it ran out, at which node, and what to do. JSON-safe, no paths.

    Args:
        memory: which one ran out.
        pooled: the pool's models by the host's ids.
        seconds: since the prompt began; a model that rests for longer was not the prompt's own.
    """
    sample, models = moment
    resting = {id for id, model in pooled.items() if model.idle_seconds > seconds}
    facts = {
        "time": sample.time,
        "prompt_id": prompt_id,
        "node": error.node,
        "node_type": error.node_type,
        "memory": memory,
        "exception_type": error.exception_type,
        "ram_total_bytes": sample.ram_total_bytes,
        "ram_available_bytes": sample.ram_available_bytes,
        "devices": sample.to_dict()["devices"],
        "models": [
            {
                "title": model.title,
                "device": model.device,
                "size_bytes": model.size_bytes,
                "loaded_bytes": model.loaded_bytes,
                "ram_bytes": model.ram_bytes,
                "kind": model.kind,
                "pinned": model.id in pooled and pooled[model.id].pinned,
                "kept": model.id in resting,
            }
            for model in models
        ],
    }
    return facts | {"remedies": _remedies(facts)}


def _remedies(facts: Mapping[str, Any]) -> list[str]:
    """Return what helps, the surest first."""
    models, on_gpu = facts["models"], facts["memory"] == VRAM
    found = []
    if "VAEDecode" in (facts["node_type"] or "") and "Tiled" not in facts["node_type"]:
        found.append("Use VAE Decode (Tiled) in place of VAE Decode.")
    squeezed = [d for d in facts["devices"] if (d["others_bytes"] or 0) > d["total_bytes"] * _OTHERS_SHARE]
    if on_gpu and squeezed:
        held = sum(device["others_bytes"] for device in squeezed)
        found.append(f"Close other programs that use the GPU: they held {format_bytes(held)}.")
    part = "loaded_bytes" if on_gpu else "ram_bytes"
    pinned = [model["title"] for model in models if model["pinned"] and model[part]]
    if pinned:
        found.append(f"Unpin what this workflow does not need: {', '.join(pinned)}.")
    kept = [model["title"] for model in models if model["kept"] and not model["pinned"] and model[part]]
    if kept and not on_gpu:
        found.append(f"Unload what this workflow does not need: {', '.join(kept)}.")
    if not on_gpu and any(model["device"] == "cpu" for model in models):
        found.append("Load with weight_dtype as_stored: on a CPU, default widens weights to fp32.")
    found.append("Make the image smaller, with fewer frames, or with a batch_size of 1.")
    found.append("Use a smaller variant of the model: QuantizeModel makes one.")
    if not on_gpu:
        found.append("Close other programs, or give the system more swap.")
    return found
