"""The job of a file that is no diffusion model, from published tensor names."""

from __future__ import annotations

import pytest
from managed_models.manager.identify.roles import (
    CHECKPOINT_PARTS,
    ROLE_RULES,
    RoleRule,
    checkpoint_parts,
    find_role,
)
from managed_models.manager.model import ModelType

NAMES: dict[str, tuple[ModelType, tuple[str, ...]]] = {
    # Adapters
    "kohya LoRA": (
        ModelType.LORA,
        ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", "lora_unet_x.alpha"),
    ),
    "diffusers LoRA": (ModelType.LORA, ("transformer.blocks.0.attn.to_q.lora_A.weight",)),
    "Wan LoRA": (ModelType.LORA, ("diffusion_model.blocks.0.self_attn.q.lora_B.weight",)),
    "LoHa": (ModelType.LORA, ("lora_unet_blocks_0_ffn.hada_w1_a",)),
    "LoKr": (ModelType.LORA, ("lycoris_blocks_0_ffn.lokr_w1",)),
    "OFT": (ModelType.LORA, ("oft_unet_x.oft_blocks",)),
    "difference of a bias": (ModelType.LORA, ("diffusion_model.blocks.0.ffn.0.diff_b",)),
    # ControlNets
    "ControlNet": (ModelType.CONTROLNET, ("control_model.input_blocks.0.0.weight",)),
    "diffusers ControlNet": (ModelType.CONTROLNET, ("controlnet_cond_embedding.conv_in.weight",)),
    "Flux ControlNet": (
        ModelType.CONTROLNET,
        ("controlnet_blocks.0.weight", "double_blocks.0.img_attn.qkv.weight"),
    ),
    "SD3 ControlNet": (ModelType.CONTROLNET, ("controlnet_x_embedder.weight",)),
    "bare ControlNet": (ModelType.CONTROLNET, ("input_hint_block.0.weight", "zero_convs.0.0.weight")),
    "union ControlNet": (ModelType.CONTROLNET, ("control_add_embedding.linear_1.weight",)),
    # Encoders
    "CLIP vision": (ModelType.CLIP_VISION, ("vision_model.encoder.layers.0.layer_norm1.weight",)),
    "open CLIP vision": (ModelType.CLIP_VISION, ("visual.transformer.resblocks.0.attn.in_proj_weight",)),
    "DINOv2": (ModelType.CLIP_VISION, ("encoder.layer.0.layer_scale1.lambda1",)),
    "wav2vec": (ModelType.AUDIO_ENCODER, ("encoder.pos_conv_embed.conv.bias",)),
    "Whisper": (
        ModelType.AUDIO_ENCODER,
        ("model.encoder.embed_positions.weight", "model.encoder.layers.0.self_attn.q_proj.weight"),
    ),
    "CLIP-L": (ModelType.TEXT_ENCODER, ("text_model.encoder.layers.0.layer_norm1.weight",)),
    "T5": (ModelType.TEXT_ENCODER, ("encoder.block.0.layer.0.SelfAttention.q.weight", "shared.weight")),
    "Qwen": (ModelType.TEXT_ENCODER, ("model.layers.0.self_attn.q_proj.weight", "lm_head.weight")),
    "Gemma": (ModelType.TEXT_ENCODER, ("model.layers.0.input_layernorm.weight",)),
    "open CLIP": (ModelType.TEXT_ENCODER, ("transformer.resblocks.0.attn.in_proj_weight",)),
    "Qwen-VL": (ModelType.TEXT_ENCODER, ("model.language_model.layers.0.mlp.up_proj.weight",)),
    # Decoders
    "SD VAE": (ModelType.VAE, ("decoder.conv_in.weight", "encoder.conv_in.weight")),
    "video VAE": (ModelType.VAE, ("decoder.conv_in.conv.weight",)),
    "diffusers VAE": (ModelType.VAE, ("decoder.up_blocks.0.resnets.0.conv1.weight",)),
    "LDM VAE": (ModelType.VAE, ("decoder.up.0.block.0.conv1.weight",)),
    "Wan VAE": (ModelType.VAE, ("decoder.middle.0.residual.0.gamma",)),
    "TAESD": (ModelType.VAE, ("taesd_decoder.1.weight", "taesd_encoder.0.weight")),
    "VAE of a checkpoint": (ModelType.VAE, ("first_stage_model.decoder.norm_out.weight",)),
    # Upscalers
    "ESRGAN": (ModelType.UPSCALER, ("body.0.rdb1.conv1.weight", "conv_first.weight")),
    "old ESRGAN": (ModelType.UPSCALER, ("model.1.sub.0.RDB1.conv1.0.weight",)),
    "RRDB": (ModelType.UPSCALER, ("RRDB_trunk.0.RDB1.conv1.weight",)),
    "SwinIR": (ModelType.UPSCALER, ("layers.0.residual_group.blocks.0.norm1.weight",)),
    "latent upscaler": (ModelType.LATENT_UPSCALER, ("post_upsample_res_blocks.0.conv1.weight",)),
}


