"""The values that a request may have. Light: the node's schema needs them while ComfyUI starts."""

from __future__ import annotations

# The keys of ``formats.FORMATS``, in the order in which people see them.
FORMAT_NAMES = (
    "fp8_e4m3fn_scaled",
    "fp8_e5m2_scaled",
    "int8",
    "int8_convrot",
    "mxfp8",
    "nvfp4",
    "w4a8",
    "w4a4",
    "bf16",
    "fp16",
)
RECOMMENDED = "recommended"
EVERYTHING = "everything"
SIZE_BUDGET = "size_budget"
POLICIES = (RECOMMENDED, EVERYTHING, SIZE_BUDGET)
FAST, BEST = "fast", "best"
QUALITIES = (FAST, BEST)
COMFY_QUANT = "comfy_quant"
SCALED_FP8 = "scaled_fp8"
LAYOUTS = (COMFY_QUANT, SCALED_FP8)
