"""The quantization of a file: the layer markers that ComfyUI reads, and the precision in words."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..errors import InvalidHeader
from ..formats.dtypes import DTYPE_BITS, dtype_name
from ..formats.safetensors import Header, TensorInfo
from ..model import QuantizationType

LAYER_MARKER = ".comfy_quant"
FILE_MARKER = "_quantization_metadata"
OLD_MARKER = "scaled_fp8"
COMFY_QUANT = "comfy_quant"
SCALED_FP8 = "scaled_fp8"
OLD_SCALE = ".scale_weight"
# Tensors that describe quantized weights and are no weights themselves.
SIDE_SUFFIXES = (
    LAYER_MARKER,
    ".weight_scale",
    ".weight_scale_2",
    ".input_scale",
    OLD_SCALE,
    ".scale_input",
    ".weight_s_rel",
    ".weight_s_channel",
    ".weight_codebook",
    ".pre_quant_scale",
)
MAX_MARKER_BYTES = 64 * 1024

# ComfyUI's name of a layer's format -> ours.
COMFY_FORMATS: dict[str, QuantizationType] = {
    "float8_e4m3fn": QuantizationType.FP8_E4M3,
    "float8_e5m2": QuantizationType.FP8_E5M2,
    "int8_tensorwise": QuantizationType.INT8,
    "mxfp8": QuantizationType.MXFP8,
    "nvfp4": QuantizationType.NVFP4,
    "convrot_w4a4": QuantizationType.W4A4,
    "asym_w4a8_int8": QuantizationType.W4A8,
}
_DTYPE_QUANTIZATION: dict[str, QuantizationType] = {
    "F16": QuantizationType.FP16,
    "BF16": QuantizationType.BF16,
    "F8_E4M3": QuantizationType.FP8_E4M3,
    "F8_E5M2": QuantizationType.FP8_E5M2,
    "I8": QuantizationType.INT8,
}
_WORDS: dict[QuantizationType, str] = {
    QuantizationType.FP8_E4M3: "fp8_e4m3fn, scaled",
    QuantizationType.FP8_E5M2: "fp8_e5m2, scaled",
}


@dataclass(frozen=True)
class Quantization:
    """How the weights are stored: our type, words for people, how many layers carry a marker, and whose.

    ``layout`` is ``comfy_quant``, ``scaled_fp8`` (the older marker), or empty.
    """

    type: QuantizationType
    precision: str
    layers: int
    layout: str = ""


def is_side_tensor(name: str) -> bool:
    """Tell whether a tensor only describes another one's quantization."""
    return name.endswith(SIDE_SUFFIXES) or is_old_marker(name)


def read_layer_formats(header: Header) -> dict[str, QuantizationType]:
    """Return each marked layer and its format, reading only the few marker bytes.

    Raises:
        InvalidHeader: a marker cannot be read.
    """
    return {layer: _format_of(entry) for layer, entry in read_layer_markers(header).items()}


def read_layer_markers(header: Header) -> dict[str, Mapping[str, object]]:
    """Return each marked layer and its marker, whichever way the file marks it: in ComfyUI's words.

    Raises:
        InvalidHeader: a marker cannot be read.
    """
    # ComfyUI lets the file's own list win over the layers' markers.
    found = {**_layer_markers(header), **(_file_marker(header) or {})}
    if any(is_old_marker(name) for name in header.tensors):
        for name in header.tensors:
            if name.endswith(OLD_SCALE):
                layer = name[: -len(OLD_SCALE)]
                found.setdefault(layer, {"format": _stored_format(header, layer) or "float8_e4m3fn"})
    return found


