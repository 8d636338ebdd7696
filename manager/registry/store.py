"""Reading and writing the registry, one part per subject. Every write is one transaction."""

from __future__ import annotations

from .by_hash import Hashes
from .files import Files
from .peaks import Peaks
from .people import People
from .said import Sayings
from .scanned import Scans
from .search import Search


class Registry(People, Sayings, Files, Hashes, Scans, Search, Peaks):
    """Models, their versions, and what is known of files. The database is opened on first use.

    Args:
        url: an SQLite address; a database in memory lives as long as this object.
        fall_back: use a database in memory when the file cannot be opened, saying so in the log.

    Raises:
        BadInput: the address is not an SQLite one.
        FileError: on first use, see :func:`open_database`.
    """
