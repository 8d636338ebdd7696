"""Model names that our nodes gave out in the running prompt.

A cache provider sees that a loader's name comes over a link, and not what came over it. For names from
our own nodes this is where it looks.
"""

from __future__ import annotations

from . import queue

_prompt = ""
_names: dict[str, str] = {}


def note_model_name(name: str) -> None:
    """Remember what the node that is being carried out gives as its first output."""
    global _prompt
    where = queue.executing()
    if where is None:
        return
    prompt, node = where
    if prompt != _prompt:
        _prompt = prompt
        _names.clear()
    _names[node] = name


def linked_name(prompt: str, value: object) -> str | None:
    """Return what came over a link (``[node, 0]``) in this prompt; None when nobody noted it."""
    if prompt != _prompt or not isinstance(value, list) or len(value) != 2 or value[1] != 0:
        return None
    return _names.get(str(value[0]))
