"""Whether weights have room: a pure comparison, without what computing takes on top."""

from __future__ import annotations

from typing import Any, NamedTuple

from .host import SystemSnapshot
from .placement import WeightSizes

VRAM = "VRAM"
RAM = "RAM"


class Room(NamedTuple):
    """What the weights need where they would be, and what is there. Bytes.

    ``reserve`` is what ComfyUI leaves to others there.
    """

    where: str
    needed_bytes: int
    available_bytes: int
    reserve_bytes: int = 0

    @property
    def enough(self) -> bool:
        return self.needed_bytes + self.reserve_bytes <= self.available_bytes

    def to_dict(self) -> dict[str, Any]:
        return self._asdict() | {"enough": self.enough}


def room_for(
    sizes: WeightSizes,
    system: SystemSnapshot,
    vram_reserve: int = 0,
    releasable_ram: int = 0,
    on_cpu: bool = False,
) -> Room:
    """Compare weights with all memory of the largest GPU, or with the RAM that is available.

    Args:
        vram_reserve: bytes of video memory that ComfyUI leaves to others.
        releasable_ram: bytes of RAM that come back when they are asked for.
        on_cpu: the CPU computes, whatever GPUs there are.
    """
    if on_cpu or not system.gpus:
        return Room(RAM, sizes.on_cpu, system.available_ram_bytes + releasable_ram)
    largest = max(gpu.total_bytes for gpu in system.gpus)
    return Room(VRAM, sizes.on_gpu, largest, vram_reserve)
