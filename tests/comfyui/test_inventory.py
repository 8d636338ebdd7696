"""What is on the disk, in a real ComfyUI: pages, scans, verifying between prompts, damage, pins that stay."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from support.comfy_client import SURROUNDINGS, Client, node, reports, sampler
from support.comfyui import ComfyUI, ComfyUIServer

pytestmark = pytest.mark.comfyui

ROOT = Path(__file__).resolve().parents[2]
WAN = "tiny_wan21_t2v_bf16.safetensors"
FLUX = "tiny_flux_bf16.safetensors"
OWN = {"X-Managed-Models": "1"}
LOAD = {
    "load": node("LoadManagedModel", model_name=FLUX),
    "report": node("PreviewAny", source=["load", 3]),
}


@pytest.fixture
def server(comfyui: ComfyUI, tiny_models: Path, tmp_path: Path) -> ComfyUIServer:
    shutil.copytree(tiny_models, tmp_path / "models")
    found = ComfyUIServer(
        comfyui,
        tmp_path,
        arguments=["--cpu"],
        environment={"MANAGED_MODELS_DB": str(tmp_path / "registry.sqlite")},
    )
    found.install_extension(ROOT)
    return found


def asked(client: Client, route: str, **body: Any) -> Any:
    answer = client.post(f"/managed-models/{route}", body, **OWN)
    assert answer.status_code == 200, answer.text
    assert str(client.base) not in answer.text
    return answer.json()


def until(true: Any) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def verified(client: Client) -> Any:
    until(lambda: not client.get("/managed-models/verify").json()["details"]["running"])
    return client.get("/managed-models/verify").json()


def test_files_are_listed_scanned_verified_and_damage_is_flagged(server: ComfyUIServer) -> None:
    with server:
        client = Client(server.url, server.base)
        whole = client.get("/managed-models/models").json()
        pages = [client.get(f"/managed-models/models?offset={at}&limit=2").json() for at in (0, 2)]
        assert [row for page in pages for row in page["models"]] == whole["models"][:4]
        assert {page["total"] for page in pages} == {whole["total"]} == {len(whole["models"])}
        assert [row["name"] for row in client.get("/managed-models/models?q=FLUX").json()["models"]] == [FLUX]
        assert asked(client, "scan")["details"]["added"] == whole["total"]
        found = client.get("/managed-models/models?q=text-to-video").json()["models"]
        assert [row["name"] for row in found] == [WAN]  # by what it is

        # Nothing is verified while a prompt runs.
        slow = {
            **SURROUNDINGS["wan"],
            "model": node("LoadManagedModel", model_name=WAN),
            **sampler(["model", 0], "slow"),
        }
        slow["slow"]["inputs"]["steps"] = 400
        prompt = client.queue(slow)
        until(lambda: client.get("/queue").json()["queue_running"])
        asked(client, "verify", all=True)
        until(lambda: client.get("/managed-models/verify").json()["details"]["paused"])
        client.post("/interrupt", {})
        client.wait(prompt)
        assert verified(client)["report"].endswith("files verified, none damaged.")

        # A bit flips, which neither size nor time show.
        path = server.base / "models" / "diffusion_models" / FLUX
        times = path.stat()
        with open(path, "r+b") as file:
            file.seek(-9, os.SEEK_END)
            file.write(b"\xff\xff")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        asked(client, "verify", models=[FLUX])
        (damaged,) = verified(client)["details"]["damaged"]
        assert damaged["model"] == FLUX
        (row,) = client.get(f"/managed-models/models?q={FLUX}").json()["models"]
        assert row["health"] == "damaged"
        outputs = client.run({"check": node("CheckCompatibility", model_name=FLUX), **LOAD})
        assert f"{FLUX}: cannot be used as it is." in reports(outputs, "check")
        for name in ("check", "load"):
            assert f"Problem: {FLUX} is damaged: Its SHA-256 is " in reports(outputs, name)
        error = client.fails({**LOAD, "load": node("LoadManagedModel", model_name=FLUX, on_misfit="error")})
        assert "is damaged" in error["exception_message"]


def test_pins_stay_over_a_restart_and_follow_a_moved_file(server: ComfyUIServer) -> None:
    with server:
        client = Client(server.url, server.base)
        asked(client, "scan")
        asked(client, "pin", model=FLUX, pinned=True)
        folder = server.base / "models" / "diffusion_models"
        shutil.move(folder / FLUX, folder / "moved.safetensors")
        assert asked(client, "scan")["report"].startswith("1 moved; ")
    with server:
        client = Client(server.url, server.base)
        client.run(
            {"load": node("LoadManagedModel", model_name="moved.safetensors"), "report": LOAD["report"]}
        )

        def loaded() -> list[tuple[str, bool]]:
            models = client.get("/managed-models/status").json()["memory"]["loaded"]
            return [(model["title"], model["pinned"]) for model in models]

        until(lambda: loaded() == [("moved", True)])  # pins are read in the background
    assert "Traceback" not in server.log.read_text(errors="replace")
