"""Quantizing as a person asks for it: names, an earlier result, room, refusals, and the facts after."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..compatibility import with_article
from ..errors import (
    BadInput,
    ManagedModelsError,
    NonFiniteWeights,
    NotAvailable,
    NothingToQuantize,
    OutputExists,
)
from ..files import file_sha256
from ..formats.safetensors import Header, read_header
from ..identify import ModelIdentity, identify
from ..lineage import made_from, origin_metadata, source_sha256
from ..model import ModelType
from ..units import GB
from ..watch import Nobody, Watch
from .details import as_written, describe
from .names import checked_name, derived_name
from .place import check_room, check_target, remove_unfinished
from .planner import Planned, Task, plan_budget, plan_request, scope_for, with_markers
from .request import QuantizeRequest, Wanted
from .size_budget import candidates
from .source import Source, read_source

_ROLES = (ModelType.DIFFUSION, ModelType.CHECKPOINT, ModelType.TEXT_ENCODER)


class Quantizer:
    """Make smaller variants of models.

    Args:
        identity: reads a file's identity.
        watch: shows progress and may stop a run.
        layer_formats: the quantized layers that this host loads; None when nobody knows.
        gpu_budget: how large a variant of this file the largest GPU has room for; None without a GPU.
        device: that models are computed on, in the host's words.
        made: called with the source, the result and its details, once the result is there.
    """

    def __init__(
        self,
        identity: Callable[[Path], ModelIdentity],
        watch: Watch | None = None,
        layer_formats: Callable[[], frozenset[str] | None] = lambda: None,
        gpu_budget: Callable[[Path], int | None] = lambda path: None,
        device: Callable[[], str] = lambda: "",
        made: Callable[[Path, Path, Mapping[str, Any]], None] = lambda source, output, details: None,
    ) -> None:
        self._identity = identity
        self._watch = watch or Nobody()
        self._layer_formats = layer_formats
        self._gpu_budget = gpu_budget
        self._device = device
        self._made = made

    def output_path(self, source: Path, request: QuantizeRequest, output_name: str = "") -> Path:
        """Return where the result goes: beside the source, under a given or derived name.

        Raises:
            InvalidOutputName: the name has a path in it, or is no name of a safetensors file.
        """
        wanted = request.checked()
        if output_name:
            return source.with_name(checked_name(output_name))
        suffix = wanted.target.suffix if wanted.target else wanted.name
        limit = self._limit(source, wanted)
        name = derived_name(
            source.name, suffix, request.policy, wanted.patterns, request.quality, request.layout, limit
        )
        return source.with_name(name)

    def quantize(self, source: Path, output: Path, request: QuantizeRequest) -> dict[str, Any]:
        """Make ``output`` from ``source``, or find that it is there already.

        Args:
            source: a safetensors file, or the index of a model in parts.

        Returns:
            JSON-safe details; ``words.quantize`` puts them into words.

        Raises:
            ManagedModelsError: whatever stands in the way; nothing is left behind then.
        """
        task = self._task(source, request)
        check_target(task.source, output)
        started = time.monotonic()
        written = self._find_earlier(task, output)
        reused = written is not None
        resumed = 0
        if written is None:
            planned, resumed = self._make(task, output)
            written = read_header(output)
        else:
            remove_unfinished(output)
            planned = as_written(task, written)
        details = describe(task, planned, output, written)
        details["reused"] = reused
        details["seconds"] = None if reused else round(time.monotonic() - started, 2)
        details["resumed_bytes"] = resumed
        self._made(source, output, details)
        return details | self._loads_here(details)

    def plan(self, source: Path, request: QuantizeRequest) -> dict[str, Any]:
        """Return the details of what a run would do; a size budget reads the whole model for it.

        Raises:
            ManagedModelsError: see :meth:`quantize`.
        """
        task = self._task(source, request)
        details = describe(task, self._plan(task, _origin(task)), None, None)
        return details | {"reused": False} | self._loads_here(details)

    def _task(self, path: Path, request: QuantizeRequest) -> Task:
        wanted = request.checked()
        source = read_source(path)
        identity = self._identity(path) if source.index is None else identify(source.header)
        _check_role(path, identity)
        limit = self._limit(path, wanted)
        return Task(source, identity, request, wanted, scope_for(source, identity, request, wanted), limit)

    def _limit(self, source: Path, wanted: Wanted) -> int | None:
        """Return the bytes that the whole file may take, of a size budget; else None."""
        if wanted.target is not None:
            return None
        if wanted.limit is not None:
            return wanted.limit
        found = self._gpu_budget(source)
        if found is None:
            raise BadInput(
                "target_size_gb is 0, which means what fits the GPU, and no GPU is known here.",
                "Give the size that the file may have, in GB.",
            )
        return found

    def _loads_here(self, details: Mapping[str, Any]) -> dict[str, Any]:
        known = self._layer_formats()
        missing = sorted(set(details["layer_formats"]) - known) if known is not None else []
        return {"missing_formats": missing, "loads_here": not missing}

    def _plan(self, task: Task, metadata: Mapping[str, str]) -> Planned:
        if task.limit is None:
            return plan_request(task)
        _engine()
        formats = candidates(self._layer_formats(), self._device())
        return plan_budget(task, formats, metadata, self._watch)

    def _make(self, task: Task, output: Path) -> tuple[Planned, int]:
        """Write ``output``; return the plan that was carried out in the end, and what was done before.

        The latter in bytes of the source that a run had converted which was killed.
        """
        engine = _engine()
        origin = _origin(task)
        planned = self._plan(task, origin)
        if planned.not_finite and not task.request.allow_nonfinite:
            raise _not_finite(task.source, planned.not_finite)
        check_room(output, planned.plans)
        try:
            return planned, self._run(task, planned, output, origin, planned.not_finite)
        except engine.UnfitTensor:
            unfit = engine.find_unfit(task.source, planned.plans, self._watch)
        not_finite = [name for name, reason in unfit.items() if reason == engine.NOT_FINITE]
        if not_finite and not task.request.allow_nonfinite:
            raise _not_finite(task.source, not_finite)
        planned = planned.copying(unfit)
        if not any(plan.changes for plan in planned.plans):
            raise NothingToQuantize(
                f"No weight of {task.source.path.name} can be stored as {task.wanted.name}.",
                f"For example, in {next(iter(unfit))}, {next(iter(unfit.values()))}: use another format.",
            )
        return planned, self._run(task, planned, output, origin, set(unfit))

    def _run(
        self,
        task: Task,
        planned: Planned,
        output: Path,
        origin: dict[str, str],
        accepted: Collection[str],
    ) -> int:
        engine = _engine()
        options = engine.EngineOptions(
            overwrite=task.request.overwrite,
            quality=task.request.quality,
            accepted=accepted,
            max_memory_bytes=round(task.request.max_memory_gb * GB),
        )
        metadata = with_markers(origin, task.header, planned.plans)
        result = engine.run(task.source, planned.plans, output, metadata, self._watch, options)
        return int(result.resumed_bytes)

    def _find_earlier(self, task: Task, output: Path) -> Header | None:
        """Return the header of ``output`` when it was made from this very source in this way.

        Raises:
            OutputExists: another file has the name, and overwriting was not allowed.
        """
        if not output.exists():
            return None
        try:
            found = read_header(output)
        except ManagedModelsError:
            found = None
        origin = made_from(found.metadata) if found else None
        alike = origin is not None and origin["recipe"] == task.recipe
        if found and origin and alike and self._same_source(task.source, found, origin):
            return found
        if task.request.overwrite:
            return None
        raise OutputExists(
            f"{output.name} exists already, and was not made from {task.source.path.name} in this way.",
            "Choose another output name, or allow overwriting.",
            output=str(output),
        )

    def _same_source(self, source: Source, found: Header, origin: Mapping[str, Any]) -> bool:
        """Compare size and time, and the hash where only the time differs (a copied file)."""
        file = source.identity
        if origin["size"] != file.size:
            return False
        if origin["mtime_ns"] == file.mtime_ns:
            return True
        digest = source_sha256(found.metadata)
        return digest is not None and digest == hash_of(source, self._watch)


def hash_of(source: Source, watch: Watch) -> str:
    """Return the SHA-256 that a result made from this source carries."""
    if source.index is None:
        return file_sha256(source.path, watch)
    from .source import source_sha256 as sha256_of_parts

    return sha256_of_parts(source, lambda position: watch.throw_if_cancelled())


def _origin(task: Task) -> dict[str, str]:
    return origin_metadata(task.header, task.source.identity, task.recipe)


def _engine() -> Any:
    try:
        from . import engine
    except ImportError as error:
        raise NotAvailable(
            "Quantizing needs PyTorch, which is not installed here.",
            'Install it with: pip install "managed-models[torch]"',
        ) from error
    return engine


def _not_finite(source: Source, names: Sequence[str]) -> NonFiniteWeights:
    return NonFiniteWeights(
        f"{source.path.name} holds weights that are not numbers (NaN) or infinite, in {_names(names)}.",
        "The file is damaged, or its training diverged: get it again, or allow non-finite "
        "weights to keep these tensors as they are.",
        tensors=list(names),
    )


def _check_role(source: Path, identity: ModelIdentity) -> None:
    if identity.role in _ROLES:
        return
    what = with_article(identity.title) if identity.recognised else "a file that nobody here recognises"
    raise BadInput(
        f"{source.name} is {what}, and diffusion models, checkpoints and text encoders are quantized here.",
        "Choose one of those.",
    )


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
