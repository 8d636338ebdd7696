"""Scans, verifying, equal files and pages over HTTP, of a real server; no answer holds a path."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from managed_models.manager import AdvancedModelManager, ModelInfo, ModelManagerConfig, ModelType
from managed_models.manager.host import RunningPrompt
from managed_models.manager.local_host import LocalHost
from support.files import raw_file, shapes_file
from support.routes import serving_routes

HEADERS = {"X-Managed-Models": "1"}
LORA = {"a.lora_down.weight": (4, 4)}


class Host(LocalHost):
    busy = False

    def running(self) -> RunningPrompt | None:
        return RunningPrompt("prompt", None, None) if self.busy else None


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "private" / "models"
    (folder / "loras").mkdir(parents=True)
    for number in range(3):
        shapes_file(folder / "loras" / f"ink_{number}.safetensors", LORA, metadata={"n": str(number)})
    return folder


@pytest.fixture
def manager(models: Path) -> Iterator[AdvancedModelManager]:
    found = AdvancedModelManager(ModelManagerConfig(model_roots=[models]), Host([models]))
    yield found
    found.close()


@pytest.fixture
def server(manager: AdvancedModelManager) -> Iterator[str]:
    with serving_routes(manager) as address:
        yield f"{address}/managed-models"


def get(server: str, route: str, models: Path) -> Any:
    answer = requests.get(f"{server}/{route}", timeout=30)
    assert answer.status_code == 200, answer.text
    assert "private" not in answer.text
    return answer.json()


def post(server: str, route: str, body: Any) -> requests.Response:
    answer = requests.post(f"{server}/{route}", json=body, headers=HEADERS, timeout=30)
    assert "private" not in answer.text
    return answer


def finished(server: str, models: Path) -> Any:
    deadline = time.monotonic() + 60
    while (found := get(server, "verify", models))["details"]["running"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def test_models_come_in_pages(server: str, manager: AdvancedModelManager, models: Path) -> None:
    manager.scan()
    manager.register_model(ModelInfo("drawing", ModelType.LORA, models / "loras" / "ink_2.safetensors"))
    whole = get(server, "models", models)
    assert (len(whole["models"]), whole["total"]) == (3, 3)
    page = get(server, "models?offset=1&limit=1", models)
    assert (page["models"], page["total"]) == (whole["models"][1:2], 3)
    for query, names in {
        "q=ink_1": ["ink_1.safetensors"],
        "q=drawing": ["ink_2.safetensors"],
        "q=nothing": [],
        "folder=vae": [],
        "q=ink&folder=loras&offset=2": ["ink_2.safetensors"],
    }.items():
        assert [row["name"] for row in get(server, f"models?{query}", models)["models"]] == names
    assert page["models"][0]["what"] == "LoRA"


@pytest.mark.parametrize("query", ["offset=-1", "limit=0", "limit=201", "limit=x", "offset=1e3", "limit=²"])
def test_bad_pages_are_refused(server: str, query: str) -> None:
    answer = requests.get(f"{server}/models?{query}", timeout=30)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_input")


def test_a_scan_says_how_many_changed(server: str, models: Path) -> None:
    found = post(server, "scan", {}).json()
    assert (found["details"]["count"], found["details"]["added"]) == (3, 3)
    assert found["report"] == "3 added; 0 unchanged"
    shutil.move(models / "loras" / "ink_0.safetensors", models / "loras" / "moved.safetensors")
    assert post(server, "scan", {}).json()["report"] == "1 moved; 2 unchanged"


def test_verifying_runs_in_the_background(server: str, manager: AdvancedModelManager, models: Path) -> None:
    raw_file(models / "loras" / "cut.safetensors", '{"a": ')
    assert get(server, "verify", models)["report"] == "Nothing was verified yet."
    answer = post(server, "verify", {"all": True})
    assert answer.status_code == 200
    assert set(answer.json()) == {"details", "report"}
    found = finished(server, models)
    assert found["report"] == "4 of 4 files verified, 1 damaged."
    assert [row["model"] for row in found["details"]["damaged"]] == ["cut.safetensors"]
    rows = {row["name"]: row for row in get(server, "models", models)["models"]}
    assert (rows["ink_0.safetensors"]["health"], rows["cut.safetensors"]["health"]) == ("good", "damaged")
    assert rows["cut.safetensors"]["health_words"].startswith("Verified: damaged, on ")


def test_some_models_are_verified_by_name(server: str, models: Path) -> None:
    assert post(server, "verify", {"models": ["ink_1.safetensors"]}).status_code == 200
    assert finished(server, models)["details"]["total"] == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"all": "yes"}, 400),
        ({"models": []}, 400),
        ({"models": [5]}, 400),
        ({"models": ["x"]}, 404),
    ],
)
def test_what_cannot_be_verified(server: str, body: Any, status: int) -> None:
    assert post(server, "verify", body).status_code == status


def test_verifying_waits_for_prompts_and_may_be_stopped(
    server: str, manager: AdvancedModelManager, models: Path
) -> None:
    assert isinstance(manager.host, Host)
    manager.host.busy = True
    post(server, "verify", {"all": True})
    assert post(server, "verify", {"all": True}).status_code == 409
    assert get(server, "verify", models)["details"]["running"] is True
    assert post(server, "verify/cancel", {}).status_code == 200
    assert finished(server, models)["report"] == "Stopped after 0 of 3 files, none damaged."
    manager.host.busy = False
    assert post(server, "verify", {"all": True}).status_code == 200
    finished(server, models)


def test_equal_files_are_named_without_their_paths(
    server: str, manager: AdvancedModelManager, models: Path
) -> None:
    assert get(server, "duplicates", models)["report"] == "No two of 3 files are the same."
    shutil.copy(models / "loras" / "ink_1.safetensors", models / "loras" / "twin.safetensors")
    found = get(server, "duplicates", models)
    (group,) = found["details"]["groups"]
    assert (group["models"], group["proved"]) == (
        ["loras/ink_1.safetensors", "loras/twin.safetensors"],
        False,
    )
    assert "May be the same" in found["report"]
    post(server, "verify", {"all": True})
    finished(server, models)
    (group,) = get(server, "duplicates", models)["details"]["groups"]
    assert group["proved"] is True


def test_a_pin_is_remembered(server: str, manager: AdvancedModelManager, models: Path) -> None:
    path = models / "loras" / "ink_1.safetensors"
    assert post(server, "pin", {"model": path.name, "pinned": True}).status_code == 200
    assert manager.registry.pins() == [path]
    again = AdvancedModelManager(manager.config, Host([models]), manager.registry)
    assert again.pool.pinned_paths() == set()
    again.marks.restore()
    assert again.pool.pinned_paths() == {path}
    assert post(server, "pin", {"model": path.name, "pinned": False}).status_code == 200
    assert manager.registry.pins() == []


@pytest.mark.parametrize("route", ["scan", "verify", "verify/cancel"])
def test_what_changes_something_is_guarded(server: str, route: str) -> None:
    assert requests.post(f"{server}/{route}", json={"all": True}, timeout=30).status_code == 403
    origin = {"Origin": "https://evil.example", **HEADERS}
    assert requests.post(f"{server}/{route}", json={}, headers=origin, timeout=30).status_code == 403


@pytest.mark.parametrize("route", ["verify", "duplicates", "models"])
def test_nobody_else_may_read(server: str, route: str) -> None:
    headers = {"Host": "evil.example"}
    assert requests.get(f"{server}/{route}", headers=headers, timeout=30).status_code == 403
