"""How many workers a run gets, and how large their buffers are: decided purely from the plan.

A tensor that has to be looked at as a whole first is read once more for it: from the system's cache that
is quicker than keeping it, since memory that a process has not touched before costs more than reading.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import BadInput
from ..formats.writer import PAGE
from ..units import GB, format_bytes
from .policy import Action, TensorPlan

# Elements of a block, about: what a worker computes on at once. The results of a block are the same
# however many workers there are and however little memory, because blocks never depend on those.
BLOCK_ELEMENTS = 1 << 20
COPY_BYTES = 4 << 20
# Bytes that an encoder may take for itself per element of a block.
SCRATCH_PER_ELEMENT = 40
# Blocks of output that a worker has: one is filled while the others are written.
OUT_BUFFERS = 3
# What a run takes besides its workers: hashing, the journal, and memory that is not given back at once.
FIXED_BYTES = 64 << 20
AUTOMATIC_BYTES = GB
MOST_WORKERS = 8
# A worker for less than this is not worth a thread.
BYTES_PER_WORKER = 64 << 20


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a tensor: the first, and how many."""

    start: int
    rows: int


def matrix_shape(plan: TensorPlan) -> tuple[int, int]:
    """Return a tensor's rows and columns as an encoder sees them: without a scale, rows of one element."""
    # Scales of a source go by its rows.
    if (plan.action is not Action.QUANTIZE and plan.source is None) or not plan.shape:
        return plan.elements, 1
    return plan.shape[0], plan.elements // max(1, plan.shape[0])


def blocks_of(plan: TensorPlan) -> list[Block]:
    """Return the blocks in which a tensor is computed; of a copy, blocks of bytes."""
    if not plan.changes:
        return _cut(bytes_read(plan), COPY_BYTES)
    rows, columns = matrix_shape(plan)
    step = BLOCK_ELEMENTS // max(1, columns)
    multiple = plan.row_multiple
    pages = math.lcm(multiple, _rows_of_pages(plan, rows))
    if pages <= step:
        multiple = pages
    return _cut(rows, max(multiple, step // multiple * multiple))


def _rows_of_pages(plan: TensorPlan, rows: int) -> int:
    """Return how many rows as they are written make whole pages."""
    width = plan.outputs()[0].nbytes // max(1, rows)
    return PAGE // math.gcd(width, PAGE)


def bytes_read(plan: TensorPlan) -> int:
    """Return the bytes of the source that a tensor takes: what progress counts."""
    return plan.info.nbytes if plan.changes or plan.action is Action.COPY else 0


def _cut(count: int, step: int) -> list[Block]:
    return [Block(start, min(step, count - start)) for start in range(0, count, step)]


@dataclass(frozen=True)
class BufferPlan:
    """What a run takes.

    Attributes:
        workers: threads that convert.
        block_bytes: the largest block as it is read.
        out_bytes: the largest block as it is written.
    """

    workers: int
    block_bytes: int
    out_bytes: int


def plan_buffers(plans: Sequence[TensorPlan], limit: int, most: int) -> BufferPlan:
    """Decide what a run takes.

    Args:
        limit: bytes that the process may grow by.
        most: threads that may convert.

    Raises:
        BadInput: ``limit`` is less than one worker needs.
    """
    block, out, scratch = _largest(_needs(plan) for plan in plans)
    each = block + OUT_BUFFERS * out + scratch
    least = least_bytes(plans)
    if limit < least:
        raise BadInput(
            f"max_memory_gb allows {format_bytes(limit)}, and at least {format_bytes(least)} are needed "
            "for this model.",
            f"Give {_rounded_up(least):g} or more, or 0 for an automatic bound.",
            least_bytes=least,
        )
    total = sum(bytes_read(plan) for plan in plans)
    useful = min(most, MOST_WORKERS, max(1, total // BYTES_PER_WORKER))
    workers = max(1, min(useful, (limit - FIXED_BYTES) // each))
    return BufferPlan(workers, block, out)


def least_bytes(plans: Sequence[TensorPlan]) -> int:
    """Return the least bound with which a plan can be carried out."""
    block, out, scratch = _largest(_needs(plan) for plan in plans)
    return FIXED_BYTES + block + OUT_BUFFERS * out + scratch


def automatic_limit(available: int) -> int:
    """Return the bound where nobody gave one: 1 GB, or a quarter of the RAM that is free."""
    return max(AUTOMATIC_BYTES // 4, min(AUTOMATIC_BYTES, available // 4))


def _needs(plan: TensorPlan) -> tuple[int, int, int]:
    """Return bytes of one block as read, as written, and for the encoder."""
    rows = max((block.rows for block in blocks_of(plan)), default=0)
    if not plan.changes:
        return 0, rows, 0
    count, columns = matrix_shape(plan)
    written = sum(spec.nbytes for spec in plan.outputs())
    read = -(-plan.info.nbytes * rows // max(1, count))
    return read, -(-written * rows // max(1, count)) + 4096, rows * columns * SCRATCH_PER_ELEMENT


def _largest(needs: Iterable[tuple[int, int, int]]) -> tuple[int, int, int]:
    block = out = scratch = 0
    for one in needs:
        block, out, scratch = max(block, one[0]), max(out, one[1]), max(scratch, one[2])
    return max(block, 4096), out, scratch


def _rounded_up(count: int) -> float:
    return -(-count * 100 // GB) / 100
