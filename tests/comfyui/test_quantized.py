"""Mixed files, second roundings and text encoders in a real ComfyUI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from comfyui.test_inside import run_inside
from managed_models.manager.demo import layouts
from managed_models.manager.demo.tiny import write_random_model
from managed_models.manager.formats.safetensors import read_header
from managed_models.manager.identify import identify
from managed_models.manager.identify.architectures import ARCHITECTURES
from managed_models.manager.identify.quantization import read_layer_formats
from managed_models.manager.quantize.keep_rules import RULES
from managed_models.manager.quantize.request import QuantizeRequest
from managed_models.manager.quantize.service import Quantizer
from managed_models.manager.quantize.stored import DECODED, PLAIN
from managed_models.manager.units import GB
from support.comfy_client import SURROUNDINGS, Client, node, relative_l2, reports, sampler
from support.comfyui import ComfyUI

pytestmark = pytest.mark.comfyui

KINDS = {"wan": "tiny_wan21_t2v_bf16.safetensors", "flux": "tiny_flux_bf16.safetensors"}


@pytest.fixture(scope="module")
def seen(comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    base = tmp_path_factory.mktemp("quantized")
    files = base / "files"
    files.mkdir()
    write_random_model(base / "wan.safetensors", layouts.wan21_t2v(width=256, ffn=512, layers=1), 0)
    quantizer = Quantizer(lambda path: identify(read_header(path)))
    for name in ("fp8_e4m3fn_scaled", "fp8_e5m2_scaled", "int8", "int8_convrot", "mxfp8", "nvfp4"):
        request = QuantizeRequest(format=name, policy="everything")
        quantizer.quantize(base / "wan.safetensors", files / f"{name}.safetensors", request)
    old = QuantizeRequest(layout="scaled_fp8")
    quantizer.quantize(base / "wan.safetensors", files / "scaled_fp8.safetensors", old)
    return run_inside(comfyui, "quantized", base)


def test_weights_are_worked_out_as_comfyui_does(seen: dict[str, Any]) -> None:
    formats = {name for found in seen["weights"].values() for name in found}
    assert formats == (DECODED - {PLAIN}) | {"int8_convrot"}
    for file, found in seen["weights"].items():
        for name, difference in found.items():
            # Turned weights are sums of 256: the order of adding shows in the last bits.
            assert difference <= (1e-6 if name == "int8_convrot" else 0.0), (file, name)


@pytest.mark.parametrize("kind", ["t5", "qwen"])
def test_text_encoders_of_every_format_load_and_encode(seen: dict[str, Any], kind: str) -> None:
    found = seen["encoders"][kind]
    limits = {
        "fp8_e4m3fn_scaled": 0.08,
        "scaled_fp8": 0.08,
        "fp8_e5m2_scaled": 0.12,
        "int8": 0.03,
        "int8_convrot": 0.03,
        "mxfp8": 0.08,
        "nvfp4": 0.25,
        "w4a8": 0.2,
        "w4a4": 0.3,
        "size_budget": 0.05,
    }
    assert set(found) == (set(limits) if kind == "t5" else {"int8", "nvfp4", "scaled_fp8", "size_budget"})
    for name, facts in found.items():
        assert 0 < facts["distance"] < limits[name], (name, facts)
        assert facts["rule"] == {"t5": "t5-xxl", "qwen": "qwen"}[kind]
        embedding = {"t5": "shared", "qwen": "model.embed_tokens"}[kind]
        assert embedding in facts["kept"]
        assert facts["changed"] >= 7


def test_encoders_whose_quantized_layers_are_not_read_are_refused(seen: dict[str, Any]) -> None:
    assert "ComfyUI's loader does not read" in seen["clip_l"]["refused"]
    assert "bf16 or fp16" in seen["clip_l"]["refused"]
    assert seen["clip_l"]["fp16"] < 0.01


# Layers that only some models of a family have, and none of the layouts here.
IDLE = {("wan", "ref_conv"), ("hunyuan", "time_r_in"), ("ltx", "to_gate_logits")}


def test_the_rules_name_layers_of_the_real_architectures(
    comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory
) -> None:
    found = run_inside(comfyui, "keep_rules", tmp_path_factory.mktemp("rules"))
    assert set(found) == {row.id for row in ARCHITECTURES}
    assert [name for name, facts in found.items() if not facts["known"]] == []
    assert [name for name, facts in found.items() if not facts["layers"]] == []
    used = {(facts["rule"], pattern) for facts in found.values() for pattern in facts["used"]}
    said = {(rule.name, pattern) for rule in RULES for pattern in rule.patterns}
    assert said - used == IDLE
    # These layouts have two blocks each, so that what is kept counts for more than in the whole models.
    assert all(facts["kept"] < 0.8 for facts in found.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_mixed_file_loads_in_stock_and_managed_loaders_and_samples(
    client: Client, diffusion_models: Path, kind: str
) -> None:
    source = diffusion_models / KINDS[kind]
    limit = round(source.stat().st_size * 0.52)
    name = f"{kind}_budget.safetensors"
    prompt: dict[str, Any] = {
        "original": node("LoadManagedModel", model_name=KINDS[kind]),
        "small": node(
            "QuantizeModel",
            model_name=KINDS[kind],
            policy="size_budget",
            target_size_gb=limit / GB,
            output_name=name,
            overwrite=True,
        ),
        "managed": node("LoadManagedModel", model_name=["small", 0]),
        "stock": node("UNETLoader", unet_name=["small", 0], weight_dtype="default"),
        **SURROUNDINGS[kind],
    }
    for loader in ("original", "managed", "stock"):
        prompt |= sampler([loader, 0], f"{kind}_budget_{loader}")
    outputs = client.run(prompt)
    made = diffusion_models / name
    assert made.stat().st_size <= limit
    assert len(set(read_layer_formats(read_header(made)).values())) > 1
    reference = client.latent(f"{kind}_budget_original")
    managed = client.latent(f"{kind}_budget_managed")
    assert 0 < relative_l2(managed, reference) < 0.02
    assert relative_l2(client.latent(f"{kind}_budget_stock"), managed) == 0
    assert "Size budget" in reports(outputs, "small")
    assert outputs["small"]["images"]


def test_a_second_rounding_loads_and_samples(client: Client, diffusion_models: Path) -> None:
    wan = KINDS["wan"]
    prompt: dict[str, Any] = {
        "original": node("LoadManagedModel", model_name=wan),
        "once": node("QuantizeModel", model_name=wan, output_name="rounded_once", overwrite=True),
        "twice": node(
            "QuantizeModel",
            model_name=["once", 0],
            format="nvfp4",
            keep_patterns="blocks.0.",
            allow_requantize=True,
            output_name="rounded_twice",
            overwrite=True,
        ),
        "stock": node("UNETLoader", unet_name=["twice", 0], weight_dtype="default"),
        **SURROUNDINGS["wan"],
    }
    for loader in ("original", "stock"):
        prompt |= sampler([loader, 0], f"twice_{loader}")
    outputs = client.run(prompt)
    layers = read_layer_formats(read_header(diffusion_models / "rounded_twice.safetensors"))
    assert len(set(layers.values())) == 2
    assert 0 < relative_l2(client.latent("twice_stock"), client.latent("twice_original")) < 0.03
    assert "are rounded a second time" in reports(outputs, "twice")


def test_without_a_gpu_nothing_is_what_fits_it(client: Client) -> None:
    error = client.fails({"small": node("QuantizeModel", model_name=KINDS["wan"], policy="size_budget")})
    assert "no GPU is known here" in error["exception_message"]


def test_text_encoders_are_offered_and_made_beside_their_original(
    client: Client, comfy_server: Any, tmp_path: Path
) -> None:
    folder = comfy_server.base / "models" / "text_encoders"
    folder.mkdir(exist_ok=True)
    source = folder / "tiny_qwen.safetensors"
    shapes = {"model.embed_tokens.weight": (512, 256), "model.norm.weight": (256,)}
    for name, shape in {
        "self_attn.k_proj.weight": (256, 256),
        "self_attn.k_proj.bias": (256,),
        "mlp.up_proj.weight": (512, 256),
        "post_attention_layernorm.weight": (256,),
    }.items():
        shapes[f"model.layers.0.{name}"] = shape
    write_random_model(source, shapes, 0)
    try:
        options = client.object_info("QuantizeModel")["input"]["required"]["model_name"][1]["options"]
        assert "tiny_qwen.safetensors" in options
        outputs = client.run(
            {"small": node("QuantizeModel", model_name="tiny_qwen.safetensors", format="int8")}
        )
        assert (folder / "tiny_qwen_int8.safetensors").exists()
        assert "Rule: qwen" in reports(outputs, "small")
    finally:
        for path in folder.glob("tiny_qwen*"):  # the folder stays: ComfyUI has listed it
            path.unlink()
