"""The HTTP door: the panel's page and ``--server`` of the command line talk to these routes."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from ..manager import AdvancedModelManager
from .answers import PREFIX, opaque_id
from .downloads import DownloadRoutes
from .files import FileRoutes
from .inventory import InventoryRoutes
from .memory import MemoryRoutes
from .needs import NeedsRoutes

__all__ = ["PREFIX", "add_routes", "opaque_id"]


def add_routes(table: web.RouteTableDef, get_manager: Callable[[], AdvancedModelManager]) -> None:
    """Add every route to ``table``; the manager is asked for when the first request comes."""
    DownloadRoutes(get_manager).add_to(table)
    FileRoutes(get_manager).add_to(table)
    InventoryRoutes(get_manager).add_to(table)
    MemoryRoutes(get_manager).add_to(table)
    NeedsRoutes(get_manager).add_to(table)
