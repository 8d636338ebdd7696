"""The queue: so many at once, each paused, resumed, cancelled, and found again after a restart."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from managed_models.manager.download.model import DownloadRequest, Outcome
from managed_models.manager.download.partial import Partial
from managed_models.manager.download.service import STALE_PARTIAL_SECONDS, Downloads
from managed_models.manager.errors import (
    AlreadyDownloading,
    BadInput,
    DownloadError,
    DownloadPaused,
    HostNotAllowed,
    ManagedModelsError,
    ModelNotFound,
    NoRoom,
    NotPublic,
)
from managed_models.manager.local_host import LocalHost
from support.downloads import QUICK, Handler, Served, arrived_of, left_of

HOSTS = ("huggingface.co",)
PATIENT = replace(QUICK, stall_seconds=30.0)  # a gate that is closed is no line that stalls


class Gate:
    """An answer that sends half of the file, and the rest when it is opened."""

    def __init__(self, served: Served) -> None:
        self._data = served.data
        self.open = threading.Event()
        self.reached = threading.Semaphore(0)
        self.inside = 0
        self.most = 0
        self._lock = threading.Lock()

    def __call__(self, handler: Handler) -> None:
        first = int(handler.headers["Range"].removeprefix("bytes=").partition("-")[0])
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        try:
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {first}-{len(self._data) - 1}/{len(self._data)}")
            handler.send_header("Content-Length", str(len(self._data) - first))
            handler.send_header("ETag", '"one"')
            handler.end_headers()
            half = max(first, len(self._data) // 2)
            handler.wfile.write(self._data[first:half])
            handler.wfile.flush()
            self.reached.release()
            self.open.wait(10)
            handler.wfile.write(self._data[half:])
        finally:
            with self._lock:
                self.inside -= 1


class Watcher:
    """Looks on, and stops after a while."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.seen: list[tuple[int, int]] = []
        self._stop_at = stop_at

    def throw_if_cancelled(self) -> None:
        if self._stop_at is not None and self.seen and self.seen[-1][0] >= self._stop_at:
            raise KeyboardInterrupt

    def progress(self, done: int, total: int) -> None:
        self.seen.append((done, total))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "models" / "vae"
    path.mkdir(parents=True)
    return path


@pytest.fixture
def make(folder: Path) -> Iterator[Callable[..., Downloads]]:
    made: list[Downloads] = []

    def build(parallel: Sequence[int] = (2,), **options: Any) -> Downloads:
        options.setdefault("limits", PATIENT)
        found = Downloads(
            LocalHost([folder.parent]), lambda: parallel[0], lambda: HOSTS, environ={}, tokens=(), **options
        )
        made.append(found)
        return found

    yield build
    for downloads in made:
        downloads.close()


def ask(served: Served, target: Path, **options: Any) -> DownloadRequest:
    return DownloadRequest(served.url, target, "vae", allow_local=True, **options)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_download_goes_through_its_states(
    served: Served, folder: Path, make: Callable[..., Downloads]
) -> None:
    recorded: list[tuple[DownloadRequest, Outcome]] = []
    downloads = make(record=lambda request, outcome: recorded.append((request, outcome)))
    gate = Gate(served)
    served.misbehave(gate)
    request = ask(served, folder / "a.safetensors", sha256=served.sha256)
    started = downloads.start(request)
    assert (started.id, started.name, started.folder) == (request.id, "a.safetensors", "vae")
    assert started.state in ("queued", "running")
    gate.reached.acquire()
    until(lambda: downloads.get(request.id).bytes_per_second > 0)
    running = downloads.get(request.id)
    assert (running.state, running.total_bytes, running.connections) == ("running", len(served.data), 1)
    assert running.seconds_left is not None
    json.dumps(running.to_dict())
    gate.open.set()
    done = downloads.wait(request.id, 10)
    assert (done.state, done.done_bytes, done.sha256) == ("done", len(served.data), served.sha256)
    assert [(r, o.path, o.fetched) for r, o in recorded] == [(request, request.target, True)]
    assert downloads.states() == [done]


