"""The routes, asked over HTTP as the panel and the command line ask them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from aiohttp import web
from managed_models.manager import AdvancedModelManager, ModelInfo, ModelManagerConfig, ModelType
from managed_models.manager.demo import layouts
from managed_models.manager.demo.tiny import write_random_model
from managed_models.manager.errors import HostBusy
from managed_models.manager.host import LoadRequest, ResidentModel, RunningPrompt
from managed_models.manager.local_host import LocalHost
from managed_models.manager.report import render_check, render_memory, render_pin, render_unload
from managed_models.manager.routes import add_routes, opaque_id
from support.files import shapes_file
from support.routes import serving_routes

HEADERS = {"X-Managed-Models": "1"}
NAME = "wan_bf16.safetensors"


class Host(LocalHost):
    """The bare machine, on which a prompt may be running, and which remembers that it was emptied."""

    busy = False
    forgotten = 0
    emptied = 0
    on_device = 0  # bytes of every model that are on a card

    def resident(self) -> Sequence[ResidentModel]:
        models = super().resident()
        if not self.on_device:
            return models
        return [
            replace(m, device="cuda:0", loaded_bytes=self.on_device, ram_bytes=m.size_bytes - self.on_device)
            for m in models
        ]

    def unload(self, ids: Sequence[str]) -> Mapping[str, int]:
        with self.quiet():
            freed = {model.id: model.loaded_bytes for model in self.resident() if model.id in ids}
            self.on_device = 0
            return freed

    def quiet(self) -> AbstractContextManager[None]:
        if self.busy:
            raise HostBusy("A prompt is running.", "Try again when it is done.")
        return super().quiet()

    def running(self) -> RunningPrompt | None:
        return RunningPrompt("prompt", None, None) if self.busy else None

    def forget_results(self) -> None:
        self.forgotten += 1
        super().forget_results()

    def unload_all(self) -> None:
        assert self.forgotten, "cached results go first"
        assert not list(self.resident()), "what nobody has needs no unloading"
        self.emptied += 1
        super().unload_all()


@contextmanager
def serving(manager: AdvancedModelManager) -> Iterator[str]:
    """Run a real server with our routes; give its address."""
    with serving_routes(manager) as url:
        yield f"{url}/managed-models"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "a private folder" / "models"
    path = folder / "diffusion_models" / NAME
    path.parent.mkdir(parents=True)
    write_random_model(path, layouts.wan21_t2v(width=64, ffn=128, layers=1))
    (folder / "loras" / "styles").mkdir(parents=True)
    shapes_file(folder / "loras" / "styles" / "ink.safetensors", {"a.lora_down.weight": (4, 4)})
    return folder


@pytest.fixture
def manager(models: Path) -> AdvancedModelManager:
    return AdvancedModelManager(ModelManagerConfig(model_roots=[models]), Host([models]))


@pytest.fixture
def host(manager: AdvancedModelManager) -> Host:
    assert isinstance(manager.host, Host)
    return manager.host


@pytest.fixture
def server(manager: AdvancedModelManager) -> Iterator[str]:
    with serving(manager) as address:
        yield address


def get(server: str, route: str) -> Any:
    answer = requests.get(f"{server}/{route}", timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()


def post(server: str, route: str, body: Any) -> requests.Response:
    return requests.post(f"{server}/{route}", json=body, headers=HEADERS, timeout=30)


def error_of(answer: requests.Response) -> dict[str, Any]:
    """Return the error of an answer that has our shape."""
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "details"}
    assert body["error"]["message"]
    return body["error"]


def texts(value: Any) -> Iterator[str]:
    """Give every text in a JSON value, keys included."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
    elif isinstance(value, str):
        yield value


def assert_no_path(value: Any, models: Path) -> None:
    """Hold an answer to say nothing about where things are on this machine."""
    for text in texts(value):
        assert str(models) not in text
        assert models.parent.name not in text
        assert str(Path.home()) not in text or str(Path.home()) == "/"


# Reading


