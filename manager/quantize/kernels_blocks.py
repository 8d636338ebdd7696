"""mxfp8 and nvfp4: a scale for every 32 or 16 weights of a row, in the tiles that cuBLAS reads.

The bytes are those of comfy-kitchen's eager backend (a test compares them), with three exceptions where
its own are unusable: a tensor of zeros, a block so small that its scale is no number any more, and
a float16 tensor whose scale float16 cannot hold.
"""

from __future__ import annotations

import torch

from .choices import BEST
from .formats import MXFP8_BLOCK, NVFP4_BLOCK, SCALE_COLUMNS, SCALE_ROWS, TargetFormat
from .kernels import (
    Encoded,
    Error,
    Tick,
    decode_float8,
    error_of,
    larger,
    magnitude,
    marker_side,
    paired_sums,
    row_chunks,
    scratch,
)

_FP8_LARGEST, _FP4_LARGEST = 448.0, 6.0
_LANES, _NO_SIGN = 32, 0x7FFFFFFF
# Exponents of a block's scale are stored with this added; 0 stands for a block of zeros.
_E8M0_BIAS, _E8M0_LARGEST = 127, 254
# Steps from the code of a block's scale that ``best`` tries, nearest first. Eight steps are a factor of
# two; four and five bring the largest weight from 6 to 4, the next value of the element type.
_SCALE_STEPS = (1, -1, 2, -2, -3, 3, 4, 5)


