"""What ComfyUI takes for a model, from its header: its own detection and casts on tensors without data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.model_detection as detection
import comfy.model_management as mm
import comfy.model_patcher
import comfy.sd
import comfy.utils
import torch

from ..forecast.facts import Confidence, Footprint, Latent, VaeFootprint
from ..forecast.table import footprint_of, usual_size
from ..formats.safetensors import Header
from ..host import AS_STORED
from ..identify import identify
from ..identify.quantization import is_side_tensor
from .detect import detect, meta_tensors, quiet
from .load import dtype_name, torch_dtype

_META = torch.device("meta")
# Detection and construction trust that a layout which they recognised is complete.
_INCOMPLETE = (
    KeyError,
    IndexError,
    AttributeError,
    ValueError,
    TypeError,
    RuntimeError,
    ZeroDivisionError,
    AssertionError,
    NotImplementedError,
)
_TILE_PIXELS = 256


def footprint(header: Header, weight_dtype: str, source: str) -> Footprint | None:
    """Return what the file's diffusion model takes once loaded; None where ComfyUI cannot tell.

    Args:
        weight_dtype: one of ``WEIGHT_DTYPES``.
        source: how to name ComfyUI in the result.
    """
    if not header.in_file and any(map(is_side_tensor, header.tensors)):
        # What tells ComfyUI the layers' formats is in tensors that are not here.
        identity = identify(header, lambda header: detect(header, source))
        return footprint_of(identity, weight_dtype, mm.is_device_cpu(mm.get_torch_device()))
    with quiet():
        try:
            return _footprint(header, weight_dtype, source)
        except _INCOMPLETE:
            return None


def _footprint(header: Header, weight_dtype: str, source: str) -> Footprint | None:
    tensors, metadata = meta_tensors(header), dict(header.metadata)
    prefix = detection.unet_prefix_from_state_dict(tensors)
    if not any(name.startswith(prefix) for name in tensors):
        prefix = ""
    found = _configured(tensors, prefix, metadata)
    if found is None and prefix == "model.":
        prefix = ""
        found = _configured(tensors, prefix, metadata)
    if found is None:
        return None
    config, tensors = found
    device = mm.get_torch_device()
    dtype = _choose_dtypes(config, tensors, prefix, weight_dtype, device)
    dynamic = _is_dynamic(device)
    model = config.get_model(tensors, prefix, device=_META)
    quantized = getattr(config, "quant_config", None) is not None
    if dynamic or quantized:  # else the weights are copied into what is there, which stays as it is
        options = {"assign": True} if dynamic else {}  # which 0.8 does not know
        model.load_model_weights(dict(tensors), prefix, **options)
    return Footprint(
        weight_bytes=int(mm.module_size(model)),
        confidence=Confidence.EXACT,
        weight_dtype=dtype_name(dtype),
        compute_dtype=dtype_name(compute_dtype(model)),
        bytes_per_position=bytes_per_position(model, config.latent_format, mm.is_device_cpu(device)),
        latent=_latent(config.latent_format, header, source),
        mapped=dynamic or quantized,
        source=source,
    )


def compute_dtype(model: Any) -> torch.dtype:
    """Return what a model computes in, which it says itself but for older ComfyUIs (0.8)."""
    ask = getattr(model, "get_dtype_inference", None)
    return ask() if ask else model.manual_cast_dtype or model.get_dtype()  # type: ignore[no-any-return]


def bytes_per_position(model: Any, latent: Any, on_cpu: bool) -> float:
    """Return the working memory per position of a latent, as ComfyUI estimates it.

    Args:
        latent: ComfyUI's format of it.

    On a CPU ComfyUI makes no use of its estimate, which is the one for slow attention there, although
    PyTorch's fused attention runs: the estimate for that is returned.
    """
    if on_cpu:
        width = mm.dtype_size(compute_dtype(model))
        return float(width * 0.01 * model.memory_usage_factor * 1024 * 1024)
    return float(model.memory_required([1, latent.latent_channels] + [1] * latent.latent_dimensions))


def _configured(
    tensors: dict[str, torch.Tensor], prefix: str, metadata: dict[str, str]
) -> tuple[Any, dict[str, torch.Tensor]] | None:
    convert = getattr(comfy.utils, "convert_old_quants", None)
    tensors = dict(tensors)
    if convert is not None:
        tensors, metadata = convert(tensors, prefix, metadata=metadata)
    config = detection.model_config_from_unet(tensors, prefix, metadata=metadata)
    return None if config is None else (config, tensors)


def _choose_dtypes(
    config: Any, tensors: dict[str, torch.Tensor], prefix: str, weight_dtype: str, device: torch.device
) -> torch.dtype:
    """Set the types as ComfyUI's loaders do, and return that of the weights."""
    quantized = getattr(config, "quant_config", None) is not None
    supported = list(config.supported_inference_dtypes)
    stored = None if quantized else comfy.utils.weight_dtype(tensors, prefix)
    dtype = stored if weight_dtype == AS_STORED else torch_dtype(weight_dtype)
    if dtype is None:
        parameters = comfy.utils.calculate_parameters(tensors, prefix)
        dtype = mm.unet_dtype(model_params=parameters, supported_dtypes=supported, weight_dtype=stored)
    cast = mm.unet_manual_cast(None if quantized else dtype, device, supported)
    try:
        config.set_inference_dtype(dtype, cast, device=device)
    except TypeError:  # before 0.33 it took no device
        config.set_inference_dtype(dtype, cast)
    return dtype


