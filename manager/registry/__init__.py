"""What people said about models, and a cache of what is on the disk, in SQLite."""

from .store import Registry

__all__ = ["Registry"]
