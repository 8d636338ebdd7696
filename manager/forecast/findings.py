"""What a person should know of a forecast, and what to do about it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..compatibility import Finding, Severity
from ..units import format_bytes
from .decide import DECODE, SAMPLING, TEXT, Forecast, Machine, Phase, Placement

# What the file alone gives rise to, and a forecast says better.
REPLACED = frozenset({"offloaded", "larger_than_memory"})
TILE_PIXELS = 256
_ANYWAY = "You can try it anyway: LoadManagedModel loads it while on_misfit is warn."
_WHAT = {TEXT: "The text encoder", SAMPLING: "This model", DECODE: "The VAE"}


@dataclass(frozen=True)
class Wanted:
    """What the words need beside the forecast.

    Attributes:
        size: what is asked for, in words; empty if unknown.
        as_stored_bytes: the weights' size with ``weight_dtype`` as_stored, if that is smaller here.
    """

    size: str = ""
    as_stored_bytes: int | None = None


def find(forecast: Forecast, machine: Machine, wanted: Wanted) -> tuple[Finding, ...]:
    """Return the findings, phase by phase; none where everything fits or nothing is known."""
    found = [finding for phase in forecast.phases for finding in _of_phase(phase, machine, wanted)]
    return (*found, *_of_timeline(forecast, machine))


def _of_phase(phase: Phase, machine: Machine, wanted: Wanted) -> Iterator[Finding]:
    if phase.placement is Placement.TILED:
        yield _tiled(phase, machine)
    elif phase.placement is Placement.NOT and phase.certain:
        yield _cannot(phase, machine, wanted)
    elif phase.placement is Placement.NOT:
        yield _will_run_out(phase, machine, wanted)
    elif phase.placement is Placement.DISK:
        yield _disk(phase, machine, wanted)
    elif phase.placement is Placement.STREAMS and phase.name == SAMPLING:
        yield _streams(phase, machine)


def _streams(phase: Phase, machine: Machine) -> Finding:
    return Finding(
        "streams_from_ram",
        Severity.SLOW,
        f"The video memory ({format_bytes(machine.vram)}) has no room for all of it: about "
        f"{format_bytes(phase.streamed_bytes)} of its weights wait in RAM and travel to the card at every "
        "step.",
        "It runs, only slower. A smaller variant of this model travels less: QuantizeModel makes one. A "
        "smaller picture or fewer frames leave it more room.",
        needed=_bytes(phase.vram),
        found=format_bytes(machine.vram_room),
    )


def _disk(phase: Phase, machine: Machine, wanted: Wanted) -> Finding:
    memory = "Video memory and RAM together have" if machine.has_vram else "RAM has"
    return Finding(
        "needs_disk",
        Severity.SLOW,
        f"{_WHAT[phase.name]} needs about {_bytes(phase.ram)} of RAM, and ComfyUI can use "
        f"{format_bytes(machine.ram_room)}. {memory} no room for {format_bytes(phase.disk_bytes)}: that "
        "comes from the disk again and again, which is very slow.",
        f"{_smaller(phase, machine, wanted)} {_ANYWAY}",
        needed=_bytes(phase.ram),
        found=format_bytes(machine.ram_room),
    )


def _cannot(phase: Phase, machine: Machine, wanted: Wanted) -> Finding:
    weights = _bytes(phase.weights)
    there = machine.ram + (machine.swap or 0)
    swap = f" with {format_bytes(machine.swap)} of swap" if machine.swap else " and no swap"
    return Finding(
        "will_not_run",
        Severity.BLOCKER,
        f"{_WHAT[phase.name]} cannot be loaded here: its weights alone take {weights}, and this machine has "
        f"{format_bytes(machine.ram)} of RAM{swap}.",
        f"{_smaller(phase, machine, wanted)} {_ANYWAY}",
        needed=weights,
        found=format_bytes(there),
    )


def _will_run_out(phase: Phase, machine: Machine, wanted: Wanted) -> Finding:
    what = "Decoding" if phase.name == DECODE else "Computing"
    size = f" {wanted.size}" if wanted.size else " this size"
    return Finding(
        "will_not_run",
        Severity.SLOW,
        f"{what}{size} takes about {_bytes(phase.working)} of video memory at once, and the card has "
        f"{format_bytes(machine.vram_room)} to use: it will probably run out of memory.",
        f"Make the picture smaller or use fewer frames. That figure is an estimate. {_ANYWAY}",
        needed=_bytes(phase.vram),
        found=format_bytes(machine.vram_room),
    )


def _tiled(phase: Phase, machine: Machine) -> Finding:
    room = machine.vram_room if machine.has_vram else machine.ram_room
    memory = "video memory" if machine.has_vram else "RAM"
    return Finding(
        "vae_decode_tiled",
        Severity.NOTE,
        f"Turning the result into pictures with this VAE takes about {_bytes(phase.working)} of {memory} at "
        f"once, and there are {format_bytes(room)}.",
        f"Use the node VAE Decode (Tiled) with tile_size {TILE_PIXELS}: it works piece by piece and needs "
        f"about {format_bytes(phase.tiled_bytes or 0)}.",
        needed=_bytes(phase.working),
        found=format_bytes(room),
    )


def _of_timeline(forecast: Forecast, machine: Machine) -> Iterator[Finding]:
    line = forecast.timeline
    if line is None or not line.release_first:
        return
    then = f"Then it takes {format_bytes(line.one_bytes)}."
    if line.one_bytes > machine.ram_room:
        then += " That is still more: use a smaller variant of both."
    yield Finding(
        "release_first_model",
        Severity.SLOW,
        f"The two models take {format_bytes(line.both_bytes)} of RAM together, and ComfyUI can use "
        f"{format_bytes(machine.ram_room)}.",
        "Let the first go before the second comes: give the first LoadManagedModel keep_alive 0, and "
        f"connect the result of the first sampler to 'after' of the second LoadManagedModel. {then}",
        needed=format_bytes(line.both_bytes),
        found=format_bytes(machine.ram_room),
    )


def _smaller(phase: Phase, machine: Machine, wanted: Wanted) -> str:
    if phase.name == DECODE:
        return f"Use the node VAE Decode (Tiled) with tile_size {TILE_PIXELS}, or a smaller picture."
    if phase.name == TEXT:
        return "Use a smaller variant of the text encoder, for example one with fp8 in its name."
    weights = phase.weights.bytes if phase.weights else 0
    if weights <= machine.ram_room and not machine.has_vram:
        size = f" than {wanted.size}" if wanted.size else ""
        return (
            f"Its weights are no problem: make the picture smaller{size}, or use fewer frames or fewer at "
            "once. What computing takes is an estimate."
        )
    words = "Use a smaller variant of this model: QuantizeModel makes one."
    if wanted.as_stored_bytes is not None:
        words = (
            f"Set weight_dtype to as_stored: the weights then take {format_bytes(wanted.as_stored_bytes)} "
            f"instead of {format_bytes(weights)}. If that is still too much, use a smaller variant: "
            "QuantizeModel makes one."
        )
    return words


def _bytes(figure: tuple[int, object] | None) -> str:
    return format_bytes(figure[0]) if figure else "an unknown amount"
