"""The models that ComfyUI holds: listed, shared, and taken out of the device's memory."""

from __future__ import annotations

import copy
import dataclasses
import threading
import uuid
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import comfy.model_management as mm

from ..host import LoadedParts, ResidentModel
from .queue import quiet_moment


class _Origin(NamedTuple):
    """Where a model came from, and the patcher that was made for it."""

    path: Path
    patcher: weakref.ref[Any]


class ResidentModels:
    """Look at ComfyUI's list of loaded models, and at what we loaded ourselves and still lives.

    Only weak references are held: the books follow what ComfyUI and other extensions keep.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
        self._ours: weakref.WeakKeyDictionary[Any, _Origin] = weakref.WeakKeyDictionary()

    def record(self, path: Path, patchers: Iterable[Any]) -> None:
        """Remember which file these patchers were loaded from."""
        with self._lock:
            for patcher in patchers:
                self._ours[patcher.model] = _Origin(path, weakref.ref(patcher))

    def ids(self, patchers: Iterable[Any]) -> Sequence[str]:
        """Return the ids of the models behind these patchers."""
        return [self._id(patcher.model) for patcher in patchers]

    def list(self) -> Sequence[ResidentModel]:
        """Return every model in memory, most recently used first."""
        found: dict[int, ResidentModel] = {}
        for patcher in _loaded_patchers():
            found.setdefault(id(patcher.model), self._describe(patcher, listed=True))
        with self._lock:
            ours = [(model, origin.patcher()) for model, origin in list(self._ours.items())]
        for model, patcher in ours:
            if patcher is not None and id(model) not in found:
                found[id(model)] = self._describe(patcher, listed=False)
        return list(found.values())

    def unload(self, ids: Sequence[str]) -> Mapping[str, int]:
        """Take these models out of the device's memory; bytes given back, by id."""
        freed: dict[str, int] = {}
        for wanted in ids:
            with quiet_moment():  # one model per hold: queueing a prompt waits for this
                for loaded in list(mm.current_loaded_models):
                    patcher = loaded.model
                    if patcher is None or self._id(patcher.model) != wanted:
                        continue
                    freed[wanted] = freed.get(wanted, 0) + _device_bytes(patcher)
                    if _rests_in_ram(patcher):
                        continue
                    loaded.model_unload()
                    mm.current_loaded_models.remove(loaded)
                mm.soft_empty_cache()
        return freed

    def _describe(self, patcher: Any, listed: bool) -> ResidentModel:
        size = int(patcher.model_size())
        on_device = _device_bytes(patcher) if listed else 0
        dynamic = bool(getattr(patcher, "is_dynamic", lambda: False)())
        # A static model keeps in RAM what is not on the device; a dynamic one pins what it needs.
        in_ram = int(patcher.loaded_ram_size()) if dynamic else size - on_device
        path = self._path(patcher)
        return ResidentModel(
            id=self._id(patcher.model),
            title=path.stem if path else type(patcher.model).__name__,
            path=path,
            device=str(patcher.load_device),
            size_bytes=size,
            loaded_bytes=on_device,
            ram_bytes=max(0, in_ram),
            kind="GGUF" if "GGUF" in type(patcher).__name__ else "dynamic" if dynamic else "static",
        )

    def _id(self, model: Any) -> str:
        with self._lock:
            return self._ids.setdefault(model, uuid.uuid4().hex)

    def _path(self, patcher: Any) -> Path | None:
        with self._lock:
            ours = self._ours.get(patcher.model)
        if ours:
            return ours.path
        init = getattr(patcher, "cached_patcher_init", None)  # since 0.33: (function, arguments, ...)
        if isinstance(init, tuple) and len(init) > 1 and init[1] and isinstance(init[1][0], str):
            return Path(init[1][0])
        return None


def patchers_of(parts: LoadedParts) -> Sequence[Any]:
    """Return the patchers of a load: of its MODEL, its CLIP and its VAE."""
    holders = (parts.clip, parts.vae)
    found = [parts.model, *(holder.patcher for holder in holders if holder is not None)]
    return [patcher for patcher in found if patcher is not None]


def share(parts: LoadedParts) -> LoadedParts:
    """Return clones over the same weights. ComfyUI keeps a clone's parent alive, so ours stay the base."""
    return dataclasses.replace(
        parts,
        model=None if parts.model is None else parts.model.clone(),
        clip=None if parts.clip is None else parts.clip.clone(),
        vae=None if parts.vae is None else _clone_vae(parts.vae),
    )


def take_over(parts: LoadedParts) -> LoadedParts:
    """Return a base over the weights of ``parts``, which somebody else loaded, and become its parent.

    Whoever has ``parts`` notices nothing; when that is let go of, ComfyUI's list of loaded models
    goes on with the parent, as it does for every clone.
    """
    base = share(parts)
    for ours, theirs in zip(patchers_of(base), patchers_of(parts), strict=True):
        ours.parent = None
        theirs.parent = ours
    return base


def _clone_vae(vae: Any) -> Any:
    """Return another VAE over the same weights; ComfyUI's class has no clone of its own."""
    twin = copy.copy(vae)
    twin.patcher = vae.patcher.clone()
    return twin


def _loaded_patchers() -> list[Any]:
    """Return the live patchers of ComfyUI's list, which other threads may change meanwhile."""
    patchers = (loaded.model for loaded in list(mm.current_loaded_models))
    return [patcher for patcher in patchers if patcher is not None]


def _device_bytes(patcher: Any) -> int:
    """Return what the model holds on its device; nothing on a CPU, where that is RAM."""
    if mm.is_device_cpu(patcher.load_device):
        return 0
    return int(patcher.loaded_size())


def _rests_in_ram(patcher: Any) -> bool:
    """Tell whether unloading gives nothing back: it is on a CPU, and no patched copy replaces weights.

    ComfyUI would copy quantized weights out of their mapped file, and keep the copies.
    """
    return mm.is_device_cpu(patcher.load_device) and not getattr(patcher, "backup", None)
