"""The arithmetic of quantizing, on chunks that stay in the processor's cache.

Every function takes flat or two-dimensional CPU tensors. The relative errors follow from the sums
of squares that come back: ``sqrt(noise / signal)`` is the relative L2 error of a layer's weights.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch

from .formats import TargetFormat

Tick = Callable[[], None]

CHUNK = 1 << 20
# Elements at once where there are several working buffers, so that the processor's cache holds them.
_PIECE = 1 << 18
# The smallest scale: below it, its reciprocal is no float32 any more.
SMALLEST_SCALE = torch.finfo(torch.float32).tiny

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I8": torch.int8,
    "U8": torch.uint8,
}


_SAME_WIDTH = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}


class Error(NamedTuple):
    """Sums of squares: of what the rounding changed, and of the weights."""

    noise: float
    signal: float

    def plus(self, other: Error) -> Error:
        return Error(self.noise + other.noise, self.signal + other.signal)


class Sample:
    """Sums up the error of the first of every few chunks, and takes it up to all of them.

    Args:
        every: of how many chunks one is measured; 1 for all.
    """

    def __init__(self, every: int) -> None:
        self._every = every
        self._seen = self._elements = self._measured = 0
        self._error = Error(0.0, 0.0)

    def takes(self, chunk: torch.Tensor) -> bool:
        """Tell whether the next chunk is to be measured."""
        self._seen += 1
        self._elements += chunk.numel()
        taken = (self._seen - 1) % self._every == 0
        if taken:
            self._measured += chunk.numel()
        return taken

    def add(self, error: Error) -> None:
        """Take the error of a chunk that was to be measured."""
        self._error = self._error.plus(error)

    def total(self) -> Error:
        """Return the error of all chunks, as far as it was measured."""
        if self._measured == self._elements:
            return self._error
        factor = self._elements / self._measured
        return Error(self._error.noise * factor, self._error.signal * factor)


class Encoded(NamedTuple):
    """One block of rows as it is stored.

    Attributes:
        weight: as many rows of the stored weight, C-contiguous (``out`` or another tensor).
        sides: the layer's other tensors by suffix, such as ``.weight_scale``: the part for these rows,
            or, where the whole tensor has one, all of it with each block.
        error: sums of squares over these rows.
    """

    weight: torch.Tensor
    sides: Mapping[str, torch.Tensor]
    error: Error


def larger(a: float, b: float) -> float:
    """Return the larger of two magnitudes, and what is not finite if one of them is not."""
    return a if math.isnan(a) or a >= b else b


def marker_side(target: TargetFormat) -> dict[str, torch.Tensor]:
    """Return a layer's ``comfy_quant`` tensor by its suffix; empty where the format has none."""
    if not target.marker:
        return {}
    return {".comfy_quant": torch.frombuffer(bytearray(target.marker), dtype=torch.uint8)}


def magnitude(values: torch.Tensor) -> float:
    """Return the largest absolute value; ``inf`` or ``nan`` when there is one among them.

    Args:
        values: floating point, any shape.
    """
    flat = values.reshape(-1)
    largest = 0.0
    for start in range(0, flat.numel(), CHUNK):
        low, high = torch.aminmax(flat[start : start + CHUNK])
        pair = max(-float(low), float(high))
        if pair != pair or pair == float("inf"):
            return pair
        largest = max(largest, pair)
    return largest


def quantize_tensor(
    values: torch.Tensor,
    out: torch.Tensor,
    scale: float,
    largest: float,
    tick: Callable[[], None],
    every: int = 1,
) -> Error:
    """Round ``values / scale`` into ``out``, an fp8 tensor of the same number of elements.

    Args:
        scale: one for the whole tensor; what is beyond ``largest * scale`` is cut off.
        tick: called before each chunk; may raise to stop.
        every: of how many chunks one is measured.
    """
    source, target = _as_rows(values), _as_rows(out)
    measure = Sample(every)
    for place in _tiles(*source.shape):
        tick()
        piece, rounded = source[place], target[place]
        scaled = scratch("scaled", piece.shape).copy_(piece).mul_(1.0 / scale)
        if measure.takes(piece):
            rounded.copy_(torch.clamp(scaled, -largest, largest, out=scratch("rounded", piece.shape)))
            measure.add(error_of(decode_float8(rounded).sub_(scaled), scaled))
        else:
            rounded.copy_(scaled.clamp_(-largest, largest))
    error = measure.total()
    return Error(error.noise * scale * scale, error.signal * scale * scale)


class _Buffers(threading.local):
    def __init__(self) -> None:
        self.by_use: dict[tuple[str, torch.dtype], torch.Tensor] = {}


_buffers = _Buffers()


