"""Every format in a real ComfyUI: it loads, samples, differs little from the original, and is read right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from managed_models.manager.formats.safetensors import Header, read_header
from managed_models.manager.identify import identify
from managed_models.manager.identify.quantization import read_layer_formats
from managed_models.manager.lineage import recorded_errors
from managed_models.manager.model import QuantizationType
from safetensors.torch import load_file, save_file
from support.comfy_client import SURROUNDINGS, Client, node, relative_l2, sampler

pytestmark = pytest.mark.comfyui

# Most that the latents may differ from those of the bf16 file: relative L2, two Euler steps, CFG 1.
LIMITS = {
    "int8": 0.003,
    "int8_convrot": 0.003,
    "fp8_e4m3fn_scaled": 0.005,
    "fp8_e5m2_scaled": 0.01,
    "mxfp8": 0.006,
    "nvfp4": 0.02,
    "w4a8": 0.03,
    "w4a4": 0.05,  # 10 % would let swapped halves of bytes pass, which make 8.7 %
}
KINDS = {"wan": "tiny_wan21_t2v_bf16.safetensors", "flux": "tiny_flux_bf16.safetensors"}
TYPES = {
    "fp8_e4m3fn_scaled": QuantizationType.FP8_E4M3,
    "fp8_e5m2_scaled": QuantizationType.FP8_E5M2,
    **{name: QuantizationType(name) for name in ("int8", "int8_convrot", "mxfp8", "nvfp4", "w4a8", "w4a4")},
}
CASES = [
    *((kind, name, "fast", "comfy_quant") for kind in KINDS for name in LIMITS),
    *((kind, name, "best", "comfy_quant") for kind in KINDS for name in ("nvfp4", "w4a4")),
    *((kind, name, "fast", "scaled_fp8") for kind in KINDS for name in LIMITS if "fp8_" in name),
]


def quantized_share(header: Header) -> float:
    """Return the part of all linear weights (those of two dimensions) whose layers carry a format."""
    marked = read_layer_formats(header)
    packed = {QuantizationType.NVFP4, QuantizationType.W4A4, QuantizationType.W4A8}
    quantized = plain = 0
    for name, info in header.tensors.items():
        if not name.endswith(".weight") or len(info.shape) != 2:
            continue
        kind = marked.get(name.removesuffix(".weight"))
        if kind is None:
            plain += info.elements
        else:
            quantized += info.elements * (2 if kind in packed else 1)
    return quantized / (quantized + plain)


@pytest.mark.parametrize(("kind", "name", "quality", "layout"), CASES, ids=lambda value: str(value))
def test_a_format_loads_and_samples(
    client: Client, diffusion_models: Path, kind: str, name: str, quality: str, layout: str
) -> None:
    made = f"formats_{kind}_{name}_{quality}_{layout}"
    prompt: dict[str, Any] = {
        "original": node("UNETLoader", unet_name=KINDS[kind], weight_dtype="default"),
        "small": node(
            "QuantizeModel",
            model_name=KINDS[kind],
            format=name,
            quality=quality,
            layout=layout,
            output_name=made,
            overwrite=True,
        ),
        "stock": node("UNETLoader", unet_name=["small", 0], weight_dtype="default"),
        "managed": node("LoadManagedModel", model_name=["small", 0]),
        **SURROUNDINGS[kind],
    }
    for loader in ("original", "stock", "managed"):
        prompt |= sampler([loader, 0], f"{made}_{loader}")
    client.run(prompt)
    reference = client.latent(f"{made}_original")
    stock = client.latent(f"{made}_stock")
    path = diffusion_models / f"{made}.safetensors"
    header = read_header(path)
    difference = relative_l2(stock, reference)
    print(f"{kind} {name} {quality} {layout}: {100 * difference:.3f} %")
    assert quantized_share(header) >= 0.9
    assert 0 < difference < LIMITS[name]
    assert relative_l2(client.latent(f"{made}_managed"), stock) == 0
    identity = identify(header)
    errors = recorded_errors(header.metadata)
    assert len(errors) == identity.quantized_layers
    assert all(0 < error < 0.2 for error in errors)
    assert identity.quantization is TYPES[name]
    assert identity.quantization_layout == layout
    path.unlink()


@pytest.mark.parametrize("name", ["nvfp4", "w4a8", "w4a4"])
def test_four_bits_leave_what_tells_comfyui_the_dimensions(client: Client, name: str) -> None:
    """In a checkpoint of this family ComfyUI reads the width of the text from a layer within a block."""
    model, made = "tiny_sd15_checkpoint_bf16.safetensors", f"formats_sd15_{name}"
    small = node("QuantizeModel", model_name=model, format=name, policy="everything", output_name=made)
    prompt: dict[str, Any] = {
        "original": node("CheckpointLoaderSimple", ckpt_name=model),
        "small": small,
        "stock": node("CheckpointLoaderSimple", ckpt_name=["small", 0]),
        **SURROUNDINGS["sd15"],
    }
    for loader in ("original", "stock"):
        prompt |= sampler([loader, 0], f"{made}_{loader}")
    client.run(prompt)
    difference = relative_l2(client.latent(f"{made}_stock"), client.latent(f"{made}_original"))
    assert 0 < difference < 0.05  # the limits are for the recommended policy


def _roll_rows(scales: torch.Tensor) -> torch.Tensor:
    """Give each row the scale of the next."""
    return scales.roll(1, 0)


def _swap_halves(codes: torch.Tensor) -> torch.Tensor:
    """Put the two halves of each byte the wrong way round."""
    bits = codes.view(torch.uint8)
    return ((bits << 4) | (bits >> 4)).view(codes.dtype)


def _untile(scales: torch.Tensor) -> torch.Tensor:
    """Lay the scales of blocks out row after row, as if nobody had to swizzle them."""
    raw = scales.view(torch.uint8)
    flat = raw.reshape(-1, 32, 4, 4).transpose(1, 2)
    return flat.reshape(raw.shape).contiguous().view(scales.dtype)


def _not_turned(marker: torch.Tensor) -> torch.Tensor:
    """Forget to say that the weights are turned."""
    text = bytes(marker.tolist()).replace(b'"convrot": true', b'"convrot": 0   ')
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


# What a mistake in a kernel would look like in the file: the tensor, and what is wrong with it.
MISTAKES = {
    "int8": (".weight_scale", _roll_rows),
    "int8_convrot": (".comfy_quant", _not_turned),
    "fp8_e4m3fn_scaled": (".weight_scale", lambda scale: scale * 1.05),
    "fp8_e5m2_scaled": (".weight_scale", lambda scale: scale * 1.05),
    "mxfp8": (".weight_scale", _untile),
    "nvfp4": (".weight_scale", _untile),
    "w4a8": (".weight", _swap_halves),
    "w4a4": (".weight", _swap_halves),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_a_kernel_breaks_the_limit(client: Client, diffusion_models: Path, name: str) -> None:
    model, made = KINDS["flux"], f"mistaken_{name}"
    client.run({"small": node("QuantizeModel", model_name=model, format=name, output_name=made)})
    path = diffusion_models / f"{made}.safetensors"
    tensors = load_file(path)
    suffix, mistake = MISTAKES[name]
    layers = [n.removesuffix(".comfy_quant") for n in tensors if n.endswith(".comfy_quant")]
    for layer in layers:
        tensors[layer + suffix] = mistake(tensors[layer + suffix]).contiguous()
    path.unlink()
    save_file(tensors, path, {"format": "pt"})
    prompt: dict[str, Any] = {
        "original": node("UNETLoader", unet_name=model, weight_dtype="default"),
        "stock": node("UNETLoader", unet_name=path.name, weight_dtype="default"),
        **SURROUNDINGS["flux"],
    }
    for loader in ("original", "stock"):
        prompt |= sampler([loader, 0], f"{made}_{loader}")
    client.run(prompt)
    difference = relative_l2(client.latent(f"{made}_stock"), client.latent(f"{made}_original"))
    print(f"{name}: {100 * difference:.2f} % with a mistake, at most {100 * LIMITS[name]:.1f} % without")
    assert difference > LIMITS[name]
    path.unlink()
