"""Check, quantize, load, sample and report, in a real ComfyUI over its API."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from managed_models.manager.report import render_check, render_memory
from support.comfy_client import (
    SURROUNDINGS,
    Client,
    api_prompt,
    node,
    relative_l2,
    reports,
    sampler,
)

pytestmark = pytest.mark.comfyui

ROOT = Path(__file__).resolve().parents[2]
WAN = "tiny_wan21_t2v_bf16.safetensors"
# Relative L2 distance of the sampled latents from those of the bf16 file.
LIMITS = {"fp8_e4m3fn_scaled": 0.01, "int8": 0.005, "bf16": 1e-6, "fp16": 0.001}


def test_the_shipped_workflow_runs_as_an_api_call(client: Client) -> None:
    workflow = json.loads((ROOT / "example_workflows" / "managed_models_demo.json").read_text())
    prompt = api_prompt(workflow, client)
    types = {number: item["class_type"] for number, item in prompt.items()}
    linked = [
        types[item["inputs"][key][0]]
        for item in prompt.values()
        for key in ("model_name", "unet_name")
        if isinstance(item["inputs"].get(key), list)
        and item["class_type"] in ("LoadManagedModel", "UNETLoader")
    ]
    assert sorted(linked) == ["CheckCompatibility", "QuantizeModel", "QuantizeModel"]
    outputs = client.run(prompt)
    words = "\n".join(
        value["managed_models_report"][0] for value in outputs.values() if "managed_models_report" in value
    )
    for expected in (
        "can be used on this machine",
        "fp8_e4m3fn, scaled",
        "int8",
        "Loaded tiny_wan",
        "Memory on",
    ):
        assert expected in words
    reference = client.latent("managed_models/original")
    assert relative_l2(client.latent("managed_models/fp8"), reference) < LIMITS["fp8_e4m3fn_scaled"]
    assert relative_l2(client.latent("managed_models/int8"), reference) < LIMITS["int8"]
    assert relative_l2(client.latent("managed_models/int8"), reference) > 0


@pytest.mark.parametrize("target", LIMITS)
@pytest.mark.parametrize(
    ("kind", "model", "stock"),
    [
        ("wan", WAN, "UNETLoader"),
        ("flux", "tiny_flux_bf16.safetensors", "UNETLoader"),
        ("sd15", "tiny_sd15_checkpoint_bf16.safetensors", "CheckpointLoaderSimple"),
    ],
)
def test_every_format_loads_in_stock_and_managed_loaders(
    client: Client, kind: str, model: str, stock: str, target: str
) -> None:
    stock_input = "unet_name" if stock == "UNETLoader" else "ckpt_name"
    prompt: dict[str, Any] = {
        "original": node("LoadManagedModel", model_name=model),
        "small": node(
            "QuantizeModel", model_name=model, format=target, output_name=f"{kind}_{target}", overwrite=True
        ),
        "managed": node("LoadManagedModel", model_name=["small", 0]),
        "stock": node(stock, **{stock_input: ["small", 0]}),
        **SURROUNDINGS[kind],
    }
    if stock == "UNETLoader":
        prompt["stock"]["inputs"]["weight_dtype"] = "default"
    if target == "bf16":  # the source is bf16 already, so there is nothing to do
        error = client.fails(prompt)
        assert "Nothing in" in error["exception_message"]
        return
    for name in ("original", "managed", "stock"):
        prompt |= sampler([name, 0], f"{kind}_{target}_{name}", "latent", "text")
    client.run(prompt)
    reference = client.latent(f"{kind}_{target}_original")
    managed = client.latent(f"{kind}_{target}_managed")
    assert relative_l2(managed, reference) < LIMITS[target]
    assert relative_l2(client.latent(f"{kind}_{target}_stock"), managed) == 0


def test_the_same_request_finds_the_earlier_result(client: Client, diffusion_models: Path) -> None:
    prompt = {"small": node("QuantizeModel", model_name=WAN, format="int8", output_name="found_again")}
    client.run(prompt)
    before = (diffusion_models / "found_again.safetensors").stat()
    client.free()
    words = reports(client.run(prompt), "small")
    after = (diffusion_models / "found_again.safetensors").stat()
    assert words.startswith("Found the earlier found_again.safetensors")
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_node_and_details_say_the_same(client: Client) -> None:
    prompt = {
        "check": node("CheckCompatibility", model_name=WAN),
        "memory": node("MemoryReport", value=["check", 0]),
        "check_details": node("PreviewAny", source=["check", 3]),
        "memory_details": node("PreviewAny", source=["memory", 2]),
        "memory_words": node("PreviewAny", source=["memory", 1]),
    }
    outputs = client.run(prompt)
    check = json.loads(outputs["check_details"]["text"][0])
    memory = json.loads(outputs["memory_details"]["text"][0])
    assert render_check(check) == reports(outputs, "check")
    assert render_memory(memory) == reports(outputs, "memory") == outputs["memory_words"]["text"][0]
    assert check["identity"]["detected_by"].startswith("ComfyUI ")
    assert outputs["memory"]["images"], "the chart is shown on the node"


def test_a_verdict_and_a_memory_report_are_never_cached(client: Client) -> None:
    prompt = {
        "check": node("CheckCompatibility", model_name=WAN),
        "memory": node("MemoryReport"),
    }
    client.run(prompt)
    assert client.executed(prompt) == {"check", "memory"}


def test_loaders_are_cached_like_stock_ones(client: Client) -> None:
    prompt: dict[str, Any] = {
        "model": node("LoadManagedModel", model_name=WAN),
        **SURROUNDINGS["wan"],
        **sampler(["model", 0], "cached"),
    }
    client.run(prompt)
    prompt["cached"]["inputs"]["seed"] = 2
    assert "model" not in client.executed(prompt)


def test_after_orders_two_loads(client: Client, diffusion_models: Path) -> None:
    # Files that nobody loaded yet, so that neither comes out of the pool.
    for name, source in (("high_noise", WAN), ("low_noise", "tiny_flux_bf16.safetensors")):
        shutil.copy(diffusion_models / source, diffusion_models / f"{name}.safetensors")
    prompt: dict[str, Any] = {
        "second": node("LoadManagedModel", model_name="low_noise.safetensors", after=["sampled", 0]),
        "first": node("LoadManagedModel", model_name="high_noise.safetensors"),
        **SURROUNDINGS["wan"],
        **sampler(["first", 0], "sampled"),
        "words": node("PreviewAny", source=["second", 3]),
    }
    log = client.base / "comfyui.log"
    start = len(log.read_bytes())
    client.run(prompt)
    said = log.read_bytes()[start:].decode(errors="replace")
    assert said.index("Requested to load WAN21") < said.index("model_type FLUX")