def test_status_gives_versions_memory_and_loaded_models(
    server: str, manager: AdvancedModelManager, models: Path
) -> None:
    manager.load_model(NAME)
    found = get(server, "status")
    assert set(found) == {"version", "system", "sharing", "memory"}
    assert found["sharing"] == manager.sharing.words
    assert found["version"] == "0.1.0"
    assert set(found["system"]) == set(manager.get_system_info())
    assert {"host", "devices", "ram", "models", "loaded", "notices"} <= set(found["memory"])
    assert found["memory"]["notices"] == []
    (model,) = found["memory"]["models"]
    assert (model["title"], model["device"]) == ("wan_bf16", "cpu")
    assert "path" not in model
    assert {key: model[key] for key in ("pooled", "pinned", "held")} == {
        "pooled": True,
        "pinned": False,
        "held": False,
    }
    assert 0 <= model["idle_seconds"] < model["expires_in"] <= 300
    assert_no_path(found, models)


def test_status_puts_together_what_was_loaded_together(server: str, manager: AdvancedModelManager) -> None:
    parts = manager.load_model(NAME)
    (part,) = get(server, "status")["memory"]["models"]
    (model,) = get(server, "status")["memory"]["loaded"]
    assert set(model) == {
        "id", "ids", "title", "kind", "device", "loaded_bytes", "ram_bytes",
        "file_bytes", "pooled", "pinned", "busy", "held", "idle_seconds", "expires_in",
    }  # fmt: skip
    assert (model["id"], model["ids"], model["title"]) == (part["id"], [part["id"]], "wan_bf16")
    assert (model["ram_bytes"], model["loaded_bytes"]) == (part["size_bytes"], 0)
    assert (model["pooled"], model["pinned"], model["busy"], model["held"]) == (True, False, False, True)
    assert parts.model is not None


