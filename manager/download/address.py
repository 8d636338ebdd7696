"""What of an address may be written down."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

# Parameters that say which file is meant. Any other may be a secret, so it is not kept.
_PLAIN_PARAMETERS = frozenset(
    {
        "type",
        "format",
        "size",
        "fp",
        "download",
        "revision",
        "version",
        "file",
        "filename",
        "name",
        "id",
        "raw",
    }
)


def public_part(url: str) -> tuple[str, bool]:
    """Return an address without what may be secret, and whether that is all of it."""
    parts = urlsplit(url)
    given = parse_qsl(parts.query, keep_blank_values=True)
    kept = [(key, value) for key, value in given if key.lower() in _PLAIN_PARAMETERS]
    netloc = parts.netloc.rpartition("@")[2]
    text = urlunsplit((parts.scheme, netloc, parts.path, urlencode(kept), ""))
    return text, len(kept) == len(given) and netloc == parts.netloc
