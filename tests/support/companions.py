"""Tiny text encoders and VAEs in real layouts, for ComfyUI to load beside the demo models."""

from __future__ import annotations

from pathlib import Path

from managed_models.manager.demo import layouts
from managed_models.manager.demo.tiny import write_random_model

CLIP = "tiny_clip_l.safetensors"
CLIP_2 = "tiny_clip_l_2.safetensors"
VAE = "tiny_vae.safetensors"
PAIR = "taesd"


def write_companions(models: Path) -> None:
    """Write two text encoders, a VAE of one file, and one of two, below a ``models`` folder."""
    for folder in ("text_encoders", "vae", "vae_approx"):
        (models / folder).mkdir(exist_ok=True)
    for seed, name in enumerate((CLIP, CLIP_2)):
        write_random_model(models / "text_encoders" / name, clip_l(), seed=seed)
    vae = layouts.taesd()
    write_random_model(models / "vae" / VAE, vae)
    for half in ("encoder", "decoder"):
        start = f"taesd_{half}."
        part = {name.removeprefix(start): shape for name, shape in vae.items() if name.startswith(start)}
        write_random_model(models / "vae_approx" / f"{PAIR}_{half}.safetensors", part)


def clip_l(layers: int = 2, tokens: int = 49408, width: int = 768) -> layouts.Layout:
    """CLIP-L with the first layers only; ComfyUI fills the rest by itself."""
    text = "text_model"
    layout: layouts.Layout = {
        f"{text}.embeddings.token_embedding.weight": (tokens, width),
        f"{text}.embeddings.position_embedding.weight": (77, width),
    }
    for i in range(layers):
        block = f"{text}.encoder.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            layout |= _linear(f"{block}.self_attn.{name}", width, width)
        layout |= _linear(f"{block}.mlp.fc1", width, 4 * width)
        layout |= _linear(f"{block}.mlp.fc2", 4 * width, width)
        for name in ("layer_norm1", "layer_norm2"):
            layout |= _norm(f"{block}.{name}", width)
    return layout | _norm(f"{text}.final_layer_norm", width)


def _linear(name: str, inputs: int, outputs: int) -> layouts.Layout:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int) -> layouts.Layout:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
