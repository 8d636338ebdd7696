"""Compares what a stock loader loads with what a managed one asks for, in ComfyUI's own Python."""

from __future__ import annotations

from typing import Any

import comfy.sd
from managed_models.manager.comfy_host import ComfyHost, stock
from managed_models.manager.compatibility import ModelCompatibilityChecker
from managed_models.manager.host import LoadedParts, LoadRequest
from managed_models.manager.library import Library
from managed_models.manager.loading import Loader
from managed_models.manager.pool import ModelPool, PoolKey
from managed_models.manager.registry import Registry

import nodes

WAN = "tiny_wan21_t2v_bf16.safetensors"
CHECKPOINT = "tiny_sd15_checkpoint_bf16.safetensors"
CLIP = "tiny_clip_l.safetensors"
VAE = "tiny_vae.safetensors"


class _Recorder(ComfyHost):
    """Remembers what it was asked to load."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[LoadRequest] = []

    def load(self, request: LoadRequest) -> LoadedParts:
        self.requests.append(request)
        return super().load(request)


def main(base: str) -> dict[str, Any]:
    """Return facts by name; the test says what they have to be."""
    host = _Recorder()
    library = Library(host, Registry())
    checker = ModelCompatibilityChecker(host, library.identity)
    loader = Loader(host, library, checker, ModelPool(host))

    def managed(*arguments: Any, load: Any = loader.load, **options: Any) -> LoadRequest:
        host.requests.clear()
        load(*arguments, **options)
        return host.requests[0]

    wan = library.find(WAN, ["diffusion_models"])
    checkpoint = library.find(CHECKPOINT, ["checkpoints"])
    clip = library.find(CLIP, ["text_encoders"])
    encoder = loader.load_text_encoder
    asked = {
        **{
            f"UNETLoader {dtype}": (
                ("UNETLoader", {"unet_name": WAN, "weight_dtype": dtype}),
                managed(wan.name, wan.path, dtype, folder=wan.folder),
            )
            for dtype in ("default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2")
        },
        "CheckpointLoaderSimple": (
            ("CheckpointLoaderSimple", {"ckpt_name": CHECKPOINT}),
            managed(checkpoint.name, checkpoint.path, folder=checkpoint.folder),
        ),
        "CLIPLoader": (
            ("CLIPLoader", {"clip_name": CLIP, "type": "wan", "device": "default"}),
            managed([clip], "wan", load=encoder),
        ),
        "CLIPLoader cpu": (
            ("CLIPLoader", {"clip_name": CLIP, "type": "sd3", "device": "cpu"}),
            managed([clip], "sd3", load=encoder, device="cpu"),
        ),
        "DualCLIPLoader": (
            ("DualCLIPLoader", {"clip_name1": CLIP, "clip_name2": CLIP, "type": "sdxl"}),
            managed([clip, clip], "sdxl", load=encoder),
        ),
        "VAELoader": (
            ("VAELoader", {"vae_name": VAE}),
            managed(VAE, stock.vae_paths(VAE), load=loader.load_vae),
        ),
        "VAELoader pair": (
            ("VAELoader", {"vae_name": "taesd"}),
            managed("taesd", stock.vae_paths("taesd"), load=loader.load_vae),
        ),
    }
    found: dict[str, Any] = {}
    for name, (call, request) in asked.items():
        said = stock.stock_request(*call)
        found[name] = said is not None and PoolKey.of(said) == PoolKey.of(request)
    names = {f"clip_name{i}": CLIP for i in (1, 2, 3)}
    three = stock.stock_request("TripleCLIPLoader", names)
    found["TripleCLIPLoader"] = three is not None and [path.name for path in three.paths] == [CLIP] * 3
    found |= {f"none: {name}": stock.stock_request(*call) is None for name, call in _UNKNOWN.items()}
    found |= {f"output of {name}": agrees for name, agrees in _outputs().items()}
    found["encoder types"] = stock.encoder_types()
    found["vae names"] = stock.vae_names()
    return found


_UNKNOWN: dict[str, tuple[str, dict[str, Any]]] = {
    "a link": ("UNETLoader", {"unet_name": ["1", 0], "weight_dtype": "default"}),
    "a linked type": ("CLIPLoader", {"clip_name": CLIP, "type": ["1", 0]}),
    "a linked device": ("CLIPLoader", {"clip_name": CLIP, "type": "wan", "device": ["1", 0]}),
    "a linked dtype": ("UNETLoader", {"unet_name": WAN, "weight_dtype": ["1", 0]}),
    "an unknown dtype": ("UNETLoader", {"unet_name": WAN, "weight_dtype": "fp2"}),
    "a missing file": ("UNETLoader", {"unet_name": "gone.safetensors", "weight_dtype": "default"}),
    "a missing encoder": ("DualCLIPLoader", {"clip_name1": CLIP, "clip_name2": "gone", "type": "flux"}),
    "no inputs": ("UNETLoader", {}),
    "pixel_space": ("VAELoader", {"vae_name": "pixel_space"}),
    "half a pair": ("VAELoader", {"vae_name": "taesdxl"}),
    "a linked VAE": ("VAELoader", {"vae_name": ["1", 0]}),
    "another node": ("KSampler", {"seed": 1}),
}


def _outputs() -> dict[str, bool]:
    """Say for each stock loader whether what it gave leads to the same load as its inputs."""
    calls: dict[str, tuple[str, dict[str, Any]]] = {
        "UNETLoader": ("UNETLoader", {"unet_name": WAN, "weight_dtype": "fp8_e5m2"}),
        "CheckpointLoaderSimple": ("CheckpointLoaderSimple", {"ckpt_name": CHECKPOINT}),
        "CLIPLoader": ("CLIPLoader", {"clip_name": CLIP, "type": "wan"}),
        "DualCLIPLoader": ("DualCLIPLoader", {"clip_name1": CLIP, "clip_name2": CLIP, "type": "sdxl"}),
        "VAELoader": ("VAELoader", {"vae_name": VAE}),
    }
    found: dict[str, bool] = {}
    for name, (class_type, inputs) in calls.items():
        cls = nodes.NODE_CLASS_MAPPINGS[class_type]
        given = getattr(cls(), cls.FUNCTION)(**inputs)
        linked = {key: ["1", 0] if key.endswith("name") else value for key, value in inputs.items()}
        said = stock.request_of_output(class_type, linked, _as_parts(given))
        expected = stock.stock_request(class_type, inputs)
        found[name] = None not in (said, expected) and PoolKey.of(said) == PoolKey.of(expected)
    return found


def _as_parts(given: tuple[Any, ...]) -> LoadedParts:
    clip = next((part for part in given if isinstance(part, comfy.sd.CLIP)), None)
    vae = next((part for part in given if isinstance(part, comfy.sd.VAE)), None)
    model = given[0] if given[0] is not clip and given[0] is not vae else None
    return LoadedParts(model, clip, vae)
