"""The routes and the command of workflows' needs, over real HTTP and in this process."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import requests
from aiohttp import web
from managed_models.manager import AdvancedModelManager, ModelManagerConfig
from managed_models.manager.cli.app import app
from managed_models.manager.local_host import LocalHost
from managed_models.manager.route_guard import OWN_HEADER
from managed_models.manager.routes import add_routes
from managed_models.manager.routes.needs import MAX_WORKFLOW
from managed_models.manager.words.needs import render_needs
from support.files import shapes_file
from support.range_server import Server, range_server
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]
GUARD = {OWN_HEADER: "1"}
NAME = "vae.safetensors"
PATH = f"/o/r/resolve/main/{NAME}"
ITEM = {"name": NAME, "directory": "vae", "url": f"https://huggingface.co{PATH}"}
WORKFLOW = {
    "nodes": [{"id": 1, "type": "VAELoader", "widgets_values": [NAME], "properties": {"models": [ITEM]}}]
}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    (folder / "vae").mkdir(parents=True)
    return folder


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    with range_server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url(""))
        server.add(PATH, shapes_file(tmp_path / NAME, {"decoder.conv_in.weight": (8, 4, 3, 3)}))
        yield server


@contextmanager
def serving(manager: AdvancedModelManager) -> Iterator[str]:
    """Run a real server with our routes; give its address."""
    loop = asyncio.new_event_loop()
    table = web.RouteTableDef()
    add_routes(table, lambda: manager)
    application = web.Application(client_max_size=1 << 30)
    application.add_routes(table)
    runner = web.AppRunner(application, access_log=None)
    loop.run_until_complete(runner.setup())
    site = web.TCPSite(runner, "127.0.0.1", 0)
    loop.run_until_complete(site.start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(runner.cleanup())
        loop.close()


@pytest.fixture
def url(models: Path, mirror: Server) -> Iterator[str]:
    manager = AdvancedModelManager(ModelManagerConfig(), LocalHost([models]))
    with serving(manager) as address:
        yield address
    manager.close()


def post(url: str, path: str, body: Any, **headers: str) -> requests.Response:
    return requests.post(f"{url}/managed-models/{path}", json=body, headers=headers, timeout=30)


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout


def test_the_route_says_what_the_words_say_and_offers_one_question(url: str) -> None:
    answer = post(url, "needs", {"workflow": WORKFLOW}, **GUARD).json()
    assert answer["report"] == render_needs(answer["details"])
    assert answer["headline"] == answer["report"].splitlines()[0]
    assert answer["words"] == [
        [f"{NAME} (vae)", "for VAELoader #1", "from huggingface.co/o/r (named by the workflow)"]
    ]
    assert answer["offer"] == {
        "label": "Fetch 1 missing (size not known yet)",
        "title": "Fetch 1 missing model?",
        "message": "Size not known yet, from huggingface.co.",
        "items": [f"vae/{NAME}: from {ITEM['url']}, named by the workflow"],
        "models": [{"folder": "vae", "name": NAME}],
    }


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("needs", {}),
        ("needs", {"workflow": 3}),
        ("needs", {"workflow": WORKFLOW, "ask": "yes"}),
        ("needs/fetch", {"workflow": WORKFLOW, "models": 3}),
        ("needs/fetch", {"workflow": WORKFLOW, "models": [{"name": NAME}]}),
        ("needs/fetch", {"models": []}),
        ("fetch-again", {"folder": "vae"}),
        ("fetch-again", {"folder": 3, "name": NAME}),
    ],
)
def test_bad_requests_are_told_what_to_send(url: str, path: str, body: Any) -> None:
    answer = post(url, path, body, **GUARD)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "bad_input"


@pytest.mark.parametrize("path", ["needs", "needs/fetch", "fetch-again"])
def test_only_the_page_may_ask(url: str, path: str) -> None:
    assert post(url, path, {"workflow": WORKFLOW}).status_code == 403
    foreign = post(url, path, {"workflow": WORKFLOW}, Origin="https://evil.example", **GUARD)
    assert foreign.status_code == 403


def test_the_size_of_a_workflow_has_a_limit_of_its_own(url: str) -> None:
    note = {"id": 1, "type": "Note", "widgets_values": ["x" * (MAX_WORKFLOW // 2)]}
    assert post(url, "needs", {"workflow": {"nodes": [note]}}, **GUARD).status_code == 200
    assert post(url, "needs", {"workflow": {"nodes": [note, note]}}, **GUARD).status_code == 413
    assert post(url, "fetch-again", {"folder": "x" * (1 << 17)}, **GUARD).status_code == 413


def test_an_unknown_file_is_not_fetched_again(url: str) -> None:
    assert post(url, "fetch-again", {"folder": "vae", "name": NAME}, **GUARD).status_code == 404
    assert post(url, "fetch-again", {"folder": "vae", "name": "../x"}, **GUARD).status_code == 400


def test_the_command_says_fetches_and_then_finds_everything(
    models: Path, mirror: Server, tmp_path: Path
) -> None:
    file = tmp_path / "w.json"
    file.write_text(json.dumps(WORKFLOW), encoding="utf-8-sig")
    code, words = run("needs", file, "--comfyui", tmp_path)
    assert code == 1
    assert f"from {ITEM['url']} (named by the workflow)" in words
    assert mirror.seen == []
    code, text = run("needs", file, "--comfyui", tmp_path, "--fetch", "--json")
    assert code == 0
    assert json.loads(text)["fetched"] == [{"name": NAME, "folder": "vae", "error": None}]
    assert run("needs", file, "--comfyui", tmp_path)[0] == 0


def test_the_command_goes_on_after_one_that_fails(models: Path, mirror: Server, tmp_path: Path) -> None:
    gone = {
        "name": "gone.safetensors",
        "directory": "vae",
        "url": "https://huggingface.co/o/r/resolve/main/gone",
    }
    nodes = [*WORKFLOW["nodes"], {"id": 2, "type": "VAELoader", "widgets_values": ["gone.safetensors"]}]
    file = tmp_path / "w.json"
    file.write_text(json.dumps({"nodes": nodes[::-1], "models": [gone]}))
    code, text = run("needs", file, "--comfyui", tmp_path, "--fetch", "--json")
    assert code == 1
    fetched = {row["name"]: row["error"] for row in json.loads(text)["fetched"]}
    assert fetched[NAME] is None
    assert fetched["gone.safetensors"]["code"] == "remote_error"


def test_the_command_asks_a_running_server(url: str, tmp_path: Path) -> None:
    file = tmp_path / "w.json"
    file.write_text(json.dumps(WORKFLOW))
    assert run("needs", file, "--server", url)[0] == 1
    code, text = run("needs", file, "--server", url, "--fetch", "--json")
    assert code == 0
    assert json.loads(text)["ready"]


# Runs this checkout in another process, as conftest.py does in this one.
BOOT = f"""
import importlib.util, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored when a shell runs us in the background
spec = importlib.util.spec_from_file_location("managed_models", {str(ROOT / "__init__.py")!r})
module = sys.modules["managed_models"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from managed_models.manager.cli import main
main()
"""


def test_ctrl_c_keeps_what_has_come_and_says_how_to_go_on(
    models: Path, mirror: Server, tmp_path: Path
) -> None:
    source = shapes_file(tmp_path / "large.safetensors", {"decoder.conv_in.weight": (64, 1024, 64)})
    begun, go_on = threading.Event(), threading.Event()

    def slowly(handler: BaseHTTPRequestHandler) -> None:
        size = source.stat().st_size
        handler.send_response(206)
        handler.send_header("ETag", '"one"')
        handler.send_header("Content-Range", f"bytes 0-{size - 1}/{size}")
        handler.send_header("Content-Length", str(size))
        handler.end_headers()
        data = source.read_bytes()
        handler.wfile.write(data[: size // 2])
        begun.set()
        go_on.wait(60)

    mirror.answer(PATH, slowly)
    file = tmp_path / "w.json"
    file.write_text(json.dumps(WORKFLOW))
    process = subprocess.Popen(
        [sys.executable, "-c", BOOT, "needs", str(file), "--comfyui", str(tmp_path), "--fetch"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert begun.wait(60)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    go_on.set()
    assert process.returncode == 1
    assert "is paused; what has come of it is kept. Give the same command again to go on." in said
    assert not (models / "vae" / NAME).exists()
    del mirror.special[PATH]
    mirror.etags[PATH] = '"one"'
    mirror.add(PATH, source)
    assert run("needs", file, "--comfyui", tmp_path, "--fetch")[0] == 0
    assert (models / "vae" / NAME).read_bytes() == source.read_bytes()


@pytest.mark.parametrize(
    ("text", "code"),
    [(None, "model_not_found"), ("{", "bad_input"), ("[]", "bad_input"), ("[" * 100_000, "bad_input")],
)
def test_what_is_no_workflow_is_told(tmp_path: Path, text: str | None, code: str) -> None:
    file = tmp_path / "w.json"
    if text is not None:
        file.write_text(text)
    exit_code, said = run("needs", file, "--json")
    assert exit_code == 1
    assert json.loads(said)["error"]["code"] == code
