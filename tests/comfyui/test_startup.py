"""How the extension starts: under any folder name, quietly, and beside another pack with the same names."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from comfyui.test_inside import run_inside
from support.comfy_client import Client
from support.comfyui import ComfyUI, ComfyUIServer
from support.start import too_early

pytestmark = pytest.mark.comfyui
ROOT = Path(__file__).resolve().parents[2]
RIVAL = """
class Rival:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}
    RETURN_TYPES = ()
    FUNCTION = "run"
    CATEGORY = "rival"
NODE_CLASS_MAPPINGS = {"MemoryReport": Rival}
"""


@pytest.mark.parametrize("name", ["a_rival", "zz_rival"])
def test_another_pack_with_our_names_is_reported_and_nothing_else_breaks(
    comfyui: ComfyUI, tmp_path: Path, name: str
) -> None:
    server = ComfyUIServer(comfyui, tmp_path, arguments=["--cpu"])
    server.install_extension(ROOT, "managed.models, mine")
    rival = tmp_path / "custom_nodes" / name
    rival.mkdir()
    (rival / "__init__.py").write_text(RIVAL)
    with server:
        client = Client(server.url, tmp_path)
        assert client.object_info("LoadManagedModel")
        page = client.get("/extensions").json()
        assert "/extensions/managed-models/managed_models.js" in page
        assert client.get("/extensions/managed-models/managed_models.js").status_code == 200
    log = server.log.read_text(errors="replace")
    # ComfyUI loads in the order of the file system, so either of the two may come first.
    assert "Two extensions have a node MemoryReport" in log
    assert f"the one of custom_nodes.{name}" in log
    assert "Traceback" not in log


def test_a_registry_that_cannot_be_opened_stops_nothing(
    comfyui: ComfyUI, tmp_path: Path, tiny_models: Path
) -> None:
    broken = tmp_path / "broken.sqlite"
    broken.write_bytes(b"this is no database" * 100)
    shutil.copytree(tiny_models, tmp_path / "models")
    server = ComfyUIServer(
        comfyui, tmp_path, arguments=["--cpu"], environment={"MANAGED_MODELS_DB": str(broken)}
    )
    server.install_extension(ROOT)
    with server:
        client = Client(server.url, tmp_path)
        prompt = {
            "check": {
                "class_type": "CheckCompatibility",
                "inputs": {"model_name": "tiny_flux_bf16.safetensors"},
            }
        }
        assert "Flux.1 dev" in client.run(prompt)["check"]["managed_models_report"][0]
    log = server.log.read_text(errors="replace")
    assert f"The registry {broken} cannot be opened" in log
    assert "nothing that you register is kept" in log
    assert broken.read_bytes().startswith(b"this is no database")


def test_the_start_imports_only_what_it_needs(comfyui: ComfyUI, tmp_path: Path) -> None:
    found = run_inside(comfyui, "start", tmp_path)
    assert "LoadManagedModel" in found["nodes"]
    assert len(found["nodes"]) == 7
    assert "GET /managed-models/status" in found["routes"]
    for moment in ("loaded", "begun"):
        ours = [name.removeprefix("manager.") for name in found[moment] if name.startswith("manager.")]
        assert {"manager", "comfy_host.bridge", "monitor.monitor", "pool.keeper"} <= set(ours)
        assert too_early(ours) == []
        assert {"comfy_host.detect", "comfy_host.forecast", "comfy_host.kernels"}.isdisjoint(ours)


def test_nothing_is_written_outside_the_base_folder(comfyui: ComfyUI, tmp_path: Path) -> None:
    before = _files(comfyui.path)
    server = ComfyUIServer(comfyui, tmp_path, arguments=["--cpu"])
    server.install_extension(ROOT)
    with server:
        assert Client(server.url, tmp_path).get("/managed-models/models").status_code == 200
    assert _files(comfyui.path) == before


def _files(folder: Path) -> set[tuple[str, int]]:
    return {
        (str(path), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and ".git" not in path.parts and ".venv" not in path.parts
    }
