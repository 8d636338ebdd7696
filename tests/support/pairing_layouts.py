"""Text encoders, VAEs, LoRAs and ControlNets of the published models: names and shapes alone.

Text encoders have every layer of the published configuration (transformers' ``config.json`` of each).
VAEs and diffusion models have the tensors by which they are told, with their real names and shapes;
``tests/comfyui/inside/pairing.py`` builds the whole ones with ComfyUI's own classes.
"""

from __future__ import annotations

from collections.abc import Iterable

Layout = dict[str, tuple[int, ...]]


def clip(layers: int, width: int) -> Layout:
    """CLIP's text model, as transformers names it."""
    text = "text_model"
    found: Layout = {
        f"{text}.embeddings.token_embedding.weight": (49408, width),
        f"{text}.embeddings.position_embedding.weight": (77, width),
        f"{text}.final_layer_norm.weight": (width,),
        "text_projection.weight": (width, width),
    }
    for i in range(layers):
        block = f"{text}.encoder.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found[f"{block}.self_attn.{name}.weight"] = (width, width)
        found[f"{block}.layer_norm1.weight"] = (width,)
        found[f"{block}.mlp.fc1.weight"] = (4 * width, width)
        found[f"{block}.mlp.fc2.weight"] = (width, 4 * width)
    return found


