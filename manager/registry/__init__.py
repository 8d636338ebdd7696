"""What people said about models, and a cache of what is on the disk, in SQLite."""

from .peaks import Peak, PeakKey
from .store import Registry

__all__ = ["Peak", "PeakKey", "Registry"]
