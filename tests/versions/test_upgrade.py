"""Which version one may upgrade to, decided over facts alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from managed_models.manager import ModelInfo, ModelType, QuantizationType
from managed_models.manager.identify import ModelIdentity
from managed_models.manager.versions.facts import VersionFacts, file_facts, registered_facts
from managed_models.manager.versions.families import FULL, GGUF
from managed_models.manager.versions.naming import NameFacts, read_name
from managed_models.manager.versions.order import compare_versions, is_release
from managed_models.manager.versions.upgrade import (
    PRERELEASE,
    UpgradePlan,
    choose,
    difference,
    newer_files,
    plan_upgrade,
    same_line,
)

FP8, NVFP4, BF16 = QuantizationType.FP8, QuantizationType.NVFP4, QuantizationType.BF16


def said(version: str = "1.0", file: str = "", **facts: Any) -> ModelInfo:
    facts.setdefault("model_type", ModelType.DIFFUSION)
    return ModelInfo("model", file_path=Path(file), version=version, **facts)


def identity(**facts: Any) -> ModelIdentity:
    known: dict[str, Any] = {
        "role": ModelType.DIFFUSION,
        "architecture": "wan-t2v",
        "title": "Wan",
        "detected_by": "our table",
        "prefix": "",
        "parts": (),
        "parameters": 14_000_000_000,
        "weight_bytes": 28_000_000_000,
        "tensor_count": 1095,
        "dtypes": {"bf16": 14_000_000_000},
        "precision": "bf16",
        "quantization": BF16,
        "quantized_layers": 0,
    }
    return ModelIdentity(**{**known, **facts})


def plan(current: ModelInfo, *newer: ModelInfo) -> UpgradePlan:
    facts = [registered_facts(info) for info in (current, *newer)]
    return plan_upgrade(facts[0], facts)


# One newer version beside the active one, both as people register them


@pytest.mark.parametrize(
    ("current", "newer"),
    [
        ({}, {}),
        ({"file": "wan-1.0.0.safetensors"}, {"file": "wan-2.0.0.safetensors"}),
        ({"file": "wan2.1_t2v_14B_bf16.safetensors"}, {"file": "wan2.2_t2v_14B_bf16.safetensors"}),
        (
            {"file": "wan2.1_t2v_14B_fp8_scaled.safetensors"},
            {"file": "wan2.2_t2v_14B_fp8_e4m3fn.safetensors"},
        ),
        (
            {"file": "qwen_image_edit_2509_bf16.safetensors"},
            {"file": "qwen_image_edit_2511_bf16.safetensors"},
        ),
        ({"quantization": FP8}, {"quantization": QuantizationType.INT8}),  # both of 8 bits
        ({"quantization": BF16}, {}),
        ({"tags": ["favourite"]}, {"tags": ["video", "new"]}),  # words that nobody reads
        ({"file": "wan2.1_t2v.safetensors"}, {"file": "mine.safetensors"}),  # a name that says nothing
        ({"model_type": ModelType.OTHER}, {"model_type": ModelType.VAE}),
    ],
)
def test_a_newer_version_is_a_candidate(current: dict[str, Any], newer: dict[str, Any]) -> None:
    found = plan(said("1.0", **current), said("2.0", **newer))
    assert found == UpgradePlan(("2.0",), ())


@pytest.mark.parametrize(
    ("current", "newer", "code", "ours", "theirs"),
    [
        ({"file": "flux1-dev.safetensors"}, {"file": "flux2_dev.safetensors"}, "family", "Flux.1", "Flux.2"),
        ({"tags": ["sdxl"]}, {"tags": ["pony"]}, "family", "Stable Diffusion XL", "Pony"),
        ({"file": "sd_xl_base_1.0.safetensors"}, {"tags": ["sd1.5"]}, "family", "Stable Diffusion XL", ""),
        ({"tags": ["t2v"]}, {"tags": ["i2v"]}, "input", "t2v", "i2v"),
        (
            {"file": "wan2.1_t2v_14B.safetensors"},
            {"file": "wan2.2_i2v_14B.safetensors"},
            "input",
            "t2v",
            "i2v",
        ),
        (
            {"file": "wan2.2_t2v_high_noise.safetensors"},
            {"file": "wan2.2_t2v_low_noise.safetensors"},
            "noise",
            "high noise",
            "low noise",
        ),
        ({"file": "wan2.1_t2v.safetensors"}, {"tags": ["high noise"]}, "noise", "", "high noise"),
        (
            {"file": "qwen_image_2512.safetensors"},
            {"file": "qwen_image_edit_2511.safetensors"},
            "kind",
            "",
            "edit",
        ),
        (
            {"file": "z_image_bf16.safetensors"},
            {"file": "z_image_turbo_bf16.safetensors"},
            "speed",
            "",
            "turbo",
        ),
        (
            {"file": "Qwen-Image-Lightning-8steps-V1.0.safetensors"},
            {"file": "Qwen-Image-Lightning-4steps-V2.0.safetensors"},
            "speed",
            "8 steps, lightning",
            "4 steps, lightning",
        ),
        (
            {"file": "wan2.1_t2v_1.3B.safetensors"},
            {"file": "wan2.2_t2v_14B.safetensors"},
            "size",
            "1.3B",
            "14B",
        ),
        (
            {"file": "wan_i2v_480p.safetensors"},
            {"file": "wan_i2v_720p.safetensors"},
            "resolution",
            "480p",
            "720p",
        ),
        ({"quantization": FP8}, {"quantization": NVFP4}, "precision", "8-bit", "4-bit"),
        ({"quantization": FP8}, {}, "precision", "8-bit", FULL),
        ({}, {"quantization": QuantizationType.GGUF}, "precision", FULL, GGUF),
        ({"file": "wan_fp8.safetensors"}, {"file": "wan_bf16.safetensors"}, "precision", "8-bit", FULL),
        ({"version": "1.0+fp8"}, {"version": "2.0+bf16"}, "precision", "8-bit", FULL),
        ({}, {"model_type": ModelType.LORA}, "role", "diffusion", "lora"),
        (
            {"file": "wan2.1_lora_v1.safetensors", "model_type": ModelType.LORA},
            {"file": "wan2.2_lora_v2.safetensors", "model_type": ModelType.LORA},
            "base",
            "Wan 2.1",
            "Wan 2.2",
        ),
    ],
)
def test_another_model_or_variant_is_passed_over(
    current: dict[str, Any], newer: dict[str, Any], code: str, ours: str, theirs: str
) -> None:
    found = plan(said(**{"version": "1.0", **current}), said(**{"version": "2.0", **newer}))
    assert found.candidates == ()
    (passed,) = found.passed_over
    assert passed.difference.code == code
    assert passed.difference.ours == ours
    assert passed.difference.theirs == theirs or not theirs


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"architecture": "wan2.1-i2v", "title": "Wan 2.1 image-to-video"}, "architecture"),
        ({"parameters": 1_300_000_000}, "parameters"),
        ({"role": ModelType.CHECKPOINT}, "role"),
        ({"quantization": FP8}, "precision"),
    ],
)
def test_the_header_is_believed_before_the_person(changes: dict[str, Any], code: str) -> None:
    current = registered_facts(said("1.0"), identity())
    newer = registered_facts(said("2.0", quantization=BF16), identity(**changes))
    found = difference(current, newer)
    assert found is not None
    assert found.code == code
    assert difference(current, registered_facts(said("2.0", quantization=FP8), identity())) is None


def test_a_file_that_nobody_recognises_shows_nothing() -> None:
    unknown = identity(role=ModelType.OTHER, architecture=None, quantization=FP8)
    facts = registered_facts(said("1.0", quantization=NVFP4), unknown)
    assert (facts.role, facts.architecture, facts.precision) == (ModelType.DIFFUSION, None, "4-bit")


def test_a_prerelease_is_passed_over_while_there_is_a_release() -> None:
    found = plan(said("1.0"), said("2.0rc1"), said("3.0", "anima-preview3.safetensors"), said("1.5"))
    assert found.candidates == ("1.5",)
    assert [(p.version, p.difference.code) for p in found.passed_over] == [
        ("3.0", PRERELEASE),
        ("2.0rc1", PRERELEASE),
    ]


def test_someone_with_nothing_but_prereleases_is_offered_one() -> None:
    # The release is another variant: of this one there are only pre-releases.
    found = plan(said("1.0rc1", tags=["t2v"]), said("1.0rc2", tags=["t2v"]), said("1.0", tags=["i2v"]))
    assert found.candidates == ("1.0rc2",)
    assert [p.version for p in found.passed_over] == ["1.0"]
    assert plan(said("1.0rc1"), said("1.0rc2"), said("1.0")).candidates == ("1.0",)


@pytest.mark.parametrize(
    ("candidates", "suits", "upgrade", "shown", "unsuited"),
    [
        ((), (), None, None, ()),
        (("3", "2"), ("3", "2"), "3", "3", ()),
        (("3", "2", "1"), ("2",), "2", "2", ("3",)),
        (("3", "2"), (), None, "3", ()),
    ],
)
def test_the_newest_that_suits_is_chosen(
    candidates: tuple[str, ...],
    suits: tuple[str, ...],
    upgrade: str | None,
    shown: str | None,
    unsuited: tuple[str, ...],
) -> None:
    verdicts = {version: version in suits for version in candidates}
    assert choose(UpgradePlan(candidates), verdicts) == (upgrade, shown, unsuited)


# Laws

_WORDS = ["t2v", "i2v", "turbo", "edit", "high noise", "14B", "sdxl", "flux", "preview", "fp8", "nvfp4"]
_INFOS = st.builds(
    lambda number, tail, tags, kind: (f"{number}{tail}", tags, kind),
    st.sampled_from(["0.9", "1.0", "1.1", "2.0", "2509"]),
    st.sampled_from(["", "rc1", "-alpha.beta", "+fp8"]),
    st.lists(st.sampled_from(_WORDS), max_size=2),
    st.sampled_from([QuantizationType.NONE, FP8, NVFP4]),
)


def _facts(rows: list[tuple[str, list[str], QuantizationType]]) -> list[VersionFacts]:
    return [registered_facts(said(version, tags=tags, quantization=kind)) for version, tags, kind in rows]


@settings(max_examples=60, deadline=None)
@given(st.lists(_INFOS, min_size=1, max_size=6, unique_by=lambda row: row[0]))
def test_every_newer_version_is_a_candidate_or_passed_over_for_a_reason(
    rows: list[tuple[str, list[str], QuantizationType]],
) -> None:
    facts = _facts(rows)
    current = facts[0]
    found = plan_upgrade(current, facts)
    newer = {f.version for f in facts if compare_versions(str(f.version), str(current.version)) > 0}
    passed = {item.version for item in found.passed_over}
    assert set(found.candidates) | passed == newer
    assert not set(found.candidates) & passed
    by_version = {facts.version: facts for facts in facts}
    for version in found.candidates:
        assert difference(current, by_version[version]) is None
    alike = [f for f in facts if difference(current, f) is None]
    if any(f.is_release for f in alike):
        assert all(is_release(v) and not by_version[v].name.is_prerelease for v in found.candidates)
    steps = [compare_versions(a, b) for a, b in zip(found.candidates, found.candidates[1:], strict=False)]
    assert all(step >= 0 for step in steps)
    assert plan_upgrade(current, reversed(facts)) == found


@settings(max_examples=60, deadline=None)
@given(_INFOS, _INFOS)
def test_a_difference_is_one_both_ways(
    a: tuple[str, list[str], QuantizationType], b: tuple[str, list[str], QuantizationType]
) -> None:
    first, second = _facts([a, b])
    there, back = difference(first, second), difference(second, first)
    assert (there is None) == (back is None)
    assert difference(first, first) is None
    if there is not None and back is not None:
        assert (there.code, there.ours, there.theirs) == (back.code, back.theirs, back.ours)


# Files that nobody registered


def named(*names: str) -> list[VersionFacts]:
    return [file_facts(None, read_name(name), None) for name in names]


def newer(subject: str, *others: str) -> list[str]:
    return [others[i] for i in newer_files(named(subject)[0], named(*others))]


@pytest.mark.parametrize(
    ("subject", "others", "found"),
    [
        ("wan2.1_t2v_14B_bf16.safetensors", ["wan2.2_t2v_14B_bf16.safetensors"], [0]),
        ("wan2.2_t2v_14B_bf16.safetensors", ["wan2.1_t2v_14B_bf16.safetensors"], []),
        ("wan2.1_t2v_14B_bf16.safetensors", ["wan2.2_t2v_14B_fp8.safetensors"], []),
        ("wan2.1_t2v_14B_bf16.safetensors", ["wan2.2_i2v_14B_bf16.safetensors"], []),
        ("wan2.1_t2v_14B_bf16.safetensors", ["wan2.2_t2v_5B_bf16.safetensors"], []),
        ("wan2.1_t2v_14B_bf16.safetensors", ["wan2.2_t2v_14B_mine_bf16.safetensors"], []),
        ("wan2.1_t2v_14B_bf16.safetensors", ["wan2.2_t2v_high_noise_14B_bf16.safetensors"], []),
        (
            "qwen_image_edit_2509_bf16.safetensors",
            [
                "qwen_image_edit_bf16.safetensors",
                "qwen_image_edit_2511_bf16.safetensors",
                "qwen_image_2512_bf16.safetensors",
            ],
            [1],
        ),
        (
            "qwen_image_edit_bf16.safetensors",  # the first of its line
            ["qwen_image_edit_2509_bf16.safetensors", "qwen_image_edit_2511_bf16.safetensors"],
            [1, 0],
        ),
        ("flux1-dev.safetensors", ["flux1-dev_v2.safetensors"], []),  # nothing says that it is older
        ("wan2.1_lora_v1.safetensors", ["wan2.2_lora_v2.safetensors"], []),  # another base model
        ("wan2.1_lora_v1.safetensors", ["wan2.1_lora_v1.1.safetensors"], [0]),
        ("wan_thing_v1.safetensors", ["wan2.1_thing_v2.safetensors"], []),  # of which Wan?
        ("anima-turbo-lora-v0.1.safetensors", ["anima-turbo-lora-v0.2.safetensors"], [0]),
        ("capybara_v0.1.safetensors", ["capybara_v0.2_beta.safetensors"], []),
        ("juggernautXL_v9.safetensors", ["juggernautXL_v10.safetensors", "dreamshaper_v12.safetensors"], [0]),
        ("model_v1.safetensors", ["model_v2.safetensors"], []),  # a name that any model may have
        ("notes.safetensors", ["notes.safetensors"], []),
    ],
)
def test_newer_files_of_one_line(subject: str, others: list[str], found: list[int]) -> None:
    assert newer(subject, *others) == [others[i] for i in found]


def test_headers_can_say_that_two_files_of_one_line_differ() -> None:
    old = file_facts(None, read_name("wan2.1_t2v_bf16.safetensors"), identity())
    new = file_facts(None, read_name("wan2.2_t2v_bf16.safetensors"), identity())
    assert newer_files(old, [new]) == [0]
    assert newer_files(old, [dataclasses.replace(new, architecture="wan2.2-5b")]) == []
    assert newer_files(old, [dataclasses.replace(new, parameters=1_300_000_000)]) == []


_NAMES = st.sampled_from(
    [
        "wan2.1_t2v_14B_bf16",
        "wan2.2_t2v_14B_bf16",
        "wan2.2_t2v_14B_fp8",
        "qwen_image_edit",
        "qwen_image_edit_2509",
        "qwen_image_edit_2511",
        "thing_v1",
        "thing_v1.2",
    ]
)


@settings(max_examples=60, deadline=None)
@given(_NAMES, _NAMES)
def test_of_two_files_at_most_one_is_newer(a: str, b: str) -> None:
    first, second = named(a, b)
    assert same_line(first, second) == same_line(second, first)
    assert not (newer_files(first, [second]) and newer_files(second, [first]))
    assert newer_files(first, [first]) == []


def test_of_a_name_that_says_nothing_nothing_is_newer() -> None:
    assert newer_files(VersionFacts(None, name=NameFacts()), named("wan2.2.safetensors")) == []
