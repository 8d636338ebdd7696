"""The monitor: what it records, when, what it learns from a prompt, and what it says of trouble."""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from managed_models.manager.files import FileIdentity
from managed_models.manager.host import (
    DeviceUse,
    LoadRequest,
    ProcessMemory,
    PromptError,
    PromptOutcome,
    Ram,
    ResidentModel,
    RunningPrompt,
)
from managed_models.manager.local_host import LocalHost
from managed_models.manager.model import ModelType
from managed_models.manager.monitor import Monitor, Sample
from managed_models.manager.monitor.prompt import Moment, PromptRecord
from managed_models.manager.monitor.sample import POINTS, interval, summarise, take_sample
from managed_models.manager.monitor.trouble import Limits, exhausted_memory, low_memory
from managed_models.manager.pool import ModelPool
from managed_models.manager.registry import PeakKey, Registry
from managed_models.manager.report import render_post_mortem
from managed_models.manager.units import GB
from support.files import shapes_file

OOM = PromptError("3", "KSampler", "torch.OutOfMemoryError", "CUDA out of memory. Tried to allocate 2 GiB")


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Machine(LocalHost):
    """A machine whose memory and prompts a test sets."""

    def __init__(self) -> None:
        super().__init__()
        self.available, self.anonymous = 20 * GB, 2 * GB
        self.models: list[ResidentModel] = []
        self.devices_in_use: list[DeviceUse] = []
        self.prompt: RunningPrompt | None = None
        self.outcomes: dict[str, PromptOutcome] = {}
        self.looks = 0

    def ram(self) -> Ram:
        return Ram(32 * GB, self.available)

    def ram_headroom(self) -> int:
        return 3 * GB

    def memory(self) -> ProcessMemory:
        return ProcessMemory(self.anonymous + GB, GB)

    def resident(self) -> Sequence[ResidentModel]:
        self.looks += 1
        return [*self.models, *super().resident()]

    def device_use(self) -> Sequence[DeviceUse]:
        return self.devices_in_use

    def running(self) -> RunningPrompt | None:
        return self.prompt

    def outcome(self, prompt_id: str) -> PromptOutcome | None:
        return self.outcomes.get(prompt_id)


class World:
    """A monitor without its thread, on a machine and a clock that a test sets."""

    def __init__(self) -> None:
        self.machine, self.clock, self.registry = Machine(), Clock(), Registry()
        self.pool = ModelPool(self.machine)
        self.monitor = Monitor(self.machine, self.pool, self.registry, clock=self.clock)

    def look(self, after: float = 0.0) -> float:
        self.clock.now += after
        return self.monitor.look()

    def begin(self, prompt: str = "p", node_type: str = "KSampler") -> None:
        self.machine.prompt = RunningPrompt(prompt, "3", node_type)
        self.monitor.prompt_started(prompt)
        self.look()

    def end(self, prompt: str = "p", outcome: PromptOutcome | None = None) -> None:
        self.monitor.prompt_ended(prompt)
        self.look()
        self.machine.prompt = None
        self.machine.outcomes[prompt] = outcome or PromptOutcome(True)
        self.look(0.1)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.registry.close()


def use(
    free: float | None = 6,
    torch: float | None = 5,
    others: float | None = 0.5,
    total: float = 12,
    device: str = "cuda:0",
) -> DeviceUse:
    def size(gigabytes: float | None) -> int | None:
        return None if gigabytes is None else int(gigabytes * GB)

    return DeviceUse(device, "RTX 3060", int(total * GB), size(free), size(torch), size(others))


def resident(id: str = "1", loaded: float = 4, ram: float = 1, path: Path | None = None) -> ResidentModel:
    return ResidentModel(id, f"wan{id}", path, "cuda:0", 5 * GB, int(loaded * GB), int(ram * GB))


def sample(time: float = 0.0, available: float = 20, **facts: Any) -> Sample:
    known: dict[str, Any] = {
        "anonymous_bytes": 2 * GB,
        "mapped_bytes": GB,
        "devices": (),
        "models_bytes": 0,
    }
    return Sample(time, 32 * GB, int(available * GB), **(known | facts))


# How often


@given(running=st.booleans(), watched=st.booleans(), watched_seconds=st.floats(0.01, 1000))
def test_the_interval_keeps_its_promises(running: bool, watched: bool, watched_seconds: float) -> None:
    seconds = interval(running, watched, watched_seconds)
    assert 0 < seconds <= 30
    if running:
        assert seconds <= 0.2
    if watched:
        assert seconds <= watched_seconds
    if not running and not watched:
        assert seconds == 30


