"""The element types of the safetensors format, with their widths in bits.

Source: the ``Dtype`` enum of the safetensors library, version 0.8.
"""

from __future__ import annotations

DTYPE_BITS: dict[str, int] = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}

# The names that people use.
DTYPE_NAMES: dict[str, str] = {
    "F64": "fp64",
    "F32": "fp32",
    "F16": "fp16",
    "BF16": "bf16",
    "F8_E4M3": "fp8_e4m3fn",
    "F8_E5M2": "fp8_e5m2",
    "F8_E8M0": "fp8_e8m0",
    "I8": "int8",
    "U8": "uint8",
}


def dtype_name(dtype: str) -> str:
    """Return ``bf16`` for ``BF16`` and so on; a type without a usual name in lower case."""
    return DTYPE_NAMES.get(dtype, dtype.lower())
