"""The host without ComfyUI: the command line, scripts and tests."""

from __future__ import annotations

import dataclasses
import os
import platform
import sys
import threading
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import psutil

from .errors import BadInput, Cancelled, HostRequired, LoadFailed, NotAvailable
from .forecast.facts import Confidence, Footprint, Kernel, VaeFootprint
from .formats.safetensors import Header
from .hardware import (
    apple_gpus,
    nvidia_gpus,
    process_memory,
    ram,
    swap_bytes,
    torch_build,
    torch_gpus,
    trim_heap,
)
from .host import (
    AS_STORED,
    DEFAULT,
    WEIGHT_DTYPES,
    DeviceUse,
    Gpu,
    LoadedParts,
    LoadRequest,
    ModelFolder,
    ProcessMemory,
    PromptOutcome,
    Ram,
    ResidentModel,
    RunningPrompt,
    SystemSnapshot,
)
from .identify import Detection, identify
from .model import FOLDER_ALIASES, FOLDER_TYPES, MODEL_SUFFIXES, ModelType
from .units import GB
from .watch import JobProgress

_TORCH_DTYPES = {
    "fp8_e4m3fn": "float8_e4m3fn",
    "fp8_e4m3fn_fast": "float8_e4m3fn",
    "fp8_e5m2": "float8_e5m2",
    "bf16": "bfloat16",
    "fp16": "float16",
    "fp32": "float32",
}


class Tensors(dict[str, Any]):
    """A loaded file: tensors by name. Handles on one file share the tensors and keep it alive."""

    def __init__(self, tensors: Mapping[str, Any], path: Path, parent: Tensors | None = None) -> None:
        super().__init__(tensors)
        self.path = path
        self.parent = parent
        self.id: str = parent.id if parent is not None else uuid.uuid4().hex
        self.nbytes = sum(tensor.nbytes for tensor in tensors.values())


