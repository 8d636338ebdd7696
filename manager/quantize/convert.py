"""What one worker does with one tensor: read, encode and write it, block after block."""

from __future__ import annotations

import math
import threading
import zlib
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch

from ..formats.writer import PAGE
from .buffers import OUT_BUFFERS, Block, BufferPlan, blocks_of, matrix_shape
from .direct import Output
from .encoding import Encoder, make_encoder
from .formats import TargetFormat
from .hashing import SourceHash
from .journal import TensorState
from .kernels import DTYPES, Error, magnitude
from .partial import PartialFile
from .policy import Action, TensorPlan
from .source import Reader
from .stored import open_decoder

Tick = Callable[[], None]
NOT_FINITE = "it holds NaN or infinite weights"
# Pieces of a block below this are not worth a write of their own.
_SMALL_BYTES = 16 << 10


class UnfitTensor(Exception):
    """A planned tensor cannot be converted after all: find all of them, and plan again."""


@dataclass
class Totals:
    """What all workers did so far, in bytes of the source.

    Attributes:
        computed: converted or copied.
        resumed: what an earlier run had written.
        reread: what was looked at once more, because its tensor was interrupted before.
        layer: the tensor that was last begun.
    """

    total: int
    computed: int = 0
    resumed: int = 0
    reread: int = 0
    layer: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, computed: int = 0, reread: int = 0) -> None:
        """Count more; several threads do."""
        with self._lock:
            self.computed += computed
            self.reread += reread

    @property
    def done(self) -> int:
        return self.computed + self.resumed


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

    While it computes a block, its ``writer``, a thread of its own, writes the one before.
    """

    job: Job
    reader: Reader
    output: Output
    tick: Tick
    writer: ThreadPoolExecutor
    progress: Callable[[], None] = lambda: None
    _buffers: dict[str, torch.Tensor] = field(default_factory=dict)

    def convert(self, number: int, plan: TensorPlan) -> None:
        """Do what is planned for the tensor of that number.

        Raises:
            UnfitTensor: it is not finite, or beyond the format.
            FileError: the source or the disk failed.
        """
        totals = self.job.totals
        totals.layer = plan.layer
        outputs = _Outputs(self, number, plan)
        if plan.action is Action.ADD:
            if not outputs.state.blocks:
                outputs.write_block([plan.content], Error(0.0, 0.0), 0, last=True)
                self.progress()
        elif plan.action is Action.COPY:
            self._copy(plan, outputs)
        elif plan.changes:
            self._encode(plan, outputs)
        outputs.check_complete()

    def _copy(self, plan: TensorPlan, outputs: _Outputs) -> None:
        blocks = blocks_of(plan)
        for block in blocks[outputs.state.blocks :]:
            self.tick()
            dtype = DTYPES.get(plan.info.dtype, torch.uint8)
            view = self._buffer("block", block.rows, _in_page(outputs.start + block.start, dtype))
            self.reader.read(plan.info.start + block.start, memoryview(view.numpy()))  # type: ignore[arg-type]
            if plan.checked:
                self._check(plan, magnitude(view.view(dtype)))
            piece = memoryview(view.numpy())  # type: ignore[arg-type]
            outputs.write_block([piece], Error(0.0, 0.0), block.rows, block is blocks[-1])
            self.progress()

    def _encode(self, plan: TensorPlan, outputs: _Outputs) -> None:
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
        writing: deque[Future[None]] = deque()
        for turn, block in enumerate(blocks[first:]):
            self.tick()
            out = self._out(outputs, block, width, turn % OUT_BUFFERS)
            encoded = encoder.encode(source.read(block), out, self.tick)
            if not encoder.passes:
                self._check(plan, encoder.largest)
            sides = {f"{plan.layer}{suffix}": side for suffix, side in encoded.sides.items()}
            pieces: list[memoryview | bytes] = [bytes_of(encoded.weight)]
            pieces += [bytes(bytes_of(sides[spec.name])) for spec in outputs.specs[1:]]
            count, last = source.nbytes(block), block is blocks[-1]
            writing.append(self.writer.submit(outputs.write_block, pieces, encoded.error, count, last))
            if len(writing) == OUT_BUFFERS:
                writing.popleft().result()
            self.progress()
        for block_written in writing:
            block_written.result()

    def _out(self, outputs: _Outputs, block: Block, width: int, number: int) -> torch.Tensor:
        """Return where the encoder puts its rows of ``width`` bytes."""
        dtype = DTYPES[outputs.specs[0].dtype]
        position = outputs.start + block.start * width
        out = self._buffer(f"out {number}", block.rows * width, _in_page(position, dtype))
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


class _Outputs:
    """The tensors that one tensor becomes, as far as they are written."""

    def __init__(self, worker: Worker, number: int, plan: TensorPlan) -> None:
        self._worker = worker
        self._number = number
        self.specs = plan.outputs()
        empty = (0,) * len(self.specs)
        self.state = worker.job.partial.states.get(number) or TensorState(0, empty, empty)

    @property
    def start(self) -> int:
        """Where in the file the first output begins."""
        return self._worker.job.partial.layout.offsets[self.specs[0].name][0]

    def write_block(
        self, pieces: list[memoryview | bytes], error: Error, count: int, last: bool = False
    ) -> None:
        """Append a piece to each output; one that is complete already stays as it is.

        Small pieces go to the journal until the last block, see there.

        Args:
            count: bytes of the source that these are.
            last: whether no block follows.
        """
        partial, totals = self._worker.job.partial, self._worker.job.totals
        written, checksums = list(self.state.written), list(self.state.checksums)
        pending = list(self.state.pending or [b""] * len(pieces))
        added = [b""] * len(pieces)
        size = 0
        for i, (spec, piece) in enumerate(zip(self.specs, pieces, strict=True)):
            view = memoryview(piece)
            start, end = partial.layout.offsets[spec.name]
            place = start + written[i]
            if place + len(pending[i]) == end:
                view = view[:0]
            if place + len(pending[i]) + len(view) > end:
                raise ValueError(f"tensor {spec.name!r} takes {spec.nbytes} bytes, and more were encoded")
            checksums[i] = zlib.crc32(view, checksums[i])
            if i and not last and len(view) < _SMALL_BYTES:
                added[i] = bytes(view)
                pending[i] += added[i]
                continue
            if pending[i]:
                view = memoryview(pending[i] + bytes(view))
                pending[i] = b""
            partial.write(self._worker.output, place, view)
            written[i] += len(view)
            size += len(view)
        self.state = TensorState(
            self.state.blocks + 1,
            tuple(written),
            tuple(checksums),
            self.state.noise + error.noise,
            self.state.signal + error.signal,
            tuple(pending),
        )
        partial.note(self._number, self.state, size, added)
        totals.add(count)

    def check_complete(self) -> None:
        """Raise ValueError when an encoder left out a part of a tensor."""
        for spec, count in zip(self.specs, self.state.written, strict=True):
            if count != spec.nbytes:
                raise ValueError(f"tensor {spec.name!r} takes {spec.nbytes} bytes, and {count} were encoded")


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