class Mxfp8:
    """8-bit floats with a power of two for every 32.

    ``best`` is ``fast``: the next smaller power of two would cut the largest weight off, and a float is as
    exact at the next larger one.
    """

    passes = 0

    def __init__(self, target: TargetFormat, shape: tuple[int, ...], quality: str) -> None:
        self.largest = 0.0
        self._marker = marker_side(target)

    def look(self, rows: torch.Tensor) -> None:
        self.largest = larger(self.largest, magnitude(rows))

    def encode(self, rows: torch.Tensor, out: torch.Tensor, tick: Tick) -> Encoded:
        self.look(rows)
        count, columns = rows.shape
        exponents = torch.empty(count, columns // MXFP8_BLOCK, dtype=torch.uint8)
        error = Error(0.0, 0.0)
        for piece in row_chunks(count, columns):
            tick()
            blocks = _blocks(rows[piece], MXFP8_BLOCK)
            scales, change = _mxfp8_blocks(blocks, out[piece])
            exponents[piece] = scales.view(-1, columns // MXFP8_BLOCK)
            error = error.plus(error_of(change.view(-1, columns), blocks.view(-1, columns)))
        return Encoded(out, {".weight_scale": tiled(exponents), **self._marker}, error)


def _mxfp8_blocks(blocks: torch.Tensor, out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round ``[n, 32]`` float32 weights into ``out``; return biased exponents, and what changes."""
    needed = (block_magnitude(blocks) / _FP8_LARGEST).clamp_(min=2.0**-_E8M0_BIAS)
    exponents = (torch.log2(needed).ceil_() + _E8M0_BIAS).clamp_(0, _E8M0_LARGEST).to(torch.int32)
    empty = exponents == 0
    scales = torch.where(empty, _E8M0_BIAS, exponents).bitwise_left_shift_(23).view(torch.float32)
    scales = scales.unsqueeze(1)
    # Within 448 by the choice of the scale.
    scaled = torch.div(blocks, scales, out=scratch("scaled", blocks.shape))
    if bool(empty.any()):
        scaled[empty] = 0.0
    out.copy_(scaled.view(out.shape))
    change = decode_float8(out).view(blocks.shape).mul_(scales).sub_(blocks)
    return exponents.to(torch.uint8), change


class Nvfp4:
    """4-bit floats with an 8-bit float for every 16 and a scale for the tensor."""

    passes = 1

    def __init__(self, target: TargetFormat, shape: tuple[int, ...], quality: str) -> None:
        self.largest = 0.0
        self._marker = marker_side(target)
        self._best = quality == BEST

    def look(self, rows: torch.Tensor) -> None:
        self.largest = larger(self.largest, magnitude(rows))

    def encode(self, rows: torch.Tensor, out: torch.Tensor, tick: Tick) -> Encoded:
        count, columns = rows.shape
        scale = tensor_scale(self.largest, rows.dtype)
        stored = torch.empty(count, columns // NVFP4_BLOCK, dtype=torch.float8_e4m3fn)
        error = Error(0.0, 0.0)
        for piece in row_chunks(count, columns):
            tick()
            blocks = _blocks(rows[piece], NVFP4_BLOCK)
            codes, scales, change = _nvfp4_blocks(blocks, scale, self._best)
            out[piece].copy_(_packed(codes).view(-1, columns // 2))
            stored[piece] = scales.view(-1, columns // NVFP4_BLOCK)
            error = error.plus(error_of(change.view(-1, columns), blocks.view(-1, columns)))
        sides = {".weight_scale": tiled(stored.view(torch.uint8)).view(torch.float8_e4m3fn)}
        return Encoded(out, {**sides, ".weight_scale_2": scale, **self._marker}, error)


def tensor_scale(largest: float, dtype: torch.dtype) -> torch.Tensor:
    """Return the scale of a whole nvfp4 tensor, float32 and of no dimension.

    Computed in the source's element type, as comfy-kitchen does, while that can hold it.
    """
    if not largest:
        return torch.tensor(1.0)
    bound = _FP8_LARGEST * _FP4_LARGEST
    scale = (torch.tensor(largest, dtype=dtype) / bound).float()
    if not scale:
        scale = torch.tensor(largest, dtype=torch.float32) / bound
    return scale if scale else torch.tensor(torch.finfo(torch.float32).tiny)


def _nvfp4_blocks(
    blocks: torch.Tensor, scale: torch.Tensor, best: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return codes (int8, one each), block scales, and what changes of ``[n, 16]`` float32 weights."""
    wanted = (block_magnitude(blocks) / _FP4_LARGEST / scale).clamp_(max=_FP8_LARGEST)
    stored = wanted.to(torch.float8_e4m3fn)
    if best:
        stored = _nvfp4_best_scales(blocks, scale, stored)
    codes, change = _nvfp4_scaled(blocks, scale, stored)
    return codes, stored, change


def _nvfp4_best_scales(blocks: torch.Tensor, scale: torch.Tensor, stored: torch.Tensor) -> torch.Tensor:
    """Return block scales near those given, with which no block errs more."""
    least = _errors(_nvfp4_scaled(blocks, scale, stored)[1], scale)
    first = stored.view(torch.int8)
    chosen = first
    for step in _SCALE_STEPS:
        # Positive 8-bit floats are ordered as their codes are; 126 is the largest, 1 the smallest.
        tried = (first + step).clamp_(1, 126)
        errors = _errors(_nvfp4_scaled(blocks, scale, tried.view(torch.float8_e4m3fn))[1], scale)
        better = errors < least
        chosen = torch.where(better, tried, chosen)
        least = torch.where(better, errors, least)
    return chosen.view(torch.float8_e4m3fn)


def _errors(change: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
    """Return each block's sum of squares over ``unit`` squared, which neither overflows nor vanishes."""
    return paired_sums((change / unit).square_().unsqueeze(2))[:, 0]


def _nvfp4_scaled(
    blocks: torch.Tensor, scale: torch.Tensor, stored: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return codes, and by how much what they stand for differs from the weights."""
    total = (scale * decode_float8(stored)).unsqueeze(1)
    empty = total[:, 0] == 0
    any_empty = bool(empty.any())
    divisors = torch.where(total == 0, 1.0, total) if any_empty else total
    scaled = torch.div(blocks, divisors, out=scratch("scaled", blocks.shape))
    if any_empty:
        scaled[empty] = 0.0
    bits = scratch("sign bits", blocks.shape, torch.int32)
    torch.bitwise_right_shift(scaled.view(torch.int32), 28, out=bits).bitwise_and_(8)
    sizes = scaled.abs_()
    # Steps of a half below 2, of one below 4, of two up to 6; each part rounds half to even.
    halves = torch.mul(sizes, 2, out=scratch("halves", blocks.shape)).clamp_(max=4).round_()
    ones = torch.clamp(sizes, 2, 4, out=scratch("ones", blocks.shape)).round_()
    twos = torch.div(sizes, 2, out=scratch("twos", blocks.shape)).clamp_(2, 3).round_()
    ones.add_(twos)
    codes = scratch("codes", blocks.shape, torch.int8)
    codes.copy_(torch.add(halves, ones, out=scratch("sum", blocks.shape))).sub_(4)
    codes.bitwise_or_(scratch("signs", blocks.shape, torch.int8).copy_(bits))
    values = halves.div_(2).add_(ones).add_(twos).sub_(6)
    change = values.sub_(sizes).mul_(total)
    if any_empty:
        change[empty] = blocks[empty]
    return codes, change


def _packed(codes: torch.Tensor) -> torch.Tensor:
    """Put two 4-bit codes into a byte, the first into the upper half."""
    pairs = codes.view(torch.int16)  # little endian: the first code is the lower byte
    return ((pairs << 4) | (pairs >> 8)).to(torch.uint8)


def _blocks(rows: torch.Tensor, size: int) -> torch.Tensor:
    """Return float32 copies of some rows, ``size`` weights in each of their own."""
    return scratch("blocks", rows.shape).copy_(rows).view(-1, size)


def block_magnitude(blocks: torch.Tensor) -> torch.Tensor:
    """Return the largest magnitude of each row of ``[n, 16]`` or ``[n, 32]`` float32 weights.

    Floats without their sign are ordered as their bits are, and PyTorch reduces rows of 32 integers
    many times as fast as floats or shorter rows: two blocks of 16 are looked at as one, half of it blank.
    """
    bits = blocks.view(torch.int32)
    if blocks.shape[1] == _LANES or blocks.shape[0] % 2:
        sizes = scratch("magnitudes", bits.shape, torch.int32)
        return torch.bitwise_and(bits, _NO_SIGN, out=sizes).amax(1).view(torch.float32)
    largest = torch.empty(blocks.shape[0] // 2, 2, dtype=torch.int32)
    pairs = bits.view(-1, _LANES)
    for half in range(2):
        mask = torch.zeros(_LANES, dtype=torch.int32)
        mask[half * NVFP4_BLOCK : (half + 1) * NVFP4_BLOCK] = _NO_SIGN
        sizes = torch.bitwise_and(pairs, mask, out=scratch("magnitudes", pairs.shape, torch.int32))
        largest[:, half] = sizes.amax(1)
    return largest.view(-1).view(torch.float32)


def tiled(scales: torch.Tensor) -> torch.Tensor:
    """Return ``[rows, blocks]`` bytes in tiles of 128 x 4, padded with zeros, ``[n * 128, m * 4]``.

    Within a tile, row ``32 a + b`` and column ``c`` lie at ``16 b + 4 a + c``. Source: the documentation of
    cuBLAS, "1D block scaling factors layout".
    """
    rows, blocks = scales.shape
    tall, wide = -(-rows // SCALE_ROWS), -(-blocks // SCALE_COLUMNS)
    if (rows, blocks) != (tall * SCALE_ROWS, wide * SCALE_COLUMNS):
        padded = torch.zeros(tall * SCALE_ROWS, wide * SCALE_COLUMNS, dtype=torch.uint8)
        padded[:rows, :blocks] = scales
        scales = padded
    parts = scales.view(tall, 4, 32, wide, SCALE_COLUMNS).permute(0, 3, 2, 1, 4)
    return parts.reshape(tall * SCALE_ROWS, wide * SCALE_COLUMNS)
