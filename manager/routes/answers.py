"""What every route shares: where they are, how they answer, and names for files without their paths."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

from aiohttp import web

from ..errors import HostBusy, ManagedModelsError, ModelNotFound

PREFIX = "/managed-models"
# Sent in place of paths, and good for this process only.
_SECRET = secrets.token_bytes(16)


async def answer(work: Callable[[], dict[str, Any]]) -> web.Response:
    """Run ``work``, which may wait for a disk or a lock, in a worker thread; send what it returns."""
    try:
        return web.json_response(await asyncio.to_thread(work))
    except ManagedModelsError as error:
        status = 409 if isinstance(error, HostBusy) else 404 if isinstance(error, ModelNotFound) else 400
        return web.json_response({"error": error.to_dict()}, status=status)


def opaque_id(path: Path) -> str:
    """Return a name for a file that says nothing about where it is."""
    return blake2b(str(path).encode(), digest_size=12, key=_SECRET).hexdigest()
