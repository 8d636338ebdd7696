"""What to let go of: laws that hold for every snapshot, and the cases that people meet."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from managed_models.manager.pool.policy import (
    EXPIRED,
    OVER_BUDGET,
    RAM_PRESSURE,
    VRAM_PRESSURE,
    Entry,
    Plan,
    Snapshot,
    default_ram_budget,
    plan_residency,
    seconds_to_next_expiry,
)

GB = 1024**3
ROOMY = 1000 * GB


def snapshot(
    *entries: Entry,
    budget: int = ROOMY,
    available: int = ROOMY,
    reserve: int = 0,
    needed: int = 0,
    vram_short: dict[str, int] | None = None,
) -> Snapshot:
    return Snapshot(entries, budget, available, reserve, needed, vram_short or {})


def entry(name: str, idle: float = 0.0, ram: int = GB, **facts: object) -> Entry:
    return replace(Entry(name, ram, idle_seconds=idle), **facts)  # type: ignore[arg-type]


# Cases


def test_nothing_goes_without_a_reason() -> None:
    plan = plan_residency(snapshot(entry("a"), entry("b", idle=299.9)))
    assert plan == Plan({}, {})


@pytest.mark.parametrize(("keep_alive", "goes"), [(300, True), (300.1, False), (math.inf, False), (0, True)])
def test_what_has_rested_long_enough_goes(keep_alive: float, goes: bool) -> None:
    plan = plan_residency(snapshot(entry("a", idle=300, keep_alive=keep_alive)))
    assert plan.release == ({"a": EXPIRED} if goes else {})


def test_what_somebody_else_has_gives_video_memory_alone() -> None:
    held = entry("a", idle=301, held=True, vram_bytes=GB, device="cuda:0")
    assert plan_residency(snapshot(held)) == Plan({}, {"a": EXPIRED})
    assert plan_residency(snapshot(replace(held, vram_bytes=0))) == Plan({}, {})
    assert plan_residency(snapshot(replace(held, held=False))) == Plan({"a": EXPIRED}, {})


def test_over_the_budget_the_longest_unused_goes_first() -> None:
    models = (entry("new", 1), entry("old", 100), entry("older", 200))
    assert plan_residency(snapshot(*models, budget=2 * GB)).release == {"older": OVER_BUDGET}
    assert plan_residency(snapshot(*models, budget=GB)).release == {"older": OVER_BUDGET, "old": OVER_BUDGET}


def test_what_is_about_to_be_loaded_counts() -> None:
    assert plan_residency(snapshot(entry("a"), budget=3 * GB, needed=2 * GB)).release == {}
    assert plan_residency(snapshot(entry("a"), budget=3 * GB, needed=2 * GB + 1)).release == {
        "a": OVER_BUDGET
    }


def test_a_budget_smaller_than_every_model_keeps_what_is_used() -> None:
    plan = plan_residency(snapshot(entry("used", busy=True), entry("rests"), budget=1))
    assert plan.release == {"rests": OVER_BUDGET}


def test_what_others_hold_takes_ram_too_but_would_give_none_back() -> None:
    held = entry("a", 9, held=True)
    assert plan_residency(snapshot(held, entry("b"), budget=GB)).release == {"b": OVER_BUDGET}
    assert plan_residency(snapshot(held, budget=0)).release == {}


def test_short_ram_takes_what_is_missing_and_no_more() -> None:
    models = (entry("a", 3), entry("b", 2), entry("c", 1))
    plan = plan_residency(snapshot(*models, available=GB, reserve=2 * GB + GB // 2))
    assert plan.release == {"a": RAM_PRESSURE, "b": RAM_PRESSURE}


def test_what_goes_for_the_budget_counts_towards_short_ram() -> None:
    plan = plan_residency(snapshot(entry("a", 2), entry("b", 1), budget=GB, available=GB, reserve=2 * GB))
    assert plan.release == {"a": OVER_BUDGET}


def test_another_program_gets_video_memory_on_that_card_alone() -> None:
    first = entry("first", 2, vram_bytes=GB, device="cuda:0")
    second = entry("second", 9, vram_bytes=GB, device="cuda:1")
    plan = plan_residency(snapshot(first, second, vram_short={"cuda:0": 1}))
    assert plan == Plan({}, {"first": VRAM_PRESSURE})


def test_what_goes_anyway_counts_towards_video_memory() -> None:
    gone = entry("gone", 301, vram_bytes=GB, device="cuda:0")
    stays = entry("stays", 1, vram_bytes=GB, device="cuda:0")
    plan = plan_residency(snapshot(gone, stays, vram_short={"cuda:0": GB}))
    assert plan == Plan({"gone": EXPIRED}, {})


@pytest.mark.parametrize(
    ("total", "headroom", "budget"),
    [(24 * GB, 2 * GB, 20 * GB), (8 * GB, 2 * GB, 4 * GB), (3 * GB, 2 * GB, 0)],
)
def test_the_budget_nobody_set(total: int, headroom: int, budget: int) -> None:
    assert default_ram_budget(total, headroom) == budget


def test_when_something_is_due() -> None:
    models = (
        entry("soon", 290, keep_alive=300),
        entry("later", 0, keep_alive=300),
        entry("past", 400, keep_alive=300),
        entry("never", 400, keep_alive=math.inf),
        entry("pinned", 299, keep_alive=300, pinned=True),
        entry("busy", 299, keep_alive=300, busy=True),
    )
    assert seconds_to_next_expiry(models) == 10
    assert seconds_to_next_expiry(models[2:]) is None
    assert seconds_to_next_expiry(()) is None


# Laws

_SIZES = st.integers(0, 8)
_ENTRIES = st.lists(
    st.builds(
        Entry,
        id=st.uuids().map(str),
        ram_bytes=_SIZES,
        vram_bytes=_SIZES,
        device=st.sampled_from(["cuda:0", "cuda:1"]),
        idle_seconds=st.floats(0, 10),
        keep_alive=st.sampled_from([0.0, 5.0, math.inf]),
        pinned=st.booleans(),
        busy=st.booleans(),
        held=st.booleans(),
    ),
    max_size=8,
).map(tuple)
_SNAPSHOTS = st.builds(
    Snapshot,
    entries=_ENTRIES,
    ram_budget=st.integers(0, 30),
    ram_available=st.integers(0, 30),
    ram_reserve=st.integers(0, 10),
    needed=_SIZES,
    vram_short=st.dictionaries(st.sampled_from(["cuda:0", "cuda:1"]), _SIZES),
)


@given(_SNAPSHOTS)
def test_used_and_pinned_models_stay(snapshot: Snapshot) -> None:
    plan = plan_residency(snapshot)
    touched = plan.release.keys() | plan.unload.keys()
    assert not [e for e in snapshot.entries if e.id in touched and (e.busy or e.pinned)]
    assert not plan.release.keys() & plan.unload.keys()


@given(_SNAPSHOTS)
def test_what_gives_nothing_back_is_left_alone(snapshot: Snapshot) -> None:
    plan = plan_residency(snapshot)
    by_id = {e.id: e for e in snapshot.entries}
    assert not [id for id in plan.release if by_id[id].held]
    assert not [id for id in plan.unload if not by_id[id].vram_bytes]


@given(_SNAPSHOTS)
def test_afterwards_the_pool_is_within_its_budget_or_nothing_more_can_go(snapshot: Snapshot) -> None:
    plan = plan_residency(snapshot)
    left = [e for e in snapshot.entries if e.id not in plan.release]
    own = sum(e.ram_bytes for e in left)
    assert own + snapshot.needed <= snapshot.ram_budget or not [
        e for e in left if e.may_be_released and e.ram_bytes
    ]


@given(_SNAPSHOTS)
def test_the_least_recently_used_goes_first_and_none_too_many(snapshot: Snapshot) -> None:
    plan = plan_residency(snapshot)
    for reason in (OVER_BUDGET, RAM_PRESSURE):
        gone = [e for e in snapshot.entries if plan.release.get(e.id) == reason]
        stayed = [
            e for e in snapshot.entries if e.id not in plan.release and e.may_be_released and e.ram_bytes
        ]
        if gone and stayed:
            assert min(e.idle_seconds for e in gone) >= max(e.idle_seconds for e in stayed)
    kept = sum(e.ram_bytes for e in snapshot.entries if e.id not in plan.release)
    for_budget = [e for e in snapshot.entries if plan.release.get(e.id) == OVER_BUDGET]
    if for_budget and RAM_PRESSURE not in plan.release.values():
        newest = min(for_budget, key=lambda e: e.idle_seconds)
        assert kept + newest.ram_bytes + snapshot.needed > snapshot.ram_budget


@given(_SNAPSHOTS)
def test_the_same_snapshot_gives_the_same_plan(snapshot: Snapshot) -> None:
    assert plan_residency(snapshot) == plan_residency(snapshot)


@given(_ENTRIES)
def test_the_plan_has_something_to_do_when_it_is_due(entries: tuple[Entry, ...]) -> None:
    seconds = seconds_to_next_expiry(entries)
    if seconds is None:
        return
    later = tuple(replace(e, idle_seconds=e.idle_seconds + seconds + 1e-6) for e in entries)
    due = [e for e in later if e.may_go and e.idle_seconds >= e.keep_alive]
    assert due
    plan = plan_residency(Snapshot(later, 10**9, 10**9, 0))
    for e in due:
        assert e.id in plan.release or e.held
