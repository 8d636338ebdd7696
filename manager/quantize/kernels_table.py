"""Weights of 16 bits with one scale: all 65,536 results are computed once, then looked up.

The tables are built with the arithmetic of ``kernels.quantize_tensor``, so the bytes are the same. One
holds the codes. An entry of the other holds both the code and, in its upper 24 bits, what the rounding
changed, which is enough for an error to five digits. Looking up takes two thirds of the time of computing.
"""

from __future__ import annotations

import torch

from .kernels import Error, Sample, Tick, decode_float8, row_chunks, scratch, sum_squares

# A table is worth its making from so many weights on.
LEAST = 1 << 20
_CODE_BITS = 0xFF


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
        self._codes = codes.view(torch.uint8)
        self._entries = entries.bitwise_or_(self._codes).view(torch.float32).clone()
        self._scale = scale

    def encode(self, rows: torch.Tensor, out: torch.Tensor, tick: Tick, every: int = 1) -> Error:
        """Put the codes of ``[n, columns]`` rows into ``out``, and return what that changed.

        Args:
            every: of how many chunks one is measured.
        """
        measure = Sample(every)
        for chunk in row_chunks(*rows.shape):
            tick()
            piece = rows[chunk]
            patterns = scratch("patterns", (piece.numel(),), torch.int32)
            patterns.copy_(piece.reshape(-1).view(torch.uint16))
            codes = out[chunk].reshape(-1).view(torch.uint8)
            if not measure.takes(piece):
                torch.index_select(self._codes, 0, patterns, out=codes)
                continue
            found = torch.index_select(self._entries, 0, patterns, out=scratch("found", patterns.shape))
            codes.copy_(found.view(torch.int32))  # the low byte of each
            noise = sum_squares(found.view(piece.shape)) * self._scale * self._scale
            weights = scratch("weights", piece.shape).copy_(piece)
            measure.add(Error(noise, sum_squares(weights)))
        return measure.total()
