"""Loaded models as people see them: a checkpoint with all its parts is one, and has one name."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import AmbiguousModel, HostBusy, ModelNotFound
from .host import Host, ResidentModel
from .library import Library
from .pool import ModelPool, PooledModel

# ComfyUI's own thread lets go of models, and may be collecting garbage when it is asked to. On a CPU it
# copies the quantized weights of models that somebody keeps, which takes a second for 2 GB.
_PATIENCE_SECONDS = 5.0
_AT_WORK_SECONDS = 25.0
_LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class LoadedModel:
    """What was loaded together. Bytes.

    Attributes:
        id: of one part, the same one as long as its parts are there.
        paths: the files; none when nobody recorded them.
        kind: dynamic, static or GGUF, of every part if they differ.
        file_bytes: what a dynamic model has neither on the device nor in RAM, and reads from its file.
        pooled: the pool has it; what follows is known only then.
        busy: the running prompt uses it.
        held: somebody besides the pool has it.
        expires_in: seconds until it has rested long enough; None for never.
    """

    id: str
    ids: tuple[str, ...]
    title: str
    paths: tuple[Path, ...]
    kind: str
    device: str
    loaded_bytes: int
    ram_bytes: int
    file_bytes: int
    pooled: bool = False
    pinned: bool = False
    busy: bool = False
    held: bool | None = None
    idle_seconds: float | None = None
    expires_in: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-safe facts, without where the files are."""
        facts = dataclasses.asdict(self)
        del facts["paths"]
        return facts | {"ids": list(self.ids)}


def loaded_models(host: Host, pool: ModelPool) -> list[LoadedModel]:
    """Return every model in memory, most recently used first."""
    owners = {id: model for model in pool.models() for id in model.ids}
    groups: dict[object, list[ResidentModel]] = {}
    for part in host.resident():
        owner = owners.get(part.id)
        groups.setdefault(owner.key if owner else part.path or part.id, []).append(part)
    return [_join(parts, owners.get(parts[0].id)) for parts in groups.values()]


def find_loaded(name: str, models: Sequence[LoadedModel], library: Library) -> list[LoadedModel]:
    """Return the models in memory that a title, a file's name or a registered name means.

    One file may be there several times, with different options.

    Raises:
        AmbiguousModel: several files are called so.
        ModelNotFound: it is not in memory, or there is none of that name.
        BadInput: see :meth:`Library.find`.
    """
    found = [model for model in models if model.title == name]
    if not found:
        try:
            path = library.find(name).path
        except ModelNotFound as error:
            raise ModelNotFound(f"{name} is not in memory.", error.remedy, **error.details) from error
        found = [model for model in models if path in model.paths]
    if not found:
        raise ModelNotFound(f"{name} is not in memory.", "Look at the list of loaded models.")
    if len({model.paths for model in found}) > 1:
        clash = ", ".join(sorted(f"{path.parent.name}/{path.name}" for m in found for path in m.paths[:1]))
        raise AmbiguousModel(f"{name!r} fits several models in memory: {clash}.", "Name the file instead.")
    return found


def wait_until_gone(host: Host, pool: ModelPool) -> list[LoadedModel]:
    """Return what is left when all has gone, a prompt is in the way, or it has taken too long."""
    started = time.monotonic()
    while (left := loaded_models(host, pool)) and not host.running():
        waited = time.monotonic() - started
        if waited > _AT_WORK_SECONDS or (waited > _PATIENCE_SECONDS and not is_clearing(host)):
            break
        time.sleep(_LOOK_SECONDS)
    return left


def is_clearing(host: Host) -> bool:
    """Tell whether the host runs a prompt, or still clears up after one or on request."""
    try:
        with host.quiet():
            return False
    except HostBusy:
        return True


def _join(parts: Sequence[ResidentModel], owner: PooledModel | None) -> LoadedModel:
    ids = tuple(sorted(part.id for part in parts))
    joined = LoadedModel(
        id=ids[0],
        ids=ids,
        title=owner.title if owner else parts[0].title,
        paths=owner.paths if owner else () if parts[0].path is None else (parts[0].path,),
        kind=", ".join(dict.fromkeys(part.kind for part in parts)),
        device=next((part.device for part in parts if part.loaded_bytes), parts[0].device),
        loaded_bytes=sum(part.loaded_bytes for part in parts),
        ram_bytes=sum(part.ram_bytes for part in parts),
        file_bytes=sum(part.file_bytes for part in parts),
    )
    if owner is None:
        return joined
    return dataclasses.replace(joined, **owner.stay())
