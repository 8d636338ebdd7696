"""Times and sizes of a download, in one place so that tests can make them small."""

from __future__ import annotations

from dataclasses import dataclass

from .plan import LEAST_STOLEN, MB, SMALLEST_PIECE


@dataclass(frozen=True)
class Limits:
    """Seconds and bytes.

    Attributes:
        stall_seconds: without a read that ends, until a connection is dropped and made again.
        failures: in a row without a byte of progress, until the download gives up.
        first_failures: the same for a server that has never answered.
        wait_first, wait_most: the pause after a failure.
        wait_asked: the longest pause that a server may ask for.
        sync_bytes, sync_seconds: what may be lost to a kill or a power cut.
        restarts: for a file that changes while it is fetched.
        trial_seconds: how long a number of connections is tried.
        smallest_piece, least_stolen: bytes that one of several connections asks for, or takes over.
        tick: the pause of the thread that watches over the connections.
    """

    stall_seconds: float = 30.0
    failures: int = 6
    first_failures: int = 3
    wait_first: float = 1.0
    wait_most: float = 60.0
    wait_asked: float = 300.0
    sync_bytes: int = 16 * MB
    sync_seconds: float = 2.0
    restarts: int = 2
    trial_seconds: float = 1.0
    smallest_piece: int = SMALLEST_PIECE
    least_stolen: int = LEAST_STOLEN
    tick: float = 0.05
