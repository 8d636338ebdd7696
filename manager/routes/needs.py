"""What a workflow needs, over HTTP, and getting it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from ..errors import BadInput, ManagedModelsError
from ..manager import AdvancedModelManager
from ..route_guard import guard_write
from .answers import PREFIX, answer

# Workflows with sub-graphs are larger than anything else that is sent.
MAX_WORKFLOW = 8 << 20


class NeedsRoutes:
    """The handlers of workflows' needs."""

    def __init__(self, get_manager: Callable[[], AdvancedModelManager]) -> None:
        self._get_manager = get_manager

    def add_to(self, table: web.RouteTableDef) -> None:
        """Add every route to ``table``."""
        table.post(f"{PREFIX}/needs")(guard_write(self.needs, MAX_WORKFLOW))
        table.post(f"{PREFIX}/needs/fetch")(guard_write(self.fetch, MAX_WORKFLOW))
        table.post(f"{PREFIX}/fetch-again")(guard_write(self.fetch_again))

    async def fetch_again(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        """Fetch a damaged file again, from where it came: ``{"folder", "name"}``."""
        return await answer(lambda: self._fetch_again(body))

    async def needs(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        """What a workflow needs: ``{"workflow": saved, "prompt": what is run, "ask": false}``.

        One of workflow and prompt is enough. With ``ask`` the headers of what is missing are fetched.
        """
        return await answer(lambda: self._needs(body))

    async def fetch(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        """Begin to download what is missing and has an address: the same.

        With ``{"models": [{"folder", "name"}]}`` only these.
        """
        return await answer(lambda: self._fetch(body))

    def _needs(self, body: Mapping[str, Any]) -> dict[str, Any]:
        from ..words.needs import fetch_offer, need_lines, needs_headline, render_needs

        ask = body.get("ask", False)
        if not isinstance(ask, bool):
            raise BadInput(f"ask is {ask!r}.", "Send true or false.")
        details = self._get_manager().needs.report(_document(body), ask=ask)
        return {
            "details": details,
            "headline": needs_headline(details),
            "report": render_needs(details),
            "words": [need_lines(row, short=True) for row in details["models"]],
            "offer": fetch_offer(details),
        }

    def _fetch(self, body: Mapping[str, Any]) -> dict[str, Any]:
        from ..words.needs import render_fetch

        manager = self._get_manager()
        started = []
        requests, failed = manager.needs.requests(_document(body), _wanted(body))
        for request in requests:
            try:
                started.append(manager.downloads.start(request).to_dict())
            except ManagedModelsError as error:  # what fails does not keep the others from coming
                failed.append(
                    {"name": request.target.name, "folder": request.folder, "error": error.to_dict()}
                )
        return {"downloads": started, "failed": failed, "report": render_fetch(started, failed)}

    def _fetch_again(self, body: Mapping[str, Any]) -> dict[str, Any]:
        from ..words.needs import render_again

        folder, name = body.get("folder"), body.get("name")
        if not isinstance(folder, str) or not isinstance(name, str):
            raise BadInput("No file was named.", 'Send {"folder": ..., "name": ...} from the list of models.')
        state = self._get_manager().again.start(folder, name).to_dict()
        return {"download": state, "report": render_again(name)}


def _document(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a request that are about the workflow.

    Raises:
        BadInput: there is none.
    """
    found = {key: body[key] for key in ("workflow", "prompt") if body.get(key) is not None}
    if not found:
        raise BadInput("No workflow was sent.", 'Send {"workflow": ...}, {"prompt": ...}, or both.')
    return found


def _wanted(body: Mapping[str, Any]) -> set[tuple[str, str]] | None:
    """Return which models to fetch, None for all.

    Raises:
        BadInput: the list is none of folders and names.
    """
    models = body.get("models")
    if models is None:
        return None
    try:
        return {(str(model["folder"]), str(model["name"])) for model in models}
    except (TypeError, KeyError):
        raise BadInput(
            "models is no list of models.", 'Send [{"folder": ..., "name": ...}], or leave it out for all.'
        ) from None
