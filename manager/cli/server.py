"""Asking the routes of a running ComfyUI."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from ..errors import BadInput, ServerError
from ..route_guard import OWN_HEADER

_SECONDS = 30


def ask(server: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the JSON object that ``path`` answers: a GET, or a POST of ``body``.

    Raises:
        BadInput: the address is not one of a server.
        ServerError: it does not answer, has no Managed Models, or refuses.
    """
    import requests

    try:
        parts = urlsplit(server)
        good = parts.scheme in ("http", "https") and bool(parts.netloc)
    except ValueError:
        good = False
    if not good:
        raise BadInput(f"--server is {server!r}.", "Give an address such as http://127.0.0.1:8188.")
    url = server.rstrip("/") + path
    try:
        if body is None:
            answer = requests.get(url, timeout=_SECONDS)
        else:
            answer = requests.post(url, json=body, headers={OWN_HEADER: "1"}, timeout=_SECONDS)
    except (requests.RequestException, ValueError) as error:
        raise ServerError(
            f"{server} does not answer ({type(error).__name__}).", "Is ComfyUI running at that address?"
        ) from error
    try:
        found = answer.json()
    except ValueError:
        found = None
    if answer.ok and isinstance(found, dict) and isinstance(found.get("details"), dict):
        return found
    if isinstance(found, dict) and isinstance(found.get("error"), dict):
        said = found["error"]
        raise ServerError(str(said.get("message")), code=said.get("code"))
    raise ServerError(
        f"{server} answered {answer.status_code} to {path}.",
        "Is Managed Models installed in that ComfyUI?",
    )
