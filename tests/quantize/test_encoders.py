"""Every format: what is written stands for the weights, within bounds that follow from the format."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from managed_models.manager.quantize.encoding import make_encoder
from managed_models.manager.quantize.formats import FORMATS
from managed_models.manager.quantize.kernels import DTYPES, quantize_tensor
from managed_models.manager.quantize.kernels_search import TENSOR_PARTS
from support.encoding import decode, distributions, encode

SCALED = [name for name, target in FORMATS.items() if target.kind != "cast"]
WEIGHTS = dict(distributions())
SOURCES = [torch.float32, torch.float16, torch.bfloat16]
# Relative L2 error of Gaussian weights: near what the format can do, and far from a mistake.
GAUSSIAN = {
    "fp8_e4m3fn_scaled": (0.024, 0.029),
    "fp8_e5m2_scaled": (0.049, 0.056),
    "int8": (0.005, 0.010),
    "int8_convrot": (0.005, 0.010),
    "mxfp8": (0.024, 0.029),
    "nvfp4": (0.085, 0.105),
    "w4a8": (0.065, 0.080),
    "w4a4": (0.110, 0.150),
}


@pytest.fixture(autouse=True, scope="module")
def _one_torch_thread() -> Iterator[None]:
    """Keep torch's threads from waiting for each other where other work fills the processor."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    norm = float(b.double().norm())
    return float((a - b.double()).norm()) / norm if norm else float(a.norm())


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("name", SCALED)
def test_what_is_written_stands_for_the_weights(name: str, kind: str) -> None:
    for dtype, quality in itertools.product(SOURCES, ("fast", "best")):
        weights = WEIGHTS[kind].to(dtype)
        written = encode(name, weights, quality)
        error = relative(decode(name, written), weights)
        assert math.sqrt(written.error.noise / written.error.signal) == pytest.approx(error, rel=1e-3)
        assert written.error.signal == pytest.approx(float(weights.double().square().sum()), rel=1e-3)
        assert error < 0.2


@pytest.mark.parametrize("name", SCALED)
def test_the_error_of_gaussian_weights_is_that_of_the_format(name: str) -> None:
    least, most = GAUSSIAN[name]
    assert least < relative(decode(name, encode(name, WEIGHTS["normal"])), WEIGHTS["normal"]) < most


