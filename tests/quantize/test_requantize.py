"""Sources that are quantized already: refused, or worked out and rounded a second time."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from managed_models.manager.demo import layouts
from managed_models.manager.demo.tiny import write_random_model
from managed_models.manager.errors import AlreadyQuantized, NothingToQuantize
from managed_models.manager.formats.safetensors import read_header
from managed_models.manager.identify import identify
from managed_models.manager.identify.quantization import read_layer_formats
from managed_models.manager.integrity import verify_file
from managed_models.manager.model import QuantizationType
from managed_models.manager.quantize.request import QuantizeRequest
from managed_models.manager.quantize.service import Quantizer
from managed_models.manager.quantize.source import Reader, read_source
from managed_models.manager.quantize.stored import DECODED, open_decoder, read_stored_layers
from managed_models.manager.report import render_quantize
from safetensors import safe_open
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]
WAN = layouts.wan21_t2v(width=256, ffn=256, layers=1)
LAYER = "blocks.0.ffn.0"
SCALES = (".weight_scale", ".weight_scale_2", ".comfy_quant", ".scale_weight")
# Formats of ours that can be worked out, and how far the result may be from the original.
SOURCES = {
    "fp8_e4m3fn_scaled": 0.03,
    "fp8_e5m2_scaled": 0.06,
    "int8": 0.01,
    "int8_convrot": 0.01,
    "mxfp8": 0.04,
    "nvfp4": 0.12,
}


@pytest.fixture(autouse=True, scope="module")
def _one_torch_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def quantizer() -> Quantizer:
    return Quantizer(lambda path: identify(read_header(path)))


def quantize(source: Path, output: Path, **options: Any) -> dict[str, Any]:
    return quantizer().quantize(source, output, QuantizeRequest(**options))


def again(source: Path, output: Path, **options: Any) -> dict[str, Any]:
    return quantize(source, output, allow_requantize=True, **options)


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("requantize") / "wan.safetensors"
    write_random_model(path, WAN, 0)
    return path


@pytest.fixture(scope="module")
def quantized(wan: Path) -> dict[str, Path]:
    found = {}
    for name in SOURCES:
        found[name] = wan.with_name(f"{name}.safetensors")
        quantize(wan, found[name], format=name)
    return found


def distance(found: torch.Tensor, original: torch.Tensor) -> float:
    return float((found.double() - original.double()).norm() / original.double().norm())


def decoded(path: Path, layer: str = LAYER, step: int = 128) -> torch.Tensor:
    """Return a layer's weights as they are worked out, block after block."""
    source = read_source(path)
    stored = read_stored_layers(source.header)[layer]
    info = source.header.tensors[f"{layer}.weight"]
    reader = Reader(source)
    decode = open_decoder(reader, stored)
    rows = load_file(path)[f"{layer}.weight"]
    blocks = [decode(rows[i : i + step], i) for i in range(0, len(rows), step)]
    reader.close()
    assert info.shape[0] == stored.shape[0]
    return torch.cat(blocks)


# Working out


@pytest.mark.parametrize("format", SOURCES)
def test_weights_are_worked_out_close_to_the_original(
    wan: Path, quantized: dict[str, Path], format: str
) -> None:
    original = load_file(wan)[f"{LAYER}.weight"]
    found = decoded(quantized[format])
    assert found.dtype == torch.float32
    assert found.shape == original.shape
    assert 0 < distance(found, original) < SOURCES[format]
    assert torch.equal(found, decoded(quantized[format], step=512))  # however they are cut


def test_every_format_that_is_worked_out_has_its_test(quantized: dict[str, Path]) -> None:
    formats = {read_stored_layers(read_header(path))[LAYER].format for path in quantized.values()}
    assert formats | {"plain"} == DECODED


def test_row_scales_follow_their_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    weight = torch.arange(-64, 64, dtype=torch.int8).reshape(4, 32)
    marker = torch.frombuffer(bytearray(b'{"format": "int8_tensorwise"}'), dtype=torch.uint8)
    scale = torch.tensor([[1.0], [2.0], [0.5], [0.25]])
    save_file({"a.weight": weight, "a.weight_scale": scale, "a.comfy_quant": marker}, path)
    found = torch.cat([decode_rows(path, "a", slice(0, 2)), decode_rows(path, "a", slice(2, 4))])
    assert torch.equal(found, weight.float() * scale)


def decode_rows(path: Path, layer: str, rows: slice) -> torch.Tensor:
    source = read_source(path)
    reader = Reader(source)
    decode = open_decoder(reader, read_stored_layers(source.header)[layer])
    reader.close()
    return decode(load_file(path)[f"{layer}.weight"][rows], rows.start)


# Refused, and allowed


