"""What happens once while ComfyUI starts: routes, and a look at who else uses our names."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from server import PromptServer

import nodes

from ..routes import add_routes as add_routes_to
from . import get_manager

log = logging.getLogger("managed_models.startup")

PAGE_NAME = "managed-models"
_WEB = Path(__file__).resolve().parents[2] / "web"


def add_routes() -> None:
    """Add the panel's routes to ComfyUI's server."""
    add_routes_to(PromptServer.instance.routes, get_manager)


def serve_page_from_any_folder() -> None:
    """Give the page's files an address that works when our folder's name has a space, say.

    ComfyUI serves them under the folder's name and lists that name quoted, which its server does
    not find for names that quoting changes.
    """
    folders = getattr(nodes, "EXTENSION_WEB_DIRS", {})
    for name, path in list(folders.items()):
        if Path(path).resolve() == _WEB and quote(name) != name:
            folders[PAGE_NAME] = folders.pop(name)


def warn_about_taken_names(ids: Sequence[str]) -> None:
    """Log which of our node ids another extension has registered already."""
    for node_id in ids:
        other = nodes.NODE_CLASS_MAPPINGS.get(node_id)
        if other is not None:
            origin = getattr(other, "RELATIVE_PYTHON_MODULE", other.__module__)
            log.warning(
                "The node id %s is also used by %s. ComfyUI keeps the one that it loads last; ours is in "
                "the category model/managed. Disable one of the two extensions.",
                node_id,
                origin,
            )
