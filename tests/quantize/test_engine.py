"""Written files, read with the safetensors library and recomputed with torch."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from managed_models.manager.demo import DEMO_MODELS, layouts
from managed_models.manager.demo.tiny import write_random_model
from managed_models.manager.errors import FileError, OutputExists
from managed_models.manager.formats.safetensors import read_header
from managed_models.manager.identify import identify
from managed_models.manager.integrity import verify_file
from managed_models.manager.quantize import engine
from managed_models.manager.quantize.choices import EVERYTHING, RECOMMENDED
from managed_models.manager.quantize.formats import FORMATS
from managed_models.manager.quantize.policy import TensorPlan, plan_tensors
from managed_models.manager.quantize.source import read_source
from managed_models.manager.watch import Nobody
from safetensors import safe_open
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]
LARGEST = {"fp8_e4m3fn_scaled": 448.0, "int8": 127.0}
COMFY_FORMAT = {"fp8_e4m3fn_scaled": "float8_e4m3fn", "int8": "int8_tensorwise"}


@pytest.fixture(autouse=True, scope="module")
def _one_torch_thread() -> Iterator[None]:
    """Keep torch's threads from waiting for each other where other work fills the processor."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write_wan(path: Path, dtype: str = "BF16", change: Callable[[Tensors], None] | None = None) -> Path:
    """Write a very small Wan; ``change`` edits its tensors first."""
    write_random_model(path, layouts.wan21_t2v(width=64, ffn=128, layers=1), dtype=dtype)
    if change:
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)
    return path


def plans_of(
    source: Path, format: str, policy: str = RECOMMENDED, keep: tuple[str, ...] = ()
) -> list[TensorPlan]:
    header = read_header(source)
    return plan_tensors(header, identify(header), FORMATS[format], policy, keep)


def convert(
    source: Path,
    output: Path,
    format: str,
    policy: str = RECOMMENDED,
    watch: Any = None,
    **options: Any,
) -> engine.EngineResult:
    plans = plans_of(source, format, policy)
    chosen = engine.EngineOptions(**options)
    return engine.run(read_source(source), plans, output, {"format": "pt"}, watch or Nobody(), chosen)


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def check_layer(format: str, layer: str, original: torch.Tensor, written: Tensors) -> float:
    """Recompute one quantized layer; return the relative L2 error of its weight."""
    weight, scale = written[f"{layer}.weight"], written[f"{layer}.weight_scale"]
    marker = json.loads(raw(written[f"{layer}.comfy_quant"]))
    assert marker == {"format": COMFY_FORMAT[format]}
    assert scale.dtype == torch.float32
    exact, restored = original.float(), weight.float() * scale
    largest = exact.abs().amax(1, keepdim=True) if format == "int8" else exact.abs().max()
    assert scale.shape == largest.shape
    expected = torch.where(largest == 0, 1.0, largest / LARGEST[format])
    assert torch.allclose(scale, expected, rtol=1e-6, atol=0)
    if format == "int8":
        assert weight.dtype == torch.int8
        bound = scale * 0.5001
    else:
        assert weight.dtype == torch.float8_e4m3fn
        bound = torch.maximum(exact.abs() / 16, scale * 2**-10) * 1.0001
    assert bool(((restored - exact).abs() <= bound).all())
    return float((restored - exact).norm() / exact.norm()) if bool(exact.any()) else 0.0


def check_file(
    format: str, source: Path, output: Path, prefix: str = ""
) -> tuple[int, int, dict[str, float]]:
    """Check every tensor of a written file; return its linear weights, those that changed, and the errors."""
    original, written = load_file(source), load_file(output)
    total = changed = 0
    errors: dict[str, float] = {}
    for name, tensor in original.items():
        linear = name.startswith(prefix) and name.endswith(".weight") and tensor.ndim == 2
        total += tensor.numel() if linear else 0
        layer = name.removesuffix(".weight")
        if f"{layer}.comfy_quant" in written and name.endswith(".weight"):
            assert linear
            changed += tensor.numel()
            errors[layer] = check_layer(format, layer, tensor, written)
        else:
            assert written[name].dtype == tensor.dtype
            assert raw(written[name]) == raw(tensor)
    sides = {f"{layer}.{side}" for layer in errors for side in ("weight_scale", "comfy_quant")}
    assert set(written) == set(original) | sides
    return total, changed, errors


# Whole files


