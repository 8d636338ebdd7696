"""Making a model smaller: what to do with each tensor is decided purely, then carried out in a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .record import Record
    from .request import QuantizeRequest
    from .service import Quantizer

__all__ = ["QuantizeRequest", "Quantizer", "Record"]
# Imported when they are asked for: ComfyUI's start need not wait for them.
_HOMES = {
    "QuantizeRequest": "request",
    "Quantizer": "service",
    "Record": "record",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
