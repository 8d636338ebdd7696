"""How LoRAs name the layers of a diffusion model, as data.

ComfyUI reads a LoRA by looking up its own list of names for each layer, and leaves out, with a line in
its log, whatever has another name. These are the same names as ``comfy.lora.model_lora_keys_unet``
(0.33) accepts; a test compares both lists for every architecture.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple


class Target(NamedTuple):
    """The layer that a name means; ``part`` when it is one of several that are stored as one."""

    key: str
    part: bool = False


# Names in a block of ours -> names of the diffusers library; those that end with ``/`` are parts of it.
_FLUX_DOUBLE: dict[str, tuple[str, ...]] = {
    "img_attn.qkv": ("attn.to_q/", "attn.to_k/", "attn.to_v/"),
    "txt_attn.qkv": ("attn.add_q_proj/", "attn.add_k_proj/", "attn.add_v_proj/"),
    "img_attn.proj": ("attn.to_out.0",),
    "txt_attn.proj": ("attn.to_add_out",),
    "img_mod.lin": ("norm1.linear",),
    "txt_mod.lin": ("norm1_context.linear",),
    "img_mlp.0": ("ff.net.0.proj", "ff.linear_in"),
    "img_mlp.2": ("ff.net.2", "ff.linear_out"),
    "txt_mlp.0": ("ff_context.net.0.proj", "ff_context.linear_in"),
    "txt_mlp.2": ("ff_context.net.2", "ff_context.linear_out"),
    "img_attn.norm.query_norm": ("attn.norm_q",),
    "img_attn.norm.key_norm": ("attn.norm_k",),
    "txt_attn.norm.query_norm": ("attn.norm_added_q",),
    "txt_attn.norm.key_norm": ("attn.norm_added_k",),
}
_FLUX_SINGLE: dict[str, tuple[str, ...]] = {
    "linear1": ("attn.to_q/", "attn.to_k/", "attn.to_v/", "proj_mlp/", "attn.to_qkv_mlp_proj"),
    "linear2": ("proj_out", "attn.to_out"),
    "modulation.lin": ("norm.linear",),
    "norm.query_norm": ("attn.norm_q",),
    "norm.key_norm": ("attn.norm_k",),
}
_FLUX_TOP: dict[str, tuple[str, ...]] = {
    "final_layer.linear": ("proj_out",),
    "final_layer.adaLN_modulation.1": ("norm_out.linear",),
    "img_in": ("x_embedder",),
    "txt_in": ("context_embedder",),
    "time_in.in_layer": ("time_text_embed.timestep_embedder.linear_1",),
    "time_in.out_layer": ("time_text_embed.timestep_embedder.linear_2",),
    "vector_in.in_layer": ("time_text_embed.text_embedder.linear_1",),
    "vector_in.out_layer": ("time_text_embed.text_embedder.linear_2",),
    "guidance_in.in_layer": ("time_text_embed.guidance_embedder.linear_1",),
    "guidance_in.out_layer": ("time_text_embed.guidance_embedder.linear_2",),
}
_MMDIT: dict[str, tuple[str, ...]] = {
    "x_block.attn.qkv": ("attn.to_q/", "attn.to_k/", "attn.to_v/"),
    "context_block.attn.qkv": ("attn.add_q_proj/", "attn.add_k_proj/", "attn.add_v_proj/"),
    "x_block.attn2.qkv": ("attn2.to_q/", "attn2.to_k/", "attn2.to_v/"),
    "x_block.attn.proj": ("attn.to_out.0",),
    "x_block.attn2.proj": ("attn2.to_out.0",),
    "context_block.attn.proj": ("attn.to_add_out",),
    "x_block.adaLN_modulation.1": ("norm1.linear",),
    "context_block.adaLN_modulation.1": ("norm1_context.linear",),
    "x_block.mlp.fc1": ("ff.net.0.proj",),
    "x_block.mlp.fc2": ("ff.net.2",),
    "context_block.mlp.fc1": ("ff_context.net.0.proj",),
    "context_block.mlp.fc2": ("ff_context.net.2",),
    "x_block.attn.ln_q": ("attn.norm_q",),
    "x_block.attn.ln_k": ("attn.norm_k",),
    "x_block.attn2.ln_q": ("attn2.norm_q",),
    "x_block.attn2.ln_k": ("attn2.norm_k",),
    "context_block.attn.ln_q": ("attn.norm_added_q",),
    "context_block.attn.ln_k": ("attn.norm_added_k",),
}
_MMDIT_TOP: dict[str, tuple[str, ...]] = {
    "context_embedder": ("context_embedder",),
    "x_embedder.proj": ("pos_embed.proj",),
    "t_embedder.mlp.0": ("time_text_embed.timestep_embedder.linear_1",),
    "t_embedder.mlp.2": ("time_text_embed.timestep_embedder.linear_2",),
    "y_embedder.mlp.0": ("time_text_embed.text_embedder.linear_1",),
    "y_embedder.mlp.2": ("time_text_embed.text_embedder.linear_2",),
    "final_layer.linear": ("proj_out",),
    "final_layer.adaLN_modulation.1": ("norm_out.linear",),
}
_SAME_IN_Z_IMAGE = (
    "attention_norm1",
    "attention_norm2",
    "feed_forward.w1",
    "feed_forward.w2",
    "feed_forward.w3",
    "ffn_norm1",
    "ffn_norm2",
    "adaLN_modulation.0",
)
_Z_IMAGE: dict[str, tuple[str, ...]] = {
    "attention.qkv": ("attention.to_q/", "attention.to_k/", "attention.to_v/"),
    "attention.out": ("attention.to_out.0",),
    "attention.q_norm": ("attention.norm_q",),
    "attention.k_norm": ("attention.norm_k",),
    **{name: (name,) for name in _SAME_IN_Z_IMAGE},
}
_Z_IMAGE_TOP: dict[str, tuple[str, ...]] = {
    "final_layer.linear": ("all_final_layer.2-1.linear",),
    "final_layer.adaLN_modulation.1": ("all_final_layer.2-1.adaLN_modulation.1",),
    "x_embedder": ("all_x_embedder.2-1",),
    **{
        name: (name,) for name in ("cap_embedder.0", "cap_embedder.1", "t_embedder.mlp.0", "t_embedder.mlp.2")
    },
}
_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_UNET_TOP: dict[str, tuple[str, ...]] = {
    "label_emb.0.0": ("class_embedding.linear_1", "add_embedding.linear_1"),
    "label_emb.0.2": ("class_embedding.linear_2", "add_embedding.linear_2"),
    "input_blocks.0.0": ("conv_in",),
    "out.0": ("conv_norm_out",),
    "out.2": ("conv_out",),
    "time_embed.0": ("time_embedding.linear_1",),
    "time_embed.2": ("time_embedding.linear_2",),
}
_BLOCK = re.compile(r"^([a-z_]+)\.(\d+)\.(.+)$")
_UNET_BLOCK = re.compile(r"^(input_blocks|output_blocks)\.(\d+)\.(\d+)\.(.+)$|^(middle_block)\.(\d)\.(.+)$")
_LAYERS_PER_BLOCK = 2  # ResNets of one level of Stable Diffusion 1, 2 and XL

_Blocks = Mapping[str, tuple[str, Mapping[str, tuple[str, ...]]]]
_FLUX_BLOCKS: _Blocks = {
    "double_blocks": ("transformer_blocks", _FLUX_DOUBLE),
    "single_blocks": ("single_transformer_blocks", _FLUX_SINGLE),
}
_MMDIT_BLOCKS: _Blocks = {"joint_blocks": ("transformer_blocks", _MMDIT)}
_Z_IMAGE_BLOCKS: _Blocks = {name: (name, _Z_IMAGE) for name in ("layers", "context_refiner", "noise_refiner")}
# ComfyUI's own layers -> how diffusion-pipe calls those of HunyuanVideo.
_HUNYUAN = (
    ("_mod.lin.", "_mod.linear."),
    ("_attn.qkv.", "_attn_qkv."),
    ("_attn.proj.", "_attn_proj."),
    ("mlp.0.", "mlp.fc1."),
    ("mlp.2.", "mlp.fc2."),
    (".modulation.lin.", ".modulation.linear."),
)


def layer_names(keys: Iterable[str], schemes: Iterable[str]) -> dict[str, Target]:
    """Return every name that a LoRA may use -> the layer that it means.

    Args:
        keys: tensor names of a diffusion model, without the prefix of its file.
        schemes: keys of ``SCHEMES``; ComfyUI's own names are always among the result.
    """
    names: dict[str, Target] = {}
    chosen = [SCHEMES[scheme] for scheme in schemes]
    for key in keys:
        layer = key.removesuffix(".weight")
        target = Target(key)
        names[f"diffusion_model.{layer}"] = target
        if layer == key:
            continue
        names[f"lora_unet_{_flat(layer)}"] = target
        for scheme in chosen:
            names.update(scheme(layer, target))
    return names


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _plain(layer: str, target: Target) -> Iterator[tuple[str, Target]]:
    yield layer, target


def _transformer(layer: str, target: Target) -> Iterator[tuple[str, Target]]:
    yield f"transformer.{layer}", target


def _lycoris(layer: str, target: Target) -> Iterator[tuple[str, Target]]:
    yield f"lycoris_{_flat(layer)}", target


def _hunyuan(layer: str, target: Target) -> Iterator[tuple[str, Target]]:
    name = f"{layer}."
    for ours, theirs in _HUNYUAN:
        name = name.replace(ours, theirs)
    yield f"transformer.{name[:-1]}", target
    yield f"diffusion_model.{name[:-1]}", target


def _flux(layer: str, target: Target) -> Iterator[tuple[str, Target]]:
    for name, part in _translated(layer, _FLUX_BLOCKS, _FLUX_TOP):
        meant = Target(target.key, part)
        yield from ((f"transformer.{name}", meant), (name, meant))
        yield from ((f"lycoris_{_flat(name)}", meant), (f"lora_transformer_{_flat(name)}", meant))
    if ".linear1" in layer:
        yield f"diffusion_model.{layer.removesuffix('.linear1')}.linear1_qkv", Target(target.key, True)


def _mmdit(layer: str, target: Target) -> Iterator[tuple[str, Target]]:
    for name, part in _translated(layer, _MMDIT_BLOCKS, _MMDIT_TOP):
        meant = Target(target.key, part)
        yield from ((f"transformer.{name}", meant), (f"base_model.model.{name}", meant))
        yield from ((f"lora_transformer_{_flat(name)}", meant), (f"lycoris_{_flat(name)}", meant))


def _z_image(layer: str, target: Target) -> Iterator[tuple[str, Target]]:
    for name, part in _translated(layer, _Z_IMAGE_BLOCKS, _Z_IMAGE_TOP):
        meant = Target(target.key, part)
        yield from ((f"diffusion_model.{name}", meant), (f"transformer.{name}", meant))
        yield from ((f"lycoris_{_flat(name)}", meant), (name, meant))


def _unet(layer: str, target: Target) -> Iterator[tuple[str, Target]]:
    for name in _unet_names(layer):
        yield from ((f"lora_unet_{_flat(name)}", target), (f"lycoris_{_flat(name)}", target))
        attention = name.replace(".to_", ".processor.to_")
        if attention.endswith(".to_out.0"):
            attention = attention[:-2]
        yield from ((attention, target), (f"unet.{attention}", target))


# Name of a way to name layers -> the names of one layer.
SCHEMES: dict[str, Callable[[str, Target], Iterator[tuple[str, Target]]]] = {
    "plain": _plain,
    "transformer": _transformer,
    "lycoris": _lycoris,
    "hunyuan": _hunyuan,
    "flux": _flux,
    "mmdit": _mmdit,
    "z-image": _z_image,
    "unet": _unet,
}


def _translated(
    layer: str, blocks: _Blocks, top: Mapping[str, tuple[str, ...]]
) -> Iterator[tuple[str, bool]]:
    """Return diffusers' names of a layer, and whether each is a part of it."""
    for name in top.get(layer, ()):
        yield name, False
    match = _BLOCK.match(layer)
    if match is None or match[1] not in blocks:
        return
    block, names = blocks[match[1]]
    for name in names.get(match[3], ()):
        yield f"{block}.{match[2]}.{name.rstrip('/')}", name.endswith("/")


