"""Which files belong together: the table over the real layouts, both ways, and words for what is wrong."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from managed_models.manager.compatibility import Severity
from managed_models.manager.formats.dtypes import DTYPE_BITS
from managed_models.manager.formats.safetensors import Header, TensorInfo
from managed_models.manager.identify import identify
from managed_models.manager.model import ModelType
from managed_models.manager.pairing import (
    ControlNetFacts,
    DiffusionFacts,
    Facts,
    LoraFacts,
    TextEncoderFacts,
    VaeFacts,
    facts_of,
    judge_pair,
    judge_set,
    suitable,
)
from managed_models.manager.pairing.table import FAMILIES, FAMILY_OF_ARCHITECTURE, SPACES, TEXT_ENCODER_OF
from support import pairing_layouts as layouts
from support.pairing_layouts import Layout


def header(shapes: Layout, dtype: str = "BF16") -> Header:
    tensors: dict[str, TensorInfo] = {}
    position = 0
    for name, shape in shapes.items():
        size = DTYPE_BITS[dtype] // 8
        for dimension in shape:
            size *= dimension
        tensors[name] = TensorInfo(dtype, shape, position, position + size)
        position += size
    return Header(Path("file.safetensors"), position, 0, {}, tensors)


def facts(name: str, shapes: Layout, dtype: str = "BF16") -> Facts:
    file = header(shapes, dtype)
    return facts_of(name, identify(file), file.tensors)


MODELS = {name: facts(f"{name}.safetensors", shapes) for name, shapes in layouts.DIFFUSION.items()}
VAES = {name: facts(f"{name}_vae.safetensors", shapes) for name, shapes in layouts.VAES.items()}
ENCODERS = {name: facts(f"{name}.safetensors", shapes) for name, shapes in layouts.TEXT_ENCODERS.items()}
CONTROLS = {
    name: facts(f"{name}_control.safetensors", shapes) for name, shapes in layouts.CONTROLNETS.items()
}

# Architecture -> (latent channels, width of text, its VAEs, its text encoders), from the model cards and
# configurations of the publishers; written by hand, so that the table under test is not its own judge.
RIGHT: dict[str, tuple[int, int, set[str], set[str]]] = {
    "wan-t2v": (16, 4096, {"wan2.1", "tae-16"}, {"umt5-xxl"}),
    "wan2.1-i2v": (16, 4096, {"wan2.1", "tae-16"}, {"umt5-xxl"}),
    "wan2.2-i2v-14b": (16, 4096, {"wan2.1", "tae-16"}, {"umt5-xxl"}),
    "wan2.2-5b": (48, 4096, {"wan2.2", "tae-wan2.2"}, {"umt5-xxl"}),
    "hunyuan-video": (16, 4096, {"hunyuan-video", "tae-16"}, {"clip-l", "llama-3-8b"}),
    "hunyuan-video-1.5": (
        32,
        3584,
        {"hunyuan-video-1.5", "tae-hunyuan-video-1.5"},
        {"qwen2.5-vl-7b", "byt5"},
    ),
    "flux-dev": (16, 4096, {"flux", "taesd-16"}, {"clip-l", "t5-xxl"}),
    "flux2": (128, 15360, {"flux2"}, {"mistral-3-24b", "mistral-3-24b-pruned"}),
    "qwen-image": (16, 3584, {"wan2.1", "tae-16"}, {"qwen2.5-vl-7b"}),
    "z-image": (16, 2560, {"flux", "taesd-16"}, {"qwen3-4b"}),
    "sd1.5": (4, 768, {"sd", "taesd-4"}, {"clip-l"}),
    "sdxl": (4, 2048, {"sd", "taesd-4"}, {"clip-l", "clip-g"}),
    "sd3.5-large": (16, 4096, {"flux", "taesd-16"}, {"clip-l", "clip-g", "t5-xxl"}),
    "ltx-2": (128, 3840, {"ltx"}, {"gemma-3-12b", "gemma-4-12b"}),
}  # fmt: skip


def test_every_layout_is_what_it_is_called() -> None:
    assert set(RIGHT) == set(MODELS)
    for name, model in MODELS.items():
        assert isinstance(model, DiffusionFacts)
        assert model.architecture == name
        assert (model.latent_out, model.text_width) == RIGHT[name][:2]
    for name, vae in VAES.items():
        assert isinstance(vae, VaeFacts)
        assert vae.kind is not None, name
        assert vae.kind.id == name
    for name, encoder in ENCODERS.items():
        assert isinstance(encoder, TextEncoderFacts)
        assert encoder.kind is not None, name
        assert encoder.kind.id == name
        assert encoder.kind.width == encoder.width


@pytest.mark.parametrize("architecture", RIGHT)
def test_the_right_files_belong_and_the_wrong_ones_do_not_both_ways(architecture: str) -> None:
    model, (_, _, vaes, encoders) = MODELS[architecture], RIGHT[architecture]
    for others, right, code in ((VAES, vaes, "vae_mismatch"), (ENCODERS, encoders, "text_encoder_mismatch")):
        for name, other in others.items():
            verdict = judge_pair(model, other)
            assert verdict.fits is (name in right), (name, verdict)
            assert judge_pair(other, model) == verdict
            blockers = [f.code for f in verdict.findings if f.severity is Severity.BLOCKER]
            assert blockers == ([] if name in right else [code])


def test_the_table_is_whole() -> None:
    for family in FAMILIES:
        assert family.space in SPACES
        assert family.source
        for slot in family.slots:
            assert set(slot.kinds) <= set(TEXT_ENCODER_OF), family.id
    named = [name for family in FAMILIES for name in family.architectures]
    assert len(named) == len(set(named))


@pytest.mark.parametrize(
    ("width", "encoder"),
    [
        (15360, "mistral-3-24b"),
        (12288, "qwen3-8b"),
        (12288, "qwen3-vl-8b"),
        (7680, "qwen3-4b"),
        (7680, "qwen3-vl-4b"),
    ],
)
def test_flux_2_takes_the_encoder_of_its_width(width: int, encoder: str) -> None:
    model = facts("flux2", layouts.DIFFUSION["flux2"] | {"txt_in.weight": (6144, width)})
    assert judge_pair(model, ENCODERS[encoder]).fits is True
    wrong = "mistral-3-24b" if width != 15360 else "qwen3-4b"
    verdict = judge_pair(model, ENCODERS[wrong])
    assert verdict.fits is False
    assert ENCODERS[encoder].title in verdict.findings[0].message


def test_what_the_layout_cannot_tell_apart_is_said() -> None:
    for model, vae in (("sdxl", "sd"), ("sd1.5", "sd"), ("flux-dev", "flux"), ("sd3.5-large", "flux")):
        (finding,) = judge_pair(MODELS[model], VAES[vae]).findings
        assert (finding.code, finding.severity) == ("vae_ambiguous", Severity.NOTE)
    assert judge_pair(MODELS["wan2.2-5b"], VAES["wan2.2"]).findings == ()


# LoRAs


@pytest.mark.parametrize("style", ["peft", "kohya"])
@pytest.mark.parametrize("architecture", RIGHT)
def test_a_lora_of_a_model_matches_it_whole_and_others_not(architecture: str, style: str) -> None:
    lora = facts("ink.safetensors", layouts.lora_for(layouts.DIFFUSION[architecture], style))
    assert isinstance(lora, LoraFacts)
    assert lora.layers.ranks == (16, 16)
    assert judge_pair(MODELS[architecture], lora).fits is True
    family = FAMILY_OF_ARCHITECTURE[architecture].id
    assert family in lora.families
    for other, model in MODELS.items():
        if FAMILY_OF_ARCHITECTURE[other].id not in lora.families:
            verdict = judge_pair(lora, model)
            assert verdict.fits is False, other
            assert [f.code for f in verdict.findings] == ["lora_mismatch"]


FOREIGN_NAMES = {
    # diffusers and OneTrainer and SimpleTuner for Flux; kohya for SD; diffusion-pipe for HunyuanVideo
    "flux-dev": [
        ("transformer.transformer_blocks.0.attn.to_q", 3072, 3072),
        ("lora_transformer_single_transformer_blocks_1_proj_mlp", 12288, 3072),
        ("lycoris_transformer_blocks_1_attn_to_out_0", 3072, 3072),
    ],
    "sd1.5": [
        ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q", 320, 320),
        ("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k", 1280, 768),
        ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_out", 640, 640),
    ],
    "sdxl": [("lora_unet_down_blocks_2_attentions_0_transformer_blocks_9_attn2_to_k", 1280, 2048)],
    "hunyuan-video": [("transformer.double_blocks.0.img_attn_qkv", 9216, 3072)],
    "qwen-image": [("transformer_blocks.0.img_mlp.net.0.proj", 12288, 3072)],
    "z-image": [("diffusion_model.layers.0.attention.to_q", 3840, 3840)],
    "sd3.5-large": [("transformer.transformer_blocks.0.attn.add_k_proj", 2432, 2432)],
    "wan-t2v": [("lora_unet__blocks_0_cross_attn_k", 5120, 5120)],
}  # fmt: skip


@pytest.mark.parametrize("architecture", FOREIGN_NAMES)
def test_the_names_that_other_tools_write_are_known(architecture: str) -> None:
    lora = facts("ink.safetensors", layouts.lora(FOREIGN_NAMES[architecture], style="kohya"))
    verdict = judge_pair(MODELS[architecture], lora)
    assert (verdict.fits, verdict.findings) == (True, ())


def test_a_lora_of_another_size_is_told() -> None:
    small = layouts.lora([("diffusion_model.blocks.0.self_attn.q", 1536, 1536)])
    (finding,) = judge_pair(MODELS["wan-t2v"], facts("small.safetensors", small)).findings
    assert finding.code == "lora_mismatch"
    assert "it is made for Wan 2.1 1.3B, whose layers are larger or smaller" in finding.message
    five = facts("five.safetensors", layouts.lora_for(layouts.DIFFUSION["wan2.2-5b"]))
    assert judge_pair(MODELS["wan2.2-i2v-14b"], five).fits is False


def test_a_lora_that_fits_in_part_is_a_note_with_the_share() -> None:
    names = [(f"diffusion_model.double_blocks.{i}.img_attn.qkv", 9216, 3072) for i in range(3)]
    verdict = judge_pair(MODELS["flux-dev"], facts("ink.safetensors", layouts.lora(names)))
    (finding,) = verdict.findings
    assert verdict.fits is True
    assert (finding.code, finding.severity) == ("lora_partial", Severity.NOTE)
    assert "2 of its 3 layers (67 %)" in finding.message


def test_names_that_comfyui_does_not_know_match_nothing() -> None:
    lora = layouts.lora([("blocks.0.self_attn.q", 5120, 5120)])
    verdict = judge_pair(MODELS["wan-t2v"], facts("bare.safetensors", lora))
    assert verdict.fits is False
    assert "none of the 1 layers" in verdict.findings[0].message


def test_a_lora_fits_a_model_whose_layers_are_packed() -> None:
    packed = {name: (shape[0], shape[1] // 2) if len(shape) == 2 and "blocks" in name else shape
              for name, shape in layouts.DIFFUSION["flux-dev"].items()}  # fmt: skip
    model = facts("nvfp4.safetensors", packed, "U8")
    lora = facts("ink.safetensors", layouts.lora_for(layouts.DIFFUSION["flux-dev"]))
    assert judge_pair(model, lora).fits is True


def test_a_lora_for_text_alone_and_one_without_layers() -> None:
    text = layouts.lora([("lora_te_text_model_encoder_layers_0_mlp_fc1", 3072, 768)], style="kohya")
    verdict = judge_pair(MODELS["sd1.5"], facts("text.safetensors", text))
    assert (verdict.fits, verdict.findings[0].code) == (None, "lora_text_only")


# ControlNets, second models, sets


@pytest.mark.parametrize("base", layouts.CONTROLNETS)
def test_a_controlnet_belongs_to_its_base_alone(base: str) -> None:
    control = CONTROLS[base]
    assert isinstance(control, ControlNetFacts)
    for model in MODELS.values():
        assert isinstance(model, DiffusionFacts)
        assert model.family is not None
        verdict = judge_pair(model, control)
        assert verdict.fits is (model.family.id == base)
        assert judge_pair(control, model) == verdict


def test_halves_of_a_pair() -> None:
    high, low = (
        facts(f"{half}.safetensors", layouts.DIFFUSION["wan2.2-i2v-14b"]) for half in ("high", "low")
    )
    assert judge_pair(high, low).fits is True
    verdict = judge_pair(high, MODELS["wan-t2v"])
    assert verdict.fits is False
    assert verdict == judge_pair(MODELS["wan-t2v"], high)
    assert verdict.findings[0].code == "second_model_mismatch"
    assert judge_pair(high, MODELS["wan2.2-5b"]).fits is False


def test_a_packed_layer_says_nothing_about_widths() -> None:
    """4-bit weights are stored two in a byte: half of 15360 is the width of another text encoder."""
    packed = layouts.DIFFUSION["flux2"] | {"txt_in.weight": (6144, 7680)}
    model = facts("nvfp4.safetensors", packed, "U8")
    assert judge_pair(model, ENCODERS["mistral-3-24b"]).fits is True
    assert judge_pair(model, MODELS["flux2"]).fits is True


def test_a_set_names_the_encoder_that_is_missing() -> None:
    flux, clip, t5, vae = MODELS["flux-dev"], ENCODERS["clip-l"], ENCODERS["t5-xxl"], VAES["flux"]
    alone = judge_set(flux, [clip, vae], lambda role: [t5, clip] if role is ModelType.TEXT_ENCODER else [])
    (more,) = [f for f in alone.findings if f.code == "text_encoder_more"]
    assert more.severity is Severity.NOTE
    assert "T5-XXL" in more.message
    assert t5.name in more.remedy
    assert alone.together is True
    assert not [f for f in judge_set(flux, [t5, vae, clip]).findings if f.code == "text_encoder_more"]


def test_without_a_diffusion_model_two_files_are_asked_for_a_common_one() -> None:
    assert judge_pair(VAES["wan2.1"], ENCODERS["umt5-xxl"]).fits is True
    verdict = judge_set(VAES["wan2.2"], [ENCODERS["clip-g"]])
    assert verdict.together is False
    assert "Wan 2.2 5B" in verdict.findings[0].message


def test_suggestions_name_what_fits_certain_ones_first_and_three_at_most() -> None:
    model = MODELS["wan2.2-5b"]
    assert isinstance(model, DiffusionFacts)
    assert suitable(model, list(VAES.values())) == ["wan2.2_vae.safetensors", "tae-wan2.2_vae.safetensors"]
    copies = [facts(f"{i}.safetensors", layouts.VAES["wan2.2"]) for i in range(9, 0, -1)]
    assert suitable(model, copies) == ["1.safetensors", "2.safetensors", "3.safetensors"]
    wrong = judge_pair(model, VAES["wan2.1"], lambda role: copies)
    assert wrong.findings[0].remedy == "Choose 1.safetensors, 2.safetensors or 3.safetensors instead."


def test_unknown_stays_unknown_with_what_was_seen() -> None:
    vae = facts("odd_vae.safetensors", {"decoder.conv_in.weight": (512, 7, 3, 3)})
    verdict = judge_pair(MODELS["sdxl"], vae)
    assert (verdict.fits, [f.severity for f in verdict.findings]) == (None, [Severity.NOTE])
    assert "decoder.conv_in.weight" in verdict.findings[0].message
    assert isinstance(vae, VaeFacts)
    assert vae.latent_channels == 7
    stranger = facts("stranger.safetensors", {"a.b.c": (4, 4)})
    assert judge_pair(MODELS["sdxl"], stranger).fits is None
    assert judge_set(MODELS["sdxl"], [stranger]).together is None
    mochi = facts("auraflow.safetensors", {"double_layers.0.attn.w1q.weight": (3072, 3072),
                                           "cond_seq_linear.weight": (3072, 2048)})  # fmt: skip
    assert judge_pair(mochi, VAES["sd"]).fits is None


# Laws

_names = st.sampled_from(
    [
        *(name for shapes in layouts.DIFFUSION.values() for name in list(shapes)[:6]),
        *(name for shapes in layouts.VAES.values() for name in shapes),
        *(name for shapes in layouts.TEXT_ENCODERS.values() for name in list(shapes)[:12]),
        *(name for shapes in layouts.CONTROLNETS.values() for name in shapes),
        "diffusion_model.blocks.0.self_attn.q.lora_A.weight",
        "diffusion_model.blocks.0.self_attn.q.lora_B.weight",
        "lora_unet_down_blocks_0_attentions_0.lora_down.weight",
        "lora_unet_down_blocks_0_attentions_0.lora_up.weight",
        "lora_te_x.lora_up.weight",
        "x.hada_w1_a",
        "img_in.lora_A.weight",
        "single_blocks.0.norm.key_norm.scale",
    ]
)
_shapes = st.lists(st.sampled_from([0, 1, 4, 16, 48, 384, 512, 768, 3072, 4096, 10240]), max_size=5).map(
    tuple
)
_headers: st.SearchStrategy[Mapping[str, tuple[int, ...]]] = st.dictionaries(
    st.one_of(_names, st.text(max_size=20)), _shapes, max_size=8
)
_real = st.sampled_from([*MODELS.values(), *VAES.values(), *ENCODERS.values(), *CONTROLS.values()])


@settings(max_examples=300, deadline=None)
@given(_headers, _headers, st.sampled_from(["BF16", "U8"]))
def test_any_headers_can_be_judged_and_order_makes_no_difference(a: Layout, b: Layout, dtype: str) -> None:
    first, second = facts("a", a, dtype), facts("b", b, dtype)
    verdict = judge_pair(first, second)
    assert judge_pair(second, first) == verdict == judge_pair(first, second)
    assert verdict.fits is None or isinstance(verdict.fits, bool)
    assert (verdict.fits is False) == any(f.severity is Severity.BLOCKER for f in verdict.findings)
    for known in (*MODELS.values(), VAES["wan2.1"], ENCODERS["clip-l"]):
        judge_pair(known, first)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(MODELS.values())), st.lists(_real, max_size=4), st.randoms())
def test_the_order_of_a_set_makes_no_difference(model: Facts, others: list[Facts], random: object) -> None:
    verdicts = [judge_set(model, order) for order in itertools.islice(itertools.permutations(others), 6)]
    assert all(verdict == verdicts[0] for verdict in verdicts)
