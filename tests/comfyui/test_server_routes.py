"""The routes on ComfyUI's own server, and one set of words through every door."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from managed_models.manager.report import render_check
from managed_models.manager.units import format_bytes
from support.comfy_client import SURROUNDINGS, Client, node, reports, sampler

pytestmark = pytest.mark.comfyui

ROOT = Path(__file__).resolve().parents[2]
WAN = "tiny_wan21_t2v_bf16.safetensors"
SD15 = "tiny_sd15_checkpoint_bf16.safetensors"
OWN = {"X-Managed-Models": "1"}
WITH_WAN_BUT_MODEL = {**SURROUNDINGS["wan"], **sampler(["model", 0], "to_unload")}
WITH_WAN = {"model": node("LoadManagedModel", model_name=WAN), **WITH_WAN_BUT_MODEL}
OTHER = {"text": node("PrimitiveString", value="x"), "end": node("PreviewAny", source=["text", 0])}
# The command line on this checkout, whatever is installed.
CLI = (
    "import importlib.util, sys\n"
    "spec = importlib.util.spec_from_file_location('managed_models', sys.argv.pop(1))\n"
    "module = importlib.util.module_from_spec(spec)\n"
    "sys.modules['managed_models'] = module\n"
    "spec.loader.exec_module(module)\n"
    "from managed_models.manager.cli import main\n"
    "main()"
)


def command_line(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CLI, str(ROOT / "__init__.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_node_command_line_and_python_say_the_same_byte_for_byte(client: Client) -> None:
    prompt = {
        "check": node("CheckCompatibility", model_name=WAN),
        "details": node("PreviewAny", source=["check", 3]),
    }
    outputs = client.run(prompt)
    by_node = reports(outputs, "check")
    by_python = render_check(json.loads(outputs["details"]["text"][0]))
    asked = command_line("check", WAN, "--server", client.url)
    assert asked.returncode == 0, asked.stderr
    assert by_node.encode() == by_python.encode() == asked.stdout.removesuffix("\n").encode()
    as_json = command_line("check", WAN, "--server", client.url, "--json")
    assert render_check(json.loads(as_json.stdout)) == by_node


def test_the_command_line_reports_the_memory_of_the_server(client: Client) -> None:
    found = command_line("report", "--server", client.url)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("Memory on ComfyUI ")


def test_the_command_line_says_what_the_server_refused(client: Client) -> None:
    refused = command_line("check", "no_such_model", "--server", client.url, "--json")
    assert refused.returncode == 1
    error = json.loads(refused.stdout)["error"]
    assert error["code"] == "server_error"
    assert "no_such_model" in error["message"]


@pytest.mark.parametrize("prefix", ["", "/api"])
def test_status_shows_versions_memory_and_no_path(client: Client, prefix: str) -> None:
    found = client.get(f"{prefix}/managed-models/status")
    assert found.status_code == 200
    status = found.json()
    assert status["system"]["comfyui_version"] in client.get("/system_stats").text
    assert status["system"]["pytorch_version"] in client.get("/system_stats").text
    assert status["memory"]["ram"]["total_bytes"] > 0
    assert str(client.base) not in found.text


def test_models_lists_every_file_with_an_opaque_id(client: Client) -> None:
    found = client.get("/managed-models/models")
    rows = {row["name"]: row for row in found.json()["models"]}
    for name in (WAN, "from_extra_paths.safetensors"):
        assert rows[name]["version"] is None, "nobody registered one"
    assert len({row["id"] for row in rows.values()}) == len(rows)
    assert str(client.base) not in found.text


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {**OWN, "Origin": "null"},
        {**OWN, "Origin": "http://127.0.0.1"},
        {**OWN, "Origin": "http://evil.example"},
        {**OWN, "Host": "evil.example"},
        {**OWN, "Sec-Fetch-Site": "cross-site"},
        {**OWN, "Sec-Fetch-Site": "same-site"},
        {**OWN, "Content-Type": "text/plain"},
    ],
)
@pytest.mark.parametrize("route", ["unload", "pin"])
def test_a_foreign_page_cannot_unload_or_pin(client: Client, route: str, headers: dict[str, str]) -> None:
    answer = requests.post(
        f"{client.url}/managed-models/{route}",
        data=json.dumps({"all": True, "model": WAN, "pinned": True}),
        headers={"Content-Type": "application/json", **headers},
        timeout=30,
    )
    assert answer.status_code in (403, 415)


def test_a_foreign_page_cannot_read(client: Client) -> None:
    for headers in ({"Host": "evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        answer = client.get("/managed-models/status", headers=headers)
        assert answer.status_code == 403, headers


def test_what_is_unloaded_is_loaded_again_by_the_next_prompt(client: Client) -> None:
    _start_empty(client)
    assert reports(client.run(WITH_WAN), "model").startswith(f"Loaded {WAN}")
    mine = _wan(client)
    assert (mine["pooled"], mine["pinned"]) == (True, False)
    _let_go(client)
    answer = client.post("/managed-models/unload", {"id": mine["id"]}, **OWN)
    assert answer.status_code == 200, answer.text
    given = answer.json()
    assert (given["title"], given["freed_bytes"]) == (Path(WAN).stem, 0)  # a CPU has no memory of its own
    assert (given["ram_bytes"], given["still_in_ram_bytes"]) == (mine["ram_bytes"], 0)
    assert Path(WAN).stem not in {model["title"] for model in _loaded(client)}
    assert client.post("/managed-models/unload", {"id": mine["id"]}, **OWN).status_code == 404
    assert reports(client.run(WITH_WAN), "model").startswith(f"Loaded {WAN}")


def test_what_comfyuis_cache_has_stays_in_ram_until_that_lets_go(client: Client) -> None:
    _start_empty(client)
    client.run(WITH_WAN)
    mine = _wan(client)
    assert mine["held"] is True
    given = client.post("/managed-models/unload", {"id": mine["id"]}, **OWN).json()
    assert (given["ram_bytes"], given["still_in_ram_bytes"]) == (0, mine["ram_bytes"])
    assert "ComfyUI's cache of results" in given["report"]
    assert _wan(client)["pooled"] is False
    client.free()
    _until(lambda: not _loaded(client))


def test_unload_from_vram_only_keeps_the_model_for_the_next_prompt(client: Client) -> None:
    _start_empty(client)
    client.run(WITH_WAN)
    before = _wan(client)
    _let_go(client)
    answer = client.post("/managed-models/unload", {"model": WAN, "vram_only": True}, **OWN)
    assert answer.json()["still_in_ram_bytes"] == before["ram_bytes"]
    assert _wan(client)["pooled"] is True
    assert "is in memory already and is shared" in reports(client.run(WITH_WAN), "model")


def test_a_pinned_model_outlives_its_time(client: Client) -> None:
    _start_empty(client)
    prompt = {"model": node("LoadManagedModel", model_name=WAN, keep_alive="0"), **WITH_WAN_BUT_MODEL}
    client.run(prompt)
    pinned = client.post("/managed-models/pin", {"id": _wan(client)["id"], "pinned": True}, **OWN)
    assert pinned.json()["in_memory"] is True
    client.run(
        {
            "model": node("LoadManagedModel", model_name=SD15, keep_alive="0"),
            "end": node("PreviewAny", source=["model", 3]),
        }
    )
    _let_go(client)
    _until(lambda: Path(SD15).stem not in {model["title"] for model in _loaded(client)})
    assert (_wan(client)["pinned"], _wan(client)["expires_in"]) == (True, None)
    client.post("/managed-models/pin", {"model": WAN, "pinned": False}, **OWN)
    _until(lambda: Path(WAN).stem not in {model["title"] for model in _loaded(client)})


def test_the_command_line_pins_and_unloads(client: Client) -> None:
    _start_empty(client)
    client.run(WITH_WAN)
    pinned = command_line("pin", WAN, "--server", client.url, "--json")
    assert (pinned.returncode, json.loads(pinned.stdout)["pinned"]) == (0, True)
    assert "pinned" in command_line("report", "--server", client.url).stdout
    assert _wan(client)["pinned"] is True
    assert command_line("pin", Path(WAN).stem, "--off", "--server", client.url).returncode == 0
    size = _wan(client)["ram_bytes"]
    _let_go(client)
    gone = command_line("unload", WAN, "--server", client.url)
    assert gone.returncode == 0, gone.stderr
    assert gone.stdout == f"{Path(WAN).stem}: {format_bytes(size)} of RAM given back.\n"
    again = command_line("unload", WAN, "--server", client.url, "--json")
    assert (again.returncode, json.loads(again.stdout)["error"]["code"]) == (1, "server_error")
    assert reports(client.run(WITH_WAN), "model").startswith(f"Loaded {WAN}")
    everything = command_line("unload", "--server", client.url, "--json")
    assert (everything.returncode, json.loads(everything.stdout)["still_in_ram_bytes"]) == (0, 0)
    assert _loaded(client) == []


def test_unload_all_empties_everything(client: Client) -> None:
    client.run(
        {"model": node("LoadManagedModel", model_name=WAN), "end": node("PreviewAny", source=["model", 3])}
    )
    found = client.post("/managed-models/unload", {"all": True}, **OWN).json()
    assert found["ram_bytes"] > 0
    assert (found["still_in_ram_bytes"], found["scheduled"]) == (0, False)
    assert _loaded(client) == []


def test_unload_waits_for_no_prompt_and_says_so(client: Client) -> None:
    prompt: dict[str, Any] = {
        "model": node("LoadManagedModel", model_name=WAN),
        **SURROUNDINGS["wan"],
        **sampler(["model", 0], "busy"),
    }
    prompt["busy"]["inputs"]["steps"] = 2000  # it is interrupted in the end
    prompt["latent"]["inputs"].update(width=256, height=256)
    prompt_id = client.queue(prompt)
    try:
        deadline = time.monotonic() + 60
        while not (mine := [m for m in _loaded(client) if m["title"] == Path(WAN).stem]):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        for body in ({"id": mine[0]["id"]}, {"model": WAN}, {"all": True, "vram_only": True}):
            answer = client.post("/managed-models/unload", body, **OWN)
            assert answer.status_code == 409
            assert "A prompt is running" in answer.json()["error"]["message"]
        asked = command_line("unload", WAN, "--server", client.url)
        assert asked.returncode == 1
        assert "A prompt is running" in asked.stderr
    finally:
        client.post("/interrupt", {})
        client.wait(prompt_id)


def _loaded(client: Client) -> list[dict[str, Any]]:
    return list(client.get("/managed-models/status").json()["memory"]["loaded"])


def _wan(client: Client) -> dict[str, Any]:
    return next(model for model in _loaded(client) if model["title"] == Path(WAN).stem)


def _start_empty(client: Client) -> None:
    client.free()
    client.run(OTHER)  # ComfyUI frees before or after this prompt, and before the next


def _let_go(client: Client) -> None:
    """Run another prompt, until ComfyUI's cache has nothing of the earlier one any more."""
    client.run(OTHER)
    _until(lambda: not _wan(client)["held"])


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
