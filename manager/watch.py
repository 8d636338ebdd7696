"""Who looks on while a long job runs."""

from __future__ import annotations

from typing import Protocol


class Watch(Protocol):
    """Shows progress in bytes, and may raise to stop. A host is one."""

    def throw_if_cancelled(self) -> None:
        """Raise when a person asked to stop."""

    def progress(self, done: int, total: int) -> None:
        """Show how far the job is."""


class Nobody:
    """Nobody looks on."""

    def throw_if_cancelled(self) -> None:
        """Never stops."""

    def progress(self, done: int, total: int) -> None:
        """Shows nothing."""
