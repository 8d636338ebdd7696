"""What prompts took at most, as the registry keeps it."""

from __future__ import annotations

from dataclasses import dataclass

from ..files import FileIdentity


@dataclass(frozen=True)
class PeakKey:
    """What makes the memory of two prompts comparable.

    Attributes:
        file: of the model that was sampled with.
        options: how it was loaded, in words.
        shape: of the latent, ``1x16x21x60x104``.
        device: its name; ``cpu`` for the CPU.
    """

    file: FileIdentity
    options: str
    shape: str
    device: str
    comfyui_version: str
    torch_version: str


@dataclass(frozen=True)
class Peak:
    """The most that any of ``count`` prompts took, in bytes.

    Attributes:
        vram_bytes: of the device, by this process as far as the platform tells; None on a CPU.
        ram_bytes: growth of this process's own memory; None where the platform does not tell.
        seen_at: when the last of them ended, in seconds since the epoch.
    """

    key: PeakKey
    vram_bytes: int | None
    ram_bytes: int | None
    count: int
    seen_at: float
