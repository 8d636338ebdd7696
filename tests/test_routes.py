"""The routes, asked over HTTP as the panel and the command line ask them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from managed_models.manager.host import LoadRequest, ResidentModel
from managed_models.manager.local_host import LocalHost
from managed_models.manager.report import render_check, render_memory
from managed_models.manager.routes import add_routes, opaque_id
from support.files import shapes_file

HEADERS = {"X-Managed-Models": "1"}
NAME = "wan_bf16.safetensors"


class Host(LocalHost):
    """The bare machine, on which a prompt may be running, and which remembers that it was emptied."""

    busy = False
    emptied = 0
    keeps_in_ram = False

    def unload(self, ids: Sequence[str]) -> Mapping[str, int]:
        if self.busy:
            raise HostBusy("A prompt is running.", "Try again when it is done.")
        if self.keeps_in_ram:  # as a host does whose other parts still use the model
            return {model.id: 5 for model in self.resident() if model.id in ids}
        return super().unload(ids)

    def unload_all(self) -> None:
        self.emptied += 1
        super().unload_all()


@contextmanager
def serving(manager: AdvancedModelManager) -> Iterator[str]:
    """Run a real server with our routes; give its address."""
    loop = asyncio.new_event_loop()
    table = web.RouteTableDef()
    add_routes(table, lambda: manager)
    app = web.Application()
    app.add_routes(table)
    runner = web.AppRunner(app, access_log=None)
    loop.run_until_complete(runner.setup())
    loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", 0).start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/managed-models"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(runner.cleanup())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


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
    assert set(found) == {"version", "system", "memory"}
    assert found["version"] == "0.1.0"
    assert set(found["system"]) == set(manager.get_system_info())
    assert set(found["memory"]) == {"host", "devices", "ram", "models"}
    (model,) = found["memory"]["models"]
    assert (model["title"], model["device"]) == ("wan_bf16", "cpu")
    assert "path" not in model
    assert_no_path(found, models)


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
        "upgrade": "1.10.0",
    }
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
    before = manager.get_memory_report()["models"]
    for route in ("status", "models", "memory", f"unload?id={before[0]['id']}", "unload?all=true", "check"):
        requests.get(f"{server}/{route}", timeout=30)
    assert manager.get_memory_report()["models"] == before
    assert host.emptied == 0


@pytest.mark.parametrize("route", ["check", "unload"])
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
    assert post(server, "check", {"model": "styles\\ink.safetensors"}).json() == found
    assert_no_path(found, models)


def test_check_of_a_broken_file_says_no_path(server: str, models: Path) -> None:
    (models / "diffusion_models" / "broken.safetensors").write_bytes(b"GGUF" + bytes(60))
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


def test_unload_takes_one_model_out_of_memory(server: str, manager: AdvancedModelManager, host: Host) -> None:
    manager.load_model(NAME)
    manager.load_model(NAME)
    first, second = get(server, "status")["memory"]["models"]
    answer = post(server, "unload", {"id": first["id"]})
    assert answer.status_code == 200
    assert answer.json() == {
        "freed_bytes": first["size_bytes"],
        "still_in_ram_bytes": 0,
        "scheduled": False,
    }
    assert [model.id for model in host.resident()] == [second["id"]]


def test_unload_says_what_stays_in_ram(server: str, manager: AdvancedModelManager, host: Host) -> None:
    manager.load_model(NAME)
    host.keeps_in_ram = True
    (model,) = host.resident()
    found = post(server, "unload", {"id": model.id}).json()
    assert found == {"freed_bytes": 5, "still_in_ram_bytes": model.ram_bytes, "scheduled": False}


def test_unload_of_a_model_that_is_not_in_memory(server: str, models: Path) -> None:
    answer = post(server, "unload", {"id": "nothing"})
    assert (answer.status_code, error_of(answer)["code"]) == (404, "model_not_found")
    assert_no_path(answer.json(), models)


def test_unload_all_empties_the_memory(server: str, manager: AdvancedModelManager, host: Host) -> None:
    manager.load_model(NAME)
    answer = post(server, "unload", {"all": True})
    assert (answer.status_code, answer.json()["scheduled"]) == (200, True)
    assert (host.emptied, list(host.resident())) == (1, [])


@pytest.mark.parametrize("body", [{}, {"id": 5}, {"id": None}, {"all": False}, {"all": "true"}, {"all": 1}])
def test_unload_of_nothing_in_particular(
    server: str, manager: AdvancedModelManager, host: Host, body: dict[str, Any]
) -> None:
    manager.load_model(NAME)
    answer = post(server, "unload", body)
    assert (answer.status_code, error_of(answer)["code"]) == (400, "bad_input")
    assert (host.emptied, len(host.resident())) == (0, 1)


def test_unload_while_a_prompt_runs(server: str, manager: AdvancedModelManager, host: Host) -> None:
    manager.load_model(NAME)
    host.busy = True
    (model,) = host.resident()
    answer = post(server, "unload", {"id": model.id})
    assert (answer.status_code, error_of(answer)["code"]) == (409, "host_busy")
    assert [m.id for m in host.resident()] == [model.id]


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
        ("GET", "/managed-models/memory"),
        ("GET", "/managed-models/models"),
        ("GET", "/managed-models/status"),
        ("POST", "/managed-models/check"),
        ("POST", "/managed-models/unload"),
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
    host.load(LoadRequest(models / "diffusion_models" / NAME, ModelType.DIFFUSION))
    manager = AdvancedModelManager(ModelManagerConfig(), host)
    with serving(manager) as server:
        (model,) = get(server, "status")["memory"]["models"]
        assert post(server, "unload", {"id": model["id"]}).json()["freed_bytes"] == model["size_bytes"]


def test_answers_are_json(server: str) -> None:
    for answer in (requests.get(f"{server}/status", timeout=30), post(server, "check", {})):
        assert answer.headers["Content-Type"].startswith("application/json")
        assert isinstance(json.loads(answer.content), dict)
