"""Is a registered version's file still the one that was registered? Pure, and nothing is hashed."""

from __future__ import annotations

from enum import Enum

from ..files import FileIdentity


class Revision(str, Enum):
    """SAME: as far as anybody knows. REPLACED: it has other contents. REWRITTEN: as large, written later."""

    SAME = "same"
    REPLACED = "replaced"
    REWRITTEN = "rewritten"
    ABSENT = "absent"
    UNKNOWN = "unknown"


def revision_of(
    recorded: FileIdentity | None,
    now: FileIdentity | None,
    said_sha256: str | None = None,
    measured_sha256: str | None = None,
) -> Revision:
    """Compare a file with what was recorded when it was registered; where it lies counts for nothing.

    Args:
        recorded: as it was then; None when it was not there, or nobody looked.
        now: as it is; None when it is not there.
        said_sha256: the hash that a person gave.
        measured_sha256: the hash of the file as it is, where somebody has measured it.
    """
    if now is None:
        return Revision.ABSENT
    if said_sha256 and measured_sha256:
        alike = said_sha256.lower() == measured_sha256.lower()
        return Revision.SAME if alike else Revision.REPLACED
    if recorded is None:
        return Revision.UNKNOWN
    if recorded.size != now.size:
        return Revision.REPLACED
    return Revision.SAME if recorded.mtime_ns == now.mtime_ns else Revision.REWRITTEN
