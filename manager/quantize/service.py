"""Quantizing as a person asks for it: names, an earlier result, room, refusals, and the facts after."""

from __future__ import annotations

import ntpath
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..compatibility import with_article
from ..errors import (
    BadInput,
    FileError,
    InvalidOutputName,
    ManagedModelsError,
    ModelNotFound,
    NonFiniteWeights,
    NotAvailable,
    NotEnoughDisk,
    NothingToQuantize,
    OutputExists,
)
from ..files import FileIdentity, file_sha256
from ..formats.safetensors import Header, read_header
from ..formats.writer import planned_file_size
from ..identify import ModelIdentity
from ..lineage import made_from, origin_metadata, recorded_errors, source_sha256
from ..units import format_bytes
from ..watch import Nobody, Watch
from .formats import FORMATS, LATER_FORMATS, TargetFormat
from .policy import POLICIES, RECOMMENDED, Action, TensorPlan, keep_rule, parse_patterns, plan_tensors

SUFFIX = ".safetensors"
# Changes when the same request would give other bytes.
RECIPE_VERSION = 1
_HEADER_ROOM = 16 << 20
_DEVICES = frozenset({"CON", "PRN", "AUX", "NUL", *(f"{p}{n}" for p in ("COM", "LPT") for n in range(1, 10))})
# Parts of a name that say the precision, which a derived name replaces.
_PRECISIONS = ("bf16", "fp16", "fp32", "f16", "f32")


@dataclass(frozen=True)
class QuantizeRequest:
    """What a person wants, in the contract's words. Defaults are the contract's defaults."""

    format: str = "fp8_e4m3fn_scaled"
    policy: str = RECOMMENDED
    target_size_gb: float = 0.0
    quality: str = "fast"
    keep_patterns: str = ""
    layout: str = "comfy_quant"
    overwrite: bool = False
    allow_requantize: bool = False
    allow_nonfinite: bool = False
    max_memory_gb: float = 0.0

    def checked(self) -> tuple[TargetFormat, tuple[str, ...]]:
        """Return the format and the patterns.

        Raises:
            BadInput: an unknown value.
            NotAvailable: a value whose ability is not built yet.
        """
        target = FORMATS.get(self.format)
        if target is None:
            _refuse_unbuilt("format", self.format, LATER_FORMATS, tuple(FORMATS))
        if self.policy not in POLICIES:
            _refuse_unbuilt("policy", self.policy, ("size_budget",), POLICIES)
        if self.quality != "fast":
            _refuse_unbuilt("quality", self.quality, ("best",), ("fast",))
        if self.layout != "comfy_quant":
            _refuse_unbuilt("layout", self.layout, ("scaled_fp8",), ("comfy_quant",))
        for name in ("target_size_gb", "allow_requantize", "max_memory_gb"):
            if getattr(self, name):
                raise NotAvailable(
                    f"{name} {getattr(self, name)!r} is not built yet.",
                    f"Leave {name} at its default.",
                )
        assert target is not None
        return target, parse_patterns(self.keep_patterns)


def _refuse_unbuilt(name: str, value: str, later: Sequence[str], now: Sequence[str]) -> None:
    choices = f"Use one of {', '.join(now)}."
    if value in later:
        raise NotAvailable(f"{name} {value!r} is not built yet.", choices)
    raise BadInput(f"{name} is {value!r}, which does not exist.", choices)