@pytest.mark.parametrize("quality", ["fast", "best"])
@pytest.mark.parametrize("name", SCALED)
def test_bytes_depend_neither_on_blocks_nor_on_threads(name: str, quality: str) -> None:
    weights = torch.cat([WEIGHTS["normal"], WEIGHTS["many magnitudes"], WEIGHTS["normal"]]).bfloat16()
    multiple = FORMATS[name].row_multiple
    cuts = [128, 256] if multiple > 1 else [1, 37, 38, 300]
    whole = encode(name, weights, quality)
    torch.set_num_threads(2)
    try:
        cut = encode(name, weights, quality, cuts)
    finally:
        torch.set_num_threads(1)
    assert whole.same_bytes(cut)
    assert whole.error.noise == pytest.approx(cut.error.noise, rel=1e-5)


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("name", SCALED)
def test_best_is_never_worse(name: str, kind: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        weights = WEIGHTS[kind].to(dtype)
        fast, best = encode(name, weights), encode(name, weights, "best", [])
        assert relative(decode(name, best), weights) <= relative(decode(name, fast), weights) * (1 + 1e-6)


@given(
    seed=st.integers(0, 2**20),
    name=st.sampled_from(SCALED),
    power=st.floats(0.5, 6),
    size=st.floats(-12, 3),
    dtype=st.sampled_from(SOURCES),
)
@settings(max_examples=60, deadline=None)
def test_best_is_never_worse_whatever_the_weights(
    seed: int, name: str, power: float, size: float, dtype: torch.dtype
) -> None:
    normal = torch.randn(32, 256, generator=torch.Generator().manual_seed(seed))
    weights = (normal.sign() * normal.abs() ** power * 10**size).clamp(-6e4, 6e4).to(dtype)
    fast, best = encode(name, weights), encode(name, weights, "best")
    worst = relative(decode(name, fast), weights)
    assert relative(decode(name, best), weights) <= worst * (1 + 1e-5)


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("name", ["fp8_e4m3fn_scaled", "fp8_e5m2_scaled"])
def test_no_scale_that_is_tried_errs_less_than_the_chosen_one(name: str, kind: str) -> None:
    weights = WEIGHTS[kind].bfloat16()
    target = FORMATS[name]
    least = encode(name, weights, "best").error.noise
    usual = float(weights.float().abs().max()) / target.largest
    out = torch.empty(weights.shape, dtype=DTYPES[target.dtype])
    for part in (1.0, *TENSOR_PARTS):
        error = quantize_tensor(weights, out, usual * part, target.largest, lambda: None)
        assert least <= error.noise * (1 + 1e-5), part


@pytest.mark.parametrize("name", ["nvfp4", "w4a4"])
def test_best_is_worth_its_time_where_weights_have_few_bits(name: str) -> None:
    weights = WEIGHTS["normal"]
    fast = relative(decode(name, encode(name, weights)), weights)
    assert relative(decode(name, encode(name, weights, "best")), weights) < 0.9 * fast


@pytest.mark.parametrize("quality", ["fast", "best"])
@pytest.mark.parametrize("name", SCALED)
def test_zeros_stay_zeros(name: str, quality: str) -> None:
    written = encode(name, torch.zeros(64, 256, dtype=torch.bfloat16), quality)
    restored = decode(name, written)
    assert bool((restored.abs() < 1e-9).all())  # w4a8 has no level at zero
    assert written.error.signal == 0.0
    assert math.isfinite(written.error.noise)


@pytest.mark.parametrize("dtype", SOURCES)
@pytest.mark.parametrize("name", SCALED)
def test_the_smallest_weights_stay_finite(name: str, dtype: torch.dtype) -> None:
    tiny = torch.finfo(dtype).smallest_normal
    weights = (torch.randn(64, 256, generator=torch.Generator().manual_seed(1)) * tiny).to(dtype)
    restored = decode(name, encode(name, weights))
    assert bool(restored.isfinite().all())
    assert float(restored.abs().max()) <= max(4 * float(weights.abs().max()), 1e-8)


@pytest.mark.parametrize("dtype", SOURCES)
@pytest.mark.parametrize("name", SCALED)
def test_the_largest_weights_keep_their_error(name: str, dtype: torch.dtype) -> None:
    large = torch.finfo(dtype).max / (5000 if dtype == torch.float32 else 100)
    weights = (torch.randn(64, 256, generator=torch.Generator().manual_seed(2)) * large).to(dtype)
    for quality in ("fast", "best"):
        written = encode(name, weights, quality)
        assert relative(decode(name, written), weights) < 0.2
        assert written.error.signal == pytest.approx(float(weights.double().square().sum()), rel=1e-3)


@pytest.mark.parametrize("name", SCALED)
def test_the_source_stays_as_it_is(name: str) -> None:
    for dtype in SOURCES:
        weights = WEIGHTS["normal"].to(dtype)
        before = weights.clone()
        for quality in ("fast", "best"):
            encode(name, weights, quality)
            assert torch.equal(weights, before)


@pytest.mark.parametrize("name", SCALED)
def test_what_is_not_finite_is_seen(name: str) -> None:
    for bad in (math.nan, math.inf, -math.inf):
        for quality in ("fast", "best"):
            weights = WEIGHTS["normal"].clone()
            weights[70, 3] = bad
            encoder = make_encoder(FORMATS[name], (160, 256), quality)
            encoder.look(weights[:64])
            encoder.look(weights[64:])
            assert not math.isfinite(encoder.largest)
            if not encoder.passes:
                stored = FORMATS[name].outputs("", (160, 256))[0]
                encoder = make_encoder(FORMATS[name], (160, 256), quality)
                encoder.encode(weights, torch.empty(stored.shape, dtype=DTYPES[stored.dtype]), lambda: None)
                assert not math.isfinite(encoder.largest)


@pytest.mark.parametrize("name", SCALED)
def test_the_marker_is_what_comfyui_reads(name: str) -> None:
    written = encode(name, WEIGHTS["normal"])
    marker = json.loads(bytes(written.sides[".comfy_quant"].tolist()))
    assert marker["format"] == FORMATS[name].comfy_format
    assert marker.get("convrot_groupsize") == (256 if "convrot" in name or name.startswith("w4") else None)
    assert marker.get("convrot") == (True if name == "int8_convrot" else None)
    assert marker.get("group_size") == (16 if name == "w4a8" else None)