class LocalHost:
    """Obeys :class:`Host` on the bare machine. Models load as dictionaries of tensors.

    Args:
        roots: folders with models, of a type that is said or seen: one with ComfyUI's sub-folders is
            read like ``models``, any other is a type of its own.
        on_progress: called with bytes done and bytes in all during long jobs; where it has a method
            ``tell``, that is called with all that is known of the job.
    """

    def __init__(
        self,
        roots: Sequence[Path | ModelFolder] = (),
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._roots = list(roots)
        self._on_progress = on_progress
        self._cancel = threading.Event()
        self._loaded: weakref.WeakValueDictionary[str, Tensors] = weakref.WeakValueDictionary()

    @property
    def name(self) -> str:
        return "this machine"

    def system(self) -> SystemSnapshot:
        memory = psutil.virtual_memory()
        build = torch_build()
        gpus = self._gpus(memory.total, memory.available)
        return SystemSnapshot(
            host=self.name,
            knows_comfyui=False,
            platform=f"{platform.system()} {platform.release()}",
            python_version=platform.python_version(),
            torch_version=build.version if build else None,
            cuda_version=build.cuda if build else None,
            device=gpus[0].backend if gpus else "cpu",
            gpus=gpus,
            total_ram_bytes=memory.total,
            available_ram_bytes=memory.available,
            cpu_count=os.cpu_count() or 1,
            swap_bytes=swap_bytes(),
        )

    @staticmethod
    def _gpus(total_ram: int, available_ram: int) -> tuple[Gpu, ...]:
        torch = sys.modules.get("torch")
        build = torch_build()
        if torch is None and build and (build.hip or build.xpu):
            import torch  # only torch can tell about these cards
        if torch is not None:
            found = torch_gpus(torch)
            if found:
                return found
        return nvidia_gpus() or apple_gpus(total_ram, available_ram)

    def folders(self) -> Sequence[ModelFolder]:
        found: list[ModelFolder] = []
        for root in self._roots:
            if isinstance(root, ModelFolder):
                found.append(root)
                continue
            known = [name for name in FOLDER_TYPES if (root / name).is_dir()]
            found += [ModelFolder(name, root / name) for name in known] or [ModelFolder(root.name, root)]
        return [folder._replace(type=FOLDER_ALIASES.get(folder.type, folder.type)) for folder in found]

    def folder_types(self) -> Sequence[str]:
        return list(dict.fromkeys(folder.type for folder in self.folders()))

    def names(self, folder: str) -> Sequence[str]:
        return sorted({name for kind, path in self.folders() if kind == folder for name in _walk(path)})

    def locate(self, folder: str, name: str) -> Path | None:
        candidates = (path / name for kind, path in self.folders() if kind == folder)
        return next((path for path in candidates if path.is_file()), None)

    def detect(self, header: Header) -> Detection | None:
        return None

    def footprint(self, header: Header, weight_dtype: str) -> Footprint | None:
        from .forecast.table import footprint_of

        return footprint_of(identify(header), weight_dtype, on_cpu=not self.system().gpus)

    def vae_footprint(
        self, header: Header, latent: tuple[int, ...] | None, prefix: str = ""
    ) -> VaeFootprint | None:
        sizes = (info.nbytes for name, info in header.tensors.items() if name.startswith(prefix))
        return VaeFootprint(sum(sizes), Confidence.MODELLED)

    def kernels(self) -> Mapping[str, Kernel] | None:
        return None

    def load(self, request: LoadRequest) -> LoadedParts:
        if request.weight_dtype not in WEIGHT_DTYPES:
            raise BadInput(
                f"weight_dtype is {request.weight_dtype!r}.", f"Use one of {', '.join(WEIGHT_DTYPES)}."
            )
        try:
            import torch
            from safetensors.torch import load_file
        except ImportError as error:
            raise HostRequired(
                "Loading a model needs PyTorch, which is not installed here.",
                'Install it with: pip install "managed-models[torch]"',
            ) from error
        try:
            tensors = load_file(request.path)
        except Exception as error:  # the library has no error class of its own for broken files
            raise LoadFailed(
                f"{request.path.name} could not be loaded: {error}.", "Check the file."
            ) from error
        if request.weight_dtype not in (DEFAULT, AS_STORED):
            dtype = getattr(torch, _TORCH_DTYPES[request.weight_dtype])
            tensors = {n: t.to(dtype) if t.is_floating_point() else t for n, t in tensors.items()}
        loaded = Tensors(tensors, request.path)
        self._loaded[loaded.id] = loaded
        dtype = request.weight_dtype
        if dtype in (DEFAULT, AS_STORED):
            dtype = request.stored_dtype
        return LoadedParts(loaded, dtype=dtype, size_bytes=loaded.nbytes)

    def resident(self) -> Sequence[ResidentModel]:
        return [
            ResidentModel(key, found.path.stem, found.path, "cpu", found.nbytes, 0, found.nbytes)
            for key, found in reversed(list(self._loaded.items()))
        ]

    def unload(self, ids: Sequence[str]) -> Mapping[str, int]:
        return {key: 0 for key in ids if key in self._loaded}  # nothing is on a device

    def share(self, parts: LoadedParts) -> LoadedParts:
        model: Tensors = parts.model
        return dataclasses.replace(parts, model=Tensors(model, model.path, model))

    def handles(self, parts: LoadedParts) -> Sequence[object]:
        return [parts.model]

    def ids(self, parts: LoadedParts) -> Sequence[str]:
        return [parts.model.id]

    def quiet(self) -> AbstractContextManager[None]:
        return nullcontext()  # nothing runs here

    def give_back(self) -> None:
        trim_heap()

    def running(self) -> RunningPrompt | None:
        return None

    def outcome(self, prompt_id: str) -> PromptOutcome | None:
        return None

    def ram(self) -> Ram:
        return ram()

    def ram_headroom(self) -> int:
        return int(min(10 * GB, max(2 * GB, psutil.virtual_memory().total * 0.10)))

    def vram_reserve(self) -> int:
        return 0  # nothing here takes any

    def devices(self) -> Sequence[str]:
        return ["cpu"]  # models are read, not run

    def places(self, kind: ModelType) -> bool:
        return True

    def attentions(self) -> Sequence[str]:
        return []

    def with_attention(self, parts: LoadedParts, name: str) -> LoadedParts:
        raise NotAvailable(f"There is no attention backend {name!r} here: models are read, not run.")

    def checkpoint_gradients(self, model: Any, enabled: bool) -> int:
        raise HostRequired(
            "Gradient checkpointing needs ComfyUI, whose models it changes.",
            "Call it in a running ComfyUI.",
        )

    def device_use(self) -> Sequence[DeviceUse]:
        gpus = self.system().gpus
        return [
            DeviceUse(f"{gpu.backend}:{i}", gpu.name, gpu.total_bytes, gpu.free_bytes, None, None)
            for i, gpu in enumerate(gpus)
        ]

    def forget_results(self) -> None:
        """Nothing is held here: what was loaded lives as long as somebody uses it."""

    def unload_all(self) -> None:
        """Nothing is on a device here."""

    def memory(self) -> ProcessMemory:
        return process_memory()

    def cancel(self) -> None:
        """Ask the running job to stop; it raises :class:`Cancelled` at its next step."""
        self._cancel.set()

    def throw_if_cancelled(self) -> None:
        if self._cancel.is_set():
            self._cancel.clear()
            raise Cancelled("The job was stopped.", "Nothing was left behind.")

    def progress(self, done: int, total: int) -> None:
        if self._on_progress:
            self._on_progress(done, total)

    def tell(self, progress: JobProgress) -> None:
        """Show more than bytes, see ``watch.tell``."""
        show = getattr(self._on_progress, "tell", None)
        if show is not None:
            show(progress)


def _walk(root: Path) -> list[str]:
    """Return the model files below ``root``, relative to it; linked folders are followed once."""
    names: list[str] = []
    seen: set[str] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        names += [
            os.path.relpath(os.path.join(folder, name), root)
            for name in files
            if os.path.splitext(name)[1].lower() in MODEL_SUFFIXES
        ]
    return names