@pytest.mark.parametrize("kind", sorted(DEMO_MODELS))
@pytest.mark.parametrize("format", sorted(LARGEST))
def test_a_demo_model_is_quantized_as_the_format_says(
    tiny_models: Path, tmp_path: Path, kind: str, format: str
) -> None:
    model = DEMO_MODELS[kind]
    source = tiny_models / model.folder / model.file_name
    output = tmp_path / "out.safetensors"
    result = convert(source, output, format)
    prefix = "model.diffusion_model." if kind == "sd15_checkpoint" else ""
    total, changed, errors = check_file(format, source, output, prefix)
    assert changed / total >= 0.9
    assert all(layer.startswith(prefix) for layer in errors)
    assert result.layer_errors.keys() == errors.keys()
    for layer, error in errors.items():
        assert result.layer_errors[layer] == pytest.approx(error, rel=1e-2)
        assert 0 < error < 0.05
    assert result.source_sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert output.stat().st_size < source.stat().st_size
    assert verify_file(output)["ok"]
    output.unlink()


@pytest.mark.parametrize("format", sorted(LARGEST))
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_every_source_type(tmp_path: Path, dtype: str, format: str) -> None:
    source = write_wan(tmp_path / "wan.safetensors", dtype)
    output = tmp_path / "out.safetensors"
    result = convert(source, output, format)
    _, _, errors = check_file(format, source, output)
    assert len(errors) == 10
    assert result.relative_error == pytest.approx(0.02, abs=0.015)


@pytest.mark.parametrize(
    ("dtype", "format"),
    [(d, f) for d in ("F32", "F16", "BF16") for f in FORMATS if FORMATS[f].dtype != d],
)
def test_the_recorded_hash_is_that_of_the_source(tmp_path: Path, dtype: str, format: str) -> None:
    source = tmp_path / "flux.safetensors"
    write_random_model(source, layouts.flux(width=192, double=1, single=1), dtype=dtype)
    expected = hashlib.sha256(source.read_bytes()).hexdigest()
    for attempt in range(2):  # the hash is computed in a second thread
        result = convert(source, tmp_path / f"{attempt}.safetensors", format)
        assert result.source_sha256 == expected


