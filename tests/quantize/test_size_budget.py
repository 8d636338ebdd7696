"""A format per layer within a file size: what may become of each tensor, the choice, and the file."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from managed_models.manager.demo import layouts
from managed_models.manager.demo.tiny import write_random_model
from managed_models.manager.errors import (
    BadInput,
    BudgetTooSmall,
    Cancelled,
    NonFiniteWeights,
    NothingToQuantize,
)
from managed_models.manager.formats.safetensors import read_header
from managed_models.manager.identify import identify
from managed_models.manager.integrity import verify_file
from managed_models.manager.quantize.choices import SIZE_BUDGET
from managed_models.manager.quantize.formats import FORMATS
from managed_models.manager.quantize.keep_rules import keep_rule
from managed_models.manager.quantize.measure import measure
from managed_models.manager.quantize.policy import Action, Scope
from managed_models.manager.quantize.request import QuantizeRequest
from managed_models.manager.quantize.service import Quantizer
from managed_models.manager.quantize.size_budget import FITTED, candidates, find_alternatives
from managed_models.manager.quantize.source import read_source
from managed_models.manager.report import render_quantize
from managed_models.manager.units import GB
from managed_models.manager.watch import Nobody
from safetensors.torch import load_file, save_file

WAN = layouts.wan21_t2v(width=256, ffn=256, layers=1)


@pytest.fixture(autouse=True, scope="module")
def _one_torch_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write_wan(path: Path, dtype: str = "BF16") -> Path:
    """Write a small Wan whose layers differ: the deeper, the heavier the tails of their weights."""
    write_random_model(path, WAN, 0, dtype)
    tensors = load_file(path)
    for number, name in enumerate(sorted(tensors)):
        if name.startswith("blocks.") and tensors[name].dim() == 2:
            tails = (
                1 + 3 * torch.rand(tensors[name].shape, generator=torch.Generator().manual_seed(number)) ** 9
            )
            tensors[name] = (tensors[name].float() * tails ** (number % 4)).to(tensors[name].dtype)
    save_file(tensors, path, {"format": "pt"})
    return path


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wan(tmp_path_factory.mktemp("budget") / "wan_bf16.safetensors")


def quantizer(watch: Any = None, known: frozenset[str] | None = None, room: int | None = None) -> Quantizer:
    return Quantizer(lambda path: identify(read_header(path)), watch, lambda: known, lambda path: room)


def request_for(nbytes: float, **options: Any) -> QuantizeRequest:
    return QuantizeRequest(policy=SIZE_BUDGET, target_size_gb=nbytes / GB, **options)


def make(source: Path, output: Path, nbytes: float, watch: Any = None, **options: Any) -> dict[str, Any]:
    return quantizer(watch).quantize(source, output, request_for(nbytes, **options))


def limit_at(source: Path, share: float) -> int:
    """Return a size between the smallest file (0) and that of the source (1)."""
    return smallest_of(source) + int((source.stat().st_size - smallest_of(source)) * share)


@functools.cache
def smallest_of(source: Path) -> int:
    with pytest.raises(BudgetTooSmall) as caught:
        quantizer().plan(source, request_for(1))
    return int(caught.value.details["smallest_bytes"])


def noise_of(source: Path, output: Path, details: dict[str, Any]) -> float:
    """Return the sum of squares that the report's errors stand for."""
    original = load_file(source)
    return sum(
        (layer["error"] * float(original[f"{layer['name']}.weight"].double().norm())) ** 2
        for layer in details["layers"]
    )


# Alternatives


def alternatives_of(path: Path, **scope: Any) -> Any:
    header = read_header(path)
    rule = Scope(SIZE_BUDGET, keep_rule("wan"), **scope)
    return find_alternatives(header, identify(header), candidates(None), rule)


def test_a_layer_may_stay_or_take_any_format_that_takes_its_shape(wan: Path) -> None:
    found = {plans[0].name: plans for plans in alternatives_of(wan).plans}
    assert list(found) == list(read_header(wan).tensors)
    layer = found["blocks.0.ffn.0.weight"]
    assert (layer[0].action, layer[0].reason) == (Action.COPY, FITTED)
    formats = [plan.target.name for plan in layer[1:] if plan.target]
    assert formats == ["int8_convrot", "int8", "fp8_e4m3fn_scaled", "mxfp8", "nvfp4", "w4a8"]
    (head,) = found["head.head.weight"]
    assert head.reason == "kept by the recommended policy"
    assert [len(found[name]) for name in ("patch_embedding.weight", "head.head.bias")] == [1, 1]


def test_what_is_kept_of_a_wide_source_may_become_bf16(tmp_path: Path) -> None:
    found = {p[0].name: p for p in alternatives_of(write_wan(tmp_path / "wan.safetensors", "F32")).plans}
    assert [p.action for p in found["head.head.weight"]] == [Action.COPY, Action.CAST]
    assert [p.action for p in found["patch_embedding.weight"]] == [Action.COPY, Action.CAST]
    assert len(found["head.head.bias"]) == 1
    assert len(found["blocks.0.ffn.0.weight"]) == 2 + len(candidates(None))


