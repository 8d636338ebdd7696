"""int8_convrot, w4a4 and w4a8: weights turned by a Hadamard matrix before they are rounded.

Turning spreads outliers over 256 weights of a row, so that they share a scale better (ConvRot,
arXiv:2512.03673, its "regular" Hadamard matrix: the fourth Kronecker power of a 4 x 4 one). It keeps
lengths: the error of turned weights is that of the weights.

The layouts are comfy-kitchen's. Its eager backend multiplies by the matrix in the source's element type;
here additions in float32 do it, which round less and give the same bytes on every machine. Of the same
float32 weights, both make the same codes up to one step where a value lies at the border of two (a test
bounds how often).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from .choices import BEST
from .formats import ROTATION, W4A8_BLOCK, TargetFormat
from .kernels import (
    Encoded,
    Error,
    Tick,
    larger,
    magnitude,
    marker_side,
    paired_sums,
    row_chunks,
    scratch,
)

_INT8_LARGEST, _INT4_LARGEST = 127.0, 7.0
# The smallest scales and magnitudes, as comfy-kitchen has them.
_INT8_SMALLEST, _INT4_SMALLEST, _W4A8_SMALLEST = 1e-30, 1e-10, 1e-8
# Parts of the scale from the largest weight that ``best`` tries: smaller ones cut outliers off.
INT8_PARTS = (0.98, 0.96, 0.94, 0.92, 0.9, 0.85, 0.8)
INT4_PARTS = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5)
# Lloyd-Max levels of Gaussian weights over the largest of their group of 16; comfy-kitchen's table.
LEVELS = (
    *(-0.980602, -0.794529, -0.638165, -0.500986, -0.377321, -0.263187, -0.155210, -0.050720),
    *(0.052541, 0.156985, 0.265284, 0.379533, 0.502636, 0.638953, 0.794876, 0.980671),
)
_REFINEMENTS = 2
_CELLS = 1024


class Turned(NamedTuple):
    """Some rows of a weight, turned, with the 256 weights of a group in a column.

    Attributes:
        values: ``[256, rows * groups]`` float32.
        groups: of a row.
    """

    values: torch.Tensor
    groups: int

    def row_magnitudes(self) -> torch.Tensor:
        return self.values.abs().amax(0).view(-1, self.groups).amax(1)

    def of_groups(self, of_rows: torch.Tensor) -> torch.Tensor:
        """Repeat what each row has for its groups."""
        return of_rows.repeat_interleave(self.groups)

    def error(self, change: torch.Tensor) -> Error:
        """Return the error of these weights, changed by ``change``."""
        return Error(_sum_squares(change), _sum_squares(self.values))

    def row_errors(self, change: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
        """Return each row's sum of squares of ``[256, n]`` over the row's ``unit`` squared.

        The order of additions does not depend on the shape.
        """
        of_groups = paired_sums((change / self.of_groups(unit)).square_().unsqueeze(0))[0]
        return of_groups.view(-1, self.groups).cumsum(1)[:, -1]


def _sum_squares(columns: torch.Tensor) -> float:
    """Return the sum of squares of ``[256, n]``, in float64 where float32 would overflow or vanish."""
    total = float(paired_sums(columns.square().unsqueeze(0)).double().sum())
    return total if 1e-30 < total < 1e38 else float(columns.double().square_().sum())


def turn(rows: torch.Tensor) -> Turned:
    """Turn ``[n, columns]`` weights in groups of 256 columns; to turn again is to turn back.

    What comes back is this thread's working buffer until the next call.
    """
    groups = rows.reshape(-1, ROTATION).t()
    columns = scratch("columns", groups.shape).copy_(groups.contiguous())
    other = scratch("other columns", groups.shape)
    for stride in (1, 4, 16, 64):
        fours = (-1, 4, stride * columns.shape[1])
        _turn_fours(columns.view(fours), other.view(fours))
        columns, other = other, columns
    return Turned(columns.mul_(1 / ROTATION**0.5), rows.shape[1] // ROTATION)


def _turn_fours(values: torch.Tensor, out: torch.Tensor) -> None:
    """Multiply by the 4 x 4 matrix of ones with -1 on the other diagonal: the sum less twice the opposite."""
    total = scratch("sums of four", values[:, 0].shape)
    torch.add(values[:, 0], values[:, 1], out=total).add_(values[:, 2]).add_(values[:, 3])
    for i in range(4):
        torch.sub(total, values[:, 3 - i], alpha=2, out=out[:, i])


class RotatedRow:
    """Turned int8 weights with one scale per row."""

    passes = 0

    def __init__(self, target: TargetFormat, shape: tuple[int, ...], quality: str) -> None:
        self.largest = 0.0
        self._marker = marker_side(target)
        self._parts = INT8_PARTS if quality == BEST else ()

    def look(self, rows: torch.Tensor) -> None:
        self.largest = larger(self.largest, magnitude(rows))

    def encode(self, rows: torch.Tensor, out: torch.Tensor, tick: Tick) -> Encoded:
        self.look(rows)
        scales = torch.empty(rows.shape[0], 1)
        error = Error(0.0, 0.0)
        for piece in row_chunks(*rows.shape):
            tick()
            turned = turn(rows[piece])
            first = (turned.row_magnitudes() / _INT8_LARGEST).clamp_(min=_INT8_SMALLEST)
            codes, used, found = quantize_turned(turned, first, _INT8_LARGEST, self._parts)
            out[piece].view(-1, ROTATION).copy_(codes.to(torch.int8).t())
            scales[piece, 0] = used
            error = error.plus(found)
        return Encoded(out, {".weight_scale": scales, **self._marker}, error)


class RotatedInt4:
    """Turned 4-bit integers with one scale per row, two in a byte."""

    passes = 0

    def __init__(self, target: TargetFormat, shape: tuple[int, ...], quality: str) -> None:
        self.largest = 0.0
        self._marker = marker_side(target)
        self._parts = INT4_PARTS if quality == BEST else ()

    def look(self, rows: torch.Tensor) -> None:
        self.largest = larger(self.largest, magnitude(rows))

    def encode(self, rows: torch.Tensor, out: torch.Tensor, tick: Tick) -> Encoded:
        self.look(rows)
        scales = torch.empty(rows.shape[0])
        error = Error(0.0, 0.0)
        for piece in row_chunks(*rows.shape):
            tick()
            turned = turn(rows[piece])
            first = turned.row_magnitudes().clamp_(min=_INT4_SMALLEST) / _INT4_LARGEST
            codes, used, found = quantize_turned(turned, first, _INT4_LARGEST, self._parts)
            out[piece].view(-1, ROTATION // 2).copy_(_packed(codes.to(torch.int8)).t())
            scales[piece] = used
            error = error.plus(found)
        return Encoded(out, {".weight_scale": scales, **self._marker}, error)


def quantize_turned(
    turned: Turned, scales: torch.Tensor, largest: float, parts: tuple[float, ...]
) -> tuple[torch.Tensor, torch.Tensor, Error]:
    """Round turned weights to integers.

    Args:
        scales: one per row, from its largest magnitude.
        parts: of these scales to try as well; each row keeps what errs least.

    Returns:
        codes as whole float32 numbers, the scales used, and the error.
    """
    codes, change = _rounded(turned, scales, largest)
    if parts:
        used, errors = scales, turned.row_errors(change, scales)
        for part in parts:
            tried = scales * part
            errors_tried = turned.row_errors(_rounded(turned, tried, largest)[1], scales)
            better = errors_tried < errors
            used = torch.where(better, tried, used)
            errors = torch.where(better, errors_tried, errors)
        scales = used
        codes, change = _rounded(turned, scales, largest)
    return codes, scales, turned.error(change)


def _rounded(turned: Turned, scales: torch.Tensor, largest: float) -> tuple[torch.Tensor, torch.Tensor]:
    spread = turned.of_groups(scales)
    shape = turned.values.shape
    codes = torch.div(turned.values, spread, out=scratch("codes", shape)).round_().clamp_(-largest, largest)
    return codes, torch.mul(codes, spread, out=scratch("change", shape)).sub_(turned.values)


def _packed(codes: torch.Tensor) -> torch.Tensor:
    """Put the 4-bit integers of neighbouring columns into a byte, the first into the lower half."""
    return (codes[0::2] & 15) | (codes[1::2] << 4)


class Codebook:
    """Turned weights as one of 16 levels, with an 8-bit float for every 16 and a scale per row.

    ``best`` is ``fast``: scales of least squared error are what it settles on already.
    """

    passes = 0

    def __init__(self, target: TargetFormat, shape: tuple[int, ...], quality: str) -> None:
        self.largest = 0.0
        self._marker = marker_side(target)
        self._levels = torch.tensor(LEVELS)
        self._nearest = Nearest(self._levels)

    def look(self, rows: torch.Tensor) -> None:
        self.largest = larger(self.largest, magnitude(rows))

    def encode(self, rows: torch.Tensor, out: torch.Tensor, tick: Tick) -> Encoded:
        self.look(rows)
        count, columns = rows.shape
        of_groups = torch.empty(count, columns // W4A8_BLOCK, dtype=torch.float8_e4m3fn)
        of_rows = torch.empty(count)
        error = Error(0.0, 0.0)
        finite = math.isfinite(self.largest)  # else no level is nearest, and the caller drops the tensor
        for piece in row_chunks(count, columns) if finite else ():
            tick()
            turned = turn(rows[piece])
            codes, relative, channel, found = quantize_levels(turned, self._nearest)
            out[piece].view(-1, ROTATION // 2).copy_(_packed(codes).t())
            blocks = relative.view(torch.uint8).t().reshape(-1, columns // W4A8_BLOCK)
            of_groups.view(torch.uint8)[piece] = blocks
            of_rows[piece] = channel
            error = error.plus(found)
        sides = {".weight_s_rel": of_groups, ".weight_s_channel": of_rows, ".weight_codebook": self._levels}
        return Encoded(out, {**sides, **self._marker}, error)


class Nearest:
    """Finds the nearest of 16 ascending levels within [-1, 1], the lower of two as near.

    A table of cells, none of which holds two borders: what a cell starts with, and its border.
    """

    def __init__(self, levels: torch.Tensor) -> None:
        self.levels = levels
        borders = (levels[1:] + levels[:-1]) / 2
        cells = self._cells(borders)
        if bool((cells[1:] == cells[:-1]).any()):
            raise ValueError("two levels are too near to each other")
        self._first = torch.zeros(_CELLS + 1, dtype=torch.int32)
        self._first.scatter_add_(0, cells.long() + 1, torch.ones_like(cells))
        self._first = self._first.cumsum(0).to(torch.float32)
        self._border = torch.full((_CELLS + 1,), torch.inf)
        self._border[cells.long()] = borders

    def codes(self, values: torch.Tensor) -> torch.Tensor:
        """Return indices into the levels, int32, in the shape of ``values`` (float32)."""
        flat = values.reshape(-1)
        cells = self._cells(flat)
        above = torch.gt(flat, self._border.index_select(0, cells), out=torch.empty_like(flat))
        return above.add_(self._first.index_select(0, cells)).to(torch.int32)

    def _cells(self, values: torch.Tensor) -> torch.Tensor:
        return ((values + 1) * (_CELLS / 2)).clamp_(0, _CELLS - 1).to(torch.int32)


def quantize_levels(
    turned: Turned, nearest: Nearest
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Error]:
    """Choose a level for every turned weight, and scales of least squared error by turns.

    Returns:
        codes ``[256, n]`` int8, each block's scale over its row's ``[16, n]`` float8, each row's scale, and
        the error. A weight stands for ``round(level * block) * row``.
    """
    blocks = turned.values.view(ROTATION // W4A8_BLOCK, W4A8_BLOCK, -1)
    scale = blocks.abs().amax(1, keepdim=True).clamp_(min=_W4A8_SMALLEST)
    for _ in range(_REFINEMENTS):
        chosen = _chosen(blocks, scale, nearest)
        scale = paired_sums(blocks * chosen) / paired_sums(chosen.square()).clamp_(min=1e-8)
        scale = scale.clamp_(min=_W4A8_SMALLEST).unsqueeze(1)
    reach = _chosen(blocks, scale, nearest).mul_(scale).abs_().amax((0, 1))
    channel = (reach.view(-1, turned.groups).amax(1) / _INT8_LARGEST).clamp_(min=_W4A8_SMALLEST)
    spread = turned.of_groups(channel)
    relative = (scale[:, 0] / spread).to(torch.float8_e4m3fn)
    codes, whole = _nearest_whole(blocks / spread, relative.float().unsqueeze(1), nearest.levels)
    change = whole.mul_(spread).sub_(blocks)
    error = turned.error(change.view(ROTATION, -1))
    return codes.view(ROTATION, -1), relative, channel, error


def _chosen(blocks: torch.Tensor, scale: torch.Tensor, nearest: Nearest) -> torch.Tensor:
    codes = nearest.codes(blocks / scale)
    return nearest.levels.index_select(0, codes).view(blocks.shape)


def _nearest_whole(
    wanted: torch.Tensor, scale: torch.Tensor, levels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return codes (int8) and values of the nearest levels once scaled and rounded to whole numbers."""
    codes = torch.zeros_like(wanted)
    values = torch.zeros_like(wanted)
    above = torch.empty_like(wanted)
    last = _whole(levels[0], scale)
    values.add_(last)
    for level in levels[1:]:
        following = _whole(level, scale)
        torch.gt(wanted, (last + following) / 2, out=above)
        codes.add_(above)
        values.addcmul_(above, following - last)
        last = following
    return codes.to(torch.int8), values


def _whole(level: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (level * scale).round_().clamp_(-_INT8_LARGEST, _INT8_LARGEST)