class Quantizer:
    """Make smaller variants of models.

    Args:
        identity: reads a file's identity.
        watch: shows progress and may stop a run.
        layer_formats: the quantized layers that this host loads; None when nobody knows.
    """

    def __init__(
        self,
        identity: Callable[[Path], ModelIdentity],
        watch: Watch | None = None,
        layer_formats: Callable[[], frozenset[str] | None] = lambda: None,
    ) -> None:
        self._identity = identity
        self._watch = watch or Nobody()
        self._layer_formats = layer_formats

    def output_path(self, source: Path, request: QuantizeRequest, output_name: str = "") -> Path:
        """Return where the result goes: beside the source, under a given or derived name.

        Raises:
            InvalidOutputName: the name has a path in it, or is no name of a safetensors file.
        """
        target, patterns = request.checked()
        if output_name:
            return source.with_name(_checked_name(output_name))
        return source.with_name(derived_name(source.name, target, request.policy, patterns))

    def quantize(self, source: Path, output: Path, request: QuantizeRequest) -> dict[str, Any]:
        """Make ``output`` from ``source``, or find that it is there already.

        Returns:
            JSON-safe details; ``report.render_quantize`` puts them into words.

        Raises:
            ManagedModelsError: whatever stands in the way; nothing is left behind then.
        """
        target, patterns = request.checked()
        header = read_header(source)
        identity = self._identity(source)
        _check_role(source, identity)
        recipe = {
            "format": target.name,
            "policy": request.policy,
            "keep_patterns": list(patterns),
            "layout": request.layout,
            "quality": request.quality,
            "version": RECIPE_VERSION,
        }
        _check_target(source, output)
        started = time.monotonic()
        earlier = self._find_earlier(source, output, recipe, request.overwrite)
        plans = plan_tensors(header, identity, target, request.policy, patterns)
        if earlier is None:
            _check_room(output, plans, target)
            plans = self._run(header, plans, target, recipe, output, request)
        written = earlier or read_header(output)
        details = _details(header, identity, plans, target, recipe, output, written, earlier is not None)
        details["seconds"] = None if earlier else round(time.monotonic() - started, 2)
        known = self._layer_formats()
        details["loads_here"] = known is None or not target.comfy_format or target.comfy_format in known
        return details

    def _run(
        self,
        header: Header,
        plans: list[TensorPlan],
        target: TargetFormat,
        recipe: Mapping[str, Any],
        output: Path,
        request: QuantizeRequest,
    ) -> list[TensorPlan]:
        """Write ``output``; return the plan that was carried out in the end."""
        try:
            from . import engine
        except ImportError as error:
            raise NotAvailable(
                "Quantizing needs PyTorch, which is not installed here.",
                'Install it with: pip install "managed-models[torch]"',
            ) from error
        metadata = origin_metadata(header, recipe)
        try:
            engine.run(header, plans, target, output, metadata, self._watch, request.overwrite)
            return plans
        except engine.UnfitTensor:
            unfit = engine.find_unfit(header, plans, target, self._watch)
        not_finite = [name for name, reason in unfit.items() if reason == engine.NOT_FINITE]
        if not_finite and not request.allow_nonfinite:
            raise NonFiniteWeights(
                f"{header.path.name} holds weights that are not numbers (NaN) or infinite, in "
                f"{_names(not_finite)}.",
                "The file is damaged, or its training diverged: get it again, or allow non-finite "
                "weights to keep these tensors as they are.",
                tensors=not_finite,
            )
        plans = [
            replace(p, action=Action.COPY, reason=unfit[p.name]) if p.name in unfit else p for p in plans
        ]
        if all(plan.action is Action.COPY for plan in plans):
            raise NothingToQuantize(
                f"No weight of {header.path.name} can be stored as {target.name}.",
                f"For example, in {next(iter(unfit))}, {next(iter(unfit.values()))}: use another format.",
            )
        engine.run(header, plans, target, output, metadata, self._watch, request.overwrite, set(unfit))
        return plans

    def _find_earlier(
        self, source: Path, output: Path, recipe: Mapping[str, Any], overwrite: bool
    ) -> Header | None:
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
        if found and origin and origin["recipe"] == recipe and self._same_source(source, found, origin):
            return found
        if overwrite:
            return None
        raise OutputExists(
            f"{output.name} exists already, and was not made from {source.name} in this way.",
            "Choose another output name, or allow overwriting.",
            output=str(output),
        )

    def _same_source(self, source: Path, found: Header, origin: Mapping[str, Any]) -> bool:
        """Compare size and time, and the hash where only the time differs (a copied file)."""
        file = FileIdentity.of(source)
        if origin["size"] != file.size:
            return False
        if origin["mtime_ns"] == file.mtime_ns:
            return True
        digest = source_sha256(found.metadata)
        return digest is not None and digest == file_sha256(source, self._watch)


def derived_name(
    name: str, target: TargetFormat, policy: str = RECOMMENDED, patterns: Sequence[str] = ()
) -> str:
    """Return ``wan_fp8_e4m3fn_scaled.safetensors`` for ``wan_bf16.safetensors`` and so on."""
    stem = Path(name).stem
    for precision in _PRECISIONS:
        for separator in ("_", "-", "."):
            stem = stem.removesuffix(f"{separator}{precision}")
    parts = [stem, target.suffix]
    if policy != RECOMMENDED:
        parts.append(policy)
    if patterns:
        import hashlib

        parts.append(f"keep{hashlib.sha256(' '.join(patterns).encode()).hexdigest()[:6]}")
    return "_".join(parts) + SUFFIX


