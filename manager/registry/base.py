"""One open database, and transactions on it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Engine
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError

from ..config import IN_MEMORY
from ..errors import FileError
from .database import database_path, open_database, unusable

log = logging.getLogger("managed_models.registry")
_P = ParamSpec("_P")
_T = TypeVar("_T")
_S = TypeVar("_S", bound="Store")


class Store:
    """The database at ``url``, opened on first use; see :class:`Registry`."""

    def __init__(self, url: str = IN_MEMORY, fall_back: bool = False) -> None:
        self.url = url
        self._fall_back = fall_back
        self._engine: Engine | None = None
        self._opening = threading.Lock()
        # A database in memory is one connection, which threads must take turns on.
        self._turn = threading.RLock() if database_path(url) is None else None

    def close(self) -> None:
        """Give the file back; a later call opens it again."""
        with self._opening:
            if self._engine is not None:
                self._engine.dispose()
                self._engine = None

    def _open(self) -> Engine:
        with self._opening:
            if self._engine is None:
                try:
                    self._engine = open_database(self.url)
                except FileError as error:
                    if not self._fall_back:
                        raise
                    self._engine = self._in_memory(error)
            return self._engine

    def _in_memory(self, error: FileError) -> Engine:
        log.warning("%s Until then, nothing that you register is kept.", error)
        self.url, self._turn = IN_MEMORY, threading.RLock()
        return open_database(IN_MEMORY)

    def _give_up(self, engine: Engine, error: DatabaseError) -> None:
        """Raise our error for a database that failed in use, or fall back where that was asked for.

        A lock or a full disk passes; a damaged file does not.
        """
        path = database_path(self.url)
        if path is None:
            if self._engine is not engine:  # another thread has fallen back meanwhile
                return
            raise error
        failure = unusable(path, error)
        if not self._fall_back or isinstance(error, OperationalError):
            raise failure from error
        with self._opening:
            if self._engine is engine:
                engine.dispose()
                self._engine = self._in_memory(failure)


def reads(work: Callable[Concatenate[_S, Connection, _P], _T]) -> Callable[Concatenate[_S, _P], _T]:
    """Give ``work`` a connection to look with."""
    return _transaction(work, "")


def writes(work: Callable[Concatenate[_S, Connection, _P], _T]) -> Callable[Concatenate[_S, _P], _T]:
    """Run ``work`` in one transaction that no other process writes beside: all of it happens, or nothing.

    The lock is taken at once: one that is asked for after reading may be refused without waiting.
    """
    return _transaction(work, "BEGIN IMMEDIATE")


def _transaction(
    work: Callable[Concatenate[_S, Connection, _P], _T], begin: str
) -> Callable[Concatenate[_S, _P], _T]:
    """Call ``work`` with a connection; a database that turns out to be damaged is an error of ours."""

    @wraps(work)
    def call(store: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        while True:
            engine = store._open()
            try:
                with store._turn or nullcontext(), engine.begin() as db:
                    if begin:
                        db.exec_driver_sql(begin)
                    return work(store, db, *args, **kwargs)
            except IntegrityError:
                raise
            except DatabaseError as error:
                store._give_up(engine, error)

    return call


def chunks(items: list[Any], size: int = 500) -> list[list[Any]]:
    """Return ``items`` in pieces that fit one statement's parameters."""
    return [items[start : start + size] for start in range(0, len(items), size)]
