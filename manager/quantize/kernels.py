"""The arithmetic of quantizing, on chunks that stay in the processor's cache.

Every function takes flat or two-dimensional CPU tensors. The relative errors follow from the sums
of squares that come back: ``sqrt(noise / signal)`` is the relative L2 error of a layer's weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

CHUNK = 1 << 20
# The smallest scale: below it, its reciprocal is no float32 any more.
SMALLEST_SCALE = torch.finfo(torch.float32).tiny

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "I8": torch.int8,
    "U8": torch.uint8,
}


class Error(NamedTuple):
    """Sums of squares: of what the rounding changed, and of the weights."""

    noise: float
    signal: float


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
    values: torch.Tensor, out: torch.Tensor, scale: float, largest: float, tick: Callable[[], None]
) -> Error:
    """Round ``values / scale`` into ``out``, an fp8 tensor of the same number of elements.

    Args:
        scale: one for the whole tensor; ``largest * scale`` is its largest magnitude.
        tick: called before each chunk; may raise to stop.
    """
    source, target = values.reshape(-1), out.reshape(-1)
    work = torch.empty(min(CHUNK, source.numel()))
    back = torch.empty_like(work)
    noise = signal = 0.0
    for start in range(0, source.numel(), CHUNK):
        tick()
        piece = source[start : start + CHUNK]
        scaled, restored = work[: piece.numel()], back[: piece.numel()]
        scaled.copy_(piece).mul_(1.0 / scale).clamp_(-largest, largest)
        rounded = target[start : start + CHUNK]
        rounded.copy_(scaled)
        restored.copy_(rounded).sub_(scaled)
        noise += float(restored.dot(restored))
        signal += float(scaled.dot(scaled))
    return Error(noise * scale * scale, signal * scale * scale)


def row_scales(values: torch.Tensor, largest: float) -> torch.Tensor:
    """Return one scale per row of a ``[rows, columns]`` weight, float32 of shape ``[rows, 1]``."""
    scales = torch.empty(values.shape[0], 1)
    for rows in _row_chunks(values):
        low, high = torch.aminmax(values[rows], dim=1, keepdim=True)
        scales[rows] = torch.maximum(-low.float(), high.float())
    zero = scales == 0
    scales = (scales / largest).clamp_(min=SMALLEST_SCALE)
    scales[zero] = 1.0
    return scales


def quantize_rows(
    values: torch.Tensor,
    out: torch.Tensor,
    scales: torch.Tensor,
    largest: float,
    tick: Callable[[], None],
) -> Error:
    """Round each row of ``values / scales`` into ``out``, an int8 tensor of the same shape."""
    noise = signal = 0.0
    for rows in _row_chunks(values):
        tick()
        scale = scales[rows]
        scaled = values[rows].to(torch.float32, copy=True).mul_(1.0 / scale)  # the source stays as it is
        rounded = scaled.round().clamp_(-largest, largest)
        out[rows].copy_(rounded)
        change = rounded.sub_(scaled).mul_(scale).reshape(-1)
        weights = scaled.mul_(scale).reshape(-1)
        noise += float(change.dot(change))
        signal += float(weights.dot(weights))
    return Error(noise, signal)


def cast(values: torch.Tensor, out: torch.Tensor, tick: Callable[[], None]) -> Error:
    """Copy ``values`` into ``out``, another floating type, measuring the rounding."""
    source, target = values.reshape(-1), out.reshape(-1)
    noise = signal = 0.0
    for start in range(0, source.numel(), CHUNK):
        tick()
        piece, rounded = source[start : start + CHUNK], target[start : start + CHUNK]
        rounded.copy_(piece)
        weights = piece.float()
        change = rounded.float() - weights
        noise += float(change.dot(change))
        signal += float(weights.dot(weights))
    return Error(noise, signal)


def _row_chunks(values: torch.Tensor) -> Iterator[slice]:
    rows = max(1, CHUNK // max(1, values.shape[1]))
    for start in range(0, values.shape[0], rows):
        yield slice(start, start + rows)