def scratch(use: str, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return this thread's working buffer for ``use``, which holds anything until it is asked for again.

    A fresh tensor for every step costs a third of the speed: its pages are mapped anew each time.
    """
    size = math.prod(shape)
    buffer = _buffers.by_use.get((use, dtype))
    if buffer is None or buffer.numel() < size:
        buffer = torch.empty(max(size, _PIECE), dtype=dtype)
        _buffers.by_use[use, dtype] = buffer
    return buffer[:size].view(*shape)


def error_of(change: torch.Tensor, weights: torch.Tensor) -> Error:
    """Return the error of rows of weights that were changed by ``change``."""
    return Error(sum_squares(change), sum_squares(weights))


def sum_squares(rows: torch.Tensor) -> float:
    """Return the sum of squares of ``[n, columns]`` float32: row by row, whose order nothing changes.

    In float64 where float32 would overflow or vanish.
    """
    total = float(torch.linalg.vector_norm(rows, dim=1).double().square_().sum())
    if 1e-30 < total < 1e38:
        return total
    return float(rows.double().square_().sum())


def paired_sums(values: torch.Tensor) -> torch.Tensor:
    """Sum over the middle of ``[a, 2^k, b]`` by halving: the same sums however large ``a`` and ``b`` are.

    PyTorch's own sums add in an order that depends on the shape and the number of threads.
    """
    while values.shape[1] > 1:
        half = values.shape[1] // 2
        values = values[:, :half] + values[:, half:]
    return values[:, 0]


def decode_float8(codes: torch.Tensor) -> torch.Tensor:
    """Return the float32 values of 8-bit floats, in a working buffer: many times as fast as PyTorch does."""
    bits = scratch("bits", codes.shape, torch.int16).copy_(codes.view(torch.int8))  # the sign fills the rest
    values = scratch("decoded", codes.shape)
    if codes.dtype == torch.float8_e5m2:
        return values.copy_(bits.mul_(256).view(torch.float16))
    # The fields lie as those of a float16 whose exponent counts from eight less.
    return values.copy_(bits.mul_(128).bitwise_and_(-0x4080).view(torch.float16)).mul_(256)


def row_scales(values: torch.Tensor, largest: float) -> torch.Tensor:
    """Return one scale per row of a ``[rows, columns]`` weight, float32 of shape ``[rows, 1]``."""
    magnitudes = torch.empty(values.shape[0], 1)
    for rows in row_chunks(*values.shape):
        magnitudes[rows] = row_magnitudes(values[rows])
    return scales_for(magnitudes, largest)


def scales_for(magnitudes: torch.Tensor, largest: float) -> torch.Tensor:
    """Return the scales that bring these magnitudes to ``largest``."""
    zero = magnitudes == 0
    scales = (magnitudes / largest).clamp_(min=SMALLEST_SCALE)
    scales[zero] = 1.0
    return scales


def row_magnitudes(values: torch.Tensor) -> torch.Tensor:
    """Return the largest magnitude of each row, float32 of shape ``[rows, 1]``; NaN where one is in it.

    The bits of a float without its sign are in the order of its magnitude, NaN above infinity, and
    PyTorch finds the largest integer 25 times as fast as the largest float of 16 bits.
    """
    integer = _SAME_WIDTH.get(values.dtype)
    if integer is None or not values.numel():
        low, high = torch.aminmax(values, dim=1, keepdim=True)
        return torch.maximum(-low.float(), high.float())
    largest = torch.empty(values.shape[0], 1, dtype=integer)
    for rows in row_chunks(*values.shape):
        piece = values[rows].view(integer)
        bits = scratch("bits", piece.shape, integer)
        torch.bitwise_and(piece, torch.iinfo(integer).max, out=bits)
        torch.amax(bits, 1, keepdim=True, out=largest[rows])
    return largest.view(values.dtype).float()


def quantize_rows(
    values: torch.Tensor,
    out: torch.Tensor,
    scales: torch.Tensor,
    largest: float,
    tick: Callable[[], None],
    every: int = 1,
) -> Error:
    """Round each row of ``values / scales`` into ``out``, an int8 tensor of the same shape.

    Args:
        scales: float32 of shape ``[rows, 1]``.
        largest: magnitude at which codes are cut off; infinite where no scaled weight is beyond the format.
        tick: called before each chunk; may raise to stop.
        every: of how many chunks one is measured.
    """
    inverse = 1.0 / scales
    measure = Sample(every)
    for rows in row_chunks(*values.shape):
        tick()
        piece = values[rows]
        scaled = scratch("scaled", piece.shape).copy_(piece).mul_(inverse[rows])
        measured = measure.takes(piece)
        rounded = torch.round(scaled, out=scratch("rounded", piece.shape) if measured else scaled)
        if largest < math.inf:
            rounded.clamp_(-largest, largest)
        out[rows].copy_(rounded)
        if measured:
            change, scale = rounded.sub_(scaled), scales[rows]
            measure.add(Error(_scaled_squares(change, scale), _scaled_squares(scaled, scale)))
    return measure.total()


def _scaled_squares(rows: torch.Tensor, scales: torch.Tensor) -> float:
    """Return the sum of squares of ``[n, columns]`` rows, each multiplied with its ``[n, 1]`` scale."""
    norms = torch.linalg.vector_norm(rows, dim=1).double().mul_(scales.view(-1).double())
    return float(norms.square_().sum())


def cast(values: torch.Tensor, out: torch.Tensor, tick: Callable[[], None]) -> Error:
    """Copy ``values`` into ``out``, another floating type, measuring the rounding."""
    source, target = _as_rows(values), _as_rows(out)
    error = Error(0.0, 0.0)
    for place in _tiles(*source.shape):
        tick()
        weights, rounded = source[place].float(), target[place]
        rounded.copy_(source[place])
        error = error.plus(error_of(rounded.float() - weights, weights))
    return error


def _as_rows(values: torch.Tensor) -> torch.Tensor:
    return values.reshape(-1, values.shape[-1] if values.dim() else 1)


def _tiles(rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    """Cut a matrix into rows, and a row that is too long into parts that begin where it does."""
    for piece in row_chunks(rows, columns):
        for left in range(0, columns, _PIECE):
            yield piece, slice(left, left + _PIECE)


def row_chunks(rows: int, columns: int) -> Iterator[slice]:
    """Cut rows into pieces that the cache holds."""
    step = max(1, _PIECE // max(1, columns))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
