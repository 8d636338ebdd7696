"""Workflows with missing models, completed from a local mirror: by route, command line, and first use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from comfyui.test_inside import run_inside
from managed_models.manager.catalogue.loaders import LOADERS, OUR_LOADERS
from managed_models.manager.route_guard import OWN_HEADER
from support.comfy_client import SURROUNDINGS, Client, node, sampler
from support.comfyui import ComfyUI, ComfyUIServer
from support.range_server import Server, send_range

pytestmark = pytest.mark.comfyui
GUARD = {OWN_HEADER: "1"}
WAN = "tiny_wan21_t2v_bf16.safetensors"
FLUX = "tiny_flux_bf16.safetensors"
HF = "https://huggingface.co"


@pytest.fixture
def client(mirrored_server: ComfyUIServer) -> Iterator[Client]:
    """A client of that ComfyUI; afterwards it has no models again, and fetches nothing by itself."""
    client = Client(mirrored_server.url, mirrored_server.base)
    yield client
    client.post("/managed-models/settings", {"auto_download": False}, **GUARD)
    client.free()
    for row in downloads(client):
        client.post("/managed-models/download/cancel", {"id": row["id"]}, **GUARD)
    for path in (mirrored_server.base / "models").rglob("*.safetensors"):
        path.unlink()
    own(mirrored_server).unlink(missing_ok=True)


def own(server: ComfyUIServer) -> Path:
    """The catalogue file of that ComfyUI."""
    return server.base / "user" / "__managed_models" / "catalogue.json"


def offer(mirror: Server, file: Path, name: str) -> dict[str, str]:
    """Let the mirror have a file, and return the item of a model list that names it."""
    path = f"/owner/repo/resolve/main/{name}"
    mirror.add(path, file)
    return {"name": name, "directory": "diffusion_models", "url": f"{HF}{path}"}


def prompt(name: str, kind: str = "wan", seed: str = "s") -> dict[str, Any]:
    loader = node("UNETLoader", unet_name=name, weight_dtype="default")
    return {"model": loader, **SURROUNDINGS[kind], **sampler(["model", 0], seed)}


def ours(name: str, **inputs: Any) -> dict[str, Any]:
    return {
        "model": node("LoadManagedModel", model_name=name, **inputs),
        "end": node("PreviewAny", source=["model", 3]),
    }


def saved(*items: dict[str, str]) -> dict[str, Any]:
    """A workflow as ComfyUI saves it, whose nodes carry their models' addresses."""
    nodes = [
        {
            "id": i,
            "type": "UNETLoader",
            "widgets_values": [item["name"], "default"],
            "properties": {"models": [item]},
        }
        for i, item in enumerate(items)
    ]
    return {"nodes": nodes, "links": []}


def listed(client: Client) -> list[str]:
    """What ComfyUI's own loader offers."""
    return list(client.object_info("UNETLoader")["input"]["required"]["unet_name"][0])


def downloads(client: Client) -> list[dict[str, Any]]:
    return list(client.get("/managed-models/downloads").json()["downloads"])


def states(client: Client) -> dict[str, str]:
    """How every download has ended, by name."""
    deadline = time.monotonic() + 60
    while any(row["state"] in ("queued", "running", "checking") for row in downloads(client)):
        assert time.monotonic() < deadline, downloads(client)
        time.sleep(0.05)
    return {row["name"]: row["state"] for row in downloads(client)}