def test_status_tells_the_monitor_that_somebody_looks(
    server: str, manager: AdvancedModelManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    monkeypatch.setattr(manager.monitor, "watch", lambda: looks.append("look"))
    for route in ("memory", "models", "status"):
        get(server, route)
    assert looks == ["look"]


def test_models_gives_every_file_with_its_version_and_upgrade(
    server: str, manager: AdvancedModelManager, models: Path
) -> None:
    path = models / "diffusion_models" / NAME
    manager.register_model(ModelInfo("wan", ModelType.DIFFUSION, path, version="1.0.0"))
    manager.register_model(ModelInfo("wan", ModelType.DIFFUSION, Path("new"), version="1.10.0"))
    found = get(server, "models")
    assert_no_path(found, models)
    rows = {row["name"]: row for row in found["models"]}
    assert rows[NAME] == {
        "id": opaque_id(path),
        "name": NAME,
        "folder": "diffusion_models",
        "size_bytes": path.stat().st_size,
        "version": "1.0.0",
        "version_hint": None,
        "version_words": "1.0.0",
        "upgrade": "1.10.0",
        "upgrade_words": "Upgrade: 1.10.0, which nothing known speaks against on this machine; "
        "its file is not here yet",
        "what": "Wan 2.1 or Wan 2.2 14B text-to-video",
        "precision": "bf16",
        "health": None,
        "health_words": None,
    }
    assert found["total"] == 2
    ink = rows[str(Path("styles", "ink.safetensors"))]
    assert (ink["folder"], ink["version"], ink["upgrade"]) == ("loras", None, None)
    assert len({row["id"] for row in rows.values()}) == 2


def test_ids_are_stable_for_this_process_and_tell_nothing(models: Path) -> None:
    path = models / "diffusion_models" / NAME
    assert opaque_id(path) == opaque_id(Path(str(path)))
    assert opaque_id(path) != opaque_id(path.with_name("other.safetensors"))
    assert len(opaque_id(path)) == 24
    assert int(opaque_id(path), 16) >= 0


def test_memory_gives_details_and_the_same_words(
    server: str, manager: AdvancedModelManager, models: Path
) -> None:
    manager.load_model(NAME)
    found = get(server, "memory")
    assert found["report"] == render_memory(found["details"])
    assert "wan_bf16" in found["report"]
    assert_no_path(found, models)


def test_reading_changes_nothing(server: str, manager: AdvancedModelManager, host: Host) -> None:
    manager.load_model(NAME)

    def held() -> list[dict[str, Any]]:
        models = manager.get_memory_report()["models"]
        return [{k: v for k, v in m.items() if k not in ("idle_seconds", "expires_in")} for m in models]

    before = held()
    for route in ("status", "models", "memory", f"unload?id={before[0]['id']}", "unload?all=true", "check"):
        requests.get(f"{server}/{route}", timeout=30)
    assert held() == before
    assert host.emptied == 0


@pytest.mark.parametrize("route", ["check", "unload", "pin"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_what_changes_something_answers_to_post_only(server: str, route: str, method: str) -> None:
    answer = requests.request(method, f"{server}/{route}", headers=HEADERS, timeout=30)
    assert answer.status_code == 405


@pytest.mark.parametrize("route", ["status", "models", "memory"])
def test_what_reads_does_not_answer_to_post(server: str, route: str) -> None:
    assert post(server, route, {}).status_code == 405


# Checking


@pytest.mark.parametrize("name", [NAME, f"diffusion_models/{NAME}", "wan"])
def test_check_gives_details_and_the_same_words(
    server: str, manager: AdvancedModelManager, models: Path, name: str
) -> None:
    path = models / "diffusion_models" / NAME
    manager.register_model(ModelInfo("wan", ModelType.DIFFUSION, path, version="2.1.0"))
    answer = post(server, "check", {"model": name})
    assert answer.status_code == 200
    found = answer.json()
    assert set(found) == {"details", "report"}
    assert found["report"] == render_check(found["details"])
    assert found["details"]["version"] == "2.1.0"
    assert found["details"]["compatible"] is True
    assert_no_path(found, models)


def test_check_of_a_lora(server: str, models: Path) -> None:
    found = post(server, "check", {"model": "styles/ink.safetensors"}).json()
    assert found["details"]["compatible"] is True
    assert found["details"]["identity"]["role"] == "lora"
    again = post(server, "check", {"model": "styles\\ink.safetensors"}).json()
    for answer in (found, again):
        del answer["details"]["system"]["available_ram_gb"]  # other programs run meanwhile
    assert again == found
    assert_no_path(found, models)


def test_check_of_a_broken_file_says_no_path(server: str, models: Path) -> None:
    (models / "diffusion_models" / "broken.safetensors").write_bytes(b"PK\x03\x04" + bytes(60))
    found = post(server, "check", {"model": "broken.safetensors"}).json()
    assert found["details"]["compatible"] is False
    assert [f["code"] for f in found["details"]["findings"]] == ["not_safetensors"]
    assert_no_path(found, models)


def test_check_of_an_unknown_model(server: str, models: Path) -> None:
    answer = post(server, "check", {"model": "wan_bf17.safetensors"})
    error = error_of(answer)
    assert (answer.status_code, error["code"]) == (404, "model_not_found")
    assert error["details"]["near"][0] == NAME
    assert_no_path(error, models)


def test_check_of_a_registered_model_whose_file_is_gone_says_no_path(
    server: str, manager: AdvancedModelManager, models: Path
) -> None:
    manager.register_model(ModelInfo("gone", ModelType.DIFFUSION, models / "vae" / "gone.safetensors"))
    answer = post(server, "check", {"model": "gone"})
    error = error_of(answer)
    assert (answer.status_code, error["code"]) == (404, "model_not_found")
    assert_no_path(error, models)


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "..\\..\\windows\\system.ini",
        "/etc/passwd",
        "C:\\windows\\system.ini",
        "C:wan.safetensors",
        "\\\\server\\share\\wan.safetensors",
        "diffusion_models/../../secret",
        "wan\0.safetensors",
        "",
        "   ",
        "https://huggingface.co/x/y.safetensors",
        "hf:owner/repo",
    ],
)
def test_check_never_leaves_the_model_folders(server: str, models: Path, name: str) -> None:
    answer = post(server, "check", {"model": name})
    assert answer.status_code == 400
    assert error_of(answer)["code"] in ("bad_input", "not_available")
    assert_no_path(answer.json(), models)


@pytest.mark.parametrize("name", ["n" * 5000, "~root/x", "sha256:" + "0" * 64, "sha256:", "'; DROP TABLE"])
def test_check_of_an_odd_name_is_not_found(server: str, name: str) -> None:
    answer = post(server, "check", {"model": name})
    assert (answer.status_code, error_of(answer)["code"]) == (404, "model_not_found")


def test_check_of_a_name_that_is_no_text_in_any_encoding(server: str) -> None:
    answer = requests.post(
        f"{server}/check",
        data=b'{"model": "half a pair \\ud800"}',
        headers=HEADERS | {"Content-Type": "application/json"},
        timeout=30,
    )
    assert answer.status_code in (400, 404)
    assert error_of(answer)["code"] in ("bad_input", "model_not_found")


@pytest.mark.parametrize("value", [None, 5, 1.5, True, [], ["wan"], {}, {"name": "wan"}])
def test_check_of_something_that_is_no_name(server: str, value: Any) -> None:
    answer = post(server, "check", {"model": value})
    assert (answer.status_code, error_of(answer)["code"]) == (400, "bad_input")


@pytest.mark.parametrize("depth", [10, 200, 900, 990, 5000])
def test_deeply_nested_json_is_refused_in_our_shape(server: str, depth: int) -> None:
    answer = requests.post(
        f"{server}/check",
        data=b'{"model": ' + b"[" * depth + b"]" * depth + b"}",
        headers=HEADERS | {"Content-Type": "application/json"},
        timeout=30,
    )
    assert (answer.status_code, error_of(answer)["code"]) == (400, "bad_input")


def test_check_without_a_model(server: str) -> None:
    answer = post(server, "check", {})
    assert (answer.status_code, error_of(answer)["code"]) == (400, "bad_input")


# Unloading


def another(manager: AdvancedModelManager, models: Path) -> None:
    """Load a second model, of a second file."""
    path = models / "diffusion_models" / "other.safetensors"
    write_random_model(path, layouts.wan21_t2v(width=64, ffn=128, layers=1), seed=2)
    manager.load_model("other.safetensors")


def unloaded(answer: requests.Response) -> dict[str, Any]:
    """Return the facts of an unload that went well, whose words are the report's."""
    assert answer.status_code == 200, answer.text
    facts = answer.json()
    report = facts.pop("report")
    assert report == render_unload(facts)
    return facts


@pytest.mark.parametrize("vram_only", [{}, {"vram_only": False}])
def test_unload_takes_one_model_out_of_memory(
    server: str, manager: AdvancedModelManager, host: Host, models: Path, vram_only: dict[str, bool]
) -> None:
    manager.load_model(NAME)
    another(manager, models)
    first, second = get(server, "status")["memory"]["models"]
    assert unloaded(post(server, "unload", {"id": first["id"]} | vram_only)) == {
        "title": "other",
        "models": 1,
        "freed_bytes": 0,
        "ram_bytes": first["size_bytes"],
        "still_in_ram_bytes": 0,
        "scheduled": False,
        "vram_only": False,
    }
    assert [model.id for model in host.resident()] == [second["id"]]


def test_unload_gives_back_what_is_on_a_card(server: str, manager: AdvancedModelManager, host: Host) -> None:
    manager.load_model(NAME)
    host.on_device = 5000
    (model,) = get(server, "status")["memory"]["loaded"]
    found = unloaded(post(server, "unload", {"id": model["id"]}))
    assert (found["freed_bytes"], found["ram_bytes"]) == (5000, model["ram_bytes"])
    assert list(host.resident()) == []


def test_unload_from_vram_only_leaves_the_model_in_ram(
    server: str, manager: AdvancedModelManager, host: Host
) -> None:
    manager.load_model(NAME)
    host.on_device = 5000
    (model,) = host.resident()
    found = unloaded(post(server, "unload", {"id": model.id, "vram_only": True}))
    assert found["vram_only"] is True
    assert (found["freed_bytes"], found["ram_bytes"]) == (5000, 0)
    assert found["still_in_ram_bytes"] == model.size_bytes
    (after,) = get(server, "status")["memory"]["loaded"]
    assert (after["pooled"], after["loaded_bytes"]) == (True, 0)


def test_unload_says_what_stays_in_ram(server: str, manager: AdvancedModelManager, host: Host) -> None:
    parts = manager.load_model(NAME)
    (model,) = host.resident()
    found = unloaded(post(server, "unload", {"id": model.id}))
    assert (found["ram_bytes"], found["still_in_ram_bytes"]) == (0, model.ram_bytes)
    (after,) = get(server, "status")["memory"]["loaded"]
    assert (after["id"], after["pooled"]) == (model.id, False)
    assert parts.model is not None


@pytest.mark.parametrize("name", [NAME, f"diffusion_models/{NAME}", "wan_bf16", "registered"])
def test_unload_by_name(server: str, manager: AdvancedModelManager, models: Path, name: str) -> None:
    path = models / "diffusion_models" / NAME
    manager.register_model(ModelInfo("registered", ModelType.DIFFUSION, path))
    another(manager, models)
    manager.load_model(NAME)
    manager.load_model(NAME, weight_dtype="fp32")
    found = unloaded(post(server, "unload", {"model": name}))
    assert (found["title"], found["models"]) == ("wan_bf16", 2)
    assert [m["title"] for m in get(server, "status")["memory"]["models"]] == ["other"]
    answer = post(server, "unload", {"model": name})
    assert (answer.status_code, error_of(answer)["code"]) == (404, "model_not_found")
    assert_no_path(answer.json(), models)


def test_unload_by_a_title_of_two_files(server: str, manager: AdvancedModelManager, models: Path) -> None:
    twin = models / "checkpoints" / NAME
    twin.parent.mkdir()
    write_random_model(twin, layouts.wan21_t2v(width=64, ffn=128, layers=1), seed=3)
    for folder in ("diffusion_models", "checkpoints"):
        manager.load_model(f"{folder}/{NAME}")
    answer = post(server, "unload", {"model": "wan_bf16"})
    error = error_of(answer)
    assert (answer.status_code, error["code"]) == (400, "ambiguous_model")
    assert f"checkpoints/{NAME}, diffusion_models/{NAME}" in error["message"]
    assert_no_path(error, models)
    assert unloaded(post(server, "unload", {"model": f"checkpoints/{NAME}"}))["models"] == 1


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "", "hf:owner/repo", "wan\0"])
def test_unload_never_leaves_the_model_folders(server: str, models: Path, name: str) -> None:
    answer = post(server, "unload", {"model": name})
    assert answer.status_code == 400
    assert error_of(answer)["code"] in ("bad_input", "not_available")
    assert_no_path(answer.json(), models)