def _unet_names(layer: str) -> Iterator[str]:
    """Return diffusers' names of a layer of Stable Diffusion's UNet."""
    if layer in _UNET_TOP:
        yield from _UNET_TOP[layer]
        return
    match = _UNET_BLOCK.match(layer)
    if match is None:
        return
    if match[5]:
        yield from _middle_names(int(match[6]), match[7])
        return
    side, number, part, rest = match[1], int(match[2]), int(match[3]), match[4]
    per_level = _LAYERS_PER_BLOCK + 1
    if side == "input_blocks":
        level, index = divmod(number - 1, per_level)
        if index == _LAYERS_PER_BLOCK:
            if rest == "op":
                yield f"down_blocks.{level}.downsamplers.0.conv"
            return
        start = f"down_blocks.{level}"
    else:
        level, index = divmod(number, per_level)
        start = f"up_blocks.{level}"
        if rest == "conv":
            yield f"{start}.upsamplers.0.conv"
            return
    if part == 0 and rest in _RESNET:
        yield f"{start}.resnets.{index}.{_RESNET[rest]}"
    elif part == 1:
        yield f"{start}.attentions.{index}.{rest}"


def _middle_names(part: int, rest: str) -> Iterator[str]:
    if part == 1:
        yield f"mid_block.attentions.0.{rest}"
    elif rest in _RESNET:
        yield f"mid_block.resnets.{part // 2}.{_RESNET[rest]}"
