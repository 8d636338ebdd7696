"""Which variant to take: pure, over frozen facts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..compatibility import FORMAT_UNSUPPORTED
from ..model import QuantizationType
from ..room import Room
from .kinship import Link

# Findings that another variant of the model may be free of.
MEMORY_CODES = frozenset({"vram", "ram"})
HELPED_CODES = MEMORY_CODES | {FORMAT_UNSUPPORTED}

# (format, with a scale) -> relative L2 error of the weights against the original. Measured here on random
# weights, the worse of a Gaussian and a heavy-tailed spread: fp8 e4m3 with a scale per layer 0.0265 and
# with none 0.0331, int8 with a scale per row 0.0236 and rotated 0.0089, mxfp8 0.0316; of our own kernels,
# fp8 e5m2 with a scale 0.0527, w4a8 0.073, nvfp4 0.0951, w4a4 0.16, which rounds its inputs to 4 bits, too.
_MEASURED = {
    (QuantizationType.INT8_CONVROT, True): 0.0089,
    (QuantizationType.INT8, True): 0.0236,
    (QuantizationType.FP8_E4M3, True): 0.0265,
    (QuantizationType.MXFP8, True): 0.0316,
    (QuantizationType.FP8_E4M3, False): 0.0331,
    (QuantizationType.FP8_E5M2, True): 0.0527,
    (QuantizationType.W4A8, True): 0.073,
    (QuantizationType.NVFP4, True): 0.0951,
    (QuantizationType.W4A4, True): 0.16,
}
# Worked out, not measured: rounding to the 8 bits of bf16 (fp16 counts as the same, for models are
# trained in either); e5m2 has one bit less than e4m3, which doubles the error.
_WORKED_OUT = {
    (QuantizationType.NONE, False): 0.0,
    (QuantizationType.FP16, False): 0.0017,
    (QuantizationType.BF16, False): 0.0017,
    (QuantizationType.FP8_E5M2, False): 0.0662,
}
_WORST = 1.0
_WORTH = 0.98


def expected_error(kind: QuantizationType, scaled: bool) -> float:
    """Return the error of the weights to expect of a format: the order of quality, best first."""
    return {**_WORKED_OUT, **_MEASURED}.get((kind, scaled), _WORST)


@dataclass(frozen=True)
class Variant:
    """One file, or one that could be made.

    Attributes:
        name: relative to its folder, as stock loaders write it; the source's, of one to be made.
        option: how our nodes list it.
        weight_bytes: of the model's part, in the file.
        room: its weights as ComfyUI casts them, and the memory that is there.
        error: relative L2 error of its weights; ``measured`` when it was, for this very file.
        blockers: codes of what keeps this machine from using it, ``reason`` the first in words.
        format: of Quantize Model, of one to be made; else empty.
    """

    name: str
    option: str
    folder: str
    precision: str
    size_bytes: int
    weight_bytes: int
    room: Room
    link: Link
    error: float
    measured: bool = False
    blockers: tuple[str, ...] = ()
    reason: str = ""
    format: str = ""

    @property
    def fits(self) -> bool:
        return not self.blockers and self.room.enough

    @property
    def lacks_memory(self) -> bool:
        return not self.room.enough or not MEMORY_CODES.isdisjoint(self.blockers)

    def to_dict(self) -> dict[str, Any]:
        facts = dataclasses.asdict(self)
        facts["room"] = self.room.to_dict()
        facts["link"] = self.link.value
        facts["blockers"] = list(self.blockers)
        facts["fits"] = self.fits
        return facts


@dataclass(frozen=True)
class WayOut:
    """What to do about a model that does not fit.

    Attributes:
        best: the installed variant to take; None when there is none, or nothing has to be done.
        make: the one that Quantize Model can make, where none is installed.
        maybe: an installed one that fits and may be another fine-tune, where none is sure.
        helps: another variant may be free of what is in the way.
    """

    best: Variant | None = None
    make: Variant | None = None
    maybe: Variant | None = None
    helps: bool = False


def rank(variants: Iterable[Variant]) -> tuple[Variant, ...]:
    """Return the variants, the best quality that fits first; what fits and is sure is before the rest."""
    return tuple(sorted(variants, key=_order))


def way_out(subject: Variant, installed: Sequence[Variant], could_make: Sequence[Variant] = ()) -> WayOut:
    """Decide what to take instead of ``subject``.

    Nothing when it fits, or when what is in its way would be in the way of every variant. Where memory
    is short, nothing that needs as much as the subject does.
    """
    if subject.fits or not HELPED_CODES.issuperset(subject.blockers):
        return WayOut()
    fitting = [variant for variant in rank(installed) if variant.fits and _helps(subject, variant)]
    best = next((variant for variant in fitting if variant.link.sure), None)
    if best is not None:
        return WayOut(best, helps=True)
    makeable = (variant for variant in rank(could_make) if variant.fits and _helps(subject, variant))
    return WayOut(None, next(makeable, None), next(iter(fitting), None), helps=True)


def _helps(subject: Variant, variant: Variant) -> bool:
    """Tell whether it is smaller where that is what counts; a figure of one to be made may be 1 % off."""
    return not subject.lacks_memory or variant.room.needed_bytes < _WORTH * subject.room.needed_bytes


def _order(variant: Variant) -> tuple[Any, ...]:
    return (
        not variant.fits,
        not variant.link.sure,
        variant.error,
        variant.room.needed_bytes,
        variant.size_bytes,
        variant.folder,
        variant.name,
        variant.format,
    )
