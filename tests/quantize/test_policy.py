"""Which tensors change and which stay: decided from the header alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from managed_models.manager.demo import DEMO_MODELS, layouts
from managed_models.manager.errors import AlreadyQuantized, BadInput, NothingToQuantize
from managed_models.manager.formats.dtypes import DTYPE_BITS
from managed_models.manager.formats.safetensors import Header, TensorInfo, read_header
from managed_models.manager.identify import ModelIdentity, identify
from managed_models.manager.quantize.choices import EVERYTHING, POLICIES, RECOMMENDED
from managed_models.manager.quantize.formats import FORMATS
from managed_models.manager.quantize.keep_rules import keep_rule
from managed_models.manager.quantize.policy import (
    Action,
    TensorPlan,
    is_linear,
    parse_patterns,
    plan_tensors,
)
from support.files import entry, raw_file, shapes_file

FP8, INT8, BF16, FP16 = (FORMATS[name] for name in ("fp8_e4m3fn_scaled", "int8", "bf16", "fp16"))
WAN = layouts.wan21_t2v(width=64, ffn=128, layers=2)


def plan(
    path: Path, target: Any = FP8, policy: str = RECOMMENDED, keep: tuple[str, ...] = ()
) -> dict[str, TensorPlan]:
    header = read_header(path)
    plans = plan_tensors(header, identify(header), target, policy, keep)
    assert [p.name for p in plans] == list(header.tensors)
    return {p.name: p for p in plans}


def changed(plans: dict[str, TensorPlan]) -> set[str]:
    return {name for name, p in plans.items() if p.action is not Action.COPY}


@pytest.fixture
def wan(tmp_path: Path) -> Path:
    return shapes_file(tmp_path / "wan.safetensors", WAN)


# Rules


@pytest.mark.parametrize(
    ("architecture", "rule"),
    [
        ("wan-t2v", "wan"),
        ("wan2.2-i2v-14b", "wan"),
        ("flux-dev", "flux"),
        ("flux2", "flux2"),
        ("sd1.5", "sd1"),
        ("sdxl-refiner", "sdxl"),
        ("sd3.5-large", "sd3"),
        ("hunyuan-video-1.5", "hunyuan"),
        ("chroma-radiance", "chroma"),
        ("qwen-image", "qwen-image"),
        ("ltx-2", "ltx"),
        ("mochi", "mochi"),
        ("somethingnew", "generic"),
        (None, "generic"),
    ],
)
def test_the_longest_start_of_an_architecture_names_its_rule(architecture: str | None, rule: str) -> None:
    found = keep_rule(architecture)
    assert found.name == rule
    assert found.patterns
    assert found.source
    assert found.known is (rule != "generic")


@pytest.mark.parametrize(
    ("text", "patterns"),
    [
        ("", ()),
        ("  \n ", ()),
        ("ffn.2", ("ffn.2",)),
        ("a, b,c", ("a", "b", "c")),
        ("blocks.0.*\n*.ffn.?", ("blocks.0.*", "*.ffn.?")),
    ],
)
def test_patterns_are_separated_by_commas_blanks_or_lines(text: str, patterns: tuple[str, ...]) -> None:
    assert parse_patterns(text) == patterns


@pytest.mark.parametrize("text", ["*", "??", "ffn, **", ".", "*.*"])
def test_a_pattern_that_keeps_everything_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="keeps every layer"):
        parse_patterns(text)


@pytest.mark.parametrize(
    ("name", "shape", "linear"),
    [
        ("a.weight", (64, 64), True),
        ("a.weight", (64,), False),
        ("a.weight", (64, 64, 3, 3), False),
        ("a.bias", (64, 64), False),
        ("modulation", (64, 64), False),
    ],
)
def test_linear_weights_are_told_by_name_and_shape(name: str, shape: tuple[int, ...], linear: bool) -> None:
    assert is_linear(name, TensorInfo("BF16", shape, 0, 2 * math.prod(shape))) is linear


# Plans with a scale


@pytest.mark.parametrize("target", [FP8, INT8], ids=lambda f: f.name)
def test_wan_keeps_its_embeddings_head_and_norms(wan: Path, target: Any) -> None:
    plans = plan(wan, target)
    blocks = [f"blocks.{i}" for i in range(2)]
    layers = [f"{a}.{n}" for a in ("self_attn", "cross_attn") for n in "qkvo"] + ["ffn.0", "ffn.2"]
    assert changed(plans) == {f"{block}.{layer}.weight" for block in blocks for layer in layers}
    assert {p.reason for p in plans.values() if p.linear and p.action is Action.COPY} == {
        "kept by the recommended policy"
    }
    assert all(p.action is Action.QUANTIZE for name, p in plans.items() if name in changed(plans))


def test_everything_leaves_only_what_no_kernel_takes(wan: Path) -> None:
    plans = plan(wan, policy=EVERYTHING)
    linear = {name for name, p in plans.items() if p.linear}
    assert changed(plans) == linear
    assert {"head.head.weight", "time_projection.1.weight", "text_embedding.0.weight"} < linear
    assert "patch_embedding.weight" not in linear


@pytest.mark.parametrize(
    ("pattern", "kept"),
    [
        ("blocks.0.", 10),
        ("ffn", 4),
        ("blocks.1.ffn.2", 1),
        ("*.ffn.2.weight", 2),
        ("blocks.?.self_attn.q.weight", 2),
        ("nothing.like.it", 0),
        ("FFN", 0),  # names are case-sensitive
    ],
)
def test_keep_patterns_keep_more_layers(wan: Path, pattern: str, kept: int) -> None:
    before, after = changed(plan(wan)), plan(wan, keep=(pattern,))
    spared = before - changed(after)
    assert len(spared) == kept
    assert {after[name].reason for name in spared} <= {"kept by keep_patterns"}


def test_keep_patterns_hold_under_the_policy_everything_too(wan: Path) -> None:
    plans = plan(wan, policy=EVERYTHING, keep=("head.",))
    assert plans["head.head.weight"].reason == "kept by keep_patterns"


@pytest.mark.parametrize(
    ("shape", "quantized"),
    [
        ((32, 32), True),
        ((48, 64), True),
        ((31, 64), False),
        ((64, 16), False),
        ((64, 72), False),
        ((100, 64), False),
    ],
)
def test_small_and_odd_shapes_are_kept_and_say_why(
    tmp_path: Path, shape: tuple[int, int], quantized: bool
) -> None:
    path = shapes_file(tmp_path / "wan.safetensors", WAN | {"blocks.0.odd.weight": shape})
    odd = plan(path)["blocks.0.odd.weight"]
    assert odd.action is (Action.QUANTIZE if quantized else Action.COPY)
    assert odd.reason == ("" if quantized else FP8.fits(shape))
    assert bool(odd.reason) is not quantized


def test_only_the_diffusion_part_of_a_checkpoint_changes(tmp_path: Path) -> None:
    parts = layouts.sd15_checkpoint(depth=1) | {
        "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight": (3072, 768)
    }
    plans = plan(shapes_file(tmp_path / "sd.safetensors", parts))
    assert changed(plans)
    assert all(name.startswith("model.diffusion_model.") for name in changed(plans))
    outside = [p for name, p in plans.items() if not name.startswith("model.diffusion_model.")]
    assert not any(p.checked or p.linear for p in outside)


def test_a_rule_is_matched_without_the_prefix_of_the_model(tmp_path: Path) -> None:
    # "model.diffusion_model." itself must not match a pattern such as "*model*".
    plans = plan(shapes_file(tmp_path / "sd.safetensors", layouts.sd15_checkpoint(depth=1)), keep=("model.",))
    assert changed(plans)


@pytest.mark.parametrize("kind", sorted(DEMO_MODELS))
@pytest.mark.parametrize("target", [FP8, INT8], ids=lambda f: f.name)
def test_nine_tenths_of_the_linear_weights_change(kind: str, target: Any, tmp_path: Path) -> None:
    plans = plan(shapes_file(tmp_path / "model.safetensors", DEMO_MODELS[kind].layout()), target)
    linear = sum(p.info.elements for p in plans.values() if p.linear)
    quantized = sum(p.info.elements for p in plans.values() if p.action is Action.QUANTIZE)
    assert quantized / linear >= 0.9


# Casts


def test_a_cast_of_recommended_keeps_norms_and_biases(tmp_path: Path) -> None:
    plans = plan(shapes_file(tmp_path / "wan.safetensors", WAN, "F32"), BF16)
    assert changed(plans) == {name for name, shape in WAN.items() if len(shape) >= 2}
    assert {plans[name].action for name in changed(plans)} == {Action.CAST}


def test_a_cast_of_everything_casts_everything(tmp_path: Path) -> None:
    plans = plan(shapes_file(tmp_path / "wan.safetensors", WAN, "F32"), FP16, EVERYTHING)
    assert changed(plans) == set(WAN)


def test_a_cast_leaves_what_is_in_the_format_already(tmp_path: Path) -> None:
    mixed = {name: "F16" if ".ffn." in name else "F32" for name in WAN}
    plans = plan(shapes_file(tmp_path / "wan.safetensors", WAN, mixed), FP16)
    assert plans["blocks.0.ffn.0.weight"].reason == "stored in fp16 already"
    assert plans["blocks.0.self_attn.q.weight"].action is Action.CAST


# Refusals


@pytest.mark.parametrize("target", FORMATS.values(), ids=lambda f: f.name)
@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "I8"])
def test_plain_eight_bit_weights_are_quantized_already(tmp_path: Path, dtype: str, target: Any) -> None:
    path = shapes_file(tmp_path / "wan.safetensors", WAN, dtype)
    with pytest.raises(AlreadyQuantized, match="quantized already") as caught:
        plan(path, target)
    assert caught.value.details["precision"]


def _marked_file(path: Path, prefix: str, marked: str) -> Path:
    """Write a model (holes of zeros) of which the layer ``marked`` carries a real fp8 marker."""
    marker = b'{"format": "float8_e4m3fn"}'
    header: dict[str, Any] = {f"{marked}.comfy_quant": entry("U8", [len(marker)], 0, len(marker))}
    position = len(marker)
    shapes = {f"{prefix}{name}": shape for name, shape in WAN.items()}
    shapes.setdefault(f"{marked}.weight", (64, 64))
    for name, shape in shapes.items():
        kind = "F8_E4M3" if name == f"{marked}.weight" else "BF16"
        size = math.prod(shape) * DTYPE_BITS[kind] // 8
        header[name] = entry(kind, list(shape), position, position + size)
        position += size
    return raw_file(path, header, marker + bytes(position - len(marker)))


def test_scaled_fp8_is_quantized_already(tmp_path: Path) -> None:
    path = _marked_file(tmp_path / "wan.safetensors", "", "blocks.0.ffn.0")
    with pytest.raises(AlreadyQuantized, match="fp8_e4m3fn, scaled"):
        plan(path)


def test_a_quantized_text_encoder_does_not_make_the_diffusion_part_quantized(tmp_path: Path) -> None:
    layer = "text_encoders.t5.encoder.block.0.layer.0.SelfAttention.q"
    path = _marked_file(tmp_path / "all_in_one.safetensors", "model.diffusion_model.", layer)
    plans = plan(path)
    assert plans[f"{layer}.weight"].action is Action.COPY
    assert plans["model.diffusion_model.blocks.0.ffn.0.weight"].action is Action.QUANTIZE


@pytest.mark.parametrize(
    ("dtype", "target", "keep"),
    [("BF16", BF16, ()), ("F16", FP16, ()), ("BF16", FP8, ("blocks",)), ("BF16", INT8, ("weight",))],
)
def test_a_plan_that_changes_nothing_is_refused(
    tmp_path: Path, dtype: str, target: Any, keep: tuple[str, ...]
) -> None:
    path = shapes_file(tmp_path / "wan.safetensors", WAN, dtype)
    with pytest.raises(NothingToQuantize, match="would change"):
        plan(path, target, keep=keep)


# Laws

_NAMES = st.sampled_from(
    [
        f"{prefix}{layer}{part}"
        for prefix in ("", "model.diffusion_model.", "first_stage_model.")
        for layer in ("blocks.0.attn.q", "blocks.1.ffn.0", "img_in", "norm_out", "time_embed.0", "head")
        for part in (".weight", ".bias", ".weight_scale", ".comfy_quant", ".scale")
    ]
)
_SHAPES = st.lists(st.sampled_from([1, 16, 31, 32, 64, 100, 256]), max_size=4).map(tuple)


@st.composite
def _headers(draw: st.DrawFn) -> Header:
    position, tensors = 0, {}
    for name in draw(st.lists(_NAMES, unique=True, min_size=1, max_size=12)):
        dtype, shape = draw(st.sampled_from(sorted(DTYPE_BITS))), draw(_SHAPES)
        end = position + math.prod(shape) * DTYPE_BITS[dtype] // 8
        tensors[name] = TensorInfo(dtype, shape, position, end)
        position = end
    return Header(Path("x.safetensors"), position + 8, 8, {}, tensors)


@settings(deadline=None, max_examples=150)
@given(
    _headers(),
    st.sampled_from(list(FORMATS.values())),
    st.sampled_from(POLICIES),
    st.sampled_from([(), ("ffn",), ("*.q.*",)]),
    st.sampled_from(["wan-t2v", "flux-dev", None]),
    st.sampled_from(["", "model.diffusion_model."]),
)
def test_a_plan_covers_every_tensor_once_and_in_order(
    header: Header,
    target: Any,
    policy: str,
    keep: tuple[str, ...],
    architecture: str | None,
    prefix: str,
) -> None:
    facts = identify(header).to_dict() if not _has_markers(header) else _plain_facts()
    facts |= {"architecture": architecture, "prefix": prefix, "quantization": "bf16", "quantized_layers": 0}
    try:
        plans = plan_tensors(header, ModelIdentity.from_dict(facts), target, policy, keep)
    except NothingToQuantize:
        return
    assert [p.name for p in plans] == list(header.tensors)
    assert any(p.action is not Action.COPY for p in plans)
    for p in plans:
        (weight, *sides) = p.outputs()
        assert (weight.name, weight.shape) == (p.name, p.info.shape)
        if p.action is Action.COPY:
            assert (weight.dtype, sides) == (p.info.dtype, [])
            continue
        assert p.name.startswith(prefix)
        assert p.checked
        assert p.reason == ""
        assert weight.dtype == target.dtype
        assert weight.nbytes <= p.info.nbytes
        if p.action is Action.QUANTIZE:
            assert p.linear
            assert [side.name for side in sides] == [f"{p.layer}.weight_scale", f"{p.layer}.comfy_quant"]


def _has_markers(header: Header) -> bool:
    return any(name.endswith(".comfy_quant") for name in header.tensors)  # needs the file's bytes


def _plain_facts() -> dict[str, Any]:
    tensors = {"blocks.0.attn.q.weight": TensorInfo("BF16", (32, 32), 0, 2048)}
    return identify(Header(Path("x.safetensors"), 2056, 8, {}, tensors)).to_dict()
