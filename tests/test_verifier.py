"""Verifying in the background: one at a time, between prompts, and to be stopped."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from managed_models.manager.errors import BadInput, HostBusy
from managed_models.manager.files import FileIdentity
from managed_models.manager.host import ModelFile, RunningPrompt
from managed_models.manager.integrity import Integrity
from managed_models.manager.local_host import LocalHost
from managed_models.manager.registry import Registry
from managed_models.manager.verifier import Verifier
from managed_models.manager.words.integrity import job_line
from support.files import raw_file, shapes_file


class Host(LocalHost):
    """A host on which a prompt runs when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.prompt: RunningPrompt | None = None
        self.asked = threading.Event()

    def running(self) -> RunningPrompt | None:
        if self.prompt is not None:
            self.asked.set()
        return self.prompt


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def verifier(host: Host, registry: Registry) -> Iterator[Verifier]:
    found = Verifier(host, Integrity(registry, lambda path: None))
    yield found
    found.close()


@pytest.fixture
def files(tmp_path: Path) -> list[ModelFile]:
    """Three good files and a broken one."""
    paths = [shapes_file(tmp_path / f"{n}.safetensors", {"a": (1000,)}) for n in range(3)]
    paths.append(raw_file(tmp_path / "cut.safetensors", '{"a": '))
    return [ModelFile("loras", path.name, path) for path in paths]


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def done(verifier: Verifier) -> dict[str, object]:
    until(lambda: not verifier.state()["running"])
    return verifier.state()


def test_nothing_ran_yet(verifier: Verifier) -> None:
    state = verifier.state()
    assert (state["running"], state["total"], state["damaged"]) == (False, 0, [])
    assert job_line(state) == "Nothing was verified yet."
    assert verifier.cancel() is False


def test_every_file_is_verified_and_what_is_damaged_is_named(
    verifier: Verifier, registry: Registry, files: list[ModelFile]
) -> None:
    verifier.start(files)
    state = done(verifier)
    assert (state["done"], state["total"], state["cancelled"], state["model"]) == (4, 4, False, "")
    assert state["done_bytes"] == state["total_bytes"] == sum(f.path.stat().st_size for f in files)
    damaged = state["damaged"]
    assert isinstance(damaged, list)
    assert [(row["model"], row["folder"], row["code"]) for row in damaged] == [
        ("cut.safetensors", "loras", "invalid_header")
    ]
    assert str(files[0].path.parent) not in str(state)
    assert job_line(state) == "4 of 4 files verified, 1 damaged."
    assert [file.path for file, _ in registry.unhealthy()] == [files[3].path]
    assert len(registry.known_sha256()) == 3


def test_it_waits_while_a_prompt_runs(
    host: Host, verifier: Verifier, registry: Registry, files: list[ModelFile]
) -> None:
    host.prompt = RunningPrompt("1", None, None)
    verifier.start(files)
    host.asked.wait(60)
    until(lambda: bool(verifier.state()["paused"]))
    state = verifier.state()
    assert (state["done"], state["running"]) == (0, True)
    assert job_line(state) == "Verifying: 0 of 4 files, none damaged (waiting while a prompt runs)"
    assert registry.known_sha256() == {}
    host.prompt = None
    assert done(verifier)["done"] == 4


@pytest.mark.parametrize("prompt", [False, True], ids=["reading", "waiting"])
def test_it_may_be_stopped(
    host: Host, verifier: Verifier, registry: Registry, tmp_path: Path, prompt: bool
) -> None:
    if prompt:
        host.prompt = RunningPrompt("1", None, None)
    path = tmp_path / "large.safetensors"
    shapes_file(path, {"a": (1 << 31,)})  # 4 GB of zeros that take no room
    verifier.start([ModelFile("loras", path.name, path)])
    until(lambda: host.asked.is_set() if prompt else bool(verifier.state()["done_bytes"]))
    assert verifier.cancel() is True
    state = done(verifier)
    assert (state["done"], state["cancelled"]) == (0, True)
    assert job_line(state) == "Stopped after 0 of 1 files, none damaged."
    assert registry.health(FileIdentity.of(path)) is None


def test_one_job_at_a_time(host: Host, verifier: Verifier, files: list[ModelFile]) -> None:
    host.prompt = RunningPrompt("1", None, None)
    verifier.start(files)
    with pytest.raises(HostBusy, match="4 files are being verified already, 0 are done"):
        verifier.start(files)
    host.prompt = None
    done(verifier)
    verifier.start(files[:1])
    assert done(verifier)["total"] == 1


def test_nothing_to_verify(verifier: Verifier) -> None:
    with pytest.raises(BadInput, match="nothing to verify"):
        verifier.start([])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a priority for each thread")
def test_it_lets_others_go_first(
    host: Host, verifier: Verifier, files: list[ModelFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    host.prompt = RunningPrompt("1", None, None)
    verifier.start(files)
    host.asked.wait(60)
    thread = next(t for t in threading.enumerate() if t.name == "managed-models-verify")
    assert thread.native_id is not None
    assert os.getpriority(os.PRIO_PROCESS, thread.native_id) == 15
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) < 15
    host.prompt = None
    done(verifier)
