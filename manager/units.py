"""Bytes to words. 1 GB is 1024^3 bytes, and no figure is shown without its unit."""

from __future__ import annotations

MB = 1024**2
GB = 1024**3


def format_bytes(count: float) -> str:
    """Return ``count`` bytes in the unit a person would pick: ``13.3 GB``, ``512 MB``, ``81 bytes``."""
    size = abs(count)
    if size >= GB - MB / 2:  # what would round to 1024 MB
        return f"{count / GB:.1f} GB"
    if size >= 10 * MB:
        return f"{count / MB:.0f} MB"
    if size >= MB:
        return f"{count / MB:.1f} MB"
    if size >= 1024:
        return f"{count / 1024:.0f} KB"
    return f"{count:.0f} bytes"


def to_gb(count: float) -> float:
    """Return ``count`` bytes in GB, rounded to a thousandth: for figures in dictionaries."""
    return round(count / GB, 3)


def format_count(count: float) -> str:
    """Return a number of parameters as the field writes it: ``14.3B``, ``860M``, ``256``."""
    for limit, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= limit:
            value = count / limit
            return f"{value:.1f}{suffix}" if value < 100 else f"{value:.0f}{suffix}"
    return f"{count:.0f}"
