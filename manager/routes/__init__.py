"""The HTTP door: the panel's page and ``--server`` of the command line talk to these routes."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from ..manager import AdvancedModelManager
from .answers import PREFIX, opaque_id
from .files import FileRoutes
from .memory import MemoryRoutes

__all__ = ["PREFIX", "add_routes", "opaque_id"]


def add_routes(table: web.RouteTableDef, get_manager: Callable[[], AdvancedModelManager]) -> None:
    """Add every route to ``table``; the manager is asked for when the first request comes."""
    FileRoutes(get_manager).add_to(table)
    MemoryRoutes(get_manager).add_to(table)
