"""The role of a file that is no diffusion model, from the names of its tensors, as data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..model import ModelType


class RoleRule(NamedTuple):
    """A file plays ``role`` when any of its tensors contains one of ``markers``."""

    role: ModelType
    title: str
    markers: tuple[str, ...]


# The first rule that applies wins: adapters name the layers of the model that they adapt.
ROLE_RULES: tuple[RoleRule, ...] = (
    RoleRule(
        ModelType.LORA,
        "LoRA",
        (
            ".lora_down.weight",
            ".lora_up.weight",
            "_lora.down.weight",
            "_lora.up.weight",
            ".lora_A",
            ".lora_B",
            ".lora.down.",
            ".lora_linear_layer.",
            ".hada_w1_a",
            ".lokr_w1",
            ".oft_blocks",
            ".diff_b",
        ),
    ),
    RoleRule(
        ModelType.CONTROLNET,
        "ControlNet",
        (
            "control_model.",
            "controlnet_cond_embedding",
            "controlnet_blocks.",
            "controlnet_x_embedder",
            "input_hint_block.",
            "zero_convs.",
            "control_add_embedding",
        ),
    ),
    RoleRule(
        ModelType.CLIP_VISION,
        "CLIP vision encoder",
        (
            "vision_model.encoder.layers.0.",
            "visual.transformer.resblocks.0.",
            "encoder.layer.0.layer_scale1",
        ),
    ),
    RoleRule(
        ModelType.AUDIO_ENCODER,
        "audio encoder",
        ("encoder.pos_conv_embed.", "model.encoder.embed_positions.weight"),
    ),
    RoleRule(
        ModelType.TEXT_ENCODER,
        "text encoder",
        (
            "text_model.encoder.layers.0.",
            "encoder.block.0.layer.0.SelfAttention.",
            "model.layers.0.self_attn.",
            "model.layers.0.input_layernorm.",
            "transformer.resblocks.0.attn.in_proj_weight",
            "model.encoder.layers.0.",
            "model.language_model.layers.0.",
            "shared.weight",
        ),
    ),
    RoleRule(
        ModelType.VAE,
        "VAE",
        (
            "decoder.conv_in.weight",
            "decoder.conv_in.conv.weight",
            "decoder.up_blocks.0.",
            "decoder.up.0.block.0.",
            "decoder.middle.0.residual.",
            "decoder.layers.1.layers.0.beta",
            "decoder.22.bias",
            "blocks.2.blocks.3.stack.5.weight",
            "taesd_decoder.",
            "taesd_encoder.",
            "first_stage_model.decoder.",
            "vocoder.resblocks.0.",
        ),
    ),
    RoleRule(
        ModelType.LATENT_UPSCALER, "latent upscaler", ("post_upsample_res_blocks.", "initial_conv.weight_v")
    ),
    RoleRule(
        ModelType.UPSCALER,
        "upscaler",
        ("body.0.rdb1.", "model.1.sub.0.", "RRDB_trunk.", "upconv1.", "layers.0.residual_group."),
    ),
)

# Parts of a checkpoint beside its diffusion model -> the prefixes they may have.
CHECKPOINT_PARTS: dict[str, tuple[str, ...]] = {
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": ("cond_stage_model.", "conditioner.", "text_encoders."),
}


def find_role(names: Iterable[str]) -> RoleRule | None:
    """Return the first rule that the tensor names satisfy, None when none does."""
    text = "\n".join(names)  # looked through at once: no marker goes over a line's end
    for rule in ROLE_RULES:
        if any(marker in text for marker in rule.markers):
            return rule
    return None


def checkpoint_parts(names: Iterable[str]) -> tuple[str, ...]:
    """Return which parts besides the diffusion model are there: ``vae``, ``text_encoder``."""
    names = list(names)
    return tuple(
        part
        for part, prefixes in CHECKPOINT_PARTS.items()
        if any(name.startswith(prefixes) for name in names)
    )
