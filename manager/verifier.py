"""Verifying in the background of a running ComfyUI: one thread that waits while a prompt runs."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .errors import BadInput, Cancelled, HostBusy
from .host import Host, ModelFile
from .integrity import Integrity

log = logging.getLogger("managed_models.verifier")

_LOOK_SECONDS = 0.25  # how soon it goes on after a prompt
_NICE = 15


@dataclass
class _Job:
    files: Sequence[ModelFile]
    total_bytes: int
    done: int = 0
    done_bytes: int = 0
    model: str = ""
    paused: bool = False
    cancelled: bool = False
    running: bool = True
    results: list[dict[str, Any]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)


class Verifier:
    """Verify files one after the other, at low priority, between prompts. Started by a person only.

    Args:
        host: says whether a prompt is running.
        integrity: verifies a file and keeps the result.
    """

    def __init__(self, host: Host, integrity: Integrity) -> None:
        self._host = host
        self._integrity = integrity
        self._lock = threading.Lock()
        self._job: _Job | None = None
        self._thread: threading.Thread | None = None

    def start(self, files: Sequence[ModelFile]) -> None:
        """Begin.

        Raises:
            BadInput: there is nothing to verify.
            HostBusy: it is at it already.
        """
        if not files:
            raise BadInput("There is nothing to verify.", "Name a model file, or put one into a folder.")
        with self._lock:
            if self._job is not None and self._job.running:
                raise HostBusy(
                    f"{len(self._job.files)} files are being verified already, {self._job.done} are done.",
                    "Wait until that is done, or cancel it.",
                )
            self._job = _Job(list(files), sum(_size(file) for file in files))
            self._thread = threading.Thread(
                target=self._run, args=(self._job,), name="managed-models-verify", daemon=True
            )
            self._thread.start()

    def cancel(self) -> bool:
        """Stop as soon as the next piece of a file is read; False when nothing runs."""
        with self._lock:
            job = self._job
        if job is None or not job.running:
            return False
        job.stop.set()
        return True

    def close(self) -> None:
        """Stop, and wait for that."""
        self.cancel()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def state(self) -> dict[str, Any]:
        """Return how far the job is, or how the last one ended; ``words.integrity.job_line`` gives words.

        Files are named as loaders list them; no path is said.
        """
        with self._lock:
            job = self._job or _Job([], 0, running=False)
            return {
                "running": job.running,
                "paused": job.paused and job.running,
                "cancelled": job.cancelled,
                "done": job.done,
                "total": len(job.files),
                "done_bytes": job.done_bytes,
                "total_bytes": job.total_bytes,
                "model": job.model if job.running else "",
                "damaged": [result for result in job.results if not result["ok"]],
            }

    def _run(self, job: _Job) -> None:
        _lower_priority()
        try:
            for file in job.files:
                watch = _Watch(self._host, job)
                watch.throw_if_cancelled()
                job.model = file.name
                result = self._integrity.verify(file.path, watch)
                with self._lock:
                    job.results.append({**result, "model": file.name, "folder": file.folder})
                    job.done += 1
                    job.done_bytes = watch.before + _size(file)
                if not result["ok"]:
                    log.warning("%s is damaged: %s", file.name, result["problem"])
        except Cancelled:
            job.cancelled = True
        except Exception:
            log.exception("Verifying failed")
            job.cancelled = True
        finally:
            job.running = False


class _Watch:
    """Waits while a prompt runs, and stops when a person says so."""

    def __init__(self, host: Host, job: _Job) -> None:
        self._host = host
        self._job = job
        self.before = job.done_bytes

    def throw_if_cancelled(self) -> None:
        while not self._job.stop.is_set() and self._host.running() is not None:
            self._job.paused = True
            self._job.stop.wait(_LOOK_SECONDS)
        self._job.paused = False
        if self._job.stop.is_set():
            raise Cancelled("Verifying was stopped.", "What was found so far is kept.")

    def progress(self, done: int, total: int) -> None:
        self._job.done_bytes = self.before + done


def _size(file: ModelFile) -> int:
    try:
        return file.path.stat().st_size
    except OSError:
        return 0


def _lower_priority() -> None:
    """Let every other thread go first; only Linux has a priority for each thread."""
    if sys.platform == "linux":
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        except OSError:  # not allowed: it then runs like the others
            pass
