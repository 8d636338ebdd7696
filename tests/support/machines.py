"""Snapshots of machines that nobody here has."""

from __future__ import annotations

from dataclasses import replace

from managed_models.manager.forecast.facts import Kernel
from managed_models.manager.forecast.kernels import MATMULS, PLAIN, Backend, KernelFacts, judge_kernels
from managed_models.manager.host import Gpu, SystemSnapshot
from managed_models.manager.units import GB
from packaging.version import Version

# comfy-kitchen's layouts say from which compute capability on a card multiplies them.
LAYER_FORMATS = {
    "float8_e4m3fn": "8.9",
    "float8_e5m2": "8.9",
    "int8_tensorwise": "7.5",
    "convrot_w4a4": "7.5",
    "asym_w4a8_int8": "8.0",
    "mxfp8": "10.0",
    "nvfp4": "10.0",
}
_ALL = frozenset(MATMULS.values())


def kernel_facts(capability: str | None, cuda: str | None = "13.0", device: str = "cuda:0") -> KernelFacts:
    """What ComfyUI 0.33 says on such a card; ``capability`` is None on anything but NVIDIA."""
    fast = {
        name: capability is not None and Version(capability) >= Version(least)
        for name, least in LAYER_FORMATS.items()
    }
    old = cuda is None or Version(cuda) < Version("13")
    backends = {
        PLAIN: Backend(True, False, "", _ALL),
        "cuda": Backend(capability is not None, old, "" if capability else "CUDA not available", _ALL),
    }
    return KernelFacts(fast, backends, device, cuda)


def kernels(capability: str | None, cuda: str | None = "13.0", device: str = "cuda:0") -> tuple[Kernel, ...]:
    return judge_kernels(kernel_facts(capability, cuda, device))


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
    kernels=kernels(None, None, "cpu"),
    swap_bytes=0,
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
        kernels=kernels(capability),
    )


APPLE = replace(
    CPU_ONLY,
    kernels=kernels(None, None, "mps"),
    swap_bytes=None,
    platform="Darwin 24.1",
    device="mps",
    gpus=(Gpu("Apple Silicon", "mps", 32 * GB, 20 * GB),),
    total_ram_bytes=32 * GB,
    available_ram_bytes=20 * GB,
)
ROCM = replace(
    CPU_ONLY,
    kernels=kernels(None, None),
    device="rocm",
    gpus=(Gpu("AMD Radeon RX 7900 XTX", "rocm", 24 * GB, 23 * GB),),
    total_ram_bytes=64 * GB,
    available_ram_bytes=60 * GB,
)
INTEL = replace(
    CPU_ONLY,
    device="xpu",
    gpus=(Gpu("Intel(R) Arc(TM) A770 Graphics", "xpu", int(15.9 * GB), int(15.5 * GB)),),
    total_ram_bytes=32 * GB,
    available_ram_bytes=28 * GB,
    kernels=kernels(None, None, "xpu:0"),
)
# The card of a laptop: 8 GB on the label, less in the report.
SMALL_WINDOWS = replace(nvidia(7.6, "8.6", ram_gb=15.8), platform="Windows 11", swap_bytes=None)
FOUR_CARDS = nvidia(79.2, "9.0", ram_gb=503.0, cards=4)
