"""What is known without ComfyUI: the usual sizes and latents of architectures, and weights by our table."""

from __future__ import annotations

from typing import NamedTuple

from ..identify import ModelIdentity
from ..placement import weight_sizes
from .facts import Confidence, Footprint, Latent


class Usual(NamedTuple):
    """The size that an architecture is made for, in pixels and frames, and its latent."""

    width: int
    height: int
    length: int
    latent: Latent


_SD = Latent(4, 2, 8)
_16 = Latent(16, 2, 8)
_WAN = Latent(16, 3, 8, 4)
_PIXEL = Latent(3, 2, 1)


def _picture(side: int, latent: Latent) -> Usual:
    return Usual(side, side, 1, latent)


_WAN_480 = Usual(832, 480, 81, _WAN)

# Sizes: the model cards and the templates that come with ComfyUI. Latents: ComfyUI 0.33,
# ``latent_formats`` of each class in ``supported_models``.
USUAL: dict[str, Usual] = {
    "sd1.5": _picture(512, _SD),
    "sd1.5-instruct-pix2pix": _picture(512, _SD),
    "sd2": _picture(768, _SD),
    "sdxl": _picture(1024, _SD),
    "sdxl-refiner": _picture(1024, _SD),
    "auraflow": _picture(1024, _SD),
    "sd3": _picture(1024, _16),
    "sd3.5-medium": _picture(1024, _16),
    "sd3.5-large": _picture(1024, _16),
    "flux-dev": _picture(1024, _16),
    "flux-schnell": _picture(1024, _16),
    "flux-fill": _picture(1024, _16),
    "longcat-image": _picture(1024, _16),
    "chroma": _picture(1024, _16),
    "chroma-radiance": _picture(1024, _PIXEL),
    "flux2": _picture(1024, Latent(128, 2, 16)),
    "lumina2": _picture(1024, _16),
    "z-image": _picture(1024, _16),
    "z-image-pixel": _picture(1024, _PIXEL),
    "hidream": _picture(1024, _16),
    "qwen-image": _picture(1328, _WAN),
    "anima": _picture(1024, _WAN),
    "cosmos-predict2-t2i": Usual(1024, 1024, 1, _WAN),
    "hunyuan-image-2.1": _picture(2048, Latent(64, 2, 32)),
    "hunyuan-video": Usual(848, 480, 73, _WAN),
    "hunyuan-video-i2v": Usual(848, 480, 73, _WAN),
    "skyreels-i2v": Usual(848, 480, 73, _WAN),
    "hunyuan-video-1.5": Usual(1280, 720, 121, Latent(32, 3, 16, 4)),
    "mochi": Usual(848, 480, 25, Latent(12, 3, 8, 6)),
    "hunyuan-video-1.5-sr": Usual(1920, 1080, 121, Latent(32, 3, 16, 4)),
    "ltx-2": Usual(768, 512, 97, Latent(128, 3, 32, 8)),
    "ltx-video": Usual(768, 512, 97, Latent(128, 3, 32, 8)),
    "wan-t2v": _WAN_480,
    "wan2.1-i2v": _WAN_480,
    "wan2.1-vace": _WAN_480,
    "wan2.1-camera": _WAN_480,
    "wan2.1-humo": _WAN_480,
    "wan2.1-fun-control": _WAN_480,
    "wan2.2-camera": _WAN_480,
    "wan2.2-i2v-14b": _WAN_480,
    "wan2.2-animate": _WAN_480,
    "wan2.2-s2v": _WAN_480,
    "wan2.2-5b": Usual(1280, 704, 121, Latent(48, 3, 16, 4)),
}


def usual_size(architecture: str | None) -> Usual | None:
    """Return the size that an architecture is made for; None for one that is not in the table."""
    return USUAL.get(architecture or "")


def footprint_of(identity: ModelIdentity, weight_dtype: str, on_cpu: bool) -> Footprint | None:
    """Return what the weights take as ComfyUI usually casts them; working memory stays unknown."""
    if not identity.is_diffusion:
        return None
    sizes = weight_sizes(identity, identity.weight_bytes, weight_dtype)
    usual = usual_size(identity.architecture)
    return Footprint(
        weight_bytes=sizes.on_cpu if on_cpu else sizes.on_gpu,
        confidence=Confidence.MODELLED,
        latent=usual.latent if usual else None,
        source="our table",
    )