def test_idle_it_samples_every_thirty_seconds_and_glances_every_second(world: World) -> None:
    for _ in range(61):
        assert world.look(1.0) <= 1.0
    assert [s.time - 1_000_001 for s in world.monitor.history(3600)] == [0, 30, 60]
    assert world.machine.looks == 3


def test_while_somebody_looks_it_samples_every_two_seconds_for_ten(world: World) -> None:
    world.look()
    world.clock.now += 7
    world.monitor.watch()
    times = []
    for _ in range(40):
        world.look(0.5)
        times.append(world.monitor.history(3600)[-1].time - 1_000_007)
    assert sorted(set(times)) == [0.5, 2.5, 4.5, 6.5, 8.5]


def test_while_a_prompt_runs_it_samples_five_times_a_second(world: World) -> None:
    world.begin()
    spent = 0.0
    while spent < 10:
        wait = world.look()
        assert wait > 0
        spent += wait
        world.clock.now += wait
    assert len(world.monitor.history(10)) >= 50


def test_a_prompt_that_starts_is_sampled_at_once(world: World) -> None:
    world.look()
    world.clock.now += 0.01
    world.begin()
    assert [s.prompt for s in world.monitor.history(60)] == [None, "p"]


def test_a_prompt_that_nobody_tells_of_is_noticed(world: World) -> None:
    world.look()
    world.machine.prompt = RunningPrompt("old comfyui", None, None)
    world.look(1.0)
    assert world.look() <= 0.2
    world.machine.prompt = None
    world.machine.outcomes["old comfyui"] = PromptOutcome(True)
    world.look(0.1)
    assert world.look() > 0.2
    assert [s.prompt for s in world.monitor.history(60)] == [None, "old comfyui", None]


def test_a_prompt_that_has_just_ended_does_not_start_again(world: World) -> None:
    world.begin()
    world.monitor.prompt_ended("p")  # ComfyUI lists it as running for a moment longer
    world.look()
    world.machine.outcomes["p"] = PromptOutcome(True)
    world.look(0.1)
    assert world.look(0.1) > 0.2


def test_the_next_prompt_ends_one_whose_end_was_not_told(world: World) -> None:
    world.begin("a")
    world.machine.outcomes["a"] = PromptOutcome(False, OOM)
    world.begin("b")
    assert world.monitor.last_post_mortem is not None
    assert world.monitor.last_post_mortem["prompt_id"] == "a"


def test_a_clock_that_is_set_back_does_not_stop_it(world: World) -> None:
    world.look()
    assert world.look(-5000.0) <= 1.0
    assert len(world.monitor.history(10)) == 1


def test_an_hour_is_kept(world: World) -> None:
    for _ in range(200):
        world.look(30.0)
    times = [s.time for s in world.monitor.history(math.inf)]
    assert len(times) == 121
    assert world.clock.now - times[0] == 3600


def test_what_is_told_while_no_thread_listens_is_bounded(world: World) -> None:
    for number in range(5000):
        world.monitor.prompt_started(str(number))
    assert len(world.monitor._told) <= 1000


# The thread


def test_the_thread_samples_and_stops(world: World) -> None:
    arrived = threading.Event()
    take, world.machine.resident = world.machine.resident, lambda: (arrived.set(), take())[1]  # type: ignore[method-assign]
    world.monitor.start()
    world.monitor.start()
    assert arrived.wait(10)
    assert [t.name for t in threading.enumerate()].count("managed-models-monitor") == 1
    world.monitor.stop()
    assert "managed-models-monitor" not in [t.name for t in threading.enumerate()]
    assert world.monitor.history(60)