def test_unload_of_a_model_that_is_not_in_memory(server: str, models: Path) -> None:
    for body in ({"id": "nothing"}, {"model": NAME}, {"model": "nothing"}):
        answer = post(server, "unload", body)
        assert (answer.status_code, error_of(answer)["code"]) == (404, "model_not_found")
        assert_no_path(answer.json(), models)


def test_unload_all_empties_the_memory(
    server: str, manager: AdvancedModelManager, host: Host, models: Path
) -> None:
    manager.load_model(NAME)
    manager.pin_model(NAME)
    another(manager, models)
    size = sum(model.ram_bytes for model in host.resident())
    assert unloaded(post(server, "unload", {"all": True})) == {
        "title": None,
        "models": 2,
        "freed_bytes": 0,
        "ram_bytes": size,
        "still_in_ram_bytes": 0,
        "scheduled": False,
        "vram_only": False,
    }
    assert (host.emptied, list(host.resident())) == (1, [])
    assert unloaded(post(server, "unload", {"all": True}))["models"] == 0


def test_unload_all_from_vram_only(
    server: str, manager: AdvancedModelManager, host: Host, models: Path
) -> None:
    manager.load_model(NAME)
    another(manager, models)
    host.on_device = 5000
    found = unloaded(post(server, "unload", {"all": True, "vram_only": True}))
    assert (found["models"], found["freed_bytes"], found["ram_bytes"]) == (2, 10000, 0)
    assert (host.emptied, len(host.resident())) == (0, 2)


