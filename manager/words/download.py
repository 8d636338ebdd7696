"""The words about downloads, from ``DownloadState.to_dict()``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..units import format_bytes

_HOUR, _MINUTE = 3600, 60


def download_line(state: Mapping[str, Any]) -> str:
    """Return one line on how a download stands."""
    name, done, total = state["name"], state["done_bytes"], state["total_bytes"]
    kind = state["state"]
    if kind == "done":
        return f"{name}: whole, {format_bytes(done)}"
    if kind == "cancelled":
        return f"{name}: cancelled, nothing is left of it"
    so_far = _so_far(done, total)
    if kind == "queued":
        return f"{name}: waits for its turn"
    if kind == "checking":
        return f"{name}: checking, {so_far}"
    if kind == "paused":
        return f"{name}: paused at {so_far}"
    if kind == "failed":
        error = state["error"] or {"message": "Nobody knows why.", "remedy": ""}
        kept = f" Kept: {so_far}." if done else ""
        return f"{name}: {error['message']} {error['remedy']}".rstrip() + kept
    parts = [so_far, f"{format_bytes(state['bytes_per_second'])}/s"]
    if state["seconds_left"] is not None:
        parts.append(f"{format_seconds(state['seconds_left'])} left")
    if state["connections"] > 1:
        parts.append(f"{state['connections']} connections")
    return f"{name}: {', '.join(parts)}"


def render_downloads(states: Iterable[Mapping[str, Any]]) -> str:
    """Return a line for each download."""
    lines = [download_line(state) for state in states]
    return "\n".join(lines) if lines else "There are no downloads."


def render_downloaded(details: Mapping[str, Any]) -> str:
    """Return what is said of a file that is in its place.

    Args:
        details: ``path``, ``size_bytes``, ``sha256`` (None where it was not looked up), ``fetched``.
    """
    how = "Downloaded" if details["fetched"] else "It was there already, and is the same file:"
    lines = [f"{how} {details['path']} ({format_bytes(details['size_bytes'])})"]
    if details["sha256"]:
        lines.append(f"SHA-256 {details['sha256']}")
    return "\n".join(lines)


def format_seconds(seconds: float) -> str:
    """Return a length of time in the unit that a person would pick."""
    if seconds >= _HOUR:
        return f"{seconds / _HOUR:.1f} h"
    if seconds >= 2 * _MINUTE:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{max(1, round(seconds))} s"


def _so_far(done: int, total: int | None) -> str:
    if not total:
        return format_bytes(done)
    return f"{format_bytes(done)} of {format_bytes(total)} ({done * 100 // total} %)"
