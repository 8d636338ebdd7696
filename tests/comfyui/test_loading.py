"""LoadManagedModel's options, compared with what the stock loaders do."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from comfyui.test_inside import run_inside
from support.comfy_client import SURROUNDINGS, Client, node, relative_l2, reports, sampler
from support.comfyui import ComfyUI

pytestmark = pytest.mark.comfyui

WAN = "tiny_wan21_t2v_bf16.safetensors"
FLUX = "tiny_flux_bf16.safetensors"
CHECKPOINT = "tiny_sd15_checkpoint_bf16.safetensors"


def test_default_is_exactly_what_the_stock_loader_does(client: Client) -> None:
    prompt = {
        "managed": node("LoadManagedModel", model_name=WAN),
        "stock": node("UNETLoader", unet_name=WAN, weight_dtype="default"),
        **SURROUNDINGS["wan"],
        **sampler(["managed", 0], "by_managed"),
        **sampler(["stock", 0], "by_stock"),
    }
    client.run(prompt)
    assert relative_l2(client.latent("by_managed"), client.latent("by_stock")) == 0


@pytest.mark.parametrize(
    ("weight_dtype", "in_memory", "limit"),
    [
        ("default", "as fp32", 0.0),
        ("as_stored", "as bf16", 0.05),
        ("bf16", "as bf16", 0.05),
        ("fp16", "as fp16", 0.05),
        ("fp32", "as fp32", 1e-6),
        ("fp8_e4m3fn", "as fp8_e4m3fn", 0.1),
        ("fp8_e4m3fn_fast", "as fp8_e4m3fn", 0.1),
        ("fp8_e5m2", "as fp8_e5m2", 0.2),
    ],
)
def test_weight_dtype(client: Client, weight_dtype: str, in_memory: str, limit: float) -> None:
    prompt = {
        "model": node("LoadManagedModel", model_name=WAN, weight_dtype=weight_dtype),
        "reference": node("LoadManagedModel", model_name=WAN),
        **SURROUNDINGS["wan"],
        **sampler(["model", 0], f"dtype_{weight_dtype}"),
        **sampler(["reference", 0], f"reference_{weight_dtype}"),
    }
    words = reports(client.run(prompt), "model")
    assert in_memory in words
    found = client.latent(f"dtype_{weight_dtype}")
    assert relative_l2(found, client.latent(f"reference_{weight_dtype}")) <= limit


def with_attention(name: str, *choices: str) -> dict[str, Any]:
    """A prompt that samples one file with several ways to compute attention."""
    prompt: dict[str, Any] = {**SURROUNDINGS["wan"]}
    for choice in choices:
        there = f"{name}_{choice}"
        prompt[f"model_{there}"] = node("LoadManagedModel", model_name=WAN, attention=choice)
        prompt |= sampler([f"model_{there}", 0], there)
    return prompt


# ComfyUI's own choice on a CPU is sub_quad.
@pytest.mark.parametrize("backend", ["pytorch", "sub_quad", "split"])
def test_attention_is_computed_with_the_chosen_backend(client: Client, backend: str) -> None:
    outputs = client.run(with_attention(f"attention_{backend}", "default", backend))
    found = client.latent(f"attention_{backend}_{backend}")
    reference = client.latent(f"attention_{backend}_default")
    assert relative_l2(found, reference) < 1e-3
    assert f"Attention: {backend}" in reports(outputs, f"model_attention_{backend}_{backend}")


def test_attention_does_not_reach_another_loader_of_the_same_file(client: Client) -> None:
    client.run(with_attention("leak_before", "default"))
    client.run(with_attention("leak_other", "pytorch"))
    outputs = client.run(with_attention("leak_after", "default"))
    assert relative_l2(client.latent("leak_after_default"), client.latent("leak_before_default")) == 0
    assert "Attention:" not in reports(outputs, "model_leak_after_default")
    assert relative_l2(client.latent("leak_other_pytorch"), client.latent("leak_before_default")) > 0


def test_attention_and_device_that_are_not_here_are_warnings(client: Client) -> None:
    prompt = {
        "model": node("LoadManagedModel", model_name=WAN, attention="sage99", device="cuda:5"),
        "end": node("PreviewAny", source=["model", 3]),
    }
    words = reports(client.run(prompt), "model")
    assert "There is no attention backend 'sage99' here" in words
    assert "ComfyUI's own choice is used" in words
    assert "device cuda:5 is not on this machine" in words


def test_keep_alive_that_is_no_time_is_refused(client: Client) -> None:
    prompt = {
        "model": node("LoadManagedModel", model_name=WAN, keep_alive="soon"),
        "end": node("PreviewAny", source=["model", 3]),
    }
    assert "keep_alive is 'soon', which is not a length of time" in client.refused(prompt)


@pytest.fixture(scope="module")
def trained(comfyui: ComfyUI, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    base = tmp_path_factory.mktemp("training")
    shutil.copytree(tiny_models, base / "models")
    return run_inside(comfyui, "training", base)


@pytest.mark.parametrize("kind", ["wan", "flux"])
def test_gradient_checkpointing_changes_memory_and_nothing_else(trained: dict[str, Any], kind: str) -> None:
    found = trained[kind]
    assert found["changed"] > 5
    assert found["changed_again"] == 0
    assert found["differs"] < 1e-5
    plain, thrifty = found["kept_bytes"]
    assert thrifty < plain / 3


@pytest.mark.parametrize("kind", ["wan", "flux"])
def test_turning_gradient_checkpointing_off_restores_exactly(trained: dict[str, Any], kind: str) -> None:
    found = trained[kind]
    assert found["restored"] == found["changed"]
    assert found["as_before"]
    assert found["after"] < 1e-6


def test_only_a_model_can_be_checkpointed(trained: dict[str, Any]) -> None:
    assert "needs a MODEL, and this is a str" in trained["refusal"]


def test_a_checkpoint_fills_model_and_vae(client: Client) -> None:
    prompt = {
        "checkpoint": node("LoadManagedModel", model_name=CHECKPOINT),
        "stock": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
        **SURROUNDINGS["sd15"],
        **sampler(["checkpoint", 0], "checkpoint_managed"),
        **sampler(["stock", 0], "checkpoint_stock"),
        "decoded": node("VAEDecode", samples=["checkpoint_managed", 0], vae=["checkpoint", 2]),
        "picture": node("SaveImage", images=["decoded", 0], filename_prefix="checkpoint"),
    }
    outputs = client.run(prompt)
    assert relative_l2(client.latent("checkpoint_managed"), client.latent("checkpoint_stock")) == 0
    assert outputs["picture"]["images"]
    assert "CLIP: not in this file; use 'Load CLIP'" in reports(outputs, "checkpoint")


@pytest.mark.parametrize(
    ("output", "user", "loader"),
    [
        (1, node("CLIPTextEncode", text="a cat", clip=["model", 1]), "Load CLIP"),
        (2, node("VAEDecode", samples=["latent", 0], vae=["model", 2]), "Load VAE"),
    ],
)
def test_an_output_that_the_file_cannot_fill_names_the_loader(
    client: Client, output: int, user: dict[str, Any], loader: str
) -> None:
    prompt = {
        "model": node("LoadManagedModel", model_name=FLUX),
        "latent": SURROUNDINGS["flux"]["latent"],
        "user": user,
        "end": node("PreviewAny", source=["user", 0]),
    }
    error = client.fails(prompt)
    assert FLUX in error["exception_message"]
    assert loader in error["exception_message"]


def test_misfit_error_refuses_a_model_that_nobody_recognises(client: Client, diffusion_models: Path) -> None:
    from support.files import shapes_file

    shapes_file(diffusion_models / "stranger.safetensors", {"a.b.weight": (64, 64)})
    prompt = {
        "model": node("LoadManagedModel", model_name="stranger.safetensors", on_misfit="error"),
        "end": node("PreviewAny", source=["model", 3]),
    }
    error = client.fails(prompt)
    assert "does not fit this machine" in error["exception_message"]
    prompt["model"]["inputs"]["on_misfit"] = "warn"
    assert "ComfyUI could not load" in client.fails(prompt)["exception_message"]


def test_a_replaced_file_is_noticed_at_the_next_run(client: Client, diffusion_models: Path) -> None:
    path = diffusion_models / "replaced.safetensors"
    _put(diffusion_models / WAN, path)
    prompt = {
        "model": node("LoadManagedModel", model_name=path.name),
        "end": node("PreviewAny", source=["model", 3]),
    }
    assert "Wan 2.1" in reports(client.run(prompt), "model")
    assert "model" not in client.executed(prompt)
    _put(diffusion_models / FLUX, path)
    assert "Flux.1 dev" in reports(client.run(prompt), "model")


def test_a_replaced_file_is_noticed_behind_a_link_too(client: Client, diffusion_models: Path) -> None:
    path = diffusion_models / "replaced_linked.safetensors"
    _put(diffusion_models / WAN, path)
    prompt = {
        "name": node("PrimitiveString", value=path.name),
        "any": node("MemoryReport", value=["name", 0]),
        "model": node("LoadManagedModel", model_name=["any", 0]),
        "end": node("PreviewAny", source=["model", 3]),
    }
    assert "Wan 2.1" in reports(client.run(prompt), "model")
    _put(diffusion_models / FLUX, path)
    assert "Flux.1 dev" in reports(client.run(prompt), "model")


def test_a_replaced_source_is_quantized_anew(client: Client, diffusion_models: Path) -> None:
    path = diffusion_models / "replaced_source.safetensors"
    _put(diffusion_models / WAN, path)
    prompt = {"small": node("QuantizeModel", model_name=path.name, format="int8", overwrite=True)}
    assert "Wan 2.1" in reports(client.run(prompt), "small")
    assert client.executed(prompt) <= {"small"}
    _put(diffusion_models / FLUX, path)
    assert "Flux.1 dev" in reports(client.run(prompt), "small")


def test_a_deleted_result_is_made_again(client: Client, diffusion_models: Path) -> None:
    prompt = {"small": node("QuantizeModel", model_name=WAN, format="int8", output_name="deleted")}
    client.run(prompt)
    (diffusion_models / "deleted.safetensors").unlink()
    assert reports(client.run(prompt), "small").startswith("Made deleted.safetensors")


def _put(source: Path, target: Path) -> None:
    """Put another file in place as a download does: beside it first, then renamed."""
    beside = target.with_suffix(".part")
    shutil.copy(source, beside)
    os.replace(beside, target)
