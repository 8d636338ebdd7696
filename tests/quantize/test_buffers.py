"""How many workers, and how large their buffers: decided from the plan alone."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from managed_models.manager.errors import BadInput
from managed_models.manager.formats.safetensors import TensorInfo
from managed_models.manager.quantize.buffers import (
    BLOCK_ELEMENTS,
    COPY_BYTES,
    FIXED_BYTES,
    MOST_WORKERS,
    OUT_BUFFERS,
    SCRATCH_PER_ELEMENT,
    automatic_limit,
    blocks_of,
    least_bytes,
    matrix_shape,
    plan_buffers,
)
from managed_models.manager.quantize.formats import FORMATS
from managed_models.manager.quantize.policy import Action, TensorPlan
from managed_models.manager.units import GB

WIDTHS = {"F32": 4, "BF16": 2, "U8": 1}
SCALED = sorted(name for name, target in FORMATS.items() if target.kind != "cast")


def plan(shape: tuple[int, ...], action: Action, format: str = "int8", dtype: str = "BF16") -> TensorPlan:
    info = TensorInfo(dtype, shape, 0, math.prod(shape) * WIDTHS[dtype])
    target = None if action is Action.COPY else FORMATS[format]
    return TensorPlan("a.weight", info, action, target=target)


shapes = st.tuples(st.integers(1, 200).map(lambda n: n * 256), st.integers(1, 60).map(lambda n: n * 256))
plans = st.lists(
    st.one_of(
        st.builds(plan, shapes, st.just(Action.QUANTIZE), st.sampled_from(SCALED)),
        st.builds(plan, shapes, st.just(Action.CAST), st.just("fp16"), st.just("F32")),
        st.builds(plan, shapes, st.just(Action.COPY)),
    ),
    min_size=1,
    max_size=6,
)


@given(plans)
def test_blocks_cover_every_row_once(some: list[TensorPlan]) -> None:
    for one in some:
        blocks = blocks_of(one)
        rows = one.info.nbytes if one.action is Action.COPY else matrix_shape(one)[0]
        assert [block.start for block in blocks] == [
            sum(b.rows for b in blocks[:i]) for i in range(len(blocks))
        ]
        assert sum(block.rows for block in blocks) == rows
        if one.changes:
            assert all(block.start % one.row_multiple == 0 for block in blocks)
            columns = matrix_shape(one)[1]
            most = max(BLOCK_ELEMENTS, one.row_multiple * columns)
            assert all(block.rows * columns <= most for block in blocks)
        else:
            assert all(block.rows <= COPY_BYTES for block in blocks)


@pytest.mark.parametrize(("format", "shape"), [("int8", (5120, 5120)), ("fp8_e4m3fn_scaled", (500, 13824))])
def test_blocks_of_common_widths_are_written_in_whole_pages(format: str, shape: tuple[int, int]) -> None:
    one = plan(shape, Action.QUANTIZE, format)
    blocks = blocks_of(one)
    assert len(blocks) > 2
    assert all(block.start * shape[1] % 4096 == 0 for block in blocks)
    assert all(block.rows * shape[1] > BLOCK_ELEMENTS * 9 // 10 for block in blocks[:-1])


def test_a_width_that_never_fills_pages_is_cut_all_the_same() -> None:
    blocks = blocks_of(plan((300, 16385), Action.QUANTIZE, "int8"))
    assert [block.rows for block in blocks] == [63, 63, 63, 63, 48]


@settings(max_examples=60)
@given(plans, st.integers(1, 64), st.integers(0, 4 * GB))
def test_a_plan_stays_within_its_bound_or_says_the_least(
    some: list[TensorPlan], workers: int, limit: int
) -> None:
    least = least_bytes(some)
    if limit < least:
        with pytest.raises(BadInput, match="max_memory_gb allows") as caught:
            plan_buffers(some, limit, workers)
        assert caught.value.details == {"least_bytes": least}
        limit = least
    found = plan_buffers(some, limit, workers)
    assert 1 <= found.workers <= min(workers, MOST_WORKERS)
    elements = max((b.rows * matrix_shape(p)[1] for p in some if p.changes for b in blocks_of(p)), default=0)
    each = found.block_bytes + OUT_BUFFERS * found.out_bytes + elements * SCRATCH_PER_ELEMENT
    assert FIXED_BYTES + found.workers * each <= limit
    for one in some:
        for block in blocks_of(one):
            share = block.rows / max(1, matrix_shape(one)[0] if one.changes else one.info.nbytes)
            room = found.block_bytes if one.changes else found.out_bytes  # a copy is read where it is written
            assert one.info.nbytes * share <= room * (1 + 1e-9)


def test_a_small_model_gets_one_worker() -> None:
    assert plan_buffers([plan((256, 256), Action.QUANTIZE)], GB, 16).workers == 1


@pytest.mark.parametrize(("limit", "workers"), [(GB, 3), (256 << 20, 3), (128 << 20, 1)])
def test_a_large_model_gets_as_many_workers_as_there_is_memory_for(limit: int, workers: int) -> None:
    layers = [plan((13824, 5120), Action.QUANTIZE, "fp8_e4m3fn_scaled")] * 80
    assert plan_buffers(layers, limit, 3).workers == workers


def test_the_size_of_a_tensor_changes_nothing() -> None:
    small, huge = (plan((rows, 8192), Action.QUANTIZE, "fp8_e4m3fn_scaled") for rows in (16384, 2**22))
    assert plan_buffers([huge], 128 << 20, 3).block_bytes == plan_buffers([small], 128 << 20, 3).block_bytes


@pytest.mark.parametrize(
    ("available", "limit"), [(0, GB // 4), (2 * GB, GB // 2), (4 * GB, GB), (1000 * GB, GB)]
)
def test_the_automatic_bound(available: int, limit: int) -> None:
    assert automatic_limit(available) == limit
