"""Compares our encoders with comfy-kitchen's eager kernels, in ComfyUI's own Python."""

from __future__ import annotations

import dataclasses
from typing import Any

import comfy_kitchen
import torch
from comfy.quant_ops import QUANT_ALGOS, get_layout_class
from managed_models.manager.quantize.formats import FORMATS
from managed_models.manager.quantize.kernels import Error
from support.encoding import Written, decode, distributions, encode, raw

# What ComfyUI has to be told for the variant that we write.
OPTIONS: dict[str, dict[str, Any]] = {
    "fp8_e4m3fn_scaled": {"scale": "recalculate"},
    "fp8_e5m2_scaled": {"scale": "recalculate"},
    "int8": {"is_weight": True, "per_channel": True},
    "int8_convrot": {"is_weight": True, "per_channel": True, "convrot": True, "convrot_groupsize": 256},
}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def main(base: str) -> dict[str, Any]:
    """Return, by format, element type and kind of weights, how ours and theirs differ."""
    comfy_kitchen.disable_backend("triton")
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    kinds = [*distributions(), *((f"{name}, wide", w) for name, w in distributions(1280))]
    for name, target in FORMATS.items():
        if target.kind == "cast":
            continue
        layout = get_layout_class(QUANT_ALGOS[target.comfy_format]["comfy_tensor_layout"])
        for dtype_name, dtype in DTYPES.items():
            for kind, weights in kinds:
                values = weights.to(dtype)
                found[f"{name} {dtype_name} {kind}"] = _compare(name, layout, values)
    return found


def _compare(name: str, layout: Any, values: torch.Tensor) -> dict[str, Any]:
    ours = encode(name, values)
    result = {"own": _difference(name, ours, _theirs(name, layout, values))}
    if values.dtype != torch.float32:
        result["as float32"] = _difference(name, ours, _theirs(name, layout, values.float()))
    else:
        result["as float32"] = result["own"]
    result["their decoding"] = _decoding(name, layout, values, ours)
    errors = []
    for written in (ours, _theirs(name, layout, values)):
        change = decode(name, written) - values.double()
        errors.append(float(change.norm() / values.double().norm()))
    result["errors"] = errors
    return result


def _theirs(name: str, layout: Any, values: torch.Tensor) -> Written:
    codes, params = layout.quantize(values, **OPTIONS.get(name, {}))
    sides = {}
    for suffix, tensor in layout.state_dict_tensors(codes, params).items():
        plain = tensor.view(torch.uint8) if tensor.dtype == torch.float8_e8m0fnu else tensor
        sides[f".weight{suffix}"] = plain
    return Written(sides.pop(".weight"), sides, Error(0.0, 0.0))


def _difference(name: str, ours: Written, theirs: Written) -> dict[str, Any]:
    """Compare codes in steps, and scales relative to themselves."""
    a, b = _steps(name, ours.weight), _steps(name, theirs.weight)
    apart = (a - b).abs()
    scales = 0.0
    same = torch.equal(raw(ours.weight), raw(theirs.weight))
    for suffix, mine in ours.sides.items():
        if suffix == ".comfy_quant":
            continue
        other = theirs.sides[suffix]
        same = same and torch.equal(raw(mine), raw(other))
        x, y = mine.double().reshape(-1), other.double().reshape(-1)
        used = y.abs() > 1e-29  # theirs of a row of zeros, for which any scale will do
        scales = max(scales, float(((x - y).abs()[used] / y.abs()[used]).max()))
    return {
        "same": same,
        "steps": int(apart.max()),
        "share": float((apart > 0).double().mean()),
        "scales": scales,
    }


def _steps(name: str, codes: torch.Tensor) -> torch.Tensor:
    bits = codes.view(torch.uint8).int()
    if name.startswith("int8"):
        return codes.int()
    if name in ("w4a4", "w4a8", "nvfp4"):
        halves = torch.stack([bits & 15, bits >> 4])
        if name == "w4a8":
            return halves
        return (halves + 8) % 16 if name == "w4a4" else torch.where(halves > 7, 8 - halves, halves)
    return torch.where(bits > 127, 128 - bits, bits)


def _decoding(name: str, layout: Any, values: torch.Tensor, ours: Written) -> float:
    """Return how far comfy-kitchen's reading of our tensors is from the format's definition."""
    _, params = layout.quantize(values.float(), **OPTIONS.get(name, {}))
    names = {".weight_scale": "scale"}
    if name == "nvfp4":
        names = {".weight_scale": "block_scale", ".weight_scale_2": "scale"}
    if name == "w4a8":
        names = {".weight_s_rel": "scale", ".weight_s_channel": "s_channel", ".weight_codebook": "codebook"}
    sides = {field: ours.sides[suffix] for suffix, field in names.items()}
    if name == "mxfp8":
        sides["scale"] = sides["scale"].view(torch.float8_e8m0fnu)
    params = dataclasses.replace(params, orig_dtype=torch.float32, **sides)
    theirs = layout.dequantize(ours.weight, params).double()
    expected = decode(name, ours)
    return float((theirs - expected).norm() / expected.norm())
