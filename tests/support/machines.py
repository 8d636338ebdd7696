"""Snapshots of machines that nobody here has."""

from __future__ import annotations

from dataclasses import replace

from managed_models.manager.host import Gpu, SystemSnapshot
from managed_models.manager.units import GB

CPU_ONLY = SystemSnapshot(
    host="ComfyUI 0.33.0",
    knows_comfyui=True,
    platform="Linux 6.1",
    python_version="3.12.4",
    torch_version="2.11.0",
    cuda_version=None,
    device="cpu",
    gpus=(),
    total_ram_bytes=int(23.5 * GB),
    available_ram_bytes=20 * GB,
    cpu_count=8,
    comfyui_version="0.33.0",
)


def nvidia(
    vram_gb: float = 24.0,
    capability: str = "8.9",
    free_gb: float | None = None,
    ram_gb: float = 64.0,
    cards: int = 1,
) -> SystemSnapshot:
    """A machine with NVIDIA cards; ``vram_gb`` is what a card reports, a little under its label."""
    free = vram_gb * 0.95 if free_gb is None else free_gb
    card = Gpu("NVIDIA GeForce", "cuda", int(vram_gb * GB), int(free * GB), compute_capability=capability)
    return replace(
        CPU_ONLY,
        cuda_version="13.0",
        device="cuda",
        gpus=(card,) * cards,
        total_ram_bytes=int(ram_gb * GB),
        available_ram_bytes=int(ram_gb * 0.9 * GB),
    )


APPLE = replace(
    CPU_ONLY,
    platform="Darwin 24.1",
    device="mps",
    gpus=(Gpu("Apple Silicon", "mps", 32 * GB, 20 * GB),),
    total_ram_bytes=32 * GB,
    available_ram_bytes=20 * GB,
)
ROCM = replace(
    CPU_ONLY,
    device="rocm",
    gpus=(Gpu("AMD Radeon RX 7900 XTX", "rocm", 24 * GB, 23 * GB),),
    total_ram_bytes=64 * GB,
    available_ram_bytes=60 * GB,
)
# The card of a laptop: 8 GB on the label, less in the report.
SMALL_WINDOWS = replace(nvidia(7.6, "8.6", ram_gb=15.8), platform="Windows 11")
