"""Downloads in a real ComfyUI: routes, command line, and what a restart finds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from managed_models.manager.download.partial import Partial
from managed_models.manager.route_guard import OWN_HEADER
from support.comfy_client import Client, node, reports
from support.comfyui import ComfyUIServer
from support.range_server import Server, redirect, send_range

pytestmark = pytest.mark.comfyui
ROOT = Path(__file__).resolve().parents[2]
GUARD = {OWN_HEADER: "1"}
WAN = "tiny_wan21_t2v_bf16.safetensors"
URL = f"https://huggingface.co/owner/repo/resolve/main/{WAN}"
PATH = f"/owner/repo/resolve/main/{WAN}"
CLI = (
    "import importlib.util, sys\n"
    "spec = importlib.util.spec_from_file_location('managed_models', sys.argv.pop(1))\n"
    "module = importlib.util.module_from_spec(spec)\n"
    "sys.modules['managed_models'] = module\n"
    "spec.loader.exec_module(module)\n"
    "from managed_models.manager.cli import main\n"
    "main()"
)


@pytest.fixture
def file(tiny_models: Path) -> Path:
    return tiny_models / "diffusion_models" / WAN


@pytest.fixture
def target(mirrored_server: ComfyUIServer) -> Path:
    return mirrored_server.base / "models" / "diffusion_models" / WAN


@pytest.fixture
def client(mirrored_server: ComfyUIServer, mirror: Server, file: Path, target: Path) -> Iterator[Client]:
    """A client of a ComfyUI without models, whose Hugging Face is the mirror."""
    mirror.add(PATH, file)
    mirror.etags[PATH] = '"one"'
    client = Client(mirrored_server.url, mirrored_server.base)
    yield client
    mirror.special.pop(PATH, None)
    for state in states(client):
        client.post("/managed-models/download/cancel", {"id": state["id"]}, **GUARD)
    target.unlink(missing_ok=True)
    client.free()


def states(client: Client) -> list[dict[str, Any]]:
    return list(client.get("/managed-models/downloads").json()["downloads"])


def start(client: Client, **asked: str) -> dict[str, Any]:
    answer = client.post(
        "/managed-models/download", {"url": URL, "folder": "diffusion_models", **asked}, **GUARD
    )
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["download"])


def until(client: Client, id: str, *wanted: str, least: int = 0) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while True:
        state = next(s for s in states(client) if s["id"] == id)
        if state["state"] in wanted and state["done_bytes"] >= least:
            return state
        assert state["state"] not in ("failed", "cancelled"), state
        assert time.monotonic() < deadline, state
        time.sleep(0.05)


def half_then_wait(mirror: Server, file: Path, go_on: threading.Event) -> None:
    """Let the mirror send half of the file, and the rest later."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if go_on.is_set():
            send_range(handler, file, mirror)
            return
        data = file.read_bytes()
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes 0-{len(data) - 1}/{len(data)}")
        handler.send_header("Content-Length", str(len(data)))
        handler.send_header("ETag", '"one"')
        handler.end_headers()
        handler.wfile.write(data[: len(data) // 2])
        handler.wfile.flush()
        go_on.wait(60)

    mirror.special[PATH] = answer


def test_a_download_lands_where_the_loader_finds_it(client: Client, target: Path, file: Path) -> None:
    state = start(client)
    done = until(client, state["id"], "done")
    assert target.read_bytes() == file.read_bytes()
    assert done["url"] == URL
    assert str(client.base) not in json.dumps(done)
    outputs = client.run(
        {"model": node("LoadManagedModel", model_name=WAN), "end": node("PreviewAny", source=["model", 3])}
    )
    assert reports(outputs, "model").startswith(f"Loaded {WAN}")


def test_pause_resume_and_cancel(client: Client, mirror: Server, target: Path, file: Path) -> None:
    go_on = threading.Event()
    half_then_wait(mirror, file, go_on)
    state = start(client)
    half = file.stat().st_size // 2
    until(client, state["id"], "running", least=half // 2)
    paused = client.post("/managed-models/download/pause", {"id": state["id"]}, **GUARD).json()["download"]
    assert paused["state"] == "paused"
    assert paused["done_bytes"] > 0
    assert not target.exists()
    assert Partial(target).path.exists()
    go_on.set()
    mirror.sent = 0
    client.post("/managed-models/download/resume", {"id": state["id"]}, **GUARD)
    until(client, state["id"], "done")
    assert mirror.sent == file.stat().st_size - paused["done_bytes"]
    assert target.read_bytes() == file.read_bytes()


def test_the_command_line_downloads_by_the_server_and_is_told_what_it_refuses(
    client: Client, mirror: Server, target: Path
) -> None:
    command = [sys.executable, "-c", CLI, str(ROOT / "__init__.py"), "download"]
    options = ["--folder", "diffusion_models", "--server", client.url, "--json"]
    done = subprocess.run([*command, URL, *options], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr + done.stdout
    assert target.is_file()
    elsewhere = "https://example.com/a.safetensors"
    refused = subprocess.run(
        [*command, elsewhere, *options], capture_output=True, text=True, check=False, timeout=60
    )
    assert refused.returncode == 1
    assert "example.com" in json.loads(refused.stdout)["error"]["message"]


def test_a_redirect_inside_is_refused_and_the_token_stays_here(client: Client, mirror: Server) -> None:
    mirror.seen.clear()
    mirror.special[PATH] = redirect("https://127.0.0.1/secret")
    state = start(client)
    deadline = time.monotonic() + 30
    while (found := next(s for s in states(client) if s["id"] == state["id"]))["state"] != "failed":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert found["error"]["code"] == "not_public"
    assert found["error"]["remedy"]
    assert mirror.seen
    assert all("Authorization" not in seen.headers for seen in mirror.seen)


def test_after_comfyui_was_killed_it_is_listed_paused_and_goes_on_when_asked(
    client: Client, mirrored_server: ComfyUIServer, mirror: Server, target: Path, file: Path
) -> None:
    go_on = threading.Event()
    half_then_wait(mirror, file, go_on)
    half = file.stat().st_size // 2
    state = start(client)
    until(client, state["id"], "running", least=half // 2)
    deadline = time.monotonic() + 30
    while (journal := Partial(target).load()) is None or not journal.done:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(mirrored_server.pid, signal.SIGKILL)
    mirrored_server.wait()
    go_on.set()
    mirror.seen.clear()
    mirror.sent = 0
    mirrored_server.start()
    (found,) = states(client)
    assert (found["id"], found["state"], found["name"]) == (state["id"], "paused", WAN)
    assert 0 < found["done_bytes"] < file.stat().st_size
    assert mirror.seen == [], "nothing goes on by itself"
    client.post("/managed-models/download/resume", {"id": state["id"]}, **GUARD)
    until(client, state["id"], "done")
    assert mirror.sent == file.stat().st_size - found["done_bytes"]
    assert target.read_bytes() == file.read_bytes()
