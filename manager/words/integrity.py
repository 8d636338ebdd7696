"""The words about files that were verified, and about equal ones."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..units import format_bytes


def verify_line(result: Mapping[str, Any]) -> str:
    """Return one line about a file that was verified; see :func:`integrity.verify_file`."""
    if not result["ok"]:
        return f"{result['model']}: {result['problem']}"
    if result["unchecked"]:
        later = "; its SHA-256 was noted for the next time" if result["sha256"] else ""
        return f"{result['model']}: nothing wrong was seen, but {result['unchecked']}{later}"
    noted = ["SHA-256 noted"] if result["sha256"] and "SHA-256" not in result["checked"] else []
    return f"{result['model']}: whole (checked: {', '.join([*result['checked'], *noted])})"


def verify_lines(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines about every file, the damaged ones once more at the end when there are many."""
    lines = [verify_line(result) for result in results]
    bad = [result for result in results if not result["ok"]]
    if len(results) > 1:
        lines.append(f"{len(results)} files verified, {len(bad) or 'none'} damaged.")
    return lines


def corrupt_words(name: str, problem: str, url: str | None) -> tuple[str, str]:
    """Return message and remedy for a file that an earlier verification found damaged."""
    again = f"Get it again from {url}." if url else "Get it again from where it came from."
    return f"{name} is damaged: {problem}", again


def health_line(details: Mapping[str, Any]) -> str:
    """Return one line about what verifying a file found, for a report on it."""
    day = _day(details["checked_at"])
    if not details["ok"]:
        return f"Verified: damaged, on {day}"
    what = f" ({', '.join(details['checked'])})" if details["checked"] else ""
    return f"Verified: nothing wrong, on {day}{what}"


def health_word(health: Mapping[str, Any] | None) -> str | None:
    """Return ``good`` or ``damaged`` for what verifying a file found; None when nobody did."""
    return None if health is None else "good" if health["ok"] else "damaged"


def known_lines(details: Mapping[str, Any]) -> list[str]:
    """Return the lines about what is kept of a file; see :meth:`Integrity.known`."""
    lines = [health_line(details["health"])] if details.get("health") else []
    if details.get("sha256"):
        lines.append(f"SHA-256: {details['sha256']}")
    source, usage = details.get("source"), details.get("usage")
    if source:
        lines.append(f"Fetched from {source['url']} on {_day(source['fetched_at'])}")
    if usage:
        times = "once" if usage["times"] == 1 else f"{usage['times']} times"
        lines.append(f"Loaded {times}, last on {_day(usage['last_used_at'])}")
    return lines


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(seconds))


def job_line(state: Mapping[str, Any]) -> str:
    """Return one line about the verification that runs, or ran last, in ComfyUI; see ``Verifier.state``."""
    done = f"{state['done']} of {state['total']}"
    bad = f"{len(state['damaged'])} damaged" if state["damaged"] else "none damaged"
    if state["running"]:
        waits = " (waiting while a prompt runs)" if state["paused"] else ""
        return f"Verifying: {done} files, {bad}{waits}"
    if not state["total"]:
        return "Nothing was verified yet."
    if state["cancelled"]:
        return f"Stopped after {done} files, {bad}."
    return f"{done} files verified, {bad}."


def duplicate_lines(details: Mapping[str, Any]) -> list[str]:
    """Return the lines about equal files; see :meth:`Duplicates.find`."""
    lines: list[str] = []
    for group in details["groups"]:
        word = "The same" if group["proved"] else "May be the same"
        waste = format_bytes(group["wasted_bytes"])
        lines.append(f"{word}, {format_bytes(group['size_bytes'])} each, {waste} too much:")
        lines += [f"  {path}" for path in group["paths"]]
        lines += [f"  {path} (a link to one of them: takes no room)" for path in group["links"]]
    wasted = details["wasted_bytes"]
    if not details["groups"]:
        lines.append(f"No two of {details['files']} files are the same.")
    elif details["quick"]:
        lines.append(f"Up to {format_bytes(wasted)} may be wasted. Without --quick, hashes tell for sure.")
    else:
        lines.append(f"{format_bytes(wasted)} are wasted.")
    lines += [f"Could not be read: {row['path']}: {row['reason']}" for row in details["unreadable"]]
    return lines
