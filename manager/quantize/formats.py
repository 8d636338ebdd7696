"""The formats that can be written, and how ComfyUI reads them: element types, side tensors, markers.

The layouts are those of ComfyUI 0.33 and comfy-kitchen 0.2; ``tests/comfyui`` loads each in a real one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..errors import BadInput
from ..formats.writer import TensorSpec
from .choices import COMFY_QUANT, LAYOUTS, SCALED_FP8

Shape = tuple[int, ...]

# Matrix units take dimensions in blocks of 16; a tiny layer saves nothing.
_BLOCK = 16
_SMALLEST = 32
# Scales of blocks lie in tiles of 128 rows by 4 blocks, as cuBLAS reads them.
SCALE_ROWS, SCALE_COLUMNS = 128, 4
MXFP8_BLOCK, NVFP4_BLOCK, W4A8_BLOCK = 32, 16, 16
# Weights that are turned by a Hadamard matrix: the size for which comfy-kitchen has fused kernels.
ROTATION = 256
CODEBOOK = 16


# Of a layer with so many weights or more, one chunk of rows of every four is measured where measuring
# takes as long as rounding.
SAMPLED_FROM = 4 << 20
_QUICK_KINDS = ("tensor", "row")


def measured_one_of(kind: str, elements: int) -> int:
    """Return of how many chunks of a layer's rows the error of one is measured, and taken up to all."""
    return 4 if kind in _QUICK_KINDS and elements >= SAMPLED_FROM else 1


