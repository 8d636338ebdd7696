"""Quantized layers as ComfyUI reads them: their weights, and text encoders made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import comfy.ops
import comfy.sd
import torch
from managed_models.manager.errors import BadInput
from managed_models.manager.formats.safetensors import read_header
from managed_models.manager.identify import identify
from managed_models.manager.quantize.formats import FORMATS
from managed_models.manager.quantize.request import QuantizeRequest
from managed_models.manager.quantize.service import Quantizer
from managed_models.manager.quantize.source import Reader, read_source
from managed_models.manager.quantize.stored import DECODED, open_decoder, read_stored_layers
from safetensors.torch import load_file, save_file

# Real architectures with few and narrow layers; the 24th block is what a T5-XXL is told by.
T5 = {"d_model": 256, "d_ff": 512, "num_layers": 2, "num_heads": 4}
QWEN = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
OPTIONS = {"t5xxl_model_config": T5, "qwen25_3b_model_config": QWEN}
Tensors = dict[str, torch.Tensor]


def quantizer() -> Quantizer:
    return Quantizer(lambda path: identify(read_header(path)))


def main(base: str) -> dict[str, Any]:
    """Return how far weights are from ComfyUI's, and what text encoders of every format give."""
    folder = Path(base)
    return {
        "weights": {path.stem: _weights(path) for path in sorted((folder / "files").glob("*.safetensors"))},
        "encoders": {
            "t5": _encoders(folder, "t5", _t5(), comfy.sd.CLIPType.SD3, [*FORMATS]),
            "qwen": _encoders(folder, "qwen", _qwen(), comfy.sd.CLIPType.STABLE_DIFFUSION, ["int8", "nvfp4"]),
        },
        "clip_l": _clip_l(folder),
        "decoded": sorted(DECODED),
    }


def _weights(path: Path) -> dict[str, float]:
    """Return, by format, how far our weights of any layer are from ComfyUI's, in float32."""
    source = read_source(path)
    tensors = load_file(path)
    worst: dict[str, float] = {}
    for layer, stored in read_stored_layers(source.header).items():
        if stored.format not in DECODED:
            continue
        rows, columns = stored.shape
        linear = _operations().Linear(columns, rows, bias=False, device="cpu", dtype=torch.float32)
        state = {n[len(layer) + 1 :]: t for n, t in tensors.items() if n.rpartition(".")[0] == layer}
        marker = {"format": stored.format, **stored.options}
        state["comfy_quant"] = torch.frombuffer(bytearray(json.dumps(marker).encode()), dtype=torch.uint8)
        if "scale_weight" in state:
            state["weight_scale"] = state.pop("scale_weight")
        state.pop("bias", None)
        linear.load_state_dict(state, strict=False)
        reader = Reader(source)
        ours = open_decoder(reader, stored)(tensors[f"{layer}.weight"], 0)
        reader.close()
        theirs = linear.weight.dequantize()
        assert theirs.dtype == torch.float32
        difference = float((ours - theirs).abs().max() / theirs.abs().max())
        name = "int8_convrot" if stored.options.get("convrot") else stored.format
        worst[name] = max(worst.get(name, 0.0), difference)
    return worst


def _operations() -> Any:
    return comfy.ops.mixed_precision_ops({"mixed_ops": True}, torch.float32, full_precision_mm=True)


def _encoders(
    folder: Path, kind: str, tensors: Tensors, clip_type: Any, formats: list[str]
) -> dict[str, Any]:
    """Return how far what each format gives for a text is from what the original gives."""
    original = folder / f"{kind}.safetensors"
    save_file({n: t.bfloat16().contiguous() for n, t in tensors.items()}, original, {"format": "pt"})
    reference = _encode(original, clip_type)
    found: dict[str, Any] = {}
    for name in (f for f in formats if FORMATS[f].kind != "cast"):
        found[name] = _made(folder, kind, original, clip_type, reference, QuantizeRequest(format=name))
    old = QuantizeRequest(layout="scaled_fp8")
    found["scaled_fp8"] = _made(folder, kind, original, clip_type, reference, old)
    size = original.stat().st_size
    budget = QuantizeRequest(policy="size_budget", target_size_gb=(size - 0.9 * _block(tensors)) / 2**30)
    found["size_budget"] = _made(folder, kind, original, clip_type, reference, budget)
    return found


def _block(tensors: Tensors) -> int:
    """Return the bytes that 8 bits less per weight of the blocks save."""
    kept = ("shared", "embed_tokens", "lm_head", "relative_attention_bias")
    return sum(t.numel() for n, t in tensors.items() if t.dim() == 2 and not any(part in n for part in kept))


def _made(
    folder: Path, kind: str, original: Path, clip_type: Any, reference: torch.Tensor, request: QuantizeRequest
) -> dict[str, Any]:
    output = folder / f"{kind}_{request.policy}_{request.format}_{request.layout}.safetensors"
    details = quantizer().quantize(original, output, request)
    given = _encode(output, clip_type)
    return {
        "distance": float((given - reference).norm() / reference.norm()),
        "changed": details["changed_layers"],
        "kept": details["kept_names"],
        "rule": details["rule"]["name"],
        "formats": [entry["format"] for entry in details["formats"]],
    }


