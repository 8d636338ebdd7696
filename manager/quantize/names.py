"""The names of results: derived from the source and the request, or given by a person."""

from __future__ import annotations

import hashlib
import ntpath
from collections.abc import Sequence
from pathlib import Path

from ..errors import InvalidOutputName
from ..formats.shards import INDEX_SUFFIX
from ..units import GB
from .choices import COMFY_QUANT, FAST, RECOMMENDED

SUFFIX = ".safetensors"
_DEVICES = frozenset({"CON", "PRN", "AUX", "NUL", *(f"{p}{n}" for p in ("COM", "LPT") for n in range(1, 10))})
# Parts of a name that say the precision, which a derived name replaces.
_PRECISIONS = ("bf16", "fp16", "fp32", "f16", "f32")


def derived_name(
    name: str,
    suffix: str,
    policy: str = RECOMMENDED,
    patterns: Sequence[str] = (),
    quality: str = "fast",
    layout: str = COMFY_QUANT,
    limit: int | None = None,
) -> str:
    """Return ``wan_fp8_e4m3fn_scaled.safetensors`` for ``wan_bf16.safetensors`` and so on.

    Args:
        suffix: for the format.
        limit: bytes that a size budget allows.
    """
    stem = Path(name.removesuffix(INDEX_SUFFIX)).stem if name.endswith(INDEX_SUFFIX) else Path(name).stem
    for precision in _PRECISIONS:
        for separator in ("_", "-", "."):
            stem = stem.removesuffix(f"{separator}{precision}")
    parts = [stem, suffix]
    if limit is not None:
        parts.append(f"{limit / GB:.3f}".rstrip("0").rstrip(".") + "gb")
    elif policy != RECOMMENDED:
        parts.append(policy)
    if quality != FAST:
        parts.append(quality)
    if layout != COMFY_QUANT:
        parts.append(layout)
    if patterns:
        parts.append(f"keep{hashlib.sha256(' '.join(patterns).encode()).hexdigest()[:6]}")
    return "_".join(parts) + SUFFIX


def checked_name(name: str) -> str:
    text = name.strip()
    forbidden = any(c in '<>:"|?*' or ord(c) < 32 for c in text)
    device = Path(text).stem.upper() in _DEVICES  # names that Windows keeps for itself
    if forbidden or device or text != ntpath.basename(text) or text in ("", ".", ".."):
        raise InvalidOutputName(
            f"output_name is {name!r}, which is not a plain file name.",
            "Give a name without folders, such as my_model_fp8; it is written beside the source.",
        )
    suffix = Path(text).suffix.lower()
    if suffix == SUFFIX:
        return text
    if suffix in (".ckpt", ".pt", ".pth", ".bin", ".gguf", ".sft"):
        raise InvalidOutputName(
            f"output_name is {name!r}, and only safetensors files are written.",
            f"End it with {SUFFIX}, or with nothing.",
        )
    return text + SUFFIX
