"""Which layers published quantized models leave in high precision, for each architecture, as data.

A pattern is matched with a layer's name, without the model's prefix: a glob when it holds ``*`` or
``?``, else any part of the name. ``source`` says where the patterns are from. Biases, norms and
convolutions are no linear layers and need no pattern; ``norm`` is there for linear layers inside one.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

GENERIC = "generic"
GENERIC_TEXT = "text encoder"

_FILTER = "the layers that convert_to_quant 1.3 leaves alone for it"
_EXPORTER = "the settings of Comfy-Org's comfy-quants"
_NAMES = "the input, output and conditioning layers of ComfyUI's own class for it (0.33)"


@dataclass(frozen=True)
class KeepRule:
    """What is kept for one family of architectures.

    Attributes:
        name: of the rule; architectures whose id starts with it follow it.
        patterns: of the layers to keep.
        source: what the patterns follow, for reports.
        loads_quantized: ComfyUI's loader reads quantized layers of this family; else only casts work.
    """

    name: str
    patterns: tuple[str, ...]
    source: str
    loads_quantized: bool = True

    @property
    def known(self) -> bool:
        """Whether this is a rule for the architecture, and not the general one."""
        return self.name not in (GENERIC, GENERIC_TEXT)

    def keeps(self, layer: str) -> bool:
        return matches(layer, self.patterns)


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Tell whether any of the patterns fits a name; upper and lower case differ."""
    return any(
        fnmatchcase(name, pattern) if "*" in pattern or "?" in pattern else pattern in name
        for pattern in patterns
    )


_WAN = (
    "patch_embedding",
    "text_embedding",
    "time_embedding",
    "time_projection",
    "head.",
    "img_emb",
    "ref_conv",
    "control_adapter",
    "motion_encoder",
    "face_encoder",
    "face_adapter",
    "casual_audio_encoder",
    "audio_injector",
    "frame_packer",
    "trainable_cond_mask",
    "cond_encoder",
    "norm",
)
_HUNYUAN = (
    "img_in",
    "txt_in",
    "time_in",
    "time_r_in",
    "vector_in",
    "guidance_in",
    "vision_in",
    "byt5_in",
    "cond_type_embedding",
    "final_layer",
    "norm",
)
_LUMINA = ("x_embedder", "cap_embedder", "t_embedder", "adaLN_modulation", "final_layer", "norm")
_T5 = ("shared", "embed_tokens", "relative_attention_bias", "lm_head", "norm", "decoder.")
_LLM = (
    "embed_tokens",
    "lm_head",
    "norm",
    "visual.",
    "vision",
    "multi_modal_projector",
    "audio",
    "mtp.",
)