def test_a_look_that_fails_is_logged_once_and_tried_again(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()
    tries = []

    def fail() -> Sequence[ResidentModel]:
        tries.append(1)
        if len(tries) == 3:
            failed.set()
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(world.machine, "resident", fail)
    monkeypatch.setattr("managed_models.manager.monitor.monitor._GLANCE_SECONDS", 0.01)
    world.monitor.start()
    assert failed.wait(10)
    world.monitor.stop()
    assert sum("could not be looked at" in record.message for record in caplog.records) == 1


def test_telling_never_waits_for_a_look(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, go = threading.Event(), threading.Event()

    def wait() -> Sequence[ResidentModel]:
        inside.set()
        go.wait(10)
        return []

    monkeypatch.setattr(world.machine, "resident", wait)
    world.monitor.start()
    assert inside.wait(10)
    world.monitor.prompt_started("p")
    world.monitor.sampling_started(["1"], (1, 4, 8, 8))
    world.monitor.sampling_ended(["1"])
    world.monitor.prompt_ended("p")
    world.monitor.watch()
    assert world.monitor.history(60) == []
    go.set()
    world.monitor.stop()


# Samples


def test_a_sample_has_every_figure_and_is_json_safe(world: World) -> None:
    world.machine.devices_in_use = [use()]
    world.machine.prompt = RunningPrompt("p", "3", "KSampler")
    found = take_sample(world.machine, [resident()], 12.5)
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()
    assert found == Sample(12.5, 32 * GB, 20 * GB, 2 * GB, GB, (use(),), 5 * GB, "p", "3", "KSampler")


def test_where_the_mapped_part_is_unknown_so_is_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    monkeypatch.setattr(machine, "memory", lambda: ProcessMemory(3 * GB, None))
    found = take_sample(machine, [], 0.0)
    assert (found.anonymous_bytes, found.mapped_bytes) == (None, None)


_samples = st.lists(
    st.builds(
        sample,
        time=st.floats(0, 1000),
        available=st.floats(0, 32),
        devices=st.lists(
            st.builds(
                use,
                free=st.one_of(st.none(), st.floats(0, 12)),
                torch=st.one_of(st.none(), st.floats(0, 12)),
                device=st.sampled_from(["cuda:0", "cuda:1"]),
            ),
            max_size=2,
            unique_by=lambda found: found.device,
        ).map(tuple),
    ),
    max_size=40,
).map(lambda found: sorted(found, key=lambda one: one.time))


@settings(deadline=None)
@given(samples=_samples, seconds=st.floats(10, 3600))
def test_a_summary_loses_no_peak(samples: list[Sample], seconds: float) -> None:
    found = summarise(samples, seconds, 1000.0)
    assert json.loads(json.dumps(found)) == found
    inside = [s for s in samples if 1000 - s.time <= seconds]
    points = found["points"]
    assert found["samples"] == len(inside)
    assert found["ram_peak_bytes"] == max((s.ram_used_bytes for s in inside), default=None)
    assert max(points["ram_bytes"], default=None) == found["ram_peak_bytes"]
    assert len(points["seconds_ago"]) == len(points["ram_bytes"]) == len(points["busy"]) <= POINTS
    assert points["seconds_ago"] == sorted(points["seconds_ago"], reverse=True)
    for device, line in zip(found["devices"], points["device_bytes"], strict=True):
        assert len(line) == len(points["ram_bytes"])
        assert max((y for y in line if y is not None), default=None) == device["peak_bytes"]


def test_a_summary_names_the_node_at_the_peak() -> None:
    samples = [
        sample(1, 10, node_type="KSampler", prompt="p", devices=(use(free=6),)),
        sample(2, 12, node_type="VAEDecode", prompt="p", devices=(use(free=1),)),
    ]
    found = summarise(samples, 60, 10.0)
    assert (found["ram_peak_bytes"], found["ram_peak_node"]) == (22 * GB, "KSampler")
    assert found["devices"] == [
        {
            "device": "cuda:0",
            "name": "RTX 3060",
            "total_bytes": 12 * GB,
            "peak_bytes": 11 * GB,
            "peak_node": "VAEDecode",
        }
    ]


# What a prompt took


def file(tmp_path: Path, name: str = "wan") -> Path:
    return shapes_file(tmp_path / f"{name}.safetensors", {"a.weight": (16, 16)}, "F32")


def test_the_most_that_a_prompt_took_is_kept(world: World, tmp_path: Path) -> None:
    path = file(tmp_path)
    world.machine.devices_in_use = [use(free=11, others=0.5)]
    world.begin()
    world.monitor.sampling_started(["1"], (1, 16, 21, 60, 104))
    world.machine.models = [resident(path=path)]
    world.machine.anonymous = 7 * GB
    world.machine.devices_in_use = [use(free=2, others=0.5)]
    world.look(0.2)
    world.monitor.sampling_ended(["1"])
    world.look(0.01)
    world.machine.anonymous = 3 * GB
    world.machine.devices_in_use = [use(free=11, others=0.5)]
    world.end()
    (peak,) = world.registry.peaks(FileIdentity.of(path))
    system = world.machine.system()
    assert peak.key == PeakKey(
        FileIdentity.of(path),
        f"static, {5 * GB} bytes",
        "1x16x21x60x104",
        "RTX 3060",
        "",
        system.torch_version or "",
    )
    assert (peak.vram_bytes, peak.ram_bytes, peak.count) == (int(9.5 * GB), 5 * GB, 1)


def test_on_a_cpu_there_is_no_vram(world: World, tmp_path: Path) -> None:
    path = file(tmp_path)
    loaded = world.machine.load(LoadRequest(path, ModelType.DIFFUSION))
    world.begin()
    world.monitor.sampling_started(world.machine.ids(loaded), (1, 4, 8, 8))
    world.look(0.2)
    world.end()
    (peak,) = world.registry.peaks(FileIdentity.of(path))
    assert (peak.vram_bytes, peak.key.device) == (None, "cpu")


@pytest.mark.parametrize("outcome", [PromptOutcome(False), PromptOutcome(False, OOM)])
def test_a_prompt_that_did_not_complete_teaches_nothing(
    world: World, tmp_path: Path, outcome: PromptOutcome
) -> None:
    path = file(tmp_path)
    world.machine.models = [resident(path=path)]
    world.begin()
    world.monitor.sampling_started(["1"], (1, 4, 8, 8))
    world.look(0.2)
    world.end(outcome=outcome)
    assert world.registry.peaks(FileIdentity.of(path)) == []


def test_nothing_is_kept_for_models_that_did_not_sample_or_have_no_file(world: World, tmp_path: Path) -> None:
    path, gone = file(tmp_path), tmp_path / "gone.safetensors"
    world.machine.models = [resident("1", path=path), resident("2"), resident("3", path=gone)]
    world.begin()
    world.monitor.sampling_started(["2", "3", "never seen"], (1, 4, 8, 8))
    world.look(0.2)
    world.end()
    assert world.registry.peaks(FileIdentity.of(path)) == []


def test_writing_is_left_to_the_writer(tmp_path: Path) -> None:
    made = World()
    waiting: list[Any] = []
    made.monitor = Monitor(made.machine, made.pool, made.registry, waiting.append, clock=made.clock)
    path = file(tmp_path)
    made.machine.models = [resident(path=path)]
    made.begin()
    made.monitor.sampling_started(["1"], (1, 4, 8, 8))
    made.look(0.2)
    made.end()
    assert made.registry.peaks(FileIdentity.of(path)) == []
    for write in waiting:
        write()
    assert len(made.registry.peaks(FileIdentity.of(path))) == 1
    made.registry.close()


def test_of_several_shapes_the_largest_counts() -> None:
    record = PromptRecord("p", 0.0)
    for shape in ((1, 4, 8, 8), (1, 4, 32, 32), (1, 4, 16, 16)):
        record.note_sampling(["1"], shape)
    record.add(Moment(sample(), (resident(),)))
    assert [found.shape for found in record.uses()] == [(1, 4, 32, 32)]


def test_growth_of_a_prompt_that_was_noticed_late_counts_from_before() -> None:
    before = sample(0.0, anonymous_bytes=GB)
    for earlier, growth in ((before, 4 * GB), (None, 2 * GB)):
        record = PromptRecord("p", 1.0, earlier)
        record.note_sampling(["1"], (1,))
        for anonymous in (3, 5):
            record.add(Moment(sample(1.0, anonymous_bytes=anonymous * GB), (resident(),)))
        assert record.uses()[0].ram_bytes == growth


_moments = st.lists(st.tuples(st.floats(0, 32), st.floats(0, 12), st.floats(0, 3)), min_size=1, max_size=30)


@given(moments=_moments, on_device=st.booleans())
def test_the_worst_moment_is_the_fullest_near_the_end(
    moments: list[tuple[float, float, float]], on_device: bool
) -> None:
    record = PromptRecord("p", 0.0)
    time = 0.0
    samples = []
    for available, free, pause in moments:
        time += pause
        samples.append(sample(time, available, devices=(use(free=free),)))
        record.add(Moment(samples[-1], ()))
    found = record.worst_moment(on_device)
    assert found is not None
    near = [s for s in samples if time - s.time <= 5.0]
    assert found.sample in near

    def left(one: Sample) -> int:
        return one.devices[0].free_bytes or 0 if on_device else one.ram_available_bytes

    assert left(found.sample) == min(left(s) for s in near)


@given(
    steps=st.lists(
        st.tuples(st.one_of(st.none(), st.integers(0, 2**40)), st.floats(0, 12)), min_size=1, max_size=30
    )
)
def test_peaks_are_never_less_than_any_sample(steps: list[tuple[int | None, float]]) -> None:
    record = PromptRecord("p", 0.0)
    record.note_sampling(["1"], (1,))
    for anonymous, free in steps:
        moment = sample(0.0, anonymous_bytes=anonymous, devices=(use(free=free, others=None),))
        record.add(Moment(moment, (resident(),)))
    (found,) = record.uses()
    known = [anonymous for anonymous, _ in steps if anonymous is not None]
    assert found.ram_bytes == (max(known) - known[0] if known else None)
    assert found.vram_bytes == max(12 * GB - int(free * GB) for _, free in steps)


# Before it runs out


@given(available=st.integers(0, 32 * GB), headroom=st.integers(0, 10 * GB))
def test_ram_is_short_below_half_of_what_the_host_wants(available: int, headroom: int) -> None:
    words = low_memory(sample(available=available / GB), Limits(headroom))
    assert (words is not None) == (int(available / GB * GB) < headroom / 2)


@pytest.mark.parametrize(
    ("device", "warns"),
    [
        (use(free=0.1, others=4), True),
        (use(free=0.1, others=0.5), False),  # ComfyUI's own models: it fills a card on purpose
        (use(free=0.1, others=None), False),
        (use(free=None, others=4), False),
        (use(free=3, others=4), False),
    ],
)
def test_vram_is_short_where_other_programs_squeeze(device: DeviceUse, warns: bool) -> None:
    words = low_memory(sample(devices=(use(), device)), Limits(3 * GB))
    assert (words is not None) == warns
    if words:
        assert "4.0 GB of 12.0 GB" in words


def test_a_prompt_is_warned_once_and_the_next_one_again(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    for prompt in ("a", "b"):
        caplog.clear()
        world.machine.available = 20 * GB
        world.begin(prompt)
        assert world.monitor.last_warning is None
        world.machine.available = GB
        for _ in range(5):
            world.look(0.2)
        world.end(prompt)
        (record,) = caplog.records
        assert (record.name, record.levelno) == ("managed_models.monitor", logging.WARNING)
        assert record.message.startswith("RAM is nearly used up at KSampler: 1.0 GB of 32.0 GB is left.")
        assert world.monitor.last_warning is not None
        assert world.monitor.facts(300)["warning"]["message"] == record.message


def test_nobody_is_warned_while_nothing_runs(world: World) -> None:
    world.machine.available = GB
    world.look()
    assert world.monitor.last_warning is None


# After it ran out


@pytest.mark.parametrize(
    ("kind", "message", "memory"),
    [
        ("torch.OutOfMemoryError", "CUDA out of memory. Tried to allocate 2.00 GiB.", "VRAM"),
        ("torch.cuda.OutOfMemoryError", "HIP out of memory.", "VRAM"),
        ("RuntimeError", "MPS backend out of memory (MPS allocated: 9 GB)", "VRAM"),
        ("torch.AcceleratorError", "CUDA error: out of memory", "VRAM"),
        ("MemoryError", "", "RAM"),
        ("numpy._core._exceptions._ArrayMemoryError", "Unable to allocate 3.1 GiB for an array", "RAM"),
        ("RuntimeError", "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't", "RAM"),
        ("RuntimeError", "DefaultCPUAllocator: not enough memory: you tried to allocate 4 bytes.", "RAM"),
        ("OSError", "[Errno 12] Cannot allocate memory", "RAM"),
        ("OSError", "The paging file is too small for this operation to complete.", "RAM"),
        ("ValueError", "mat1 and mat2 shapes cannot be multiplied", None),
        ("RuntimeError", "CUDA error: an illegal memory access was encountered", None),
    ],
)
def test_memory_that_ran_out_is_told_from_other_errors(kind: str, message: str, memory: str | None) -> None:
    error = PromptError("1", "KSampler", kind, message)
    assert exhausted_memory(error) == memory
    assert exhausted_memory(error, has_device=False) == (memory and "RAM")


def test_the_post_mortem_shows_what_was_there_before_comfyui_let_go_of_it(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world.machine.devices_in_use = [use(free=0.2, others=3)]
    world.machine.models = [resident("1", path=file(tmp_path))]
    world.begin(node_type="VAEDecode")
    world.look(0.2)
    world.machine.devices_in_use = [use(free=9, others=3)]
    world.machine.models = []
    world.look(0.2)
    error = PromptError("9", "VAEDecode", OOM.exception_type, OOM.message)
    world.end(outcome=PromptOutcome(False, error))
    found = world.monitor.last_post_mortem
    assert found is not None
    assert json.loads(json.dumps(found)) == found
    assert (found["memory"], found["node"], found["node_type"]) == ("VRAM", "9", "VAEDecode")
    assert [(m["title"], m["loaded_bytes"]) for m in found["models"]] == [("wan1", 4 * GB)]
    assert found["devices"][0]["free_bytes"] == int(0.2 * GB)
    assert str(tmp_path) not in json.dumps(found)
    errors = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert errors == [render_post_mortem(found)]
    assert render_post_mortem(found) == (
        "VRAM ran out at VAEDecode (node 9). Just before:\n"
        "  RTX 3060: 205 MB free of 12.0 GB of VRAM, 3.0 GB held by other programs\n"
        "  RAM: 20.0 GB available of 32.0 GB\n"
        "  wan1: 4.0 GB on cuda:0, 1.0 GB in RAM\n"
        "What helps:\n"
        "  Use VAE Decode (Tiled) in place of VAE Decode.\n"
        "  Close other programs that use the GPU: they held 3.0 GB.\n"
        "  Make the image smaller, with fewer frames, or with a batch_size of 1.\n"
        "  Use a smaller variant of the model: QuantizeModel makes one."
    )


def test_the_post_mortem_tells_pinned_and_resting_models_from_the_prompts_own(
    world: World, tmp_path: Path
) -> None:
    paths = [file(tmp_path, name) for name in ("pinned", "resting", "used")]
    seconds = [0.0]
    world.pool = ModelPool(world.machine, clock=lambda: seconds[0])
    world.monitor = Monitor(world.machine, world.pool, world.registry, clock=world.clock)
    world.pool.pin(paths[0])
    held = [world.pool.get(LoadRequest(path, ModelType.DIFFUSION)) for path in paths[:2]]
    seconds[0] = 100.0
    world.begin()
    held.append(world.pool.get(LoadRequest(paths[2], ModelType.DIFFUSION)))
    world.look(0.2)
    world.end(outcome=PromptOutcome(False, PromptError("1", "KSampler", "MemoryError", "")))
    found = world.monitor.last_post_mortem
    assert found is not None
    facts = {model["title"]: (model["pinned"], model["kept"]) for model in found["models"]}
    assert facts == {"pinned": (True, True), "resting": (False, True), "used": (False, False)}
    assert found["remedies"][:2] == [
        "Unpin what this workflow does not need: pinned.",
        "Unload what this workflow does not need: resting.",
    ]
    del held


def test_another_error_is_no_matter_of_memory(world: World) -> None:
    world.begin()
    world.end(outcome=PromptOutcome(False, PromptError("1", "KSampler", "ValueError", "no")))
    assert world.monitor.last_post_mortem is None


def test_an_outcome_that_comes_later_is_waited_for(world: World) -> None:
    world.begin()
    world.monitor.prompt_ended("p")
    for _ in range(5):
        assert world.look(0.1) <= 0.1
    world.machine.prompt = None
    world.machine.outcomes["p"] = PromptOutcome(False, OOM)
    world.look(0.1)
    assert world.monitor.last_post_mortem is not None
    assert world.look(0.1) > 0.1


def test_an_outcome_that_never_comes_is_given_up(world: World) -> None:
    world.begin()
    world.monitor.prompt_ended("p")
    world.look()
    world.machine.prompt = None
    world.look(11.0)
    assert world.look(0.01) > 0.1


def test_old_trouble_is_not_reported_any_more(world: World) -> None:
    world.machine.available = GB
    world.begin()
    world.end(outcome=PromptOutcome(False, OOM))
    world.clock.now += 90
    facts = world.monitor.facts(300)
    assert facts["post_mortem"]["seconds_ago"] == pytest.approx(90, abs=1)
    assert facts["warning"]["seconds_ago"] == pytest.approx(90, abs=1)
    world.clock.now += 3600
    facts = world.monitor.facts(300)
    assert (facts["warning"], facts["post_mortem"]) == (None, None)
