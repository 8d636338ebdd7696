"""A model behind an address and a GGUF file, judged with ComfyUI's own detection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from managed_models.manager.comfy_host import ComfyHost
from managed_models.manager.config import ModelManagerConfig
from managed_models.manager.manager import AdvancedModelManager
from support.range_server import range_server


def main(base: str) -> dict[str, Any]:
    """Return, for each file of ``files.json``, the details by address and by path."""
    manager = AdvancedModelManager(ModelManagerConfig(), ComfyHost())
    found: dict[str, Any] = {}
    with range_server() as server:
        for file in json.loads((Path(base) / "files.json").read_text()):
            url = server.add(f"/{Path(file).name}", Path(file))
            found[Path(file).name] = {
                "remote": manager.check(url, allow_local_network=True).to_dict(),
                "here": manager.check(file).to_dict(),
            }
    found["listed"] = [list(name) for name in manager.library.names() if name[1].endswith(".gguf")]
    found["located"] = [manager.library.find(name).path.name for _, name in found["listed"]]
    manager.close()
    return found