@dataclass(frozen=True)
class TargetFormat:
    """One format.

    Attributes:
        name: in nodes and on the command line.
        words: for reports.
        dtype: safetensors element type of the stored weights.
        kind: which encoder makes it: ``tensor`` one scale per layer, ``row`` one per output row, ``cast``
            none, and those named after their blocks and rotations.
        largest: the largest finite value of the element type; of a cast, beyond it a tensor is kept.
        comfy_format: ComfyUI's name of a layer's format; empty for a plain cast.
        suffix: of a derived output name.
        layout: ``comfy_quant`` marks each layer; ``scaled_fp8`` marks the file, for older versions.
        row_multiple: an encoder's blocks of rows start at multiples of it.
        column_multiple: what the number of columns has to divide by.
        packed: weights per stored element.
        options: further entries of a layer's marker.
    """

    name: str
    words: str
    dtype: str
    kind: str
    largest: float
    comfy_format: str
    suffix: str
    layout: str = COMFY_QUANT
    row_multiple: int = 1
    column_multiple: int = _BLOCK
    packed: int = 1
    options: tuple[tuple[str, int | bool], ...] = ()

    @property
    def marker(self) -> bytes:
        """The content of a layer's ``comfy_quant`` tensor; empty where layers carry none."""
        if self.kind == "cast" or self.layout == SCALED_FP8:
            return b""
        return json.dumps({"format": self.comfy_format, **dict(self.options)}).encode()

    @property
    def requires(self) -> str:
        """The layer format that a host has to know; empty when every version loads the file."""
        return "" if self.layout == SCALED_FP8 else self.comfy_format

    def fits(self, shape: Shape) -> str:
        """Return why a weight of this shape stays in high precision; empty when it can be converted."""
        if self.kind == "cast":
            return ""
        if len(shape) != 2:
            return "it is not the weight of a linear layer"
        if min(shape) < _SMALLEST:
            return f"it is smaller than {_SMALLEST} in one direction"
        if shape[0] % _BLOCK:
            return f"its shape does not divide into blocks of {_BLOCK}"
        if shape[1] % self.column_multiple:
            return f"its shape does not divide into blocks of {self.column_multiple}"
        if self.kind == "mxfp8" and shape[0] % MXFP8_BLOCK:
            return f"its shape does not divide into blocks of {MXFP8_BLOCK}"
        return ""

    def outputs(self, layer: str, shape: Shape) -> list[TensorSpec]:
        """Return the tensors that a weight becomes, in file order: itself, its scales, its marker."""
        stored = (*shape[:-1], shape[-1] // self.packed) if self.packed > 1 else shape
        sides: _Sides = ()
        if self.kind == "tensor":
            sides = ((self.scale_suffix, "F32", ()),)
        elif self.kind != "cast":
            sides = _SIDES[self.kind](*shape)
        specs = [TensorSpec(f"{layer}.weight", self.dtype, stored)]
        specs += [TensorSpec(layer + suffix, dtype, size) for suffix, dtype, size in sides]
        if self.marker:
            specs.append(TensorSpec(f"{layer}.comfy_quant", "U8", (len(self.marker),)))
        return specs

    def file_tensors(self, prefix: str) -> list[tuple[TensorSpec, bytes]]:
        """Return what the whole file needs beside its layers, with the content.

        Args:
            prefix: of the diffusion model's names, in a checkpoint.
        """
        if self.layout != SCALED_FP8:
            return []
        # Two elements ask for multiplication in full precision: fp8 arithmetic in these versions
        # takes input scales, which nothing in a model's weights tells.
        spec = TensorSpec(f"{prefix}{SCALED_FP8}", self.dtype, (2,))
        return [(spec, bytes(spec.nbytes))]

    @property
    def scale_suffix(self) -> str:
        """What the name of a layer's one scale ends with."""
        return ".scale_weight" if self.layout == SCALED_FP8 else ".weight_scale"


def with_layout(target: TargetFormat, layout: str) -> TargetFormat:
    """Return the format as ``layout`` stores it.

    Raises:
        BadInput: an unknown layout, or one that this format does not have.
    """
    if layout not in LAYOUTS:
        raise BadInput(f"layout is {layout!r}, which does not exist.", f"Use one of {', '.join(LAYOUTS)}.")
    if layout == COMFY_QUANT:
        return target
    if target.kind != "tensor":
        raise BadInput(
            f"layout {SCALED_FP8} is ComfyUI's older form of fp8, and {target.name} has no such form.",
            "Use it with fp8_e4m3fn_scaled or fp8_e5m2_scaled, or leave layout at comfy_quant.",
        )
    # Newer versions read every layer of this layout as fp8_e4m3fn, which ends at 448: within that,
    # the values of the other type survive.
    return replace(target, layout=SCALED_FP8, largest=min(target.largest, _FP8_LARGEST))


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


_Sides = tuple[tuple[str, str, Shape], ...]


def _block_scales(rows: int, columns: int, block: int) -> Shape:
    return (_up(rows, SCALE_ROWS), _up(columns // block, SCALE_COLUMNS))


def _row_sides(rows: int, columns: int) -> _Sides:
    return ((".weight_scale", "F32", (rows, 1)),)


def _mxfp8_sides(rows: int, columns: int) -> _Sides:
    return ((".weight_scale", "U8", _block_scales(rows, columns, MXFP8_BLOCK)),)


def _nvfp4_sides(rows: int, columns: int) -> _Sides:
    return (
        (".weight_scale", "F8_E4M3", _block_scales(rows, columns, NVFP4_BLOCK)),
        (".weight_scale_2", "F32", ()),
    )


def _w4a8_sides(rows: int, columns: int) -> _Sides:
    return (
        (".weight_s_rel", "F8_E4M3", (rows, columns // W4A8_BLOCK)),
        (".weight_s_channel", "F32", (rows,)),
        (".weight_codebook", "F32", (CODEBOOK,)),
    )


# Kind -> (suffix, element type, shape) of what a weight needs beside it.
_SIDES: dict[str, Callable[[int, int], _Sides]] = {
    "row": _row_sides,
    "rotated_row": _row_sides,
    "mxfp8": _mxfp8_sides,
    "nvfp4": _nvfp4_sides,
    "rotated_int4": lambda rows, columns: ((".weight_scale", "F32", (rows,)),),
    "codebook": _w4a8_sides,
}

# float8_e4m3fn ends at 448, float8_e5m2 at 57344; int8 rows are symmetric.
_FP8_LARGEST, _E5M2_LARGEST = 448.0, 57344.0
_ROTATED = (("convrot_groupsize", ROTATION),)
_ALL = (
    TargetFormat(
        "fp8_e4m3fn_scaled",
        "fp8_e4m3fn, scaled",
        "F8_E4M3",
        "tensor",
        _FP8_LARGEST,
        "float8_e4m3fn",
        "fp8_e4m3fn_scaled",
    ),
    TargetFormat(
        "fp8_e5m2_scaled",
        "fp8_e5m2, scaled",
        "F8_E5M2",
        "tensor",
        _E5M2_LARGEST,
        "float8_e5m2",
        "fp8_e5m2_scaled",
    ),
    TargetFormat("int8", "int8", "I8", "row", 127.0, "int8_tensorwise", "int8"),
    TargetFormat(
        "int8_convrot",
        "int8, rotated",
        "I8",
        "rotated_row",
        127.0,
        "int8_tensorwise",
        "int8_convrot",
        column_multiple=ROTATION,
        options=(("convrot", True), *_ROTATED),
    ),
    TargetFormat(
        "mxfp8",
        "mxfp8",
        "F8_E4M3",
        "mxfp8",
        _FP8_LARGEST,
        "mxfp8",
        "mxfp8",
        row_multiple=SCALE_ROWS,
        column_multiple=MXFP8_BLOCK,
    ),
    TargetFormat(
        "nvfp4",
        "nvfp4",
        "U8",
        "nvfp4",
        6.0,
        "nvfp4",
        "nvfp4",
        row_multiple=SCALE_ROWS,
        column_multiple=NVFP4_BLOCK,
        packed=2,
    ),
    TargetFormat(
        "w4a8",
        "w4a8",
        "I8",
        "codebook",
        1.0,
        "asym_w4a8_int8",
        "w4a8",
        column_multiple=ROTATION,
        packed=2,
        options=(("group_size", W4A8_BLOCK), *_ROTATED),
    ),
    TargetFormat(
        "w4a4",
        "w4a4",
        "I8",
        "rotated_int4",
        7.0,
        "convrot_w4a4",
        "w4a4",
        column_multiple=ROTATION,
        packed=2,
        options=_ROTATED,
    ),
    TargetFormat("bf16", "bf16", "BF16", "cast", 3.3895313892515355e38, "", "bf16"),
    TargetFormat("fp16", "fp16", "F16", "cast", 65504.0, "", "fp16"),
)
FORMATS: dict[str, TargetFormat] = {f.name: f for f in _ALL}