def _encode(path: Path, clip_type: Any) -> torch.Tensor:
    with torch.inference_mode():
        clip = comfy.sd.load_clip([str(path)], clip_type=clip_type, model_options=dict(OPTIONS))
        conditioning = clip.encode_from_tokens(clip.tokenize("a red fox in the snow"))
    assert torch.isfinite(conditioning).all()
    return conditioning.float().clone()


def _clip_l(folder: Path) -> dict[str, Any]:
    """Return what becomes of a CLIP-L: refused in fp8, made in fp16; and what its loader does with fp8."""
    path = folder / "clip_l.safetensors"
    tensors = _clip()
    save_file({n: t.bfloat16().contiguous() for n, t in tensors.items()}, path, {"format": "pt"})
    try:
        quantizer().quantize(path, folder / "clip_l_fp8.safetensors", QuantizeRequest())
        refused = ""
    except BadInput as error:
        refused = str(error)
    quantizer().quantize(path, folder / "clip_l_fp16.safetensors", QuantizeRequest(format="fp16"))
    reference = _encode(path, comfy.sd.CLIPType.STABLE_DIFFUSION)
    made = _encode(folder / "clip_l_fp16.safetensors", comfy.sd.CLIPType.STABLE_DIFFUSION)
    return {"refused": refused, "fp16": float((made - reference).norm() / reference.norm())}


def _random(shapes: dict[str, tuple[int, ...]]) -> Tensors:
    generator = torch.Generator().manual_seed(1)

    def tensor(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if "norm" in name:
            return torch.ones(shape)
        # Small enough that what one layer changes does not grow from layer to layer.
        return torch.randn(shape, generator=generator) * (0.3 * shape[-1] ** -0.5 if len(shape) > 1 else 0.02)

    return {name: tensor(name, shape) for name, shape in shapes.items()}


def _t5() -> Tensors:
    width, inner, ffn, heads = T5["d_model"], T5["num_heads"] * 64, T5["d_ff"], T5["num_heads"]
    shapes: dict[str, tuple[int, ...]] = {
        "shared.weight": (32128, width),
        "encoder.final_layer_norm.weight": (width,),
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (32, heads),
        "encoder.block.23.layer.1.DenseReluDense.wi_1.weight": (10240, 32),
    }
    for i in range(T5["num_layers"]):
        attention, dense = f"encoder.block.{i}.layer.0", f"encoder.block.{i}.layer.1"
        shapes |= {f"{attention}.SelfAttention.{n}.weight": (inner, width) for n in "qkv"}
        shapes |= {
            f"{attention}.SelfAttention.o.weight": (width, inner),
            f"{attention}.layer_norm.weight": (width,),
            f"{dense}.DenseReluDense.wi_0.weight": (ffn, width),
            f"{dense}.DenseReluDense.wi_1.weight": (ffn, width),
            f"{dense}.DenseReluDense.wo.weight": (width, ffn),
            f"{dense}.layer_norm.weight": (width,),
        }
    return _random(shapes)


def _qwen() -> Tensors:
    width, ffn, inner = QWEN["hidden_size"], QWEN["intermediate_size"], QWEN["num_attention_heads"] * 128
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (151936, width),
        "model.norm.weight": (width,),
    }
    for i in range(QWEN["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        for name, rows in (("q", inner), ("k", 256), ("v", 256)):
            shapes[f"{layer}.self_attn.{name}_proj.weight"] = (rows, width)
            shapes[f"{layer}.self_attn.{name}_proj.bias"] = (rows,)
        shapes |= {
            f"{layer}.self_attn.o_proj.weight": (width, inner),
            f"{layer}.mlp.gate_proj.weight": (ffn, width),
            f"{layer}.mlp.up_proj.weight": (ffn, width),
            f"{layer}.mlp.down_proj.weight": (width, ffn),
            f"{layer}.input_layernorm.weight": (width,),
            f"{layer}.post_attention_layernorm.weight": (width,),
        }
    return _random(shapes)


def _clip() -> Tensors:
    width, shapes = 768, {}
    text = "text_model"
    shapes[f"{text}.embeddings.token_embedding.weight"] = (49408, width)
    shapes[f"{text}.embeddings.position_embedding.weight"] = (77, width)
    shapes[f"{text}.final_layer_norm.weight"] = (width,)
    shapes[f"{text}.final_layer_norm.bias"] = (width,)
    for i in range(12):
        layer = f"{text}.encoder.layers.{i}"
        for name in ("q", "k", "v", "out"):
            shapes[f"{layer}.self_attn.{name}_proj.weight"] = (width, width)
            shapes[f"{layer}.self_attn.{name}_proj.bias"] = (width,)
        shapes[f"{layer}.mlp.fc1.weight"], shapes[f"{layer}.mlp.fc1.bias"] = (4 * width, width), (4 * width,)
        shapes[f"{layer}.mlp.fc2.weight"], shapes[f"{layer}.mlp.fc2.bias"] = (width, 4 * width), (width,)
        for n in (1, 2):
            shapes[f"{layer}.layer_norm{n}.weight"] = shapes[f"{layer}.layer_norm{n}.bias"] = (width,)
    return _random(shapes)
