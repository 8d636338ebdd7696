"""Scales of least squared error for one scale per tensor and for one per row.

Each search includes the scale that the largest weight gives, and takes another only where it errs less.
"""

from __future__ import annotations

import torch

from .formats import TargetFormat
from .kernels import (
    DTYPES,
    SMALLEST_SCALE,
    Encoded,
    Tick,
    decode_float8,
    larger,
    magnitude,
    marker_side,
    paired_sums,
    quantize_rows,
    quantize_tensor,
    row_chunks,
    row_scales,
    sum_squares,
)

# Parts of the scale from the largest weight. Floats are as exact at any scale until the largest are cut
# off or the smallest vanish: an octave up, three down, in eighths.
TENSOR_PARTS = tuple(2.0 ** (-step / 8) for step in range(-8, 25) if step)
ROW_PARTS = (0.98, 0.96, 0.94, 0.92, 0.9, 0.85, 0.8)
_PATTERNS = 1 << 15  # of 16 bits, without the sign
_PIECE = 16


class BestTensorScale:
    """One scale for the whole tensor, chosen on a count of its values.

    16-bit weights have 32,768 magnitudes, so that counting them tells the error of every scale exactly.
    Others are counted by their upper 16 bits, and the second pass compares the choice with the usual scale
    on the weights themselves.
    """

    passes = 2

    def __init__(self, target: TargetFormat, shape: tuple[int, ...], quality: str) -> None:
        self.largest = 0.0
        self._target = target
        self._rows = shape[0] if shape else 1
        self._seen = 0
        self._counts = torch.zeros(_PATTERNS, dtype=torch.int64)
        self._magnitudes = torch.float32
        self._exact = True
        self._scale: float | None = None
        self._errors = [0.0, 0.0]
        self._marker = marker_side(target)

    def look(self, rows: torch.Tensor) -> None:
        first, self._seen = self._seen < self._rows, self._seen + rows.shape[0]
        if first:
            self.largest = larger(self.largest, magnitude(rows))
            self._count(rows)
        elif not self._exact:
            self._compare(rows)

    def encode(self, rows: torch.Tensor, out: torch.Tensor, tick: Tick) -> Encoded:
        usual, chosen = self._choice()
        better = self._exact or self._errors[1] < self._errors[0]
        scale = torch.tensor(chosen if better else usual)
        error = quantize_tensor(rows, out, float(scale), self._target.largest, tick)
        return Encoded(out, {self._target.scale_suffix: scale, **self._marker}, error)

    def _count(self, rows: torch.Tensor) -> None:
        if rows.dtype in (torch.bfloat16, torch.float16):
            self._magnitudes = rows.dtype
            bits = rows.reshape(-1).view(torch.int16).bitwise_and(0x7FFF)
        else:
            self._magnitudes, self._exact = torch.bfloat16, False
            bits = rows.reshape(-1).float().view(torch.int32) >> 16
            bits = bits.bitwise_and_(0x7FFF)
        self._counts += torch.bincount(bits, minlength=_PATTERNS)

    def _choice(self) -> tuple[float, float]:
        """Return the usual scale and the best of those near it."""
        bound = self._target.largest
        usual = max(self.largest / bound, SMALLEST_SCALE) if self.largest else 1.0
        usual = float(torch.tensor(usual))
        if self._scale is None:
            self._scale = self._search(usual) if self.largest else usual
        return usual, self._scale

    def _search(self, usual: float) -> float:
        used = self._counts.nonzero()[:, 0]
        values = used.to(torch.int16).view(self._magnitudes).float()
        counts = self._counts[used].double()
        best, least = usual, self._weighed(values, counts, usual)
        for part in TENSOR_PARTS:
            tried = float(torch.tensor(max(usual * part, SMALLEST_SCALE)))
            error = self._weighed(values, counts, tried)
            if error < least:
                best, least = tried, error
        return best

    def _weighed(self, values: torch.Tensor, counts: torch.Tensor, scale: float) -> float:
        change = self._change(values, scale).double() * (scale / self.largest)
        return float((change.square_() * counts).sum())

    def _compare(self, rows: torch.Tensor) -> None:
        flat = rows.reshape(-1, rows.shape[-1])
        for piece in row_chunks(*flat.shape):
            for i, scale in enumerate(self._choice()):
                change = self._change(flat[piece].float(), scale)
                self._errors[i] += sum_squares(change) * scale * scale

    def _change(self, values: torch.Tensor, scale: float) -> torch.Tensor:
        """Return what rounding changes, over the scale: the very arithmetic of quantizing."""
        bound = self._target.largest
        scaled = values * (1.0 / scale)
        codes = scaled.clamp(-bound, bound).to(DTYPES[self._target.dtype])
        return decode_float8(codes).sub_(scaled)


class BestRowScale:
    """One scale per row, of those near what its largest weight gives."""

    passes = 0

    def __init__(self, target: TargetFormat, shape: tuple[int, ...], quality: str) -> None:
        self.largest = 0.0
        self._target = target
        self._marker = marker_side(target)

    def look(self, rows: torch.Tensor) -> None:
        self.largest = larger(self.largest, magnitude(rows))

    def encode(self, rows: torch.Tensor, out: torch.Tensor, tick: Tick) -> Encoded:
        self.look(rows)
        bound = self._target.largest
        scales = row_scales(rows, bound)
        for piece in row_chunks(*rows.shape):
            tick()
            scales[piece] = best_row_scales(rows[piece].float(), scales[piece], bound)
        error = quantize_rows(rows, out, scales, bound, tick)
        return Encoded(out, {".weight_scale": scales, **self._marker}, error)


def best_row_scales(values: torch.Tensor, scales: torch.Tensor, largest: float) -> torch.Tensor:
    """Return ``[rows, 1]`` scales, each the given one or a part of it.

    Args:
        values: ``[rows, columns]`` float32, columns in sixteens.
    """
    used, errors = scales, _row_errors(values, scales, scales, largest)
    for part in ROW_PARTS:
        tried = (scales * part).clamp_(min=SMALLEST_SCALE)
        errors_tried = _row_errors(values, tried, scales, largest)
        better = errors_tried < errors
        used = torch.where(better, tried, used)
        errors = torch.where(better, errors_tried, errors)
    return used


def _row_errors(
    values: torch.Tensor, scales: torch.Tensor, unit: torch.Tensor, largest: float
) -> torch.Tensor:
    """Return each row's sum of squared changes over ``unit`` squared, ``[rows, 1]``."""
    scaled = values * (1.0 / scales)
    change = scaled.round().clamp_(-largest, largest).sub_(scaled).mul_(scales / unit)
    pieces = paired_sums(change.square_().view(-1, _PIECE, 1)).view(values.shape[0], -1)
    return pieces.cumsum(1)[:, -1:]
