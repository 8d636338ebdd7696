"""A real ComfyUI for the tests, where there is one."""

from __future__ import annotations

import sys
from pathlib import Path

_SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
if str(_SCRIPTS) not in sys.path:
    sys.path.append(str(_SCRIPTS))

from comfyui_server import ComfyUI, ComfyUIServer, find_comfyui  # noqa: E402


def describe_comfyui() -> str:
    """Return one line on which ComfyUI the tests use."""
    found = find_comfyui()
    if found is None:
        return (
            "NO ComfyUI was found: every ComfyUI test was skipped. Set COMFYUI_PATH (and COMFYUI_PYTHON), "
            "or install one with: comfy install"
        )
    return f"ComfyUI {found.version} in {found.path}"


__all__ = ["ComfyUI", "ComfyUIServer", "describe_comfyui", "find_comfyui"]
