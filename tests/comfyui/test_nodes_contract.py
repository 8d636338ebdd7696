"""The nodes as ComfyUI announces them, against the contract's table."""

from __future__ import annotations

import pytest
from support.comfy_client import Client

pytestmark = pytest.mark.comfyui

# node -> (inputs with their defaults; None for a list of files or a link), (outputs)
CONTRACT = {
    "LoadManagedModel": (
        {
            "model_name": None,
            "weight_dtype": "default",
            "device": "default",
            "keep_alive": "5m",
            "on_misfit": "warn",
            "version": "",
            "attention": "default",
            "after": None,
        },
        [("MODEL", "MODEL"), ("CLIP", "CLIP"), ("VAE", "VAE"), ("STRING", "report")],
    ),
    "LoadManagedTextEncoder": (
        {
            "clip_name": None,
            "clip_name2": "none",
            "clip_name3": "none",
            "clip_name4": "none",
            "type": "stable_diffusion",
            "device": "default",
            "keep_alive": "5m",
        },
        [("CLIP", "CLIP")],
    ),
    "LoadManagedVAE": (
        {"vae_name": None, "device": "default", "keep_alive": "5m"},
        [("VAE", "VAE")],
    ),
    "CheckCompatibility": (
        {
            "model_name": None,
            "width": 0,
            "height": 0,
            "length": 0,
            "batch_size": 1,
            "weight_dtype": "default",
            "second_model_name": "none",
            "clip_name": "none",
            "vae_name": "none",
            "lora_name": "none",
            "url": "",
        },
        [("*", "model_name"), ("BOOLEAN", "compatible"), ("STRING", "report"), ("STRING", "details")],
    ),
    "QuantizeModel": (
        {
            "model_name": None,
            "format": "fp8_e4m3fn_scaled",
            "policy": "recommended",
            "target_size_gb": 0,
            "quality": "fast",
            "keep_patterns": "",
            "layout": "comfy_quant",
            "output_name": "",
            "overwrite": False,
            "allow_requantize": False,
            "allow_nonfinite": False,
            "max_memory_gb": 0,
        },
        [("*", "model_name"), ("STRING", "report"), ("IMAGE", "chart")],
    ),
    "MemoryReport": (
        {"value": None, "history_seconds": 300},
        [("*", "value"), ("STRING", "report"), ("STRING", "details"), ("IMAGE", "chart")],
    ),
}
OUTPUT_NODES = {"CheckCompatibility", "QuantizeModel", "MemoryReport"}
# What works today; a value of the contract that is not here is offered once it does.
OPTIONS = {
    ("LoadManagedModel", "weight_dtype"): [
        "default",
        "as_stored",
        "fp8_e4m3fn",
        "fp8_e4m3fn_fast",
        "fp8_e5m2",
        "bf16",
        "fp16",
        "fp32",
    ],
    ("LoadManagedModel", "on_misfit"): ["warn", "error", "use_smaller"],
    **{
        (name, "device"): ["default", "cpu"]
        for name in ("LoadManagedModel", "LoadManagedTextEncoder", "LoadManagedVAE")
    },
    ("QuantizeModel", "format"): [
        "fp8_e4m3fn_scaled",
        "fp8_e5m2_scaled",
        "int8",
        "int8_convrot",
        "mxfp8",
        "nvfp4",
        "w4a8",
        "w4a4",
        "bf16",
        "fp16",
    ],
    ("QuantizeModel", "policy"): ["recommended", "everything", "size_budget"],
    ("QuantizeModel", "quality"): ["fast", "best"],
    ("QuantizeModel", "layout"): ["comfy_quant", "scaled_fp8"],
}


@pytest.mark.parametrize("name", CONTRACT)
def test_inputs_and_outputs(client: Client, name: str) -> None:
    info = client.object_info(name)
    inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    expected, outputs = CONTRACT[name]
    assert list(inputs) == list(expected)
    for key, default in expected.items():
        if default is not None:
            assert inputs[key][1]["default"] == default, key
    assert list(zip(info["output"], info["output_name"], strict=True)) == outputs
    assert info["output_node"] is (name in OUTPUT_NODES)
    assert info["category"] == "model/managed"
    assert info["description"]


@pytest.mark.parametrize(("name", "key"), OPTIONS)
def test_combos_list_what_works(client: Client, name: str, key: str) -> None:
    inputs = client.object_info(name)["input"]
    found = {**inputs.get("required", {}), **inputs.get("optional", {})}[key]
    assert found[1]["options"] == OPTIONS[name, key]


@pytest.mark.parametrize("name", ["LoadManagedModel", "QuantizeModel", "CheckCompatibility"])
def test_only_the_model_has_to_be_given(client: Client, name: str) -> None:
    assert list(client.object_info(name)["input"]["required"]) == ["model_name"]


@pytest.mark.parametrize(
    ("name", "key"), [("LoadManagedTextEncoder", "clip_name"), ("LoadManagedVAE", "vae_name")]
)
def test_only_the_first_file_has_to_be_given(client: Client, name: str, key: str) -> None:
    assert list(client.object_info(name)["input"]["required"]) == [key]


def test_types_and_vaes_are_those_of_the_stock_loaders(client: Client) -> None:
    stock = [
        client.object_info(name)["input"]["required"]["type"] for name in ("CLIPLoader", "DualCLIPLoader")
    ]
    words = [word for (options, *_) in stock for word in options]
    ours = client.object_info("LoadManagedTextEncoder")["input"]["optional"]["type"][1]["options"]
    assert ours == list(dict.fromkeys(words))
    vaes = client.object_info("VAELoader")["input"]["required"]["vae_name"][0]
    assert client.object_info("LoadManagedVAE")["input"]["required"]["vae_name"][1]["options"] == vaes
    assert "pixel_space" in vaes


def test_attention_lists_the_backends_that_are_here(client: Client) -> None:
    options = client.object_info("LoadManagedModel")["input"]["optional"]["attention"][1]["options"]
    assert options[0] == "default"
    assert {"pytorch", "split", "sub_quad"} <= set(options)


@pytest.mark.parametrize("name", ["LoadManagedModel", "QuantizeModel", "CheckCompatibility"])
def test_every_model_file_is_offered_without_registering_it(client: Client, name: str) -> None:
    options = client.object_info(name)["input"]["required"]["model_name"][1]["options"]
    assert {
        "tiny_wan21_t2v_bf16.safetensors",
        "tiny_flux_bf16.safetensors",
        "tiny_sd15_checkpoint_bf16.safetensors",
        "from_extra_paths.safetensors",
    } <= set(options)


def test_rarely_used_inputs_are_advanced(client: Client) -> None:
    inputs = client.object_info("LoadManagedModel")["input"]["optional"]
    advanced = {name for name, entry in inputs.items() if entry[1].get("advanced")}
    assert advanced == {"device", "keep_alive", "version", "attention"}


def test_nothing_of_ours_complained_while_comfyui_started(client: Client) -> None:
    log = (client.base / "comfyui.log").read_text(errors="replace")
    assert "IMPORT FAILED" not in log
    ours = [line for line in log.splitlines() if "managed_models" in line.lower() and "error" in line.lower()]
    assert not ours
