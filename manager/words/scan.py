"""The words about a scan: what changed on the disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SHOWN = 20


def scan_lines(details: Mapping[str, Any]) -> list[str]:
    """Return the lines about what a scan found; see :meth:`ScanResult.to_dict`."""
    lines = [line for kind in ("added", "changed", "back") for line in _paths(kind, details[kind])]
    lines += [f"Moved: {move['from']} -> {move['to']}" for move in details["moved"]]
    lines += _paths("missing", details["missing"])
    lines += [
        f"New, and several missing or new files are equal to it, so no history was given to it: {path}"
        for path in details["ambiguous"]
    ]
    reasons: dict[str, int] = {}
    for held in details["held"]:
        reasons[held["reason"]] = reasons.get(held["reason"], 0) + 1
    lines += [f"Left as they were, {count}: {reason}" for reason, count in reasons.items()]
    lines += _paths("forgotten", details["forgotten"])
    return lines


def scan_summary(details: Mapping[str, Any]) -> str:
    """Return the last line of a scan."""
    changes = [
        f"{len(details[kind])} {kind}"
        for kind in ("added", "changed", "moved", "missing", "back")
        if details[kind]
    ]
    return f"{', '.join(changes) or 'nothing changed'}; {details['unchanged']} unchanged"


def _paths(kind: str, paths: list[str]) -> list[str]:
    lines = [f"{kind.capitalize()}: {path}" for path in paths[:_SHOWN]]
    if len(paths) > _SHOWN:
        lines.append(f"{kind.capitalize()}: {len(paths) - _SHOWN} more")
    return lines
