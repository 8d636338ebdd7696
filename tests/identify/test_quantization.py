"""How weights are stored: ComfyUI's layer markers, the older one, and plain element types."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from managed_models.manager.errors import InvalidHeader
from managed_models.manager.formats.dtypes import DTYPE_BITS
from managed_models.manager.formats.safetensors import Header, read_header
from managed_models.manager.formats.writer import SafetensorsWriter, TensorSpec
from managed_models.manager.identify.quantization import (
    COMFY_FORMATS,
    SIDE_SUFFIXES,
    Quantization,
    find_quantization,
    is_side_tensor,
    read_layer_formats,
)
from managed_models.manager.model import QuantizationType
from support.files import shapes_file

FORMATS = [
    ({"format": "float8_e4m3fn"}, QuantizationType.FP8_E4M3, "fp8_e4m3fn, scaled"),
    ({"format": "float8_e5m2"}, QuantizationType.FP8_E5M2, "fp8_e5m2, scaled"),
    ({"format": "int8_tensorwise"}, QuantizationType.INT8, "int8"),
    ({"format": "int8_tensorwise", "convrot": True}, QuantizationType.INT8_CONVROT, "int8_convrot"),
    ({"format": "int8_tensorwise", "convrot": False}, QuantizationType.INT8, "int8"),
    (
        {"format": "int8_tensorwise", "params": {"convrot": True}},
        QuantizationType.INT8_CONVROT,
        "int8_convrot",
    ),
    ({"format": "int8_tensorwise", "params": {"group": 64}}, QuantizationType.INT8, "int8"),
    ({"format": "int8_tensorwise", "params": "convrot"}, QuantizationType.INT8, "int8"),
    ({"format": "mxfp8"}, QuantizationType.MXFP8, "mxfp8"),
    ({"format": "nvfp4"}, QuantizationType.NVFP4, "nvfp4"),
    ({"format": "convrot_w4a4"}, QuantizationType.W4A4, "w4a4"),
    ({"format": "asym_w4a8_int8"}, QuantizationType.W4A8, "w4a8"),
]


def marked(
    path: Path,
    layers: Mapping[str, Any],
    more: Mapping[str, tuple[str, tuple[int, ...]]] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Header:
    """Write layers with ComfyUI's markers: a mapping as JSON, text and bytes as they are."""
    raw: dict[str, bytes] = {}
    for layer, found in layers.items():
        text = json.dumps(found) if isinstance(found, (dict, list)) else found
        raw[layer] = text.encode() if isinstance(text, str) else text
    specs = [TensorSpec(f"{layer}.comfy_quant", "U8", (len(data),)) for layer, data in raw.items()]
    specs += [TensorSpec(f"{layer}.weight", "F8_E4M3", (4, 4)) for layer in layers]
    specs += [TensorSpec(f"{layer}.weight_scale", "F32", ()) for layer in layers]
    specs += [TensorSpec(name, dtype, shape) for name, (dtype, shape) in (more or {}).items()]
    with SafetensorsWriter(path, specs, metadata or {}) as writer:
        for spec in specs:
            layer = spec.name.removesuffix(".comfy_quant")
            writer.write(spec.name, raw[layer] if layer != spec.name else bytes(spec.nbytes))
        writer.finish({})
    return read_header(path)


def quantization_of(header: Header) -> Quantization:
    weights = {n: i for n, i in header.tensors.items() if not is_side_tensor(n)}
    return find_quantization(header, weights, read_layer_formats(header))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


# Markers on layers and on the file


@pytest.mark.parametrize(("conf", "kind", "words"), FORMATS, ids=lambda v: str(v))
def test_a_marker_on_every_layer(
    path: Path, conf: dict[str, Any], kind: QuantizationType, words: str
) -> None:
    header = marked(path, {"blocks.0.q": conf, "blocks.1.q": conf}, {"norm.weight": ("BF16", (4,))})
    assert read_layer_formats(header) == {"blocks.0.q": kind, "blocks.1.q": kind}
    assert quantization_of(header) == Quantization(kind, words, 2, "comfy_quant")


