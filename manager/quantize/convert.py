"""What one worker does with one tensor: read, encode and write it, block after block."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

import torch

from ..formats.writer import PAGE
from .buffers import Block, BufferPlan, blocks_of, matrix_shape
from .direct import Output
from .encoding import Encoder, make_encoder
from .formats import TargetFormat
from .hashing import SourceHash
from .journal import TensorState
from .kernels import DTYPES, Error, magnitude
from .outputs import Outputs, Totals, WriteBehind
from .partial import PartialFile
from .policy import Action, TensorPlan
from .source import Reader
from .stored import open_decoder

Tick = Callable[[], None]
NOT_FINITE = "it holds NaN or infinite weights"


class UnfitTensor(Exception):
    """A planned tensor cannot be converted after all: find all of them, and plan again."""


@dataclass(frozen=True)
class Job:
    """What is the same for all workers."""

    partial: PartialFile
    quality: str
    accepted: Collection[str]
    buffers: BufferPlan
    totals: Totals
    hashing: SourceHash
    make_encoder: Callable[[TargetFormat, tuple[int, ...], str], Encoder] = make_encoder


@dataclass
class Worker:
    """One thread's handles and buffers, used again for every tensor.

    What it computes is written behind it: call :meth:`finish` after the last tensor.
    """

    job: Job
    reader: Reader
    output: Output
    tick: Tick
    behind: WriteBehind
    progress: Callable[[], None] = lambda: None
    _buffers: dict[str, torch.Tensor] = field(default_factory=dict)

    def convert(self, number: int, plan: TensorPlan) -> None:
        """Do what is planned for the tensor of that number; the source is done with it then.

        Raises:
            UnfitTensor: it is not finite, or beyond the format.
            FileError: the source or the disk failed.
        """
        self.job.totals.layer = plan.layer
        outputs = Outputs(number, plan, self.job.partial, self.output, self.job.totals)
        if plan.action is Action.ADD:
            if not outputs.state.blocks:
                self.behind.free_slot()
                self._write(outputs, [plan.content], Error(0.0, 0.0), 0, last=True)
        elif plan.action is Action.COPY:
            self._copy(plan, outputs)
        elif plan.changes:
            self._encode(plan, outputs)

    def finish(self) -> None:
        """Wait until everything is written.

        Raises:
            FileError: the disk failed.
        """
        self.behind.finish()
        self.progress()

    def _write(
        self, outputs: Outputs, pieces: list[memoryview | bytes], error: Error, count: int, last: bool
    ) -> None:
        self.behind.submit(lambda: outputs.write(pieces, error, count, last))
        self.progress()

    def _copy(self, plan: TensorPlan, outputs: Outputs) -> None:
        blocks = blocks_of(plan)
        dtype = DTYPES.get(plan.info.dtype, torch.uint8)
        for block in blocks[outputs.state.blocks :]:
            self.tick()
            slot = self.behind.free_slot()
            view = self._buffer(f"out {slot}", block.rows, _in_page(outputs.start + block.start, dtype))
            piece = memoryview(view.numpy())  # type: ignore[arg-type]
            self.reader.read(plan.info.start + block.start, piece)
            if plan.checked:
                self._check(plan, magnitude(view.view(dtype)))
            self._write(outputs, [piece], Error(0.0, 0.0), block.rows, block is blocks[-1])

    def _encode(self, plan: TensorPlan, outputs: Outputs) -> None:
        assert plan.target is not None
        blocks, first = blocks_of(plan), outputs.state.blocks
        if first == len(blocks):
            return
        rows, columns = matrix_shape(plan)
        encoder = self.job.make_encoder(plan.target, (rows, columns), self.job.quality)
        source = _Rows(self, plan)
        for turn in range(encoder.passes):
            for block in blocks:
                self.tick()
                encoder.look(source.read(block))
            if turn == 0:
                self._check(plan, encoder.largest)
        if encoder.passes:
            self.job.totals.add(reread=sum(source.nbytes(block) for block in blocks[:first]))
        width = outputs.specs[0].nbytes // max(1, rows)
        for block in blocks[first:]:
            self.tick()
            slot = self.behind.free_slot()
            encoded = encoder.encode(source.read(block), self._out(outputs, block, width, slot), self.tick)
            if not encoder.passes:
                self._check(plan, encoder.largest)
            sides = {f"{plan.layer}{suffix}": side for suffix, side in encoded.sides.items()}
            # The weight lies in its slot until it is written; its sides the encoder may use again.
            pieces: list[memoryview | bytes] = [bytes_of(encoded.weight)]
            pieces += [bytes(bytes_of(sides[spec.name])) for spec in outputs.specs[1:]]
            self._write(outputs, pieces, encoded.error, source.nbytes(block), block is blocks[-1])

    def _out(self, outputs: Outputs, block: Block, width: int, slot: int) -> torch.Tensor:
        """Return where the encoder puts its rows of ``width`` bytes."""
        dtype = DTYPES[outputs.specs[0].dtype]
        position = outputs.start + block.start * width
        out = self._buffer(f"out {slot}", block.rows * width, _in_page(position, dtype))
        return out.view(dtype).view(block.rows, -1)

    def _check(self, plan: TensorPlan, largest: float) -> None:
        if plan.checked and unfit_reason(plan, largest) and plan.name not in self.job.accepted:
            raise UnfitTensor(plan.name)

    def _buffer(self, name: str, size: int, position: int = 0) -> torch.Tensor:
        """Return ``size`` bytes to use, that lie within a page as ``position`` does; they hold anything."""
        if name not in self._buffers:
            buffers = self.job.buffers
            planned = buffers.block_bytes if name == "block" else buffers.out_bytes
            self._buffers[name] = torch.empty(max(planned, size) + PAGE, dtype=torch.uint8)
        buffer = self._buffers[name]
        start = (position - buffer.data_ptr()) % PAGE
        return buffer[start : start + size]


class _Rows:
    """The rows of one tensor, as its encoder takes them."""

    def __init__(self, worker: Worker, plan: TensorPlan) -> None:
        self._worker = worker
        self._plan = plan
        rows, _ = matrix_shape(plan)
        self._row_bytes = plan.info.nbytes // max(1, rows)
        self._decode = None if plan.source is None else open_decoder(worker.reader, plan.source)

    def nbytes(self, block: Block) -> int:
        return block.rows * self._row_bytes

    def read(self, block: Block) -> torch.Tensor:
        """Return a block of rows, until the next is read."""
        view = self._worker._buffer("block", self.nbytes(block))
        position = self._plan.info.start + block.start * self._row_bytes
        self._worker.reader.read(position, memoryview(view.numpy()))  # type: ignore[arg-type]
        values = view.view(DTYPES[self._plan.info.dtype]).view(block.rows, -1)
        return values if self._decode is None else self._decode(values, block.start)


def _in_page(position: int, dtype: torch.dtype) -> int:
    """Return the place in a page at which elements can lie: that of ``position``, or its start."""
    return position if position % dtype.itemsize == 0 else 0


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """Return a tensor's content."""
    raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(raw)  # type: ignore[arg-type]  # NumPy's stubs know no buffer before 3.12


def unfit_reason(plan: TensorPlan, largest: float) -> str:
    """Return why a tensor with this largest magnitude cannot be converted; empty when it can."""
    if not math.isfinite(largest):
        return NOT_FINITE
    if plan.action is Action.QUANTIZE and largest > torch.finfo(torch.float32).max:
        return f"its largest weight, {largest:.3g}, is beyond float32"
    if plan.action is Action.CAST and plan.target and largest > plan.target.largest:
        return f"its largest weight, {largest:.3g}, is beyond {plan.target.name}"
    return ""


def layer_errors(
    plans: Mapping[int, TensorPlan], states: Mapping[int, TensorState]
) -> Iterator[tuple[TensorPlan, Error]]:
    """Return what the rounding of every changed tensor did, in file order."""
    for number, plan in plans.items():
        state = states.get(number)
        if plan.changes and state is not None:
            yield plan, Error(state.noise, state.signal)