def _checked_name(name: str) -> str:
    text = name.strip()
    forbidden = any(c in '<>:"|?*' or ord(c) < 32 for c in text)
    device = Path(text).stem.upper() in _DEVICES  # names that Windows keeps for itself
    if forbidden or device or text != ntpath.basename(text) or text in ("", ".", ".."):
        raise InvalidOutputName(
            f"output_name is {name!r}, which is not a plain file name.",
            "Give a name without folders, such as my_model_fp8; it is written beside the source.",
        )
    suffix = Path(text).suffix.lower()
    if suffix == SUFFIX:
        return text
    if suffix in (".ckpt", ".pt", ".pth", ".bin", ".gguf", ".sft"):
        raise InvalidOutputName(
            f"output_name is {name!r}, and only safetensors files are written.",
            f"End it with {SUFFIX}, or with nothing.",
        )
    return text + SUFFIX


def _check_role(source: Path, identity: ModelIdentity) -> None:
    if identity.is_diffusion:
        return
    what = with_article(identity.title) if identity.recognised else "a file that nobody here recognises"
    raise BadInput(
        f"{source.name} is {what}, and diffusion models and checkpoints are quantized here.",
        "Choose a diffusion model or a checkpoint.",
    )


def _check_target(source: Path, output: Path) -> None:
    if output.suffix.lower() != SUFFIX:
        raise InvalidOutputName(
            f"{output.name} does not end with {SUFFIX}.", "Only safetensors files are written."
        )
    folder = output.parent
    if not folder.is_dir():
        raise ModelNotFound(f"There is no folder {folder}.", "Make it first, or choose another.")
    if output.is_dir():
        raise FileError(f"{output} is a folder.", "Name a file.")
    if output.exists() and output.samefile(source):
        raise BadInput(f"{source.name} is its own target.", "Give the result another name.")


def _check_room(output: Path, plans: Sequence[TensorPlan], target: TargetFormat) -> None:
    needed = planned_file_size(spec for plan in plans for spec in plan.outputs(target)) + _HEADER_ROOM
    free = shutil.disk_usage(output.parent).free
    if free < needed:
        raise NotEnoughDisk(
            f"{output.name} needs {format_bytes(needed)}, and {format_bytes(free)} are free.",
            "Free some room on that disk. Nothing was written.",
            needed_bytes=needed,
            free_bytes=free,
        )


def _details(
    header: Header,
    identity: ModelIdentity,
    plans: Sequence[TensorPlan],
    target: TargetFormat,
    recipe: Mapping[str, Any],
    output: Path,
    written: Header,
    reused: bool,
) -> dict[str, Any]:
    if reused:
        plans = _as_written(plans, written)
    linear = [plan for plan in plans if plan.linear]
    changed = [plan for plan in linear if plan.action is not Action.COPY]
    weights = sum(plan.info.elements for plan in linear)
    numbers = recorded_errors(written.metadata)
    errors = dict(zip((plan.layer for plan in changed), numbers, strict=False))
    squares = sum(e * e * p.info.elements for p, e in zip(changed, errors.values(), strict=False))
    return {
        "source": header.path.name,
        "output": output.name,
        "path": str(output),
        "reused": reused,
        "format": target.name,
        "format_words": target.words,
        "architecture": identity.title,
        "policy": recipe["policy"],
        "policy_rule": keep_rule(identity.architecture)[1],
        "stored_as": identity.precision,
        "source_bytes": header.file_size,
        "output_bytes": written.file_size,
        "linear_layers": len(linear),
        "changed_layers": len(changed),
        "changed_share": sum(p.info.elements for p in changed) / weights if weights else 0.0,
        "kept_layers": dict(Counter(p.reason for p in linear if p.action is Action.COPY)),
        "kept_names": [p.layer for p in linear if p.action is Action.COPY],
        "layer_errors": errors,
        "mean_error": (squares / sum(p.info.elements for p in changed)) ** 0.5 if errors else 0.0,
        "source_sha256": source_sha256(written.metadata),
        "seconds": None,
    }


def _as_written(plans: Sequence[TensorPlan], written: Header) -> list[TensorPlan]:
    """Correct a plan by what an earlier run did: it may have kept unfit tensors."""
    return [
        replace(plan, action=Action.COPY, reason="it could not be converted")
        if plan.action is not Action.COPY and written.tensors[plan.name].dtype == plan.info.dtype
        else plan
        for plan in plans
    ]


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
