"""The one line about a running job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..units import format_bytes

_STAGES = {
    "measuring": "measuring what each format changes",
    "converting": "converting",
    "hashing": "hashing the source",
    "verifying": "reading back what was written",
}
# Stages that take long, and whose speed tells how long.
_TIMED = ("measuring", "converting")


def progress_line(details: Mapping[str, Any]) -> str:
    """Say how far a job is.

    Args:
        details: from :meth:`JobProgress.to_dict`.
    """
    stage = _STAGES.get(details["stage"], details["stage"])
    parts = [f"{format_bytes(details['done'])} of {format_bytes(details['total'])}"]
    if details["resumed"]:
        parts.append(f"{format_bytes(details['resumed'])} from an earlier run")
    if details["stage"] in _TIMED:
        if details["bytes_per_second"]:
            parts.append(f"{format_bytes(details['bytes_per_second'])}/s")
        if details["seconds_left"] is not None:
            parts.append(f"{format_seconds(details['seconds_left'])} left")
        if details["item"]:
            parts.append(str(details["item"]))
    return f"{stage[0].upper()}{stage[1:]}: {', '.join(parts)}"


def job_words(details: Mapping[str, Any]) -> str:
    """Say what a job does at the moment and how fast, beside a bar that shows the rest."""
    if details["stage"] not in _TIMED or not details["bytes_per_second"]:
        return _STAGES.get(details["stage"], str(details["stage"]))
    doing = "measuring " if details["stage"] == "measuring" else ""
    return f"{doing}{details['item']}, {format_bytes(details['bytes_per_second'])}/s"


def format_seconds(seconds: float) -> str:
    """Return ``12 s``, ``3 min 5 s`` or ``1 h 20 min``."""
    count = max(0, round(seconds))
    if count < 60:
        return f"{count} s"
    if count < 3600:
        return f"{count // 60} min {count % 60} s"
    return f"{count // 3600} h {count % 3600 // 60} min"
