"""Asks ComfyUI whether the pairing table is right: its latent formats, text encoders, VAEs and LoRA names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.sd
import torch
from managed_models.manager.formats.safetensors import read_header
from managed_models.manager.identify import identify
from managed_models.manager.pairing import DiffusionFacts, TextEncoderFacts, VaeFacts, facts_of
from managed_models.manager.pairing.lora_names import layer_names
from managed_models.manager.pairing.table import FAMILY_OF_ARCHITECTURE, SPACES
from support import pairing_layouts as layouts
from support.files import shapes_file

from inside.architectures import LAYOUTS

# Names of the encoders inside ComfyUI's text encoder classes -> our kinds.
_INSIDE = {
    "clip_l": "clip-l",
    "clip_g": "clip-g",
    "clip_h": "clip-h",
    "t5xxl": "t5-xxl",
    "umt5xxl": "umt5-xxl",
    "llama": "llama-3-8b",
    "qwen25_7b": "qwen2.5-vl-7b",
    "byt5_small": "byt5",
    "qwen3_4b": "qwen3-4b",
    "qwen3_06b": "qwen3-0.6b",
    "gemma2_2b": "gemma-2-2b",
}
# What Stable Diffusion 3 looks for in a checkpoint, which may hold any of its three encoders.
_SD3_KEYS = (
    "clip_l.transformer.text_model.final_layer_norm.weight",
    "clip_g.transformer.text_model.final_layer_norm.weight",
    "t5xxl.transformer.encoder.final_layer_norm.weight",
)


def main(folder: str) -> dict[str, Any]:
    """Return what ComfyUI says of every row of the table, and what our facts say."""
    path = Path(folder)
    return {
        "models": {
            name: _attempt(lambda: _model(name, path))  # noqa: B023
            for name in LAYOUTS
            if name in FAMILY_OF_ARCHITECTURE
        },
        "encoders": {
            name: _attempt(lambda: _encoder(name, shapes, path))  # noqa: B023
            for name, shapes in layouts.TEXT_ENCODERS.items()
        },
        "vaes": {
            name: _attempt(lambda: _vae(name, shapes, path))  # noqa: B023
            for name, shapes in layouts.VAES.items()
        },
    }


def _attempt(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return work()
    except Exception as error:  # each is a test of its own, and this one could not be built
        return {"error": f"{type(error).__name__}: {error}"}


def _model(name: str, folder: Path) -> dict[str, Any]:
    cls, unet_config = LAYOUTS[name]
    config = cls(dict(unet_config))
    config.set_inference_dtype(torch.float32, None)
    with torch.device("meta"):
        model = config.get_model({}, "", device=torch.device("meta"))
    shapes = {key: tuple(value.shape) for key, value in model.diffusion_model.state_dict().items()}
    header = read_header(shapes_file(folder / "model.safetensors", shapes))
    facts = facts_of(name, identify(header), header.tensors)
    assert isinstance(facts, DiffusionFacts)
    assert facts.family is not None
    space, theirs = SPACES[facts.family.space], model.latent_format
    names = layer_names(shapes, facts.family.lora_names)
    known = _lora_names(model, shapes)
    return {
        "ours": [space.comfy_format, facts.latent_out, space.channels, space.spatial, space.temporal],
        "comfyui": [
            type(theirs).__name__,
            theirs.latent_channels,
            theirs.latent_channels,
            theirs.spacial_downscale_ratio,
            theirs.temporal_downscale_ratio,
        ],
        "text_width": facts.text_width,
        "missing_names": sorted(known.keys() - names.keys())[:5],
        "invented_names": sorted(names.keys() - known.keys())[:5],
        "other_layers": [key for key, layer in known.items() if key in names and names[key].key != layer][:5],
        "names": len(known),
        "encoders": _encoders_inside(config),
        "slots": sorted(kind for slot in facts.family.slots for kind in slot.kinds),
    }


def _lora_names(model: Any, shapes: dict[str, Any]) -> dict[str, str]:
    """Return the names of layers that this ComfyUI accepts in a LoRA, of layers that the model has."""
    found: dict[str, str] = {}
    for name, target in comfy.lora.model_lora_keys_unet(model, {}).items():
        layer = (target if isinstance(target, str) else target[0]).removeprefix("diffusion_model.")
        if layer in shapes:
            found[name] = layer
    return found


def _encoders_inside(config: Any) -> list[str] | None:
    """Return the encoders in ComfyUI's text encoder for this model; None where it needs the file to say."""
    prefix = config.text_encoder_key_prefix[0]
    there = dict.fromkeys((prefix + key for key in _SD3_KEYS), torch.empty(1, device="meta"))
    target = config.clip_target(state_dict=there)
    if target is None:
        return None
    with torch.device("meta"):
        model = target.clip(device="meta", dtype=torch.float32, model_options={})
    found = [_INSIDE.get(name, name) for name, part in model.named_children() if hasattr(part, "transformer")]
    return sorted(found)


def _meta(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, dtype=dtype, device="meta") for name, shape in shapes.items()}


def _encoder(name: str, shapes: dict[str, tuple[int, ...]], folder: Path) -> dict[str, Any]:
    header = read_header(shapes_file(folder / "encoder.safetensors", shapes))
    facts = facts_of(name, identify(header), header.tensors)
    assert isinstance(facts, TextEncoderFacts)
    assert facts.kind is not None
    kind = comfy.sd.detect_te_model(_meta(shapes, torch.bfloat16))
    return {"ours": facts.kind.id, "class": facts.kind.comfy_class, "comfyui": kind.name if kind else None}


def _vae(name: str, shapes: dict[str, tuple[int, ...]], folder: Path) -> dict[str, Any]:
    """Let ComfyUI build the whole VAE from what its detection looks at, and judge that one."""
    first = _build(_meta(shapes, torch.float32))
    whole = {key: tuple(value.shape) for key, value in first.first_stage_model.state_dict().items()}
    whole |= {key: shape for key, shape in shapes.items() if key not in whole}
    again = _build(_meta(whole, torch.float32))
    header = read_header(shapes_file(folder / "vae.safetensors", whole))
    facts = facts_of(name, identify(header), header.tensors)
    assert isinstance(facts, VaeFacts)
    assert facts.kind is not None
    ratio = again.upscale_ratio
    temporal, spatial = (ratio[0](2) - ratio[0](1), ratio[1]) if isinstance(ratio, tuple) else (1, ratio)
    return {
        "ours": [facts.kind.id, facts.kind.comfy_class, facts.latent_channels, facts.spatial, facts.temporal],
        "comfyui": [
            name,
            type(again.first_stage_model).__name__,
            again.latent_channels,
            spatial,
            temporal,
        ],
        "tensors": len(whole),
    }


def _build(tensors: dict[str, torch.Tensor]) -> Any:
    with torch.device("meta"):
        vae = comfy.sd.VAE(sd=tensors, device=torch.device("meta"), dtype=torch.float32, metadata=None)
    assert vae.first_stage_model is not None, json.dumps(sorted(tensors)[:5])
    return vae
