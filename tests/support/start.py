"""What ComfyUI's start must not import: it stays as quick as it is only while this list holds."""

from __future__ import annotations

from collections.abc import Iterable

# Modules and packages below ``manager``.
LATER = (
    "again",
    "catalogue",
    "checking",
    "cli",
    "compatibility",
    "demo",
    "download",
    "duplicates",
    "first_use",
    "formats.gguf",
    "formats.safetensors",
    "formats.shards",
    "formats.writer",
    "forecast",
    "identify",
    "integrity",
    "lineage",
    "loading",
    "local_host",
    "needs",
    "pairing",
    "pairs",
    "remote.check",
    "remote.fetch",
    "remote.guard",
    "remote.reach",
    "remote.request",
    "said",
    "scan",
    "variants.service",
    "verifier",
    "versions",
    "workers",
)
# ``quantize`` has one light part, the request, which a node's schema reads.
QUANTIZE_AT_START = ("quantize", "quantize.choices", "quantize.request")


def too_early(modules: Iterable[str]) -> list[str]:
    """Return which of these modules of ours, named from ``manager`` on, could have come later."""
    return sorted(name for name in modules if _is_later(name))


def _is_later(name: str) -> bool:
    if name.split(".")[0] == "quantize":
        return name not in QUANTIZE_AT_START
    return any(name == later or name.startswith(f"{later}.") for later in LATER)
