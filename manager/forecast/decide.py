"""What a run will take on a machine, phase by phase. Pure: the same facts give the same forecast."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from ..units import GB
from .facts import Confidence, Footprint, VaeFootprint

# What ComfyUI keeps free for computing at least (``minimum_inference_memory``).
LEAST_WORKING_BYTES = int(0.8 * GB)
# With guidance the prompt and its negative are computed in one batch; ComfyUI asks for that much.
_GUIDANCE = 2
TEXT, SAMPLING, DECODE = "text_encode", "sampling", "vae_decode"


class Placement(str, Enum):
    """Where a phase will find its weights. Ordered from best to worst; UNKNOWN where facts are missing."""

    FITS = "fits"
    TILED = "fits_in_tiles"
    STREAMS = "streams_from_ram"
    DISK = "needs_disk"
    NOT = "will_not_run"
    UNKNOWN = "unknown"


class Figure(NamedTuple):
    """Bytes, and how far to trust them."""

    bytes: int
    confidence: Confidence

    def to_dict(self) -> dict[str, Any]:
        return {"bytes": self.bytes, "confidence": self.confidence.value}


@dataclass(frozen=True)
class Machine:
    """The memory that ComfyUI can use. Bytes.

    Attributes:
        device: cuda, rocm, xpu, mps or cpu.
        vram: of the largest card, 0 without one; ``vram_free`` is what is free now, None if unknown.
        vram_reserve: what the host leaves to other programs.
        ram_headroom: below which the host begins to let go of things.
        swap: disk that serves as RAM; None if unknown, or if it grows by itself.
    """

    device: str
    ram: int
    ram_free: int
    vram: int = 0
    vram_free: int | None = None
    vram_reserve: int = 0
    ram_headroom: int = 0
    swap: int | None = None

    @property
    def shared(self) -> bool:
        """Whether the GPU's memory is the machine's RAM."""
        return self.device == "mps"

    @property
    def has_vram(self) -> bool:
        return self.vram > 0 and not self.shared

    @property
    def vram_room(self) -> int:
        return max(0, self.vram - self.vram_reserve)

    @property
    def ram_room(self) -> int:
        return max(0, self.ram - self.ram_headroom)


class Measured(NamedTuple):
    """The most that earlier runs took at this shape on this device; None where it was not told."""

    vram_bytes: int | None
    ram_bytes: int | None
    runs: int


@dataclass(frozen=True)
class Phase:
    """One phase of a run.

    Attributes:
        weights, working: the model itself, and what it computes with; None if unknown.
        vram, ram: what the phase needs of each; None where it needs none of its own, or nobody knows.
        streamed_bytes: weights that travel from RAM to the card at every step.
        disk_bytes: what RAM has no room for: it comes from the disk, at every step.
        certain: whether nothing but exact figures led to the placement.
        tiled_bytes: working memory in tiles, of a decode.
    """

    name: str
    placement: Placement
    weights: Figure | None = None
    working: Figure | None = None
    vram: Figure | None = None
    ram: Figure | None = None
    streamed_bytes: int = 0
    disk_bytes: int = 0
    certain: bool = False
    tiled_bytes: int | None = None
    measured_runs: int = 0

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "placement": self.placement.value,
            "weights": _as_dict(self.weights),
            "working": _as_dict(self.working),
            "vram_needed": _as_dict(self.vram),
            "ram_needed": _as_dict(self.ram),
            "streamed_bytes_per_step": self.streamed_bytes,
            "disk_bytes": self.disk_bytes,
            "certain": self.certain,
            "tiled_bytes": self.tiled_bytes,
            "measured_runs": self.measured_runs,
        }


def _as_dict(figure: Figure | None) -> dict[str, Any] | None:
    return None if figure is None else figure.to_dict()


class Timeline(NamedTuple):
    """Two models that take turns: the RAM for both at once, and for the larger alone."""

    both_bytes: int
    one_bytes: int
    release_first: bool
    confidence: Confidence

    def to_dict(self) -> dict[str, Any]:
        return self._asdict() | {"confidence": self.confidence.value}


@dataclass(frozen=True)
class Question:
    """What is to be run, and where; None for what is not known or was not named."""

    machine: Machine
    model: Footprint | None
    shape: tuple[int, ...] | None
    encoder_bytes: int | None = None
    vae: VaeFootprint | None = None
    second: Footprint | None = None
    measured: Measured | None = None


@dataclass(frozen=True)
class Forecast:
    """The phases in the order in which they run, and the pair's timeline."""

    phases: tuple[Phase, ...]
    timeline: Timeline | None = None

    def phase(self, name: str) -> Phase:
        return next(phase for phase in self.phases if phase.name == name)


