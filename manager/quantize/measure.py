"""What each format would change of each layer, measured in one pass over the source.

Of a large layer only some blocks of rows are rounded, always the same ones, and the row with the
largest weight, from which scales follow; the sums of squares are taken up to the whole layer. How
little that moves the choice of formats is measured in ``benchmarks/size_budget.py``.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from ..watch import JobProgress, Watch, tell
from ..workers import Tick, available_cores, work_together
from .buffers import BLOCK_ELEMENTS
from .encoding import make_encoder
from .engine import one_torch_thread
from .kernels import DTYPES, magnitude
from .source import Reader, Source
from .stored import open_decoder

if TYPE_CHECKING:
    from .policy import TensorPlan

# Weights of a layer that are rounded; a layer that has no more is rounded whole.
SAMPLED = 2 << 20
# Scales of blocks lie in tiles of this many rows, so samples are whole ones.
_TILE = 128
_READ_BYTES = 16 << 20
_MOST_WORKERS = 8
# What one worker takes: a block as it is read and worked out, the sample, and what an encoder needs.
WORKER_BYTES = 128 << 20
STAGE = "measuring"


@dataclass
class Measured:
    """What was found.

    Attributes:
        noises: for each list of alternatives, the sum of squares that each would change.
        largest: name of a tensor -> its largest magnitude, where it is not finite.
    """

    noises: list[list[float]] = field(default_factory=list)
    largest: dict[str, float] = field(default_factory=dict)


def measure(
    source: Source,
    alternatives: Sequence[Sequence[TensorPlan]],
    quality: str,
    watch: Watch,
    sampled: int = 0,
    workers: int = 0,
) -> Measured:
    """Read every tensor once and round it as each of its alternatives would.

    Args:
        alternatives: of each tensor what may become of it; all of one tensor, in file order.
        sampled: how many weights of a tensor are rounded at most, 0 for ``SAMPLED``.
        workers: threads, each of which takes ``WORKER_BYTES``; 0 for one on each processor.

    Returns:
        Noises in the order of the alternatives: 0 for one that changes nothing.
    """
    sampled = sampled or SAMPLED
    found = Measured([[] for _ in alternatives])
    total = sum(plans[0].info.nbytes for plans in alternatives)
    turn, numbers = threading.Lock(), iter(range(len(alternatives)))
    started, caller = time.monotonic(), threading.get_ident()
    done, layer = [0], [""]

    def show() -> None:
        if threading.get_ident() == caller:
            tell(watch, JobProgress(STAGE, done[0], total, layer[0], time.monotonic() - started))

    def work(tick: Callable[[], None]) -> None:
        reader = Reader(source)
        try:
            while True:
                tick()
                with turn:
                    number = next(numbers, None)
                if number is None:
                    return
                plans = alternatives[number]
                layer[0] = plans[0].layer
                largest, noises = _measure_one(reader, plans, quality, tick, sampled)
                with turn:
                    found.noises[number] = noises
                    done[0] += plans[0].info.nbytes
                    if not math.isfinite(largest):
                        found.largest[plans[0].name] = largest
                show()
        finally:
            reader.close()

    with one_torch_thread():
        work_together(workers or min(available_cores(), _MOST_WORKERS), work, watch, show)
    return found


def _measure_one(
    reader: Reader, plans: Sequence[TensorPlan], quality: str, tick: Tick, sampled: int
) -> tuple[float, list[float]]:
    """Return a tensor's largest magnitude, and the noise of each alternative."""
    changing = next(plan for plan in plans if plan.changes)
    sample, whole, largest = _sample(reader, changing, tick, sampled)
    if not math.isfinite(largest):
        return largest, [0.0 if not plan.changes else math.inf for plan in plans]
    factor = whole / len(sample)
    return largest, [_noise(plan, sample, quality, tick) * factor if plan.changes else 0.0 for plan in plans]


def _noise(plan: TensorPlan, sample: torch.Tensor, quality: str, tick: Tick) -> float:
    assert plan.target is not None
    rows, columns = sample.shape
    encoder = make_encoder(plan.target, (rows, columns), quality)
    step = max(1, BLOCK_ELEMENTS // (columns * _TILE)) * _TILE
    for _ in range(encoder.passes):
        for first in range(0, rows, step):
            tick()
            encoder.look(sample[first : first + step])
    noise = 0.0
    for first in range(0, rows, step):
        block = sample[first : first + step]
        out = torch.empty(len(block), columns // plan.target.packed, dtype=DTYPES[plan.target.dtype])
        noise += encoder.encode(block, out, tick).error.noise
    return noise


def _sample(reader: Reader, plan: TensorPlan, tick: Tick, sampled: int) -> tuple[torch.Tensor, int, float]:
    """Return some rows of a tensor, how many it has in all, and its largest magnitude."""
    rows = plan.shape[0] if plan.shape else 1
    columns = max(1, plan.elements // max(1, rows))
    every = max(1, math.ceil(plan.elements / max(1, sampled)))
    taken: list[torch.Tensor] = []
    peak: torch.Tensor | None = None
    largest = 0.0
    for first, block in _blocks(reader, plan, columns):
        tick()
        size = magnitude(block)
        if not math.isfinite(size):
            return block, rows, size
        if size > largest or peak is None:
            largest = size
            peak = block[int(block.float().abs().amax(dim=1).argmax())].clone()
        for tile in range(first // _TILE, math.ceil((first + len(block)) / _TILE)):
            if tile % every == 0:
                taken.append(block[tile * _TILE - first : (tile + 1) * _TILE - first].clone())
    sample = torch.cat(taken)
    if peak is not None and len(sample) < rows:
        sample[0] = peak
    return sample, rows, largest


def _blocks(reader: Reader, plan: TensorPlan, columns: int) -> Iterator[tuple[int, torch.Tensor]]:
    """Give the tensor's weights in blocks of whole tiles of rows, with the number of the first row."""
    rows, dtype = plan.shape[0] if plan.shape else 1, DTYPES[plan.info.dtype]
    stride = plan.info.nbytes // max(1, rows)
    step = max(1, _READ_BYTES // max(1, stride * _TILE)) * _TILE
    decode = open_decoder(reader, plan.source) if plan.source else None
    for first in range(0, rows, step):
        count = min(step, rows - first)
        raw = torch.empty(count * stride, dtype=torch.uint8)
        view = memoryview(raw.numpy())  # type: ignore[arg-type]  # NumPy's stubs know no buffer before 3.12
        reader.read(plan.info.start + first * stride, view)
        stored = raw.view(dtype).view(count, -1)
        yield first, decode(stored, first) if decode else stored
