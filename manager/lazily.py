"""Attributes that are made when they are asked for first, once, whatever threads ask."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")


class made_once(Generic[T]):  # used like property
    """Like ``functools.cached_property``, which since Python 3.12 may make two when two threads ask."""

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make
        self._name = make.__name__
        self._lock = threading.RLock()
        self.__doc__ = make.__doc__

    @overload
    def __get__(self, owner: None, kind: type) -> made_once[T]: ...

    @overload
    def __get__(self, owner: object, kind: type) -> T: ...

    def __get__(self, owner: object | None, kind: type) -> made_once[T] | T:
        if owner is None:
            return self
        with self._lock:
            if self._name not in owner.__dict__:
                owner.__dict__[self._name] = self._make(owner)
            found: T = owner.__dict__[self._name]
            return found


def was_made(owner: object, name: str) -> bool:
    """Tell whether anybody has asked for an attribute yet."""
    return name in owner.__dict__
