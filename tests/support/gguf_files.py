"""Tiny GGUF files, written by the gguf package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFWriter
from gguf.constants import GGML_QUANT_SIZES

Shape = tuple[int, ...]


def gguf_file(
    path: Path,
    shapes: Mapping[str, Shape],
    architecture: str = "",
    kind: Kind = Kind.Q4_K,
    fields: Mapping[str, Any] | None = None,
    flatten: bool = False,
) -> Path:
    """Write a file of zeros: matrices whose rows fill whole blocks as ``kind``, everything else as F32.

    Args:
        shapes: in PyTorch's order.
        flatten: store tensors of more than two dimensions flat and note their shape, as ComfyUI-GGUF does.
    """
    writer = GGUFWriter(path, architecture or "none")
    if not architecture:
        writer.kv_data[0].pop("general.architecture")
    for key, value in (fields or {}).items():
        add = writer.add_array if isinstance(value, list) else writer.add_string
        add(key, value)
    block, nbytes = GGML_QUANT_SIZES[kind]
    for name, shape in shapes.items():
        if len(shape) == 2 and shape[1] % block == 0:
            data = np.zeros((shape[0], shape[1] // block * nbytes), np.uint8)
            writer.add_tensor(name, data, raw_dtype=kind)
            continue
        if flatten and len(shape) > 2:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(shape))
            shape = (int(np.prod(shape)),)
        writer.add_tensor(name, np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
