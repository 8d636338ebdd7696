"""The queue of downloads: so many at once, the rest in order; each may be paused, resumed, or cancelled."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ..errors import (
    AlreadyDownloading,
    BadInput,
    Cancelled,
    DownloadError,
    DownloadPaused,
    ManagedModelsError,
    ModelNotFound,
)
from ..host import Host
from ..remote.address import parse_address
from ..remote.reach import Reach
from ..remote.tokens import TOKENS, Token
from ..watch import Watch
from .limits import Limits
from .look import Job, state_of
from .model import (
    CANCEL,
    CANCELLED,
    DONE,
    FAILED,
    PAUSE,
    PAUSED,
    QUEUED,
    RUNNING,
    DownloadRequest,
    DownloadState,
    Outcome,
)
from .partial import Journal, Partial, check_room, find_partials
from .target import device_of, free_bytes

log = logging.getLogger("managed_models.download")

_LOOK_SECONDS = 60.0
_POLL_SECONDS = 0.1
_CLOSE_SECONDS = 15.0
_KEPT_ENDED = 100
STALE_PARTIAL_SECONDS = 14 * 24 * 3600.0


class Downloads:
    """Every download of this process, and the unfinished ones of earlier processes.

    Args:
        host: its folders are where unfinished downloads are looked for.
        parallel: how many may run at once.
        hosts: names of the hosts that may be asked, unless a request says any.
        record: called with each file that is in its place now.
        limits, environ, tokens: for tests.
    """

    def __init__(
        self,
        host: Host,
        parallel: Callable[[], int],
        hosts: Callable[[], Sequence[str]],
        record: Callable[[DownloadRequest, Outcome], None] = lambda request, outcome: None,
        limits: Limits | None = None,
        environ: Mapping[str, str] = os.environ,
        tokens: Sequence[Token] = TOKENS,
    ) -> None:
        self.limits = limits or Limits()
        self._host = host
        self._parallel = parallel
        self._hosts = hosts
        self._record = record
        self._environ = environ
        self._tokens = tokens
        self._jobs: dict[str, Job] = {}
        self._queue: deque[Job] = deque()
        self._workers = 0
        self._lock = threading.RLock()
        self._room_lock = threading.Lock()
        self._looked_at: float | None = None
        self._closed = False

    # Asking for files

    def start(self, request: DownloadRequest) -> DownloadState:
        """Queue a download and return at once; one that runs already is returned as it is.

        Raises:
            BadInput, NotPublic, HostNotAllowed: its address may not be asked.
            AlreadyDownloading: something else is being downloaded to that place.
        """
        return state_of(self._start(request)[0])

    def fetch(self, request: DownloadRequest, watch: Watch | None = None) -> Path:
        """Get a file and return when it is there. When the watch raises, the download is paused.

        Raises:
            DownloadPaused, Cancelled: somebody stopped it elsewhere.
            ManagedModelsError: it could not be had.
        """
        job, is_new = self._start(request)
        try:
            while not job.ended.wait(_POLL_SECONDS):
                if watch is not None:
                    _tell(watch, state_of(job))
                    watch.throw_if_cancelled()
        except BaseException:
            if is_new:
                self._stop(job, PAUSE)
                job.ended.wait(_CLOSE_SECONDS)
            raise
        if watch is not None:
            _tell(watch, state_of(job))
        if job.failure is not None:
            raise job.failure
        return request.target

    def wait(self, id: str, timeout: float | None = None) -> DownloadState:
        """Return a download's state once it has ended, or when the time (in seconds) is up.

        Raises:
            ModelNotFound: there is no such download.
        """
        job = self._job(id)
        job.ended.wait(timeout)
        return state_of(job)

    # Looking at them

    def states(self) -> list[DownloadState]:
        """Return every download, those of earlier processes included, in order."""
        self._look_for_partials()
        with self._lock:
            jobs = list(self._jobs.values())
        return [state_of(job) for job in jobs]

    def get(self, id: str) -> DownloadState:
        """Return one download.

        Raises:
            ModelNotFound: there is no such download.
        """
        return state_of(self._job(id))

    def outcome(self, id: str) -> Outcome:
        """Return what came of a download that is done.

        Raises:
            ModelNotFound: there is no such download, or it is not done.
        """
        outcome = self._job(id).outcome
        if outcome is None:
            raise ModelNotFound("That download is not done.", "Wait for it.")
        return outcome

    # Changing them

    def pause(self, id: str) -> DownloadState:
        """Stop a download and keep what has arrived; nothing happens to one that has ended.

        Raises:
            ModelNotFound: there is no such download.
        """
        job = self._job(id)
        self._stop(job, PAUSE)
        job.ended.wait(_CLOSE_SECONDS)
        return state_of(job)

    def resume(self, id: str) -> DownloadState:
        """Queue a download again that is paused, has failed or was cancelled.

        Raises:
            ModelNotFound: there is no such download.
            BadInput: its address had a secret in it, which is not kept.
        """
        job = self._job(id)
        if not job.ended.is_set() or job.state == DONE:
            return state_of(job)
        if not job.whole_url:
            raise BadInput(
                f"The address of {job.request.target.name} had something in it that may be secret, so it was "
                "not written down.",
                "Start the download again with its whole address: what has arrived is kept.",
            )
        return self.start(job.request)

    def cancel(self, id: str) -> DownloadState:
        """Stop a download and remove what has arrived.

        Raises:
            ModelNotFound: there is no such download.
            AlreadyDownloading: another program is at it.
        """
        job = self._job(id)
        self._stop(job, CANCEL)
        job.ended.wait(_CLOSE_SECONDS)
        if job.state in (PAUSED, FAILED):
            partial = Partial(job.request.target)
            with partial.lock():
                partial.discard()
            job.state, job.failure, job.transfer, job.journal = CANCELLED, None, None, None
        return state_of(job)

    def close(self) -> None:
        """Pause everything, and wait for it."""
        with self._lock:
            self._closed = True
            jobs = list(self._jobs.values())
        for job in jobs:
            self._stop(job, PAUSE)
        deadline = time.monotonic() + _CLOSE_SECONDS
        for job in jobs:
            job.ended.wait(max(0.0, deadline - time.monotonic()))

    def clean(self, now: float | None = None) -> list[Path]:
        """Remove what unfinished downloads left that nobody went on with for two weeks."""
        now = time.time() if now is None else now
        removed = []
        for folder in {folder.path for folder in self._host.folders()}:
            for partial in list(find_partials(folder)):
                if partial.newest() > now - STALE_PARTIAL_SECONDS or partial.is_locked():
                    continue
                try:
                    with partial.lock():
                        partial.discard()
                except ManagedModelsError as error:
                    log.warning("%s", error)
                else:
                    removed.append(partial.path)
        return removed

    def reach(self, request: DownloadRequest) -> Reach:
        """Return whom a request may ask.

        Raises:
            BadInput: a variable of the environment names no host.
        """
        hosts = None if request.any_host else tuple(self._hosts())
        return Reach.from_environment(self._environ, hosts, request.allow_local)

    def check(self, request: DownloadRequest) -> None:
        """Refuse what may not be asked, from its text alone.

        Raises:
            BadInput, NotPublic, HostNotAllowed: see :meth:`Reach.check`.
        """
        reach = self.reach(request)
        reach.check(reach.at_mirror(parse_address(request.url, allow_local=True).url))

    # The queue

    def _start(self, request: DownloadRequest) -> tuple[Job, bool]:
        self.check(request)
        with self._lock:
            if self._closed:
                raise DownloadError("This manager is closed.", "Make a new one.")
            known = self._jobs.get(request.id)
            if known is not None and not known.ended.is_set():
                if known.request.url != request.url:
                    raise AlreadyDownloading(
                        f"{request.target.name} is being downloaded from another address.",
                        "Cancel that download, or give another name.",
                    )
                return known, False
            job = Job(request)
            self._jobs.pop(request.id, None)
            self._jobs[request.id] = job
            self._queue.append(job)
            self._forget_ended()
            if self._workers < self._parallel():
                self._workers += 1
                threading.Thread(target=self._work, name="managed-models-download", daemon=True).start()
        return job, True

    def _forget_ended(self) -> None:
        ended = [id for id, job in self._jobs.items() if job.state in (DONE, CANCELLED)]
        for id in ended[: max(0, len(ended) - _KEPT_ENDED)]:
            del self._jobs[id]

    def _work(self) -> None:
        while (job := self._next_job()) is not None:
            self._run(job)

    def _next_job(self) -> Job | None:
        from .transfer import Transfer  # with requests, which the start need not wait for

        with self._lock:
            while self._queue:
                job = self._queue.popleft()
                if job.state == QUEUED and self._workers <= self._parallel():
                    job.state = RUNNING
                    job.transfer = Transfer(
                        job.request,
                        self.reach(job.request),
                        lambda needed, job=job: self._check_room(job, needed),  # type: ignore[misc]
                        self.limits,
                        self._environ,
                        self._tokens,
                    )
                    return job
                if job.state == QUEUED:  # fewer may run than before
                    self._queue.appendleft(job)
                    break
            self._workers -= 1
            return None

    def _run(self, job: Job) -> None:
        assert job.transfer is not None
        try:
            outcome = job.transfer.run()
            self._tell(job.request, outcome)
            job.outcome, state = outcome, DONE
        except DownloadPaused as error:
            job.failure, state = error, PAUSED
        except Cancelled as error:
            job.failure, state = error, CANCELLED
        except ManagedModelsError as error:
            job.failure, state = error, FAILED
            log.warning("%s", error)
        except Exception as error:  # one download must not end the queue
            log.exception("The download of %s failed", job.request.target.name)
            job.failure = DownloadError(
                f"{job.request.target.name} could not be downloaded: {type(error).__name__}.",
                "Look into the log, and tell us.",
            )
            state = FAILED
        with self._lock:
            job.state = state
            job.ended.set()

    def _tell(self, request: DownloadRequest, outcome: Outcome) -> None:
        try:
            self._record(request, outcome)
        except Exception:  # the file is there and whole; a note about it is not worth failing for
            log.exception("What %s is could not be recorded", request.target.name)

    def _stop(self, job: Job, why: str) -> None:
        with self._lock:
            if job.state == QUEUED:
                if job in self._queue:
                    self._queue.remove(job)
                job.state = PAUSED
                job.failure = DownloadPaused(f"{job.request.target.name} is paused.", "Start it again.")
                job.ended.set()
            elif job.transfer is not None and not job.ended.is_set():
                job.transfer.stop(why)

    def _check_room(self, job: Job, needed: int) -> None:
        """Refuse what the disk has no room for, counting what other downloads still need."""
        folder = job.request.target.parent
        free = free_bytes(folder)
        if free is None:
            return
        with self._room_lock:
            device = device_of(folder)
            others = [
                state
                for other, state in self._running()
                if other is not job and device_of(other.request.target.parent) == device
            ]
            promised = sum(max(0, (s.total_bytes or 0) - s.done_bytes) for s in others)
            check_room(job.request.target.name, needed, free, promised)

    def _running(self) -> Iterator[tuple[Job, DownloadState]]:
        with self._lock:
            jobs = [job for job in self._jobs.values() if job.state == RUNNING and job.transfer is not None]
        for job in jobs:
            yield job, state_of(job)

    # States

    def _job(self, id: str) -> Job:
        with self._lock:
            job = self._jobs.get(id)
        if job is None:
            self._look_for_partials()
            with self._lock:
                job = self._jobs.get(id)
        if job is None:
            raise ModelNotFound("There is no such download.", "Look at the list of downloads again.")
        return job

    def _look_for_partials(self) -> None:
        """Find what earlier processes left unfinished."""
        now = time.monotonic()
        with self._lock:
            if self._looked_at is not None and now - self._looked_at < _LOOK_SECONDS:
                return
            self._looked_at = now
        found = {}
        for kind, folder in self._host.folders():
            for partial in find_partials(folder):
                journal = partial.load()
                job = None if journal is None else _found_job(partial, journal, kind)
                if job is not None:
                    found[job.request.id] = job
        with self._lock:
            for id, job in list(self._jobs.items()):
                if job.transfer is None and job.journal is not None:  # found earlier: it may have moved on
                    del self._jobs[id]
            for id, job in found.items():
                self._jobs.setdefault(id, job)


def _found_job(partial: Partial, journal: Journal, kind: str) -> Job | None:
    """Return the download that a journal tells of, None for one that nothing of ours wrote."""
    try:
        request = DownloadRequest(
            journal.url, partial.target, journal.folder or kind, journal.sha256, None, journal.connections
        )
    except BadInput:
        return None
    failure = DownloadPaused(f"{request.target.name} is paused.", "Resume it.")
    job = Job(request, PAUSED, journal=journal, failure=failure, whole_url=journal.whole_url)
    job.ended.set()
    return job


def _tell(watch: Watch, state: DownloadState) -> None:
    if state.total_bytes:
        watch.progress(min(state.done_bytes, state.total_bytes), state.total_bytes)
