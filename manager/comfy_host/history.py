"""How prompts ended, from ComfyUI's history of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server import PromptServer

from ..host import PromptError, PromptOutcome


def outcome(prompt_id: str) -> PromptOutcome | None:
    """Return how a prompt ended; a glance, without waiting for the queue."""
    server = getattr(PromptServer, "instance", None)
    entry = server.prompt_queue.history.get(prompt_id) if server is not None else None
    status = entry.get("status") if entry else None
    if not status:
        return None
    for event, data in status["messages"]:
        if event == "execution_error":
            return PromptOutcome(False, _error(data))
    return PromptOutcome(bool(status["completed"]))


def _error(data: Mapping[str, Any]) -> PromptError:
    return PromptError(
        data.get("node_id"),
        data.get("node_type"),
        str(data.get("exception_type", "")),
        str(data.get("exception_message", "")),
    )
