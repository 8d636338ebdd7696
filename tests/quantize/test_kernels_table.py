"""Codes looked up in a table, against the arithmetic that they stand for."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from managed_models.manager.quantize.encoding import make_encoder
from managed_models.manager.quantize.formats import FORMATS
from managed_models.manager.quantize.kernels import quantize_tensor
from managed_models.manager.quantize.kernels_table import LEAST, CodeTable

HALVES = [torch.bfloat16, torch.float16]
EIGHTS = [(torch.float8_e4m3fn, 448.0), (torch.float8_e5m2, 57344.0)]


def go_on() -> None:
    """A tick that lets the work go on."""


def every_finite(dtype: torch.dtype) -> torch.Tensor:
    """Return every finite value of a 16-bit type, as rows."""
    values = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(dtype)
    finite = values[values.isfinite()]
    return finite[: len(finite) // 64 * 64].view(-1, 64).contiguous()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("target", "largest"), EIGHTS)
@pytest.mark.parametrize("scale", [1.0, 3e-5, 0.0123, 7.5, 1e30, 2e-38])
def test_every_value_gets_the_code_that_is_computed(
    dtype: torch.dtype, target: torch.dtype, largest: float, scale: float
) -> None:
    rows = every_finite(dtype)
    looked_up, computed = (torch.empty(rows.shape, dtype=target) for _ in range(2))
    CodeTable(dtype, target, scale, largest).encode(rows, looked_up, go_on)
    quantize_tensor(rows, computed, scale, largest, go_on)
    assert torch.equal(looked_up.view(torch.uint8), computed.view(torch.uint8))


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(HALVES), st.integers(0, 2**31), st.sampled_from([1e-4, 0.02, 3.0]))
def test_the_error_is_that_of_the_arithmetic(dtype: torch.dtype, seed: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = (torch.randn(40, 70, generator=generator) * spread).to(dtype)
    scale = float(rows.float().abs().max()) / 448
    outs = [torch.empty(rows.shape, dtype=torch.float8_e4m3fn) for _ in range(2)]
    found = CodeTable(dtype, torch.float8_e4m3fn, scale, 448.0).encode(rows, outs[0], go_on)
    expected = quantize_tensor(rows, outs[1], scale, 448.0, go_on)
    assert found.noise == pytest.approx(expected.noise, rel=1e-4)
    assert found.signal == pytest.approx(expected.signal, rel=1e-5)


def test_zeros_have_no_error() -> None:
    rows = torch.zeros(3, 5, dtype=torch.bfloat16)
    out = torch.empty(rows.shape, dtype=torch.float8_e4m3fn)
    error = CodeTable(rows.dtype, out.dtype, 1.0, 448.0).encode(rows, out, go_on)
    assert error.noise == pytest.approx(0.0, abs=1e-80)
    assert error.signal == 0.0
    assert not out.float().any()


def test_a_large_layer_gets_the_same_bytes_in_any_blocks() -> None:
    columns = 1024
    rows = (torch.randn(LEAST // columns, columns) * 0.02).bfloat16()
    target = FORMATS["fp8_e4m3fn_scaled"]
    results = []
    for step in (len(rows), 100, 7):
        encoder = make_encoder(target, rows.shape)
        out = torch.empty(rows.shape, dtype=torch.float8_e4m3fn)
        encoder.look(rows)
        noise = 0.0
        for start in range(0, len(rows), step):
            block = rows[start : start + step]
            noise += encoder.encode(block, out[start : start + step], go_on).error.noise
        results.append((out.view(torch.uint8), noise))
    computed = torch.empty(rows.shape, dtype=torch.float8_e4m3fn)
    scale = float(torch.tensor(encoder.largest / 448))
    error = quantize_tensor(rows, computed, scale, 448.0, go_on)
    for out, noise in results:
        assert torch.equal(out, computed.view(torch.uint8))
        assert noise == pytest.approx(error.noise, rel=1e-4)
        assert math.isfinite(noise)


def test_it_can_be_stopped_between_chunks() -> None:
    class Stop(Exception):
        pass

    def tick() -> None:
        raise Stop

    table = CodeTable(torch.bfloat16, torch.float8_e4m3fn, 1.0, 448.0)
    with pytest.raises(Stop):
        table.encode(torch.zeros(2, 2).bfloat16(), torch.empty(2, 2, dtype=torch.float8_e4m3fn), tick)
