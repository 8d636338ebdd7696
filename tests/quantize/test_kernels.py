"""The arithmetic of quantizing, against bounds that follow from the formats."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from managed_models.manager.quantize.encoding import make_encoder
from managed_models.manager.quantize.formats import FORMATS, SAMPLED_FROM
from managed_models.manager.quantize.kernels import (
    CHUNK,
    DTYPES,
    Error,
    Sample,
    cast,
    magnitude,
    quantize_rows,
    quantize_tensor,
    row_magnitudes,
    row_scales,
)

FP8_LARGEST, INT8_LARGEST = 448.0, 127.0
# A scale is rounded to float32, and so is its reciprocal: a little slack on every bound.
SLACK = 1 + 1e-5


@pytest.fixture(autouse=True, scope="module")
def _one_torch_thread() -> Iterator[None]:
    """Keep torch's threads from waiting for each other where other work fills the processor."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def never_stops() -> None:
    """A tick that lets the work go on."""


def fp8(values: torch.Tensor) -> tuple[torch.Tensor, float, float]:
    """Quantize with one scale; return codes, scale and the relative error that was reported."""
    scale = float(torch.tensor(magnitude(values) / FP8_LARGEST or 1.0))
    codes = torch.empty(values.shape, dtype=torch.float8_e4m3fn)
    noise, signal = quantize_tensor(values, codes, scale, FP8_LARGEST, never_stops)
    return codes, scale, math.sqrt(noise / signal) if signal else 0.0