def find_quantization(
    header: Header, weights: Mapping[str, TensorInfo], formats: Mapping[str, QuantizationType]
) -> Quantization:
    """Return the quantization of ``weights``, a part of the file, given its marked layers."""
    marked = Counter(formats.values())
    if marked:
        kind = marked.most_common(1)[0][0]
        words = _WORDS.get(kind, kind.value)
        if kind is QuantizationType.NONE and not header.in_file:
            words = "quantized; in which format shows only after the download"
        if len(marked) > 1:
            words = "mixed: " + ", ".join(_WORDS.get(k, k.value) for k, _ in marked.most_common())
        layout = SCALED_FP8 if any(is_old_marker(name) for name in header.tensors) else COMFY_QUANT
        return Quantization(kind, words, sum(marked.values()), layout)
    stored: dict[str, int] = {}
    for info in weights.values():
        stored[info.dtype] = stored.get(info.dtype, 0) + info.end - info.start
    elements = Counter({dtype: size * 8 // DTYPE_BITS[dtype] for dtype, size in stored.items()})
    if not elements:
        return Quantization(QuantizationType.NONE, "no weights", 0)
    dtype = elements.most_common(1)[0][0]
    return Quantization(_DTYPE_QUANTIZATION.get(dtype, QuantizationType.NONE), dtype_name(dtype), 0)


def is_old_marker(name: str) -> bool:
    """Tell whether a tensor marks the whole file as scaled fp8, the older way."""
    return name.endswith(OLD_MARKER) and name[: -len(OLD_MARKER)][-1:] in ("", ".")


def _format_of(entry: Mapping[str, object]) -> QuantizationType:
    name = str(entry.get("format", ""))
    kind = COMFY_FORMATS.get(name, QuantizationType.NONE)
    params = entry.get("params")
    rotated = entry.get("convrot") or (isinstance(params, dict) and params.get("convrot"))
    return QuantizationType.INT8_CONVROT if kind is QuantizationType.INT8 and rotated else kind


def _file_marker(header: Header) -> dict[str, Mapping[str, object]] | None:
    text = header.metadata.get(FILE_MARKER)
    if text is None:
        return None
    try:
        layers = json.loads(text)["layers"]
        return {str(layer): dict(entry) for layer, entry in layers.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _broken(header, FILE_MARKER) from error


def _layer_markers(header: Header) -> dict[str, Mapping[str, object]]:
    names = [name for name in header.tensors if name.endswith(LAYER_MARKER)]
    if not names:
        return {}
    if not header.in_file:
        return {layer: {"format": _stored_format(header, layer)} for layer in _layers(names)}
    conf: dict[str, Mapping[str, object]] = {}
    with open(header.path, "rb") as file:
        for name in names:
            info = header.tensors[name]
            file.seek(header.data_start + info.start)
            text = file.read(min(info.nbytes, MAX_MARKER_BYTES + 1))
            conf[name[: -len(LAYER_MARKER)]] = parse_marker(header, name, text)
    return conf


def parse_marker(header: Header, name: str, text: bytes) -> dict[str, object]:
    """Return what a layer's marker says.

    Args:
        name: of the tensor.
        text: its content.

    Raises:
        InvalidHeader: it cannot be read.
    """
    if len(text) > MAX_MARKER_BYTES:
        raise _broken(header, name)
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise _broken(header, name) from error


def _layers(markers: Iterable[str]) -> list[str]:
    return [name[: -len(LAYER_MARKER)] for name in markers]


def _stored_format(header: Header, layer: str) -> str:
    """Return the format that a layer's tensors show without its marker; empty where several are alike."""
    weight, scale = (header.tensors.get(f"{layer}.{part}") for part in ("weight", "weight_scale"))
    if weight is None:
        return ""
    if f"{layer}.weight_scale_2" in header.tensors:
        return "nvfp4"
    if f"{layer}.weight_s_rel" in header.tensors or f"{layer}.weight_codebook" in header.tensors:
        return "asym_w4a8_int8"
    if scale is not None and scale.dtype == "U8":
        return "mxfp8"
    return {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}.get(weight.dtype, "")


def _broken(header: Header, name: str) -> InvalidHeader:
    return InvalidHeader(
        f"{header.path.name} has a quantization marker that cannot be read: {name!r}.",
        "Get the file again, or quantize the original once more.",
        problem="quantization_marker",
        tensor=name,
    )