def test_unload_all_while_a_prompt_runs_happens_afterwards(
    server: str, manager: AdvancedModelManager, host: Host
) -> None:
    manager.load_model(NAME)
    host.busy = True
    found = unloaded(post(server, "unload", {"all": True}))
    assert (found["scheduled"], found["ram_bytes"]) == (True, 0)
    assert found["still_in_ram_bytes"] == host.resident()[0].ram_bytes
    assert (host.forgotten, host.emptied) == (1, 0)
    host.busy = False
    manager.keeper.start()
    manager.pool.wake()
    for _ in range(400):
        if host.emptied:
            break
        time.sleep(0.025)
    assert (host.emptied, list(host.resident())) == (1, [])
    manager.close()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"id": 5},
        {"id": None},
        {"model": 5},
        {"model": [NAME]},
        {"all": False},
        {"all": "true"},
        {"all": 1},
        {"vram_only": True},
        {"all": True, "vram_only": "yes"},
        {"all": True, "vram_only": None},
        {"model": NAME, "vram_only": 1},
    ],
)
def test_unload_of_nothing_in_particular(
    server: str, manager: AdvancedModelManager, host: Host, body: dict[str, Any]
) -> None:
    manager.load_model(NAME)
    answer = post(server, "unload", body)
    assert (answer.status_code, error_of(answer)["code"]) == (400, "bad_input")
    assert (host.emptied, len(host.resident())) == (0, 1)


