"""How the quantized layers of a source are stored, and their weights as they were computed with.

What a layer decodes to is, in float32, what ComfyUI multiplies with: a test compares the two.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ..formats.safetensors import Header, TensorInfo
from ..identify.quantization import (
    FILE_MARKER,
    LAYER_MARKER,
    MAX_MARKER_BYTES,
    SIDE_SUFFIXES,
    parse_marker,
    read_layer_markers,
)
from .source import Reader, Source

if TYPE_CHECKING:
    import torch

PLAIN = "plain"  # 8-bit floats without a scale
_OLD_SCALE = ".scale_weight"
# Weights per stored element.
_PACKED = {"nvfp4": 2, "convrot_w4a4": 2, "asym_w4a8_int8": 2}
# Scales of blocks lie in tiles of this many rows.
_BLOCK_ROWS = {"nvfp4": 128, "mxfp8": 128}
DECODED = frozenset({PLAIN, "float8_e4m3fn", "float8_e5m2", "int8_tensorwise", "mxfp8", "nvfp4"})


@dataclass(frozen=True)
class StoredLayer:
    """A quantized weight of a source.

    Attributes:
        format: ComfyUI's name of its format, or ``plain``.
        shape: of the weight that it stands for.
        sides: suffix (``.weight_scale``) -> where the layer's other tensors are.
        options: further entries of its marker.
    """

    format: str
    shape: tuple[int, ...]
    sides: Mapping[str, TensorInfo] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def row_multiple(self) -> int:
        """Blocks of rows start at multiples of this."""
        return _BLOCK_ROWS.get(self.format, 1)

    @property
    def problem(self) -> str:
        """Why its weights cannot be worked out; empty when they can."""
        if self.format not in DECODED:
            return f"it is stored as {self.format}, which is not converted again"
        if ".pre_quant_scale" in self.sides:
            return "its inputs are scaled for the format that it has"
        needed = _NEEDED.get(self.format, ())
        missing = [suffix for suffix in needed if suffix not in self.sides]
        return f"its {missing[0][1:]} is missing" if missing else ""


_NEEDED = {
    "int8_tensorwise": (".weight_scale",),
    "mxfp8": (".weight_scale",),
    "nvfp4": (".weight_scale", ".weight_scale_2"),
}


def read_source_layers(source: Source) -> dict[str, StoredLayer]:
    """Return every quantized layer of a model by name, reading the few marker bytes; of all its parts.

    Raises:
        InvalidHeader: a marker cannot be read.
    """
    if source.index is None:
        return read_stored_layers(source.header)
    markers: dict[str, Mapping[str, Any]] = {}
    reader = Reader(source)
    try:
        for name, info in source.header.tensors.items():
            if name.endswith(LAYER_MARKER):
                raw = bytearray(min(info.nbytes, MAX_MARKER_BYTES + 1))
                reader.read(info.start, memoryview(raw))
                markers[name.removesuffix(LAYER_MARKER)] = parse_marker(source.header, name, bytes(raw))
    finally:
        reader.close()
    return _stored_layers(source.header, read_layer_markers(source.header) | markers)


def read_stored_layers(header: Header) -> dict[str, StoredLayer]:
    """Return the same of one file."""
    return _stored_layers(header, read_layer_markers(header))


def _stored_layers(header: Header, markers: Mapping[str, Mapping[str, Any]]) -> dict[str, StoredLayer]:
    found = {}
    for layer, marker in markers.items():
        info = header.tensors.get(f"{layer}.weight")
        if info is None or len(info.shape) != 2:
            continue
        sides = {s: header.tensors[layer + s] for s in SIDE_SUFFIXES if layer + s in header.tensors}
        name = str(marker.get("format", ""))
        rows, columns = info.shape
        options = {**_params(marker), **{k: v for k, v in marker.items() if k not in ("format", "params")}}
        shape = (rows, columns * _PACKED.get(name, 1))
        found[layer] = StoredLayer(name, shape, sides, options)
    return found


def _params(marker: Mapping[str, Any]) -> dict[str, Any]:
    params = marker.get("params")
    return dict(params) if isinstance(params, dict) else {}


def plain_layer(info: TensorInfo) -> StoredLayer:
    """Return a tensor of 8-bit floats without a scale as a stored layer."""
    return StoredLayer(PLAIN, info.shape)


def left_marker(header: Header, left: frozenset[str]) -> str | None:
    """Return the file's own list of quantized layers for those that stay as they are; None without one."""
    text = header.metadata.get(FILE_MARKER)
    if text is None:
        return None
    document = json.loads(text)
    document["layers"] = {k: v for k, v in document["layers"].items() if k in left}
    return json.dumps(document) if document["layers"] else ""


Decode = Callable[["torch.Tensor", int], "torch.Tensor"]