def _is_dynamic(device: torch.device) -> bool:
    """Tell whether ComfyUI maps weights from their file and moves them as they are used."""
    dynamic = getattr(comfy.model_patcher, "ModelPatcherDynamic", None)
    core = getattr(comfy.model_patcher, "CoreModelPatcher", None)
    return dynamic is not None and core is dynamic and not mm.is_device_cpu(device)


def _latent(kind: Any, header: Header, source: str) -> Latent | None:
    if not hasattr(kind, "spacial_downscale_ratio"):  # 0.8 does not say; our table has the usual ones
        usual = usual_size(identify(header, lambda header: detect(header, source)).architecture)
        return usual.latent if usual else None
    return Latent(
        channels=int(kind.latent_channels),
        dimensions=int(kind.latent_dimensions),
        spatial=int(kind.spacial_downscale_ratio),
        temporal=int(getattr(kind, "temporal_downscale_ratio", 1)),
    )


def vae_footprint(header: Header, shape: tuple[int, ...] | None, prefix: str = "") -> VaeFootprint | None:
    """Return what a VAE takes to decode a latent of this shape; None where ComfyUI cannot tell.

    Args:
        prefix: what the names of its tensors start with, in a checkpoint.
    """
    with quiet():
        try:
            return _vae_footprint(meta_tensors(header), dict(header.metadata), shape, prefix)
        except _INCOMPLETE:
            return None


def _vae_footprint(
    tensors: Mapping[str, torch.Tensor],
    metadata: dict[str, str],
    shape: tuple[int, ...] | None,
    prefix: str,
) -> VaeFootprint | None:
    own = {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
    with _META:  # the CPU as its device gives a plain patcher, which registers nothing
        vae = comfy.sd.VAE(sd=own, device=torch.device("cpu"), metadata=metadata or None)
    if getattr(vae, "first_stage_model", None) is None:
        return None
    dtype = mm.vae_dtype(mm.vae_device(), vae.working_dtypes)
    weights = int(mm.module_size(vae.first_stage_model.to(dtype)))
    if shape is None or len(shape) - 2 != vae.latent_dim or shape[1] != vae.latent_channels:
        return VaeFootprint(weights, Confidence.EXACT, dtype=dtype_name(dtype))
    side = max(1, _TILE_PIXELS // int(vae.spacial_compression_decode()))
    frames = tuple(min(4, size) for size in shape[2:-2])
    tile = (1, shape[1], *frames, *(min(side, size) for size in shape[-2:]))
    return VaeFootprint(
        weight_bytes=weights,
        confidence=Confidence.EXACT,
        decode_bytes=int(vae.memory_used_decode(shape, dtype)),
        tiled_bytes=int(vae.memory_used_decode(tile, dtype)),
        dtype=dtype_name(dtype),
    )
