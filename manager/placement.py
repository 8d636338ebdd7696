"""Where a model goes: a pure decision over the machine as it is, with the reason in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from .formats.dtypes import DTYPE_BITS, dtype_name
from .host import AS_STORED, DEFAULT, DeviceUse
from .model import ModelType
from .units import GB, format_bytes

if TYPE_CHECKING:
    from .identify import ModelIdentity

CPU = "cpu"
# What ComfyUI asks for: the weights and a tenth, its least working memory and what it reserves.
_WEIGHTS_FACTOR = 1.1
_WORKING_BYTES = int(1.2 * GB)
# Below this the working memory alone fills a card, and every layer would travel at every step.
_USELESS_BYTES = 2 * GB
_WIDTHS = {dtype_name(name): bits / 8 for name, bits in DTYPE_BITS.items() if name.startswith(("F", "BF"))}
_DIFFUSION = (ModelType.DIFFUSION, ModelType.CHECKPOINT)


class WeightSizes(NamedTuple):
    """Bytes that a model's weights take: on a GPU, on a CPU, and there with ``as_stored``."""

    on_gpu: int
    on_cpu: int
    stored: int


@dataclass(frozen=True)
class Wish:
    """What is asked for, and what the machine has. Bytes.

    Attributes:
        device: ``default``, or what a person chose.
        devices: what the host offers, its own choice for diffusion models first, the CPU last.
        uses: who uses the accelerators.
        obeyed: whether the host loads where it is told to; old ones choose themselves.
    """

    device: str
    kind: ModelType
    sizes: WeightSizes
    devices: tuple[str, ...]
    uses: tuple[DeviceUse, ...] = ()
    available_ram: int = 0
    obeyed: bool = True


class Place(NamedTuple):
    """The device to ask the host for, and what a person should know about it."""

    device: str
    notes: tuple[str, ...] = ()


def place(wish: Wish) -> Place:
    """Decide where the model goes. Must not look at the machine."""
    chosen, notes = _choose(wish)
    if (chosen if chosen != DEFAULT else next(iter(wish.devices), CPU)) == CPU:
        notes = (*notes, *_ram_notes(wish))
    return Place(canonical_device(chosen, wish.kind, wish.devices), notes)


def canonical_device(device: str, kind: ModelType, devices: Sequence[str]) -> str:
    """Return ``default`` for a device that the host takes anyway, so that both ask for one copy."""
    only_one = list(devices) == [device]
    of_diffusion = kind in _DIFFUSION and list(devices[:1]) == [device]
    return DEFAULT if only_one or of_diffusion else device


def weight_sizes(identity: ModelIdentity | None, file_bytes: int, weight_dtype: str) -> WeightSizes:
    """Return what the weights take once they are loaded, as ComfyUI casts them.

    By default a GPU computes in 16 bits and keeps what is smaller; a CPU gets 32 bits. A quantized
    file, and one that nobody knows, stays as it is.
    """
    if identity is None or identity.quantized_layers:
        return WeightSizes(file_bytes, file_bytes, file_bytes)
    if weight_dtype == AS_STORED:
        return WeightSizes(file_bytes, file_bytes, file_bytes)
    floats = {name: count for name, count in identity.dtypes.items() if name in _WIDTHS}
    rest = file_bytes - int(sum(count * _WIDTHS[name] for name, count in floats.items()))
    weights = sum(floats.values())
    if weight_dtype == DEFAULT:
        on_gpu = int(sum(count * min(_WIDTHS[name], 2) for name, count in floats.items()))
        return WeightSizes(rest + on_gpu, rest + 4 * weights, file_bytes)
    size = rest + int(weights * _WIDTHS[weight_dtype.removesuffix("_fast")])
    return WeightSizes(size, size, size)


