"""ComfyUI's prompt queue: progress, the stop button, and a quiet moment to act in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import comfy.model_management
import comfy.utils
from server import PromptServer

from ..errors import HostBusy


def inside_node() -> bool:
    """Tell whether this thread is carrying out a node of a prompt."""
    try:
        from comfy_execution.utils import get_executing_context
    except ImportError:  # before ComfyUI 0.3.50 or so
        return False
    return get_executing_context() is not None


def throw_if_cancelled() -> None:
    """Raise ComfyUI's interrupt when a person pressed stop.

    Only on a thread that carries out a node: asking clears the flag for everybody else.
    """
    if inside_node():
        comfy.model_management.throw_exception_if_processing_interrupted()


def progress(done: int, total: int) -> None:
    """Show progress on the node that is being carried out."""
    if inside_node():
        comfy.utils.ProgressBar(total).update_absolute(done, total)


@contextmanager
def quiet_moment() -> Iterator[None]:
    """Hold the queue while no prompt runs, so that none starts meanwhile; keep it short.

    Raises:
        HostBusy: a prompt is running.
    """
    queue = PromptServer.instance.prompt_queue
    with queue.mutex:
        if queue.currently_running:
            raise HostBusy("A prompt is running, and its models are in use.", "Try again when it is done.")
        yield


def free_everything() -> None:
    """Ask the prompt worker to unload all models and forget cached results when it is free."""
    queue = PromptServer.instance.prompt_queue
    queue.set_flag("unload_models", True)
    queue.set_flag("free_memory", True)
