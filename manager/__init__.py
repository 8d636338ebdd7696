"""Managed Models as a Python package. Needs neither ComfyUI nor a GPU; torch only where it computes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compatibility import ModelCompatibilityChecker
    from .config import ModelManagerConfig
    from .manager import AdvancedModelManager
    from .model import ModelInfo, ModelType, QuantizationType
    from .versions import ModelVersionManager

__version__ = "0.1.0"
__all__ = [
    "AdvancedModelManager",
    "ModelCompatibilityChecker",
    "ModelInfo",
    "ModelManagerConfig",
    "ModelType",
    "ModelVersionManager",
    "QuantizationType",
]

# Where each name lives; imported on first use, so that help and headers stay quick.
_HOMES = {
    "AdvancedModelManager": ".manager",
    "ModelCompatibilityChecker": ".compatibility",
    "ModelInfo": ".model",
    "ModelManagerConfig": ".config",
    "ModelType": ".model",
    "ModelVersionManager": ".versions",
    "QuantizationType": ".model",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home, __name__), name)
