"""Settings of the manager. Every field has a default, and a wrong value says what would be right."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .errors import BadInput
from .sharing import SHARE_STOCK_LOADERS

IN_MEMORY = "sqlite:///:memory:"
AUTO_DOWNLOAD_VARIABLE = "MANAGED_MODELS_AUTO_DOWNLOAD"
ALLOWED_HOSTS = ("huggingface.co", "civitai.com", "github.com")
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(s|m|h)?\s*", re.IGNORECASE)
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


def parse_duration(text: str | float) -> float:
    """Return seconds from ``5m``, ``30s``, ``1h``, ``0`` or ``forever`` (infinity).

    Raises:
        BadInput: the text is none of these.
    """
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        if text >= 0:
            return float(text)
    elif isinstance(text, str):
        if text.strip().lower() in ("forever", "-1"):
            return math.inf
        match = _DURATION.fullmatch(text)
        if match:
            unit = match[2].lower() if match[2] else None
            return float(match[1]) * _SECONDS[unit]
    raise BadInput(
        f"keep_alive is {text!r}, which is not a length of time.",
        "Use 0, 30s, 5m, 1h or forever.",
    )


def says_yes(variable: str) -> bool | None:
    """Return what a variable of the environment says, None when it says nothing.

    Raises:
        BadInput: it says something else than yes or no.
    """
    said = os.environ.get(variable, "").strip().lower()
    if said in ("1", "true", "yes", "on"):
        return True
    if said in ("0", "false", "no", "off"):
        return False
    if not said:
        return None
    raise BadInput(f"{variable} is {said!r}.", "Use 1 or 0.")


def registry_url(default: Path) -> str:
    """Return the registry's address: what MANAGED_MODELS_DB says (an address or a path), else ``default``."""
    said = os.environ.get("MANAGED_MODELS_DB", "")
    if said.startswith("sqlite:"):
        return said
    from sqlalchemy import URL  # knows which characters of a path have to be quoted

    path = Path(said).expanduser().absolute() if said else default
    return URL.create("sqlite", database=str(path)).render_as_string()


@dataclass
class ModelManagerConfig:
    """How an :class:`AdvancedModelManager` behaves.

    Attributes:
        database_url: the registry, an SQLAlchemy SQLite URL; in memory unless a host says otherwise.
        model_roots: folders that hold models, each laid out like ComfyUI's ``models`` or in any way.
        max_ram_gb: memory for idle models in GB; None decides from the machine.
        vram_reserve_gb: video memory to leave alone in GB; None takes the host's.
        keep_alive: how long an idle model stays loaded.
        cleanup_interval_seconds: pause between two rounds of the cleanup task.
        monitor_interval_seconds: pause between two samples of memory while someone looks.
        share_stock_loaders: whether ComfyUI's own loaders share the managed models.
        auto_download: whether a model with an address may be fetched on first use.
        allowed_hosts: hosts that a download may reach, with their CDNs.
        max_parallel_downloads: downloads at a time.
    """

    database_url: str = IN_MEMORY
    model_roots: Sequence[Path | str] = field(default_factory=list)
    max_ram_gb: float | None = None
    vram_reserve_gb: float | None = None
    keep_alive: str = "5m"
    cleanup_interval_seconds: float = 60
    monitor_interval_seconds: float = 2.0
    share_stock_loaders: str = "auto"
    auto_download: bool = False
    allowed_hosts: Sequence[str] = ALLOWED_HOSTS
    max_parallel_downloads: int = 2

    def __post_init__(self) -> None:
        parse_duration(self.keep_alive)
        if not self.database_url.startswith("sqlite:"):
            raise BadInput(
                f"database_url is {self.database_url!r}, which is not an SQLite address.",
                "Use sqlite:///path/to/file.db, or leave it out for a registry in memory.",
            )
        for name in ("cleanup_interval_seconds", "monitor_interval_seconds"):
            if not getattr(self, name) > 0:
                raise BadInput(f"{name} is {getattr(self, name)!r}.", "It has to be more than 0.")
        for name in ("max_ram_gb", "vram_reserve_gb"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, (int, float)) or not value >= 0):
                raise BadInput(f"{name} is {value!r} GB.", "Give a number of GB that is not negative.")
        if not isinstance(self.auto_download, bool):
            raise BadInput(f"auto_download is {self.auto_download!r}.", "Use true or false.")
        if self.share_stock_loaders not in SHARE_STOCK_LOADERS:
            raise BadInput(
                f"share_stock_loaders is {self.share_stock_loaders!r}.",
                f"Use one of {', '.join(SHARE_STOCK_LOADERS)}.",
            )
        if self.max_parallel_downloads < 1:
            raise BadInput(
                f"max_parallel_downloads is {self.max_parallel_downloads!r}.",
                "It has to be 1 or more.",
            )
        self.model_roots = [Path(root).expanduser() for root in self.model_roots]
