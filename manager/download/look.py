"""How a download stands, as frozen facts."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..errors import ManagedModelsError
from ..remote.address import shown
from .model import CANCELLED, CHECKING, FAILED, QUEUED, RUNNING, DownloadRequest, DownloadState, Outcome
from .partial import Journal, arrived

if TYPE_CHECKING:
    from .transfer import Transfer


@dataclass
class Job:
    """One download as the queue knows it.

    Attributes:
        journal: of one that an earlier process left unfinished.
        whole_url: False when a part of the address was not written down, as it may be secret.
    """

    request: DownloadRequest
    state: str = QUEUED
    transfer: Transfer | None = None
    journal: Journal | None = None
    failure: ManagedModelsError | None = None
    outcome: Outcome | None = None
    whole_url: bool = True
    ended: threading.Event = field(default_factory=threading.Event)


def state_of(job: Job) -> DownloadState:
    """Return how a download stands now."""
    request = job.request
    state = DownloadState(
        request.id,
        request.target.name,
        request.folder,
        shown(request.url),
        job.state,
        total_bytes=request.size_bytes,
    )
    if job.outcome is not None:
        size = job.outcome.size_bytes
        return replace(state, done_bytes=size, total_bytes=size, sha256=job.outcome.sha256)
    if job.transfer is not None and job.state != CANCELLED:
        state = _with_transfer(state, job.transfer)
    elif job.journal is not None:
        state = replace(state, done_bytes=arrived(job.journal), total_bytes=job.journal.total)
    if job.state == FAILED and job.failure is not None:
        found = job.failure
        error = {"code": found.code, "message": found.message, "remedy": found.remedy}
        state = replace(state, error=error)
    return state


def _with_transfer(state: DownloadState, transfer: Transfer) -> DownloadState:
    done, total = transfer.done_bytes, transfer.total_bytes
    state = replace(state, done_bytes=done, total_bytes=total)
    if state.state != RUNNING:
        return state
    if transfer.phase == CHECKING:
        return replace(state, state=CHECKING)
    rate = transfer.bytes_per_second
    left = None if total is None or rate <= 0 else max(0, total - done) / rate
    return replace(state, bytes_per_second=rate, seconds_left=left, connections=transfer.connections)
