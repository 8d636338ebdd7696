"""The one adapter that knows ComfyUI, one file per subsystem, and the manager of this process."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from ..background import BackgroundWriter
from ..config import ModelManagerConfig, registry_url
from ..formats.safetensors import Header
from ..hardware import process_memory, ram
from ..host import (
    DeviceUse,
    LoadedParts,
    LoadRequest,
    ModelFolder,
    ProcessMemory,
    Ram,
    ResidentModel,
    RunningPrompt,
    SystemSnapshot,
)
from ..identify import Detection
from ..manager import AdvancedModelManager
from ..registry import Registry
from . import detect, folders, load, queue, system
from .memory import ResidentModels, patchers_of, share


class ComfyHost:
    """Obeys :class:`Host` inside ComfyUI."""

    def __init__(self) -> None:
        self._resident = ResidentModels()
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

    def detect(self, header: Header) -> Detection | None:
        return detect.detect(header, self._name)

    def load(self, request: LoadRequest) -> LoadedParts:
        parts = load.load(request)
        self._resident.record(request.path, patchers_of(parts))
        return parts

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

    def running(self) -> RunningPrompt | None:
        return queue.running()

    def ram(self) -> Ram:
        return ram()

    def ram_headroom(self) -> int:
        return system.ram_headroom()

    def devices(self) -> Sequence[str]:
        return system.devices()

    def device_use(self) -> Sequence[DeviceUse]:
        return system.device_use()

    def unload_all(self) -> None:
        queue.free_everything()

    def memory(self) -> ProcessMemory:
        return process_memory()

    def throw_if_cancelled(self) -> None:
        queue.throw_if_cancelled()

    def progress(self, done: int, total: int) -> None:
        queue.progress(done, total)


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
    config = ModelManagerConfig(database_url=url)
    return AdvancedModelManager(config, ComfyHost(), registry, BackgroundWriter().submit)
