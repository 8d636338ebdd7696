"""Carrying out a plan: several workers read, convert and write tensors at the same time.

Where every tensor lies in the output is known before the first byte is written, so that workers need
not wait for each other, and the bytes are the same however many there are. Memory is bounded by their
buffers (``buffers.py``); what is written is noted in a journal (``partial.py``), from which the next
run of the same kind goes on when this one is killed. The source is hashed in a thread of its own.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch

from ..formats.writer import FileLayout
from ..lineage import result_metadata, result_metadata_room
from ..watch import JobProgress, Watch, tell
from ..workers import available_cores, work_together
from .buffers import (
    BLOCK_ELEMENTS,
    OUT_BUFFERS,
    automatic_limit,
    blocks_of,
    bytes_read,
    least_bytes,
    plan_buffers,
)
from .convert import NOT_FINITE, Job, UnfitTensor, Worker, layer_errors, unfit_reason
from .encoding import Encoder, make_encoder
from .formats import TargetFormat
from .hashing import SourceHash
from .kernels import DTYPES, magnitude
from .outputs import Totals, WriteBehind
from .partial import PartialFile
from .policy import TensorPlan
from .source import Reader, Source
from .stored import open_decoder

__all__ = ["NOT_FINITE", "EngineResult", "UnfitTensor", "find_unfit", "run"]

# Changes when the same plan would give other bytes.
ENGINE_VERSION = 3


@dataclass
class EngineResult:
    """What a run found out.

    Attributes:
        layer_errors: relative L2 errors of the changed linear weights by layer.
        noise, signal: sums of squares over all changed tensors.
        computed_bytes: bytes of the source that this run converted or copied.
        resumed_bytes: those that an earlier run had done.
        reread_bytes: of those, what had to be looked at once more.
        seconds: what took how long, by stage.
    """

    source_sha256: str = ""
    layer_errors: dict[str, float] = field(default_factory=dict)
    noise: float = 0.0
    signal: float = 0.0
    computed_bytes: int = 0
    resumed_bytes: int = 0
    reread_bytes: int = 0
    workers: int = 1
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def relative_error(self) -> float:
        return math.sqrt(self.noise / self.signal) if self.signal else 0.0


@dataclass(frozen=True)
class EngineOptions:
    """How a plan is carried out; what changes the bytes is ``quality`` alone.

    Attributes:
        accepted: tensors that may be copied although they are not finite.
        max_memory_bytes: what the process may grow by, 0 for an automatic bound.
        workers: threads to use, 0 for an automatic number.
        source_sha256: of the source, where it is known already.
        make_encoder: what makes the encoder of a tensor.
    """

    overwrite: bool = False
    quality: str = "fast"
    accepted: Collection[str] = ()
    max_memory_bytes: int = 0
    workers: int = 0
    source_sha256: str = ""
    make_encoder: Callable[[TargetFormat, tuple[int, ...], str], Encoder] = make_encoder


def run(
    source: Source,
    plans: Sequence[TensorPlan],
    output: Path,
    metadata: dict[str, str],
    watch: Watch,
    options: EngineOptions | None = None,
) -> EngineResult:
    """Convert ``source`` into ``output``, which appears whole or not at all.

    Raises:
        BadInput: the memory bound is too small.
        AlreadyRunning: another run writes this output.
        UnfitTensor: a weight is not finite, or too large for the format.
        FileError: the source changed while it was read, or the disk failed.
        OutputExists: ``output`` is there and ``overwrite`` is false.
    """
    options = options or EngineOptions()
    free = psutil.virtual_memory().available
    limit = options.max_memory_bytes or max(automatic_limit(free), least_bytes(plans))
    buffers = plan_buffers(plans, limit, options.workers or available_cores())
    specs = [spec for plan in plans for spec in plan.outputs()]
    layout = FileLayout(specs, metadata, result_metadata_room(len(specs), len(plans)))
    identity = run_identity(source, plans, metadata, options)
    forget = source.identity.size > free // 2
    total = sum(bytes_read(plan) for plan in plans)
    clock = _Clock(watch, total)
    with (
        one_torch_thread(),
        PartialFile(output, layout, identity, forget) as partial,
        SourceHash(source, partial, forget, options.source_sha256) as hashing,
    ):
        totals = Totals(total, resumed=_resumed_bytes(plans, partial))
        job = Job(partial, options.quality, options.accepted, buffers, totals, hashing, options.make_encoder)
        with clock.stage("convert"):
            _convert_all(job, source, plans, clock)
        with clock.stage("hash"):
            sha256 = hashing.result(lambda: clock.show(totals, "hashing"), watch)
        source.check_unchanged()
        result = _result(plans, partial, sha256, totals)
        checksums = _checksums(plans, partial)
        errors = list(result.layer_errors.values())
        facts = result_metadata(sha256, list(checksums.values()), errors, result.relative_error)
        with clock.stage("flush"):
            partial.seal(metadata | facts)
        with clock.stage("verify"):
            clock.show(totals, "verifying")
            partial.publish(checksums, watch, buffers.workers, options.overwrite)
    result.workers = buffers.workers
    result.seconds = clock.seconds
    return result


def find_unfit(source: Source, plans: Sequence[TensorPlan], watch: Watch) -> dict[str, str]:
    """Return every tensor of the model that is not finite or beyond the format, with the reason.

    Reads the whole model: for a run that met one such tensor and wants to know them all.
    """
    unfit: dict[str, str] = {}
    reader = Reader(source)
    buffer = torch.empty(BLOCK_ELEMENTS * 8, dtype=torch.uint8)
    try:
        for plan in plans:
            if plan.checked and bytes_read(plan):
                reason = unfit_reason(plan, _largest(reader, plan, buffer, watch))
                if reason:
                    unfit[plan.name] = reason
    finally:
        reader.close()
    return unfit


def _largest(reader: Reader, plan: TensorPlan, buffer: torch.Tensor, watch: Watch) -> float:
    """Return the largest magnitude of a tensor as it is computed with."""
    decode = None if plan.source is None else open_decoder(reader, plan.source)
    rows = plan.info.shape[0] if plan.info.shape else 1
    if decode is None:
        rows = plan.info.elements
    width = plan.info.nbytes // max(1, rows)
    step = max(plan.row_multiple, buffer.numel() // max(1, width) // plan.row_multiple * plan.row_multiple)
    largest = 0.0
    for start in range(0, rows, step):
        watch.throw_if_cancelled()
        count = min(step, rows - start)
        size = count * width
        view = buffer[:size] if size <= buffer.numel() else torch.empty(size, dtype=torch.uint8)
        reader.read(plan.info.start + start * width, memoryview(view.numpy()))  # type: ignore[arg-type]
        values = view.view(DTYPES[plan.info.dtype])
        found = magnitude(values if decode is None else decode(values.view(count, -1), start))
        if not math.isfinite(found):
            return found
        largest = max(largest, found)
    return largest


def run_identity(
    source: Source, plans: Sequence[TensorPlan], metadata: Mapping[str, str], options: EngineOptions
) -> str:
    """Return a digest that two runs share when they write the same bytes."""
    facts = [
        ENGINE_VERSION,
        BLOCK_ELEMENTS,
        source.digest,
        sorted(metadata.items()),
        options.quality,
        sorted(options.accepted),
        [(plan.name, plan.action.value, repr(plan.target), repr(plan.source)) for plan in plans],
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _convert_all(job: Job, source: Source, plans: Sequence[TensorPlan], clock: _Clock) -> None:
    """Let the workers take one tensor after the other, in file order."""
    turn = threading.Lock()
    numbers = iter(range(len(plans)))
    caller = threading.get_ident()

    def show() -> None:
        if threading.get_ident() == caller:
            clock.show(job.totals, "converting")

    def work(tick: Callable[[], None]) -> None:
        reader = Reader(source)
        output = job.partial.open()
        behind = WriteBehind(OUT_BUFFERS)
        worker = Worker(job, reader, output, tick, behind, show)
        try:
            while True:
                tick()
                with turn:
                    number = next(numbers, None)
                    if number is None:
                        break
                    job.hashing.begin(plans[number].info)
                worker.convert(number, plans[number])
                job.hashing.end(plans[number].info)
            worker.finish()
        finally:
            behind.close()
            output.close()
            reader.close()

    show()
    work_together(job.buffers.workers, work, clock.watch, show)
    show()


def _resumed_bytes(plans: Sequence[TensorPlan], partial: PartialFile) -> int:
    done = 0
    for number, state in partial.states.items():
        plan = plans[number]
        blocks = blocks_of(plan)
        rows = sum(block.rows for block in blocks)
        part = sum(block.rows for block in blocks[: state.blocks])
        done += bytes_read(plan) * part // rows if rows else 0
    return done


def _result(plans: Sequence[TensorPlan], partial: PartialFile, sha256: str, totals: Totals) -> EngineResult:
    result = EngineResult(sha256)
    result.computed_bytes, result.resumed_bytes = totals.computed, totals.resumed
    result.reread_bytes = totals.reread
    for plan, error in layer_errors(dict(enumerate(plans)), partial.states):
        result.noise += error.noise
        result.signal += error.signal
        if plan.linear:
            relative = math.sqrt(error.noise / error.signal) if error.signal else 0.0
            result.layer_errors[plan.layer] = relative
    return result


def _checksums(plans: Sequence[TensorPlan], partial: PartialFile) -> dict[str, int]:
    """Return the CRC-32 of every tensor of the output, in the order in which they lie in it."""
    found: dict[str, int] = {}
    for number, plan in enumerate(plans):
        specs = plan.outputs()
        state = partial.states.get(number)
        numbers = state.checksums if state else (0,) * len(specs)  # nothing was written: it is empty
        found.update(zip((spec.name for spec in specs), numbers, strict=True))
    return {name: found[name] for name in partial.layout.offsets}


class _Clock:
    """Tells the watch how far the run is, and remembers what took how long."""

    def __init__(self, watch: Watch, total: int) -> None:
        self.watch = watch
        self.seconds: dict[str, float] = {}
        self._total = total
        self._started = time.monotonic()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - start

    def show(self, totals: Totals, stage: str) -> None:
        """Call it on the thread whose job this is."""
        seconds = time.monotonic() - self._started
        tell(self.watch, JobProgress(stage, totals.done, self._total, totals.layer, seconds, totals.resumed))


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let each worker compute on its own: torch's threads would wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
