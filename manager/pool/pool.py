"""The ledger of loaded models: one copy per file and options, shared by whoever asks for it."""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import HostBusy
from ..files import is_unchanged
from ..host import Host, LoadedParts, LoadRequest, ResidentModel
from ..units import format_bytes
from .model import Moment, PooledModel, PoolKey
from .policy import Entry, Plan, Snapshot, default_ram_budget, plan_residency, seconds_to_next_expiry

log = logging.getLogger("managed_models.pool")

# Give way before ComfyUI's own limit is reached and it drops what the prompt uses.
_RESERVE_FACTOR = 1.25


@dataclass
class _Entry:
    key: PoolKey
    id: str
    title: str
    loader: str
    base: LoadedParts
    keep_alive: float
    last_used: float
    handed_out: Moment
    handles: list[tuple[weakref.ref[object], float]] = field(default_factory=list)
    prompt: str | None = None
    pinned: bool = False

    def living(self) -> list[tuple[weakref.ref[object], float]]:
        self.handles = [(ref, keep) for ref, keep in self.handles if ref() is not None]
        return self.handles

    def is_for_later_than(self, asked: Moment) -> bool:
        """Tell whether it was handed out again since, to another prompt than ran then."""
        return self.handed_out.seconds > asked.seconds and (
            self.handed_out.prompt is None or self.handed_out.prompt != asked.prompt
        )

    def effective_keep_alive(self) -> float:
        """The longest that anyone who has the model asked for, else what was asked for last."""
        return max([self.keep_alive, *(keep for _, keep in self.living())])


