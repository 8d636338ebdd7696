"""The same downloads through Python, the routes and the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from managed_models.manager import AdvancedModelManager, ModelInfo, ModelManagerConfig, ModelType
from managed_models.manager.cli.app import app
from managed_models.manager.download.partial import Partial
from managed_models.manager.errors import BadInput, HostNotAllowed, ModelNotFound
from managed_models.manager.files import FileIdentity
from managed_models.manager.words.download import render_downloaded, render_downloads
from support.downloads import Handler, Served, arrived_of, left_of
from support.range_server import body, redirect
from support.routes import serving_routes
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]
HEADERS = {"X-Managed-Models": "1"}
HF = "https://huggingface.co/model.safetensors"
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


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "a private folder" / "models"
    for kind in ("vae", "loras", "diffusion_models"):
        (folder / kind).mkdir(parents=True)
    return folder


@pytest.fixture
def manager(models: Path, served: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[AdvancedModelManager]:
    """A manager whose Hugging Face is the test's server."""
    monkeypatch.setenv("HF_ENDPOINT", served.server.url(""))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    made = AdvancedModelManager(ModelManagerConfig(model_roots=[models]))
    yield made
    made.close()


# Python


def test_a_registered_model_is_fetched_into_its_place(
    manager: AdvancedModelManager, served: Served, models: Path
) -> None:
    target = models / "vae" / "mine.safetensors"
    manager.register_model(ModelInfo("mine", ModelType.VAE, target, url=HF))
    seen: list[tuple[int, int]] = []
    path = manager.download_model("mine", progress=lambda done, total: seen.append((done, total)))
    assert path == target
    assert target.read_bytes() == served.data
    assert seen[-1] == (len(served.data), len(served.data))
    info = manager.get_model("mine")
    assert info is not None
    assert (info.sha256, info.file_path) == (served.sha256, target)
    source = manager.registry.source(FileIdentity.of(target))
    assert source is not None
    assert (source.url, source.sha256, source.etag) == (HF, served.sha256, '"one"')
    assert manager.registry.sha256(FileIdentity.of(target)) == served.sha256
    asked = len(served.server.seen)
    assert manager.download_model("mine") == target, "it is there, and the same"
    assert len(served.server.seen) == asked
    assert all("Authorization" not in seen.headers for seen in served.server.seen), "a mirror gets no token"


def test_a_registered_model_without_a_place_goes_into_the_folder_of_its_kind(
    manager: AdvancedModelManager, models: Path
) -> None:
    manager.register_model(ModelInfo("mine", ModelType.LORA, Path(), url=HF))
    assert manager.download_model("mine") == models / "loras" / "model.safetensors"


def test_what_is_not_registered_or_has_no_address(manager: AdvancedModelManager, models: Path) -> None:
    with pytest.raises(ModelNotFound):
        manager.download_model("nothing")
    manager.register_model(ModelInfo("mine", ModelType.VAE, models / "vae" / "a.safetensors"))
    with pytest.raises(BadInput, match="without an address"):
        manager.download_model("mine")
    manager.register_model(
        ModelInfo("other", ModelType.VAE, models / "vae" / "b.safetensors", url="https://example.com/b")
    )
    with pytest.raises(HostNotAllowed):
        manager.download_model("other")


def test_nothing_is_registered_that_nobody_registered(
    manager: AdvancedModelManager, served: Served, models: Path
) -> None:
    from managed_models.manager.download.model import DownloadRequest

    manager.downloads.fetch(DownloadRequest(HF, models / "vae" / "a.safetensors"))
    assert manager.list_models() == []


def test_hugging_faces_own_hash_is_held_against_the_file(
    manager: AdvancedModelManager, served: Served, models: Path
) -> None:
    from managed_models.manager.download.model import DownloadRequest
    from managed_models.manager.errors import HashMismatch

    def linked(handler: Handler) -> None:
        from support.range_server import status

        etag = f'"{"0" * 64}"'
        status(handler, 302, Location="/storage", X_Linked_ETag=etag, X_Linked_Size=str(len(served.data)))

    served.server.add("/storage", served.file)
    served.misbehave(linked)
    request = DownloadRequest(HF, models / "vae" / "a.safetensors")
    with pytest.raises(HashMismatch, match="came whole"):
        manager.downloads.fetch(request)
    assert not request.target.exists()
    named = DownloadRequest(HF, models / "vae" / "b.safetensors", sha256=served.sha256)
    with pytest.raises(HashMismatch, match="Nothing was fetched"):
        manager.downloads.fetch(named)


def test_a_close_pauses_and_cleaning_up_leaves_what_is_young(
    manager: AdvancedModelManager, served: Served, models: Path
) -> None:
    target = models / "vae" / "a.safetensors"
    partial = Partial(target)
    partial.path.write_bytes(b"half")
    partial.journal_path.write_text("{}")
    manager._clean()
    assert partial.path.exists()


