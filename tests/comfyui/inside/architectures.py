"""Builds the real layouts with ComfyUI's own classes, and asks ComfyUI and our table what they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.supported_models as S
import torch
from comfy.model_detection import detect_unet_config
from managed_models.manager.comfy_host.detect import detect
from managed_models.manager.errors import NothingToQuantize
from managed_models.manager.formats.safetensors import Header, read_header
from managed_models.manager.identify import identify
from managed_models.manager.identify.quantization import is_side_tensor
from managed_models.manager.quantize.choices import EVERYTHING
from managed_models.manager.quantize.formats import FORMATS
from managed_models.manager.quantize.policy import plan_tensors
from support.files import shapes_file

WAN = {
    "image_model": "wan2.1",
    "dim": 5120,
    "out_dim": 16,
    "num_heads": 40,
    "ffn_dim": 13824,
    "num_layers": 2,
    "patch_size": (1, 2, 2),
    "freq_dim": 256,
    "window_size": (-1, -1),
    "qk_norm": True,
    "cross_attn_norm": True,
    "eps": 1e-6,
    "in_dim": 16,
}
FLUX = {
    "image_model": "flux",
    "axes_dim": [16, 56, 56],
    "num_heads": 24,
    "mlp_ratio": 4.0,
    "theta": 10000,
    "out_channels": 16,
    "qkv_bias": True,
    "txt_ids_dims": [],
    "in_channels": 16,
    "hidden_size": 3072,
    "context_in_dim": 4096,
    "patch_size": 2,
    "vec_in_dim": 768,
    "depth": 2,
    "depth_single_blocks": 2,
    "guidance_embed": True,
    "yak_mlp": False,
    "txt_norm": False,
}
FLUX2 = FLUX | {
    "image_model": "flux2",
    "axes_dim": [32, 32, 32, 32],
    "num_heads": 48,
    "mlp_ratio": 3.0,
    "theta": 2000,
    "out_channels": 128,
    "in_channels": 128,
    "hidden_size": 6144,
    "context_in_dim": 15360,
    "patch_size": 1,
    "vec_in_dim": None,
    "global_modulation": True,
    "mlp_silu_act": True,
    "qkv_bias": False,
    "ops_bias": False,
    "txt_ids_dims": [3],
}
HUNYUAN = {
    "image_model": "hunyuan_video",
    "in_channels": 16,
    "patch_size": [1, 2, 2],
    "out_channels": 16,
    "vec_in_dim": 768,
    "axes_dim": [16, 56, 56],
    "meanflow": False,
    "context_in_dim": 4096,
    "hidden_size": 3072,
    "mlp_ratio": 4.0,
    "num_heads": 24,
    "depth": 2,
    "depth_single_blocks": 2,
    "theta": 256,
    "qkv_bias": True,
    "byt5": False,
    "guidance_embed": True,
    "use_cond_type_embedding": False,
    "vision_in_dim": None,
    "meanflow_sum": False,
}
HUNYUAN15 = HUNYUAN | {
    "in_channels": 65,
    "out_channels": 32,
    "patch_size": [1, 1, 1],
    "vec_in_dim": None,
    "context_in_dim": 3584,
    "hidden_size": 2048,
    "num_heads": 16,
    "depth_single_blocks": 0,
    "byt5": True,
    "guidance_embed": False,
    "use_cond_type_embedding": True,
    "vision_in_dim": 1152,
    "meanflow_sum": True,
}
HUNYUAN_IMAGE = HUNYUAN | {
    "in_channels": 64,
    "out_channels": 64,
    "patch_size": [1, 1],
    "vec_in_dim": None,
    "axes_dim": [64, 64],
    "context_in_dim": 3584,
    "hidden_size": 3584,
    "num_heads": 28,
    "byt5": True,
    "guidance_embed": False,
}
LUMINA = {
    "image_model": "lumina2",
    "patch_size": 2,
    "in_channels": 16,
    "dim": 2304,
    "cap_feat_dim": 2304,
    "n_layers": 2,
    "qk_norm": True,
    "n_heads": 24,
    "n_kv_heads": 8,
    "axes_dims": [32, 32, 32],
    "axes_lens": [300, 512, 512],
    "rope_theta": 10000.0,
    "ffn_dim_multiplier": 4.0,
}
ZIMAGE = LUMINA | {
    "dim": 3840,
    "cap_feat_dim": 2560,
    "n_heads": 30,
    "n_kv_heads": 30,
    "axes_dims": [32, 48, 48],
    "axes_lens": [1536, 512, 512],
    "rope_theta": 256.0,
    "ffn_dim_multiplier": 8.0 / 3.0,
    "z_image_modulation": True,
    "time_scale": 1000.0,
    "pad_tokens_multiple": 32,
}
UNET = {
    "use_checkpoint": False,
    "image_size": 32,
    "use_spatial_transformer": True,
    "legacy": False,
    "adm_in_channels": None,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "use_temporal_resblock": False,
    "use_temporal_attention": False,
}
SD15 = UNET | {
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
    "use_linear_in_transformer": False,
    "context_dim": 768,
}
SD2 = SD15 | {"use_linear_in_transformer": True, "context_dim": 1024}
SDXL = UNET | {
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
    "use_linear_in_transformer": True,
    "context_dim": 2048,
    "adm_in_channels": 2816,
    "num_classes": "sequential",
}
REFINER = UNET | {
    "model_channels": 384,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [0, 0, 4, 4, 4, 4, 0, 0],
    "transformer_depth_output": [0, 0, 0, 4, 4, 4, 4, 4, 4, 0, 0, 0],
    "transformer_depth_middle": 4,
    "use_linear_in_transformer": True,
    "context_dim": 1280,
    "adm_in_channels": 2560,
    "num_classes": "sequential",
}
SD3 = {
    "in_channels": 16,
    "patch_size": 2,
    "out_channels": 16,
    "input_size": None,
    "adm_in_channels": 2048,
    "context_embedder_config": {
        "target": "torch.nn.Linear",
        "params": {"in_features": 4096, "out_features": 1536},
    },
    "num_patches": 36864,
    "pos_embed_max_size": 192,
    "pos_embed_scaling_factor": None,
    "depth": 24,
    "qk_norm": None,
    "x_block_self_attn_layers": [],
}
SD35_LARGE = SD3 | {
    "depth": 38,
    "qk_norm": "rms",
    "context_embedder_config": {
        "target": "torch.nn.Linear",
        "params": {"in_features": 4096, "out_features": 2432},
    },
}
LTXV = {
    "image_model": "ltxv",
    "num_layers": 2,
    "attention_head_dim": 64,
    "cross_attention_dim": 2048,
    "use_keyframes_abs_pos_embedding": False,
}
LTXAV = {
    "image_model": "ltxav",
    "num_layers": 2,
    "attention_head_dim": 128,
    "cross_attention_dim": 4096,
    "use_keyframes_abs_pos_embedding": False,
}
CHROMA = {
    key: FLUX[key]
    for key in (
        "axes_dim",
        "num_heads",
        "mlp_ratio",
        "theta",
        "qkv_bias",
        "txt_ids_dims",
        "hidden_size",
        "context_in_dim",
        "patch_size",
        "vec_in_dim",
        "depth",
        "depth_single_blocks",
    )
} | {
    "image_model": "chroma",
    "in_channels": 64,
    "out_channels": 64,
    "in_dim": 64,
    "out_dim": 3072,
    "hidden_dim": 5120,
    "n_layers": 5,
}
RADIANCE = CHROMA | {
    "image_model": "chroma_radiance",
    "in_channels": 3,
    "out_channels": 3,
    "patch_size": 16,
    "nerf_hidden_size": 64,
    "nerf_mlp_ratio": 4,
    "nerf_depth": 4,
    "nerf_max_freqs": 8,
    "nerf_tile_size": 512,
    "nerf_final_head_type": "conv",
    "nerf_embedder_dtype": torch.float32,
    "use_x0": False,
    "use_sequential_txt_ids": False,
}
COSMOS = {
    "image_model": "cosmos_predict2",
    "max_img_h": 240,
    "max_img_w": 240,
    "max_frames": 128,
    "in_channels": 16,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "model_channels": 2048,
    "concat_padding_mask": True,
    "crossattn_emb_channels": 1024,
    "pos_emb_cls": "rope3d",
    "pos_emb_learnable": True,
    "pos_emb_interpolation": "crop",
    "min_fps": 1,
    "max_fps": 30,
    "use_adaln_lora": True,
    "adaln_lora_dim": 256,
    "num_blocks": 2,
    "num_heads": 16,
    "extra_per_block_abs_pos_emb": False,
    "rope_h_extrapolation_ratio": 4.0,
    "rope_w_extrapolation_ratio": 4.0,
    "rope_t_extrapolation_ratio": 1.0,
    "extra_h_extrapolation_ratio": 1.0,
    "extra_w_extrapolation_ratio": 1.0,
    "extra_t_extrapolation_ratio": 1.0,
    "rope_enable_fps_modulation": False,
}
QWEN = {"image_model": "qwen_image", "in_channels": 64, "num_layers": 2}
MOCHI = {
    "image_model": "mochi_preview",
    "depth": 2,
    "patch_size": 2,
    "num_heads": 24,
    "hidden_size_x": 3072,
    "hidden_size_y": 1536,
    "mlp_ratio_x": 4.0,
    "mlp_ratio_y": 4.0,
    "learn_sigma": False,
    "in_channels": 12,
    "qk_norm": True,
    "qkv_bias": False,
    "out_bias": True,
    "attn_drop": 0.0,
    "patch_embed_bias": True,
    "posenc_preserve_area": True,
    "timestep_mlp_bias": True,
    "attend_to_padding": False,
    "timestep_scale": 1000.0,
    "use_t5": True,
    "t5_feat_dim": 4096,
    "t5_token_length": 256,
    "rope_theta": 10000.0,
}
AURAFLOW = {"max_seq": 9216, "cond_seq_dim": 2048, "n_double_layers": 1, "n_layers": 2}
HIDREAM = {
    "image_model": "hidream",
    "attention_head_dim": 128,
    "axes_dims_rope": [64, 32, 32],
    "caption_channels": [4096, 4096],
    "max_resolution": [128, 128],
    "in_channels": 16,
    "llama_layers": [0] * 4,
    "num_attention_heads": 20,
    "num_routed_experts": 4,
    "num_activated_experts": 2,
    "num_layers": 2,
    "num_single_layers": 2,
    "out_channels": 16,
    "patch_size": 2,
    "text_emb_dim": 2048,
}

# Our id -> (the class that ComfyUI has for it, a configuration of the published model, fewer layers).
LAYOUTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "wan-t2v": (S.WAN21_T2V, WAN | {"model_type": "t2v"}),
    "wan2.2-5b": (
        S.WAN22_T2V,
        WAN
        | {"model_type": "t2v", "dim": 3072, "num_heads": 24, "ffn_dim": 14336, "in_dim": 48, "out_dim": 48},
    ),
    "wan2.2-i2v-14b": (S.WAN21_T2V, WAN | {"model_type": "t2v", "in_dim": 36}),
    "wan2.1-i2v": (S.WAN21_I2V, WAN | {"model_type": "i2v", "in_dim": 36}),
    "wan2.1-fun-control": (S.WAN21_FunControl2V, WAN | {"model_type": "i2v", "in_dim": 48}),
    "wan2.1-camera": (S.WAN21_Camera, WAN | {"model_type": "camera", "in_dim": 32}),
    "wan2.2-camera": (S.WAN22_Camera, WAN | {"model_type": "camera_2.2", "in_dim": 36}),
    "wan2.1-vace": (S.WAN21_Vace, WAN | {"model_type": "vace", "vace_in_dim": 96, "vace_layers": 1}),
    "wan2.1-humo": (S.WAN21_HuMo, WAN | {"model_type": "humo", "in_dim": 36}),
    "wan2.2-s2v": (S.WAN22_S2V, WAN | {"model_type": "s2v"}),
    "wan2.2-animate": (S.WAN22_Animate, WAN | {"model_type": "animate", "in_dim": 36, "num_layers": 5}),
    "flux-dev": (S.Flux, FLUX),
    "flux-schnell": (S.FluxSchnell, FLUX | {"guidance_embed": False}),
    "flux-fill": (S.FluxInpaint, FLUX | {"in_channels": 96}),
    "flux2": (S.Flux2, FLUX2),
    "longcat-image": (
        S.LongCatImage,
        FLUX | {"guidance_embed": False, "vec_in_dim": None, "context_in_dim": 3584, "txt_ids_dims": [1, 2]},
    ),
    "chroma": (S.Chroma, CHROMA),
    "chroma-radiance": (S.ChromaRadiance, RADIANCE),
    "hunyuan-video": (S.HunyuanVideo, HUNYUAN),
    "hunyuan-video-i2v": (S.HunyuanVideoI2V, HUNYUAN | {"in_channels": 33}),
    "skyreels-i2v": (S.HunyuanVideoSkyreelsI2V, HUNYUAN | {"in_channels": 32}),
    "hunyuan-video-1.5": (S.HunyuanVideo15, HUNYUAN15),
    "hunyuan-video-1.5-sr": (S.HunyuanVideo15_SR_Distilled, HUNYUAN15 | {"in_channels": 98}),
    "hunyuan-image-2.1": (S.HunyuanImage21, HUNYUAN_IMAGE),
    "hunyuan-image-2.1-refiner": (
        S.HunyuanImage21Refiner,
        HUNYUAN_IMAGE
        | {
            "patch_size": [1, 1, 1],
            "axes_dim": [16, 56, 56],
            "in_channels": 128,
            "hidden_size": 3328,
            "num_heads": 26,
        },
    ),
    "lumina2": (S.Lumina2, LUMINA),
    "z-image": (S.ZImage, ZIMAGE),
    "z-image-pixel": (
        S.ZImagePixelSpace,
        ZIMAGE
        | {
            "image_model": "zimage_pixel",
            "patch_size": 32,
            "in_channels": 3,
            "decoder_in_channels": 3072,
            "decoder_hidden_size": 3840,
            "decoder_num_res_blocks": 4,
            "decoder_max_freqs": 8,
        },
    ),
    "qwen-image": (S.QwenImage, QWEN),
    "ltx-video": (S.LTXV, LTXV),
    "ltx-2": (S.LTXAV, LTXAV),
    "mochi": (S.GenmoMochi, MOCHI),
    "auraflow": (S.AuraFlow, AURAFLOW),
    "hidream": (S.HiDream, HIDREAM),
    "cosmos-predict2-t2i": (S.CosmosT2IPredict2, COSMOS),
    "anima": (S.Anima, COSMOS | {"image_model": "anima"}),
    "sd1.5": (S.SD15, SD15),
    "sd1.5-instruct-pix2pix": (S.SD15_instructpix2pix, SD15 | {"in_channels": 8}),
    "sd2": (S.SD20, SD2),
    "sdxl": (S.SDXL, SDXL),
    "sdxl-refiner": (S.SDXLRefiner, REFINER),
    "sd3": (S.SD3, SD3),
    "sd3.5-medium": (S.SD3, SD3 | {"qk_norm": "rms", "x_block_self_attn_layers": list(range(13))}),
    "sd3.5-large": (S.SD3, SD35_LARGE),
}


def main(folder: str) -> dict[str, Any]:
    """Return, for each of our ids, what both sides say of the bare model and of a checkpoint of it."""
    return {name: _attempt(lambda: _judge(name, Path(folder))) for name in LAYOUTS}  # noqa: B023


def _packed(header: Header) -> bool | None:
    """Tell whether ComfyUI reads the same dimensions once all that may be is stored in 4 bits."""
    try:
        plans = plan_tensors(header, identify(header), FORMATS["w4a4"], EVERYTHING)
    except NothingToQuantize:
        return None
    specs = [spec for plan in plans for spec in plan.outputs() if not is_side_tensor(spec.name)]
    assert any(spec.dtype == "I8" for spec in specs)
    packed = {spec.name: torch.empty(spec.shape, device="meta") for spec in specs}
    plain = {name: torch.empty(info.shape, device="meta") for name, info in header.tensors.items()}
    return bool(detect_unet_config(packed, "") == detect_unet_config(plain, ""))


def _attempt(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return work()
    except Exception as error:  # each layout is a test of its own, and this one could not be built
        return {"error": f"{type(error).__name__}: {error}"}


def _judge(name: str, folder: Path) -> dict[str, Any]:
    cls, unet_config = LAYOUTS[name]
    config = cls(dict(unet_config))
    config.set_inference_dtype(torch.float32, None)
    with torch.device("meta"):
        model = config.get_model({}, "", device=torch.device("meta"))
    shapes = {key: tuple(value.shape) for key, value in model.diffusion_model.state_dict().items()}
    found: dict[str, Any] = {"expected": cls.__name__, "tensors": len(shapes)}
    for form, prefix in (("bare", ""), ("checkpoint", "model.diffusion_model.")):
        named = {prefix + key: shape for key, shape in shapes.items()}
        if prefix:
            named["first_stage_model.decoder.conv_in.weight"] = (512, 4, 3, 3)
        header = read_header(shapes_file(folder / f"{form}.safetensors", named))
        detection = detect(header, "ComfyUI")
        ours = identify(header)
        found[form] = {
            "comfyui": detection.comfy_class if detection else None,
            "prefix": detection.prefix if detection else None,
            "ours": ours.architecture,
            "our_prefix": ours.prefix,
            "role": ours.role.value,
            "with_host": identify(header, lambda h: detect(h, "ComfyUI")).architecture,
        }
        if not prefix:
            found["packed"] = _packed(header)
    return found
