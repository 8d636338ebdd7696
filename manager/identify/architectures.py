"""Diffusion architectures and the tensors that tell them apart, as data.

Used where ComfyUI is not at hand; where it is, its own detection decides and this table adds the
name. The first row that matches wins, so a special layout stands above the general one. Sources:
ComfyUI's ``model_detection``/``supported_models`` (0.33) and the published model configurations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from ..formats.safetensors import TensorInfo

Shape = tuple[int | None, ...]

# Where the diffusion part of a file may start, likeliest first.
PREFIXES = ("", "model.diffusion_model.", "model.model.", "net.", "model.")


@dataclass(frozen=True)
class Architecture:
    """One row.

    Attributes:
        id: our name, stable.
        title: the name that people know.
        comfy_class: the class of ComfyUI's ``supported_models`` that loads it.
        keys: tensors that must be there; ``a|b`` accepts either, ``*a`` any tensor ending in a.
        shapes: tensors that must be there with this shape; None accepts any length.
        absent: tensors that must not be there.
    """

    id: str
    title: str
    comfy_class: str
    keys: tuple[str, ...] = ()
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    absent: tuple[str, ...] = ()


Row = TypeVar("Row", bound=Architecture)

_FLUX_NORM = "double_blocks.0.img_attn.norm.key_norm.scale|double_blocks.0.img_attn.norm.key_norm.weight"
_HUNYUAN = "txt_in.individual_token_refiner.blocks.0.norm1.weight"
_CHROMA = (
    "distilled_guidance_layer.norms.0.scale|distilled_guidance_layer.norms.0.weight|"
    "distilled_guidance_layer.0.norms.0.scale|distilled_guidance_layer.0.norms.0.weight"
)
_SD3 = "joint_blocks.0.context_block.attn.qkv.weight"
_LTX = "adaln_single.emb.timestep_embedder.linear_1.bias"
_WAN_SPECIAL = (
    "vace_patch_embedding.weight",
    "control_adapter.conv.weight",
    "casual_audio_encoder.encoder.final_linear.weight",
    "audio_proj.audio_proj_glob_1.layer.bias",
    "face_adapter.fuser_blocks.0.k_norm.weight",
    "patch_embedding_mask.weight",
    "patch_embedding_pose.weight",
    "patch_embedding_global.weight",
)
_WAN_CLIP = "img_emb.proj.0.bias"

ARCHITECTURES: tuple[Architecture, ...] = (
    # Stable Diffusion 3
    Architecture(
        "sd3.5-large",
        "Stable Diffusion 3.5 Large",
        "SD3",
        (_SD3,),
        {"x_embedder.proj.weight": (2432, 16, None, None)},
    ),
    Architecture(
        "sd3.5-medium",
        "Stable Diffusion 3.5 Medium",
        "SD3",
        (_SD3, "joint_blocks.0.x_block.attn2.qkv.weight"),
        {"x_embedder.proj.weight": (None, 16, None, None)},
    ),
    Architecture(
        "sd3",
        "Stable Diffusion 3",
        "SD3",
        (_SD3,),
        {"x_embedder.proj.weight": (None, 16, None, None)},
    ),
    Architecture(
        "auraflow",
        "AuraFlow",
        "AuraFlow",
        ("double_layers.0.attn.w1q.weight",),
        {"cond_seq_linear.weight": (None, 2048)},
    ),
    # Hunyuan
    Architecture(
        "hunyuan-video-1.5-sr",
        "HunyuanVideo 1.5 super-resolution",
        "HunyuanVideo15_SR_Distilled",
        (_HUNYUAN,),
        {"vision_in.proj.0.weight": (1152,), "img_in.proj.weight": (None, 98, None, None, None)},
    ),
    Architecture(
        "hunyuan-video-1.5",
        "HunyuanVideo 1.5",
        "HunyuanVideo15",
        (_HUNYUAN,),
        {"vision_in.proj.0.weight": (1152,)},
    ),
    Architecture(
        "hunyuan-image-2.1-refiner",
        "HunyuanImage 2.1 refiner",
        "HunyuanImage21Refiner",
        (_HUNYUAN,),
        {"img_in.proj.weight": (None, None, 1, 1, 1)},
        ("vector_in.in_layer.weight", "vision_in.proj.0.weight"),
    ),
    Architecture(
        "hunyuan-image-2.1",
        "HunyuanImage 2.1",
        "HunyuanImage21",
        (_HUNYUAN,),
        absent=("vector_in.in_layer.weight", "vision_in.proj.0.weight"),
    ),
    Architecture(
        "skyreels-i2v",
        "SkyReels V1 image-to-video (HunyuanVideo)",
        "HunyuanVideoSkyreelsI2V",
        (_HUNYUAN,),
        {"img_in.proj.weight": (None, 32, None, None, None)},
    ),
    Architecture(
        "hunyuan-video-i2v",
        "HunyuanVideo image-to-video",
        "HunyuanVideoI2V",
        (_HUNYUAN,),
        {"img_in.proj.weight": (None, 33, None, None, None)},
    ),
    Architecture("hunyuan-video", "HunyuanVideo", "HunyuanVideo", (_HUNYUAN,)),
    # Flux and its kin
    Architecture(
        "chroma-radiance",
        "Chroma Radiance",
        "ChromaRadiance",
        (_FLUX_NORM, _CHROMA, "nerf_blocks.0.norm.scale|nerf_blocks.0.norm.weight"),
    ),
    Architecture("chroma", "Chroma", "Chroma", (_FLUX_NORM, _CHROMA)),
    Architecture(
        "flux2",
        "Flux.2",
        "Flux2",
        (_FLUX_NORM, "img_in.weight", "double_stream_modulation_img.lin.weight"),
    ),
    Architecture(
        "flux-fill",
        "Flux.1 Fill",
        "FluxInpaint",
        (_FLUX_NORM, "guidance_in.in_layer.weight"),
        {"img_in.weight": (None, 384)},
    ),
    Architecture(
        "flux-dev",
        "Flux.1 dev",
        "Flux",
        (_FLUX_NORM, "img_in.weight", "guidance_in.in_layer.weight"),
    ),
    Architecture(
        "longcat-image",
        "LongCat-Image",
        "LongCatImage",
        (_FLUX_NORM, "img_in.weight"),
        {"txt_in.weight": (None, 3584)},
        ("guidance_in.in_layer.weight", "vector_in.in_layer.weight"),
    ),
    Architecture(
        "flux-schnell",
        "Flux.1 schnell",
        "FluxSchnell",
        (_FLUX_NORM, "img_in.weight"),
        absent=("guidance_in.in_layer.weight",),
    ),
    Architecture("mochi", "Mochi 1 preview", "GenmoMochi", ("t5_yproj.weight",)),
    # Lightricks
    Architecture(
        "ltx-2", "LTX-2", "LTXAV", (_LTX, "audio_adaln_single.linear.weight"), absent=("pos_embed.proj.bias",)
    ),
    Architecture("ltx-video", "LTX-Video", "LTXV", (_LTX,), absent=("pos_embed.proj.bias",)),
    # Lumina
    Architecture(
        "z-image-pixel",
        "Z-Image, pixel space",
        "ZImagePixelSpace",
        ("noise_refiner.0.attention.k_norm.weight", "dec_net.cond_embed.weight"),
        {"cap_embedder.1.weight": (3840, None)},
    ),
    Architecture(
        "z-image",
        "Z-Image",
        "ZImage",
        ("noise_refiner.0.attention.k_norm.weight",),
        {"cap_embedder.1.weight": (3840, None)},
    ),
    Architecture(
        "lumina2",
        "Lumina Image 2.0",
        "Lumina2",
        ("noise_refiner.0.attention.k_norm.weight", "cap_embedder.1.weight"),
    ),
    # Wan
    Architecture(
        "wan2.1-vace", "Wan 2.1 VACE", "WAN21_Vace", ("head.modulation", "vace_patch_embedding.weight")
    ),
    Architecture(
        "wan2.1-camera",
        "Wan 2.1 camera control",
        "WAN21_Camera",
        ("head.modulation", "control_adapter.conv.weight", _WAN_CLIP),
        {"patch_embedding.weight": (None, 32, None, None, None)},
    ),
    Architecture(
        "wan2.2-camera",
        "Wan 2.2 camera control",
        "WAN22_Camera",
        ("head.modulation", "control_adapter.conv.weight"),
        {"patch_embedding.weight": (None, 36, None, None, None)},
        (_WAN_CLIP,),
    ),
    Architecture(
        "wan2.2-s2v",
        "Wan 2.2 speech-to-video",
        "WAN22_S2V",
        ("head.modulation", "casual_audio_encoder.encoder.final_linear.weight"),
    ),
    Architecture(
        "wan2.1-humo",
        "Wan 2.1 HuMo",
        "WAN21_HuMo",
        ("head.modulation", "audio_proj.audio_proj_glob_1.layer.bias"),
    ),
    Architecture(
        "wan2.2-animate",
        "Wan 2.2 Animate",
        "WAN22_Animate",
        ("head.modulation", "face_adapter.fuser_blocks.0.k_norm.weight"),
    ),
    Architecture(
        "wan2.1-fun-control",
        "Wan 2.1 Fun Control",
        "WAN21_FunControl2V",
        ("head.modulation", _WAN_CLIP),
        {"patch_embedding.weight": (None, 48, None, None, None)},
        _WAN_SPECIAL,
    ),
    Architecture(
        "wan2.1-i2v",
        "Wan 2.1 image-to-video",
        "WAN21_I2V",
        ("head.modulation", _WAN_CLIP),
        {"patch_embedding.weight": (None, 36, None, None, None)},
        _WAN_SPECIAL,
    ),
    Architecture(
        "wan2.2-5b",
        "Wan 2.2 5B text/image-to-video",
        "WAN22_T2V",
        ("head.modulation",),
        {"head.head.weight": (192, None)},
        (*_WAN_SPECIAL, _WAN_CLIP),
    ),
    Architecture(
        "wan2.2-i2v-14b",
        "Wan 2.2 14B image-to-video",
        "WAN21_T2V",
        ("head.modulation",),
        {"patch_embedding.weight": (None, 36, None, None, None)},
        (*_WAN_SPECIAL, _WAN_CLIP),
    ),
    Architecture(
        "wan-t2v",
        "Wan 2.1 or Wan 2.2 14B text-to-video",
        "WAN21_T2V",
        ("head.modulation", "patch_embedding.weight"),
        absent=(*_WAN_SPECIAL, _WAN_CLIP),
    ),
    Architecture("hidream", "HiDream I1", "HiDream", ("caption_projection.0.linear.weight",)),
    Architecture(
        "anima",
        "Anima",
        "Anima",
        ("blocks.0.mlp.layer1.weight", "llm_adapter.blocks.0.cross_attn.q_proj.weight"),
    ),
    Architecture(
        "cosmos-predict2-t2i",
        "Cosmos Predict2 text-to-image",
        "CosmosT2IPredict2",
        ("blocks.0.mlp.layer1.weight",),
        {"x_embedder.proj.1.weight": (None, 68)},
    ),
    Architecture(
        "qwen-image",
        "Qwen-Image",
        "QwenImage",
        ("img_in.weight",),
        {"txt_norm.weight": (3584,)},
        ("transformer_blocks.0.img_mlp.w1.weight",),
    ),
    # Stable Diffusion 1 to XL
    Architecture(
        "sdxl-refiner",
        "Stable Diffusion XL refiner",
        "SDXLRefiner",
        ("input_blocks.0.0.weight",),
        {"label_emb.0.0.weight": (None, 2560), "*attn2.to_k.weight": (None, 1280)},
    ),
    Architecture(
        "sdxl",
        "Stable Diffusion XL",
        "SDXL",
        ("input_blocks.7.1.transformer_blocks.9.attn2.to_k.weight",),
        {
            "input_blocks.0.0.weight": (320, 4, 3, 3),
            "label_emb.0.0.weight": (None, 2816),
            "*attn2.to_k.weight": (None, 2048),
        },
    ),
    Architecture(
        "sd1.5-instruct-pix2pix",
        "Stable Diffusion 1.5 InstructPix2Pix",
        "SD15_instructpix2pix",
        (),
        {"input_blocks.0.0.weight": (320, 8, 3, 3), "*attn2.to_k.weight": (None, 768)},
        ("label_emb.0.0.weight",),
    ),
    Architecture(
        "sd1.5",
        "Stable Diffusion 1.5",
        "SD15",
        (),
        {"input_blocks.0.0.weight": (320, None, 3, 3), "*attn2.to_k.weight": (None, 768)},
        ("label_emb.0.0.weight",),
    ),
    Architecture(
        "sd2",
        "Stable Diffusion 2",
        "SD20",
        (),
        {
            "input_blocks.0.0.weight": (320, None, 3, 3),
            "*attn2.to_k.weight": (None, 1024),
            "input_blocks.1.1.proj_in.weight": (None, None),
        },
        ("label_emb.0.0.weight", "input_blocks.1.1.time_stack.0.attn1.to_q.weight"),
    ),
)


def match_architecture(
    tensors: Mapping[str, TensorInfo], prefix: str, rows: Iterable[Architecture] = ARCHITECTURES
) -> Architecture | None:
    """Return the first row that the tensors under ``prefix`` satisfy."""
    return first_match(tensors, prefix, rows)


def first_match(tensors: Mapping[str, TensorInfo], prefix: str, rows: Iterable[Row]) -> Row | None:
    """Return the first row, of an architecture or of another kind of layout, that the tensors satisfy."""
    for row in rows:
        if (
            all(_has(tensors, prefix, key) for key in row.keys)
            and not any(prefix + key in tensors for key in row.absent)
            and all(_has_shape(tensors, prefix, key, shape) for key, shape in row.shapes.items())
        ):
            return row
    return None


def find_architecture(tensors: Mapping[str, TensorInfo]) -> tuple[Architecture, str] | None:
    """Return the row and the prefix under which it matches, None when no row does."""
    for prefix in PREFIXES:
        row = match_architecture(tensors, prefix)
        if row:
            return row, prefix
    return None


def architecture_of_class(
    comfy_class: str, tensors: Mapping[str, TensorInfo], prefix: str
) -> Architecture | None:
    """Return the row for what ComfyUI detected: several rows may share one of its classes."""
    rows = [row for row in ARCHITECTURES if row.comfy_class == comfy_class]
    return match_architecture(tensors, prefix, rows) or (rows[-1] if rows else None)


def _has(tensors: Mapping[str, TensorInfo], prefix: str, alternatives: str) -> bool:
    return any(prefix + key in tensors for key in alternatives.split("|"))


def _has_shape(tensors: Mapping[str, TensorInfo], prefix: str, key: str, shape: Shape) -> bool:
    if key.startswith("*"):
        found = next((k for k in tensors if k.endswith(key[1:]) and k.startswith(prefix)), None)
        info = tensors[found] if found else None
    else:
        info = tensors.get(prefix + key)
    return (
        info is not None
        and len(info.shape) == len(shape)
        and all(want is None or want == have for want, have in zip(shape, info.shape, strict=True))
    )
