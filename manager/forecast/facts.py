"""The frozen facts that a forecast is decided on. Bytes throughout."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class Confidence(str, Enum):
    """EXACT: counted. MODELLED: from a formula. MEASURED: an earlier run here took it."""

    EXACT = "exact"
    MODELLED = "modelled"
    MEASURED = "measured"


class Latent(NamedTuple):
    """What a model samples: channels, 2 or 3 dimensions (3 has frames), pixels and frames per position."""

    channels: int
    dimensions: int
    spatial: int
    temporal: int = 1

    def shape(self, width: int, height: int, length: int, batch_size: int = 1) -> tuple[int, ...]:
        """Return batch, channels, [frames,] height, width for a picture in pixels."""
        space = (max(1, height // self.spatial), max(1, width // self.spatial))
        if self.dimensions == 3:
            return (batch_size, self.channels, (max(1, length) - 1) // self.temporal + 1, *space)
        return (batch_size, self.channels, *space)


def latent_area(shape: tuple[int, ...]) -> int:
    """Return the positions of a latent: everything but its channels multiplied out."""
    return shape[0] * math.prod(shape[2:])


@dataclass(frozen=True)
class Footprint:
    """What a diffusion model takes once the host has loaded it.

    Attributes:
        weight_bytes: after the host's casts.
        confidence: of ``weight_bytes``.
        weight_dtype, compute_dtype: what the weights are kept in and widened to; ``unknown`` if so.
        bytes_per_position: working memory per position of the latent (:func:`latent_area`); None if unknown.
        latent: what it samples; None if unknown.
        mapped: the host reads weights from the mapped file as they are used, so that they need no RAM
            of their own; None if unknown.
        source: who says so.
    """

    weight_bytes: int
    confidence: Confidence
    weight_dtype: str = "unknown"
    compute_dtype: str = "unknown"
    bytes_per_position: float | None = None
    latent: Latent | None = None
    mapped: bool | None = None
    source: str = ""

    def inference_bytes(self, shape: tuple[int, ...]) -> int | None:
        """Return the working memory for one pass over a latent of this shape; None if unknown."""
        if self.bytes_per_position is None:
            return None
        return int(self.bytes_per_position * latent_area(shape))


@dataclass(frozen=True)
class VaeFootprint:
    """What a VAE takes: its weights, and working memory to decode one latent, whole and in tiles.

    ``decode_bytes`` and ``tiled_bytes`` (tiles of 256 pixels) are None where nobody can tell.
    """

    weight_bytes: int
    confidence: Confidence
    decode_bytes: int | None = None
    tiled_bytes: int | None = None
    dtype: str = "unknown"


class KernelStatus(str, Enum):
    """NATIVE: computed in its own format. EMULATED: widened first. UNSUPPORTED: not loaded at all."""

    NATIVE = "native"
    EMULATED = "emulated"
    UNSUPPORTED = "unsupported"


class Kernel(NamedTuple):
    """How a layer format is computed on this machine, and why."""

    format: str
    status: KernelStatus
    reason: str