# Routes


def post(server: str, route: str, asked: Any, **headers: str) -> requests.Response:
    return requests.post(
        f"{server}/managed-models/{route}", json=asked, headers={**HEADERS, **headers}, timeout=30
    )


def wait(server: str, id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 20
    while True:
        found = requests.get(f"{server}/managed-models/downloads", timeout=30).json()
        state = next(s for s in found["downloads"] if s["id"] == id)
        if state["state"] not in ("queued", "running", "checking"):
            assert found["report"] == render_downloads(found["downloads"])
            return dict(state)
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_download_through_the_routes(manager: AdvancedModelManager, served: Served, models: Path) -> None:
    with serving_routes(manager) as server:
        answer = post(server, "download", {"url": HF, "folder": "vae", "sha256": served.sha256})
        assert answer.status_code == 200, answer.text
        started = answer.json()["download"]
        assert (started["name"], started["folder"], started["url"]) == ("model.safetensors", "vae", HF)
        done = wait(server, started["id"])
        assert (done["state"], done["sha256"]) == ("done", served.sha256)
        for route in ("pause", "resume", "cancel"):
            changed = post(server, f"download/{route}", {"id": started["id"]})
            assert changed.json()["download"]["state"] == "done"
        assert str(models) not in answer.text
    assert (models / "vae" / "model.safetensors").read_bytes() == served.data


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"url": HF}, "bad_input"),
        ({"url": HF, "folder": "nowhere"}, "bad_input"),
        ({"url": HF, "folder": 5}, "bad_input"),
        ({"url": HF, "folder": "vae", "name": "../a.safetensors"}, "invalid_output_name"),
        ({"url": HF, "folder": "vae", "name": "a/b.safetensors"}, "invalid_output_name"),
        ({"url": HF, "folder": "vae", "name": "a\u202e.safetensors"}, "invalid_output_name"),
        ({"url": HF, "folder": "vae", "name": "a.ckpt"}, "bad_input"),
        ({"url": HF, "folder": "vae", "sha256": "abc"}, "bad_input"),
        ({"url": "https://example.com/a.safetensors", "folder": "vae"}, "host_not_allowed"),
        ({"url": "http://127.0.0.1:9/a.safetensors", "folder": "vae"}, "not_public"),
        ({"url": "file:///etc/passwd", "folder": "vae"}, "bad_input"),
    ],
)
def test_what_the_route_refuses(
    manager: AdvancedModelManager, models: Path, asked: dict[str, Any], code: str
) -> None:
    with serving_routes(manager) as server:
        answer = post(server, "download", asked)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == code
    assert not [path for path in models.rglob("*") if path.is_file()]


@pytest.mark.parametrize("route", ["download", "download/pause", "download/resume", "download/cancel"])
@pytest.mark.parametrize(
    "headers", [{"X-Managed-Models": ""}, {"Origin": "http://evil.example"}, {"Host": "evil.example"}]
)
def test_a_foreign_page_starts_and_stops_nothing(
    manager: AdvancedModelManager, served: Served, route: str, headers: dict[str, str]
) -> None:
    with serving_routes(manager) as server:
        answer = post(server, route, {"url": HF, "folder": "vae", "id": "x"}, **headers)
    assert answer.status_code == 403
    assert served.server.seen == []


def test_an_unknown_id_is_told(manager: AdvancedModelManager) -> None:
    with serving_routes(manager) as server:
        assert post(server, "download/pause", {"id": "nothing"}).status_code == 404
        assert post(server, "download/pause", {}).status_code == 400


# Command line


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def test_download_to_a_path(served: Served, tmp_path: Path) -> None:
    target = tmp_path / "got.safetensors"
    arguments = ("download", served.url, "--output", str(target), "--allow-local-network", "--json")
    code, out, err = run(*arguments)
    assert code == 0, err
    details = json.loads(out)
    assert details == {
        "path": str(target),
        "size_bytes": len(served.data),
        "sha256": served.sha256,
        "fetched": True,
    }
    assert target.read_bytes() == served.data
    code, out, _ = run(*arguments[:-1], "--sha256", served.sha256)
    assert (code, out) == (0, render_downloaded({**details, "fetched": False}) + "\n")


