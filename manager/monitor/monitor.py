"""The thread that looks at memory while prompts run, while somebody looks, and now and then."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import takewhile
from typing import Any

from ..errors import ModelNotFound
from ..files import FileIdentity
from ..hardware import open_nvml
from ..host import Host, PromptOutcome, ResidentModel, SystemSnapshot
from ..library import is_storable
from ..pool import ModelPool
from ..registry import PeakKey, Registry
from ..report import render_post_mortem
from .prompt import Moment, PromptRecord, Use
from .sample import IDLE_SECONDS, RUNNING_SECONDS, Sample, interval, summarise, take_sample
from .trouble import VRAM, Limits, exhausted_memory, low_memory, post_mortem

log = logging.getLogger("managed_models.monitor")

KEPT_SECONDS = 3600.0
_KEPT_SAMPLES = int(KEPT_SECONDS / RUNNING_SECONDS)
_WATCH_SECONDS = 10.0
_GLANCE_SECONDS = 1.0  # an older ComfyUI tells nobody that a prompt starts
# ComfyUI writes a prompt's history a moment after it tells of the prompt's end.
_OUTCOME_SECONDS = 10.0
_OUTCOME_GLANCE_SECONDS = 0.1
_UNTOLD = 1000  # what is told while no thread listens


def loaded_as(model: ResidentModel) -> str:
    """Return how a model was loaded, in words that tell one precision from another."""
    return f"{model.kind}, {model.size_bytes} bytes"


class Monitor:
    """Sample memory, and keep what is learned from it.

    What happens is told from the thread that carries out prompts, which never waits here: everything
    else is done in a daemon thread of the monitor's own.

    Args:
        registry: gets the peak of every prompt that sampled with a known file.
        defer: runs a write that nobody waits for.
        watched_seconds: from one sample to the next while somebody looks.
        options: how a model was loaded, in words: peaks of different options are kept apart.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        host: Host,
        pool: ModelPool,
        registry: Registry,
        defer: Callable[[Callable[[], None]], None] = lambda write: write(),
        watched_seconds: float = 2.0,
        options: Callable[[ResidentModel], str] = loaded_as,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._host, self._pool, self._registry, self._defer = host, pool, registry, defer
        self._watched_seconds = watched_seconds
        self._options = options
        self._clock = clock
        self._told: deque[Callable[[], None]] = deque(maxlen=_UNTOLD)
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._samples: deque[Sample] = deque(maxlen=_KEPT_SAMPLES)
        self._sampled_at: float | None = None
        self._watched_until = 0.0
        self._prompt: PromptRecord | None = None
        self._ended: str | None = None
        self._open: list[tuple[PromptRecord, float]] = []
        self._limits: Limits | None = None
        self._system: SystemSnapshot | None = None
        self._failing = False
        self.last_warning: dict[str, Any] | None = None
        self.last_post_mortem: dict[str, Any] | None = None

    def start(self) -> None:
        """Begin, if it does not run yet."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._stop.clear()
                self._thread = threading.Thread(target=self._run, name="managed-models-monitor", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """End after the look that is being taken, and wait for that."""
        self._stop.set()
        self._wake.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    # What is told

    def prompt_started(self, prompt_id: str) -> None:
        """Note that a prompt begins."""
        self._tell(partial(self._begin, prompt_id))

    def prompt_ended(self, prompt_id: str) -> None:
        """Note that a prompt is done, one way or the other."""
        self._tell(partial(self._end, prompt_id))

    def sampling_started(self, model_ids: Sequence[str], shape: tuple[int, ...]) -> None:
        """Note that the running prompt samples with these models of the host, at this latent shape."""
        self._tell(partial(self._note_sampling, tuple(model_ids), tuple(shape)))

    def sampling_ended(self, model_ids: Sequence[str]) -> None:
        """Note that it is done sampling with them."""
        self._tell(self._look_now)

    def watch(self) -> None:
        """Note that somebody looks, now and probably in a moment again."""
        self._watched_until = self._clock() + _WATCH_SECONDS
        self._wake.set()

    def _tell(self, news: Callable[[], None]) -> None:
        self._told.append(news)
        self._wake.set()

    # What is known

    def history(self, seconds: float) -> list[Sample]:
        """Return the samples of the last ``seconds``, oldest first; those of an hour are kept."""
        since = self._clock() - seconds
        with self._lock:
            newest = takewhile(lambda sample: sample.time >= since, reversed(self._samples))
            return list(newest)[::-1]

    def facts(self, seconds: float) -> dict[str, Any]:
        """Return what the memory report says of the time until now. JSON-safe.

        ``history`` is None where nobody ever looked: outside ComfyUI.
        """
        now = self._clock()
        idle = self._thread is None and not self._samples
        return {
            "history": None if idle else summarise(self.history(seconds), seconds, now),
            "warning": _with_age(self.last_warning, now),
            "post_mortem": _with_age(self.last_post_mortem, now),
        }

    # The thread

    def _run(self) -> None:
        with open_nvml():
            while not self._stop.is_set():
                try:
                    wait = self.look()
                    self._failing = False
                except Exception:  # the thread outlives a failed look; the next one may succeed
                    if not self._failing:
                        log.exception("Memory could not be looked at; tried again, without saying so")
                    self._failing, wait = True, _GLANCE_SECONDS
                self._wake.wait(wait)
                self._wake.clear()

    def look(self) -> float:
        """Take in what was told, take a sample if one is due, and return the seconds to the next look."""
        while self._told:
            self._told.popleft()()
        self._glance()
        now = self._clock()
        if self._seconds_left(now) <= 0:
            self._sample(now)
        self._open = [entry for entry in self._open if not self._settled(*entry, now)]
        wait = min(self._seconds_left(self._clock()), _GLANCE_SECONDS)
        return max(0.0, min(wait, _OUTCOME_GLANCE_SECONDS) if self._open else wait)

    def _seconds_left(self, now: float) -> float:
        """Return the seconds until a sample is due; a clock that was set back makes it due."""
        if self._sampled_at is None or now < self._sampled_at:
            return 0.0
        pause = interval(self._prompt is not None, now < self._watched_until, self._watched_seconds)
        return self._sampled_at + pause - now

    def _glance(self) -> None:
        """Notice what nobody told: a prompt that runs, or that does not run any more."""
        running = self._host.running()
        if running is None:
            if self._prompt is not None:
                self._end(self._prompt.id)
        elif running.id != self._ended:
            self._begin(running.id, noticed=True)

    def _begin(self, prompt_id: str, noticed: bool = False) -> None:
        if self._prompt is not None:
            if self._prompt.id == prompt_id:
                return
            self._end(self._prompt.id)
        self._prompt = PromptRecord(prompt_id, self._clock(), self._last_sample() if noticed else None)
        self._limits = Limits(self._host.ram_headroom())
        self.last_warning = None
        self._look_now()

    def _end(self, prompt_id: str) -> None:
        self._ended = prompt_id
        if self._prompt is None or self._prompt.id != prompt_id:
            return
        now = self._clock()
        self._sample(now)
        self._open.append((self._prompt, now + _OUTCOME_SECONDS))
        self._prompt = None

    def _note_sampling(self, ids: tuple[str, ...], shape: tuple[int, ...]) -> None:
        if self._prompt is None:
            self._glance()
        if self._prompt is not None:
            self._prompt.note_sampling(ids, shape)
        self._look_now()

    def _look_now(self) -> None:
        self._sampled_at = None

    def _sample(self, now: float) -> None:
        models = tuple(self._host.resident())
        sample = take_sample(self._host, models, now)
        self._sampled_at = now
        with self._lock:
            while self._samples and not 0 <= now - self._samples[0].time <= KEPT_SECONDS:
                self._samples.popleft()
            self._samples.append(sample)
        if self._prompt is not None:
            self._prompt.add(Moment(sample, models))
            self._warn(self._prompt.id, sample)

    def _last_sample(self) -> Sample | None:
        """Return the last sample, unless it is too old to say what memory was before something began."""
        if not self._samples or self._clock() - self._samples[-1].time > 2 * IDLE_SECONDS:
            return None
        return self._samples[-1]

    def _warn(self, prompt_id: str, sample: Sample) -> None:
        """Say once per prompt that memory is nearly used up."""
        if self.last_warning is not None or self._limits is None:
            return
        words = low_memory(sample, self._limits)
        if words is not None:
            self.last_warning = {"time": sample.time, "prompt_id": prompt_id, "message": words}
            log.warning("%s", words)

    # After a prompt

    def _settled(self, prompt: PromptRecord, deadline: float, now: float) -> bool:
        """Learn from how the prompt ended; False while that is not known and may still come."""
        outcome = self._host.outcome(prompt.id)
        if outcome is None:
            return now > deadline
        if outcome.completed:
            for use in prompt.uses():
                self._keep(use)
        elif outcome.error is not None:
            self._explain(prompt, outcome)
        return True

    def _keep(self, use: Use) -> None:
        """Hand the peak to the registry's writer, if the model's file is known and there."""
        path = use.model.path
        if path is None or not is_storable(str(path)):
            return
        try:
            file = FileIdentity.of(path)
        except ModelNotFound:
            return
        if self._system is None:
            self._system = self._host.system()
        key = PeakKey(
            file,
            self._options(use.model),
            "x".join(str(size) for size in use.shape),
            use.device,
            self._system.comfyui_version or "",
            self._system.torch_version or "",
        )
        self._defer(partial(self._registry.put_peak, key, use.vram_bytes, use.ram_bytes))

    def _explain(self, prompt: PromptRecord, outcome: PromptOutcome) -> None:
        """Say what was in memory when it ran out, if that was the error."""
        error = outcome.error
        assert error is not None
        memory = exhausted_memory(error, bool(self._host.device_use()))
        moment = prompt.worst_moment(memory == VRAM) if memory else None
        if memory is None or moment is None:
            return
        pooled = {id: model for model in self._pool.models() for id in model.ids}
        seconds = self._clock() - prompt.began
        found = post_mortem(prompt.id, error, memory, moment, pooled, seconds)
        self.last_post_mortem = found
        log.error("%s", render_post_mortem(found))


def _with_age(facts: dict[str, Any] | None, now: float) -> dict[str, Any] | None:
    """Return the facts with how long ago they were, None when there are none or they are old news."""
    if facts is None or now - facts["time"] > KEPT_SECONDS:
        return None
    return {**facts, "seconds_ago": round(max(0.0, now - facts["time"]), 1)}
