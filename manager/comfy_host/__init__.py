"""The one adapter that knows ComfyUI, one file per subsystem, and the manager of this process."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.model_management

from ..background import BackgroundWriter
from ..config import registry_url
from ..hardware import process_memory, ram, trim_heap
from ..host import (
    DeviceUse,
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
from ..manager import AdvancedModelManager
from ..model import ModelType
from ..registry import Registry
from ..watch import JobProgress, Pace
from . import (
    attention,
    folders,
    history,
    load,
    page,
    queue,
    settings,
    system,
    training,
)
from .memory import ResidentModels, patchers_of, share, take_over
from .residency import Residency
from .sampling import Listener, announce_sampling

if TYPE_CHECKING:
    from ..forecast.facts import Footprint, Kernel, VaeFootprint
    from ..formats.safetensors import Header
    from ..identify import Detection


class ComfyHost:
    """Obeys :class:`Host` inside ComfyUI."""

    def __init__(self) -> None:
        self._resident = ResidentModels()
        self._pace, self._bar_pace = Pace(0.5), Pace(0.1)
        self.listener: Listener | None = None
        self._name = f"ComfyUI {system.comfyui_version()}"

    @property
    def name(self) -> str:
        return self._name

    def system(self) -> SystemSnapshot:
        return system.snapshot(self._name)

    def folders(self) -> Sequence[ModelFolder]:
        return folders.folders()

    def folder_types(self) -> Sequence[str]:
        return folders.folder_types()

    def names(self, folder: str) -> Sequence[str]:
        return folders.names(folder)

    def locate(self, folder: str, name: str) -> Path | None:
        return folders.locate(folder, name)

    # What looks into headers is imported when that is first done, not while ComfyUI starts.

    def detect(self, header: Header) -> Detection | None:
        from . import detect

        return detect.detect(header, self._name)

    def footprint(self, header: Header, weight_dtype: str) -> Footprint | None:
        from . import forecast

        return forecast.footprint(header, weight_dtype, self._name)

    def vae_footprint(
        self, header: Header, latent: tuple[int, ...] | None, prefix: str = ""
    ) -> VaeFootprint | None:
        from . import forecast

        return forecast.vae_footprint(header, latent, prefix)

    def kernels(self) -> Mapping[str, Kernel] | None:
        from . import kernels

        return kernels.kernels()

    def load(self, request: LoadRequest) -> LoadedParts:
        parts = load.load(request)
        if request.path.is_file():  # pixel_space is none
            self._resident.record(request.path, patchers_of(parts))
        self._announce(parts)
        return parts

    def adopt(self, request: LoadRequest, parts: LoadedParts) -> LoadedParts:
        """Return a base of ours over what a stock loader loaded, and become its parent."""
        self._announce(parts)
        base = take_over(parts)
        self._resident.record(request.path, patchers_of(base))
        return base

    def _announce(self, parts: LoadedParts) -> None:
        if parts.model is not None and self.listener is not None:
            announce_sampling(parts.model, self._resident.ids([parts.model])[0], self.listener)

    def resident(self) -> Sequence[ResidentModel]:
        return self._resident.list()

    def unload(self, ids: Sequence[str]) -> Mapping[str, int]:
        return self._resident.unload(ids)

    def share(self, parts: LoadedParts) -> LoadedParts:
        return share(parts)

    def handles(self, parts: LoadedParts) -> Sequence[object]:
        return patchers_of(parts)

    def ids(self, parts: LoadedParts) -> Sequence[str]:
        return self._resident.ids(patchers_of(parts))

    def quiet(self) -> AbstractContextManager[None]:
        return queue.quiet_moment()

    def give_back(self) -> None:
        comfy.model_management.soft_empty_cache()
        trim_heap()

    def running(self) -> RunningPrompt | None:
        return queue.running()

    def outcome(self, prompt_id: str) -> PromptOutcome | None:
        return history.outcome(prompt_id)

    def ram(self) -> Ram:
        return ram()

    def ram_headroom(self) -> int:
        return system.ram_headroom()

    def vram_reserve(self) -> int:
        return system.vram_reserve()

    def devices(self) -> Sequence[str]:
        return system.devices()

    def places(self, kind: ModelType) -> bool:
        return load.obeys_device(kind)

    def attentions(self) -> Sequence[str]:
        return attention.names()

    def with_attention(self, parts: LoadedParts, name: str) -> LoadedParts:
        return attention.with_attention(parts, name)

    def checkpoint_gradients(self, model: Any, enabled: bool) -> int:
        return training.checkpoint_gradients(model, enabled)

    def device_use(self) -> Sequence[DeviceUse]:
        return system.device_use()

    def forget_results(self) -> None:
        queue.forget_results()

    def unload_all(self) -> None:
        queue.unload_what_is_left()

    def memory(self) -> ProcessMemory:
        return process_memory()

    def throw_if_cancelled(self) -> None:
        queue.throw_if_cancelled()

    def progress(self, done: int, total: int) -> None:
        if done >= total or self._bar_pace.due():
            queue.progress(done, total)

    def tell(self, progress: JobProgress) -> None:
        """Show more than bytes, see ``watch.tell``; not more often than one can read."""
        if self._pace.due(progress.stage):
            page.tell_progress(progress)


_lock = threading.Lock()
_manager: AdvancedModelManager | None = None


def get_manager() -> AdvancedModelManager:
    """Return the manager of this ComfyUI process, made when it is first asked for."""
    global _manager
    with _lock:
        if _manager is None:
            _manager = _make_manager()
        return _manager


def _make_manager() -> AdvancedModelManager:
    url = registry_url(folders.user_folder() / "registry.sqlite")
    registry = Registry(url, fall_back=True)  # a broken registry must not stop a workflow
    config = settings.config(url)
    host = ComfyHost()
    manager = AdvancedModelManager(config, host, registry, BackgroundWriter().submit)
    manager.find_places = folders.catalogue_places
    residency = Residency(manager, host)
    host.listener = Listener(residency.sampling_started, residency.sampling_ended)
    manager.apply_sharing = residency.apply
    manager.sharing = residency.start(config.share_stock_loaders)
    return manager