def test_only_formats_that_the_host_loads_are_candidates() -> None:
    assert [f.name for f in candidates(frozenset({"float8_e4m3fn", "nvfp4"}))] == [
        "fp8_e4m3fn_scaled",
        "nvfp4",
    ]
    assert candidates(frozenset()) == []
    assert [f.name for f in candidates(None, "mps")] == ["int8_convrot", "int8"]  # no 8-bit floats there


# Measuring


def test_small_layers_are_measured_whole_and_exactly(wan: Path, tmp_path: Path) -> None:
    choices = alternatives_of(wan).open
    found = measure(read_source(wan), choices, "fast", Nobody())
    assert found.largest == {}
    for name in ("int8", "nvfp4", "w4a8"):
        made = quantizer().quantize(wan, tmp_path / f"{name}.safetensors", QuantizeRequest(format=name))
        original = load_file(wan)
        for plans, noises in zip(choices, found.noises, strict=True):
            at = next(i for i, p in enumerate(plans) if p.target and p.target.name == name)
            weight = original[plans[0].name].double()
            exact = (made["layer_errors"][plans[0].layer] * float(weight.norm())) ** 2
            assert noises[at] == pytest.approx(exact, rel=2e-3)
            assert noises[0] == 0


def test_a_sample_of_a_layer_measures_close_to_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "wan.safetensors"
    write_random_model(path, WAN | {"blocks.0.ffn.0.weight": (2048, 256)}, 0)
    choices = [p for p in alternatives_of(path).open if p[0].name == "blocks.0.ffn.0.weight"]
    whole = measure(read_source(path), choices, "fast", Nobody())
    part = measure(read_source(path), choices, "fast", Nobody(), sampled=2048 * 256 // 4)
    assert part.noises[0] != whole.noises[0]
    assert part.noises[0] == pytest.approx(whole.noises[0], rel=0.1)


def test_the_largest_weight_is_measured_wherever_it_is(tmp_path: Path) -> None:
    path = tmp_path / "wan.safetensors"
    name = "blocks.0.ffn.0.weight"
    write_random_model(path, WAN | {name: (2048, 256)}, 0)
    tensors = load_file(path)
    tensors[name][1000, 7] = 3e4  # in a row that is not among the samples
    save_file(tensors, path, {"format": "pt"})
    choices = [p for p in alternatives_of(path).open if p[0].name == name]
    at = next(i for i, p in enumerate(choices[0]) if p.target and p.target.name == "fp8_e4m3fn_scaled")
    whole = measure(read_source(path), choices, "fast", Nobody())
    part = measure(read_source(path), choices, "fast", Nobody(), sampled=2048 * 256 // 4)
    assert part.noises[0][at] == pytest.approx(whole.noises[0][at], rel=0.2)


def test_measuring_shows_progress_and_can_be_stopped(wan: Path) -> None:
    seen: list[tuple[int, int]] = []

    class Look(Nobody):
        def progress(self, done: int, total: int) -> None:
            seen.append((done, total))

        def throw_if_cancelled(self) -> None:
            if len(seen) > 3:
                raise Cancelled("Stopped.", "")

    with pytest.raises(Cancelled):
        measure(read_source(wan), alternatives_of(wan).open, "fast", Look(), workers=1)
    assert 0 < seen[0][0] < seen[0][1]


# Choosing, from end to end


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
def test_the_file_is_never_larger_than_the_budget(wan: Path, tmp_path: Path, share: float) -> None:
    limit = limit_at(wan, share)
    output = tmp_path / "small.safetensors"
    details = make(wan, output, limit)
    size = output.stat().st_size
    assert size <= limit
    assert size == details["output_bytes"] == details["budget"]["planned_bytes"]
    assert size > limit * 0.95  # the room is used
    assert verify_file(output)["ok"]
    written = identify(read_header(output))
    assert written.quantized_layers == details["changed_layers"]
    assert details["format_words"].startswith("mixed: ")
    assert json.loads(json.dumps(details)) == details


def test_more_room_gives_less_error_and_other_formats(wan: Path, tmp_path: Path) -> None:
    noises, mixes = [], []
    for number, share in enumerate((0.02, 0.2, 0.5, 0.9)):
        output = tmp_path / f"{number}.safetensors"
        details = make(wan, output, limit_at(wan, share))
        noises.append(noise_of(wan, output, details))
        mixes.append({entry["format"] for entry in details["formats"]})
    assert noises == sorted(noises, reverse=True)
    assert noises[0] > 10 * noises[-1]
    assert any(len(mix) > 1 for mix in mixes)


def test_a_mixture_betters_one_format_of_the_same_size(wan: Path, tmp_path: Path) -> None:
    single = quantizer().quantize(wan, tmp_path / "single.safetensors", QuantizeRequest(format="nvfp4"))
    mixed = make(wan, tmp_path / "mixed.safetensors", single["output_bytes"] + 4096)
    noise = [
        noise_of(wan, tmp_path / name, details)
        for name, details in (("single.safetensors", single), ("mixed.safetensors", mixed))
    ]
    assert noise[1] < noise[0]


def test_the_same_budget_finds_its_earlier_result_without_measuring(wan: Path, tmp_path: Path) -> None:
    class Reads(Nobody):
        def progress(self, done: int, total: int) -> None:
            raise AssertionError("it was read")

    output = tmp_path / "small.safetensors"
    limit = limit_at(wan, 0.3)
    first = make(wan, output, limit)
    second = make(wan, output, limit, Reads())
    assert second["reused"]
    same = set(first) - {"reused", "seconds", "layer_errors", "layers", "mean_error", "budget"}
    assert {key: second[key] for key in same} == {key: first[key] for key in same}
    assert [(x["name"], x["format"]) for x in second["layers"]] == [
        (x["name"], x["format"]) for x in first["layers"]
    ]
    assert "GB allowed" in render_quantize(second) or "MB allowed" in render_quantize(second)


def test_another_budget_is_another_recipe_and_another_name(wan: Path) -> None:
    source = Path("/models/wan_bf16.safetensors")
    paths = [quantizer().output_path(source, request_for(size)) for size in (9 * GB, 9.5 * GB)]
    assert [path.name for path in paths] == ["wan_mixed_9gb.safetensors", "wan_mixed_9.5gb.safetensors"]


def test_what_is_too_small_names_the_smallest_size(wan: Path, tmp_path: Path) -> None:
    with pytest.raises(BudgetTooSmall) as caught:
        make(wan, tmp_path / "small.safetensors", 100_000)
    smallest = caught.value.details["smallest_bytes"]
    assert "allows 98 KB" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    details = make(wan, tmp_path / "small.safetensors", smallest)
    assert details["output_bytes"] <= smallest
    with pytest.raises(BudgetTooSmall):
        make(wan, tmp_path / "smaller.safetensors", smallest - 32)


def test_a_host_without_any_format_is_told_the_smallest_size(wan: Path, tmp_path: Path) -> None:
    """ComfyUI 0.3.64 knows no quantized layer."""
    old = Quantizer(lambda path: identify(read_header(path)), layer_formats=frozenset)
    with pytest.raises(BudgetTooSmall):
        old.quantize(wan, tmp_path / "x.safetensors", request_for(100_000))
    with pytest.raises(NothingToQuantize, match="small enough"):
        old.quantize(wan, tmp_path / "x.safetensors", request_for(wan.stat().st_size))
    assert list(tmp_path.iterdir()) == []


def test_what_is_small_enough_is_left_alone(wan: Path, tmp_path: Path) -> None:
    with pytest.raises(NothingToQuantize, match="small enough"):
        make(wan, tmp_path / "x.safetensors", wan.stat().st_size)


def test_nothing_means_what_fits_the_gpu(wan: Path, tmp_path: Path) -> None:
    room = limit_at(wan, 0.3)
    request = QuantizeRequest(policy=SIZE_BUDGET)
    details = quantizer(room=room).quantize(wan, tmp_path / "fits.safetensors", request)
    assert details["output_bytes"] <= room == details["budget"]["limit_bytes"]
    with pytest.raises(BadInput, match="no GPU is known here"):
        quantizer().output_path(wan, request)


def test_keep_patterns_hold_within_a_budget(wan: Path, tmp_path: Path) -> None:
    details = make(wan, tmp_path / "x.safetensors", limit_at(wan, 0.8), keep_patterns="self_attn")
    assert not [layer for layer in details["layers"] if "self_attn" in layer["name"]]
    assert details["kept_layers"]["kept by keep_patterns"] == 4


def test_weights_that_are_not_finite_are_told_or_kept(tmp_path: Path) -> None:
    source = write_wan(tmp_path / "wan.safetensors")
    tensors = load_file(source)
    tensors["blocks.0.ffn.0.weight"][3, 5] = math.nan
    save_file(tensors, source, {"format": "pt"})
    limit = int(source.stat().st_size * 0.9)
    with pytest.raises(NonFiniteWeights) as caught:
        make(source, tmp_path / "x.safetensors", limit)
    assert caught.value.details["tensors"] == ["blocks.0.ffn.0.weight"]
    details = make(source, tmp_path / "x.safetensors", limit, allow_nonfinite=True)
    assert details["output_bytes"] <= limit
    assert "blocks.0.ffn.0" in details["kept_names"]


def test_a_plan_says_what_would_come_and_writes_nothing(wan: Path) -> None:
    before = sorted(wan.parent.iterdir())
    limit = limit_at(wan, 0.3)
    details = quantizer().plan(wan, request_for(limit))
    assert details["output"] is None
    assert details["output_bytes"] <= limit
    assert render_quantize(details).startswith("Plan for wan_bf16.safetensors")
    assert sorted(wan.parent.iterdir()) == before
    single = quantizer().plan(wan, QuantizeRequest(format="int8"))
    assert {layer["format"] for layer in single["layers"]} == {"int8"}
    assert FORMATS["int8"].name == single["format"]
