"""The routes on ComfyUI's own server, and one set of words through every door."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import requests
from managed_models.manager.report import render_check
from support.comfy_client import SURROUNDINGS, Client, node, reports, sampler

pytestmark = pytest.mark.comfyui

ROOT = Path(__file__).resolve().parents[2]
WAN = "tiny_wan21_t2v_bf16.safetensors"
OWN = {"X-Managed-Models": "1"}
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
def test_a_foreign_page_cannot_unload(client: Client, headers: dict[str, str]) -> None:
    answer = requests.post(
        f"{client.url}/managed-models/unload",
        data=json.dumps({"all": True}),
        headers={"Content-Type": "application/json", **headers},
        timeout=30,
    )
    assert answer.status_code in (403, 415)


def test_a_foreign_page_cannot_read(client: Client) -> None:
    for headers in ({"Host": "evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        answer = client.get("/managed-models/status", headers=headers)
        assert answer.status_code == 403, headers


def test_unload_takes_a_model_out_of_comfyuis_list(client: Client) -> None:
    client.run(
        {
            "model": node("LoadManagedModel", model_name=WAN),
            **SURROUNDINGS["wan"],
            **sampler(["model", 0], "to_unload"),
        }
    )
    loaded = _loaded(client)
    mine = next(model for model in loaded if model["title"] == Path(WAN).stem)
    answer = client.post("/managed-models/unload", {"id": mine["id"]}, **OWN)
    assert answer.status_code == 200, answer.text
    assert answer.json()["freed_bytes"] == 0  # a CPU has no memory of its own
    assert client.post("/managed-models/unload", {"id": "stranger"}, **OWN).status_code == 404


def test_unload_all_empties_everything(client: Client) -> None:
    client.run(
        {"model": node("LoadManagedModel", model_name=WAN), "end": node("PreviewAny", source=["model", 3])}
    )
    assert client.post("/managed-models/unload", {"all": True}, **OWN).json()["scheduled"] is True
    deadline = time.monotonic() + 30
    while _loaded(client):
        assert time.monotonic() < deadline, _loaded(client)
        time.sleep(0.1)


def test_unload_waits_for_no_prompt_and_says_so(client: Client) -> None:
    prompt: dict[str, Any] = {
        "model": node("LoadManagedModel", model_name=WAN),
        **SURROUNDINGS["wan"],
        **sampler(["model", 0], "busy"),
    }
    prompt["busy"]["inputs"]["steps"] = 60
    prompt["latent"]["inputs"].update(width=256, height=256)
    prompt_id = client.queue(prompt)
    try:
        deadline = time.monotonic() + 60
        while not (mine := [m for m in _loaded(client) if m["title"] == Path(WAN).stem]):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        answer = client.post("/managed-models/unload", {"id": mine[0]["id"]}, **OWN)
        assert answer.status_code == 409
        assert "A prompt is running" in answer.json()["error"]["message"]
    finally:
        client.post("/interrupt", {})
        client.wait(prompt_id)


def _loaded(client: Client) -> list[dict[str, Any]]:
    return list(client.get("/managed-models/status").json()["memory"]["models"])
