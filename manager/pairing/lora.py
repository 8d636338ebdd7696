"""A LoRA's header: which layers it changes, its rank, and which models it can be for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..formats.safetensors import TensorInfo

Size = tuple[int, int]

# Ends of the two tensors that make one change: outputs x rank, rank x inputs.
_PAIRS = (
    (".lora_up.weight", ".lora_down.weight"),
    ("_lora.up.weight", "_lora.down.weight"),
    (".lora_B.weight", ".lora_A.weight"),
    (".lora.up.weight", ".lora.down.weight"),
    (".lora_B.default.weight", ".lora_A.default.weight"),
    (".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"),
    (".lora_B", ".lora_A"),
)
# Ends of other kinds of change, whose size the header does not give plainly.
_OTHERS = (
    ".hada_w1_a",
    ".lokr_w1",
    ".lokr_w1_a",
    ".oft_blocks",
    ".a1.weight",
    ".diff",
    ".diff_b",
    ".set_weight",
    ".w_norm",
    ".b_norm",
)
_TEXT = ("lora_te", "lora_prior_te", "text_encoder", "lora_text_encoder")
_LOADER_PREFIXES = re.compile(
    r"^(diffusion_model|transformer|base_model\.model|unet|lora_unet|lora_transformer|lycoris)[._]+"
)


@dataclass(frozen=True)
class LoraLayers:
    """What a LoRA changes.

    Attributes:
        layers: its names of layers of the diffusion model -> (outputs, inputs), None where unknown.
        text_layers: how many layers of text encoders it changes.
        ranks: smallest and largest, None where the header does not say.
    """

    layers: Mapping[str, Size | None]
    text_layers: int
    ranks: Size | None


def read_layers(tensors: Mapping[str, TensorInfo]) -> LoraLayers:
    """Return what the tensors of a LoRA change."""
    layers: dict[str, Size | None] = {}
    text: set[str] = set()
    ranks: set[int] = set()
    control = "img_in.lora_A.weight" in tensors and "single_blocks.0.norm.key_norm.scale" in tensors
    for name, info in tensors.items():
        found = _layer_of(name, info, tensors)
        if found is None:
            continue
        layer, size, rank = found
        if rank:
            ranks.add(rank)
        if layer.startswith(_TEXT):
            text.add(layer)
            continue
        # ComfyUI puts these two right before it looks: comfy.lora_convert.
        layer = f"diffusion_model.{layer}" if control else layer.replace("lora_unet__", "lora_unet_", 1)
        layers[layer] = size or layers.get(layer)
    return LoraLayers(layers, len(text), (min(ranks), max(ranks)) if ranks else None)


def _layer_of(
    name: str, info: TensorInfo, tensors: Mapping[str, TensorInfo]
) -> tuple[str, Size | None, int] | None:
    for up, down in _PAIRS:
        if name.endswith(up):
            layer = name[: -len(up)]
            other = tensors.get(layer + down)
            if other is None or len(info.shape) < 2 or len(other.shape) < 2:
                return layer, None, 0
            return layer, (info.shape[0], other.shape[1]), other.shape[0]
    for end in _OTHERS:
        if name.endswith(end):
            return name[: -len(end)], None, 0
    return None


@dataclass(frozen=True)
class BaseRule:
    """A LoRA is for one of ``families`` when a layer's name has ``pattern`` and takes ``inputs`` numbers."""

    title: str
    families: tuple[str, ...]
    pattern: str
    inputs: int | None = None


_FLUX_LIKE = ("flux", "chroma", "longcat-image")
_WAN_14B = ("wan2.1-t2v", "wan2.1-i2v", "wan2.2-i2v-14b")
_UNETS = ("sd1.5", "sd2", "sdxl", "sdxl-refiner")
_UNET_LAYER = r"(down_blocks|up_blocks|mid_block|input_blocks|output_blocks|middle_block)"
_WAN_LAYER = r"^blocks_\d+_(self_attn|cross_attn)_[qkvo]$"