class ModelPool:
    """Load each model once, hand out handles, and let go of what rests.

    What is handed out shares the weights and nothing else: a patch on one handle is not seen through
    another. The pool's books follow weak references, so they are right whoever keeps a handle.

    Args:
        host: loads, and tells what memory holds.
        keep_alive: seconds for models that nobody gave a time.
        ram_budget: bytes that idle models may take together; decided from the machine when None.
        vram_reserve: bytes of video memory that other programs may have back; the host's when None.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        host: Host,
        keep_alive: float = 300.0,
        ram_budget: int | None = None,
        vram_reserve: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host = host
        self._keep_alive = keep_alive
        self._ram_budget = ram_budget
        self._vram_reserve = vram_reserve
        self._clock = clock
        self._lock = threading.RLock()
        self._entries: dict[PoolKey, _Entry] = {}
        self._flights: dict[PoolKey, _Flight] = {}
        self._numbers = itertools.count(1)
        self._pinned_paths: set[Path] = set()
        self._changed = threading.Event()
        self.last_reasons: dict[str, str] = {}

    def configure(self, keep_alive: float, ram_budget: int | None, vram_reserve: int | None) -> None:
        """Change what was given at the start; models that are there keep their own times."""
        with self._lock:
            self._keep_alive = keep_alive
            self._ram_budget = ram_budget
            self._vram_reserve = vram_reserve
        self._changed.set()

    # Getting models

    def get(
        self,
        request: LoadRequest,
        loader: str = "",
        keep_alive: float | None = None,
        needed: int = 0,
    ) -> tuple[LoadedParts, bool]:
        """Return a handle on the model, loaded now if it is not there; and whether it was there.

        One load at a time for one model: whoever asks meanwhile waits for it.

        Args:
            loader: who asks, in words.
            keep_alive: seconds to stay after its last use.
            needed: bytes of RAM that loading it will take, as far as known.

        Raises:
            ModelNotFound: a file is not there.
            LoadFailed: the host refused it. Nothing stays behind.
        """
        key = PoolKey.of(request)
        with self._single_flight(key):
            found = self.find(key, loader, keep_alive)
            if found is not None:
                return found, True
            self.forget_replaced(key)
            self.make_room(needed)
            base = self._host.load(request)
            if not all(is_unchanged(file) for file in key.files):
                return base, False  # replaced while it was read: which of the two this is, nobody knows
            return self._add(key, base, loader, keep_alive, shared=None), False

    def find(self, key: PoolKey, loader: str = "", keep_alive: float | None = None) -> LoadedParts | None:
        """Return a handle on a model that is there, None when it is not."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            return self._hand_out(entry, self._host.share(entry.base), keep_alive)

    def adopt(self, key: PoolKey, base: LoadedParts, handle: LoadedParts, loader: str) -> None:
        """Take in a model that somebody else loaded: ``base`` is ours, ``handle`` is theirs."""
        self.forget_replaced(key)
        with self._lock:
            if key not in self._entries:
                self._add(key, base, loader, None, shared=handle)

    def _add(
        self,
        key: PoolKey,
        base: LoadedParts,
        loader: str,
        keep_alive: float | None,
        shared: LoadedParts | None,
    ) -> LoadedParts:
        title = " + ".join(path.stem for path in key.paths)
        now = self.moment()
        with self._lock:
            entry = _Entry(
                key,
                f"model-{next(self._numbers)}",
                title,
                loader,
                base,
                self._keep_alive,
                now.seconds,
                now,
                pinned=bool(self._pinned_paths.intersection(key.paths)),
            )
            self._entries[key] = entry
            handle = self._host.share(base) if shared is None else shared
            return self._hand_out(entry, handle, keep_alive)

    def _hand_out(self, entry: _Entry, handle: LoadedParts, keep_alive: float | None) -> LoadedParts:
        seconds = self._keep_alive if keep_alive is None else keep_alive
        entry.keep_alive = seconds
        entry.handles = [
            *entry.living(),
            *((weakref.ref(part), seconds) for part in self._host.handles(handle)),
        ]
        entry.handed_out = self.moment()
        entry.prompt = entry.handed_out.prompt
        entry.last_used = entry.handed_out.seconds
        self._changed.set()
        return handle

    def moment(self) -> Moment:
        """Return the time by the pool's clock, and the prompt that runs."""
        running = self._host.running()
        return Moment(self._clock(), running.id if running else None)

    @contextmanager
    def _single_flight(self, key: PoolKey) -> Iterator[None]:
        with self._lock:
            flight = self._flights.setdefault(key, _Flight())
            flight.waiting += 1
        try:
            with flight.lock:
                yield
        finally:
            with self._lock:
                flight.waiting -= 1
                if not flight.waiting:
                    self._flights.pop(key, None)

    # Looking

    def __len__(self) -> int:
        return len(self._entries)

    def models(self) -> list[PooledModel]:
        """Return every model of the pool, most recently used first."""
        with self._lock:
            resident = {model.id: model for model in self._host.resident()}
            entries = sorted(self._entries.values(), key=lambda entry: -entry.last_used)
            return [self._describe(entry, resident) for entry in entries]

    def options_of(self, model_id: str) -> str:
        """Return how a model was loaded, in words, by the host's id; empty for one that is not here."""
        with self._lock:
            for key, entry in self._entries.items():
                if model_id in self._host.ids(entry.base):
                    return ", ".join([key.kind.value, *(option for option in key.options if option)])
        return ""

    def touch(self, ids: Iterable[str]) -> None:
        """Note that models are in use now, by the host's ids."""
        wanted = set(ids)
        with self._lock:
            for entry in self._entries.values():
                if wanted.intersection(self._host.ids(entry.base)):
                    entry.last_used = self._clock()

    def seconds_to_next_expiry(self) -> float | None:
        """Return when :meth:`sweep` has something to do by time alone, None for never."""
        with self._lock:
            return seconds_to_next_expiry(tuple(_entry_of(model) for model in self.models()))

    def wake(self) -> None:
        """End :meth:`wait_for_change` early."""
        self._changed.set()

    def wait_for_change(self, seconds: float) -> bool:
        """Wait until a model was handed out or a prompt ended, at most this long."""
        changed = self._changed.wait(seconds)
        self._changed.clear()
        return changed

    def _describe(self, entry: _Entry, resident: Mapping[str, ResidentModel]) -> PooledModel:
        ids = tuple(self._host.ids(entry.base))
        parts = [resident[id] for id in ids if id in resident]
        running = self._host.running()
        keep_alive = entry.effective_keep_alive()
        busy = running is not None and entry.prompt == running.id
        idle = 0.0 if busy else self._clock() - entry.last_used
        return PooledModel(
            key=entry.id,
            ids=ids,
            title=entry.title,
            paths=entry.key.paths,
            loader=entry.loader,
            keep_alive=keep_alive,
            idle_seconds=idle,
            expires_in=None if entry.pinned or math.isinf(keep_alive) else max(0.0, keep_alive - idle),
            pinned=entry.pinned,
            busy=busy,
            held=bool(entry.living()),
            device=parts[0].device if parts else entry.base.device,
            ram_bytes=sum(part.ram_bytes for part in parts) if parts else entry.base.size_bytes,
            vram_bytes=sum(part.loaded_bytes for part in parts),
        )

    # Prompts

    def prompt_ended(self, prompt: str) -> None:
        """Let go of what the prompt was the last to need; called by the thread that carried it out."""
        with self._lock:
            for entry in self._entries.values():
                if entry.prompt == prompt:
                    entry.prompt = None
                    entry.last_used = self._clock()
        self._changed.set()

    # Letting go

    def make_room(self, needed: int) -> None:
        """Let go of what has to go before ``needed`` bytes are loaded, as far as nothing is in the way."""
        try:
            self._carry_out(self.plan(needed))
        except HostBusy:  # loaded beside a running prompt, whose models stay
            pass

    def relieve(self) -> None:
        """Give way if RAM is short; between two nodes, on the thread that carries them out."""
        if self._entries and self._host.ram().available_bytes < self._ram_reserve():
            self.make_room(0)

    def sweep(self) -> bool:
        """Let go of what has rested long enough, or what is short; False when a prompt is in the way."""
        try:
            self._carry_out(self.plan(0))
        except HostBusy:
            return False
        return True

    def plan(self, needed: int) -> Plan:
        """Return what the policy wants now."""
        ram = self._host.ram()
        budget = self._ram_budget
        if budget is None:
            budget = default_ram_budget(ram.total_bytes, self._host.ram_headroom())
        return plan_residency(
            Snapshot(
                entries=tuple(_entry_of(model) for model in self.models()),
                ram_budget=budget,
                ram_available=ram.available_bytes,
                ram_reserve=self._ram_reserve(),
                needed=needed,
                vram_short=self._vram_short(),
            )
        )

    def _ram_reserve(self) -> int:
        return int(self._host.ram_headroom() * _RESERVE_FACTOR)

    def _vram_short(self) -> dict[str, int]:
        """Return by device what other programs are short of, where the platform tells of others."""
        reserve = self._host.vram_reserve() if self._vram_reserve is None else self._vram_reserve
        return {
            use.device: reserve - use.free_bytes
            for use in self._host.device_use()
            if use.others_bytes and use.free_bytes is not None and use.free_bytes < reserve
        }

    def _carry_out(self, plan: Plan) -> None:
        if plan.unload:
            models = {model.key: model for model in self.models()}
            for key, reason in plan.unload.items():
                self._host.unload(models[key].ids)
                log.info("Took %s out of video memory: %s.", models[key].title, reason)
        for key, reason in plan.release.items():
            self.release([key], reason)

    def release(self, keys: Iterable[str], reason: str = "") -> dict[str, int]:
        """Let go of models by the pool's own keys; RAM bytes that nobody else keeps, by key.

        Raises:
            HostBusy: a prompt is running elsewhere.
        """
        given: dict[str, int] = {}
        for wanted in keys:
            with self._host.quiet(), self._lock:  # one model per hold: queueing a prompt waits for this
                entry = next((e for e in self._entries.values() if e.id == wanted), None)
                if entry is None:
                    continue
                description = next(model for model in self.models() if model.key == wanted)
                given[wanted] = 0 if description.held else description.ram_bytes
                del self._entries[entry.key]
                del entry  # the weights go here, if nobody else has them
            self.last_reasons[description.title] = reason
            if reason:
                log.info("Let go of %s (%s): %s.", description.title, format_bytes(given[wanted]), reason)
        if given:
            self._host.give_back()
        return given

    def release_all(self) -> dict[str, int]:
        """Let go of every model, pinned ones too: somebody asked for all memory back."""
        return self.release([model.key for model in self.models()])

    def empty(self, asked: Moment | None = None) -> None:
        """Let go of every model, and have the host unload those that others keep.

        In this order nothing is unloaded that nobody has any more, which may copy all its weights.

        Args:
            asked: when somebody asked for it; a later prompt keeps what it was given since.

        Raises:
            HostBusy: a prompt is running elsewhere, or the host still clears up after one.
        """
        with self._lock:
            entries = list(self._entries.values())
        going = [entry.id for entry in entries if asked is None or not entry.is_for_later_than(asked)]
        kept = len(entries) - len(going)
        del entries
        self.release(going)
        if not kept:
            self._host.unload_all()

    def forget_replaced(self, key: PoolKey) -> None:
        """Let go of models of the same files as they were before they changed on the disk."""
        with self._lock:
            stale = [
                entry.id
                for other, entry in self._entries.items()
                if any(file.path in key.paths and file not in key.files for file in other.files)
            ]
        self.release(stale, "its file was replaced")

    def pinned_paths(self) -> frozenset[Path]:
        """Return the files whose models are kept, loaded or not."""
        with self._lock:
            return frozenset(self._pinned_paths)

    def pin(self, path: Path, pinned: bool = True) -> None:
        """Keep the models of this file until they are unpinned, also those loaded later."""
        with self._lock:
            if pinned:
                self._pinned_paths.add(path)
            else:
                self._pinned_paths.discard(path)
            for entry in self._entries.values():
                entry.pinned = bool(self._pinned_paths.intersection(entry.key.paths))


@dataclass
class _Flight:
    lock: threading.Lock = field(default_factory=threading.Lock)
    waiting: int = 0


def _entry_of(model: PooledModel) -> Entry:
    return Entry(
        id=model.key,
        ram_bytes=model.ram_bytes,
        vram_bytes=model.vram_bytes,
        device=model.device,
        idle_seconds=model.idle_seconds,
        keep_alive=model.keep_alive,
        pinned=model.pinned,
        busy=model.busy,
        held=model.held,
    )
