"""ComfyUI's own model detection, fed from a header: tensors without data, and a few small real ones."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import comfy.model_detection
import comfy.utils
import torch

from ..formats.safetensors import Header, TensorInfo
from ..identify import Detection

# Detection looks inside these, so their bytes are read; every other tensor is a shape alone.
_READ = (".comfy_quant", "scaled_fp8", ".scale_input", ".input_scale", "edm_vpred.sigma_max")
_READ_BYTES = 64 * 1024

_DTYPES: dict[str, str] = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
}


def detect(header: Header, source: str) -> Detection | None:
    """Return what ComfyUI takes the file's diffusion model for, or None.

    Args:
        source: how to name ComfyUI in the result.
    """
    tensors = meta_tensors(header)
    prefix = comfy.model_detection.unet_prefix_from_state_dict(tensors)
    if not any(name.startswith(prefix) for name in tensors):
        prefix = ""
    with quiet():
        try:
            config = _config(tensors, prefix, dict(header.metadata))
            if config is None and prefix == "model.":
                prefix = ""
                config = _config(tensors, prefix, dict(header.metadata))
        except (KeyError, IndexError, AttributeError, ValueError, TypeError, RuntimeError, ZeroDivisionError):
            # Detection trusts that a layout it recognised by one name is complete.
            return None
    return None if config is None else Detection(type(config).__name__, prefix, source)


def _config(tensors: dict[str, torch.Tensor], prefix: str, metadata: dict[str, str]) -> Any:
    convert = getattr(comfy.utils, "convert_old_quants", None)
    tensors = dict(tensors)
    if convert is not None:
        tensors, metadata = convert(tensors, prefix, metadata=metadata)
    return comfy.model_detection.model_config_from_unet(tensors, prefix, metadata=metadata)


def meta_tensors(header: Header) -> dict[str, torch.Tensor]:
    """Return every tensor as a shape alone, but for the few that detection looks inside."""
    tensors: dict[str, torch.Tensor] = {}
    with open(header.path, "rb") if header.in_file else nullcontext() as file:
        for name, info in header.tensors.items():
            dtype = getattr(torch, _DTYPES.get(info.dtype, "uint8"), torch.uint8)
            if name.endswith(_READ) and 0 < info.nbytes <= _READ_BYTES:
                if file is None:  # only the header is here
                    continue
                file.seek(header.data_start + info.start)
                tensors[name] = _real(file.read(info.nbytes), dtype, info)
            else:
                tensors[name] = torch.empty(info.shape, dtype=dtype, device="meta")
    return tensors


def _real(raw: bytes, dtype: torch.dtype, info: TensorInfo) -> torch.Tensor:
    return torch.frombuffer(bytearray(raw), dtype=dtype).view(info.shape)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep detection's log lines off the console: here a miss is an answer, not an error."""
    drop = _DropFromThread(threading.get_ident())
    root = logging.getLogger()
    root.addFilter(drop)
    try:
        yield
    finally:
        root.removeFilter(drop)


class _DropFromThread(logging.Filter):
    """Drop what one thread logs to the root logger, which is where ComfyUI's modules log."""

    def __init__(self, thread: int) -> None:
        super().__init__()
        self._thread = thread

    def filter(self, record: logging.LogRecord) -> bool:
        return record.thread != self._thread
