"""Whether ComfyUI's own loaders share the pool's models: a decision, and the words for it."""

from __future__ import annotations

from dataclasses import dataclass

AUTO = "auto"
ON = "on"
OFF = "off"
SHARE_STOCK_LOADERS = (AUTO, ON, OFF)
# Where sharing was measured to hold: benchmarks/switching.py prints the figures.
_MEASURED_DEVICES = frozenset({"cpu"})


@dataclass(frozen=True)
class Sharing:
    """The decision, and what a person should know about it."""

    active: bool
    words: str


NOT_HERE = Sharing(False, "There are no loaders of ComfyUI's own outside ComfyUI.")


def decide_sharing(setting: str, device: str, has_api: bool, cache_none: bool) -> Sharing:
    """Decide from the setting and from what this ComfyUI has.

    Args:
        setting: one of ``SHARE_STOCK_LOADERS``.
        device: the backend that models run on: cuda, rocm, xpu, mps or cpu.
        has_api: whether there is the cache-provider API (ComfyUI 0.33).
        cache_none: whether ComfyUI runs with ``--cache-none``, which asks no provider.
    """
    managed_only = "Only Managed Models' own loaders share models"
    if not has_api:
        return Sharing(False, f"{managed_only}: this ComfyUI has no cache-provider API (0.33 has).")
    if setting == OFF:
        return Sharing(False, f"{managed_only}: sharing with ComfyUI's own loaders is set to off.")
    if cache_none:
        return Sharing(False, f"{managed_only}: ComfyUI runs with --cache-none, which asks no provider.")
    if setting == ON:
        return Sharing(True, "ComfyUI's own loaders share models: it is set to on.")
    if device in _MEASURED_DEVICES:
        return Sharing(True, f"ComfyUI's own loaders share models: measured to hold on a {device.upper()}.")
    return Sharing(
        False,
        f"{managed_only}: sharing with ComfyUI's own loaders was not measured on {device} yet. "
        "Set it to on to try it.",
    )
