"""Which models to let go of: a pure decision over a frozen snapshot.

Memory is given back for four reasons, asked in this order: a model rests longer than it was asked
to stay, models together are over their budget of RAM, RAM is short, video memory is short because
another program wants it. Whatever the reason, the running prompt's models and pinned ones stay, and
the least recently used goes first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

EXPIRED = "idle for longer than its keep_alive"
OVER_BUDGET = "the models together were over their budget of RAM"
RAM_PRESSURE = "RAM was short"
VRAM_PRESSURE = "another program needed video memory"


@dataclass(frozen=True)
class Entry:
    """One model of the pool. Bytes and seconds.

    Attributes:
        ram_bytes: RAM that comes back when the pool lets go of it and nobody else has it.
        vram_bytes: what it holds on its device.
        busy: the running prompt uses it.
        held: somebody else has it too, ComfyUI's cache of outputs for example: letting go of it
            would give no RAM back.
    """

    id: str
    ram_bytes: int
    vram_bytes: int = 0
    device: str = "cpu"
    idle_seconds: float = 0.0
    keep_alive: float = 300.0
    pinned: bool = False
    busy: bool = False
    held: bool = False

    @property
    def may_go(self) -> bool:
        return not (self.busy or self.pinned)

    @property
    def may_be_released(self) -> bool:
        return self.may_go and not self.held


@dataclass(frozen=True)
class Snapshot:
    """The pool and the machine at one moment. Bytes.

    Attributes:
        ram_budget: what the models may take together.
        ram_available: RAM that the system can hand out now.
        ram_reserve: RAM that has to stay available.
        needed: what is about to be loaded.
        vram_short: device -> bytes that other programs want back from it.
    """

    entries: tuple[Entry, ...]
    ram_budget: int
    ram_available: int
    ram_reserve: int
    needed: int = 0
    vram_short: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What to do, id -> reason: ``release`` gives RAM and VRAM back, ``unload`` VRAM alone."""

    release: Mapping[str, str]
    unload: Mapping[str, str]


def plan_residency(snapshot: Snapshot) -> Plan:
    """Decide what to let go of. Must not log, wait, or look at a clock."""
    plan = _Planner(snapshot.entries)
    plan.expire()
    plan.release_until(plan.kept_bytes() + snapshot.needed - snapshot.ram_budget, OVER_BUDGET)
    missing = snapshot.ram_reserve + snapshot.needed - snapshot.ram_available - plan.released_bytes()
    plan.release_until(missing, RAM_PRESSURE)
    for device, short in snapshot.vram_short.items():
        plan.unload_until(device, short)
    return Plan(plan.release, plan.unload)


class _Planner:
    def __init__(self, entries: tuple[Entry, ...]) -> None:
        self._oldest_first = sorted(entries, key=lambda entry: -entry.idle_seconds)
        self.release: dict[str, str] = {}
        self.unload: dict[str, str] = {}

    def kept_bytes(self) -> int:
        """What the models take after the plan, also those that others keep: RAM is RAM."""
        return sum(e.ram_bytes for e in self._oldest_first if e.id not in self.release)

    def released_bytes(self) -> int:
        return sum(e.ram_bytes for e in self._oldest_first if e.id in self.release)

    def expire(self) -> None:
        for entry in self._oldest_first:
            if entry.may_go and entry.idle_seconds >= entry.keep_alive:
                if not entry.held:
                    self.release[entry.id] = EXPIRED
                elif entry.vram_bytes:
                    self.unload[entry.id] = EXPIRED

    def release_until(self, missing: int, reason: str) -> None:
        for entry in self._oldest_first:
            if missing <= 0:
                return
            if entry.may_be_released and entry.ram_bytes and entry.id not in self.release:
                self.release[entry.id] = reason
                self.unload.pop(entry.id, None)
                missing -= entry.ram_bytes

    def unload_until(self, device: str, missing: int) -> None:
        there = [e for e in self._oldest_first if e.device == device and e.vram_bytes]
        missing -= sum(e.vram_bytes for e in there if e.id in self.release or e.id in self.unload)
        for entry in there:
            if missing <= 0:
                return
            if entry.may_go and entry.id not in self.release and entry.id not in self.unload:
                self.unload[entry.id] = VRAM_PRESSURE
                missing -= entry.vram_bytes


def seconds_to_next_expiry(entries: tuple[Entry, ...]) -> float | None:
    """Return when :func:`plan_residency` has something new to do by time alone, None for never.

    Models that are busy, pinned or already past their time do not count.
    """
    waits = [e.keep_alive - e.idle_seconds for e in entries if e.may_go and e.idle_seconds < e.keep_alive]
    finite = [wait for wait in waits if wait != float("inf")]
    return min(finite) if finite else None


def default_ram_budget(total_ram: int, headroom: int) -> int:
    """Return the budget where nobody set one: all but twice what ComfyUI wants to see available.

    Once for ComfyUI's own limit, once for what a prompt needs besides models.
    """
    return max(0, total_ram - 2 * headroom)