def test_download_into_a_folder_of_comfyui(served: Served, tmp_path: Path) -> None:
    (tmp_path / "models" / "vae").mkdir(parents=True)
    served.misbehave(lambda h: body(
        206, served.data[:1], Content_Range=f"bytes 0-0/{len(served.data)}", Content_Length="1",
        Content_Disposition='attachment; filename="from server.safetensors"',
    )(h) if h.headers["Range"] == "bytes=0-0" else served.well(h), "/api/download/1")  # fmt: skip
    url = served.server.add("/api/download/1", served.file)
    place = ("--folder", "vae", "--comfyui", str(tmp_path), "--allow-local-network", "--json")
    code, out, err = run("download", url, *place)
    assert code == 0, err + out
    assert Path(json.loads(out)["path"]) == tmp_path / "models" / "vae" / "from server.safetensors"
    code, out, _ = run("download", url, "--name", "../a.safetensors", *place)
    assert (code, json.loads(out)["error"]["code"]) == (1, "invalid_output_name")


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("../../evil.safetensors", "evil.safetensors"),
        ("..\\\\evil.safetensors", "evil.safetensors"),
        ("a\x1b[2Jb.safetensors", "a[2Jb.safetensors"),
        ("evil.exe", None),
        ("con.safetensors", None),
        ("", None),
    ],
)
def test_what_the_server_calls_the_file_leads_nowhere_else(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, name: str | None
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)

    def answer(handler: Handler) -> None:
        if handler.headers["Range"] != "bytes=0-0":
            served.well(handler)
            return
        headers = {"Content_Disposition": f'attachment; filename="{said}"'} if said else {}
        length = {"Content_Range": f"bytes 0-0/{len(served.data)}", "Content_Length": "1"}
        body(206, served.data[:1], **length, **headers)(handler)

    url = served.server.add("/download/1", served.file)
    served.misbehave(answer, "/download/1")
    code, out, _ = run("download", url, "--allow-local-network", "--json")
    assert os.listdir(tmp_path) == ["inside"]
    if name is None:
        assert (code, json.loads(out)["error"]["code"]) == (1, "invalid_output_name")
        assert os.listdir(inside) == []
    else:
        assert (code, os.listdir(inside)) == (0, [name]), out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--output", "a.safetensors"], "not_public"),
        (["--output", "a.safetensors", "--folder", "vae"], "bad_input"),
        (["--folder", "vae", "--allow-local-network"], "bad_input"),
        (["--output", "a.safetensors", "--sha256", "x", "--allow-local-network"], "bad_input"),
        (["--output", "a.safetensors", "--server", "http://127.0.0.1:1"], "bad_input"),
    ],
)
def test_what_the_command_refuses(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: str
) -> None:
    monkeypatch.chdir(tmp_path)
    exit_code, out, _ = run("download", served.url, *arguments, "--json")
    assert (exit_code, json.loads(out)["error"]["code"]) == (1, code)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_download_exits_with_1(served: Served, tmp_path: Path) -> None:
    served.misbehave(redirect("ftp://x/"))
    target = str(tmp_path / "a.safetensors")
    code, _, err = run("download", served.url + "?token=hush", "--output", target, "--allow-local-network")
    assert code == 1
    assert "redirects where it must not" in err
    assert "hush" not in err


def test_ctrl_c_pauses_and_says_how_to_go_on(served: Served, tmp_path: Path) -> None:
    target = tmp_path / "a.safetensors"
    released = threading.Event()

    def half(handler: Handler) -> None:
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes 0-{len(served.data) - 1}/{len(served.data)}")
        handler.send_header("Content-Length", str(len(served.data)))
        handler.send_header("ETag", '"one"')
        handler.end_headers()
        handler.wfile.write(served.data[:250_000])
        released.wait(20)

    served.misbehave(half)
    command = [sys.executable, "-c", CLI, str(ROOT / "__init__.py"), "download", served.url]
    command += ["--output", str(target), "--allow-local-network"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    path = Partial(target).path
    while not (path.exists() and path.stat().st_size > 100_000):
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=30)
    released.set()
    assert child.returncode == 1
    assert "Give the same command again to go on" in err
    assert arrived_of(target) > 100_000
    kept = arrived_of(target)
    served.behave()
    served.server.sent = 0
    code, _, err = run("download", served.url, "--output", str(target), "--allow-local-network")
    assert code == 0, err
    assert served.server.sent == len(served.data) - kept
    assert left_of(target) == {target.name: len(served.data)}


def test_the_command_line_lets_a_server_download(
    manager: AdvancedModelManager, served: Served, models: Path
) -> None:
    with serving_routes(manager) as server:
        asked = ("download", HF, "--folder", "vae", "--server", server, "--json")
        code, out, err = run(*asked)
        assert code == 0, err + out
        assert json.loads(out)["path"] == "vae/model.safetensors"
        assert json.loads(out)["sha256"] == served.sha256
        served.misbehave(redirect("ftp://x/"), "/other.safetensors")
        code, out, _ = run("download", HF.replace("model", "other"), *asked[2:])
        assert (code, json.loads(out)["error"]["code"]) == (1, "download_failed")
    assert (models / "vae" / "model.safetensors").read_bytes() == served.data
    assert os.listdir(models / "vae") == ["model.safetensors"]
