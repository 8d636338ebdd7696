"""What turns a weight into the tensors of a format, one block of rows after the other.

The engine asks :func:`make_encoder` for one encoder per tensor, shows it all rows ``passes`` times,
and then encodes them in order. A kind of format is one entry of ``ENCODERS``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch

from .choices import BEST
from .formats import TargetFormat, measured_one_of
from .kernels import (
    SMALLEST_SCALE,
    Encoded,
    Tick,
    cast,
    larger,
    magnitude,
    marker_side,
    quantize_rows,
    quantize_tensor,
    row_magnitudes,
    scales_for,
)
from .kernels_blocks import Mxfp8, Nvfp4
from .kernels_rotated import Codebook, RotatedInt4, RotatedRow
from .kernels_search import BestRowScale, BestTensorScale
from .kernels_table import LEAST, CodeTable, has_table

__all__ = ["ENCODERS", "Encoded", "Encoder", "Tick", "make_encoder"]


class Encoder(Protocol):
    """Encodes one tensor.

    It belongs to one thread. The bytes of a row never depend on how the tensor was cut into blocks,
    nor on the number of threads; nothing is written into ``rows``.

    Attributes:
        passes: how often all rows have to be looked at before the first is encoded.
        largest: largest magnitude among the rows seen so far (looked at, or encoded where ``passes``
            is 0); not finite when there is NaN or infinity among them.
    """

    passes: int
    largest: float

    def look(self, rows: torch.Tensor) -> None:
        """See the next block of rows of a pass: ``[n, columns]`` in the source's element type."""

    def encode(self, rows: torch.Tensor, out: torch.Tensor, tick: Tick) -> Encoded:
        """Encode the next block of rows.

        Args:
            rows: ``[n, columns]`` in the source's element type; ``n`` is a multiple of the format's
                ``row_multiple``, except at the end of the tensor.
            out: ``[n, ...]`` in the stored element type, to be filled.
            tick: called now and then; may raise to stop.
        """


def make_encoder(target: TargetFormat, shape: tuple[int, ...], quality: str = "fast") -> Encoder:
    """Return a new encoder for one tensor.

    Args:
        shape: of the source tensor; rows are its first dimension, the others lie flat.
        quality: ``fast`` or ``best``.
    """
    maker = SEARCHERS.get(target.kind) if quality == BEST else None
    return (maker or ENCODERS[target.kind])(target, shape, quality)


class TensorScale:
    """One scale for the whole tensor, from its largest magnitude."""

    passes = 1

    def __init__(self, target: TargetFormat, shape: tuple[int, ...], quality: str) -> None:
        self.largest = 0.0
        self._target = target
        self._marker = marker_side(target)
        self._large = math.prod(shape) >= LEAST
        self._every = measured_one_of(target.kind, math.prod(shape))
        self._table: CodeTable | None = None

    def look(self, rows: torch.Tensor) -> None:
        self.largest = larger(self.largest, magnitude(rows))

    def encode(self, rows: torch.Tensor, out: torch.Tensor, tick: Tick) -> Encoded:
        bound = self._target.largest
        scale = torch.tensor(max(self.largest / bound, SMALLEST_SCALE) if self.largest else 1.0)
        if self._large and has_table(rows.dtype, out.dtype):
            if self._table is None:
                self._table = CodeTable(rows.dtype, out.dtype, float(scale), bound)
            error = self._table.encode(rows, out, tick, self._every)
        else:
            error = quantize_tensor(rows, out, float(scale), bound, tick, self._every)
        return Encoded(out, {self._target.scale_suffix: scale, **self._marker}, error)


class RowScale:
    """One scale per row, from the row's largest magnitude."""

    passes = 0

    def __init__(self, target: TargetFormat, shape: tuple[int, ...], quality: str) -> None:
        self.largest = 0.0
        self._target = target
        self._marker = marker_side(target)
        self._every = measured_one_of(target.kind, math.prod(shape))

    def look(self, rows: torch.Tensor) -> None:
        self.largest = larger(self.largest, magnitude(rows))

    def encode(self, rows: torch.Tensor, out: torch.Tensor, tick: Tick) -> Encoded:
        magnitudes = row_magnitudes(rows)
        if rows.dtype == torch.float64:  # beyond float32 it is finite all the same
            self.look(rows)
        else:
            self.largest = larger(self.largest, float(magnitudes.max()))
        scales = scales_for(magnitudes, self._target.largest)
        # No weight is more than its row's largest, which has the largest code.
        error = quantize_rows(rows, out, scales, math.inf, tick, self._every)
        return Encoded(out, {".weight_scale": scales, **self._marker}, error)


class Cast:
    """Another floating type, without a scale."""

    passes = 0

    def __init__(self, target: TargetFormat, shape: tuple[int, ...], quality: str) -> None:
        self.largest = 0.0

    def look(self, rows: torch.Tensor) -> None:
        self.largest = larger(self.largest, magnitude(rows))

    def encode(self, rows: torch.Tensor, out: torch.Tensor, tick: Tick) -> Encoded:
        self.look(rows)
        return Encoded(out, {}, cast(rows, out, tick))


# Makers by the kind of a format.
ENCODERS: dict[str, Callable[[TargetFormat, tuple[int, ...], str], Encoder]] = {
    "tensor": TensorScale,
    "row": RowScale,
    "cast": Cast,
    "mxfp8": Mxfp8,
    "nvfp4": Nvfp4,
    "rotated_row": RotatedRow,
    "rotated_int4": RotatedInt4,
    "codebook": Codebook,
}
# Those of another class when scales are searched for; the others take ``quality`` into account themselves.
SEARCHERS: dict[str, Callable[[TargetFormat, tuple[int, ...], str], Encoder]] = {
    "tensor": BestTensorScale,
    "row": BestRowScale,
}
