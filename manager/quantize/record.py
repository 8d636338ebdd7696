"""What the registry keeps of a result: which file it was made from, so that both are known as one model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..files import FileIdentity
from ..formats.shards import INDEX_SUFFIX
from ..registry import Registry


class Record:
    """Writes down where results are from.

    Args:
        defer: runs a write that nobody waits for.
    """

    def __init__(
        self,
        registry: Registry,
        defer: Callable[[Callable[[], None]], None] = lambda write: write(),
    ) -> None:
        self._registry = registry
        self._defer = defer

    def made(self, source: Path, output: Path, details: Mapping[str, Any]) -> None:
        """Record a result, new or found, and the hash of its source, which the run has measured."""
        digest = details["source_sha256"]
        if not digest:
            return
        file = FileIdentity.of(output.absolute())
        whole = None if source.name.endswith(INDEX_SUFFIX) else FileIdentity.of(source.absolute())

        def write() -> None:
            self._registry.put_variant(file, details["format"], details["source"], digest)
            if whole is not None:
                self._registry.put_sha256(whole, digest)

        self._defer(write)
