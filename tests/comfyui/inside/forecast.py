"""Predicts what models take from their headers, loads them, and compares, in ComfyUI's own Python."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import comfy.model_management as mm
import comfy.sd
import comfy.supported_models
import comfy.utils
from managed_models.manager.comfy_host import ComfyHost
from managed_models.manager.comfy_host.forecast import bytes_per_position
from managed_models.manager.demo import layouts
from managed_models.manager.demo.tiny import write_random_model
from managed_models.manager.forecast.facts import Footprint
from managed_models.manager.forecast.table import USUAL
from managed_models.manager.formats.safetensors import read_header
from managed_models.manager.host import LoadRequest
from managed_models.manager.identify import identify
from managed_models.manager.identify.architectures import ARCHITECTURES
from managed_models.manager.model import ModelType
from managed_models.manager.quantize.choices import COMFY_QUANT, SCALED_FP8
from managed_models.manager.quantize.formats import FORMATS as TARGETS
from managed_models.manager.quantize.request import QuantizeRequest
from managed_models.manager.quantize.service import Quantizer
from support.files import shapes_file

DTYPES = ("default", "as_stored", "fp8_e4m3fn", "bf16", "fp16", "fp32")
FORMATS = [(name, COMFY_QUANT) for name, target in TARGETS.items() if target.kind != "cast"]
FORMATS += [("fp8_e4m3fn_scaled", SCALED_FP8), ("fp8_e5m2_scaled", SCALED_FP8)]


def main(base: str) -> dict[str, Any]:
    """Return predictions beside what was loaded; the test says how near they have to be."""
    models, host = Path(base) / "models", ComfyHost()
    found: dict[str, Any] = {"models": {}, "latents": _latents(), "unknown": _unknown(host, models)}
    for path in [
        *sorted((models / "diffusion_models").iterdir()),
        *sorted((models / "checkpoints").iterdir()),
    ]:
        for dtype in DTYPES:
            found["models"][f"{path.stem} {dtype}"] = _compare(host, path, dtype)
    for path in _stored_otherwise(models):
        for dtype in DTYPES:
            found["models"][f"{path.stem} {dtype}"] = _compare(host, path, dtype)
    for path in [*_quantized(host, models), _old_scaled_fp8(models)]:
        found["models"][f"{path.stem} default"] = _compare(host, path, "default")
    found["vaes"] = {path.stem: _compare_vae(host, path) for path in sorted((models / "vae").iterdir())}
    found["kernels"] = {name: kernel.status.value for name, kernel in (host.kernels() or {}).items()}
    found["system"] = [kernel.format for kernel in host.system().kernels or ()]
    return found


def _stored_otherwise(models: Path) -> list[Path]:
    """Write layouts in other element types: what ComfyUI does to them differs."""
    made = {
        "flux_f8": (layouts.flux(), "F8_E4M3"),
        "flux_f16": (layouts.flux(), "F16"),
        "wan_f8": (layouts.wan21_t2v(layers=3), "F8_E5M2"),
        "sd15_f32": (layouts.sd15_unet(), "F32"),
        "sd15_f16": (layouts.sd15_unet(), "F16"),
    }
    return [shapes_file(models / f"{name}.safetensors", *how) for name, how in made.items()]


def _old_scaled_fp8(models: Path) -> Path:
    """Write the older marker: one ``scaled_fp8`` for the file, a scale beside each quantized weight."""
    layout = dict(layouts.wan21_t2v(layers=3))
    layers = [n for n, shape in layout.items() if n.startswith("blocks.") and len(shape) == 2]
    scales = {f"{name.removesuffix('.weight')}.scale_weight": (1,) for name in layers}
    dtypes = dict.fromkeys([*layers, "scaled_fp8"], "F8_E4M3") | dict.fromkeys(scales, "F32")
    path = models / "wan_old_scaled.safetensors"
    return shapes_file(path, {**layout, **scales, "scaled_fp8": (2,)}, dtypes)


def _compare(host: ComfyHost, path: Path, dtype: str) -> dict[str, Any]:
    header = read_header(path)
    identity = identify(header, host.detect)
    started = time.perf_counter()
    predicted = host.footprint(header, dtype)
    seconds = time.perf_counter() - started
    stored = next(iter(identity.dtypes), "")
    kind = ModelType.CHECKPOINT if identity.parts else ModelType.DIFFUSION
    parts = host.load(LoadRequest(path, kind, dtype, stored))
    if predicted is None:
        return {"predicted": None}
    return {
        "predicted": predicted.weight_bytes,
        "real": int(parts.model.model_size()),
        "seconds": seconds,
        "compute": predicted.compute_dtype,
        **_inference(predicted, parts.model),
    }


def _inference(predicted: Footprint, patcher: Any) -> dict[str, Any]:
    latent = predicted.latent
    assert latent is not None
    shape = latent.shape(832, 480, 81, 2)
    per_position = bytes_per_position(patcher.model, patcher.model.latent_format, False)
    modelled = int(per_position * shape[0] * _product(shape[2:]))
    return {
        "channels": [latent.channels, int(patcher.model.latent_format.latent_channels)],
        "inference": [modelled, int(patcher.model.memory_required(list(shape)))],
    }


def _product(sizes: tuple[int, ...]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result


def _quantized(host: ComfyHost, models: Path) -> list[Path]:
    quantizer = Quantizer(lambda path: identify(read_header(path), host.detect), host)
    made = []
    for source in sorted((models / "diffusion_models").iterdir()):
        for format, layout in FORMATS:
            target = source.with_name(f"{source.stem}_{format}_{layout}.safetensors")
            quantizer.quantize(source, target, QuantizeRequest(format=format, layout=layout))
            made.append(target)
    return made


def _compare_vae(host: ComfyHost, path: Path) -> dict[str, Any]:
    tensors, metadata = comfy.utils.load_torch_file(str(path), return_metadata=True)
    vae = comfy.sd.VAE(sd=tensors, metadata=metadata)
    frames = () if vae.latent_dim == 2 else (21,)
    shape = (1, vae.latent_channels, *frames, 60, 104)
    predicted = host.vae_footprint(read_header(path), shape)
    if predicted is None:
        return {"predicted": None}
    alone = host.vae_footprint(read_header(path), None)
    return {
        "predicted": predicted.weight_bytes,
        "real": int(mm.module_size(vae.first_stage_model)),
        "decode": [predicted.decode_bytes, int(vae.memory_used_decode(shape, vae.vae_dtype))],
        "tiled": predicted.tiled_bytes,
        "weights alone": alone is not None and alone.decode_bytes is None,
    }


def _latents() -> dict[str, Any]:
    """Return for every row of our table what ComfyUI's class of it says."""
    found: dict[str, Any] = {}
    for row in ARCHITECTURES:
        usual = USUAL.get(row.id)
        if usual is None:
            continue
        known = getattr(comfy.supported_models, row.comfy_class, None)
        if known is None:  # an older ComfyUI
            continue
        kind = known.latent_format
        theirs = [kind.latent_channels, kind.latent_dimensions]
        if hasattr(kind, "spacial_downscale_ratio"):  # since 0.33
            theirs += [kind.spacial_downscale_ratio, kind.temporal_downscale_ratio]
        found[row.id] = [list(usual.latent)[: len(theirs)], theirs]
    return found


def _unknown(host: ComfyHost, models: Path) -> bool:
    path = models / "unknown.safetensors"
    write_random_model(path, {"a.weight": (4, 4)})
    header = read_header(path)
    return host.footprint(header, "default") is None and host.vae_footprint(header, (1, 4, 8, 8)) is None
