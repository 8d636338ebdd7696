"""Loaded models as people see them, and by which names they find them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from managed_models.manager import AdvancedModelManager, ModelInfo, ModelManagerConfig, ModelType
from managed_models.manager.errors import AmbiguousModel, BadInput, HostBusy, ModelNotFound
from managed_models.manager.host import LoadedParts, LoadRequest, ResidentModel, RunningPrompt
from managed_models.manager.loaded import LoadedModel, find_loaded, loaded_models, wait_until_gone
from managed_models.manager.local_host import LocalHost
from managed_models.manager.units import GB
from support.files import shapes_file

WAN = "wan.safetensors"


class Host(LocalHost):
    """The bare machine, where every load has two parts, on a card as far as it is said."""

    kinds = ("static", "static")
    prompt: RunningPrompt | None = None
    clearing = False

    def resident(self) -> Sequence[ResidentModel]:
        return [
            ResidentModel(f"{part}-{m.id}", m.title, m.path, device, 3 * GB, loaded, GB, kind)
            for m in super().resident()
            for part, device, loaded, kind in (
                ("b", "cpu", 0, self.kinds[0]),
                ("a", "cuda:0", GB, self.kinds[1]),
            )
        ]

    def ids(self, parts: LoadedParts) -> Sequence[str]:
        return [f"{part}-{id}" for id in super().ids(parts) for part in "ba"]

    def running(self) -> RunningPrompt | None:
        return self.prompt

    @contextmanager
    def quiet(self) -> Iterator[None]:
        if self.clearing:
            raise HostBusy("ComfyUI is still clearing up after a prompt.")
        yield


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for folder, name in (("diffusion_models", WAN), ("diffusion_models", "flux.safetensors"), ("vae", WAN)):
        (tmp_path / folder).mkdir(exist_ok=True)
        shapes_file(tmp_path / folder / name, {"a.weight": (4, 4)})
    return tmp_path


@pytest.fixture
def manager(models: Path) -> AdvancedModelManager:
    return AdvancedModelManager(ModelManagerConfig(), Host([models]))


def load(manager: AdvancedModelManager, name: str, **options: Any) -> LoadedParts:
    path = manager.library.find(name).path
    parts, _ = manager.pool.get(LoadRequest(path, ModelType.DIFFUSION, **options))
    return parts


def shown(manager: AdvancedModelManager) -> list[LoadedModel]:
    return loaded_models(manager.host, manager.pool)


def test_parts_of_one_load_are_one_model(manager: AdvancedModelManager) -> None:
    load(manager, "flux.safetensors")
    (model,) = shown(manager)
    assert model.ids == tuple(sorted(part.id for part in manager.host.resident()))
    assert (model.id, model.title, model.kind) == (model.ids[0], "flux", "static")
    assert (model.device, model.loaded_bytes, model.ram_bytes) == ("cuda:0", GB, 2 * GB)
    assert (model.pooled, model.pinned, model.busy, model.held) == (True, False, False, False)
    assert model.expires_in is not None


def test_what_the_pool_let_go_of_is_still_one_model(manager: AdvancedModelManager) -> None:
    parts = load(manager, "flux.safetensors")
    (before,) = shown(manager)
    manager.pool.release_all()
    (after,) = shown(manager)
    assert (after.id, after.ids, after.title) == (before.id, before.ids, "flux")
    assert (after.pooled, after.held, after.idle_seconds, after.expires_in) == (False, None, None, None)
    del parts
    assert shown(manager) == []


def test_two_loads_of_one_file_are_two_models(manager: AdvancedModelManager) -> None:
    load(manager, "flux.safetensors")
    load(manager, "flux.safetensors", weight_dtype="fp16")
    assert len({model.id for model in shown(manager)}) == 2


def test_different_kinds_are_both_named_and_what_is_in_the_file_is_counted(
    manager: AdvancedModelManager,
) -> None:
    assert isinstance(manager.host, Host)
    manager.host.kinds = ("static", "dynamic")
    load(manager, "flux.safetensors")
    (model,) = shown(manager)
    assert (model.kind, model.file_bytes) == ("static, dynamic", GB)  # 3 GB, of which 1 each elsewhere


def test_the_facts_say_no_path(manager: AdvancedModelManager, models: Path) -> None:
    load(manager, "flux.safetensors")
    assert str(models) not in str(shown(manager)[0].to_dict())


@pytest.mark.parametrize("name", ["flux", "flux.safetensors", "diffusion_models/flux.safetensors", "mine"])
def test_a_model_is_found_by_title_file_and_registered_name(
    manager: AdvancedModelManager, models: Path, name: str
) -> None:
    path = models / "diffusion_models" / "flux.safetensors"
    manager.register_model(ModelInfo("mine", ModelType.DIFFUSION, path))
    load(manager, f"diffusion_models/{WAN}")
    load(manager, "flux.safetensors")
    load(manager, "flux.safetensors", weight_dtype="fp16")
    found = find_loaded(name, shown(manager), manager.library)
    assert [model.title for model in found] == ["flux", "flux"]


def test_a_title_of_two_files_is_ambiguous(manager: AdvancedModelManager) -> None:
    for folder in ("diffusion_models", "vae"):
        load(manager, f"{folder}/{WAN}")
    with pytest.raises(AmbiguousModel, match=rf"diffusion_models/{WAN}, vae/{WAN}") as caught:
        find_loaded("wan", shown(manager), manager.library)
    assert caught.value.remedy
    (found,) = find_loaded(f"vae/{WAN}", shown(manager), manager.library)
    assert found.paths[0].parent.name == "vae"


@pytest.mark.parametrize("name", ["flux", "flux.safetensors", "flx.safetensors", "nothing"])
def test_what_is_not_in_memory_is_not_found(manager: AdvancedModelManager, name: str) -> None:
    load(manager, f"diffusion_models/{WAN}")
    with pytest.raises(ModelNotFound, match=f"{name} is not in memory"):
        find_loaded(name, shown(manager), manager.library)


def test_a_name_that_is_none(manager: AdvancedModelManager) -> None:
    with pytest.raises(BadInput):
        find_loaded("../flux.safetensors", shown(manager), manager.library)


def test_waiting_ends_when_all_has_gone(manager: AdvancedModelManager) -> None:
    kept = [load(manager, "flux.safetensors")]
    manager.pool.release_all()
    timer = threading.Timer(0.3, kept.clear)  # as ComfyUI's own thread does
    timer.start()
    assert wait_until_gone(manager.host, manager.pool) == []
    timer.join()


def test_waiting_ends_when_a_prompt_is_in_the_way(manager: AdvancedModelManager) -> None:
    load(manager, "flux.safetensors")
    assert isinstance(manager.host, Host)
    manager.host.prompt = RunningPrompt("prompt", None, None)
    assert [model.title for model in wait_until_gone(manager.host, manager.pool)] == ["flux"]


def test_waiting_does_not_last_for_ever(
    manager: AdvancedModelManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("managed_models.manager.loaded._PATIENCE_SECONDS", 0.2)
    load(manager, "flux.safetensors")
    assert [model.title for model in wait_until_gone(manager.host, manager.pool)] == ["flux"]


def test_waiting_lasts_longer_while_models_are_being_let_go_of(
    manager: AdvancedModelManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("managed_models.manager.loaded._PATIENCE_SECONDS", 0.0)
    kept = [load(manager, "flux.safetensors")]
    manager.pool.release_all()
    assert isinstance(manager.host, Host)
    manager.host.clearing = True
    timer = threading.Timer(0.5, kept.clear)
    timer.start()
    assert wait_until_gone(manager.host, manager.pool) == []
    timer.join()