@pytest.mark.parametrize("vram_only", [False, True])
def test_unload_while_a_prompt_runs(
    server: str, manager: AdvancedModelManager, host: Host, vram_only: bool
) -> None:
    manager.load_model(NAME)
    host.busy = True
    (model,) = host.resident()
    for body in ({"id": model.id}, {"model": NAME}):
        answer = post(server, "unload", body | {"vram_only": vram_only})
        assert (answer.status_code, error_of(answer)["code"]) == (409, "host_busy")
    assert [m.id for m in host.resident()] == [model.id]
    assert manager.get_memory_report()["models"][0]["pooled"] is True


# Pinning


def pin(server: str, wanted: dict[str, Any], pinned: bool) -> dict[str, Any]:
    answer = post(server, "pin", wanted | {"pinned": pinned})
    assert answer.status_code == 200, answer.text
    facts = answer.json()
    assert facts.pop("report") == render_pin(facts)
    return facts


def test_a_pin_keeps_a_model_until_it_is_taken_away(server: str, manager: AdvancedModelManager) -> None:
    manager.load_model(NAME, keep_alive="0")
    (model,) = get(server, "status")["memory"]["loaded"]
    assert (model["pinned"], model["expires_in"]) == (False, 0)
    assert pin(server, {"id": model["id"]}, True) == {
        "title": "wan_bf16",
        "pinned": True,
        "in_memory": True,
    }
    manager.pool.sweep()
    (model,) = get(server, "status")["memory"]["loaded"]
    assert (model["pinned"], model["expires_in"]) == (True, None)
    assert pin(server, {"id": model["id"]}, False)["pinned"] is False
    manager.pool.sweep()
    assert get(server, "status")["memory"]["models"] == []


def test_a_pin_by_name_waits_for_the_model(server: str, manager: AdvancedModelManager) -> None:
    assert pin(server, {"model": NAME}, True)["in_memory"] is False
    manager.load_model(NAME, keep_alive="0")
    (model,) = get(server, "status")["memory"]["loaded"]
    assert model["pinned"] is True
    assert pin(server, {"model": "wan_bf16"}, False) == {
        "title": "wan_bf16",
        "pinned": False,
        "in_memory": True,
    }


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "bad_input"),
        ({"pinned": True}, 400, "bad_input"),
        ({"id": 5, "pinned": True}, 400, "bad_input"),
        ({"id": "nothing"}, 400, "bad_input"),
        ({"id": "nothing", "pinned": 1}, 400, "bad_input"),
        ({"id": "nothing", "pinned": "true"}, 400, "bad_input"),
        ({"id": "nothing", "pinned": True}, 404, "model_not_found"),
        ({"model": "nothing", "pinned": True}, 404, "model_not_found"),
        ({"model": "/etc/passwd", "pinned": True}, 400, "bad_input"),
        ({"model": "../wan.safetensors", "pinned": True}, 400, "bad_input"),
    ],
)
def test_a_pin_of_nothing_in_particular(
    server: str, manager: AdvancedModelManager, models: Path, body: dict[str, Any], status: int, code: str
) -> None:
    manager.load_model(NAME)
    answer = post(server, "pin", body)
    assert (answer.status_code, error_of(answer)["code"]) == (status, code)
    assert manager.get_memory_report()["models"][0]["pinned"] is False
    assert_no_path(answer.json(), models)