class Readable(Protocol):
    """Reads a source's data."""

    def read(self, position: int, view: memoryview) -> None:
        """Fill ``view`` with the data from ``position`` on."""


def open_decoder(reader: Readable, stored: StoredLayer) -> Decode:
    """Return what turns stored rows into float32 weights.

    Args:
        reader: of the source.

    Returns:
        A function of ``[n, ...]`` rows as stored and the number of the first; ``n`` is a multiple of
        the layer's ``row_multiple``, except at the end.
    """
    import torch

    from .kernels import DTYPES

    sides: dict[str, torch.Tensor] = {}
    for suffix, info in stored.sides.items():
        if suffix == LAYER_MARKER or info.dtype not in DTYPES:
            continue
        raw = bytearray(info.nbytes)
        reader.read(info.start, memoryview(raw))
        sides[suffix] = torch.frombuffer(raw, dtype=torch.uint8).view(DTYPES[info.dtype]).reshape(info.shape)
    return _DECODERS[stored.format](stored, sides)


def _plain(stored: StoredLayer, sides: Mapping[str, torch.Tensor]) -> Decode:
    return lambda rows, first: rows.float()


def _scaled(stored: StoredLayer, sides: Mapping[str, torch.Tensor]) -> Decode:
    scale = sides.get(".weight_scale", sides.get(_OLD_SCALE))
    if scale is None:
        return _plain(stored, sides)
    scale = scale.float()

    def decode(rows: torch.Tensor, first: int) -> torch.Tensor:
        part = scale.reshape(()) if scale.numel() == 1 else scale[first : first + len(rows)]
        if part.dim() == 1:
            part = part.unsqueeze(1)
        return rows.float().mul_(part)

    return decode


def _int8(stored: StoredLayer, sides: Mapping[str, torch.Tensor]) -> Decode:
    scaled = _scaled(stored, sides)
    if not stored.options.get("convrot"):
        return scaled
    size = int(stored.options.get("convrot_groupsize", 256))
    turn = hadamard(size)

    def decode(rows: torch.Tensor, first: int) -> torch.Tensor:
        weights = scaled(rows, first)
        return (weights.reshape(-1, size) @ turn).reshape(weights.shape)

    return decode


def hadamard(size: int) -> torch.Tensor:
    """Return the regular Hadamard matrix of a power of four, orthonormal and symmetric, float32."""
    import torch

    base = torch.tensor([[1.0, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]]) / 2
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.kron(matrix, base)
    return matrix


def _mxfp8(stored: StoredLayer, sides: Mapping[str, torch.Tensor]) -> Decode:
    import torch

    exponents = _rows_of_tiles(sides[".weight_scale"].view(torch.uint8))

    def decode(rows: torch.Tensor, first: int) -> torch.Tensor:
        blocks = rows.shape[1] // 32
        scale = torch.exp2(exponents[first : first + len(rows), :blocks].float() - 127)
        return (rows.float().reshape(len(rows), blocks, 32) * scale.unsqueeze(2)).reshape(rows.shape)

    return decode


def _nvfp4(stored: StoredLayer, sides: Mapping[str, torch.Tensor]) -> Decode:
    import torch

    scales = _rows_of_tiles(sides[".weight_scale"].view(torch.float8_e4m3fn).view(torch.uint8))
    whole = sides[".weight_scale_2"].float().reshape(())
    values = torch.tensor([0.0, 0.5, 1, 1.5, 2, 3, 4, 6])
    values = torch.cat((values, -values))

    def decode(rows: torch.Tensor, first: int) -> torch.Tensor:
        count = len(rows)
        raw = rows.view(torch.uint8)
        pairs = torch.stack((raw >> 4, raw & 15), dim=2).long()  # the first weight is in the high half
        weights = values[pairs].reshape(count, -1, 16)
        part = scales[first : first + count, : weights.shape[1]].contiguous().view(torch.float8_e4m3fn)
        return (weights * (part.float() * whole).unsqueeze(2)).reshape(count, -1)

    return decode


def _rows_of_tiles(scales: torch.Tensor) -> torch.Tensor:
    """Put block scales that lie in tiles of 128 rows by 4 columns, as cuBLAS reads them, in rows."""
    rows, columns = scales.shape
    tiles = scales.reshape(rows // 128, columns // 4, 32, 4, 4)
    return tiles.permute(0, 3, 2, 1, 4).reshape(rows, columns)


_DECODERS: dict[str, Callable[[StoredLayer, Mapping[str, torch.Tensor]], Decode]] = {
    PLAIN: _plain,
    "float8_e4m3fn": _scaled,
    "float8_e5m2": _scaled,
    "int8_tensorwise": _int8,
    "mxfp8": _mxfp8,
    "nvfp4": _nvfp4,
}
