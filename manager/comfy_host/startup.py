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
from .residency import notice_free_requests

log = logging.getLogger("managed_models.startup")

PAGE_NAME = "managed-models"
_WEB = Path(__file__).resolve().parents[2] / "web"


def add_routes() -> None:
    """Add the panel's routes to ComfyUI's server."""
    add_routes_to(PromptServer.instance.routes, get_manager)


def begin_with_the_server() -> None:
    """Make the manager when the server starts, so that stock workflows share models from the first on."""
    notice_free_requests(get_manager)

    async def begin(_: object) -> None:
        get_manager().marks.restore()

    PromptServer.instance.app.on_startup.append(begin)


def serve_page_from_any_folder() -> None:
    """Give the page's files an address that works when our folder's name has a space, say.

    ComfyUI serves them under the folder's name and lists that name quoted, which its server does
    not find for names that quoting changes.
    """
    folders = getattr(nodes, "EXTENSION_WEB_DIRS", {})
    for name, path in list(folders.items()):
        if Path(path).resolve() == _WEB and quote(name) != name:
            folders[PAGE_NAME] = folders.pop(name)


def warn_about_taken_names(classes: Sequence[type]) -> None:
    """Log which of our node ids another extension uses too, whichever of the two loads first."""
    for cls in classes:
        if nodes.NODE_CLASS_MAPPINGS.get(cls.__name__) is not None:
            _warn(cls.__name__, "replaces the one of")

    async def look_again(_: object) -> None:
        for cls in classes:
            if nodes.NODE_CLASS_MAPPINGS.get(cls.__name__) is not cls:
                _warn(cls.__name__, "was replaced by the one of")

    # When the server starts, every extension has been loaded.
    PromptServer.instance.app.on_startup.append(look_again)


def _warn(node_id: str, relation: str) -> None:
    other = nodes.NODE_CLASS_MAPPINGS.get(node_id)
    origin = getattr(other, "RELATIVE_PYTHON_MODULE", None) or getattr(other, "__module__", "nobody")
    log.warning(
        "Two extensions have a node %s: ours, in the category model/managed, %s %s. "
        "A workflow gets whichever ComfyUI loaded last; disable one of the two.",
        node_id,
        relation,
        origin,
    )
