"""Messages to ComfyUI's page, beside those that it sends itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server import PromptServer

from ..watch import JobProgress
from ..words.progress import progress_line
from . import queue

# A node asked for a model that is not here and could be fetched.
MISSING = "managed_models.missing"
# How far a long job of a node is: JobProgress, with the node and a line of words.
PROGRESS = "managed_models.progress"


def tell_page(event: str, data: Mapping[str, Any]) -> None:
    """Send to the page whose prompt this thread carries out; to every page outside of one."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.send_sync(event, dict(data), server.client_id if queue.inside_node() else None)


def tell_progress(progress: JobProgress) -> None:
    """Put a line on the node that this thread carries out, and send the figures to its page."""
    running = queue.executing()
    server = getattr(PromptServer, "instance", None)
    if running is None or server is None:
        return
    details = progress.to_dict()
    line = progress_line(details)
    show = getattr(server, "send_progress_text", None)  # since ComfyUI 0.3.31 or so
    if show is not None:
        show(line, running[1], server.client_id)
    tell_page(PROGRESS, {**details, "node": running[1], "text": line})
