"""What a person says about a model, and the names of kinds and formats."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from managed_models.manager import ModelInfo, ModelType, QuantizationType
from managed_models.manager.model import FOLDER_ALIASES, FOLDER_TYPES, MODEL_SUFFIXES

FULL = ModelInfo(
    "wan",
    ModelType.DIFFUSION,
    Path("/models/wan.safetensors"),
    28.6,
    "2.1.0",
    12.0,
    16.0,
    ["pytorch", "onnx"],
    ["ComfyUI-GGUF"],
    QuantizationType.FP8,
    "2.4",
    "https://example.com/wan.safetensors",
    "ab" * 32,
    "Apache-2.0",
    ["视频"],
)


def test_fields_may_be_given_in_the_promised_order() -> None:
    assert [getattr(FULL, f.name) for f in fields(FULL)] == [
        "wan",
        ModelType.DIFFUSION,
        Path("/models/wan.safetensors"),
        28.6,
        "2.1.0",
        12.0,
        16.0,
        ["pytorch", "onnx"],
        ["ComfyUI-GGUF"],
        QuantizationType.FP8_E4M3,
        "2.4",
        "https://example.com/wan.safetensors",
        "ab" * 32,
        "Apache-2.0",
        ["视频"],
    ]


@pytest.mark.parametrize("info", [FULL, ModelInfo("a", ModelType.OTHER, Path("b"))], ids=["full", "bare"])
def test_a_model_info_survives_json(info: ModelInfo) -> None:
    assert ModelInfo.from_dict(json.loads(json.dumps(info.to_dict()))) == info


def test_facts_of_a_newer_version_are_ignored() -> None:
    assert ModelInfo.from_dict(FULL.to_dict() | {"of_tomorrow": 1}) == FULL


def test_what_a_dictionary_leaves_out_has_its_default() -> None:
    info = ModelInfo.from_dict({"name": "a", "model_type": "vae", "file_path": "x.safetensors"})
    assert info == ModelInfo("a", ModelType.VAE, Path("x.safetensors"))
    assert info.version == "1.0.0"


def test_kinds_formats_and_paths_may_be_given_as_text() -> None:
    info = ModelInfo("a", "vae", "/m/a.safetensors", quantization="fp8")  # type: ignore[arg-type]
    assert info.model_type is ModelType.VAE
    assert info.file_path == Path("/m/a.safetensors")
    assert info.quantization is QuantizationType.FP8_E4M3


@pytest.mark.parametrize("facts", [{"model_type": "flying"}, {"quantization": "fp3"}])
def test_unknown_kinds_and_formats_are_refused(facts: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(facts.values()))):
        ModelInfo(**({"name": "a", "model_type": "vae", "file_path": "x"} | facts))


def test_lists_are_not_shared() -> None:
    first, second = (ModelInfo("a", ModelType.VAE, Path("x")) for _ in range(2))
    first.tags.append("mine")
    first.compatible_frameworks.append("onnx")
    first.required_extensions.append("x")
    assert (second.tags, second.compatible_frameworks, second.required_extensions) == ([], ["pytorch"], [])


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("none", QuantizationType.NONE),
        ("", QuantizationType.NONE),
        ("fp32", QuantizationType.NONE),
        ("FP32", QuantizationType.NONE),
        ("fp8", QuantizationType.FP8_E4M3),
        ("FP8", QuantizationType.FP8_E4M3),
        ("fp8_e4m3fn", QuantizationType.FP8_E4M3),
        ("fp8_e4m3", QuantizationType.FP8_E4M3),
        ("fp8_e5m2", QuantizationType.FP8_E5M2),
        *((kind.value, kind) for kind in QuantizationType),
    ],
)
def test_names_of_formats(text: str, kind: QuantizationType) -> None:
    assert QuantizationType(text) is kind


@pytest.mark.parametrize("text", ["fp3", "q4_k_m", "8", None, 8])
def test_what_is_no_format(text: object) -> None:
    with pytest.raises(ValueError, match="is not a valid QuantizationType"):
        QuantizationType(text)


def test_a_kind_is_its_text() -> None:
    assert json.dumps([ModelType.VAE, QuantizationType.FP8]) == '["vae", "fp8_e4m3"]'


@pytest.mark.parametrize(("old", "new"), FOLDER_ALIASES.items())
def test_a_renamed_folder_holds_what_it_held(old: str, new: str) -> None:
    assert FOLDER_TYPES[old] is FOLDER_TYPES[new]
    assert new not in FOLDER_ALIASES


def test_endings_are_compared_in_lower_case() -> None:
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in MODEL_SUFFIXES)
    assert {".safetensors", ".gguf", ".ckpt"} <= MODEL_SUFFIXES
