"""ComfyUI's own loaders: what they offer, and which load one of their calls is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import comfy.sd

import nodes

from ..host import DEFAULT, LoadedParts, LoadRequest
from ..load_options import text_encoder_request
from ..model import ModelType
from ..placement import CPU, canonical_device
from . import folders, system

PIXEL_SPACE = "pixel_space"  # a VAE without weights
_CLIP_INPUTS = {
    "CLIPLoader": ("clip_name",),
    "DualCLIPLoader": ("clip_name1", "clip_name2"),
    "TripleCLIPLoader": ("clip_name1", "clip_name2", "clip_name3"),
    "QuadrupleCLIPLoader": ("clip_name1", "clip_name2", "clip_name3", "clip_name4"),
}
_TYPED = ("CLIPLoader", "DualCLIPLoader")
STOCK_LOADERS = frozenset({"UNETLoader", "CheckpointLoaderSimple", "VAELoader", *_CLIP_INPUTS})
_WEIGHT_DTYPES = (DEFAULT, "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2")
_Inputs = Mapping[str, Any]


# What they offer


def encoder_types() -> list[str]:
    """Return what a text encoder may be for, in the words of the stock loaders, single ones first."""
    lists = (nodes.NODE_CLASS_MAPPINGS[name].INPUT_TYPES()["required"]["type"][0] for name in _TYPED)
    return list(dict.fromkeys(word for words in lists for word in words))


def vae_names() -> list[str]:
    """Return what the stock loader offers: files, pairs such as ``taesd``, and ``pixel_space``."""
    return list(nodes.NODE_CLASS_MAPPINGS["VAELoader"].INPUT_TYPES()["required"]["vae_name"][0])


def vae_paths(name: str) -> tuple[Path, ...] | None:
    """Return the files that the stock loader reads for ``name``: none for ``pixel_space``, two for a
    pair of encoder and decoder; None for a name that it does not know."""
    if name == PIXEL_SPACE:
        return ()
    stem, dot, _ = name.rpartition(".")
    if not dot:
        halves = [_first_named(f"{name}_{half}.") for half in ("encoder", "decoder")]
        return tuple(half for half in halves if half) if all(halves) else None
    approximate = stem in getattr(nodes.VAELoader, "video_taes", ())
    path = folders.locate("vae_approx" if approximate else "vae", name)
    return (path,) if path else None


def _first_named(start: str) -> Path | None:
    name = next((name for name in folders.names("vae_approx") if name.startswith(start)), None)
    return folders.locate("vae_approx", name) if name else None


# What a call loads


def stock_request(class_type: str, inputs: _Inputs) -> LoadRequest | None:
    """Return the load that a stock loader with these inputs does.

    None when nobody can tell: an input comes over a link, a file is not there, a value is unknown,
    or there is no file (``pixel_space``).
    """
    read = _READERS.get(class_type)
    return read(class_type, inputs) if read else None


def request_of_output(class_type: str, inputs: _Inputs, parts: LoadedParts) -> LoadRequest | None:
    """Return the load that gave ``parts``, where a name came over a link.

    ComfyUI notes with a model how to load it again (since 0.33); None where it does not.
    """
    try:
        return _OUTPUT_READERS[class_type](class_type, inputs, *_arguments(parts))
    except (LookupError, TypeError, AttributeError, StopIteration):  # noted in another shape
        return None


def _diffusion(_: str, inputs: _Inputs) -> LoadRequest | None:
    path = _located("diffusion_models", inputs.get("unet_name"))
    weight_dtype = inputs.get("weight_dtype", DEFAULT)
    if path is None or weight_dtype not in _WEIGHT_DTYPES:
        return None
    return LoadRequest(path, ModelType.DIFFUSION, weight_dtype)


def _checkpoint(_: str, inputs: _Inputs) -> LoadRequest | None:
    path = _located("checkpoints", inputs.get("ckpt_name"))
    return LoadRequest(path, ModelType.CHECKPOINT) if path else None


def _text_encoder(class_type: str, inputs: _Inputs) -> LoadRequest | None:
    found = [_located("text_encoders", inputs.get(name)) for name in _CLIP_INPUTS[class_type]]
    paths = [path for path in found if path]
    words = inputs.get("type") if class_type in _TYPED else ""
    device = inputs.get("device", DEFAULT)
    if len(paths) != len(found) or not isinstance(words, str) or device not in (DEFAULT, CPU):
        return None
    return text_encoder_request(paths, words, _as_chosen(device))


def _vae(_: str, inputs: _Inputs) -> LoadRequest | None:
    name = inputs.get("vae_name")
    paths = vae_paths(name) if isinstance(name, str) else None
    if not paths:
        return None
    return LoadRequest(paths[0], ModelType.VAE, more_paths=paths[1:], name=str(name))


_READERS: dict[str, Callable[[str, _Inputs], LoadRequest | None]] = {
    "UNETLoader": _diffusion,
    "CheckpointLoaderSimple": _checkpoint,
    "VAELoader": _vae,
    **dict.fromkeys(_CLIP_INPUTS, _text_encoder),
}


def _as_chosen(device: str) -> str:
    return canonical_device(device, ModelType.TEXT_ENCODER, system.devices())


def _located(folder: str, name: Any) -> Path | None:
    return folders.locate(folder, name) if isinstance(name, str) else None


def _arguments(parts: LoadedParts) -> tuple[Any, ...]:
    """Return the arguments with which ComfyUI would load the model again."""
    holder = parts.clip if parts.model is None and parts.clip is not None else parts.vae
    patcher = holder.patcher if parts.model is None else parts.model
    return tuple(patcher.cached_patcher_init[1])


def _output_of_diffusion(_: str, inputs: _Inputs, path: str, *rest: Any) -> LoadRequest | None:
    weight_dtype = inputs["weight_dtype"]
    return (
        LoadRequest(Path(path), ModelType.DIFFUSION, weight_dtype) if weight_dtype in _WEIGHT_DTYPES else None
    )


def _output_of_checkpoint(_: str, inputs: _Inputs, path: str, *rest: Any) -> LoadRequest | None:
    return LoadRequest(Path(path), ModelType.CHECKPOINT)


def _output_of_vae(_: str, inputs: _Inputs, path: str, *rest: Any) -> LoadRequest | None:
    return LoadRequest(Path(path), ModelType.VAE, name=Path(path).name)


def _output_of_encoder(
    class_type: str, _: _Inputs, paths: Sequence[str], embeddings: Any, kind: Any, options: _Inputs
) -> LoadRequest | None:
    device = CPU if "load_device" in options else DEFAULT
    words = _encoder_words(class_type, kind) if class_type in _TYPED else ""
    return text_encoder_request([Path(path) for path in paths], words, _as_chosen(device))


def _encoder_words(class_type: str, kind: Any) -> str:
    """Return the first word of the loader's list that ComfyUI takes for this kind."""
    kinds = comfy.sd.CLIPType
    words = nodes.NODE_CLASS_MAPPINGS[class_type].INPUT_TYPES()["required"]["type"][0]
    return next(str(w) for w in words if getattr(kinds, w.upper(), kinds.STABLE_DIFFUSION) is kind)


_OUTPUT_READERS: dict[str, Callable[..., LoadRequest | None]] = {
    "UNETLoader": _output_of_diffusion,
    "CheckpointLoaderSimple": _output_of_checkpoint,
    "VAELoader": _output_of_vae,
    **dict.fromkeys(_CLIP_INPUTS, _output_of_encoder),
}