def int8(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Quantize with a scale per row; return codes, scales and the relative error that was reported."""
    scales = row_scales(values, INT8_LARGEST)
    codes = torch.empty(values.shape, dtype=torch.int8)
    noise, signal = quantize_rows(values.clone(), codes, scales, INT8_LARGEST, never_stops)
    return codes, scales, math.sqrt(noise / signal) if signal else 0.0


def weights(rows: int, columns: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows * 10_007 + columns)
    return (torch.randn(rows, columns, generator=generator) * 0.02).to(dtype)


@st.composite
def matrices(draw: st.DrawFn) -> torch.Tensor:
    """Weights of any shape and size, from a seed, in any of the types that are read."""
    rows, columns = draw(st.integers(1, 20)), draw(st.integers(1, 40))
    dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]))
    spread = draw(st.sampled_from([1e-4, 0.02, 1.0, 300.0]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    values = torch.randn(rows, columns, generator=generator) * spread
    if draw(st.booleans()):
        values[:, : columns // 2] = 0
    if draw(st.booleans()):
        values[0] = 0
    return values.to(dtype)


def assert_fp8_bound(values: torch.Tensor, codes: torch.Tensor, scale: float) -> None:
    """Three bits of mantissa: half a step is a sixteenth of a value, or 2^-10 near zero."""
    scaled = values.double() / scale
    bound = torch.maximum(scaled.abs() / 16, torch.tensor(2.0**-10)) * SLACK
    assert bool(((codes.double() - scaled).abs() <= bound + 1e-4 / FP8_LARGEST).all())


# Magnitude


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("values", "largest"), [([0.5, -2.0, 1.0], 2.0), ([0.5, 4.0], 4.0), ([0.0], 0.0), ([], 0.0)]
)
def test_magnitude(dtype: torch.dtype, values: list[float], largest: float) -> None:
    assert magnitude(torch.tensor(values, dtype=dtype)) == largest


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, CHUNK - 1, CHUNK, CHUNK + 5])
def test_magnitude_finds_what_is_not_finite_in_any_chunk(bad: float, place: int) -> None:
    values = torch.zeros(CHUNK + 6)
    values[place] = bad
    assert not math.isfinite(magnitude(values))


# One scale per tensor, fp8


@settings(deadline=None, max_examples=60)
@given(matrices())
def test_fp8_stays_within_half_a_step(values: torch.Tensor) -> None:
    codes, scale, _ = fp8(values)
    assert scale > 0
    assert bool(codes.float().isfinite().all())
    assert_fp8_bound(values, codes, scale)


@settings(deadline=None, max_examples=40)
@given(matrices())
def test_fp8_of_its_own_result_changes_nothing(values: torch.Tensor) -> None:
    codes, scale, _ = fp8(values)
    again, _, error = fp8(codes.float() * scale)
    assert torch.equal(again.view(torch.uint8), codes.view(torch.uint8))
    assert error < 1e-6


def test_fp8_uses_the_whole_range() -> None:
    codes, scale, _ = fp8(torch.tensor([[0.5, -3.0, 1.0]]))
    assert codes.float().tolist()[0][1] == -448.0
    assert scale == pytest.approx(3.0 / 448, rel=1e-6)


@pytest.mark.parametrize("elements", [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 3])
def test_fp8_of_a_tensor_larger_than_one_chunk(elements: int) -> None:
    values = weights(1, elements, torch.bfloat16)
    codes, scale, error = fp8(values)
    expected = (values.float() / scale).clamp(-448, 448).to(torch.float8_e4m3fn)
    differing = codes.view(torch.uint8) != expected.view(torch.uint8)
    assert int(differing.sum()) <= elements // 1000  # ties that the reciprocal rounds the other way
    assert_fp8_bound(values, codes, scale)
    exact = (codes.double() * scale - values.double()).norm() / values.double().norm()
    assert error == pytest.approx(float(exact), rel=1e-3)


# One scale per row, int8


@settings(deadline=None, max_examples=60)
@given(matrices())
def test_int8_stays_within_half_a_step_of_each_row(values: torch.Tensor) -> None:
    codes, scales, _ = int8(values)
    assert scales.shape == (values.shape[0], 1)
    assert scales.dtype == torch.float32
    assert bool((scales > 0).all())
    restored = codes.double() * scales.double()
    assert bool(((restored - values.double()).abs() <= scales.double() / 2 * SLACK + 1e-12).all())


@settings(deadline=None, max_examples=40)
@given(matrices())
def test_int8_of_its_own_result_changes_nothing(values: torch.Tensor) -> None:
    codes, scales, _ = int8(values)
    again, _, error = int8(codes.float() * scales)
    assert torch.equal(again, codes)
    assert error < 1e-6


@settings(deadline=None, max_examples=40)
@given(matrices())
def test_int8_is_symmetric(values: torch.Tensor) -> None:
    codes, scales, _ = int8(values)
    mirrored, same, _ = int8(-values)
    assert torch.equal(codes, -mirrored)
    assert torch.equal(scales, same)
    assert int(codes.min()) >= -127


@pytest.mark.parametrize("shape", [(1, CHUNK + 1), (3, CHUNK // 2 + 1), (CHUNK // 64 + 1, 64), (700, 3001)])
def test_int8_of_a_tensor_larger_than_one_chunk(shape: tuple[int, int]) -> None:
    values = weights(*shape, torch.bfloat16)
    codes, scales, error = int8(values)
    assert torch.allclose(scales, values.float().abs().amax(1, keepdim=True) / 127, rtol=1e-6)
    restored = codes.double() * scales.double()
    assert bool(((restored - values.double()).abs() <= scales.double() / 2 * SLACK).all())
    exact = (restored - values.double()).norm() / values.double().norm()
    assert error == pytest.approx(float(exact), rel=1e-3)


# Both


def test_zero_weights_stay_zero_with_a_positive_scale() -> None:
    zeros = torch.zeros(32, 64)
    codes, scale, error = fp8(zeros)
    assert (scale, error, int(codes.float().count_nonzero())) == (1.0, 0.0, 0)
    whole, scales, error = int8(zeros)
    assert (error, int(whole.count_nonzero())) == (0.0, 0)
    assert bool((scales == 1).all())


@pytest.mark.parametrize("largest", [1e-30, 1e-36, 1e-37, 1e-39, 1e-44])
def test_rows_near_zero_stay_finite_and_near_zero(largest: float) -> None:
    """An output that training drove towards zero, as float32 and bf16 hold it."""
    values = torch.zeros(32, 32)
    values[:, 0], values[:, 1] = largest, -largest / 4
    codes, scales, error = int8(values)
    assert bool((scales > 0).all())
    assert math.isfinite(error)
    restored = codes.double() * scales.double()
    assert bool(((restored - values.double()).abs() <= values.double().abs().max()).all())
    assert not codes[:, 2:].any()


@pytest.mark.parametrize("kernel", [fp8, int8])
def test_the_reported_error_is_the_true_one(
    kernel: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor, float]],
) -> None:
    values = weights(96, 160)
    codes, scale, error = kernel(values)
    exact = (codes.double() * scale - values.double()).norm() / values.double().norm()
    assert error == pytest.approx(float(exact), rel=1e-4)


@pytest.mark.parametrize("format", ["fp8_e4m3fn_scaled", "fp8_e5m2_scaled", "int8"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_of_a_large_layer_a_quarter_of_the_rows_tells_the_error(format: str, dtype: torch.dtype) -> None:
    """Whose rows differ as those of real layers do, and whose bytes do not depend on what is measured."""
    rows, columns = 2048, SAMPLED_FROM // 2048
    spread = torch.logspace(-2, 0, rows)[torch.randperm(rows, generator=torch.Generator().manual_seed(1))]
    values = (weights(rows, columns) * spread.view(-1, 1)).to(dtype)
    target = FORMATS[format]
    results = []
    for shape in ((rows, columns), (rows, columns - 1)):  # the second seems too small to be sampled
        encoder = make_encoder(target, shape)
        for _ in range(encoder.passes):
            encoder.look(values)
        out = torch.empty(rows, columns, dtype=DTYPES[target.dtype])
        encoded = encoder.encode(values, out, lambda: None)
        results.append((encoded.error, out.view(torch.uint8), encoded.sides[".weight_scale"]))
    (sampled, codes, scales), (exact, all_codes, all_scales) = results
    assert torch.equal(codes, all_codes)
    assert torch.equal(scales, all_scales)
    assert sampled != exact
    errors = [math.sqrt(error.noise / error.signal) for error in (sampled, exact)]
    assert errors[0] == pytest.approx(errors[1], rel=0.03)
    assert sampled.signal == pytest.approx(exact.signal, rel=0.1)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=12), st.integers(1, 5))
def test_a_sample_is_taken_up_to_the_whole(sizes: list[int], every: int) -> None:
    sample = Sample(every)
    taken = 0
    for size in sizes:
        if sample.takes(torch.empty(size)):
            taken += 1
            sample.add(Error(2.0 * size, 3.0 * size))
    assert taken == math.ceil(len(sizes) / every)
    assert tuple(sample.total()) == pytest.approx((2.0 * sum(sizes), 3.0 * sum(sizes)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cast_rounds_as_torch_does(dtype: torch.dtype) -> None:
    values = weights(1100, 1000)
    out = torch.empty(values.shape, dtype=dtype)
    noise, signal = cast(values, out, never_stops)
    assert torch.equal(out, values.to(dtype))
    exact = (out.double() - values.double()).norm() / values.double().norm()
    assert math.sqrt(noise / signal) == pytest.approx(float(exact), rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kernel", ["tensor", "row", "cast"])
def test_no_kernel_writes_into_its_source(dtype: torch.dtype, kernel: str) -> None:
    """The source's buffer is being hashed in another thread at that moment."""
    values = weights(64, 96, dtype)
    before = values.clone()
    seen: list[bool] = []

    def tick() -> None:
        seen.append(torch.equal(values, before))

    if kernel == "tensor":
        quantize_tensor(values, torch.empty(values.shape, dtype=torch.float8_e4m3fn), 1e-3, 448.0, tick)
    elif kernel == "row":
        scales = row_scales(values, INT8_LARGEST)
        quantize_rows(values, torch.empty(values.shape, dtype=torch.int8), scales, INT8_LARGEST, tick)
    else:
        cast(values, torch.empty(values.shape, dtype=torch.bfloat16), tick)
    assert seen
    assert all(seen)
    assert torch.equal(values, before)


class _Stop(Exception):
    pass


@pytest.mark.parametrize(
    "work",
    [
        lambda v, tick: quantize_tensor(v, torch.empty(v.shape, dtype=torch.float8_e4m3fn), 1.0, 448.0, tick),
        lambda v, tick: quantize_rows(
            v, torch.empty(v.shape, dtype=torch.int8), torch.ones(len(v), 1), 127.0, tick
        ),
        lambda v, tick: cast(v, torch.empty(v.shape, dtype=torch.bfloat16), tick),
    ],
    ids=["tensor", "row", "cast"],
)
def test_every_kernel_can_be_stopped_between_chunks(
    work: Callable[[torch.Tensor, Callable[[], None]], object],
) -> None:
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        ticks += 1
        if ticks == 2:
            raise _Stop

    with pytest.raises(_Stop):
        work(torch.zeros(3, CHUNK), tick)
    assert ticks == 2


@settings(deadline=None, max_examples=40)
@given(matrices())
def test_the_largest_magnitude_of_each_row(values: torch.Tensor) -> None:
    assert torch.equal(row_magnitudes(values), values.float().abs().amax(1, keepdim=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_row_with_a_special_value_says_so(dtype: torch.dtype) -> None:
    values = torch.tensor([[1.0, -2.0], [math.nan, 1.0], [-math.inf, 5.0], [-0.0, 0.0]], dtype=dtype)
    found = row_magnitudes(values).view(-1)
    assert (float(found[0]), float(found[2]), float(found[3])) == (2.0, math.inf, 0.0)
    assert math.isnan(float(found[1]))
    both = torch.tensor([[math.nan, math.inf], [math.inf, -math.nan]], dtype=dtype)
    assert bool(row_magnitudes(both).isnan().all())
