"""What a person chose in ComfyUI's settings dialog, which keeps it in a file of the user folder."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import folder_paths

from ..config import AUTO_DOWNLOAD_VARIABLE, ModelManagerConfig, says_yes
from ..errors import BadInput
from ..sharing import SHARE_STOCK_LOADERS

log = logging.getLogger("managed_models.settings")

_PREFIX = "managed_models."


def config(database_url: str) -> ModelManagerConfig:
    """Return the settings that were stored; a value that cannot be used is left aside, said in the log."""
    stored = _stored()
    chosen: dict[str, Any] = {}
    share = stored.get("share_stock_loaders")
    if share in SHARE_STOCK_LOADERS:
        chosen["share_stock_loaders"] = share
    for name in ("max_ram_gb", "vram_reserve_gb"):
        if isinstance(stored.get(name), (int, float)) and stored[name] > 0:  # 0 means automatic
            chosen[name] = float(stored[name])
    if stored.get("keep_alive"):
        chosen["keep_alive"] = stored["keep_alive"]
    if isinstance(stored.get("auto_download"), bool):
        chosen["auto_download"] = stored["auto_download"]
    most = stored.get("max_parallel_downloads")
    if isinstance(most, int) and not isinstance(most, bool) and most >= 1:
        chosen["max_parallel_downloads"] = most
    try:
        said = says_yes(AUTO_DOWNLOAD_VARIABLE)  # who starts the server has the last word
        if said is not None:
            chosen["auto_download"] = said
    except BadInput as error:
        log.warning("%s It is left aside.", error)
    try:
        return ModelManagerConfig(database_url=database_url, **chosen)
    except BadInput as error:
        log.warning("%s The default is used.", error)
        return ModelManagerConfig(database_url=database_url)


def _stored() -> dict[str, Any]:
    path = Path(folder_paths.get_user_directory(), "default", "comfy.settings.json")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {key.removeprefix(_PREFIX): value for key, value in found.items() if key.startswith(_PREFIX)}