def _choose(wish: Wish) -> tuple[str, tuple[str, ...]]:
    if wish.device != DEFAULT and not wish.obeyed:
        return DEFAULT, (f"device {wish.device} is left aside: this ComfyUI chooses by itself (0.33 obeys).",)
    if wish.device != DEFAULT and wish.device not in wish.devices:
        listed = ", ".join(wish.devices)
        chosen, notes = _choose_freely(wish)
        return chosen, (f"device {wish.device} is not on this machine, which has {listed}.", *notes)
    if wish.device != DEFAULT:
        use = _use_of(wish, wish.device)
        return wish.device, _tight_notes(use, wish) if use else ()
    return _choose_freely(wish)


def _choose_freely(wish: Wish) -> tuple[str, tuple[str, ...]]:
    """Keep the host's choice where the model fits, else take the card with room."""
    use = _use_of(wish, next(iter(wish.devices), CPU))
    if wish.kind not in _DIFFUSION or use is None:
        return DEFAULT, ()  # the host has its own rules for text encoders and VAEs
    needed = _needed(wish)
    if needed <= _free(use):
        return DEFAULT, ()
    others = [other for other in wish.uses if other.device in wish.devices and other != use]
    roomiest = max(others, key=_free, default=None)
    if wish.obeyed and roomiest and needed <= _free(roomiest):
        return roomiest.device, (f"{_words(roomiest)} has room for it; {_words(use)} {_has(use, wish)}.",)
    if needed <= _reach(use):
        return DEFAULT, ()  # ComfyUI makes room by unloading what rests there
    largest = max(others, key=_reach, default=None)
    if wish.obeyed and largest and _reach(largest) > _reach(use):
        why = f"{_words(largest)} has more room than {_words(use)}."
        return largest.device, (why, *_tight_notes(largest, wish))
    if wish.obeyed and use.total_bytes < _USELESS_BYTES and wish.sizes.on_cpu <= wish.available_ram:
        return CPU, (f"It runs on the CPU: {_words(use)} is too small to be of use, it {_has(use, wish)}.",)
    return DEFAULT, _tight_notes(use, wish)


def _tight_notes(use: DeviceUse, wish: Wish) -> tuple[str, ...]:
    if _needed(wish) <= _reach(use):
        return ()
    if use.device.startswith("mps"):
        what = "its memory is the machine's RAM, so the system may swap. A smaller variant would not"
    else:
        what = "ComfyUI keeps the rest in RAM and moves it while it computes, which is slower"
    return (f"{_words(use)} {_has(use, wish)}: {what}.",)


def _ram_notes(wish: Wish) -> tuple[str, ...]:
    sizes, available = wish.sizes, wish.available_ram
    if sizes.on_cpu <= available:
        return ()
    figures = f"{format_bytes(sizes.on_cpu)}, and {format_bytes(available)} of RAM is available"
    if sizes.stored >= sizes.on_cpu:
        return (f"It takes {figures}: the system may swap. Use a smaller variant.",)
    remedy = f"Set weight_dtype to as_stored to keep them at {format_bytes(sizes.stored)}"
    if sizes.stored > available:
        remedy += ", and use a smaller variant, because even that is more"
    return (f"On a CPU ComfyUI widens the weights to 32 bits: {figures}. {remedy}.",)


def _needed(wish: Wish) -> int:
    return int(wish.sizes.on_gpu * _WEIGHTS_FACTOR) + _WORKING_BYTES


def _use_of(wish: Wish, device: str) -> DeviceUse | None:
    return next((use for use in wish.uses if use.device == device), None)


def _free(use: DeviceUse) -> int:
    return use.total_bytes if use.free_bytes is None else use.free_bytes


def _reach(use: DeviceUse) -> int:
    """Return what models can have once those of this process are unloaded."""
    return min(use.total_bytes, _free(use) + (use.torch_bytes or 0))


def _words(use: DeviceUse) -> str:
    return f"{use.device} ({use.name})" if use.name and use.name != use.device else use.device


def _has(use: DeviceUse, wish: Wish) -> str:
    return (
        f"has {format_bytes(_free(use))} of {format_bytes(use.total_bytes)} free, "
        f"and {format_bytes(_needed(wish))} would be used"
    )