@pytest.mark.parametrize("format", SOURCES)
def test_without_leave_it_is_refused_with_the_hint(
    quantized: dict[str, Path], tmp_path: Path, format: str
) -> None:
    with pytest.raises(AlreadyQuantized, match="allow requantizing"):
        quantize(quantized[format], tmp_path / "x.safetensors", format="int8")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("format", "target"),
    [
        *((format, target) for format in SOURCES for target in ("int8", "bf16")),
        ("fp8_e4m3fn_scaled", "nvfp4"),
        ("nvfp4", "nvfp4"),
        ("int8", "fp8_e4m3fn_scaled"),
    ],
)
def test_a_quantized_source_becomes_another_format(
    wan: Path, quantized: dict[str, Path], tmp_path: Path, format: str, target: str
) -> None:
    output = tmp_path / "again.safetensors"
    if format == target:
        with pytest.raises(NothingToQuantize, match="holds no weights for"):
            again(quantized[format], output, format=target)
        return
    details = again(quantized[format], output, format=target)
    assert details["requantized_layers"] == details["changed_layers"] == 10
    assert verify_file(output)["ok"]
    layers = read_layer_formats(read_header(output))
    tensors = load_file(output)
    if target == "bf16":
        assert layers == {}
        assert tensors[f"{LAYER}.weight"].dtype == torch.bfloat16
        assert not [name for name in tensors if name.endswith(SCALES)]
        assert torch.equal(tensors[f"{LAYER}.weight"], decoded(quantized[format]).bfloat16())
    else:
        assert len(layers) == 10
        both = distance(decoded(output), load_file(wan)[f"{LAYER}.weight"])
        assert both < SOURCES[format] + SOURCES[target]
        once = distance(decoded(output), decoded(quantized[format]))
        assert details["layer_errors"][LAYER] == pytest.approx(once, rel=0.02, abs=2e-6)
    assert set(tensors) >= {name for name in WAN if name.endswith(".weight")}
    assert "had been rounded before" in render_quantize(details)
    found = again(quantized[format], output, format=target)
    assert found["reused"]
    assert [x["format"] for x in found["layers"]] == [x["format"] for x in details["layers"]]


def test_layers_that_are_kept_stay_as_they_are_with_their_scales(
    quantized: dict[str, Path], tmp_path: Path
) -> None:
    output = tmp_path / "mixed.safetensors"
    details = again(quantized["int8"], output, format="nvfp4", keep_patterns="ffn")
    before, after = load_file(quantized["int8"]), load_file(output)
    for suffix in (".weight", ".weight_scale", ".comfy_quant"):
        assert torch.equal(after[LAYER + suffix], before[LAYER + suffix])
    formats = read_layer_formats(read_header(output))
    assert formats[LAYER] is QuantizationType.INT8
    assert formats["blocks.0.self_attn.q"] is QuantizationType.NVFP4
    assert details["kept_layers"]["kept by keep_patterns"] == 2


# Other people's files


