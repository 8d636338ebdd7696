"""The ledger of loaded models, over real files and the bare host."""

from __future__ import annotations

import dataclasses
import gc
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from managed_models.manager.errors import HostBusy, LoadFailed, ModelNotFound
from managed_models.manager.host import (
    DeviceUse,
    LoadedParts,
    LoadRequest,
    Ram,
    ResidentModel,
    RunningPrompt,
)
from managed_models.manager.local_host import LocalHost, Tensors
from managed_models.manager.model import ModelType
from managed_models.manager.pool import Keeper, ModelPool, PooledModel, PoolKey
from support.files import shapes_file

SHAPES = {"blocks.0.weight": (256, 256)}
BYTES = 256 * 256 * 2
TIGHT = Ram(100 * BYTES, 0)


class Machine(LocalHost):
    """The bare host with a clock, a prompt, and RAM that a test sets."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.loads: list[LoadRequest] = []
        self.available = Ram(1000 * BYTES, 1000 * BYTES)
        self.headroom = 0
        self.prompt: RunningPrompt | None = None
        self.busy = False
        self.forgetting = False  # as ComfyUI's worker is, until it has dropped its cached results
        self.left: list[int] = []  # how many models there were when the host unloaded all
        self.before_load = lambda: None

    def load(self, request: LoadRequest) -> LoadedParts:
        self.loads.append(request)
        self.before_load()
        return super().load(request)

    def ram(self) -> Ram:
        return self.available

    def ram_headroom(self) -> int:
        return self.headroom

    def running(self) -> RunningPrompt | None:
        return self.prompt

    def unload_all(self) -> None:
        if self.forgetting:
            raise HostBusy("Results are being forgotten.", "Try again.")
        self.left.append(len(self.resident()))

    @contextmanager
    def quiet(self) -> Iterator[None]:
        if self.busy:
            raise HostBusy("A prompt is running.", "Try again.")
        yield


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def pool(machine: Machine) -> ModelPool:
    return make_pool(machine)


def make_pool(machine: Machine, budget: int | None = None) -> ModelPool:
    return ModelPool(machine, keep_alive=300, ram_budget=budget, clock=lambda: machine.now)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return [shapes_file(tmp_path / f"{name}.safetensors", SHAPES) for name in "abcd"]


def request(path: Path, dtype: str = "default") -> LoadRequest:
    return LoadRequest(path, ModelType.DIFFUSION, dtype, "bf16")


def titles(models: Sequence[PooledModel]) -> list[str]:
    return [model.title for model in models]


# Sharing


def test_a_model_is_loaded_once(machine: Machine, pool: ModelPool, paths: list[Path]) -> None:
    first, was_there = pool.get(request(paths[0]))
    assert not was_there
    second, was_there = pool.get(request(paths[0]))
    assert was_there
    assert len(machine.loads) == 1
    assert first.model is not second.model
    for name, tensor in first.model.items():
        assert second.model[name] is tensor


def test_what_is_done_to_one_handle_is_not_seen_through_another(pool: ModelPool, paths: list[Path]) -> None:
    first, _ = pool.get(request(paths[0]))
    first.model.clear()
    second, _ = pool.get(request(paths[0]))
    assert set(second.model) == set(SHAPES)
    second.model.clear()  # not the first load either
    third, _ = pool.get(request(paths[0]))
    assert set(third.model) == set(SHAPES)


def test_other_options_and_other_files_are_other_models(
    machine: Machine, pool: ModelPool, paths: list[Path]
) -> None:
    for wanted in (request(paths[0]), request(paths[0], "fp32"), request(paths[1])):
        pool.get(wanted)
    assert len(machine.loads) == 3
    assert len(pool) == 3


def test_as_stored_is_the_same_as_naming_the_stored_type(
    machine: Machine, pool: ModelPool, paths: list[Path]
) -> None:
    pool.get(request(paths[0], "as_stored"))
    assert pool.get(request(paths[0], "bf16"))[1]


def test_the_same_file_as_another_kind_is_another_model(paths: list[Path]) -> None:
    diffusion = PoolKey.of(request(paths[0]))
    assert diffusion != PoolKey.of(dataclasses.replace(request(paths[0]), kind=ModelType.CHECKPOINT))
    assert diffusion != PoolKey.of(dataclasses.replace(request(paths[0]), device="cpu"))
    assert diffusion == PoolKey.of(request(paths[0]))


def test_whoever_asks_during_a_load_waits_for_it(
    machine: Machine, pool: ModelPool, paths: list[Path]
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def pause() -> None:
        begun.set()
        assert go_on.wait(10)

    machine.before_load = pause
    found: list[bool] = []
    threads = [
        threading.Thread(target=lambda: found.append(pool.get(request(paths[0]))[1])) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    assert begun.wait(10)
    go_on.set()
    for thread in threads:
        thread.join()
    assert sorted(found) == [False, True, True, True]
    assert len(machine.loads) == 1


# Faults


def test_a_load_that_fails_leaves_nothing_and_the_next_may_succeed(
    machine: Machine, pool: ModelPool, paths: list[Path]
) -> None:
    def fail() -> None:
        raise LoadFailed("half way", "try again")

    machine.before_load = fail
    with pytest.raises(LoadFailed):
        pool.get(request(paths[0]))
    assert pool.models() == []
    machine.before_load = lambda: None
    assert pool.get(request(paths[0]))[1] is False


def test_an_interrupt_during_a_load_leaves_nothing(
    machine: Machine, pool: ModelPool, paths: list[Path]
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    machine.before_load = interrupt
    with pytest.raises(KeyboardInterrupt):
        pool.get(request(paths[0]))
    machine.before_load = lambda: None
    assert pool.models() == []
    assert pool.get(request(paths[0]))[1] is False


def test_a_file_that_is_gone(pool: ModelPool, paths: list[Path]) -> None:
    paths[0].unlink()
    with pytest.raises(ModelNotFound):
        pool.get(request(paths[0]))


def test_a_file_that_is_deleted_while_it_is_loaded_stays_usable(pool: ModelPool, paths: list[Path]) -> None:
    parts, _ = pool.get(request(paths[0]))
    paths[0].unlink()
    assert titles(pool.models()) == ["a"]
    assert set(parts.model) == set(SHAPES)
    assert pool.find(PoolKey(ModelType.DIFFUSION, (), ())) is None


def test_a_replaced_file_is_a_new_model_and_the_old_one_goes(
    machine: Machine, pool: ModelPool, paths: list[Path]
) -> None:
    pool.get(request(paths[0]))
    pool.get(request(paths[0], "fp32"))
    os.replace(shapes_file(paths[0].with_name("new.safetensors"), {"x": (8, 8)}), paths[0])
    parts, was_there = pool.get(request(paths[0]))
    assert not was_there
    assert set(parts.model) == {"x"}
    assert len(pool) == 1
    assert pool.last_reasons["a"] == "its file was replaced"


def test_a_file_that_is_replaced_while_it_is_read_is_not_kept(
    machine: Machine, pool: ModelPool, paths: list[Path]
) -> None:
    machine.before_load = lambda: os.replace(
        shapes_file(paths[0].with_name("new.safetensors"), {"x": (8, 8)}), paths[0]
    )
    parts, _ = pool.get(request(paths[0]))
    assert parts.model
    assert len(pool) == 0
    machine.before_load = lambda: None
    assert set(pool.get(request(paths[0]))[0].model) == {"x"}
    assert len(machine.loads) == 2


# The books


def test_the_books_follow_who_has_a_handle(pool: ModelPool, paths: list[Path]) -> None:
    parts, _ = pool.get(request(paths[0]))
    (model,) = pool.models()
    assert model.held
    assert model.ram_bytes == BYTES
    kept_elsewhere = parts.model
    del parts
    assert pool.models()[0].held
    del kept_elsewhere
    assert not pool.models()[0].held


def test_a_handle_made_from_a_handle_counts_too(machine: Machine, pool: ModelPool, paths: list[Path]) -> None:
    parts, _ = pool.get(request(paths[0]))
    clone = machine.share(parts)
    del parts
    assert pool.models()[0].held
    del clone
    assert not pool.models()[0].held


def test_what_is_let_go_of_is_really_gone(machine: Machine, pool: ModelPool, paths: list[Path]) -> None:
    parts, _ = pool.get(request(paths[0]))
    weights = weakref.ref(parts.model["blocks.0.weight"])
    assert pool.release([model.key for model in pool.models()]) == {"model-1": 0}
    assert pool.models() == []
    assert weights() is not None, "somebody has it still"
    del parts
    assert weights() is None, "without a garbage collection"
    assert machine.resident() == []


def test_the_books_agree_with_the_garbage_collector(
    machine: Machine, pool: ModelPool, paths: list[Path]
) -> None:
    kept = [pool.get(request(path))[0] for path in paths]
    pool.release([model.key for model in pool.models() if model.title in ("a", "b")])
    del kept[0]  # a: let go of by everybody
    gc.collect()
    alive = {found.path.stem for found in gc.get_objects() if type(found) is Tensors and found.parent is None}
    assert alive == {"b", "c", "d"}
    assert {model.title for model in machine.resident()} == alive
    assert set(titles(pool.models())) == {"c", "d"}


def test_most_recently_used_first(machine: Machine, pool: ModelPool, paths: list[Path]) -> None:
    for path in paths[:3]:
        machine.now += 1
        pool.get(request(path))
    assert titles(pool.models()) == ["c", "b", "a"]
    machine.now += 1
    pool.touch(next(model.ids for model in pool.models() if model.title == "a"))
    assert titles(pool.models()) == ["a", "c", "b"]


# How long models stay


def expires(pool: ModelPool) -> float | None:
    return pool.models()[0].expires_in


def test_the_longest_wins_among_those_who_have_it(pool: ModelPool, paths: list[Path]) -> None:
    long, _ = pool.get(request(paths[0]), keep_alive=600)
    short, _ = pool.get(request(paths[0]), keep_alive=10)
    assert expires(pool) == 600
    del long
    assert expires(pool) == 10
    del short
    assert expires(pool) == 10, "what was asked for last"


def test_it_rests_from_its_last_use(machine: Machine, pool: ModelPool, paths: list[Path]) -> None:
    pool.get(request(paths[0]))
    machine.now = 100
    assert expires(pool) == 200
    pool.touch(pool.models()[0].ids)
    assert expires(pool) == 300
    assert pool.seconds_to_next_expiry() == 300


def test_it_goes_when_its_time_is_up(machine: Machine, pool: ModelPool, paths: list[Path]) -> None:
    pool.get(request(paths[0]), keep_alive=10)
    machine.now = 9.9
    assert pool.sweep()
    assert len(pool) == 1
    machine.now = 10
    assert pool.sweep()
    assert len(pool) == 0
    assert "keep_alive" in pool.last_reasons["a"]


def test_it_stays_while_somebody_has_it_and_goes_then(
    machine: Machine, pool: ModelPool, paths: list[Path]
) -> None:
    parts, _ = pool.get(request(paths[0]), keep_alive=10)
    machine.now = 11
    pool.sweep()
    assert titles(pool.models()) == ["a"], "letting go of it would give nothing back"
    del parts
    pool.sweep()
    assert len(pool) == 0


def test_a_running_prompt_keeps_its_models(machine: Machine, pool: ModelPool, paths: list[Path]) -> None:
    machine.prompt = RunningPrompt("p1", None, None)
    pool.get(request(paths[0]), keep_alive=0)
    machine.now = 1000
    pool.sweep()
    assert pool.models()[0].busy
    machine.prompt = RunningPrompt("p2", None, None)
    pool.prompt_ended("p1")
    assert not pool.models()[0].busy
    pool.sweep()
    assert len(pool) == 0


def test_pinned_models_stay_and_unpinned_ones_go(
    machine: Machine, pool: ModelPool, paths: list[Path]
) -> None:
    pool.pin(paths[0])
    pool.get(request(paths[0]), keep_alive=0)
    pool.get(request(paths[1]), keep_alive=0)
    machine.now = 1
    machine.available = TIGHT
    machine.headroom = 100 * BYTES
    pool.sweep()
    assert titles(pool.models()) == ["a"]
    assert pool.models()[0].pinned
    assert expires(pool) is None
    pool.pin(paths[0], False)
    pool.sweep()
    assert len(pool) == 0


def test_all_memory_asked_back_takes_pinned_ones_too(pool: ModelPool, paths: list[Path]) -> None:
    pool.pin(paths[0])
    pool.get(request(paths[0]))
    pool.get(request(paths[1]))
    assert set(pool.release_all().values()) == {BYTES}
    assert len(pool) == 0
    pool.get(request(paths[0]))
    assert pool.models()[0].pinned, "the pin is about the file"


# Room


def test_the_pool_stays_within_its_budget(machine: Machine, paths: list[Path]) -> None:
    pool = make_pool(machine, budget=2 * BYTES)
    for path in paths:
        machine.now += 1
        pool.get(request(path), needed=BYTES)
        assert sum(model.ram_bytes for model in pool.models()) <= 2 * BYTES
    assert titles(pool.models()) == ["d", "c"]


def test_a_budget_smaller_than_a_model_does_not_stop_its_load(machine: Machine, paths: list[Path]) -> None:
    pool = make_pool(machine, budget=1)
    machine.prompt = RunningPrompt("p", None, None)
    parts, _ = pool.get(request(paths[0]), needed=BYTES)
    assert titles(pool.models()) == ["a"]
    pool.prompt_ended("p")
    machine.prompt = None
    del parts
    pool.sweep()
    assert len(pool) == 0


def test_short_ram_is_given_back_between_two_nodes(
    machine: Machine, pool: ModelPool, paths: list[Path]
) -> None:
    for path in paths[:3]:
        machine.now += 1
        pool.get(request(path))
    machine.headroom = 80 * BYTES
    machine.available = Ram(1000 * BYTES, 200 * BYTES)
    pool.relieve()
    assert len(pool) == 3
    machine.available = Ram(1000 * BYTES, 98 * BYTES)  # 1.25 times the headroom have to stay
    pool.relieve()
    assert titles(pool.models()) == ["c"]
    assert pool.last_reasons["a"] == "RAM was short"


def test_another_program_gets_back_what_the_host_leaves_to_others(
    machine: Machine, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    unloaded: list[str] = []
    use = DeviceUse("cuda:0", "Card", 10 * BYTES, BYTES, BYTES, others_bytes=5 * BYTES)

    def resident() -> list[ResidentModel]:
        found = LocalHost.resident(machine)
        return [dataclasses.replace(m, device="cuda:0", loaded_bytes=BYTES, ram_bytes=0) for m in found]

    monkeypatch.setattr(machine, "resident", resident)
    monkeypatch.setattr(machine, "device_use", lambda: [use])
    monkeypatch.setattr(machine, "vram_reserve", lambda: 2 * BYTES)
    monkeypatch.setattr(machine, "unload", lambda ids: unloaded.extend(ids) or {})
    pool = make_pool(machine)
    kept = []
    for path in paths[:2]:
        kept.append(pool.get(request(path)))
        machine.now += 1
    oldest = pool.models()[-1]
    unloaded.clear()  # making room for the second took the first out already
    assert pool.sweep()
    assert tuple(unloaded) == oldest.ids, "one is enough"
    assert len(pool) == len(kept)
    unloaded.clear()
    use = dataclasses.replace(use, others_bytes=0)
    assert pool.sweep()
    assert unloaded == [], "nobody else wants it"


def test_nothing_is_let_go_of_while_a_prompt_runs_elsewhere(
    machine: Machine, pool: ModelPool, paths: list[Path]
) -> None:
    pool.get(request(paths[0]), keep_alive=0)
    machine.now, machine.busy = 1, True
    assert not pool.sweep()
    assert len(pool) == 1
    with pytest.raises(HostBusy):
        pool.release_all()
    pool.get(request(paths[1]), needed=10**12)  # making room is in nobody's way
    assert len(pool) == 2
    machine.busy = False
    assert pool.sweep()


# The thread


def test_the_keeper_lets_go_by_itself(machine: Machine, paths: list[Path]) -> None:
    pool = ModelPool(machine, keep_alive=0.05)
    keeper = Keeper(pool)
    keeper.start()
    keeper.start()
    try:
        pool.get(request(paths[0]))
        assert until(lambda: len(pool) == 0)
    finally:
        keeper.stop()
    pool.get(request(paths[0]))
    assert len(pool) == 1, "stopped"


def test_the_keeper_empties_the_pool_as_soon_as_it_may(machine: Machine, paths: list[Path]) -> None:
    pool = ModelPool(machine)
    keeper = Keeper(pool)
    keeper.start()
    try:
        pool.get(request(paths[0]))
        machine.busy = True
        keeper.empty()
        assert not until(lambda: len(pool) == 0, 0.3)
        machine.busy = False
        assert until(lambda: len(pool) == 0)
    finally:
        keeper.stop()


def test_the_pool_lets_go_before_the_host_unloads(
    machine: Machine, pool: ModelPool, paths: list[Path]
) -> None:
    pool.get(request(paths[0]))
    kept, _ = pool.get(request(paths[1]))
    pool.empty()
    assert machine.left == [1], "what nobody else has is gone by then"
    del kept


def test_the_keeper_tries_again_until_the_host_has_unloaded_too(
    machine: Machine, pool: ModelPool, paths: list[Path]
) -> None:
    keeper = Keeper(pool)
    pool.get(request(paths[0]))
    machine.forgetting = True
    keeper.empty()
    keeper.prompt_started()
    assert (len(pool), machine.left) == (0, [])
    pool.get(request(paths[0]))
    machine.forgetting = False
    keeper.prompt_started()
    assert (len(pool), machine.left) == (0, [0])


def test_an_ask_while_the_pool_is_being_emptied_is_heard(
    machine: Machine, pool: ModelPool, paths: list[Path]
) -> None:
    keeper = Keeper(pool)
    machine.unload_all = keeper.empty  # type: ignore[method-assign]
    keeper.empty()
    keeper.prompt_started()
    del machine.unload_all  # type: ignore[method-assign]
    pool.get(request(paths[0]))
    keeper.prompt_started()
    assert len(pool) == 0


def test_the_next_prompt_finds_an_emptied_pool(machine: Machine, pool: ModelPool, paths: list[Path]) -> None:
    keeper = Keeper(pool)
    pool.get(request(paths[0]))
    keeper.empty()
    keeper.prompt_started()
    assert len(pool) == 0
    pool.get(request(paths[0]))
    keeper.prompt_started()
    assert len(pool) == 1, "asked for once"


def test_a_prompt_that_came_later_keeps_what_it_was_given(
    machine: Machine, pool: ModelPool, paths: list[Path]
) -> None:
    """As where nobody tells of a prompt's start, and the first quiet moment is after the next one."""
    keeper = Keeper(pool)
    machine.prompt = RunningPrompt("first", None, None)
    pool.get(request(paths[0]))
    machine.now = 1
    keeper.empty()
    machine.now = 2
    pool.get(request(paths[1]))  # the same prompt, which goes on loading
    machine.now, machine.prompt = 3, RunningPrompt("second", None, None)
    pool.get(request(paths[2]))
    pool.prompt_ended("first")
    machine.now, machine.prompt = 4, None
    keeper.prompt_started()
    assert [model.paths for model in pool.models()] == [(paths[2],)]
    assert machine.left == [], "what the second uses is not unloaded"
    machine.now = 5
    keeper.empty()
    keeper.prompt_started()
    assert (len(pool), machine.left) == (0, [0])


def test_the_keeper_outlives_a_failed_round(
    machine: Machine, paths: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    pool = ModelPool(machine)
    pool.get(request(paths[0]))
    keeper = Keeper(pool)
    failed = threading.Event()

    def fail() -> Ram:
        failed.set()
        raise RuntimeError("no figures")

    machine.ram = fail  # type: ignore[method-assign]
    keeper.start()
    try:
        assert failed.wait(10)
        del machine.ram  # type: ignore[method-assign]
        keeper.empty()
        assert until(lambda: len(pool) == 0)
    finally:
        keeper.stop()
    assert "A round of the keeper failed" in caplog.text


def until(condition: object, seconds: float = 10.0) -> bool:
    assert callable(condition)
    waiting = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if condition():
            return True
        waiting.wait(0.02)
    return bool(condition())
