"""What people said about models, and a cache of what is on the disk, in SQLite."""

from .files import Source, Usage, Variant
from .peaks import Peak, PeakKey
from .said import Additions, Said, SaidModel
from .scanned import MadeFrom, Moved, Record, Scanned
from .search import FileRow, Page
from .store import Registry

__all__ = [
    "Additions",
    "FileRow",
    "MadeFrom",
    "Moved",
    "Page",
    "Peak",
    "PeakKey",
    "Record",
    "Registry",
    "Said",
    "SaidModel",
    "Scanned",
    "Source",
    "Usage",
    "Variant",
]
