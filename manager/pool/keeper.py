"""The thread that lets go of models when their time is up, while nothing runs."""

from __future__ import annotations

import logging
import threading

from ..errors import HostBusy
from .model import Moment
from .pool import ModelPool

log = logging.getLogger("managed_models.pool")

_LOOK_SECONDS = 2.0  # how soon somebody else's need for memory is noticed
_NOTHING_SECONDS = 60.0  # with an empty pool; a model that comes ends the wait
_RETRY_SECONDS = 0.5


class Keeper:
    """Sweep the pool when a model's time is up, and look for shortages in between.

    The thread starts with :meth:`start` and is a daemon: it holds nothing that has to be written.
    """

    def __init__(self, pool: ModelPool) -> None:
        self._pool = pool
        self._stop = threading.Event()
        self._asked = 0  # how often to empty the pool,
        self._moment: Moment | None = None  # when last,
        self._emptied = 0  # and up to which time that was done
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, if it does not run yet."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._stop.clear()
                self._thread = threading.Thread(target=self._run, name="managed-models-keeper", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """End after the round that is being made, and wait for that."""
        self._stop.set()
        self._pool.wake()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def empty(self) -> None:
        """Let go of every model as soon as nothing runs: somebody asked for all memory back.

        Where nobody tells of a prompt's start, others may come first; what they load stays.
        """
        with self._lock:
            self._asked += 1
            self._moment = self._pool.moment()
        self._pool.wake()

    def prompt_started(self) -> None:
        """Do what was asked for before the prompt began, on the thread that carries it out."""
        self._empty_pool()

    def _run(self) -> None:
        wait = 0.0
        while not self._stop.is_set():
            self._pool.wait_for_change(wait)
            try:
                wait = self._round()
            except Exception:  # the thread outlives a failed round; the next one may succeed
                log.exception("A round of the keeper failed")
                wait = _LOOK_SECONDS

    def _round(self) -> float:
        """Make one round and return the seconds to the next."""
        if not self._empty_pool():
            return _RETRY_SECONDS
        if not self._pool:
            return _NOTHING_SECONDS
        if not self._pool.sweep():
            return _LOOK_SECONDS
        expiry = self._pool.seconds_to_next_expiry()
        return _LOOK_SECONDS if expiry is None else max(0.05, min(_LOOK_SECONDS, expiry))

    def _empty_pool(self) -> bool:
        """Empty the pool if somebody asked for it; False when it has to be done later."""
        with self._lock:
            asked, moment = self._asked, self._moment
        if asked == self._emptied:
            return True
        try:
            self._pool.empty(moment)
        except HostBusy:
            return False
        with self._lock:
            self._emptied = max(self._emptied, asked)
        return True
