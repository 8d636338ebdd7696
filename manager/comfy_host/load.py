"""Loading through ComfyUI's own functions, as its stock loaders do."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.sd
import torch

from ..errors import LoadFailed
from ..host import AS_STORED, DEFAULT, LoadedParts, LoadRequest
from . import folders

_DTYPES = {
    "fp8_e4m3fn": "float8_e4m3fn",
    "fp8_e4m3fn_fast": "float8_e4m3fn",
    "fp8_e5m2": "float8_e5m2",
    "bf16": "bfloat16",
    "fp16": "float16",
    "fp32": "float32",
}
_NAMES = {
    "float8_e4m3fn": "fp8_e4m3fn",
    "float8_e5m2": "fp8_e5m2",
    "bfloat16": "bf16",
    "float16": "fp16",
    "float32": "fp32",
}


def load(request: LoadRequest) -> LoadedParts:
    """Load a diffusion model, or a checkpoint with all its parts.

    Raises:
        LoadFailed: ComfyUI does not know the model, or the file is no good.
    """
    options = model_options(request)
    try:
        model, clip, vae = _load(request, options)
    except (torch.OutOfMemoryError, comfy.model_management.InterruptProcessingException):
        raise  # ComfyUI has its own answers to these
    except Exception as error:  # a model's code may raise anything over a file that it does not expect
        if _is_out_of_memory(error):
            raise
        raise LoadFailed(
            f"ComfyUI could not load {request.path.name}: {error}",
            "Run CheckCompatibility on it; a newer ComfyUI may know this model.",
        ) from error
    dtype = str(model.model_dtype()).removeprefix("torch.")
    return LoadedParts(
        model=model,
        clip=clip,
        vae=vae,
        dtype=_NAMES.get(dtype, dtype),
        device=str(model.load_device),
        size_bytes=int(model.model_size()),
    )


def model_options(request: LoadRequest) -> dict[str, Any]:
    """Return ComfyUI's ``model_options`` for a weight_dtype; empty means as the stock loader does."""
    name = request.stored_dtype if request.weight_dtype == AS_STORED else request.weight_dtype
    if name == DEFAULT or name not in _DTYPES:
        return {}
    options: dict[str, Any] = {"dtype": getattr(torch, _DTYPES[name])}
    if name == "fp8_e4m3fn_fast":
        options["fp8_optimizations"] = True
    return options


def _load(request: LoadRequest, options: dict[str, Any]) -> tuple[Any, Any, Any]:
    path = str(request.path)
    if not request.checkpoint:
        return comfy.sd.load_diffusion_model(path, model_options=options), None, None
    model, clip, vae = comfy.sd.load_checkpoint_guess_config(
        path,
        output_vae=True,
        output_clip=True,
        embedding_directory=folders.embeddings(),
        model_options=options,
    )[:3]
    if model is None:
        raise LoadFailed(
            f"{request.path.name} holds no diffusion model that ComfyUI knows.", "Check the file."
        )
    return model, clip, vae if _has_weights(vae) else None


def _has_weights(vae: Any) -> bool:
    """Tell whether a checkpoint's VAE is real: ComfyUI gives an empty one where there is none."""
    return vae is not None and getattr(vae, "first_stage_model", None) is not None


def _is_out_of_memory(error: BaseException) -> bool:
    is_oom = getattr(comfy.model_management, "is_oom", None)
    return bool(is_oom and is_oom(error))
