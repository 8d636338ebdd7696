"""Weights through an encoder and back: what a file would hold, and what it stands for."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from managed_models.manager.quantize.encoding import make_encoder
from managed_models.manager.quantize.formats import FORMATS
from managed_models.manager.quantize.kernels import DTYPES, Error

Sides = dict[str, torch.Tensor]
# Values of float4_e2m1 by code; the upper eight are negative.
FLOAT4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


class Written(NamedTuple):
    """A layer's tensors as its file would hold them, by suffix, and the error that was reported."""

    weight: torch.Tensor
    sides: Sides
    error: Error

    def same_bytes(self, other: Written) -> bool:
        return self.sides.keys() == other.sides.keys() and all(
            torch.equal(raw(a), raw(b))
            for a, b in [(self.weight, other.weight)]
            + [(self.sides[name], other.sides[name]) for name in self.sides]
        )


def raw(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def encode(name: str, weights: torch.Tensor, quality: str = "fast", cuts: Sequence[int] = ()) -> Written:
    """Encode a weight in blocks of rows that end at ``cuts``; check shapes and types on the way."""
    target = FORMATS[name]
    shape = tuple(weights.shape)
    edges = [0, *cuts, shape[0]]
    blocks = [weights[start:end] for start, end in itertools.pairwise(edges)]
    encoder = make_encoder(target, shape, quality)
    for _ in range(encoder.passes):
        for block in blocks:
            encoder.look(block)
    specs = {spec.name: spec for spec in target.outputs("", shape)}
    stored = specs.pop(".weight")
    out = torch.empty(stored.shape, dtype=DTYPES[stored.dtype])
    parts: dict[str, list[torch.Tensor]] = {}
    error, row = Error(0.0, 0.0), 0
    for block in blocks:
        place = out[row : row + block.shape[0]]
        encoded = encoder.encode(block, place, lambda: None)
        assert encoded.weight.shape == place.shape
        place.copy_(encoded.weight)
        row += block.shape[0]
        error = error.plus(encoded.error)
        for suffix, part in encoded.sides.items():
            parts.setdefault(suffix, []).append(part)
    assert parts.keys() == specs.keys()
    sides: Sides = {}
    for suffix, spec in specs.items():
        found = parts[suffix]
        whole = found[0] if tuple(found[0].shape) == spec.shape else torch.cat(found)
        assert tuple(whole.shape) == spec.shape
        assert whole.dtype == DTYPES[spec.dtype]
        sides[suffix] = whole
    return Written(out, sides, error)


def decode(name: str, written: Written) -> torch.Tensor:
    """Return the float64 weights that a layer stands for, from the definition of its format."""
    weight, sides = written.weight, written.sides
    if name in ("fp8_e4m3fn_scaled", "fp8_e5m2_scaled", "int8"):
        return weight.double() * sides[".weight_scale"].double()
    if name == "mxfp8":
        exponents = untiled(sides[".weight_scale"], weight.shape[0], weight.shape[1] // 32).double()
        scales = torch.where(exponents == 0, 0.0, 2.0 ** (exponents - 127))
        return weight.double() * scales.repeat_interleave(32, 1)
    if name == "nvfp4":
        table = torch.tensor([*FLOAT4, *(-value for value in FLOAT4)], dtype=torch.float64)
        values = table[torch.stack([weight >> 4, weight & 15], -1).flatten(1).long()]
        scales = untiled(sides[".weight_scale"], weight.shape[0], values.shape[1] // 16).double()
        return values * scales.repeat_interleave(16, 1) * sides[".weight_scale_2"].double()
    if name == "int8_convrot":
        return unturned(weight.double() * sides[".weight_scale"].double())
    codes = weight.view(torch.uint8)
    halves = torch.stack([codes & 15, codes >> 4], -1).flatten(1)
    if name == "w4a4":
        signed = ((halves.int() + 8) % 16 - 8).double()
        return unturned(signed * sides[".weight_scale"].double().unsqueeze(1))
    levels = sides[".weight_codebook"][halves.long()]
    blocks = sides[".weight_s_rel"].float().repeat_interleave(16, 1)
    whole = (levels * blocks).round().clamp(-127, 127).double()
    return unturned(whole * sides[".weight_s_channel"].double().unsqueeze(1))


def untiled(scales: torch.Tensor, rows: int, blocks: int) -> torch.Tensor:
    """Return ``[rows, blocks]`` scales out of tiles, one by one, from cuBLAS's definition."""
    flat = scales.reshape(-1)
    tiles = -(-blocks // 4)
    row = torch.arange(rows).unsqueeze(1)
    column = torch.arange(blocks)
    tile = (row // 128) * tiles + column // 4
    place = tile * 512 + (row % 32) * 16 + (row % 128) // 32 * 4 + column % 4
    return flat[place]


def hadamard() -> torch.Tensor:
    """Return the 256 x 256 matrix, float64, of length one in every row."""
    four = torch.ones(4, 4, dtype=torch.float64) - 2 * torch.eye(4, dtype=torch.float64).flip(0)
    matrix = four
    for _ in range(3):
        matrix = torch.kron(matrix, four)
    return matrix / 16


def unturned(values: torch.Tensor) -> torch.Tensor:
    return (values.view(values.shape[0], -1, 256) @ hadamard()).view(values.shape)


def distributions(columns: int = 256) -> Iterator[tuple[str, torch.Tensor]]:
    """Give float32 weights of many kinds, by name."""
    generator = torch.Generator().manual_seed(0)

    def normal(rows: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator)

    yield "normal", normal(160) * 0.02
    yield "heavy tails", normal(128) ** 5 * 0.01
    zeros = normal(192) * 0.02
    zeros[3] = 0.0
    zeros[7, :64] = 0.0
    zeros[8, 16:32] = 0.0
    yield "zero rows and blocks", zeros
    yield "outliers", torch.where(torch.rand(64, columns, generator=generator) < 0.01, 5.0, normal(64) * 0.02)
    yield "negative zeros", torch.where(torch.rand(64, columns, generator=generator) < 0.3, -0.0, normal(64))
    yield "on the borders", torch.randint(-24, 25, (64, columns), generator=generator) / 8
    yield "many magnitudes", normal(64) * torch.exp(2 * normal(64))
    yield "small", normal(64) * 1e-4
    yield "large", normal(64) * 5e3
