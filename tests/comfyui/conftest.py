"""One ComfyUI server for all tests that need one, over a folder of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.comfy_client import Client
from support.comfyui import ComfyUI, ComfyUIServer, describe_comfyui, find_comfyui
from support.range_server import Server, range_server

ROOT = Path(__file__).resolve().parents[2]
# Dashes, dots and spaces: ComfyUI imports a folder under whatever name it has.
EXTENSION_FOLDER = "managed-models v0.1"
PROBE = ROOT / "tests" / "comfyui" / "probe"


@pytest.fixture(scope="session")
def comfyui() -> ComfyUI:
    found = find_comfyui()
    if found is None:
        pytest.skip(describe_comfyui())
    return found


@pytest.fixture(scope="session")
def comfy_server(
    comfyui: ComfyUI, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComfyUIServer]:
    """A running server with the extension, the tiny models, and a second folder of models."""
    base = tmp_path_factory.mktemp("comfyui")
    shutil.copytree(tiny_models, base / "models")
    elsewhere = base / "elsewhere"
    (elsewhere / "unet").mkdir(parents=True)
    shutil.copy(
        tiny_models / "diffusion_models" / "tiny_flux_bf16.safetensors",
        elsewhere / "unet" / "from_extra_paths.safetensors",
    )
    extra = base / "extra.yaml"
    extra.write_text(f"test:\n  base_path: {elsewhere}\n  diffusion_models: unet\n")
    server = ComfyUIServer(
        comfyui,
        base,
        arguments=["--cpu", "--extra-model-paths-config", str(extra)],
        environment={
            "MANAGED_MODELS_DB": str(base / "registry.sqlite"),
            "MANAGED_MODELS_PROBE": str(base / "probe.jsonl"),
        },
    )
    server.install_extension(ROOT, EXTENSION_FOLDER)
    server.install_extension(PROBE, "probe")
    server.write_settings(**{"Comfy.Minimap.Visible": False})
    with server:
        yield server


@pytest.fixture(scope="session")
def client(comfy_server: ComfyUIServer) -> Client:
    return Client(comfy_server.url, comfy_server.base)


@pytest.fixture
def diffusion_models(comfy_server: ComfyUIServer) -> Path:
    """The server's folder of diffusion models."""
    return comfy_server.base / "models" / "diffusion_models"


@pytest.fixture(scope="session")
def mirror() -> Iterator[Server]:
    with range_server() as server:
        yield server


@pytest.fixture(scope="session")
def mirrored_server(
    comfyui: ComfyUI, mirror: Server, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComfyUIServer]:
    """A ComfyUI without models that asks the mirror in place of Hugging Face."""
    base = tmp_path_factory.mktemp("needs")
    for kind in ("diffusion_models", "checkpoints", "vae", "text_encoders", "loras"):
        (base / "models" / kind).mkdir(parents=True)
    found = ComfyUIServer(
        comfyui,
        base,
        arguments=["--cpu"],
        environment={
            "MANAGED_MODELS_DB": str(base / "registry.sqlite"),
            "MANAGED_MODELS_PROBE": str(base / "probe.jsonl"),
            "HF_ENDPOINT": mirror.url(""),
            "HF_TOKEN": "hf_secret",
        },
    )
    found.install_extension(ROOT, EXTENSION_FOLDER)
    found.install_extension(PROBE, "probe")
    found.write_settings()
    with found:
        yield found