def forecast(question: Question) -> Forecast:
    """Decide where each phase finds its memory. Must not look at the machine."""
    return Forecast(
        (_encode(question), _sample(question), _decode(question)),
        _timeline(question),
    )


def weight_room(machine: Machine, working: int | None) -> int | None:
    """Return the bytes of weights that the card holds beside what sampling computes with.

    Args:
        working: of one pass, without guidance; None if unknown.

    Returns:
        None without video memory of its own. It may be 0.
    """
    if not machine.has_vram:
        return None
    return max(0, machine.vram_room - max(working or 0, LEAST_WORKING_BYTES))


def _encode(question: Question) -> Phase:
    if question.encoder_bytes is None:
        return Phase(TEXT, Placement.UNKNOWN)
    weights = Figure(question.encoder_bytes, Confidence.MODELLED)
    mapped = question.model.mapped if question.model else None
    return _place(TEXT, weights, Figure(0, Confidence.MODELLED), question.machine, mapped)


def _sample(question: Question) -> Phase:
    model, machine, shape = question.model, question.machine, question.shape
    if model is None:
        return Phase(SAMPLING, Placement.UNKNOWN)
    weights = Figure(model.weight_bytes, model.confidence)
    least = model.inference_bytes(shape) if shape else None
    working = None if least is None else Figure(least * _GUIDANCE, Confidence.MODELLED)
    phase = _place(SAMPLING, weights, working, machine, model.mapped, least)
    return _with_measured(phase, question.measured, machine)


def _decode(question: Question) -> Phase:
    vae, machine = question.vae, question.machine
    if vae is None:
        return Phase(DECODE, Placement.UNKNOWN)
    weights = Figure(vae.weight_bytes, vae.confidence)
    if vae.decode_bytes is None:
        return Phase(DECODE, Placement.UNKNOWN, weights)
    mapped = question.model.mapped if question.model else None
    room = machine.vram_room if machine.has_vram else machine.ram_room
    phase = _place(DECODE, weights, Figure(vae.decode_bytes, Confidence.MODELLED), machine, mapped)
    phase = dataclasses.replace(phase, tiled_bytes=vae.tiled_bytes)
    if phase.certain or (machine.has_vram and phase.disk_bytes):
        return phase  # tiles save nothing of the weights
    tiles = vae.weight_bytes + (vae.tiled_bytes or 0)
    whole = vae.weight_bytes + vae.decode_bytes
    if vae.tiled_bytes is not None and whole > room >= tiles:
        return dataclasses.replace(
            phase, placement=Placement.TILED, streamed_bytes=0, disk_bytes=0, certain=False
        )
    return phase


def _place(
    name: str,
    weights: Figure,
    working: Figure | None,
    machine: Machine,
    mapped: bool | None,
    least_working: int | None = None,
) -> Phase:
    """Place one phase.

    Args:
        mapped: weights come from the mapped file, and need no RAM of their own; None if unknown.
        least_working: without guidance; as ``working`` when None.
    """
    if not machine.has_vram:
        return _place_in_ram(name, weights, working, machine, mapped)
    least_bytes = LEAST_WORKING_BYTES if name == SAMPLING else 0
    asked = max(working.bytes if working else 0, least_bytes)
    least = asked if least_working is None else max(least_working, least_bytes)
    if weights.bytes + asked > machine.vram_room and least < asked:
        # ComfyUI then computes the prompt and its negative one after the other, to keep more weights.
        asked, working = least, Figure(least, Confidence.MODELLED)
    needed = Figure(weights.bytes + asked, Confidence.MODELLED)
    streamed = max(0, weights.bytes - max(0, machine.vram_room - asked))
    in_ram = streamed if mapped else weights.bytes
    overflow = max(0, in_ram - machine.ram_room)
    phase = Phase(
        name,
        Placement.FITS,
        weights,
        working,
        vram=needed,
        ram=Figure(in_ram, weights.confidence if mapped is False else Confidence.MODELLED),
        streamed_bytes=streamed,
        disk_bytes=overflow,
    )
    if mapped is False and _is_beyond(weights, machine, also=machine.vram):
        return dataclasses.replace(phase, placement=Placement.NOT, certain=True)
    if least > machine.vram_room:
        return dataclasses.replace(phase, placement=Placement.NOT)
    if overflow:
        return dataclasses.replace(phase, placement=Placement.DISK)
    return dataclasses.replace(phase, placement=Placement.STREAMS) if streamed else phase


