"""Is a file whole? Its header in full, the checksums that it carries, and a hash that someone knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .errors import ManagedModelsError, NotSafetensors
from .files import file_sha256
from .formats.gguf import read_gguf
from .formats.safetensors import read_header
from .formats.sniff import GGUF_FILE
from .formats.writer import find_damage
from .lineage import recorded_checksums
from .watch import Watch


def verify_file(path: Path, sha256: str | None = None, watch: Watch | None = None) -> dict[str, Any]:
    """Check one file and return JSON-safe details.

    Args:
        sha256: the hash it should have, if anyone knows.
        watch: shows progress and may stop the hashing.

    Returns:
        ``ok``, ``checked`` (what was looked at, in words), ``problem`` (empty when ok), ``sha256``
        (measured, or None).
    """
    checked = ["header"]
    try:
        checksums = _checksums(path)
        if checksums:
            checked.append(f"{len(checksums)} tensor checksums")
            damaged = find_damage(path, checksums)
            if damaged:
                return _result(
                    path, checked, f"The bytes of tensor {damaged!r} are not those that were written."
                )
    except ManagedModelsError as error:
        return _result(path, checked, str(error), code=error.code)
    measured = None
    if sha256:
        checked.append("SHA-256")
        measured = file_sha256(path, watch)
        if measured != sha256.lower():
            problem = f"Its SHA-256 is {measured}, and {sha256.lower()} was expected."
            return _result(path, checked, problem, measured)
    return _result(path, checked, "", measured)


def _checksums(path: Path) -> dict[str, int]:
    """Check the header, and return the checksums that it carries: none in GGUF."""
    try:
        return recorded_checksums(read_header(path))
    except NotSafetensors as error:
        if error.details.get("looks_like") != GGUF_FILE:
            raise
    read_gguf(path)
    return {}


def _result(
    path: Path, checked: list[str], problem: str, sha256: str | None = None, code: str = "damaged"
) -> dict[str, Any]:
    return {
        "model": path.name,
        "ok": not problem,
        "checked": checked,
        "problem": problem,
        "code": code if problem else "",
        "sha256": sha256,
    }
