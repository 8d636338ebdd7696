"""What models take once they are loaded, asked of the host once for each file and type of weights."""

from __future__ import annotations

import threading
from pathlib import Path

from ..files import FileIdentity
from ..formats.safetensors import Header, read_header
from ..host import Host
from .facts import Footprint

_KEPT = 256


class Footprints:
    """Ask the host, and remember: ComfyUI builds a whole model without data to answer.

    Args:
        host: the machine.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._known: dict[tuple[FileIdentity, str], Footprint | None] = {}
        self._lock = threading.Lock()

    def of(self, path: Path, weight_dtype: str, header: Header | None = None) -> Footprint | None:
        """Return what the file's diffusion model takes; None where nobody can tell.

        Args:
            weight_dtype: one of ``WEIGHT_DTYPES``.
            header: of the file, when it was read already.

        Raises:
            ManagedModelsError: the file is not there, or no good.
        """
        key = FileIdentity.of(path), weight_dtype
        with self._lock:
            if key in self._known:
                return self._known[key]
        found = self._host.footprint(header or read_header(path), weight_dtype)
        with self._lock:
            if len(self._known) >= _KEPT:
                self._known.clear()
            self._known[key] = found
        return found