@pytest.mark.parametrize(("conf", "kind", "words"), FORMATS, ids=lambda v: str(v))
def test_one_marker_in_the_metadata(
    path: Path, conf: dict[str, Any], kind: QuantizationType, words: str
) -> None:
    text = json.dumps({"format_version": "1.0", "layers": {"blocks.0.q": conf, "blocks.1.q": conf}})
    shapes = {"blocks.0.q.weight": (4, 4), "blocks.1.q.weight": (4, 4), "norm.weight": (4,)}
    header = read_header(shapes_file(path, shapes, metadata={"_quantization_metadata": text}))
    assert read_layer_formats(header) == {"blocks.0.q": kind, "blocks.1.q": kind}
    assert quantization_of(header) == Quantization(kind, words, 2, "comfy_quant")


def test_every_format_of_comfyui_is_in_the_table_above() -> None:
    assert {conf["format"] for conf, _, _ in FORMATS} == set(COMFY_FORMATS)


def test_the_metadata_counts_more_than_the_layers(path: Path) -> None:
    text = json.dumps({"layers": {"a": {"format": "mxfp8"}}})
    layers = {"a": {"format": "int8_tensorwise"}, "b": {"format": "nvfp4"}}
    header = marked(path, layers, metadata={"_quantization_metadata": text})
    # As ComfyUI does: what the file lists wins, and what it does not list keeps its own marker.
    assert read_layer_formats(header) == {"a": QuantizationType.MXFP8, "b": QuantizationType.NVFP4}


def test_several_formats_in_one_file(path: Path) -> None:
    header = marked(
        path, {"a": {"format": "nvfp4"}, "b": {"format": "nvfp4"}, "c": {"format": "float8_e4m3fn"}}
    )
    assert quantization_of(header) == Quantization(
        QuantizationType.NVFP4, "mixed: nvfp4, fp8_e4m3fn, scaled", 3, "comfy_quant"
    )


def test_a_layer_of_a_format_that_nobody_here_knows_is_still_a_marked_layer(path: Path) -> None:
    header = marked(path, {"a": {"format": "int2_of_tomorrow"}, "b": {}})
    assert read_layer_formats(header) == {"a": QuantizationType.NONE, "b": QuantizationType.NONE}
    assert quantization_of(header).layers == 2


def test_only_the_marker_bytes_are_read(path: Path) -> None:
    shapes = {"a.weight": (30 * 2**30,), "a.comfy_quant": (2,)}
    shapes_file(path, shapes, "U8")
    with open(path, "r+b") as file:
        file.seek(-2, 2)
        file.write(b"{}")
    assert read_layer_formats(read_header(path)) == {"a": QuantizationType.NONE}


# Markers that cannot be read


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\x00\x00\x00\x00",
        b"not json",
        b'{"format": "mxfp8"',
        b"\xff\xfe\xfd",
        b"1",
        b"null",
        b'"mxfp8"',
        b"[1, 2]",
        b"[" * 50_000,
    ],
    ids=lambda text: repr(text[:12]),
)
def test_a_broken_marker_on_a_layer(path: Path, text: bytes) -> None:
    header = marked(path, {"blocks.0.q": text})
    with pytest.raises(InvalidHeader) as caught:
        read_layer_formats(header)
    error = caught.value
    assert error.code == "invalid_header"
    assert error.details == {"problem": "quantization_marker", "tensor": "blocks.0.q.comfy_quant"}
    assert error.message.startswith("model.safetensors has a quantization marker that cannot be read")
    assert error.remedy


def test_a_marker_of_gigabytes_is_not_read(path: Path) -> None:
    header = read_header(shapes_file(path, {"a.comfy_quant": (30 * 2**30,)}, "U8"))
    with pytest.raises(InvalidHeader) as caught:
        read_layer_formats(header)
    assert caught.value.details["tensor"] == "a.comfy_quant"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "null",
        "[]",
        "1",
        "{}",
        '{"layers": null}',
        '{"layers": []}',
        '{"layers": {"a": null}}',
        '{"layers": {"a": "mxfp8"}}',
        '{"layers": {"a": 1}}',
        "[" * 50_000,
    ],
    ids=lambda text: text[:30],
)
def test_a_broken_marker_in_the_metadata(path: Path, text: str) -> None:
    header = read_header(shapes_file(path, {"a.weight": (4,)}, metadata={"_quantization_metadata": text}))
    with pytest.raises(InvalidHeader) as caught:
        read_layer_formats(header)
    assert caught.value.details == {"problem": "quantization_marker", "tensor": "_quantization_metadata"}


