"""Safetensors files made by hand, good and broken."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from managed_models.manager.formats.dtypes import DTYPE_BITS


def raw_file(path: Path, header: bytes | str | Mapping[str, Any], data: bytes = b"") -> Path:
    """Write a file with exactly this header and data; a mapping becomes JSON."""
    if isinstance(header, Mapping):
        header = json.dumps(header)
    if isinstance(header, str):
        header = header.encode("utf-8")
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


def entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, Any]:
    """Return one tensor's header entry."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def shapes_file(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: str | Mapping[str, str] = "BF16",
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a valid file of these shapes whose data is a hole of zeros: any size, no room on the disk."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name, shape in shapes.items():
        kind = dtype if isinstance(dtype, str) else dtype.get(name, "BF16")
        size = DTYPE_BITS[kind]
        for dimension in shape:
            size *= dimension
        header[name] = entry(kind, list(shape), position, position + size // 8)
        position += size // 8
    raw = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + position)
    return path