def t5(
    layers: int,
    width: int,
    inner: int,
    hidden: int,
    vocabulary: int,
    gated: bool = True,
    all_bias: bool = False,
) -> Layout:
    """T5's encoder; ``inner`` is heads x head width, ``hidden`` the width of the feed-forward layer."""
    found: Layout = {"shared.weight": (vocabulary, width), "encoder.final_layer_norm.weight": (width,)}
    for i in range(layers):
        block = f"encoder.block.{i}.layer"
        for name in "qkv":
            found[f"{block}.0.SelfAttention.{name}.weight"] = (inner, width)
        found[f"{block}.0.SelfAttention.o.weight"] = (width, inner)
        if i == 0 or all_bias:
            found[f"{block}.0.SelfAttention.relative_attention_bias.weight"] = (32, inner // 64)
        for name in ("wi_0", "wi_1") if gated else ("wi",):
            found[f"{block}.1.DenseReluDense.{name}.weight"] = (hidden, width)
        found[f"{block}.1.DenseReluDense.wo.weight"] = (width, hidden)
    return found


def llama(
    layers: int,
    width: int,
    query: int,
    key: int,
    hidden: int,
    vocabulary: int,
    norms: bool = False,
    bias: bool = False,
    gemma: bool = False,
    prefix: str = "model.",
) -> Layout:
    """Llama and what follows it; ``query`` and ``key`` are heads x head width.

    Args:
        norms: queries and keys have norms of their own (Qwen3, Gemma 3).
        bias: they have biases (Qwen2.5).
        gemma: there are norms around the feed-forward layer.
    """
    found: Layout = {f"{prefix}embed_tokens.weight": (vocabulary, width), f"{prefix}norm.weight": (width,)}
    for i in range(layers):
        block = f"{prefix}layers.{i}"
        attention = f"{block}.self_attn"
        for name, rows in (("q", query), ("k", key), ("v", key)):
            found[f"{attention}.{name}_proj.weight"] = (rows, width)
            if bias:
                found[f"{attention}.{name}_proj.bias"] = (rows,)
        found[f"{attention}.o_proj.weight"] = (width, query)
        if norms:
            found[f"{attention}.q_norm.weight"] = found[f"{attention}.k_norm.weight"] = (128,)
        found[f"{block}.input_layernorm.weight"] = (width,)
        found[f"{block}.post_attention_layernorm.weight"] = (width,)
        if gemma:
            found[f"{block}.pre_feedforward_layernorm.weight"] = (width,)
            found[f"{block}.post_feedforward_layernorm.weight"] = (width,)
        for name in ("gate_proj", "up_proj"):
            found[f"{block}.mlp.{name}.weight"] = (hidden, width)
        found[f"{block}.mlp.down_proj.weight"] = (width, hidden)
    return found


def qwen3_vl(layers: int, width: int, query: int, hidden: int) -> Layout:
    return llama(layers, width, query, 1024, hidden, 151936, norms=True, prefix="model.language_model.") | {
        "model.visual.deepstack_merger_list.0.norm.weight": (4608,),
        "model.visual.merger.linear_fc2.weight": (width, 4608),
    }


TEXT_ENCODERS: dict[str, Layout] = {
    "clip-l": clip(12, 768),
    "clip-h": clip(24, 1024),
    "clip-g": clip(32, 1280),
    "t5-xxl": t5(24, 4096, 4096, 10240, 32128),
    "umt5-xxl": t5(24, 4096, 4096, 10240, 256384, all_bias=True),
    "t5-xl": t5(24, 2048, 2048, 5120, 32128),
    "t5-11b": t5(24, 1024, 16384, 65536, 32128, gated=False),
    "byt5": t5(12, 1472, 384, 3584, 1510),
    "t5-base": t5(12, 768, 768, 3072, 32128, gated=False),
    "llama-3-8b": llama(32, 4096, 4096, 1024, 14336, 128320),
    "mistral-3-24b": llama(40, 5120, 4096, 1024, 32768, 131072),
    "mistral-3-24b-pruned": llama(30, 5120, 4096, 1024, 32768, 131072),
    "ministral-3-3b": llama(26, 3072, 4096, 1024, 9216, 131072),
    "qwen2.5-vl-3b": llama(36, 2048, 2048, 256, 11008, 151936, bias=True),
    "qwen2.5-vl-7b": llama(28, 3584, 3584, 512, 18944, 152064, bias=True),
    "qwen3-0.6b": llama(28, 1024, 2048, 1024, 3072, 151936, norms=True),
    "qwen3-1.7b": llama(28, 2048, 2048, 1024, 6144, 151936, norms=True),
    "qwen3-4b": llama(36, 2560, 4096, 1024, 9728, 151936, norms=True),
    "qwen3-8b": llama(36, 4096, 4096, 1024, 12288, 151936, norms=True),
    "qwen3-vl-4b": qwen3_vl(36, 2560, 4096, 9728),
    "qwen3-vl-8b": qwen3_vl(36, 4096, 4096, 12288),
    "gemma-2-2b": llama(26, 2304, 2048, 1024, 9216, 256000, gemma=True),
    "gemma-3-4b": llama(34, 2560, 2048, 1024, 10240, 262208, norms=True, gemma=True),
    "gemma-3-12b": llama(48, 3840, 4096, 2048, 15360, 262208, norms=True, gemma=True),
    "gemma-4-12b": {
        name: shape
        for name, shape in llama(48, 3840, 4096, 2048, 15360, 262144, norms=True, gemma=True).items()
        if name != "model.layers.5.self_attn.v_proj.weight"
    },
}

_SD_VAE: Layout = {
    "encoder.down.2.downsample.conv.weight": (512, 512, 3, 3),
    "decoder.up.3.upsample.conv.weight": (512, 512, 3, 3),
    "decoder.up.0.block.0.conv1.weight": (128, 256, 3, 3),
    "encoder.conv_in.weight": (128, 3, 3, 3),
}
_WAN_VAE: Layout = {
    "decoder.middle.0.residual.0.gamma": (384, 1, 1, 1),
    "decoder.head.0.gamma": (96, 1, 1, 1),
    "decoder.head.2.weight": (3, 96, 3, 3, 3),
    "encoder.conv1.weight": (96, 3, 3, 3, 3),
    "decoder.conv1.weight": (384, 16, 3, 3, 3),
}

# Kind -> the tensors that ComfyUI's ``sd.VAE`` looks at, with their real shapes.
VAES: dict[str, Layout] = {
    "sd": _SD_VAE | {"decoder.conv_in.weight": (512, 4, 3, 3), "post_quant_conv.weight": (4, 4, 1, 1)},
    "flux": _SD_VAE | {"decoder.conv_in.weight": (512, 16, 3, 3)},
    "flux2": _SD_VAE
    | {
        "decoder.conv_in.weight": (512, 32, 3, 3),
        "post_quant_conv.weight": (32, 32, 1, 1),
        "bn.running_mean": (128,),
        "bn.running_var": (128,),
    },
    "hunyuan-image-2.1": {"decoder.conv_in.weight": (1024, 64, 3, 3)},
    "hunyuan-video": {
        "decoder.conv_in.conv.weight": (512, 16, 3, 3, 3),
        "post_quant_conv.weight": (16, 16, 1, 1, 1),
    },
    "hunyuan-video-1.5": {"decoder.conv_in.conv.weight": (1024, 32, 3, 3, 3)},
    "wan2.1": _WAN_VAE,
    "wan2.2": {
        "decoder.middle.0.residual.0.gamma": (1024, 1, 1, 1),
        "decoder.upsamples.0.upsamples.0.residual.2.weight": (1024, 1024, 3, 3, 3),
    },
    "ltx": {
        "decoder.up_blocks.0.res_blocks.0.conv1.conv.weight": (1024, 1024, 3, 3, 3),
        "encoder.down_blocks.1.conv.conv.bias": (64,),
    },
    "mochi": {"decoder.blocks.2.blocks.3.stack.5.weight": (512, 512, 3, 3, 3)},
    "taesd-4": {"taesd_decoder.1.weight": (64, 4, 3, 3)},
    "taesd-16": {"taesd_decoder.1.weight": (64, 16, 3, 3)},
    "tae-wan2.2": {"decoder.22.bias": (12,), "decoder.1.weight": (256, 48, 3, 3)},
    "tae-hunyuan-video-1.5": {"decoder.22.bias": (12,), "decoder.1.weight": (256, 32, 3, 3)},
    "tae-16": {"decoder.22.bias": (3,), "decoder.1.weight": (256, 16, 3, 3)},
}


def _wan(width: int, channels: int, outputs: int, image: bool = False) -> Layout:
    found: Layout = {
        "head.modulation": (1, 2, width),
        "head.head.weight": (4 * outputs, width),
        "patch_embedding.weight": (width, channels, 1, 2, 2),
        "text_embedding.0.weight": (width, 4096),
    }
    if image:
        found["img_emb.proj.0.bias"] = (1280,)
    for i in range(2):
        for part in ("self_attn", "cross_attn"):
            found |= {f"blocks.{i}.{part}.{name}.weight": (width, width) for name in "qkvo"}
        found[f"blocks.{i}.ffn.0.weight"] = (13824 if width == 5120 else 14336, width)
    return found


def _flux(width: int, latent: int, context: int, double: int = 2, single: int = 2) -> Layout:
    found: Layout = {
        "img_in.weight": (width, latent),
        "txt_in.weight": (width, context),
        "final_layer.linear.weight": (latent, width),
    }
    for i in range(double):
        found[f"double_blocks.{i}.img_attn.norm.key_norm.scale"] = (128,)
        for part in ("img_attn", "txt_attn"):
            found[f"double_blocks.{i}.{part}.qkv.weight"] = (3 * width, width)
            found[f"double_blocks.{i}.{part}.proj.weight"] = (width, width)
    for i in range(single):
        found[f"single_blocks.{i}.linear1.weight"] = (7 * width, width)
        found[f"single_blocks.{i}.linear2.weight"] = (width, 5 * width)
    return found


def _hunyuan(width: int, inputs: int, outputs: int, patch: tuple[int, ...], context: int) -> Layout:
    found: Layout = {
        "txt_in.individual_token_refiner.blocks.0.norm1.weight": (width,),
        "txt_in.input_embedder.weight": (width, context),
        "img_in.proj.weight": (width, inputs, *patch),
        "final_layer.linear.weight": (outputs, width),
    }
    for i in range(20):
        for part in ("img_attn", "txt_attn"):
            found[f"double_blocks.{i}.{part}.qkv.weight"] = (3 * width, width)
            found[f"double_blocks.{i}.{part}.proj.weight"] = (width, width)
    return found


def _unet(context: int, label: int | None, depths: Iterable[tuple[str, int, int]]) -> Layout:
    """Stable Diffusion's UNet: (block, width, transformers) of the blocks with attention."""
    found: Layout = {"input_blocks.0.0.weight": (320, 4, 3, 3), "out.2.weight": (4, 320, 3, 3)}
    if label:
        found["label_emb.0.0.weight"] = (1280, label)
    for block, width, transformers in depths:
        for i in range(transformers):
            start = f"{block}.1.transformer_blocks.{i}"
            for name in ("to_q", "to_out.0"):
                found[f"{start}.attn1.{name}.weight"] = (width, width)
            found[f"{start}.attn2.to_k.weight"] = (width, context)
    return found


# Our id of the architecture -> tensors of the published model.
DIFFUSION: dict[str, Layout] = {
    "wan-t2v": _wan(5120, 16, 16),
    "wan2.1-i2v": _wan(5120, 36, 16, image=True),
    "wan2.2-i2v-14b": _wan(5120, 36, 16),
    "wan2.2-5b": _wan(3072, 48, 48),
    "hunyuan-video": _hunyuan(3072, 16, 64, (1, 2, 2), 4096) | {"vector_in.in_layer.weight": (3072, 768)},
    "hunyuan-video-1.5": _hunyuan(2048, 65, 32, (1, 1, 1), 3584) | {"vision_in.proj.0.weight": (1152,)},
    "flux-dev": _flux(3072, 64, 4096) | {"guidance_in.in_layer.weight": (3072, 256)},
    "flux2": _flux(6144, 128, 15360) | {"double_stream_modulation_img.lin.weight": (36864, 6144)},
    "qwen-image": {
        "img_in.weight": (3072, 64),
        "txt_norm.weight": (3584,),
        "txt_in.weight": (3072, 3584),
        "proj_out.weight": (64, 3072),
        "transformer_blocks.0.attn.to_q.weight": (3072, 3072),
        "transformer_blocks.0.img_mlp.net.0.proj.weight": (12288, 3072),
    },
    "z-image": {
        "noise_refiner.0.attention.k_norm.weight": (128,),
        "cap_embedder.1.weight": (3840, 2560),
        "x_embedder.weight": (3840, 64),
        "final_layer.linear.weight": (64, 3840),
        "layers.0.attention.qkv.weight": (11520, 3840),
        "layers.0.attention.out.weight": (3840, 3840),
    },
    "sd1.5": _unet(
        768, None, [("input_blocks.1", 320, 1), ("input_blocks.4", 640, 1), ("middle_block", 1280, 1)]
    ),
    "sdxl": _unet(2048, 2816, [("input_blocks.4", 640, 2), ("input_blocks.7", 1280, 10)]),
    "sd3.5-large": {
        "joint_blocks.0.context_block.attn.qkv.weight": (7296, 2432),
        "joint_blocks.0.x_block.attn.qkv.weight": (7296, 2432),
        "x_embedder.proj.weight": (2432, 16, 2, 2),
        "context_embedder.weight": (2432, 4096),
        "final_layer.linear.weight": (64, 2432),
    },
    "ltx-2": {
        "adaln_single.emb.timestep_embedder.linear_1.bias": (4096,),
        "audio_adaln_single.linear.weight": (18432, 2048),
        "caption_projection.linear_1.weight": (4096, 3840),
        "proj_out.weight": (128, 4096),
        "transformer_blocks.0.attn1.to_q.weight": (4096, 4096),
    },
}  # fmt: skip


def lora(names: Iterable[tuple[str, int, int]], rank: int = 16, style: str = "peft") -> Layout:
    """A LoRA of these layers, (name, outputs, inputs): ``peft`` has lora_A, ``kohya`` lora_down."""
    down, up = ("lora_A", "lora_B") if style == "peft" else ("lora_down", "lora_up")
    found: Layout = {}
    for name, outputs, inputs in names:
        found[f"{name}.{down}.weight"] = (rank, inputs)
        found[f"{name}.{up}.weight"] = (outputs, rank)
    return found


def lora_for(layout: Layout, style: str = "peft", rank: int = 16) -> Layout:
    """A LoRA of every matrix of a diffusion model, under ComfyUI's own names."""
    names = []
    for name, shape in layout.items():
        if len(shape) == 2 and name.endswith(".weight") and ("block" in name or "layers" in name):
            layer = name.removesuffix(".weight")
            called = f"diffusion_model.{layer}" if style == "peft" else f"lora_unet_{layer.replace('.', '_')}"
            names.append((called, shape[0], shape[1]))
    return lora(names, rank, style)


CONTROLNETS: dict[str, Layout] = {
    "sd1.5": {
        "control_model.zero_convs.0.0.weight": (320, 320, 1, 1),
        "control_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    },
    "sdxl": {
        "controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3),
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight": (640, 2048),
    },
    "flux": {
        "controlnet_blocks.0.weight": (3072, 3072),
        "controlnet_x_embedder.weight": (3072, 64),
    },
    "sd3.5": {
        "controlnet_blocks.0.weight": (1536, 1536),
        "pos_embed_input.proj.weight": (1536, 16, 2, 2),
    },
    "qwen-image": {
        "controlnet_blocks.0.weight": (3072, 3072),
        "transformer_blocks.0.img_mlp.net.0.proj.weight": (12288, 3072),
        "controlnet_x_embedder.weight": (3072, 64),
    },
}