@pytest.mark.parametrize(("format", "torch_dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
@pytest.mark.parametrize("policy", [RECOMMENDED, EVERYTHING])
def test_a_cast_agrees_with_torch(tmp_path: Path, format: str, torch_dtype: torch.dtype, policy: str) -> None:
    source = write_wan(tmp_path / "wan.safetensors", "F32")
    output = tmp_path / "out.safetensors"
    result = convert(source, output, format, policy)
    original, written = load_file(source), load_file(output)
    assert list(written) == list(original)
    for name, tensor in original.items():
        kept = policy == RECOMMENDED and tensor.ndim < 2
        assert torch.equal(written[name], tensor if kept else tensor.to(torch_dtype))
        assert written[name].dtype == (tensor.dtype if kept else torch_dtype)
    weight = original["blocks.0.ffn.0.weight"]
    exact = float((weight.to(torch_dtype).double() - weight.double()).norm() / weight.double().norm())
    assert result.layer_errors["blocks.0.ffn.0"] == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("format", sorted(LARGEST))
def test_a_tensor_larger_than_one_chunk(tmp_path: Path, format: str) -> None:
    def enlarge(tensors: Tensors) -> None:
        generator = torch.Generator().manual_seed(1)
        tensors["blocks.0.ffn.0.weight"] = torch.randn(1040, 2064, generator=generator).bfloat16()

    source = write_wan(tmp_path / "wan.safetensors", change=enlarge)
    convert(source, tmp_path / "out.safetensors", format)
    check_file(format, source, tmp_path / "out.safetensors")


@pytest.mark.parametrize("format", sorted(LARGEST))
def test_zero_weights_stay_zero(tmp_path: Path, format: str) -> None:
    def clear(tensors: Tensors) -> None:
        tensors["blocks.0.ffn.0.weight"].zero_()
        tensors["blocks.0.self_attn.q.weight"][3:7].zero_()

    source = write_wan(tmp_path / "wan.safetensors", change=clear)
    result = convert(source, tmp_path / "out.safetensors", format)
    check_file(format, source, tmp_path / "out.safetensors")
    written = load_file(tmp_path / "out.safetensors")
    assert not written["blocks.0.ffn.0.weight"].float().any()
    assert bool((written["blocks.0.ffn.0.weight_scale"] == 1).all())
    assert result.layer_errors["blocks.0.ffn.0"] == 0.0


@pytest.mark.parametrize("format", sorted(LARGEST))
@pytest.mark.parametrize("largest", [1e-36, 1e-38, 1e-44])
def test_a_layer_that_is_almost_zero_gives_numbers(tmp_path: Path, format: str, largest: float) -> None:
    def fade(tensors: Tensors) -> None:
        weight = tensors["blocks.0.ffn.0.weight"]
        weight.zero_()
        weight[:, :2] = torch.tensor([largest, -largest])

    source = write_wan(tmp_path / "wan.safetensors", "F32", fade)
    result = convert(source, tmp_path / "out.safetensors", format)
    written = load_file(tmp_path / "out.safetensors")
    weight, scale = (written[f"blocks.0.ffn.0.{part}"] for part in ("weight", "weight_scale"))
    restored = weight.double() * scale.double()
    assert bool(restored.isfinite().all())
    assert float(restored.abs().max()) <= 2 * largest
    assert all(math.isfinite(error) for error in result.layer_errors.values())


@pytest.mark.parametrize("format", sorted(LARGEST))
def test_float64_weights_beyond_float32_are_not_turned_into_nonsense(tmp_path: Path, format: str) -> None:
    def widen(tensors: Tensors) -> None:
        tensors["blocks.0.ffn.0.weight"] = tensors["blocks.0.ffn.0.weight"].double()
        tensors["blocks.0.ffn.0.weight"][0, 0] = 1e300

    source = write_wan(tmp_path / "wan.safetensors", "F32", widen)
    with pytest.raises(engine.UnfitTensor, match=r"blocks\.0\.ffn\.0\.weight"):
        convert(source, tmp_path / "out.safetensors", format)


def test_special_values_outside_the_model_are_copied_as_they_are(tmp_path: Path) -> None:
    source = tmp_path / "checkpoint.safetensors"
    wan = layouts.wan21_t2v(width=64, ffn=128, layers=1)
    write_random_model(
        source,
        {f"model.diffusion_model.{name}": shape for name, shape in wan.items()}
        | {"first_stage_model.decoder.conv_in.weight": (64, 64, 3, 3)},
    )
    tensors = load_file(source)
    tensors["first_stage_model.decoder.conv_in.weight"][0] = math.nan
    tensors["alphas"] = torch.tensor([math.inf, 1.0], dtype=torch.float64)
    tensors["step"] = torch.tensor([7], dtype=torch.int64)
    tensors["flag"] = torch.tensor([True, False])
    tensors["empty"] = torch.empty(0, 4)
    save_file(tensors, source)
    convert(source, tmp_path / "out.safetensors", "int8")
    check_file("int8", source, tmp_path / "out.safetensors", "model.diffusion_model.")


def test_weights_of_whole_pages_come_first_and_all_else_in_the_order_of_the_source(tmp_path: Path) -> None:
    source = write_wan(tmp_path / "wan.safetensors")
    convert(source, tmp_path / "out.safetensors", "int8")
    tensors = read_header(tmp_path / "out.safetensors").tensors
    names = list(tensors)
    whole = [name for name in names if tensors[name].nbytes % 4096 == 0]
    assert names[: len(whole)] == whole
    assert "blocks.0.ffn.0.weight" in whole
    given = [name for name in read_header(source).tensors if name in tensors]
    assert [name for name in names if name in given and name not in whole] == [
        name for name in given if name not in whole
    ]
    place = names.index("blocks.0.ffn.0.weight_scale")
    assert names[place + 1] == "blocks.0.ffn.0.comfy_quant"


@pytest.mark.parametrize("format", ["fp8_e4m3fn_scaled", "int8", "fp16"])
def test_the_same_request_gives_the_same_bytes(tmp_path: Path, format: str) -> None:
    source = write_wan(tmp_path / "wan.safetensors")
    for name in ("one", "two"):
        convert(source, tmp_path / name, format)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_the_metadata_holds_hash_checksums_and_errors(tmp_path: Path) -> None:
    import zlib

    source = write_wan(tmp_path / "wan.safetensors")
    output = tmp_path / "out.safetensors"
    result = convert(source, output, "fp8_e4m3fn_scaled")
    with safe_open(output, "pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt"
    assert metadata["managed_models.source_sha256"] == result.source_sha256
    header, content = read_header(output), output.read_bytes()
    data = content[header.data_start :]
    expected = [f"{zlib.crc32(data[info.start : info.end]):x}" for info in header.tensors.values()]
    assert metadata["managed_models.crc32"].split(",") == expected
    errors = [float(n) for n in metadata["managed_models.layer_errors"].split(",")]
    assert errors == pytest.approx(list(result.layer_errors.values()), rel=1e-3)


@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_a_flipped_bit_is_found_by_its_checksum(tmp_path: Path, place: float) -> None:
    source = write_wan(tmp_path / "wan.safetensors")
    output = tmp_path / "out.safetensors"
    convert(source, output, "int8")
    header = read_header(output)
    assert verify_file(output)["checked"] == ["header", f"{len(header.tensors)} tensor checksums"]
    position = header.data_start + int(place * (header.file_size - header.data_start - 1))
    with open(output, "r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 0x10]))
    details = verify_file(output)
    assert (details["ok"], details["code"]) == (False, "damaged")
    offset = position - header.data_start
    (hit,) = [name for name, info in header.tensors.items() if info.start <= offset < info.end]
    assert repr(hit) in details["problem"]


# Weights that do not fit


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("format", ["fp8_e4m3fn_scaled", "int8", "fp16"])
@pytest.mark.parametrize("name", ["blocks.0.ffn.0.weight", "blocks.0.norm3.bias", "patch_embedding.weight"])
def test_a_tensor_of_the_model_that_is_not_finite_stops_the_run(
    tmp_path: Path, name: str, format: str, bad: float
) -> None:
    def spoil(tensors: Tensors) -> None:
        tensors[name].view(-1)[5] = bad

    source = write_wan(tmp_path / "wan.safetensors", change=spoil)
    with pytest.raises(engine.UnfitTensor, match=name.replace(".", r"\.")):
        convert(source, tmp_path / "out.safetensors", format)
    assert os.listdir(tmp_path) == ["wan.safetensors"]
    unfit = engine.find_unfit(read_source(source), plans_of(source, format), Nobody())
    assert unfit == {name: engine.NOT_FINITE}


def test_every_unfit_tensor_is_found_with_its_reason(tmp_path: Path) -> None:
    def spoil(tensors: Tensors) -> None:
        tensors["blocks.0.ffn.0.weight"][1, 1] = 1e6
        tensors["blocks.0.ffn.2.weight"][0, 0] = math.nan
        tensors["blocks.0.norm3.weight"][0] = 1e6  # one dimension: kept, so it need not fit

    source = write_wan(tmp_path / "wan.safetensors", "F32", spoil)
    plans = plans_of(source, "fp16")
    unfit = engine.find_unfit(read_source(source), plans, Nobody())
    assert unfit == {
        "blocks.0.ffn.0.weight": "its largest weight, 1e+06, is beyond fp16",
        "blocks.0.ffn.2.weight": "it holds NaN or infinite weights",
    }


@pytest.mark.parametrize(("value", "fits"), [(65504.0, True), (65536.0, False), (-70000.0, False)])
def test_the_edge_of_fp16(tmp_path: Path, value: float, fits: bool) -> None:
    def push(tensors: Tensors) -> None:
        tensors["blocks.0.ffn.0.weight"][0, 0] = value

    source = write_wan(tmp_path / "wan.safetensors", "F32", push)
    plans = plans_of(source, "fp16")
    unfit = engine.find_unfit(read_source(source), plans, Nobody())
    assert (unfit == {}) is fits


def test_a_bf16_cast_never_rounds_up_to_infinity(tmp_path: Path) -> None:
    def push(tensors: Tensors) -> None:
        tensors["blocks.0.ffn.0.weight"][0, 0] = torch.finfo(torch.float32).max

    source = write_wan(tmp_path / "wan.safetensors", "F32", push)
    with pytest.raises(engine.UnfitTensor):
        convert(source, tmp_path / "out.safetensors", "bf16")


def test_an_accepted_tensor_is_copied(tmp_path: Path) -> None:
    def spoil(tensors: Tensors) -> None:
        tensors["blocks.0.norm3.bias"][0] = math.nan

    source = write_wan(tmp_path / "wan.safetensors", change=spoil)
    convert(source, tmp_path / "out.safetensors", "int8", accepted={"blocks.0.norm3.bias"})
    check_file("int8", source, tmp_path / "out.safetensors")


# Things that happen while it runs


class _At(Nobody):
    """Does something once a share of the bytes is done."""

    def __init__(self, share: float, act: Callable[[], None]) -> None:
        self._share = share
        self._act: Callable[[], None] | None = act
        self.seen: list[tuple[int, int]] = []

    def progress(self, done: int, total: int) -> None:
        self.seen.append((done, total))
        if self._act and done >= self._share * total:
            act, self._act = self._act, None
            act()


def test_progress_grows_to_the_size_of_the_tensors(tmp_path: Path) -> None:
    source = write_wan(tmp_path / "wan.safetensors")
    watch = _At(2.0, lambda: None)
    convert(source, tmp_path / "out.safetensors", "int8", watch=watch)
    total = sum(info.nbytes for info in read_header(source).tensors.values())
    assert watch.seen[-1] == (total, total)
    assert watch.seen == sorted(watch.seen)
    assert {t for _, t in watch.seen} == {total}


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_watch_that_raises_leaves_nothing_behind(
    tmp_path: Path, share: float, error: type[BaseException]
) -> None:
    def stop() -> None:
        raise error

    source = write_wan(tmp_path / "wan.safetensors")
    with pytest.raises(error):
        convert(source, tmp_path / "out.safetensors", "int8", watch=_At(share, stop))
    assert os.listdir(tmp_path) == ["wan.safetensors"]


def test_a_watch_may_stop_the_search_for_unfit_tensors(tmp_path: Path) -> None:
    class Stop(Nobody):
        def throw_if_cancelled(self) -> None:
            raise KeyboardInterrupt

    source = write_wan(tmp_path / "wan.safetensors")
    with pytest.raises(KeyboardInterrupt):
        engine.find_unfit(read_source(source), plans_of(source, "int8"), Stop())


def test_a_source_that_is_written_to_is_noticed(tmp_path: Path) -> None:
    source = write_wan(tmp_path / "wan.safetensors")

    def touch() -> None:
        with open(source, "r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\x01")
        os.utime(source, ns=(1, 1))

    with pytest.raises(FileError, match="changed while it was being read"):
        convert(source, tmp_path / "out.safetensors", "int8", watch=_At(0.3, touch))
    assert os.listdir(tmp_path) == ["wan.safetensors"]


def test_a_source_that_shrinks_is_noticed(tmp_path: Path) -> None:
    source = write_wan(tmp_path / "wan.safetensors")
    with pytest.raises(FileError, match="became shorter"):
        convert(
            source,
            tmp_path / "out.safetensors",
            "int8",
            watch=_At(0.3, lambda: os.truncate(source, source.stat().st_size // 2)),
        )
    assert os.listdir(tmp_path) == ["wan.safetensors"]


def test_a_source_that_shrank_to_less_than_its_header_is_noticed(tmp_path: Path) -> None:
    source = write_wan(tmp_path / "wan.safetensors")
    model, plans = read_source(source), plans_of(source, "int8")
    os.truncate(source, 100)
    with pytest.raises(FileError, match="became shorter"):
        engine.run(model, plans, tmp_path / "out.safetensors", {}, Nobody())
    assert os.listdir(tmp_path) == ["wan.safetensors"]


def test_an_output_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    source = write_wan(tmp_path / "wan.safetensors")
    output = tmp_path / "out.safetensors"
    with pytest.raises(OutputExists, match="appeared while"):
        convert(source, output, "int8", watch=_At(0.3, lambda: output.write_bytes(b"mine") and None))
    assert output.read_bytes() == b"mine"
    assert sorted(os.listdir(tmp_path)) == ["out.safetensors", "wan.safetensors"]


def test_the_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    source = write_wan(tmp_path / "wan.safetensors")
    output = tmp_path / "out.safetensors"
    during: list[list[str]] = []
    watch = _At(0.3, lambda: during.append(sorted(os.listdir(tmp_path))))
    convert(source, output, "int8", watch=watch)
    unfinished = [f"out.safetensors.unfinished.mm{part}" for part in ("journal", "lock", "part")]
    assert during == [[*unfinished, "wan.safetensors"]]
    assert sorted(os.listdir(tmp_path)) == ["out.safetensors", "wan.safetensors"]


def test_overwriting_replaces_another_file(tmp_path: Path) -> None:
    source = write_wan(tmp_path / "wan.safetensors")
    output = tmp_path / "out.safetensors"
    output.write_bytes(b"old")
    convert(source, output, "int8", overwrite=True)
    check_file("int8", source, output)
