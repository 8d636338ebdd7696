"""What belongs together, as data: latent spaces, kinds of VAE and text encoder, and families of models.

Sources, unless a row says otherwise: ComfyUI 0.33's ``latent_formats`` (channels and factors),
``supported_models`` (which latent format and which text encoders a model class uses), ``sd.VAE`` and
``sd.detect_te_model`` (the tensors that tell a file's kind). File names are those of ComfyUI's own
templates (``blueprints``). ``tests/comfyui/test_pairing_inside.py`` holds all of it against ComfyUI.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..identify.architectures import Architecture


@dataclass(frozen=True)
class Space:
    """What a VAE makes of a picture, and a diffusion model works on.

    Attributes:
        title: the VAE's name for people.
        channels: numbers per cell.
        spatial, temporal: pixels along a side, and frames, that one cell stands for.
        comfy_format: the class of ComfyUI's ``latent_formats``.
        file: the name under which ComfyUI's templates use the VAE; empty where it is in the checkpoint.
    """

    id: str
    title: str
    channels: int
    spatial: int
    temporal: int
    comfy_format: str
    file: str = ""


SPACES: dict[str, Space] = {
    row.id: row
    for row in (
        Space("sd1", "Stable Diffusion 1.5 VAE", 4, 8, 1, "SD15", "vae-ft-mse-840000-ema-pruned.safetensors"),
        Space("sdxl", "SDXL VAE", 4, 8, 1, "SDXL", "sdxl_vae.safetensors"),
        Space("sd-x4", "Stable Diffusion x4 upscaler VAE", 4, 4, 1, "SD_X4"),
        Space("sd3", "Stable Diffusion 3 VAE", 16, 8, 1, "SD3"),
        Space("flux", "Flux.1 VAE", 16, 8, 1, "Flux", "ae.safetensors"),
        Space("flux2", "Flux.2 VAE", 128, 16, 1, "Flux2", "flux2-vae.safetensors"),
        Space("wan2.1", "Wan 2.1 VAE", 16, 8, 4, "Wan21", "wan_2.1_vae.safetensors"),
        Space("wan2.2", "Wan 2.2 VAE", 48, 16, 4, "Wan22", "wan2.2_vae.safetensors"),
        Space(
            "hunyuan-video",
            "HunyuanVideo VAE",
            16,
            8,
            4,
            "HunyuanVideo",
            "hunyuan_video_vae_bf16.safetensors",
        ),
        Space(
            "hunyuan-video-1.5",
            "HunyuanVideo 1.5 VAE",
            32,
            16,
            4,
            "HunyuanVideo15",
            "hunyuanvideo15_vae_fp16.safetensors",
        ),
        Space(
            "hunyuan-image-2.1",
            "HunyuanImage 2.1 VAE",
            64,
            32,
            1,
            "HunyuanImage21",
            "hunyuan_image_2.1_vae_fp16.safetensors",
        ),
        Space("ltx-video", "LTX-Video VAE", 128, 32, 8, "LTXV"),
        Space("ltx-2", "LTX-2 video VAE", 128, 32, 8, "LTXAV"),
        Space("mochi", "Mochi VAE", 12, 8, 6, "Mochi"),
    )
}


@dataclass(frozen=True)
class VaeKind(Architecture):
    """A VAE's layout; ``comfy_class`` is the class of its network in ComfyUI.

    ``spaces`` are more than one where the layout cannot tell them apart. ``note`` then says what can.
    """

    spaces: tuple[str, ...] = ()
    note: str = ""


_CONV = "decoder.conv_in.weight"
_CONV_3D = "decoder.conv_in.conv.weight"
_WAN = "decoder.middle.0.residual.0.gamma"
_LTX = "decoder.up_blocks.0.res_blocks.0.conv1.conv.weight"
_SAME = "Their files are built alike and differ in their numbers only"

# The first row that matches wins, as in identify.architectures.
VAES: tuple[VaeKind, ...] = (
    VaeKind(
        "sd-x4",
        "Stable Diffusion x4 upscaler VAE",
        "AutoencoderKL",
        ("decoder.up.0.block.0.conv1.weight",),
        {_CONV: (None, 4, None, None)},
        ("encoder.down.2.downsample.conv.weight", "decoder.up.3.upsample.conv.weight"),
        spaces=("sd-x4",),
    ),
    VaeKind(
        "sd",
        "Stable Diffusion 1.5 or SDXL VAE",
        "AutoencoderKL",
        (),
        {_CONV: (None, 4, None, None)},
        spaces=("sd1", "sdxl"),
        note=_SAME,
    ),
    VaeKind(
        "flux2",
        "Flux.2 VAE",
        "AutoencoderKL",
        ("bn.running_mean",),
        {_CONV: (None, 32, None, None)},
        spaces=("flux2",),
    ),
    VaeKind(
        "flux",
        "Flux.1 or Stable Diffusion 3 VAE",
        "AutoencodingEngine",
        (),
        {_CONV: (None, 16, None, None)},
        spaces=("flux", "sd3"),
        note=_SAME,
    ),
    VaeKind(
        "hunyuan-image-2.1",
        "HunyuanImage 2.1 VAE",
        "AutoencodingEngine",
        (),
        {_CONV: (None, 64, None, None)},
        spaces=("hunyuan-image-2.1",),
    ),
    VaeKind("ltx", "LTX-Video or LTX-2 VAE", "VideoVAE", (_LTX,), spaces=("ltx-video", "ltx-2"), note=_SAME),
    VaeKind(
        "hunyuan-video-1.5",
        "HunyuanVideo 1.5 VAE",
        "AutoencodingEngine",
        (),
        {_CONV_3D: (None, 32, None, None, None)},
        spaces=("hunyuan-video-1.5",),
    ),
    VaeKind(
        "hunyuan-video",
        "HunyuanVideo VAE",
        "AutoencoderKL",
        (),
        {_CONV_3D: (None, 16, None, None, None)},
        ("decoder.mid_block.resnets.0.norm1.norm_layer.weight",),  # CogVideoX
        spaces=("hunyuan-video",),
    ),
    VaeKind(
        "wan2.2",
        "Wan 2.2 VAE",
        "WanVAE",
        (_WAN, "decoder.upsamples.0.upsamples.0.residual.2.weight"),
        spaces=("wan2.2",),
    ),
    # The Qwen-Image technical report (arXiv 2508.02324, section 2.3) takes Wan 2.1's VAE and trains its
    # decoder alone, so that both files are of one latent space; ComfyUI uses one latent format for both.
    VaeKind("wan2.1", "Wan 2.1 or Qwen-Image VAE", "WanVAE", (_WAN,), spaces=("wan2.1",)),
    VaeKind(
        "mochi",
        "Mochi VAE",
        "VideoVAE",
        ("blocks.2.blocks.3.stack.5.weight|decoder.blocks.2.blocks.3.stack.5.weight",),
        spaces=("mochi",),
    ),
    VaeKind(
        "taesd-4",
        "TAESD, a small VAE for Stable Diffusion 1.5 or SDXL",
        "TAESD",
        (),
        {"taesd_decoder.1.weight": (None, 4, None, None)},
        spaces=("sd1", "sdxl"),
        note=_SAME,
    ),
    VaeKind(
        "taesd-16",
        "TAESD, a small VAE for Flux.1 or Stable Diffusion 3",
        "TAESD",
        (),
        {"taesd_decoder.1.weight": (None, 16, None, None)},
        spaces=("flux", "sd3"),
        note=_SAME,
    ),
    VaeKind(
        "tae-wan2.2",
        "TAEHV, a small VAE for Wan 2.2",
        "TAEHV",
        ("decoder.22.bias",),
        {"decoder.1.weight": (None, 48, None, None)},
        spaces=("wan2.2",),
    ),
    VaeKind(
        "tae-ltx-2",
        "TAEHV, a small VAE for LTX-2",
        "TAEHV",
        ("decoder.22.bias",),
        {"decoder.1.weight": (None, 128, None, None)},
        spaces=("ltx-2", "ltx-video"),
        note=_SAME,
    ),
    VaeKind(
        "tae-hunyuan-video-1.5",
        "TAEHV, a small VAE for HunyuanVideo 1.5",
        "TAEHV",
        ("decoder.22.bias",),
        {"decoder.1.weight": (None, 32, None, None)},
        spaces=("hunyuan-video-1.5",),
    ),
    VaeKind(
        "tae-16",
        "TAEHV, a small VAE for HunyuanVideo or Wan 2.1",
        "TAEHV",
        ("decoder.22.bias",),
        {"decoder.1.weight": (None, 16, None, None)},
        spaces=("wan2.1", "hunyuan-video"),
        note=_SAME,
    ),
)


@dataclass(frozen=True)
class TextEncoder(Architecture):
    """A text encoder's layout; ``comfy_class`` is its name in ComfyUI's ``TEModel``.

    Attributes:
        width: numbers that it gives for each token.
        file: the name under which ComfyUI's templates use it.
    """

    width: int = 0
    file: str = ""


_T5 = "encoder.block.23.layer.1.DenseReluDense.wi_1.weight"
_NORM = "model.layers.0.post_attention_layernorm.weight"
_GEMMA = "model.layers.0.post_feedforward_layernorm.weight"
_QK = "model.layers.0.self_attn.q_norm.weight"
_CLIP = "text_model.encoder.layers"

TEXT_ENCODERS: tuple[TextEncoder, ...] = (
    TextEncoder(
        "clip-g", "CLIP-G", "CLIP_G", (f"{_CLIP}.30.mlp.fc1.weight",), width=1280, file="clip_g.safetensors"
    ),
    TextEncoder("clip-h", "CLIP-H", "CLIP_H", (f"{_CLIP}.22.mlp.fc1.weight",), width=1024),
    TextEncoder(
        "clip-l", "CLIP-L", "CLIP_L", (f"{_CLIP}.0.mlp.fc1.weight",), width=768, file="clip_l.safetensors"
    ),
    # UMT5 has a position bias in every layer, T5 in the first alone (transformers' configuration_umt5).
    TextEncoder(
        "umt5-xxl",
        "UMT5-XXL",
        "T5_XXL",
        ("encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight",),
        {_T5: (10240, None)},
        width=4096,
        file="umt5_xxl_fp8_e4m3fn_scaled.safetensors",
    ),
    TextEncoder(
        "t5-xxl", "T5-XXL", "T5_XXL", (), {_T5: (10240, None)}, width=4096, file="t5xxl_fp16.safetensors"
    ),
    TextEncoder("t5-xl", "T5-XL", "T5_XL", (), {_T5: (5120, None)}, width=2048),
    TextEncoder(
        "t5-11b",
        "T5 11B, the older one",
        "T5_XXL_OLD",
        ("encoder.block.23.layer.1.DenseReluDense.wi.weight",),
        width=1024,
        file="oldt5_xxl_fp8_e4m3fn_scaled.safetensors",
    ),
    TextEncoder(
        "byt5",
        "ByT5 small, for letters in pictures",
        "BYT5_SMALL_GLYPH",
        (),
        {"encoder.block.0.layer.0.SelfAttention.k.weight": (384, None)},
        width=1472,
        file="byt5_small_glyphxl_fp16.safetensors",
    ),
    TextEncoder(
        "t5-base", "T5 base", "T5_BASE", ("encoder.block.0.layer.0.SelfAttention.k.weight",), width=768
    ),
    TextEncoder(
        "gemma-4-12b",
        "Gemma 4 12B",
        "GEMMA_4_12B",
        (_GEMMA, "model.layers.47.self_attn.q_norm.weight"),
        absent=("model.layers.59.self_attn.q_norm.weight", "model.layers.5.self_attn.v_proj.weight"),
        width=3840,
    ),
    TextEncoder(
        "gemma-3-12b",
        "Gemma 3 12B",
        "GEMMA_3_12B",
        (_GEMMA, "model.layers.47.self_attn.q_norm.weight"),
        absent=("model.layers.59.self_attn.q_norm.weight",),
        width=3840,
        file="gemma_3_12B_it_fp4_mixed.safetensors",
    ),
    TextEncoder(
        "gemma-3-4b",
        "Gemma 3 4B",
        "GEMMA_3_4B",
        (_GEMMA, _QK),
        {_NORM: (2560,)},
        ("model.layers.34.self_attn.q_norm.weight", "vision_model.embeddings.patch_embedding.weight"),
        width=2560,
    ),
    TextEncoder(
        "gemma-2-2b",
        "Gemma 2 2B",
        "GEMMA_2_2B",
        (_GEMMA,),
        {_NORM: (2304,)},
        (_QK,),
        width=2304,
        file="gemma_2_2b_fp16.safetensors",
    ),
    TextEncoder(
        "qwen2.5-vl-3b",
        "Qwen2.5-VL 3B",
        "QWEN25_3B",
        (),
        {"model.layers.0.self_attn.k_proj.bias": (256,)},
        (_GEMMA,),
        width=2048,
        file="qwen_2.5_vl_fp16.safetensors",
    ),
    TextEncoder(
        "qwen2.5-vl-7b",
        "Qwen2.5-VL 7B",
        "QWEN25_7B",
        (),
        {"model.layers.0.self_attn.k_proj.bias": (512,)},
        (_GEMMA,),
        width=3584,
        file="qwen_2.5_vl_7b_fp8_scaled.safetensors",
    ),
    TextEncoder(
        "qwen3-vl-4b",
        "Qwen3-VL 4B",
        "QWEN3VL_4B",
        ("model.visual.deepstack_merger_list.0.norm.weight",),
        {"model.visual.merger.linear_fc2.weight": (2560, None)},
        width=2560,
    ),
    TextEncoder(
        "qwen3-vl-8b",
        "Qwen3-VL 8B",
        "QWEN3VL_8B",
        ("model.visual.deepstack_merger_list.0.norm.weight",),
        {"model.visual.merger.linear_fc2.weight": (4096, None)},
        width=4096,
        file="qwen3vl_8b_fp8_scaled.safetensors",
    ),
    TextEncoder(
        "qwen3-0.6b",
        "Qwen3 0.6B",
        "QWEN3_06B",
        (_QK,),
        {_NORM: (1024,)},
        (_GEMMA,),
        width=1024,
        file="qwen_3_06b_base.safetensors",
    ),
    TextEncoder("qwen3-1.7b", "Qwen3 1.7B", "QWEN3_2B", (_QK,), {_NORM: (2048,)}, (_GEMMA,), width=2048),
    TextEncoder(
        "qwen3-4b",
        "Qwen3 4B",
        "QWEN3_4B",
        (_QK,),
        {_NORM: (2560,)},
        (_GEMMA,),
        width=2560,
        file="qwen_3_4b.safetensors",
    ),
    TextEncoder(
        "qwen3-8b",
        "Qwen3 8B",
        "QWEN3_8B",
        (_QK,),
        {_NORM: (4096,)},
        (_GEMMA,),
        width=4096,
        file="qwen_3_8b_fp8mixed.safetensors",
    ),
    TextEncoder(
        "mistral-3-24b",
        "Mistral Small 3 24B",
        "MISTRAL3_24B",
        ("model.layers.39.post_attention_layernorm.weight",),
        {_NORM: (5120,)},
        (_GEMMA, _QK),
        width=5120,
        file="mistral_3_small_flux2_bf16.safetensors",
    ),
    TextEncoder(
        "mistral-3-24b-pruned",
        "Mistral Small 3 24B, cut for Flux.2",
        "MISTRAL3_24B_PRUNED_FLUX2",
        (),
        {_NORM: (5120,)},
        (_GEMMA, _QK, "model.layers.39.post_attention_layernorm.weight"),
        width=5120,
        file="mistral_3_small_flux2_bf16.safetensors",
    ),
    TextEncoder(
        "ministral-3-3b", "Ministral 3 3B", "MINISTRAL_3_3B", (), {_NORM: (3072,)}, (_GEMMA, _QK), width=3072
    ),
    TextEncoder(
        "llama-3-8b",
        "Llama 3 8B (LLaVA)",
        "LLAMA3_8",
        (),
        {_NORM: (4096,)},
        (_GEMMA, _QK),
        width=4096,
        file="llava_llama3_fp8_scaled.safetensors",
    ),
)
TEXT_ENCODER_OF: dict[str, TextEncoder] = {row.id: row for row in TEXT_ENCODERS}


@dataclass(frozen=True)
class Slot:
    """One text encoder that a model takes: any of these kinds, and whether it also runs without."""

    kinds: tuple[str, ...]
    optional: bool = False


@dataclass(frozen=True)
class Family:
    """Models that go with the same files.

    Attributes:
        architectures: our ids, see :mod:`identify.architectures`.
        space: the latent space that they work in.
        output: the tensor that gives the latent, and the cells that one of its rows covers.
        text: the tensor whose second length is the width of text that they expect.
        slots: their text encoders.
        hidden_layers: of a text encoder that are laid side by side, where the width tells which one
            belongs; 0 where the kind alone decides.
        lora_names: how LoRAs may name their layers besides ComfyUI's own names, see :mod:`.lora`.
        source: of the text encoders, in ComfyUI 0.33.
    """

    id: str
    title: str
    architectures: tuple[str, ...]
    space: str
    output: tuple[str, int]
    text: str
    slots: tuple[Slot, ...]
    source: str
    hidden_layers: int = 0
    lora_names: tuple[str, ...] = ()


_FINAL = "final_layer.linear.weight"
_UMT5 = (Slot(("umt5-xxl",)),)
_QWEN_VL_GLYPHS = (Slot(("qwen2.5-vl-7b",)), Slot(("byt5",), optional=True))
_CLIP_T5 = (Slot(("clip-l",)), Slot(("t5-xxl",)))
_UNET_TEXT = "*attn2.to_k.weight"

FAMILIES: tuple[Family, ...] = (
    Family(
        "wan2.1-t2v",
        "Wan 2.1 and Wan 2.2 14B text-to-video",
        ("wan-t2v", "wan2.1-vace", "wan2.2-s2v", "wan2.1-humo", "wan2.2-animate"),
        "wan2.1",
        ("head.head.weight", 4),
        "text_embedding.0.weight",
        _UMT5,
        "supported_models.WAN21_T2V: text_encoders.wan",
    ),
    Family(
        "wan2.1-i2v",
        "Wan 2.1 image-to-video",
        ("wan2.1-i2v", "wan2.1-fun-control", "wan2.1-camera"),
        "wan2.1",
        ("head.head.weight", 4),
        "text_embedding.0.weight",
        _UMT5,
        "supported_models.WAN21_I2V: text_encoders.wan",
    ),
    Family(
        "wan2.2-i2v-14b",
        "Wan 2.2 14B image-to-video",
        ("wan2.2-i2v-14b", "wan2.2-camera"),
        "wan2.1",
        ("head.head.weight", 4),
        "text_embedding.0.weight",
        _UMT5,
        "supported_models.WAN21_T2V: text_encoders.wan",
    ),
    Family(
        "wan2.2-5b",
        "Wan 2.2 5B",
        ("wan2.2-5b",),
        "wan2.2",
        ("head.head.weight", 4),
        "text_embedding.0.weight",
        _UMT5,
        "supported_models.WAN22_T2V: text_encoders.wan",
    ),
    Family(
        "hunyuan-video",
        "HunyuanVideo",
        ("hunyuan-video", "hunyuan-video-i2v", "skyreels-i2v"),
        "hunyuan-video",
        (_FINAL, 4),
        "txt_in.input_embedder.weight",
        (Slot(("clip-l",)), Slot(("llama-3-8b",))),
        "supported_models.HunyuanVideo: text_encoders.hunyuan_video_clip",
        lora_names=("hunyuan",),
    ),
    Family(
        "hunyuan-video-1.5",
        "HunyuanVideo 1.5",
        ("hunyuan-video-1.5", "hunyuan-video-1.5-sr"),
        "hunyuan-video-1.5",
        (_FINAL, 1),
        "txt_in.input_embedder.weight",
        _QWEN_VL_GLYPHS,
        "supported_models.HunyuanVideo15: text_encoders.hunyuan_image",
        lora_names=("hunyuan",),
    ),
    Family(
        "hunyuan-image-2.1",
        "HunyuanImage 2.1",
        ("hunyuan-image-2.1",),
        "hunyuan-image-2.1",
        (_FINAL, 1),
        "txt_in.input_embedder.weight",
        _QWEN_VL_GLYPHS,
        "supported_models.HunyuanImage21: text_encoders.hunyuan_image",
    ),
    Family(
        "flux",
        "Flux.1",
        ("flux-dev", "flux-schnell", "flux-fill"),
        "flux",
        (_FINAL, 4),
        "txt_in.weight",
        _CLIP_T5,
        "supported_models.Flux: text_encoders.flux.flux_clip",
        lora_names=("flux",),
    ),
    # The context is three hidden layers side by side: text_encoders.flux (Flux2TEModel, KleinTEModel).
    Family(
        "flux2",
        "Flux.2",
        ("flux2",),
        "flux2",
        (_FINAL, 1),
        "txt_in.weight",
        (
            Slot(
                (
                    "mistral-3-24b",
                    "mistral-3-24b-pruned",
                    "qwen3-4b",
                    "qwen3-8b",
                    "qwen3-vl-4b",
                    "qwen3-vl-8b",
                )
            ),
        ),
        "supported_models.Flux2: text_encoders.flux.flux2_te, klein_te",
        hidden_layers=3,
        lora_names=("flux",),
    ),
    Family(
        "chroma",
        "Chroma",
        ("chroma",),
        "flux",
        (_FINAL, 4),
        "txt_in.weight",
        (Slot(("t5-xxl",)),),
        "supported_models.Chroma: text_encoders.pixart_t5",
        lora_names=("flux",),
    ),
    Family(
        "longcat-image",
        "LongCat-Image",
        ("longcat-image",),
        "flux",
        (_FINAL, 4),
        "txt_in.weight",
        (Slot(("qwen2.5-vl-7b",)),),
        "supported_models.LongCatImage: text_encoders.longcat_image",
        lora_names=("flux",),
    ),
    Family(
        "qwen-image",
        "Qwen-Image",
        ("qwen-image",),
        "wan2.1",
        ("proj_out.weight", 4),
        "txt_in.weight",
        (Slot(("qwen2.5-vl-7b",)),),
        "supported_models.QwenImage: text_encoders.qwen_image",
        lora_names=("plain", "transformer", "lycoris"),
    ),
    Family(
        "z-image",
        "Z-Image",
        ("z-image",),
        "flux",
        (_FINAL, 4),
        "cap_embedder.1.weight",
        (Slot(("qwen3-4b",)),),
        "supported_models.ZImage: text_encoders.z_image",
        lora_names=("z-image",),
    ),
    Family(
        "lumina2",
        "Lumina Image 2.0",
        ("lumina2",),
        "flux",
        (_FINAL, 4),
        "cap_embedder.1.weight",
        (Slot(("gemma-2-2b",)),),
        "supported_models.Lumina2: text_encoders.lumina2",
        lora_names=("z-image",),
    ),
    Family(
        "sd1.5",
        "Stable Diffusion 1.5",
        ("sd1.5", "sd1.5-instruct-pix2pix"),
        "sd1",
        ("out.2.weight", 1),
        _UNET_TEXT,
        (Slot(("clip-l",)),),
        "supported_models.SD15: sd1_clip.SD1ClipModel",
        lora_names=("unet",),
    ),
    Family(
        "sd2",
        "Stable Diffusion 2",
        ("sd2",),
        "sd1",
        ("out.2.weight", 1),
        _UNET_TEXT,
        (Slot(("clip-h",)),),
        "supported_models.SD20: text_encoders.sd2_clip",
        lora_names=("unet",),
    ),
    Family(
        "sdxl",
        "Stable Diffusion XL",
        ("sdxl",),
        "sdxl",
        ("out.2.weight", 1),
        _UNET_TEXT,
        (Slot(("clip-l",)), Slot(("clip-g",))),
        "supported_models.SDXL: sdxl_clip.SDXLClipModel",
        lora_names=("unet",),
    ),
    Family(
        "sdxl-refiner",
        "Stable Diffusion XL refiner",
        ("sdxl-refiner",),
        "sdxl",
        ("out.2.weight", 1),
        _UNET_TEXT,
        (Slot(("clip-g",)),),
        "supported_models.SDXLRefiner: sdxl_clip.SDXLRefinerClipModel",
        lora_names=("unet",),
    ),
    Family(
        "sd3.5",
        "Stable Diffusion 3.5",
        ("sd3.5-large", "sd3.5-medium", "sd3"),
        "sd3",
        (_FINAL, 4),
        "context_embedder.weight",
        (Slot(("clip-l",)), Slot(("clip-g",)), Slot(("t5-xxl",), optional=True)),
        "supported_models.SD3: text_encoders.sd3_clip",
        lora_names=("mmdit",),
    ),
    Family(
        "ltx-2",
        "LTX-2",
        ("ltx-2",),
        "ltx-2",
        ("proj_out.weight", 1),
        "caption_projection.linear_1.weight",
        (Slot(("gemma-3-12b", "gemma-4-12b")),),
        "sd.load_text_encoder_state_dicts, CLIPType.LTXV: text_encoders.lt.ltxav_te",
        lora_names=("plain",),
    ),
    Family(
        "ltx-video",
        "LTX-Video",
        ("ltx-video",),
        "ltx-video",
        ("proj_out.weight", 1),
        "caption_projection.linear_1.weight",
        (Slot(("t5-xxl",)),),
        "supported_models.LTXV: text_encoders.lt.ltxv_te",
        lora_names=("plain",),
    ),
    Family(
        "anima",
        "Anima",
        ("anima",),
        "wan2.1",
        ("final_layer.linear.weight", 4),
        "blocks.0.cross_attn.k_proj.weight",
        (Slot(("qwen3-0.6b",)),),
        "supported_models.Anima: text_encoders.anima",
    ),
    Family(
        "cosmos-predict2",
        "Cosmos Predict2",
        ("cosmos-predict2-t2i",),
        "wan2.1",
        ("final_layer.linear.weight", 4),
        "blocks.0.cross_attn.k_proj.weight",
        (Slot(("t5-11b",)),),
        "supported_models.CosmosT2IPredict2: text_encoders.cosmos",
    ),
    Family(
        "mochi",
        "Mochi 1",
        ("mochi",),
        "mochi",
        ("final_layer.linear.weight", 4),
        "t5_yproj.weight",
        (Slot(("t5-xxl",)),),
        "supported_models.GenmoMochi: text_encoders.genmo",
        lora_names=("plain",),
    ),
)
FAMILY_OF_ARCHITECTURE: dict[str, Family] = {name: row for row in FAMILIES for name in row.architectures}


def families_of_spaces(spaces: tuple[str, ...]) -> frozenset[str]:
    """Return the families that work in one of these latent spaces."""
    return frozenset(row.id for row in FAMILIES if row.space in spaces)


def families_of_encoder(kind: str) -> frozenset[str]:
    """Return the families that take this text encoder."""
    return frozenset(row.id for row in FAMILIES if any(kind in slot.kinds for slot in row.slots))
