"""Whether to ask again after an error, and when. Pure."""

from __future__ import annotations

from ..errors import ManagedModelsError, RemoteError

_AGAIN = frozenset({"unreachable", "slow", "stalled", "truncated", "too_many_requests", "server"})
_STATUS_AGAIN = frozenset({408, 425})
_FINAL_STATUS = frozenset({501, 505, 507})


def is_passing(error: ManagedModelsError) -> bool:
    """Tell whether the same request may succeed a little later."""
    if not isinstance(error, RemoteError):
        return False
    status = error.details.get("status")
    if status in _FINAL_STATUS:
        return False
    return error.details.get("problem") in _AGAIN or status in _STATUS_AGAIN


def back_off(failures: int, chance: float, first: float, most: float) -> float:
    """Return the seconds to wait after so many failures in a row: doubling, less up to half by chance.

    Args:
        failures: 1 or more.
        chance: 0 to 1, drawn by the caller.
        first, most: seconds.
    """
    full = min(most, first * 2.0 ** min(failures - 1, 30))
    return full * (1.0 - chance / 2)


def seconds_to_wait(failures: int, chance: float, asked: float | None, first: float, most: float) -> float:
    """Return the seconds to wait; never less than the server asked for, where it did."""
    own = back_off(failures, chance, first, most)
    return own if asked is None else max(asked, own if asked <= 0 else 0.0)