def test_a_workflow_is_completed_through_the_routes_and_runs(
    client: Client, mirror: Server, tiny_models: Path
) -> None:
    items = [offer(mirror, tiny_models / "diffusion_models" / name, name) for name in (WAN, FLUX)]
    refused = {**items[0], "name": "../up.safetensors"}
    workflow = saved(*items)
    workflow["models"] = [refused]
    body = {"workflow": workflow}
    before = len(mirror.seen)
    answer = client.post("/managed-models/needs", body, **GUARD).json()
    details = answer["details"]
    assert [(row["name"], row["status"], row["fetchable"]) for row in details["models"]] == [
        (WAN, "missing", True),
        (FLUX, "missing", True),
    ]
    assert details["refused"][0]["name"] == "../up.safetensors"
    assert answer["offer"]["label"] == "Fetch 2 missing (size not known yet)"
    assert len(mirror.seen) == before, "nothing is asked of the network unless somebody wants that"

    asked = client.post("/managed-models/needs", {**body, "ask": True}, **GUARD).json()
    sizes = [(tiny_models / "diffusion_models" / name).stat().st_size for name in (WAN, FLUX)]
    assert [row["remote"]["size_bytes"] for row in asked["details"]["models"]] == sizes
    assert asked["details"]["fetch_bytes"] == sum(sizes)
    assert all(row["remote"]["verdict"]["compatible"] for row in asked["details"]["models"])

    one = {**body, "models": [{"folder": "diffusion_models", "name": WAN}]}
    begun = client.post("/managed-models/needs/fetch", one, **GUARD).json()
    assert [row["name"] for row in begun["downloads"]] == [WAN]
    assert states(client)[WAN] == "done"
    client.post("/managed-models/needs/fetch", body, **GUARD)
    assert (states(client)[WAN], states(client)[FLUX]) == ("done", "done")

    after = client.post("/managed-models/needs", body, **GUARD).json()
    assert after["details"]["ready"]
    assert after["offer"] is None
    assert [row["file"]["verdict"]["compatible"] for row in after["details"]["models"]] == [True, True]
    client.run(prompt(WAN))
    assert not any("hf_secret" in str(seen.headers) for seen in mirror.seen), "the mirror gets no token"


def test_what_the_page_would_run_counts(client: Client, mirror: Server, tiny_models: Path) -> None:
    item = offer(mirror, tiny_models / "diffusion_models" / WAN, WAN)
    body = {"workflow": saved(item), "prompt": prompt("other.safetensors")}
    (row,) = client.post("/managed-models/needs", body, **GUARD).json()["details"]["models"]
    assert (row["name"], row["status"], row["nodes"]) == (
        "other.safetensors",
        "missing",
        ["UNETLoader #model"],
    )


def test_a_large_workflow_may_be_sent_and_a_huge_one_not(client: Client) -> None:
    workflow = {"nodes": [{"id": 1, "type": "Note", "widgets_values": ["x" * (1 << 20)]}]}
    assert client.post("/managed-models/needs", {"workflow": workflow}, **GUARD).status_code == 200
    workflow["nodes"][0]["widgets_values"] = ["x" * (8 << 20)]
    assert client.post("/managed-models/needs", {"workflow": workflow}, **GUARD).status_code == 413
    assert client.post("/managed-models/needs", {"workflow": workflow}).status_code == 403


def test_other_hosts_pickles_and_own_networks_are_not_for_workflows(client: Client) -> None:
    items = [
        {
            "name": "a.safetensors",
            "directory": "diffusion_models",
            "url": "https://example.com/a.safetensors",
        },
        {"name": "b.ckpt", "directory": "diffusion_models", "url": f"{HF}/o/r/resolve/main/b.ckpt"},
        {"name": "c.safetensors", "directory": "diffusion_models", "url": "http://127.0.0.1:1/c.safetensors"},
    ]
    answer = client.post("/managed-models/needs", {"workflow": saved(*items)}, **GUARD).json()
    rows = answer["details"]["models"]
    assert [row["fetchable"] for row in rows] == [False, False, False]
    assert "example.com is none of the hosts" in rows[0]["blocked"]
    assert "can run code" in rows[1]["blocked"]
    assert rows[2]["address"] is None
    assert answer["details"]["refused"][0]["name"] == "c.safetensors"
    begun = client.post("/managed-models/needs/fetch", {"workflow": saved(*items)}, **GUARD).json()
    assert begun["downloads"] == []