# The manager


def test_the_manager_is_asked_for_when_the_first_request_comes() -> None:
    asked: list[str] = []

    def refuse() -> AdvancedModelManager:
        asked.append("asked")
        raise HostBusy("Still starting.", "Wait.")

    table = web.RouteTableDef()
    add_routes(table, refuse)
    assert asked == []
    assert sorted((route.method, route.path) for route in table if isinstance(route, web.RouteDef)) == [
        ("GET", "/managed-models/downloads"),
        ("GET", "/managed-models/duplicates"),
        ("GET", "/managed-models/memory"),
        ("GET", "/managed-models/models"),
        ("GET", "/managed-models/status"),
        ("GET", "/managed-models/verify"),
        ("POST", "/managed-models/check"),
        ("POST", "/managed-models/download"),
        ("POST", "/managed-models/download/cancel"),
        ("POST", "/managed-models/download/pause"),
        ("POST", "/managed-models/download/resume"),
        ("POST", "/managed-models/fetch-again"),
        ("POST", "/managed-models/needs"),
        ("POST", "/managed-models/needs/fetch"),
        ("POST", "/managed-models/pair"),
        ("POST", "/managed-models/pin"),
        ("POST", "/managed-models/scan"),
        ("POST", "/managed-models/settings"),
        ("POST", "/managed-models/unload"),
        ("POST", "/managed-models/verify"),
        ("POST", "/managed-models/verify/cancel"),
    ]


def test_requests_are_served_side_by_side(server: str, manager: AdvancedModelManager, host: Host) -> None:
    manager.load_model(NAME)
    answers: list[int] = []

    def ask(route: str) -> None:
        answers.append(requests.get(f"{server}/{route}", timeout=30).status_code)

    threads = [threading.Thread(target=ask, args=(r,)) for r in ("status", "models", "memory") * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 12


def test_a_resident_model_without_a_known_file(models: Path) -> None:
    class Stranger(Host):
        def resident(self) -> Sequence[ResidentModel]:
            return [replace(model, path=None) for model in super().resident()]

    host = Stranger([models])
    parts = host.load(LoadRequest(models / "diffusion_models" / NAME, ModelType.DIFFUSION))
    host.on_device = 5000
    manager = AdvancedModelManager(ModelManagerConfig(), host)
    with serving(manager) as server:
        (model,) = get(server, "status")["memory"]["models"]
        answer = post(server, "pin", {"id": model["id"], "pinned": True})
        assert (answer.status_code, error_of(answer)["code"]) == (400, "bad_input")
        assert "which file" in error_of(answer)["message"]
        assert unloaded(post(server, "unload", {"id": model["id"]}))["freed_bytes"] == 5000
    assert parts.model is not None


def test_answers_are_json(server: str) -> None:
    for answer in (requests.get(f"{server}/status", timeout=30), post(server, "check", {})):
        assert answer.headers["Content-Type"].startswith("application/json")
        assert isinstance(json.loads(answer.content), dict)


# Settings


def test_settings_are_applied_at_once(server: str, manager: AdvancedModelManager) -> None:
    answer = post(server, "settings", {"keep_alive": "1h", "max_ram_gb": None})
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"sharing": manager.sharing.words}
    assert manager.config.keep_alive == "1h"


@pytest.mark.parametrize(
    "body", [{"keep_alive": []}, {"database_url": "sqlite://"}, {"max_ram_gb": "x"}, {"": 1}]
)
def test_settings_that_are_no_good(server: str, manager: AdvancedModelManager, body: dict[str, Any]) -> None:
    before = manager.config
    answer = post(server, "settings", body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] == "bad_input"
    assert manager.config is before


@pytest.mark.parametrize(
    "address", ["https://example.com/a.safetensors?token=secret", "hf:a/b/c", "HTTP://a"]
)
def test_a_check_takes_no_address(server: str, address: str) -> None:
    answer = post(server, "check", {"model": address})
    assert answer.status_code == 400
    assert "is an address" in answer.json()["error"]["message"]
    assert "secret" not in answer.text