def test_so_many_at_once_and_the_rest_in_order(
    served: Served, folder: Path, make: Callable[..., Downloads]
) -> None:
    downloads = make()
    gate = Gate(served)
    served.misbehave(gate)
    requests = [ask(served, folder / f"{i}.safetensors") for i in range(4)]
    for request in requests:
        downloads.start(request)
    gate.reached.acquire()
    gate.reached.acquire()
    assert [downloads.get(r.id).state for r in requests] == ["running", "running", "queued", "queued"]
    assert downloads.pause(requests[3].id).state == "paused", "while it waits"
    gate.open.set()
    for request in requests[:3]:
        assert downloads.wait(request.id, 10).state == "done"
    assert gate.most == 2
    assert [s.name for s in downloads.states()] == [r.target.name for r in requests]
    assert downloads.resume(requests[3].id).state in ("queued", "running")
    assert downloads.wait(requests[3].id, 10).state == "done"


def test_fewer_at_once_from_the_next_one_on(
    served: Served, folder: Path, make: Callable[..., Downloads]
) -> None:
    limit = [2]
    downloads = make(parallel=limit)
    first, second = Gate(served), Gate(served)
    late = served.server.add("/late.safetensors", served.file)
    served.misbehave(first)
    served.misbehave(second, "/late.safetensors")
    early = [downloads.start(ask(served, folder / f"{i}.safetensors")).id for i in range(2)]
    rest = [
        downloads.start(DownloadRequest(late, folder / f"late{i}.safetensors", allow_local=True)).id
        for i in range(2)
    ]
    first.reached.acquire()
    first.reached.acquire()
    limit[0] = 1
    first.open.set()
    assert [downloads.wait(id, 10).state for id in early] == ["done", "done"]
    second.reached.acquire()
    until(lambda: sum(t.name == "managed-models-download" for t in threading.enumerate()) == 1)
    assert [downloads.get(id).state for id in rest] == ["running", "queued"]
    second.open.set()
    assert [downloads.wait(id, 10).state for id in rest] == ["done", "done"]


def test_pause_keeps_and_resume_goes_on(served: Served, folder: Path, make: Callable[..., Downloads]) -> None:
    downloads = make()
    gate = Gate(served)
    served.misbehave(gate)
    request = ask(served, folder / "a.safetensors")
    downloads.start(request)
    gate.reached.acquire()
    until(lambda: downloads.get(request.id).done_bytes > 100_000)
    paused = downloads.pause(request.id)
    assert (paused.state, paused.error) == ("paused", None)
    assert arrived_of(request.target) == paused.done_bytes > 100_000
    assert downloads.pause(request.id).state == "paused"
    served.behave()
    served.server.sent = 0
    gate.open.set()
    downloads.resume(request.id)
    assert downloads.wait(request.id, 10).state == "done"
    assert request.target.read_bytes() == served.data
    assert served.server.sent == len(served.data) - paused.done_bytes
    assert downloads.resume(request.id).state == "done", "nothing happens to one that is done"


def test_cancel_leaves_nothing(served: Served, folder: Path, make: Callable[..., Downloads]) -> None:
    downloads = make()
    gate = Gate(served)
    served.misbehave(gate)
    request = ask(served, folder / "a.safetensors")
    downloads.start(request)
    gate.reached.acquire()
    assert downloads.cancel(request.id).state == "cancelled"
    assert left_of(request.target) == {}
    downloads.start(request)
    gate.reached.acquire()
    until(lambda: downloads.get(request.id).done_bytes > 0)
    downloads.pause(request.id)
    assert left_of(request.target)
    assert downloads.cancel(request.id).state == "cancelled", "also one that is paused"
    assert left_of(request.target) == {}
    gate.open.set()


def test_after_a_restart_it_is_found_paused_and_never_goes_on_by_itself(
    served: Served, folder: Path, make: Callable[..., Downloads]
) -> None:
    first = make()
    gate = Gate(served)
    served.misbehave(gate)
    request = ask(served, folder / "a.safetensors", sha256=served.sha256)
    first.start(request)
    gate.reached.acquire()
    until(lambda: first.get(request.id).done_bytes > 100_000)
    first.close()
    gate.open.set()
    served.behave()
    served.server.seen.clear()
    second = make()
    (found,) = second.states()
    assert (found.id, found.state, found.name) == (request.id, "paused", "a.safetensors")
    assert found.done_bytes == arrived_of(request.target) > 100_000
    assert (found.total_bytes, found.folder) == (len(served.data), "vae")
    assert served.server.seen == []
    with pytest.raises(NotPublic):  # what was allowed once is not written down
        second.resume(found.id)
    second.start(request)
    assert second.wait(request.id, 10).state == "done"


