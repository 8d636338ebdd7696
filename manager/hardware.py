"""Facts about the machine that need neither ComfyUI nor an import of torch."""

from __future__ import annotations

import ast
import ctypes
import importlib.util
import os
import platform
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from .host import Gpu, ProcessMemory, Ram

_parsing = threading.Lock()


class TorchBuild(NamedTuple):
    """What an installed torch says of itself; None where it has no such backend."""

    version: str
    cuda: str | None
    hip: str | None
    xpu: str | None


def torch_build() -> TorchBuild | None:
    """Read the version file of the installed torch without importing it; None when there is none."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.origin:
        return None
    path = Path(spec.origin).with_name("version.py")
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        return None
    with _parsing:  # Python 3.11 fails now and then when two threads parse at a time
        return _build_in(path, changed)


@lru_cache(maxsize=4)
def _build_in(path: Path, changed: int) -> TorchBuild | None:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError):
        return None
    return _read_build(tree)


def _read_build(tree: ast.Module) -> TorchBuild | None:
    values: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.AnnAssign):
            target: ast.expr = node.target
        elif isinstance(node, ast.Assign):
            target = node.targets[0]
        else:
            continue
        if isinstance(target, ast.Name) and isinstance(node.value, ast.Constant):
            values[target.id] = node.value.value
    version = values.get("__version__")
    if not isinstance(version, str):
        return None
    return TorchBuild(version, values.get("cuda"), values.get("hip"), values.get("xpu"))


def nvidia_gpus() -> tuple[Gpu, ...]:
    """Ask the NVIDIA driver for its cards; none where there is no driver or no nvidia-ml-py."""
    try:
        import pynvml
    except ImportError:
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        return tuple(_nvidia_gpu(pynvml, i) for i in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError:
        return ()
    finally:
        pynvml.nvmlShutdown()


def _nvidia_gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    name = nvml.nvmlDeviceGetName(handle)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Gpu(
        name=name.decode() if isinstance(name, bytes) else name,
        backend="cuda",
        total_bytes=int(memory.total),
        free_bytes=int(memory.free),
        compute_capability=f"{major}.{minor}",
    )


def other_processes_bytes(index: int) -> int | None:
    """Return what other processes hold of one NVIDIA card; None where the driver does not tell.

    On Windows it knows the card's total alone, not who has how much.
    """
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        processes = [
            *pynvml.nvmlDeviceGetComputeRunningProcesses(handle),
            *pynvml.nvmlDeviceGetGraphicsRunningProcesses(handle),
        ]
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()
    held = {process.pid: process.usedGpuMemory for process in processes if process.pid != os.getpid()}
    if any(count is None for count in held.values()):
        return None
    return int(sum(held.values()))


@contextmanager
def open_nvml() -> Iterator[None]:
    """Keep NVIDIA's library open, which counts its users: looking again and again is quick then."""
    try:
        import pynvml
    except ImportError:
        yield
        return
    try:
        pynvml.nvmlInit()
        opened = True
    except pynvml.NVMLError:  # there is no driver
        opened = False
    try:
        yield
    finally:
        if opened:
            pynvml.nvmlShutdown()


def torch_gpus(torch: Any) -> tuple[Gpu, ...]:
    """Ask an imported torch for the cards that it sees."""
    for backend in ("cuda", "xpu"):
        module = getattr(torch, backend, None)
        if module is not None and module.is_available():
            name = "rocm" if backend == "cuda" and torch.version.hip else backend
            return tuple(_torch_gpu(module, name, i) for i in range(module.device_count()))
    return ()


def _torch_gpu(module: Any, backend: str, index: int) -> Gpu:
    properties = module.get_device_properties(index)
    capability = None
    if backend == "cuda":
        capability = f"{properties.major}.{properties.minor}"
    try:
        free, total = module.mem_get_info(index)
    except (AttributeError, RuntimeError):  # a backend or driver that does not tell
        free, total = None, properties.total_memory
    return Gpu(properties.name, backend, int(total), free, capability)


def apple_gpus(total_ram: int, available_ram: int) -> tuple[Gpu, ...]:
    """Return the GPU of an Apple Silicon Mac, which shares the machine's memory."""
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return (Gpu("Apple Silicon", "mps", total_ram, available_ram),)
    return ()


def ram() -> Ram:
    """Look at the machine's RAM now."""
    memory = psutil.virtual_memory()
    return Ram(memory.total, memory.available)


def swap_bytes() -> int | None:
    """Return the size of the disk that serves as RAM; None where it grows by itself, or nobody can tell."""
    if sys.platform != "linux":
        return None
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            sizes = dict(line.split(":", 1) for line in file)
        return int(sizes["SwapTotal"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return None


def trim_heap() -> None:
    """Return freed memory to the system, where the C library keeps it for itself (glibc).

    Weights of a few MB come from its heap, which otherwise stays as large as it ever was.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def process_memory() -> ProcessMemory:
    """Return this process's memory; the mapped part is known on Linux."""
    info = psutil.Process().memory_info()
    return ProcessMemory(info.rss, getattr(info, "shared", None))