def run_cli(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = Path(sys.executable).with_name("managed-models")
    return subprocess.run(
        [str(command), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
        timeout=120,
    )


def test_the_command_line_completes_a_workflow_of_a_running_comfyui(
    client: Client, mirror: Server, tiny_models: Path, tmp_path: Path
) -> None:
    file = tmp_path / "workflow.json"
    file.write_text(json.dumps(saved(offer(mirror, tiny_models / "diffusion_models" / WAN, WAN))))
    before = run_cli("needs", str(file), "--server", client.url)
    assert before.returncode == 1, before.stderr
    assert "1 of 1 model missing; all can be fetched" in before.stdout
    after = run_cli("needs", str(file), "--server", client.url, "--fetch", "--json")
    assert after.returncode == 0, after.stderr
    details = json.loads(after.stdout)
    assert details["ready"]
    assert details["fetched"] == [{"name": WAN, "folder": "diffusion_models", "error": None}]
    assert listed(client) == [WAN]


def test_the_command_line_completes_a_workflow_in_an_installations_folders(
    client: Client, comfyui: ComfyUI, mirror: Server, tiny_models: Path, tmp_path: Path
) -> None:
    file = tmp_path / "workflow.json"
    file.write_text(json.dumps(saved(offer(mirror, tiny_models / "diffusion_models" / WAN, WAN))))
    environment = {"HF_ENDPOINT": mirror.url(""), "XDG_DATA_HOME": str(tmp_path / "data")}
    fetched = run_cli("needs", str(file), "--comfyui", str(client.base), "--fetch", "--ask", **environment)
    assert fetched.returncode == 0, fetched.stderr
    assert "Everything is here: 1 model." in fetched.stdout
    assert listed(client) == [WAN]
    missing = run_cli("needs", str(file), "--comfyui", str(comfyui.path), "--json", **environment)
    assert missing.returncode == 1
    assert json.loads(missing.stdout)["models"][0]["fetchable"]


def test_first_use_is_refused_without_leave_and_says_where_it_can_be_had(
    client: Client, mirrored_server: ComfyUIServer, mirror: Server, tiny_models: Path
) -> None:
    item = offer(mirror, tiny_models / "diffusion_models" / WAN, WAN)
    own(mirrored_server).parent.mkdir(parents=True, exist_ok=True)
    own(mirrored_server).write_text(json.dumps({"models": [item]}))
    before = len(mirror.seen)
    words = client.refused(ours(WAN))
    assert f"{WAN} is not here. It can be had from {item['url']}." in words
    assert "MANAGED_MODELS_AUTO_DOWNLOAD=1" in words
    unknown = client.refused(ours("nobody_knows.safetensors"))
    assert "There is no model 'nobody_knows.safetensors'." in unknown
    # Over a link a name is known only when the node runs.
    linked = ours(WAN) | {"name": node("NameModel", name=WAN)}
    linked["model"]["inputs"]["model_name"] = ["name", 0]
    failed = client.fails(linked)
    assert failed["exception_message"].startswith(f"{WAN} is not here.")
    assert len(mirror.seen) == before
    assert WAN not in client.object_info("LoadManagedModel")["input"]["required"]["model_name"][1]["options"]


def test_first_use_fetches_with_leave(
    client: Client, mirrored_server: ComfyUIServer, mirror: Server, tiny_models: Path
) -> None:
    item = offer(mirror, tiny_models / "diffusion_models" / WAN, WAN)
    own(mirrored_server).parent.mkdir(parents=True, exist_ok=True)
    own(mirrored_server).write_text(json.dumps({"models": [item]}))
    client.post("/managed-models/settings", {"auto_download": True}, **GUARD)
    outputs = client.run(ours(WAN))
    assert WAN in json.dumps(outputs)
    assert (mirrored_server.base / "models" / "diffusion_models" / WAN).read_bytes() == (
        tiny_models / "diffusion_models" / WAN
    ).read_bytes()
    before = len(mirror.seen)
    client.run(ours(WAN, weight_dtype="as_stored"))
    assert len(mirror.seen) == before
    refused = client.refused(ours("nobody_knows.safetensors"))
    assert "There is no model" in refused


def test_a_model_that_does_not_come_stops_the_workflow_with_the_reason(
    client: Client, mirrored_server: ComfyUIServer, mirror: Server
) -> None:
    item = {
        "name": "gone.safetensors",
        "directory": "diffusion_models",
        "url": f"{HF}/owner/repo/resolve/main/gone.safetensors",
    }
    own(mirrored_server).parent.mkdir(parents=True, exist_ok=True)
    own(mirrored_server).write_text(json.dumps({"models": [item]}))
    client.post("/managed-models/settings", {"auto_download": True}, **GUARD)
    failed = client.fails(ours("gone.safetensors"))
    assert "does not exist" in failed["exception_message"]
    assert list((mirrored_server.base / "models" / "diffusion_models").glob("gone*")) == []


def test_stop_ends_a_first_use(
    client: Client, mirrored_server: ComfyUIServer, mirror: Server, tiny_models: Path
) -> None:
    file = tiny_models / "diffusion_models" / WAN
    item = offer(mirror, file, "slow.safetensors")
    path = item["url"].removeprefix(HF)
    del mirror.files[path]

    def slowly(handler: BaseHTTPRequestHandler) -> None:
        if handler.headers.get("Range", "").startswith("bytes=0-") and len(mirror.seen) > 0:
            total = file.stat().st_size
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes 0-{total - 1}/{total}")
            handler.send_header("Content-Length", str(total))
            handler.end_headers()
            with open(file, "rb") as source:
                while block := source.read(4096):
                    handler.wfile.write(block)
                    time.sleep(0.02)
        else:
            send_range(handler, file, mirror)

    mirror.answer(path, slowly)
    own(mirrored_server).parent.mkdir(parents=True, exist_ok=True)
    own(mirrored_server).write_text(json.dumps({"models": [item]}))
    client.post("/managed-models/settings", {"auto_download": True}, **GUARD)
    queued = client.queue(ours("slow.safetensors"))
    deadline = time.monotonic() + 30
    while not any(row["name"] == "slow.safetensors" and row["done_bytes"] for row in downloads(client)):
        assert time.monotonic() < deadline, downloads(client)
        time.sleep(0.02)
    client.post("/interrupt", {})
    entry = client.wait(queued)
    assert "execution_interrupted" in dict(entry["status"]["messages"])
    (row,) = (row for row in downloads(client) if row["name"] == "slow.safetensors")
    assert row["state"] == "paused"
    assert not (mirrored_server.base / "models" / "diffusion_models" / "slow.safetensors").exists()


def test_the_templates_of_this_comfyui_are_known(client: Client, comfyui: ComfyUI) -> None:
    places = sorted(
        comfyui.path.glob(".venv/lib/python*/site-packages/comfyui_workflow_templates_json/templates")
    )
    if not places:
        pytest.skip("this ComfyUI has no template packages in a venv of its own")
    rows = fetchable = 0
    for path in sorted(places[0].glob("image_flux2_klein*.json")):
        details = client.post(
            "/managed-models/needs", {"workflow": json.loads(path.read_text())}, **GUARD
        ).json()
        rows += len(details["details"]["models"])
        fetchable += details["details"]["fetchable"]
    assert rows
    assert fetchable
    # Addresses come from the installed packages where the workflow itself has none.
    bare = {"1": node("VAELoader", vae_name="flux2-vae.safetensors")}
    (row,) = client.post("/managed-models/needs", {"prompt": bare}, **GUARD).json()["details"]["models"]
    assert row["address"]["origin"] == "templates"
    kept = client.base / "user" / "__managed_models" / "templates.json"
    assert json.loads(kept.read_text())["versions"]


def test_the_table_of_loaders_is_comfyuis(client: Client) -> None:
    """Every input of ComfyUI's own nodes that lists a folder's files is in the table, and nothing else."""
    kinds = {kind for inputs in LOADERS.values() for folders in inputs.values() for kind in folders}
    for kind in kinds - {"vae_approx"}:
        folder = client.base / "models" / kind
        folder.mkdir(exist_ok=True)
        (folder / f"only_in_{kind}.safetensors").write_bytes(b"")
    found: dict[str, dict[str, set[str]]] = {}
    for name, info in client.get("/object_info").json().items():
        if name in OUR_LOADERS or name == "CheckCompatibility":
            continue
        for inputs in info["input"].values():
            for key, spec in inputs.items() if isinstance(inputs, dict) else ():
                listed = {kind for kind in kinds if f'"only_in_{kind}.safetensors"' in json.dumps(spec)}
                if listed:
                    found.setdefault(name, {})[key] = listed
    table = {
        name: {key: set(folders) - {"vae_approx"} for key, folders in inputs.items()}
        for name, inputs in LOADERS.items()
    }
    assert {name: table.get(name) for name in found} == found
    assert set(table) - set(found) <= {"LoadMediaPipeFaceLandmarker"}, "no such node here"


def test_who_starts_the_server_has_the_last_word_on_first_use(comfyui: ComfyUI, tmp_path: Path) -> None:
    allowed = run_inside(comfyui, "first_use", tmp_path)
    assert {name for name, yes in allowed.items() if yes} == {
        "None/1",
        "True/1",
        "False/1",
        "true/1",
        "True/",
        "True/perhaps",
    }
