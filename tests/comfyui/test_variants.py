"""The way out in a real ComfyUI: what a check recommends, and what ``use_smaller`` loads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from managed_models.manager import AdvancedModelManager, ModelInfo, ModelManagerConfig, ModelType
from managed_models.manager.report import render_check
from support.comfy_client import SURROUNDINGS, Client, node, relative_l2, reports, sampler
from support.comfyui import ComfyUIServer

pytestmark = pytest.mark.comfyui

SOURCE = "tiny_wan21_t2v_bf16.safetensors"
LARGE, INT8 = "way_out_bf16.safetensors", "way_out_int8.safetensors"
FP8 = "way_out_fp8_e4m3fn_scaled.safetensors"
RAM_GB = 9000.0  # what no machine of these tests has


@pytest.fixture
def large(comfy_server: ComfyUIServer, diffusion_models: Path) -> Iterator[str]:
    """A model that a person said needs more RAM than this machine has."""
    shutil.copy(diffusion_models / SOURCE, diffusion_models / LARGE)
    config = ModelManagerConfig(database_url=f"sqlite:///{comfy_server.base / 'registry.sqlite'}")
    manager = AdvancedModelManager(config)
    info = ModelInfo("way_out", ModelType.DIFFUSION, diffusion_models / LARGE, min_ram_gb=RAM_GB)
    manager.register_model(info)
    yield LARGE
    manager.unregister_model("way_out")
    manager.close()
    for name in (LARGE, INT8, FP8):
        (diffusion_models / name).unlink(missing_ok=True)


def quantize(client: Client, name: str, target: str) -> None:
    client.run({"small": node("QuantizeModel", model_name=name, format=target)})


def use_smaller(name: str, **options: Any) -> dict[str, Any]:
    loader = node("LoadManagedModel", model_name=name, on_misfit="use_smaller", **options)
    return {"model": loader, "words": node("PreviewAny", source=["model", 3])}


def test_the_best_variant_that_fits_is_loaded(client: Client, large: str) -> None:
    error = client.fails(use_smaller(large))
    assert error["exception_type"].endswith("Incompatible")
    assert f"it needs {RAM_GB} GB of RAM" in error["exception_message"]
    assert "Make it with Quantize Model, format int8_convrot: about " in error["exception_message"]

    quantize(client, large, "int8")
    outputs = client.run(
        use_smaller(large)
        | {"small": node("LoadManagedModel", model_name=INT8)}
        | SURROUNDINGS["wan"]
        | sampler(["model", 0], "way_out_taken")
        | sampler(["small", 0], "way_out_small")
    )
    words = reports(outputs, "model")
    assert f"Taken instead of {LARGE}, which does not fit: it needs {RAM_GB} GB of RAM" in words
    assert words.splitlines()[0].startswith((f"Loaded {INT8}", f"{INT8} is in memory"))
    assert relative_l2(client.latent("way_out_taken"), client.latent("way_out_small")) == 0


def test_comfyui_notices_when_another_variant_is_chosen(
    client: Client, large: str, diffusion_models: Path
) -> None:
    prompt = use_smaller(large)
    quantize(client, large, "fp8_e4m3fn_scaled")
    assert FP8 in reports(client.run(prompt), "model").splitlines()[0]
    assert "model" not in client.executed(prompt)
    quantize(client, large, "int8")
    assert INT8 in reports(client.run(prompt), "model").splitlines()[0]
    (diffusion_models / INT8).unlink()
    assert FP8 in reports(client.run(prompt), "model").splitlines()[0]


def test_a_model_that_fits_is_loaded_itself(client: Client) -> None:
    words = reports(client.run(use_smaller(SOURCE)), "model")
    assert SOURCE in words.splitlines()[0]
    assert "Taken instead" not in words


def test_a_check_names_the_way_out_and_offers_the_swap(client: Client, large: str) -> None:
    prompt = {
        "check": node("CheckCompatibility", model_name=large),
        "details": node("PreviewAny", source=["check", 3]),
    }
    outputs = client.run(prompt)
    details = json.loads(outputs["details"]["text"][0])
    assert "Make it with Quantize Model, format int8_convrot." in reports(outputs, "check")
    assert "managed_models_swap" not in outputs["check"]
    planned = {v["format"]: v["size_bytes"] for v in details["variants"]["could_make"]}

    quantize(client, large, "int8")
    outputs = client.run(prompt)
    details = json.loads(outputs["details"]["text"][0])
    words = reports(outputs, "check")
    assert words == render_check(details)
    assert f"A variant of this model that fits is here: {INT8}" in words
    assert f"Choose {INT8} in model_name." in words
    assert outputs["check"]["managed_models_swap"] == [
        {
            "folder": "diffusion_models",
            "from": LARGE,
            "from_option": LARGE,
            "to": INT8,
            "to_option": INT8,
        }
    ]
    listed = {v["name"]: v for v in details["variants"]["list"]}
    assert listed[INT8]["link"] == "lineage"
    assert listed[SOURCE]["link"] == "same_layout"
    assert planned["int8"] == pytest.approx(listed[INT8]["size_bytes"], rel=0.01)
