"""Who may call our routes: the page of this very server, and nobody else.

ComfyUI has no login. Its own check lets through other applications on this machine, sandboxed
frames, and any site that points a name of its own at this address (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

MAX_BODY = 64 * 1024
# A header that no foreign page may send without asking first, and that question is never granted.
OWN_HEADER = "X-Managed-Models"
ALLOWED_HOSTS_VARIABLE = "MANAGED_MODELS_ALLOWED_HOSTS"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
JsonHandler = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


def host_allowed(netloc: str) -> bool:
    """Tell whether a Host header is loopback, an address, or a name that the owner listed.

    An address cannot be rebound; a name can, so only listed names pass.
    """
    try:
        name = urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return False
    listed = os.environ.get(ALLOWED_HOSTS_VARIABLE, "").lower().split(",")
    if name == "localhost" or name.endswith(".localhost") or name in [n.strip() for n in listed if n.strip()]:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def refuse(status: int, code: str, message: str) -> web.Response:
    """Return our error shape."""
    return web.json_response({"error": {"code": code, "message": message, "details": {}}}, status=status)


def guard_read(handler: Handler) -> Handler:
    """Let only this server's own page, or a program on this machine, read."""

    async def guarded(request: web.Request) -> web.StreamResponse:
        refusal = _foreign(request)
        return refusal if refusal else await handler(request)

    return guarded


def guard_write(handler: JsonHandler, max_body: int = MAX_BODY) -> Handler:
    """The same for what changes something; the handler gets the JSON object that was sent.

    Args:
        max_body: bytes that may be sent.
    """

    async def guarded(request: web.Request) -> web.StreamResponse:
        refusal = _foreign(request)
        if refusal:
            return refusal
        if request.headers.get(OWN_HEADER) != "1":
            return refuse(403, "missing_header", f"Send the header {OWN_HEADER}: 1.")
        if request.content_type != "application/json":
            return refuse(415, "not_json", "Send application/json.")
        if request.content_length is None or request.content_length > max_body:
            return refuse(413, "too_large", f"Send at most {max_body} bytes, with their length.")
        try:
            body = json.loads(await request.read())
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            return refuse(400, "bad_input", "Send a JSON object.")
        return await handler(request, body)

    return guarded


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _foreign(request: web.Request) -> web.Response | None:
    host = request.headers.get("Host", "").lower()
    if not host_allowed(host):
        return refuse(
            403,
            "host_not_allowed",
            f"The host {host!r} is not allowed. Add it to {ALLOWED_HOSTS_VARIABLE} if it is yours.",
        )
    origin = request.headers.get("Origin")
    if origin is not None and _netloc(origin) != host:
        return refuse(403, "cross_origin", "Only this server's own page may do this.")
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        return refuse(403, "cross_site", "Only this server's own page may do this.")
    return None