def test_what_another_program_finished_is_not_listed_any_more(
    served: Served, folder: Path, make: Callable[..., Downloads], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("managed_models.manager.download.service._LOOK_SECONDS", 0.0)
    gate = Gate(served)
    served.misbehave(gate)
    request = ask(served, folder / "a.safetensors")
    first, second = make(), make()
    first.start(request)
    gate.reached.acquire()
    until(lambda: first.get(request.id).done_bytes > 100_000)
    first.pause(request.id)
    assert [state.state for state in second.states()] == ["paused"]
    gate.open.set()
    served.behave()
    first.resume(request.id)
    assert first.wait(request.id, 10).state == "done"
    assert second.states() == []


def test_an_address_with_a_secret_has_to_be_given_again(
    served: Served, folder: Path, make: Callable[..., Downloads]
) -> None:
    gate = Gate(served)
    served.misbehave(gate)
    request = DownloadRequest(served.url + "?token=hush", folder / "a.safetensors", allow_local=True)
    first = make()
    first.start(request)
    gate.reached.acquire()
    until(lambda: first.get(request.id).done_bytes > 100_000)
    first.close()
    gate.open.set()
    second = make()
    (found,) = second.states()
    with pytest.raises(BadInput, match="may be secret"):
        second.resume(found.id)
    assert "hush" not in json.dumps(found.to_dict())
    kept = arrived_of(request.target)
    served.behave()
    served.server.sent = 0
    assert second.wait(second.start(request).id, 10).state == "done"
    assert served.server.sent == len(served.data) - kept


def test_a_failed_one_says_why_and_can_be_resumed(
    served: Served, folder: Path, make: Callable[..., Downloads]
) -> None:
    downloads = make()
    served.misbehave(lambda handler: handler.send_error(404))
    request = ask(served, folder / "a.safetensors")
    downloads.start(request)
    failed = downloads.wait(request.id, 10)
    assert failed.state == "failed"
    assert failed.error is not None
    assert failed.error["code"] == "remote_error"
    assert failed.error["message"]
    assert failed.error["remedy"]
    served.behave()
    downloads.resume(request.id)
    assert downloads.wait(request.id, 10).state == "done"


def test_asking_twice_is_asking_once(served: Served, folder: Path, make: Callable[..., Downloads]) -> None:
    downloads = make()
    gate = Gate(served)
    served.misbehave(gate)
    request = ask(served, folder / "a.safetensors")
    assert downloads.start(request).id == downloads.start(request).id
    other = DownloadRequest(served.url + "?fp=fp16", request.target, allow_local=True)
    with pytest.raises(AlreadyDownloading, match="another address"):
        downloads.start(other)
    gate.open.set()
    assert downloads.wait(request.id, 10).state == "done"
    assert len(served.server.seen) == 1


def test_who_may_be_asked_is_said_at_once(
    served: Served, folder: Path, make: Callable[..., Downloads]
) -> None:
    downloads = make()
    for url, error in (
        (served.url, NotPublic),
        ("https://example.com/a.safetensors", HostNotAllowed),
        ("nonsense", BadInput),
    ):
        with pytest.raises(error):
            downloads.start(DownloadRequest(url, folder / "a.safetensors"))
    assert downloads.states() == []
    assert served.server.seen == []


def test_fetch_shows_progress_and_gives_the_path(
    served: Served, folder: Path, make: Callable[..., Downloads]
) -> None:
    watch = Watcher()
    request = ask(served, folder / "a.safetensors")
    assert make().fetch(request, watch) == request.target
    assert watch.seen[-1] == (len(served.data), len(served.data))


def test_fetch_that_is_stopped_pauses(served: Served, folder: Path, make: Callable[..., Downloads]) -> None:
    downloads = make()
    gate = Gate(served)
    served.misbehave(gate)
    request = ask(served, folder / "a.safetensors")
    with pytest.raises(KeyboardInterrupt):
        downloads.fetch(request, Watcher(stop_at=100_000))
    assert downloads.get(request.id).state == "paused"
    assert arrived_of(request.target) > 100_000
    gate.open.set()
    served.behave()
    assert downloads.fetch(request) == request.target


def test_fetch_that_only_joined_leaves_the_download_alone(
    served: Served, folder: Path, make: Callable[..., Downloads]
) -> None:
    downloads = make()
    gate = Gate(served)
    served.misbehave(gate)
    request = ask(served, folder / "a.safetensors")
    downloads.start(request)
    with pytest.raises(KeyboardInterrupt):
        downloads.fetch(request, Watcher(stop_at=0))
    gate.open.set()
    assert downloads.wait(request.id, 10).state == "done"


def test_fetch_raises_what_went_wrong(served: Served, folder: Path, make: Callable[..., Downloads]) -> None:
    downloads = make()
    gate = Gate(served)
    served.misbehave(gate)
    request = ask(served, folder / "a.safetensors")
    failures: list[ManagedModelsError] = []

    def work() -> None:
        try:
            downloads.fetch(request)
        except ManagedModelsError as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    gate.reached.acquire()
    downloads.pause(request.id)
    thread.join()
    gate.open.set()
    assert isinstance(failures[0], DownloadPaused)


def test_room_is_shared_with_what_runs_already(
    served: Served, folder: Path, make: Callable[..., Downloads], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk has room for one and a half: the second is told, with what the first still needs."""
    size = len(served.data)
    monkeypatch.setattr("managed_models.manager.download.service.free_bytes", lambda folder: size * 5 // 4)
    downloads = make()
    gate = Gate(served)
    served.misbehave(gate)
    first, second = (ask(served, folder / f"{i}.safetensors") for i in range(2))
    downloads.start(first)
    gate.reached.acquire()
    until(lambda: downloads.get(first.id).total_bytes is not None)
    downloads.start(second)
    failed = downloads.wait(second.id, 10)
    assert failed.error is not None
    assert failed.error["code"] == NoRoom.code
    assert "other downloads will take" in failed.error["message"]
    gate.open.set()
    assert downloads.wait(first.id, 10).state == "done"


def test_a_disk_without_room_is_told_before_anything_is_written(
    served: Served, folder: Path, make: Callable[..., Downloads], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("managed_models.manager.download.service.free_bytes", lambda folder: 1000)
    with pytest.raises(NoRoom, match="needs 293 KB more"):
        make().fetch(ask(served, folder / "a.safetensors"))
    assert list(folder.iterdir()) == []


def test_what_nobody_went_on_with_for_two_weeks_is_removed_and_nothing_younger(
    served: Served, folder: Path, make: Callable[..., Downloads]
) -> None:
    downloads = make()
    gate = Gate(served)
    served.misbehave(gate)
    request = ask(served, folder / "a.safetensors")
    downloads.start(request)
    gate.reached.acquire()
    until(lambda: downloads.get(request.id).done_bytes > 0)
    downloads.pause(request.id)
    gate.open.set()
    now = Partial(request.target).newest()
    assert downloads.clean(now + STALE_PARTIAL_SECONDS - 60) == []
    with Partial(request.target).lock():
        assert downloads.clean(now + STALE_PARTIAL_SECONDS + 60) == [], "somebody is at it"
    assert downloads.clean(now + STALE_PARTIAL_SECONDS + 60) == [Partial(request.target).path]
    assert left_of(request.target) == {}


def test_unknown_ids_and_a_closed_queue(served: Served, folder: Path, make: Callable[..., Downloads]) -> None:
    downloads = make()
    for call in (downloads.get, downloads.pause, downloads.resume, downloads.cancel, downloads.wait):
        with pytest.raises(ModelNotFound):
            call("nothing")
    downloads.close()
    with pytest.raises(DownloadError, match="closed"):
        downloads.start(ask(served, folder / "a.safetensors"))


def test_a_note_that_cannot_be_written_does_not_lose_the_file(
    served: Served, folder: Path, make: Callable[..., Downloads]
) -> None:
    def fail(request: DownloadRequest, outcome: Outcome) -> None:
        raise OSError("no")

    request = ask(served, folder / "a.safetensors")
    assert make(record=fail).fetch(request).read_bytes() == served.data