# The older marker


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_the_older_marker(path: Path, prefix: str) -> None:
    shapes = {
        f"{prefix}scaled_fp8": (0,),
        f"{prefix}a.weight": (4, 4),
        f"{prefix}a.scale_weight": (1,),
        f"{prefix}b.weight": (4, 4),
        f"{prefix}b.scale_weight": (1,),
        f"{prefix}norm.weight": (4,),
    }
    kinds = {f"{prefix}{n}.weight": "F8_E4M3" for n in "ab"} | {f"{prefix}scaled_fp8": "F8_E4M3"}
    header = read_header(shapes_file(path, shapes, kinds))
    fp8 = QuantizationType.FP8_E4M3
    assert read_layer_formats(header) == {f"{prefix}a": fp8, f"{prefix}b": fp8}
    assert quantization_of(header) == Quantization(fp8, "fp8_e4m3fn, scaled", 2, "scaled_fp8")


def test_the_older_marker_on_the_other_fp8(path: Path) -> None:
    shapes = {"scaled_fp8": (2,), "a.weight": (4, 4), "a.scale_weight": ()}
    kinds = dict.fromkeys(["scaled_fp8", "a.weight"], "F8_E5M2") | {"a.scale_weight": "F32"}
    header = read_header(shapes_file(path, shapes, kinds))
    fp8 = QuantizationType.FP8_E5M2
    assert quantization_of(header) == Quantization(fp8, "fp8_e5m2, scaled", 1, "scaled_fp8")


def test_scales_without_the_older_marker_say_nothing(path: Path) -> None:
    header = read_header(shapes_file(path, {"a.weight": (4, 4), "a.scale_weight": (1,)}, "F8_E4M3"))
    assert read_layer_formats(header) == {}
    assert quantization_of(header) == Quantization(QuantizationType.FP8_E4M3, "fp8_e4m3fn", 0)


def test_a_name_that_ends_like_the_older_marker_is_none(path: Path) -> None:
    header = read_header(shapes_file(path, {"not_scaled_fp8": (1,), "a.scale_weight": (1,)}))
    assert read_layer_formats(header) == {}


# No marker


@pytest.mark.parametrize(
    ("dtype", "kind", "words"),
    [
        ("F64", QuantizationType.NONE, "fp64"),
        ("F32", QuantizationType.NONE, "fp32"),
        ("F16", QuantizationType.FP16, "fp16"),
        ("BF16", QuantizationType.BF16, "bf16"),
        ("F8_E4M3", QuantizationType.FP8_E4M3, "fp8_e4m3fn"),
        ("F8_E5M2", QuantizationType.FP8_E5M2, "fp8_e5m2"),
        ("I8", QuantizationType.INT8, "int8"),
        ("U8", QuantizationType.NONE, "uint8"),
        ("I64", QuantizationType.NONE, "i64"),
    ],
)
def test_a_file_without_markers_is_what_its_weights_are(
    path: Path, dtype: str, kind: QuantizationType, words: str
) -> None:
    header = read_header(shapes_file(path, {"a.weight": (4, 4), "norm": (4,)}, {"a.weight": dtype}))
    assert quantization_of(header) == Quantization(kind, words, 0, "")


def test_the_type_of_most_weights_counts_and_not_of_most_tensors(path: Path) -> None:
    shapes = {"big": (100, 100)} | {f"norm.{i}": (10,) for i in range(20)}
    header = read_header(shapes_file(path, shapes, {"big": "F16"}))
    assert quantization_of(header).precision == "fp16"


@pytest.mark.parametrize("shapes", [{}, {"a.weight_scale": (1,)}])
def test_a_file_without_weights(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    header = read_header(shapes_file(path, shapes))
    assert quantization_of(header) == Quantization(QuantizationType.NONE, "no weights", 0)


@pytest.mark.parametrize("suffix", SIDE_SUFFIXES)
def test_what_describes_a_weight_is_no_weight(suffix: str) -> None:
    assert is_side_tensor(f"blocks.0.q{suffix}")
    assert not is_side_tensor(f"blocks.0.q{suffix}.weight")


@pytest.mark.parametrize(
    ("name", "side"),
    [("scaled_fp8", True), ("model.scaled_fp8", True), ("a.weight", False), ("a.scale", False), ("", False)],
)
def test_is_side_tensor(name: str, side: bool) -> None:
    assert is_side_tensor(name) is side


def test_the_widths_of_marked_types_are_known() -> None:
    assert {"F8_E4M3", "F8_E5M2", "I8", "U8", "F8_E8M0"} <= set(DTYPE_BITS)