@pytest.mark.parametrize("kind", NAMES)
def test_a_published_file_finds_its_role(kind: str) -> None:
    role, names = NAMES[kind]
    found = find_role(("some.other.tensor", *names))
    assert found is not None
    assert found.role is role
    assert found.title


# As comfy/weight_adapter/lora.py and comfy/lora.py of ComfyUI 0.33 look for them.
@pytest.mark.parametrize(
    ("up", "down"),
    [
        (".lora_up.weight", ".lora_down.weight"),
        ("_lora.up.weight", "_lora.down.weight"),
        (".lora_B.weight", ".lora_A.weight"),
        (".lora.up.weight", ".lora.down.weight"),
        (".lora_B", ".lora_A"),
        (".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"),
        (".lora_B.default.weight", ".lora_A.default.weight"),
    ],
)
def test_every_spelling_of_a_lora_that_comfyui_reads(up: str, down: str) -> None:
    layer = "diffusion_model.blocks.0.self_attn.q"
    found = find_role([layer + up, layer + down])
    assert found is not None
    assert found.role is ModelType.LORA


@pytest.mark.parametrize("rule", ROLE_RULES, ids=lambda rule: rule.title)
def test_every_marker_leads_to_its_role_(rule: RoleRule) -> None:
    for marker in rule.markers:
        found = find_role([f"{marker}weight" if marker.endswith(".") else marker])
        assert found is rule, marker


@pytest.mark.parametrize("names", [[], ["weight"], ["blocks.0.ffn.0.weight"], ["lora"], ["a.alpha"]])
def test_names_that_say_nothing(names: list[str]) -> None:
    assert find_role(names) is None


def test_an_adapter_is_an_adapter_whatever_it_adapts() -> None:
    names = ["text_model.encoder.layers.0.mlp.fc1.lora_down.weight", "decoder.conv_in.weight"]
    found = find_role(names)
    assert found is not None
    assert found.role is ModelType.LORA


def test_the_names_may_come_from_a_generator() -> None:
    found = find_role(name for name in ["x", "decoder.conv_in.weight"])
    assert found is not None
    assert found.role is ModelType.VAE
    assert checkpoint_parts(name for name in ["vae.a", "conditioner.b"]) == ("vae", "text_encoder")


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        ([], ()),
        (["model.diffusion_model.x"], ()),
        (["first_stage_model.decoder.conv_in.weight"], ("vae",)),
        (["vae.decoder.conv_in.weight"], ("vae",)),
        (["cond_stage_model.transformer.x"], ("text_encoder",)),
        (["conditioner.embedders.0.x"], ("text_encoder",)),
        (["text_encoders.t5xxl.x", "vae.x"], ("vae", "text_encoder")),
        (["vae_scale", "model.vae.x", "conditioner"], ()),  # the prefix, not any place
    ],
)
def test_checkpoint_parts(names: list[str], parts: tuple[str, ...]) -> None:
    assert checkpoint_parts(names) == parts


def test_the_parts_are_named_after_the_outputs_of_a_loader() -> None:
    assert set(CHECKPOINT_PARTS) == {"vae", "text_encoder"}