RULES: tuple[KeepRule, ...] = (
    KeepRule("wan", _WAN, f"{_FILTER} (--wan)"),
    KeepRule(
        "flux", ("img_in", "txt_in", "time_in", "vector_in", "guidance_in", "final_layer", "norm"), _NAMES
    ),
    KeepRule(
        "flux2",
        ("img_in", "txt_in", "time_in", "guidance_in", "final_layer", "stream_modulation", "norm"),
        f"{_FILTER} (--flux2)",
    ),
    KeepRule("longcat", ("img_in", "txt_in", "time_in", "final_layer", "norm"), _NAMES),
    KeepRule(
        "chroma",
        ("distilled_guidance_layer", "nerf_", "img_in", "txt_in", "final_layer", "norm"),
        f"{_FILTER} (--distillation_large, --nerf_small)",
    ),
    KeepRule("hunyuan", _HUNYUAN, f"{_FILTER} (--hunyuan), and {_NAMES}"),
    KeepRule(
        "skyreels", ("img_in", "txt_in", "time_in", "vector_in", "guidance_in", "final_layer", "norm"), _NAMES
    ),
    KeepRule(
        "qwen-image",
        ("time_text_embed", "img_in", "txt_in", "norm", "proj_out", "transformer_blocks.0.img_mod.1"),
        f"{_EXPORTER} (qwen_image_2512_fp8_static)",
    ),
    KeepRule(
        "anima",
        (
            "blocks.0.*",
            "blocks.1.adaln_modulation*",
            "llm_adapter",
            "final_layer",
            "x_embedder",
            "t_embedder",
        ),
        f"{_EXPORTER} (anima_2b_fp8)",
    ),
    KeepRule("z-image", _LUMINA, f"{_FILTER} (--zimage)"),
    KeepRule("lumina", _LUMINA, f"{_FILTER} (--zimage, of the same layout)"),
    KeepRule("sd3", ("x_embedder", "context_embedder", "y_embedder", "t_embedder", "final_layer"), _NAMES),
    KeepRule(
        "ltx",
        (
            "patchify_proj",
            "adaln_single",
            "caption_projection",
            "proj_out",
            "scale_shift_table",
            "embeddings_connector",
            "to_gate_logits",
            "av_ca_",
            "norm",
        ),
        f"{_FILTER} (--ltxv2)",
    ),
    KeepRule(
        "hidream",
        ("x_embedder", "t_embedder", "p_embedder", "caption_projection", "final_layer", "gate", "norm"),
        _NAMES,
    ),
    KeepRule("mochi", ("t5_y_embedder", "t5_yproj", "t_embedder", "final_layer", "norm"), _NAMES),
    KeepRule("cosmos", ("x_embedder", "t_embedder", "adaln_modulation", "final_layer", "norm"), _NAMES),
    KeepRule("auraflow", ("init_x_linear", "cond_seq_linear", "t_embedder", "final_linear", "modF"), _NAMES),
    KeepRule("sd1", ("time_embed", "norm"), _NAMES),
    KeepRule("sd2", ("time_embed", "norm"), _NAMES),
    KeepRule("sdxl", ("time_embed", "label_emb", "norm"), _NAMES),
)
# Ids of text encoders are those of the pairing table.
TEXT_RULES: tuple[KeepRule, ...] = (
    KeepRule("t5-xxl", _T5, f"{_FILTER} (--t5xxl)"),
    KeepRule("umt5-xxl", _T5, f"{_FILTER} (--t5xxl)"),
    KeepRule("t5-11b", _T5, f"{_FILTER} (--t5xxl)"),
    KeepRule("t5-", _T5, f"{_FILTER} (--t5xxl)", loads_quantized=False),
    KeepRule("byt5", _T5, f"{_FILTER} (--t5xxl)", loads_quantized=False),
    KeepRule("clip", ("embedding", "text_projection", "norm"), _NAMES, loads_quantized=False),
    KeepRule("gemma", (*_LLM, "per_layer_input_gate", "per_layer_projection"), f"{_FILTER} (--gemma4)"),
    KeepRule("qwen", _LLM, f"{_FILTER} (--qwen_vlm, without its first and last layer)"),
    KeepRule("mistral", _LLM, f"{_FILTER} (--mistral)"),
    KeepRule("ministral", _LLM, f"{_FILTER} (--mistral)"),
    KeepRule("llama", _LLM, f"{_FILTER} (--mistral, of the same layout)"),
)
_GENERIC_RULE = KeepRule(
    GENERIC,
    ("norm", "embed", "time_", "timestep", "final_layer", "proj_out", "modulation", "head."),
    "names that most architectures give to their input, output and conditioning layers",
)
_GENERIC_TEXT_RULE = KeepRule(
    GENERIC_TEXT,
    (*_LLM, *_T5, "embedding"),
    "names that most text encoders give to their embeddings and heads",
    loads_quantized=False,  # nobody knows, and a file that does not load helps nobody
)
# Tensors by which ComfyUI's loader takes a file for a language model, whose quantized layers it reads.
_LANGUAGE_MODEL = ("model.layers.0.self_attn.k_proj.weight", "model.layers.0.linear_attn.in_proj_a.weight")


def keep_rule(architecture: str | None) -> KeepRule:
    """Return the rule for a diffusion architecture; the longest start of its id that has one is taken."""
    return _longest(RULES, architecture) or _GENERIC_RULE


def text_rule(kind: str | None, names: Container[str] = ()) -> KeepRule:
    """Return the rule for a text encoder.

    Args:
        kind: its id in the pairing table; None where that has none.
        names: of its tensors.
    """
    found = _longest(TEXT_RULES, kind)
    if found is None and any(name in names for name in _LANGUAGE_MODEL):
        return replace(_GENERIC_TEXT_RULE, loads_quantized=True)
    return found or _GENERIC_TEXT_RULE


def _longest(rules: Iterable[KeepRule], name: str | None) -> KeepRule | None:
    fitting = [rule for rule in rules if name and name.startswith(rule.name)]
    return max(fitting, key=lambda rule: len(rule.name), default=None)
