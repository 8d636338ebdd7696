"""Loading through ComfyUI's own functions, as its stock loaders do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.sd
import comfy.utils
import torch

import nodes

from ..errors import LoadFailed
from ..host import AS_STORED, DEFAULT, LoadedParts, LoadRequest
from ..model import ModelType
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
    """Load a diffusion model, a checkpoint with all its parts, a text encoder or a VAE.

    Raises:
        LoadFailed: ComfyUI does not know the model, or the file is no good.
    """
    try:
        model, clip, vae = _LOADERS[request.kind](request)
    except (torch.OutOfMemoryError, comfy.model_management.InterruptProcessingException):
        raise  # ComfyUI has its own answers to these
    except Exception as error:  # a model's code may raise anything over a file that it does not expect
        if is_out_of_memory(error):
            raise
        raise LoadFailed(
            f"ComfyUI could not load {request.name or request.path.name}: {error}",
            "Run CheckCompatibility on it; a newer ComfyUI may know this model.",
        ) from error
    return describe(model, clip, vae)


def describe(model: Any = None, clip: Any = None, vae: Any = None) -> LoadedParts:
    """Return what was loaded, with the facts about its first part."""
    first = model if model is not None else (clip if clip is not None else vae).patcher
    return LoadedParts(
        model=model,
        clip=clip,
        vae=vae,
        dtype=_dtype(first),
        device=str(first.load_device),
        size_bytes=int(first.model_size()),
    )


def obeys_device(kind: ModelType) -> bool:
    """Tell whether ComfyUI loads this kind where it is told to: diffusion models since 0.33."""
    diffusion = kind in (ModelType.DIFFUSION, ModelType.CHECKPOINT)
    return not diffusion or hasattr(comfy.model_management, "get_all_torch_devices")


def _dtype(patcher: Any) -> str:
    """Return what most weights are in; only diffusion models say so themselves."""
    said = patcher.model_dtype()
    if said is None:
        count: Counter[torch.dtype] = Counter()
        for weight in patcher.model.parameters():
            count[weight.dtype] += weight.numel()
        said = max(count, key=lambda dtype: count[dtype], default="")
    return dtype_name(said)


def dtype_name(dtype: Any) -> str:
    """Return the name that people know for one of torch's types; empty for none."""
    name = str(dtype).removeprefix("torch.")
    return _NAMES.get(name, name)


def torch_dtype(name: str) -> torch.dtype | None:
    """Return torch's type for one of ``WEIGHT_DTYPES``, None for one that is no type."""
    return getattr(torch, _DTYPES[name]) if name in _DTYPES else None


def model_options(request: LoadRequest) -> dict[str, Any]:
    """Return ComfyUI's ``model_options``; empty means as the stock loader does."""
    options: dict[str, Any] = {}
    if request.device != DEFAULT:
        device = torch.device(request.device)
        options["load_device"] = device
        options["offload_device"] = torch.device("cpu")
    name = request.stored_dtype if request.weight_dtype == AS_STORED else request.weight_dtype
    dtype = torch_dtype(name)
    if dtype is None:
        return options
    options["dtype"] = dtype
    if name == "fp8_e4m3fn_fast":
        options["fp8_optimizations"] = True
    return options


def _diffusion(request: LoadRequest) -> tuple[Any, Any, Any]:
    return comfy.sd.load_diffusion_model(str(request.path), model_options=model_options(request)), None, None


def _checkpoint(request: LoadRequest) -> tuple[Any, Any, Any]:
    model, clip, vae = comfy.sd.load_checkpoint_guess_config(
        str(request.path),
        output_vae=True,
        output_clip=True,
        embedding_directory=folders.embeddings(),
        model_options=model_options(request),
    )[:3]
    if model is None:
        raise LoadFailed(
            f"{request.path.name} holds no diffusion model that ComfyUI knows.", "Check the file."
        )
    return model, clip, vae if _has_weights(vae) else None


def _text_encoder(request: LoadRequest) -> tuple[Any, Any, Any]:
    kinds = comfy.sd.CLIPType
    clip = comfy.sd.load_clip(
        ckpt_paths=[str(path) for path in request.paths],
        embedding_directory=folders.embeddings(),
        clip_type=getattr(kinds, request.encoder_type.upper(), kinds.STABLE_DIFFUSION),
        model_options=model_options(request),
    )
    return None, clip, None


def _vae(request: LoadRequest) -> tuple[Any, Any, Any]:
    """Load a VAE as the stock loader does, which composes what is no single file."""
    if request.more_paths or not request.path.is_file():
        return None, None, nodes.VAELoader().load_vae(request.name)[0]
    path = str(request.path)
    tensors, metadata = comfy.utils.load_torch_file(path, return_metadata=True)
    device = None if request.device == DEFAULT else torch.device(request.device)
    vae = comfy.sd.VAE(sd=tensors, device=device, metadata=metadata)
    vae.throw_exception_if_invalid()
    if hasattr(comfy.sd, "load_vae_patcher"):  # since 0.33: how to load it again, for another device
        vae.patcher.cached_patcher_init = (comfy.sd.load_vae_patcher, (path, metadata, device))
    return None, None, vae


_LOADERS: dict[ModelType, Callable[[LoadRequest], tuple[Any, Any, Any]]] = {
    ModelType.DIFFUSION: _diffusion,
    ModelType.CHECKPOINT: _checkpoint,
    ModelType.TEXT_ENCODER: _text_encoder,
    ModelType.VAE: _vae,
}


def _has_weights(vae: Any) -> bool:
    """Tell whether a checkpoint's VAE is real: ComfyUI gives an empty one where there is none."""
    return vae is not None and getattr(vae, "first_stage_model", None) is not None


def is_out_of_memory(error: BaseException) -> bool:
    is_oom = getattr(comfy.model_management, "is_oom", None)
    return bool(is_oom and is_oom(error))