def test_the_older_layout(wan: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.safetensors"
    quantize(wan, old, layout="scaled_fp8")
    assert "scaled_fp8" in load_file(old)
    output = tmp_path / "int8.safetensors"
    details = again(old, output, format="int8")
    tensors = load_file(output)
    assert not [name for name in tensors if name.endswith((".scale_weight", "scaled_fp8"))]
    assert details["changed_layers"] == 10
    kept = again(old, tmp_path / "kept.safetensors", format="int8", keep_patterns="ffn")
    tensors = load_file(kept["path"])
    assert f"{LAYER}.scale_weight" in tensors  # it still marks what stays
    assert "scaled_fp8" in tensors


def test_the_files_own_list_of_layers_keeps_what_stays(quantized: dict[str, Path], tmp_path: Path) -> None:
    tensors = load_file(quantized["fp8_e4m3fn_scaled"])
    layers = {name.removesuffix(".comfy_quant") for name in tensors if name.endswith(".comfy_quant")}
    plain = {name: tensor for name, tensor in tensors.items() if not name.endswith(".comfy_quant")}
    listed = {"format_version": "1.0", "layers": {name: {"format": "float8_e4m3fn"} for name in layers}}
    source = tmp_path / "listed.safetensors"
    save_file(plain, source, {"format": "pt", "_quantization_metadata": json.dumps(listed)})
    output = tmp_path / "int8.safetensors"
    again(source, output, format="int8", keep_patterns="ffn")
    with safe_open(output, "pt") as file:
        left = json.loads(file.metadata()["_quantization_metadata"])
    assert set(left["layers"]) == {f"blocks.0.ffn.{i}" for i in (0, 2)}
    formats = read_layer_formats(read_header(output))
    assert formats[LAYER] is QuantizationType.FP8_E4M3
    assert formats["blocks.0.self_attn.q"] is QuantizationType.INT8
    again(source, tmp_path / "all.safetensors", format="int8")
    with safe_open(tmp_path / "all.safetensors", "pt") as file:
        assert "_quantization_metadata" not in file.metadata()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_plain_fp8_without_scales(wan: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    plain = {name: tensor.to(dtype) for name, tensor in load_file(wan).items()}
    source = tmp_path / "plain.safetensors"
    save_file(plain, source, {"format": "pt"})
    with pytest.raises(AlreadyQuantized):
        quantize(source, tmp_path / "x.safetensors")
    details = again(source, tmp_path / "int8.safetensors", format="int8")
    tensors = load_file(details["path"])
    exact = plain[f"{LAYER}.weight"].float()
    found = tensors[f"{LAYER}.weight"].float() * tensors[f"{LAYER}.weight_scale"]
    assert distance(found, exact) < 0.01
    assert tensors["head.head.bias"].dtype == dtype
    wide = again(source, tmp_path / "bf16.safetensors", format="bf16")
    for name, tensor in load_file(wide["path"]).items():  # exact: bf16 holds every such number
        assert torch.equal(tensor, plain[name].bfloat16()), name


def test_a_layer_that_nobody_can_work_out_stays(wan: Path, tmp_path: Path) -> None:
    source = tmp_path / "w4a8.safetensors"
    quantize(wan, source, format="w4a8", keep_patterns="self_attn")
    details = again(source, tmp_path / "int8.safetensors", format="int8")
    assert details["kept_layers"]["it is stored as asym_w4a8_int8, which is not converted again"] == 6
    tensors, before = load_file(details["path"]), load_file(source)
    assert torch.equal(tensors[f"{LAYER}.weight"], before[f"{LAYER}.weight"])
    assert tensors["blocks.0.self_attn.q.weight"].dtype == torch.int8


def test_a_scale_of_nan_is_found(quantized: dict[str, Path], tmp_path: Path) -> None:
    tensors = load_file(quantized["fp8_e4m3fn_scaled"])
    tensors[f"{LAYER}.weight_scale"] = torch.tensor(math.nan)
    source = tmp_path / "bad.safetensors"
    save_file(tensors, source, {"format": "pt"})
    with pytest.raises(Exception, match="NaN") as caught:
        again(source, tmp_path / "x.safetensors", format="int8")
    assert caught.value.details["tensors"] == [f"{LAYER}.weight"]  # type: ignore[attr-defined]
    details = again(source, tmp_path / "x.safetensors", format="int8", allow_nonfinite=True)
    written = load_file(details["path"])
    assert written[f"{LAYER}.weight"].dtype == torch.float8_e4m3fn  # as it was, with all that belongs to it
    assert {f"{LAYER}{suffix}" for suffix in (".weight_scale", ".comfy_quant")} < set(written)
    assert details["changed_layers"] == 9


def test_a_budget_takes_a_quantized_source(wan: Path, quantized: dict[str, Path], tmp_path: Path) -> None:
    source = quantized["int8"]
    request = QuantizeRequest(
        policy="size_budget", target_size_gb=(source.stat().st_size - 150_000) / 2**30, allow_requantize=True
    )
    details = quantizer().quantize(source, tmp_path / "small.safetensors", request)
    assert details["output_bytes"] <= source.stat().st_size - 150_000
    assert 0 < details["requantized_layers"] < 10
    formats = set(read_layer_formats(read_header(tmp_path / "small.safetensors")).values())
    assert QuantizationType.INT8 in formats
    assert len(formats) > 1


def test_a_model_in_parts_is_worked_out_too(quantized: dict[str, Path], tmp_path: Path) -> None:
    tensors = load_file(quantized["int8_convrot"])
    names = sorted(tensors)
    where = {}
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :])):
        file = f"wan-0000{number + 1}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, tmp_path / file, {"format": "pt"})
        where |= dict.fromkeys(part, file)
    index = tmp_path / "wan.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    output = tmp_path / "bf16.safetensors"
    details = again(index, output, format="bf16")
    assert details["requantized_layers"] == 10
    whole = decoded(quantized["int8_convrot"]).bfloat16()
    assert torch.equal(load_file(output)[f"{LAYER}.weight"], whole)
    assert again(index, output, format="bf16")["reused"]


@pytest.mark.parametrize("kind", ["checkpoint", "parts"])
def test_a_budget_takes_checkpoints_and_models_in_parts(wan: Path, tmp_path: Path, kind: str) -> None:
    if kind == "checkpoint":
        source = tmp_path / "checkpoint.safetensors"
        layout = {f"model.diffusion_model.{name}": shape for name, shape in WAN.items()}
        write_random_model(source, layout | {"first_stage_model.decoder.conv_in.weight": (64, 4, 3, 3)}, 0)
        size = source.stat().st_size
    else:
        tensors = load_file(wan)
        save_file(tensors, tmp_path / "wan-00001-of-00001.safetensors", {"format": "pt"})
        source = tmp_path / "wan.safetensors.index.json"
        names = dict.fromkeys(tensors, "wan-00001-of-00001.safetensors")
        source.write_text(json.dumps({"weight_map": names}))
        size = wan.stat().st_size
    limit = size - 300_000
    request = QuantizeRequest(policy="size_budget", target_size_gb=limit / 2**30)
    output = tmp_path / "small.safetensors"
    details = quantizer().quantize(source, output, request)
    assert output.stat().st_size <= limit
    assert details["changed_layers"] > 0
    written = load_file(output)
    if kind == "checkpoint":
        before = load_file(source)
        other = [name for name in before if not name.startswith("model.diffusion_model.")]
        assert other
        assert all(torch.equal(written[name], before[name]) for name in other)
