"""Carrying out a plan: read, convert and write one tensor at a time.

Memory is bounded by the largest tensor, read once into a buffer that is used again; the source is
hashed in a second thread while its tensors are converted.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import torch

from ..errors import FileError
from ..files import FileIdentity
from ..formats.safetensors import Header
from ..formats.writer import SafetensorsWriter
from ..lineage import result_metadata, result_metadata_room
from ..watch import Watch
from .formats import TargetFormat
from .kernels import (
    DTYPES,
    SMALLEST_SCALE,
    Error,
    cast,
    magnitude,
    quantize_rows,
    quantize_tensor,
    row_scales,
)
from .policy import Action, TensorPlan

NOT_FINITE = "it holds NaN or infinite weights"


@dataclass
class EngineResult:
    """What a run found out. ``layer_errors`` are relative L2 errors of the changed weights."""

    source_sha256: str
    layer_errors: dict[str, float] = field(default_factory=dict)
    noise: float = 0.0
    signal: float = 0.0

    @property
    def relative_error(self) -> float:
        return math.sqrt(self.noise / self.signal) if self.signal else 0.0


class UnfitTensor(Exception):
    """A planned tensor cannot be converted after all: see :func:`find_unfit`, and plan again."""


def run(
    header: Header,
    plans: Sequence[TensorPlan],
    target: TargetFormat,
    output: Path,
    metadata: dict[str, str],
    watch: Watch,
    overwrite: bool = False,
    accepted: Collection[str] = (),
) -> EngineResult:
    """Convert the file of ``header`` into ``output``, which appears whole or not at all.

    Args:
        accepted: tensors that may be copied although they are not finite.

    Raises:
        UnfitTensor: a weight is not finite, or too large for the format.
        FileError: the source changed while it was read, or the disk failed.
        OutputExists: ``output`` is there and ``overwrite`` is false.
    """
    before = FileIdentity.of(header.path)
    specs = [spec for plan in plans for spec in plan.outputs(target)]
    spare = result_metadata_room(len(specs), len(plans))
    with (
        open(header.path, "rb", buffering=0) as source,
        SafetensorsWriter(output, specs, metadata, spare) as writer,
        _Reader(source, header) as reader,
    ):
        result = _convert_all(reader, plans, target, writer, watch, accepted)
        if FileIdentity.of(header.path) != before:
            raise FileError(
                f"{header.path.name} changed while it was being read.",
                "Start again when nothing writes to it any more. Nothing was left behind.",
            )
        result.source_sha256 = reader.sha256()
        checksums = [writer.checksums[spec.name] for spec in specs]
        facts = result_metadata(result.source_sha256, checksums, list(result.layer_errors.values()))
        writer.finish(facts, overwrite)
    return result


def find_unfit(
    header: Header, plans: Sequence[TensorPlan], target: TargetFormat, watch: Watch
) -> dict[str, str]:
    """Return every tensor of the model that is not finite or beyond the format, with the reason.

    Reads the whole file: for a run that met one such tensor and wants to know them all.
    """
    unfit: dict[str, str] = {}
    with open(header.path, "rb", buffering=0) as source, _Reader(source, header) as reader:
        for plan in plans:
            watch.throw_if_cancelled()
            with reader.tensor(plan) as values:
                reason = _unfit_reason(plan, magnitude(values), target) if plan.checked else ""
            if reason:
                unfit[plan.name] = reason
    return unfit


def _unfit_reason(plan: TensorPlan, largest: float, target: TargetFormat) -> str:
    if not math.isfinite(largest):
        return NOT_FINITE
    if plan.action is Action.QUANTIZE and largest > torch.finfo(torch.float32).max:
        return f"its largest weight, {largest:.3g}, is beyond float32"
    if plan.action is Action.CAST and largest > target.largest:
        return f"its largest weight, {largest:.3g}, is beyond {target.name}"
    return ""


def _convert_all(
    reader: _Reader,
    plans: Sequence[TensorPlan],
    target: TargetFormat,
    writer: SafetensorsWriter,
    watch: Watch,
    accepted: Collection[str],
) -> EngineResult:
    result = EngineResult("")
    most = max((p.info.elements for p in plans if p.action is not Action.COPY), default=0)
    out = torch.empty(most, dtype=DTYPES[target.dtype])
    total = sum(plan.info.nbytes for plan in plans)
    done = 0
    for plan in plans:
        watch.throw_if_cancelled()
        with reader.tensor(plan) as values:
            _convert(plan, values, target, out, writer, watch, accepted, result)
        done += plan.info.nbytes
        watch.progress(done, total)
    return result


def _convert(
    plan: TensorPlan,
    values: torch.Tensor,
    target: TargetFormat,
    scratch: torch.Tensor,
    writer: SafetensorsWriter,
    watch: Watch,
    accepted: Collection[str],
    result: EngineResult,
) -> None:
    largest = magnitude(values) if plan.checked else 0.0
    if _unfit_reason(plan, largest, target) and plan.name not in accepted:
        raise UnfitTensor(plan.name)
    if plan.action is Action.COPY:
        writer.write(plan.name, _bytes_of(values))
        return
    out = scratch[: plan.info.elements].view(plan.info.shape)
    tick = watch.throw_if_cancelled
    if target.kind == "cast":
        error = cast(values, out, tick)
    elif target.kind == "row":
        scales = row_scales(values, target.largest)
        error = quantize_rows(values, out, scales, target.largest, tick)
        _write_sides(writer, plan, target, scales)
    else:
        scale = torch.tensor(max(largest / target.largest, SMALLEST_SCALE) if largest else 1.0)
        error = quantize_tensor(values, out, float(scale), target.largest, tick)
        _write_sides(writer, plan, target, scale)
    writer.write(plan.name, _bytes_of(out))
    _record(result, plan, error)


def _write_sides(
    writer: SafetensorsWriter, plan: TensorPlan, target: TargetFormat, scale: torch.Tensor
) -> None:
    writer.write(f"{plan.layer}.weight_scale", _bytes_of(scale))
    writer.write(f"{plan.layer}.comfy_quant", target.marker)


def _record(result: EngineResult, plan: TensorPlan, error: Error) -> None:
    result.noise += error.noise
    result.signal += error.signal
    if plan.linear:
        result.layer_errors[plan.layer] = math.sqrt(error.noise / error.signal) if error.signal else 0.0


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(raw)  # type: ignore[arg-type]  # NumPy's stubs know no buffer before 3.12


class _Reader:
    """The source's tensors one after the other in one buffer, hashing every byte of the file."""

    def __init__(self, source: BinaryIO, header: Header) -> None:
        self._source = source
        self._header = header
        largest = max((info.nbytes for info in header.tensors.values()), default=0)
        self._buffer = torch.empty(largest, dtype=torch.uint8)
        self._view = memoryview(self._buffer.numpy())  # type: ignore[arg-type]
        self._hash = hashlib.sha256()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="managed-models-hash")

    def __enter__(self) -> _Reader:
        left = self._header.data_start
        self._source.seek(0)
        while left:
            piece = self._source.read(left)
            if not piece:
                raise self._short()
            self._hash.update(piece)
            left -= len(piece)
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def sha256(self) -> str:
        return self._hash.hexdigest()

    @contextmanager
    def tensor(self, plan: TensorPlan) -> Iterator[torch.Tensor]:
        """Give the next tensor of the file; types that are not computed with come as bytes."""
        view = self._view[: plan.info.nbytes]
        done = 0
        while done < len(view):
            count = self._source.readinto(view[done:])  # type: ignore[attr-defined]
            if not count:
                raise self._short()
            done += count
        hashing: Future[None] = self._thread.submit(self._hash.update, view)
        try:
            values = self._buffer[: plan.info.nbytes]
            if plan.checked:
                values = values.view(DTYPES[plan.info.dtype]).view(plan.info.shape)
            yield values
        finally:
            hashing.result()

    def _short(self) -> FileError:
        return FileError(
            f"{self._header.path.name} became shorter while it was being read.",
            "Start again when nothing writes to it any more. Nothing was left behind.",
        )
