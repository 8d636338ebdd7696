"""Asking the routes of a running ComfyUI."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from ..errors import BadInput, HostRequired, ServerError
from ..route_guard import OWN_HEADER

_SECONDS = 30


def ask(
    server: str | None,
    path: str,
    body: dict[str, Any] | None = None,
    expected: tuple[str, type] = ("details", dict),
) -> dict[str, Any]:
    """Return the JSON object that ``path`` answers: a GET, or a POST of ``body``.

    Args:
        expected: a key that an answer of ours has, and the type of its value.

    Raises:
        HostRequired: no server was named.
        BadInput: the address is not one of a server.
        ServerError: it does not answer, has no Managed Models, or refuses.
    """
    if server is None:
        raise HostRequired(
            "This concerns what a running ComfyUI has in memory.",
            "Say which one: --server http://127.0.0.1:8188.",
        )
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
    key, kind = expected
    if answer.ok and isinstance(found, dict) and isinstance(found.get(key), kind):
        return found
    if isinstance(found, dict) and isinstance(found.get("error"), dict):
        said = found["error"]
        raise ServerError(str(said.get("message")), code=said.get("code"))
    raise ServerError(
        f"{server} answered {answer.status_code} to {path}.",
        "Is Managed Models installed in that ComfyUI?",
    )