def _place_in_ram(
    name: str, weights: Figure, working: Figure | None, machine: Machine, mapped: bool | None
) -> Phase:
    needed = Figure(weights.bytes + (working.bytes if working else 0), Confidence.MODELLED)
    overflow = max(0, needed.bytes - machine.ram_room)
    phase = Phase(name, Placement.FITS, weights, working, ram=needed, disk_bytes=overflow)
    if mapped is False and _is_beyond(weights, machine):
        return dataclasses.replace(phase, placement=Placement.NOT, certain=True)
    return dataclasses.replace(phase, placement=Placement.DISK) if overflow else phase


def _is_beyond(weights: Figure, machine: Machine, also: int = 0) -> bool:
    """Tell whether weights certainly exceed all that the system can hand out, its disk included.

    Args:
        also: memory of a card, into which they might be loaded without passing through RAM.
    """
    if weights.confidence is not Confidence.EXACT or machine.swap is None:
        return False
    return weights.bytes > max(machine.ram + machine.swap, also)


def _with_measured(phase: Phase, measured: Measured | None, machine: Machine) -> Phase:
    """Let what earlier runs took win over the model."""
    if measured is None or phase.weights is None:
        return phase
    phase = dataclasses.replace(phase, measured_runs=measured.runs)
    if measured.ram_bytes is not None:
        phase = dataclasses.replace(phase, ram=Figure(measured.ram_bytes, Confidence.MEASURED))
    if not machine.has_vram or measured.vram_bytes is None:
        if machine.has_vram or measured.ram_bytes is None:
            return phase
        return _measured_in_ram(phase, measured.ram_bytes, machine)
    phase = dataclasses.replace(phase, vram=Figure(measured.vram_bytes, Confidence.MEASURED))
    # A run that took less than the weights had them travel; one that took more had them all.
    weights = phase.weights.bytes if phase.weights else 0
    if weights <= measured.vram_bytes <= machine.vram_room:
        return dataclasses.replace(phase, placement=Placement.FITS, streamed_bytes=0, disk_bytes=0)
    if phase.placement in (Placement.NOT, Placement.FITS) and not phase.certain:
        over = max(weights - measured.vram_bytes, measured.vram_bytes - machine.vram_room)
        placement = Placement.DISK if phase.disk_bytes else Placement.STREAMS
        streamed = min(weights, max(phase.streamed_bytes, over))
        return dataclasses.replace(phase, placement=placement, streamed_bytes=streamed)
    return phase


def _measured_in_ram(phase: Phase, ram_bytes: int, machine: Machine) -> Phase:
    overflow = max(0, ram_bytes - machine.ram_room)
    placement = Placement.DISK if overflow else Placement.FITS
    return dataclasses.replace(phase, placement=placement, disk_bytes=overflow, certain=False)


def _timeline(question: Question) -> Timeline | None:
    first, second, machine = question.model, question.second, question.machine
    if first is None or second is None:
        return None
    both = first.weight_bytes + second.weight_bytes
    exact = first.confidence is second.confidence is Confidence.EXACT
    return Timeline(
        both_bytes=both,
        one_bytes=max(first.weight_bytes, second.weight_bytes),
        release_first=both > machine.ram_room,
        confidence=Confidence.EXACT if exact else Confidence.MODELLED,
    )
