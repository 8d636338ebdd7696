"""What sticks to files while models come and go: which stay in memory, and when each was used."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from .errors import ManagedModelsError
from .files import FileIdentity
from .library import is_storable
from .pool import ModelPool
from .registry import Registry

log = logging.getLogger("managed_models.marks")


class Marks:
    """Pins and usage, in the pool and in the registry.

    Args:
        pool: keeps the models of pinned files in memory.
        registry: remembers both.
        defer: runs a write that nobody waits for.
    """

    def __init__(
        self, pool: ModelPool, registry: Registry, defer: Callable[[Callable[[], None]], None]
    ) -> None:
        self._pool = pool
        self._registry = registry
        self._defer = defer

    def pin(self, path: Path, pinned: bool) -> None:
        """Keep the models of a file in memory, now and after the next start, or stop that."""
        self._pool.pin(path, pinned)
        if is_storable(str(path)):
            self._defer(lambda: self._registry.put_pin(path, pinned))

    def restore(self) -> None:
        """Pin what is pinned in the registry: in the background, because that may have to be opened first."""
        self._defer(self._restore)

    def _restore(self) -> None:
        try:
            for path in self._registry.pins():
                self._pool.pin(path)
        except ManagedModelsError as error:
            log.warning("Pins could not be read: %s", error)

    def follow(self, moves: Iterable[tuple[str, str]]) -> None:
        """Let the pool's pins follow files that a scan found elsewhere.

        The registry's have, unless they were not written yet: then that comes first.
        """
        pinned = self._pool.pinned_paths()
        for old, new in ((Path(old), Path(new)) for old, new in moves):
            if old in pinned:
                self.pin(old, False)
                self.pin(new, True)

    def used(self, paths: Iterable[Path]) -> None:
        """Remember that these files were loaded."""
        files = [FileIdentity.of(path) for path in paths if is_storable(str(path))]
        self._defer(lambda: self._registry.touch_all(files))
