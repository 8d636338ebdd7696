"""The formats that can be written today, and how ComfyUI marks them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from ..formats.writer import TensorSpec


@dataclass(frozen=True)
class TargetFormat:
    """One format.

    Attributes:
        name: in nodes and on the command line.
        words: for reports.
        dtype: safetensors element type of the converted weights.
        kind: ``tensor`` one scale per layer, ``row`` one per output row, ``cast`` none.
        largest: the largest finite value of the element type.
        comfy_format: ComfyUI's name of a layer's format; empty for a plain cast.
        suffix: of a derived output name.
    """

    name: str
    words: str
    dtype: str
    kind: Literal["tensor", "row", "cast"]
    largest: float
    comfy_format: str
    suffix: str

    @property
    def marker(self) -> bytes:
        """The content of a layer's ``comfy_quant`` tensor."""
        return json.dumps({"format": self.comfy_format}).encode()

    def side_tensors(self, layer: str, rows: int) -> list[TensorSpec]:
        """Return the tensors that a quantized layer needs beside its weight."""
        if self.kind == "cast":
            return []
        scale: tuple[int, ...] = () if self.kind == "tensor" else (rows, 1)
        return [
            TensorSpec(f"{layer}.weight_scale", "F32", scale),
            TensorSpec(f"{layer}.comfy_quant", "U8", (len(self.marker),)),
        ]


# float8_e4m3fn ends at 448, int8 rows are symmetric.
FORMATS: dict[str, TargetFormat] = {
    f.name: f
    for f in (
        TargetFormat(
            "fp8_e4m3fn_scaled",
            "fp8_e4m3fn, scaled",
            "F8_E4M3",
            "tensor",
            448.0,
            "float8_e4m3fn",
            "fp8_e4m3fn_scaled",
        ),
        TargetFormat("int8", "int8", "I8", "row", 127.0, "int8_tensorwise", "int8"),
        TargetFormat("bf16", "bf16", "BF16", "cast", 3.3895313892515355e38, "", "bf16"),
        TargetFormat("fp16", "fp16", "F16", "cast", 65504.0, "", "fp16"),
    )
}
# Formats, policies and so on that the contract names and that are not built yet.
LATER_FORMATS = ("fp8_e5m2_scaled", "int8_convrot", "mxfp8", "nvfp4", "w4a4", "w4a8")
