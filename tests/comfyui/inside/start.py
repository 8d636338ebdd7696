"""Loads the extension as ComfyUI does while it starts, then lets the server begin."""

import asyncio
import sys
from pathlib import Path
from typing import Any

from server import PromptServer

import nodes

ROOT = Path(__file__).resolve().parents[3]


def main(_: str) -> dict[str, Any]:
    return asyncio.run(_start())


async def _start() -> dict[str, Any]:
    assert await nodes.load_custom_node(str(ROOT))
    loaded = _ours()
    for hook in PromptServer.instance.app.on_startup:
        if hook.__module__.startswith(_name()):
            await hook(PromptServer.instance.app)
    return {
        "loaded": loaded,
        "begun": _ours(),
        "nodes": sorted(name for name, cls in nodes.NODE_CLASS_MAPPINGS.items() if _is_ours(cls.__module__)),
        "routes": sorted(
            f"{route.method} {route.path}"
            for route in PromptServer.instance.routes
            if "managed-models" in getattr(route, "path", "")
        ),
    }


def _name() -> str:
    return str(ROOT).replace(".", "_x_")  # what ComfyUI does


def _is_ours(module: str) -> bool:
    return module.startswith(_name() + ".")


def _ours() -> list[str]:
    """Return our modules so far, without the name that ComfyUI gave the package."""
    return sorted(name.removeprefix(_name() + ".") for name in list(sys.modules) if _is_ours(name))
