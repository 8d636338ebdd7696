"""Weights of 16 bits with one scale: all 65,536 results are computed once, then looked up.

The table is built with the arithmetic of ``kernels.quantize_tensor``, so the bytes are the same; an
entry holds both the code and, in its upper 24 bits, what the rounding changed, which is enough for an
error to five digits. Looking both up at once takes two thirds of the time of computing them.
"""

from __future__ import annotations

import threading

import numpy as np
import torch

from .kernels import Error, Tick, decode_float8, row_chunks, sum_squares

# A table is worth its making from so many weights on.
LEAST = 1 << 20
_CODE_BITS = 0xFF
_scratch = threading.local()


def has_table(source: torch.dtype, target: torch.dtype) -> bool:
    """Tell whether looking codes up is quicker: with a wider exponent, computing them is as quick."""
    return source in (torch.bfloat16, torch.float16) and target == torch.float8_e4m3fn


class CodeTable:
    """The 8-bit floats of all weights of a 16-bit type under one scale.

    Args:
        source: the weights' type.
        target: of the codes, an 8-bit float.
        scale: what codes are multiplied with.
        largest: magnitude at which scaled weights are cut off.
    """

    def __init__(self, source: torch.dtype, target: torch.dtype, scale: float, largest: float) -> None:
        patterns = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(source)
        scaled = patterns.float().mul_(1.0 / scale).clamp_(-largest, largest)
        codes = torch.empty(scaled.shape, dtype=target)
        codes.copy_(scaled)
        change = decode_float8(codes).sub_(scaled).nan_to_num_(0.0, 0.0, 0.0)
        entries = change.view(torch.int32).bitwise_and_(~_CODE_BITS)
        entries.bitwise_or_(codes.view(torch.uint8).to(torch.int32))
        self._entries = entries.view(torch.float32).numpy()
        self._scale = scale

    def encode(self, rows: torch.Tensor, out: torch.Tensor, tick: Tick) -> Error:
        """Put the codes of ``[n, columns]`` rows into ``out``, and return what that changed."""
        noise = signal = 0.0
        for chunk in row_chunks(*rows.shape):
            tick()
            piece = rows[chunk]
            found, weights = _buffers(piece.numel())
            patterns = piece.reshape(-1).view(torch.int16).numpy().view(np.uint16)
            np.take(self._entries, patterns, out=found.numpy(), mode="wrap")  # no index is out of range
            codes = out[chunk].reshape(-1).view(torch.uint8)
            codes.copy_(found.view(torch.int32))  # the low byte of each
            noise += sum_squares(found.view(piece.shape))
            signal += sum_squares(weights.view(piece.shape).copy_(piece))
        return Error(noise * self._scale * self._scale, signal)


def _buffers(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two float32 buffers of this thread, used again and again."""
    held = getattr(_scratch, "buffers", None)
    if held is None or len(held[0]) < count:
        held = _scratch.buffers = (torch.empty(count), torch.empty(count))
    return held[0][:count], held[1][:count]
