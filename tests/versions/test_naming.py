"""What the names of model files say, pinned on names under which models are published."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from managed_models.manager.versions.families import EIGHT_BIT as EIGHT
from managed_models.manager.versions.families import FAMILIES, FOUR_BIT, FULL, GGUF, Axis
from managed_models.manager.versions.naming import read_name, read_text

KIND, INPUT, NOISE, SPEED, SIZE = Axis.KIND, Axis.INPUT, Axis.NOISE, Axis.SPEED, Axis.SIZE

# name without its ending -> family, generation, own versions, precision, words on axes
NAMES: list[tuple[str, str | None, str | None, tuple[str, ...], str | None, dict[Axis, set[str]]]] = [
    (
        "wan2.2_t2v_high_noise_14B_fp8_scaled",
        "wan",
        "2.2",
        (),
        EIGHT,
        {INPUT: {"t2v"}, NOISE: {"high noise"}, SIZE: {"14B"}},
    ),
    (
        "wan2.2_i2v_low_noise_14B_fp8_scaled",
        "wan",
        "2.2",
        (),
        EIGHT,
        {INPUT: {"i2v"}, NOISE: {"low noise"}, SIZE: {"14B"}},
    ),
    (
        "Wan2.2-T2V-A14B-LowNoise-Q4_K_M",
        "wan",
        "2.2",
        (),
        GGUF,
        {INPUT: {"t2v"}, NOISE: {"low noise"}, SIZE: {"14B"}},
    ),
    (
        "Wan2_2-I2V-A14B-HIGH_fp8_e4m3fn_scaled_KJ",
        "wan",
        "2.2",
        (),
        EIGHT,
        {INPUT: {"i2v"}, NOISE: {"high noise"}, SIZE: {"14B"}},
    ),
    ("wan2.1_t2v_1.3B_fp16", "wan", "2.1", (), FULL, {INPUT: {"t2v"}, SIZE: {"1.3B"}}),
    (
        "wan2.1_i2v_480p_14B_fp16",
        "wan",
        "2.1",
        (),
        FULL,
        {INPUT: {"i2v"}, SIZE: {"14B"}, Axis.RESOLUTION: {"480p"}},
    ),
    (
        "wan2.1_fun_camera_v1.1_14B_bf16",
        "wan",
        "2.1",
        ("1.1",),
        FULL,
        {KIND: {"fun", "camera"}, SIZE: {"14B"}},
    ),
    ("wan2.1_vace_14B_fp16", "wan", "2.1", (), FULL, {KIND: {"vace"}, SIZE: {"14B"}}),
    ("wan2.2_ti2v_5B_fp16", "wan", "2.2", (), FULL, {INPUT: {"ti2v"}, SIZE: {"5B"}}),
    ("Wan2_1_VAE_bf16", "wan", "2.1", (), FULL, {Axis.ROLE: {"VAE"}}),
    (
        "wan2.2_t2v_lightx2v_4steps_lora_v1.1_high_noise",
        "wan",
        "2.2",
        ("1.1",),
        None,
        {INPUT: {"t2v"}, NOISE: {"high noise"}, SPEED: {"4 steps"}, Axis.ROLE: {"LoRA"}},
    ),
    (
        "Wan21_CausVid_bidirect2_T2V_1_3B_lora_rank32",
        "wan",
        "2.1",
        (),
        None,
        {INPUT: {"t2v"}, SIZE: {"1.3B"}, SPEED: {"causvid"}, Axis.RANK: {"rank 32"}},
    ),
    ("wan_animate_2_int8_convrot", "wan-animate", "2", (), EIGHT, {}),
    ("qwen_image_fp8_e4m3fn", "qwen-image", None, (), EIGHT, {KIND: set()}),
    ("qwen_image_2512_fp8_e4m3fn", "qwen-image", "2512", (), EIGHT, {KIND: set()}),
    ("qwen_image_edit_2509_fp8_e4m3fn", "qwen-image", "2509", (), EIGHT, {KIND: {"edit"}}),
    ("qwen_image_edit_2511_bf16", "qwen-image", "2511", (), FULL, {KIND: {"edit"}}),
    ("Qwen-Edit-2509-Multiple-angles", "qwen-image", "2509", (), None, {KIND: {"edit"}}),
    (
        "Qwen-Image-Edit-2509-Lightning-8steps-V1.0-bf16",
        "qwen-image",
        "2509",
        ("1.0",),
        FULL,
        {KIND: {"edit"}, SPEED: {"8 steps", "lightning"}},
    ),
    (
        "Qwen-Image-2512-Fun-Controlnet-Union-2602",
        "qwen-image",
        "2512",
        ("2602",),
        None,
        {KIND: {"fun", "control", "union"}},
    ),
    ("flux1-dev", "flux-1", None, (), None, {Axis.EDITION: {"dev"}}),
    ("flux1-schnell-fp8", "flux-1", None, (), EIGHT, {SPEED: {"schnell"}}),
    ("flux1-dev-kontext_fp8_scaled", "flux-1", None, (), EIGHT, {KIND: {"kontext"}, Axis.EDITION: {"dev"}}),
    ("flux.1-fill-dev-OneReward-transformer_fp8", "flux-1", None, (), EIGHT, {KIND: {"fill"}}),
    ("flux1-dev_fp8_e4m3fn_fast", "flux-1", None, (), EIGHT, {SPEED: set()}),
    ("hidream_i1_fast_fp8", "hidream-i1", None, (), EIGHT, {SPEED: {"fast"}}),
    ("flux2_dev_fp8mixed", "flux-2", None, (), EIGHT, {Axis.EDITION: {"dev"}}),
    (
        "flux-2-klein-base-9b-fp8",
        "flux-2",
        None,
        (),
        EIGHT,
        {SIZE: {"9B"}, Axis.EDITION: {"klein", "base"}},
    ),
    ("z_image_turbo_bf16", "z-image", None, (), FULL, {SPEED: {"turbo"}}),
    ("sd_xl_base_1.0", "sdxl", None, ("1.0",), None, {KIND: set(), Axis.EDITION: {"base"}}),
    ("sd_xl_refiner_1.0", "sdxl", None, ("1.0",), None, {KIND: {"refiner"}}),
    ("sd3.5_large_fp8_scaled", "sd3", "3.5", (), EIGHT, {Axis.EDITION: {"large"}}),
    ("v1-5-pruned-emaonly", "sd1", None, (), None, {}),
    ("hunyuan_video_t2v_720p_bf16", "hunyuan-video", None, (), FULL, {INPUT: {"t2v"}}),
    (
        "hunyuanvideo1.5_1080p_sr_distilled_fp16",
        "hunyuan-video",
        "1.5",
        (),
        FULL,
        {KIND: {"super-resolution"}, SPEED: {"distilled"}},
    ),
    ("hunyuanvideo15_vae_fp16", "hunyuan-video", "1.5", (), FULL, {Axis.ROLE: {"VAE"}}),
    ("hunyuan3d-dit-v2-mv-turbo_fp16", "hunyuan-3d", "2", (), FULL, {SPEED: {"turbo"}}),
    ("ltx-video-2b-v0.9.5", "ltx-video", None, ("0.9.5",), None, {SIZE: {"2B"}}),
    ("ltx-2-19b-dev-fp8", "ltx-2", "2", (), EIGHT, {SIZE: {"19B"}, Axis.EDITION: {"dev"}}),
    ("ltx-2.3-spatial-upscaler-x2-1.1", "ltx-2", "2.3", ("1.1",), None, {KIND: {"upscaler"}}),
    ("ace_step_v1_3.5b", "ace-step", "1", (), None, {SIZE: {"3.5B"}}),
    ("hidream_e1_1_bf16", "hidream-e1", "1.1", (), FULL, {}),
    ("NetaYumev35_pretrained_all_in_one", "neta-yume", "3.5", (), None, {}),
    ("anima-preview3-base", "anima", None, (), None, {Axis.PRERELEASE: {"preview"}}),
    ("capybara_v0.1", "capybara", None, ("0.1",), None, {}),
    ("FireRed-Image-Edit-1.1-transformer", "firered-image", None, ("1.1",), None, {KIND: {"edit"}}),
    ("gemma_3_12B_it_fp4_mixed", "gemma", "3", (), FOUR_BIT, {SIZE: {"12B"}}),
    ("gemma4-12b-with-proj-ltx-2.5-comfy-int8-convrot", "gemma", "4", (), EIGHT, {SIZE: {"12B"}}),
    ("qwen_2.5_vl_7b_fp8_scaled", "qwen-vl", "2.5", (), EIGHT, {SIZE: {"7B"}}),
    ("qwen_0.6b_ace15", "qwen", None, (), None, {SIZE: {"0.6B"}}),
    ("t5xxl_fp8_e4m3fn_scaled", "t5", None, (), EIGHT, {}),
    ("umt5_xxl_fp16", "umt5", None, (), FULL, {}),
    ("clip_l", "clip-l", None, (), None, {}),
    ("juggernautXL_v9", None, None, ("9",), None, {}),
    ("my_model_v0.2-alpha", None, None, ("0.2",), None, {Axis.PRERELEASE: {"alpha"}}),
    ("some-style_v1.5", None, None, ("1.5",), None, {}),  # v1.5 alone is no Stable Diffusion
    ("lens_blur_flux1", "flux-1", None, (), None, {KIND: {"blur"}}),
]


@pytest.mark.parametrize(
    ("name", "family", "generation", "own", "precision", "words"), NAMES, ids=[row[0] for row in NAMES]
)
def test_a_published_name(
    name: str,
    family: str | None,
    generation: str | None,
    own: tuple[str, ...],
    precision: str | None,
    words: dict[Axis, set[str]],
) -> None:
    found = read_name(f"{name}.safetensors")
    assert (found.family, found.generation, found.own, found.precision) == (
        family,
        generation,
        own,
        precision,
    )
    assert {axis: set(found.on(axis)) for axis in words} == words


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors", "2.2"),
        ("wan2.1_fun_camera_v1.1_14B_bf16.safetensors", "1.1"),  # its own, not its family's
        ("wan2.2_i2v_lightx2v_4steps_lora_v1_high_noise.safetensors", "1"),
        ("ltx-2.3-22b-distilled-lora-384.safetensors", None),  # 2.3 is the model that it is made for
        ("qwen_image_edit_2509_fp8_e4m3fn.safetensors", "2509"),
        ("qwen_image_edit_fp8_e4m3fn.safetensors", None),
        ("FireRed-Image-Edit-1.0-Lightning-8steps-v1.0.safetensors", None),  # which of the two?
        ("flux1-dev.safetensors", None),
        ("sub folder/wan2.2_vae.safetensors", "2.2"),
        ("sub\\wan2.2_vae.safetensors", "2.2"),
        ("wan2.2_vae", "2.2"),
        ("ae.safetensors", None),
    ],
)
def test_the_version_that_a_name_says(name: str, version: str | None) -> None:
    assert read_name(name).version == version


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Wan2_1-I2V-14B-480p_fp8_e4m3fn_scaled_KJ", "wan2.1_i2v_480p_14B_fp8_scaled"),
        ("QWEN IMAGE EDIT 2509", "qwen-image-edit-2509"),
        ("HunyuanVideo1.5_720p_I2V", "hunyuanvideo15-720P-i2v"),
    ],
)
def test_spelling_does_not_matter(one: str, other: str) -> None:
    assert read_text(one) == read_text(other)


def test_ids_are_written_one_way_and_titles_are_told_apart() -> None:
    ids = [row.id for row in FAMILIES]
    assert len(set(ids)) == len(ids)
    assert len({row.title for row in FAMILIES}) == len(ids)
    assert all(row.id == row.id.lower() and " " not in row.id for row in FAMILIES)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_read(text: str) -> None:
    assert read_text(text) == read_text(text)
    assert not read_text(text).rest or text.strip()


def test_a_very_long_name_is_read_as_far_as_names_go() -> None:
    assert read_text("wan2.1-" + "a-1.2-" * 5000).family == "wan"
