"""The words about what people said, written out and read back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def export_words(details: Mapping[str, Any]) -> str:
    """Return the words of an export."""
    return (
        f"Wrote {details['path']}: {_count(details['models'], 'model')}, "
        f"{_count(details['versions'], 'version')}, {_count(details['pins'], 'pin')}, "
        f"{_count(details['sources'], 'source')}."
    )


def import_lines(details: Mapping[str, Any]) -> list[str]:
    """Return the lines about an import; see :meth:`Merge.to_dict`."""
    added = {
        "version": len(details["versions"]),
        "alias": len(details["aliases"]),
        "pin": len(details["pins"]),
        "source": len(details["sources"]),
    }
    said = ", ".join(_count(count, word) for word, count in added.items() if count)
    known = f"{details['known']} known already"
    lines = [f"Read in: {said}; {known}." if said else f"Nothing new; {known}."]
    for conflict in details["conflicts"]:
        kept = "replaced by" if details["replaced"] else "kept; the document says"
        lines.append(f"  {conflict['what']}: {conflict['here']}, {kept} {conflict['there']}")
    if details["conflicts"] and not details["replaced"]:
        lines.append("  What is said here was kept. Use --replace to believe the document.")
    return lines


def _count(number: int, word: str) -> str:
    plural = "aliases" if word == "alias" else f"{word}s"
    return f"{number} {word if number == 1 else plural}"
