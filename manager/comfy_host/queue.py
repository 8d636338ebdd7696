"""ComfyUI's prompt queue: progress, the stop button, what runs, and a quiet moment to act in."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.utils
from server import PromptServer

from ..errors import HostBusy
from ..host import RunningPrompt

_PATIENCE_SECONDS = 2.0
_worker: int | None = None


def executing() -> tuple[str, str] | None:
    """Return the prompt and the node that this thread is carrying out, None for any other thread."""
    try:
        from comfy_execution.utils import get_executing_context
    except ImportError:  # before ComfyUI 0.3.50 or so
        return None
    context = get_executing_context()
    return None if context is None else (str(context.prompt_id), str(context.node_id))


def inside_node() -> bool:
    """Tell whether this thread is carrying out a node of a prompt."""
    return executing() is not None


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


def remember_worker() -> None:
    """Note that this thread carries out the prompts; between nodes nothing else tells."""
    global _worker
    _worker = threading.get_ident()


@contextmanager
def quiet_moment() -> Iterator[None]:
    """Hold the queue while nobody uses a model, so that no prompt starts meanwhile; keep it short.

    On the thread that carries out the prompts nothing needs to be held: it is between two uses.

    Raises:
        HostBusy: a prompt is running, or its thread is still clearing up after one.
    """
    if inside_node() or threading.get_ident() == _worker:
        yield
        return
    queue = PromptServer.instance.prompt_queue
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        with queue.mutex:
            if queue.currently_running:
                raise HostBusy(
                    "A prompt is running, and its models are in use.", "Try again when it is done."
                )
            if _worker_waits(queue):
                yield
                return
        if time.monotonic() > deadline:
            raise HostBusy("ComfyUI is still clearing up after a prompt.", "Try again in a moment.")
        time.sleep(0.02)


def _worker_waits(queue: Any) -> bool:
    """Tell whether the thread that carries out prompts waits for the next; ask it under the mutex.

    After a prompt it still collects garbage and unloads models, when no prompt is running any more.
    """
    if getattr(queue, "task_counter", None) == 0:
        return True  # there was no prompt yet
    waiters = getattr(queue.not_empty, "_waiters", None)
    return waiters is None or len(waiters) > 0


def running() -> RunningPrompt | None:
    """Return the running prompt and where it is; a glance, without waiting for the queue."""
    item = running_item()
    if item is None:
        return None
    server = PromptServer.instance
    node = getattr(server, "last_node_id", None)
    found = item[2].get(node) if isinstance(node, str) else None
    return RunningPrompt(str(item[1]), node if found else None, found["class_type"] if found else None)


def running_item() -> Any:
    """Return the queue's entry of the running prompt: (number, id, prompt by node, ...), or None."""
    server = getattr(PromptServer, "instance", None)
    if server is None:
        return None
    return next(iter(list(server.prompt_queue.currently_running.values())), None)


def forget_results() -> None:
    """Ask the prompt worker to forget all cached results when it is free, and to unload nothing by itself.

    ComfyUI takes ``free_memory`` alone for both, and unloads first: it copies weights that nobody needs
    any more, out of a mapped file or from a device.
    """
    queue = PromptServer.instance.prompt_queue
    with queue.mutex:  # the worker has to see both at once
        queue.set_flag("unload_models", bool(queue.get_flags(reset=False).get("unload_models", False)))
        queue.set_flag("free_memory", True)


def unload_what_is_left() -> None:
    """Unload the models that somebody keeps although all results were forgotten.

    On the worker's thread at once, from any other one as soon as the worker wakes up.

    Raises:
        HostBusy: a prompt is running, or the results were not forgotten yet.
    """
    queue = PromptServer.instance.prompt_queue
    with quiet_moment():
        if queue.get_flags(reset=False).get("free_memory"):
            queue.set_flag("free_memory", True)  # a worker that was clearing up did not hear of it
            raise HostBusy("ComfyUI has not forgotten its results yet.", "Try again in a moment.")
        if not comfy.model_management.current_loaded_models:
            return
        if threading.get_ident() == _worker and not inside_node():
            comfy.model_management.unload_all_models()
        else:
            queue.set_flag("unload_models", True)
