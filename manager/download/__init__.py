"""Getting files whole: a queue of downloads that pause, resume, and survive being killed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .model import DownloadRequest, DownloadState
    from .service import Downloads
    from .target import target_path

__all__ = ["DownloadRequest", "DownloadState", "Downloads", "target_path"]
# Imported when they are asked for: ComfyUI's start need not wait for them.
_HOMES = {
    "DownloadRequest": "model",
    "DownloadState": "model",
    "Downloads": "service",
    "target_path": "target",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
