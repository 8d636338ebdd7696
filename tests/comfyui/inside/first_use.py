"""Whether models may be fetched on first use: what was stored in ComfyUI's settings, and the environment."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from managed_models.manager.comfy_host import settings
from managed_models.manager.config import AUTO_DOWNLOAD_VARIABLE, IN_MEMORY


def main(folder: str) -> dict[str, Any]:
    """Return whether it is allowed, by ``stored/environment``."""
    path = Path(folder, "user", "default", "comfy.settings.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {}
    for stored in (None, True, False, "true"):
        path.write_text(json.dumps({} if stored is None else {"managed_models.auto_download": stored}))
        for said in ("", "1", "off", "perhaps"):
            os.environ[AUTO_DOWNLOAD_VARIABLE] = said
            found[f"{stored}/{said}"] = settings.config(IN_MEMORY).auto_download
    return found
