"""Whether quantized layers are computed in their own format here, from the kernels' own registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from .facts import Kernel, KernelStatus

# comfy-kitchen's plain PyTorch implementation, which every format falls back to.
PLAIN = "eager"
# The function that multiplies a format's matrices; fp8 is multiplied by PyTorch itself.
MATMULS: Mapping[str, str] = {
    "int8_tensorwise": "int8_linear",
    "convrot_w4a4": "convrot_w4a4_linear",
    "asym_w4a8_int8": "w4a8_int8_linear",
    "nvfp4": "scaled_mm_nvfp4",
    "mxfp8": "scaled_mm_mxfp8",
}


class Backend(NamedTuple):
    """One set of kernels: whether it can run, whether it was turned off, why not, and what it has."""

    available: bool
    disabled: bool
    reason: str
    functions: frozenset[str]

    @property
    def usable(self) -> bool:
        return self.available and not self.disabled


@dataclass(frozen=True)
class KernelFacts:
    """What the running ComfyUI says about its kernels.

    Attributes:
        formats: layer format -> whether this device multiplies it in its own format.
        backends: comfy-kitchen's, by name.
        device: in torch's words, ``cuda:0`` or ``cpu``.
        cuda_version: of PyTorch; None for another build.
    """

    formats: Mapping[str, bool]
    backends: Mapping[str, Backend]
    device: str
    cuda_version: str | None


def judge_kernels(facts: KernelFacts) -> tuple[Kernel, ...]:
    """Return how every known layer format is computed. Pure."""
    return tuple(_judge(name, fast, facts) for name, fast in sorted(facts.formats.items()))


def _judge(name: str, fast: bool, facts: KernelFacts) -> Kernel:
    if not fast:
        device = "the CPU" if facts.device == "cpu" else f"this GPU ({facts.device})"
        return Kernel(name, KernelStatus.EMULATED, f"{device} has no arithmetic for it")
    function = MATMULS.get(name)
    if function is None:
        off = _fast_kernels_off(facts)
        return Kernel(name, KernelStatus.NATIVE, f"PyTorch multiplies it{f'; {off}' if off else ''}")
    able = [b for b, kernels in facts.backends.items() if b != PLAIN and function in kernels.functions]
    usable = [b for b in able if facts.backends[b].usable]
    if usable:
        return Kernel(name, KernelStatus.NATIVE, f"comfy-kitchen's {usable[0]} kernels multiply it")
    off = _fast_kernels_off(facts) or "comfy-kitchen has no fast kernels for it here"
    return Kernel(name, KernelStatus.EMULATED, off)


def _fast_kernels_off(facts: KernelFacts) -> str:
    """Return why comfy-kitchen's CUDA kernels do not run, empty when they do."""
    cuda = facts.backends.get("cuda")
    if cuda is None or cuda.usable:
        return ""
    if cuda.disabled and facts.cuda_version:
        return (
            f"ComfyUI turned comfy-kitchen's fast kernels off, because PyTorch was built for CUDA "
            f"{facts.cuda_version}; they need a PyTorch for CUDA 13 or newer"
        )
    if not cuda.available:
        return f"comfy-kitchen's fast kernels do not run: {cuda.reason or 'no reason given'}"
    return "ComfyUI turned comfy-kitchen's CUDA kernels off on this PyTorch"
