"""Attributes that are made once, whoever asks first."""

from __future__ import annotations

import threading
import time

from managed_models.manager.lazily import made_once, was_made


class Owner:
    def __init__(self) -> None:
        self.made = 0

    @made_once
    def thing(self) -> object:
        """What it is."""
        self.made += 1
        time.sleep(0.05)
        return object()


def test_it_is_made_when_it_is_asked_for() -> None:
    owner = Owner()
    assert not was_made(owner, "thing")
    thing = owner.thing
    assert was_made(owner, "thing")
    assert owner.thing is thing
    assert Owner().thing is not thing
    assert Owner.thing.__doc__ == "What it is."


def test_two_threads_get_the_same_one() -> None:
    owner = Owner()
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(owner.thing)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert owner.made == 1
    assert len(set(map(id, found))) == 1