# The first that applies wins. Names as in ComfyUI's models and in diffusers, with _ for every dot;
# block counts and widths from the published configurations.
BASES: tuple[BaseRule, ...] = (
    BaseRule("Wan 2.2 5B", ("wan2.2-5b",), _WAN_LAYER, 3072),
    BaseRule("Wan 2.1 14B or Wan 2.2 14B", _WAN_14B, _WAN_LAYER, 5120),
    BaseRule("Wan 2.1 1.3B", ("wan2.1-t2v", "wan2.1-i2v"), _WAN_LAYER, 1536),
    BaseRule("Wan", (*_WAN_14B, "wan2.2-5b"), r"^blocks_\d+_((self|cross)_attn_[qkvo]|ffn_[02])$"),
    BaseRule(
        "Cosmos Predict2 or Anima",
        ("cosmos-predict2", "anima"),
        r"^blocks_\d+_(self|cross)_attn_(q|k|v|output)_proj$",
    ),
    BaseRule("Qwen-Image", ("qwen-image",), r"^transformer_blocks_\d+_(img|txt)_(mlp|mod)_"),
    BaseRule(
        "HunyuanVideo 1.5", ("hunyuan-video-1.5",), r"^double_blocks_\d+_(img|txt)_attn_(qkv|proj)$", 2048
    ),
    BaseRule("Flux.2", ("flux2",), r"^double_blocks_\d+_(img|txt)_attn_(qkv|proj)$", 6144),
    BaseRule("Flux.2", ("flux2",), r"^double_blocks_\d+_(img|txt)_attn_(qkv|proj)$", 4096),
    # Flux.1 ends at double block 18 and single block 37, HunyuanVideo at 19 and 39.
    BaseRule(
        "HunyuanVideo",
        ("hunyuan-video",),
        r"^double_blocks_19_|^single_blocks_3[89]_|individual_token_refiner",
    ),
    BaseRule("Flux.2", ("flux2",), r"^single_transformer_blocks_\d+_attn_to_qkv_mlp_proj"),
    BaseRule("Flux.1", (*_FLUX_LIKE, "flux2"), r"^single_transformer_blocks_\d+_"),
    BaseRule(
        "Flux.1 or HunyuanVideo",
        (*_FLUX_LIKE, "flux2", "hunyuan-video", "hunyuan-video-1.5", "hunyuan-image-2.1"),
        r"^(double|single)_blocks_\d+_",
    ),
    BaseRule("Z-Image", ("z-image",), r"^layers_\d+_attention_(to_[qkv]|qkv|out|to_out_0)$", 3840),
    BaseRule("Lumina Image 2.0", ("lumina2",), r"^layers_\d+_attention_(to_[qkv]|qkv|out|to_out_0)$", 2304),
    BaseRule("Stable Diffusion 3", ("sd3.5",), r"^joint_blocks_\d+_"),
    BaseRule("LTX-2", ("ltx-2",), r"^transformer_blocks_\d+_(attn1|audio_attn1)_to_[qkv]$", 4096),
    BaseRule("LTX-2", ("ltx-2",), r"^transformer_blocks_\d+_audio_"),
    BaseRule("LTX-Video", ("ltx-video",), r"^transformer_blocks_\d+_attn1_to_[qkv]$", 2048),
    BaseRule("Stable Diffusion 1.5", ("sd1.5",), _UNET_LAYER + r".*attn2_to_[kv]$", 768),
    BaseRule("Stable Diffusion 2", ("sd2",), _UNET_LAYER + r".*attn2_to_[kv]$", 1024),
    BaseRule("Stable Diffusion XL", ("sdxl",), _UNET_LAYER + r".*attn2_to_[kv]$", 2048),
    BaseRule("Stable Diffusion XL refiner", ("sdxl-refiner",), _UNET_LAYER + r".*attn2_to_[kv]$", 1280),
    BaseRule("Stable Diffusion 1.5, 2 or XL", _UNETS, "^" + _UNET_LAYER + "_"),
)


def find_base(layers: Mapping[str, Size | None]) -> BaseRule | None:
    """Return which models these layers are of, None when nobody can tell."""
    plain = [(_LOADER_PREFIXES.sub("", name).replace(".", "_"), size) for name, size in layers.items()]
    for rule in BASES:
        pattern = re.compile(rule.pattern)
        for name, size in plain:
            if pattern.search(name) and (rule.inputs is None or (size and size[1] == rule.inputs)):
                return rule
    return None
