"""Finding a model's variants on this machine, and what to take when the model does not fit."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..checking import Advice, Asked
from ..compatibility import CompatibilityReport, Finding, Severity, Subject, assess, loads_layers
from ..errors import ManagedModelsError
from ..files import FileIdentity
from ..forecast.facts import Confidence
from ..forecast.footprints import Footprints
from ..formats.dtypes import dtype_name
from ..formats.safetensors import Header, read_header
from ..host import DEFAULT, Host, ModelFile, SystemSnapshot
from ..identify import ModelIdentity
from ..identify.quantization import COMFY_FORMATS, COMFY_QUANT
from ..library import Library, try_identity
from ..lineage import made_from, recorded_errors
from ..model import FOLDER_TYPES, ModelType, QuantizationType
from ..placement import WeightSizes, weight_sizes
from ..quantize.formats import FORMATS, TargetFormat
from ..quantize.policy import Action, TensorPlan, plan_tensors
from ..quantize.size_budget import WITHOUT_FP8, holds_fp8
from ..registry import Registry
from ..room import room_for
from ..words.variants import way_out_words
from .kinship import Kin, Link, layout_fingerprint, links
from .ranking import Variant, WayOut, expected_error, rank, way_out

_DIFFUSION = (ModelType.DIFFUSION, ModelType.CHECKPOINT)
_SAFETENSORS = (".safetensors", ".sft")
# Bytes that a weight takes in a file: four bits at least, 32 at most. What lies outside cannot be a variant.
_LEAST, _MOST = 0.4, 4.3
_PARAMETERS_TOLERANCE = 0.01
Releasable = Callable[[Collection[Path]], int]


class _Facts(NamedTuple):
    """What is remembered of a file: its layout, what our quantizer wrote, and what ComfyUI makes of it."""

    fingerprint: str
    source: dict[str, Any] | None
    errors: tuple[float, ...]


@dataclass(frozen=True)
class Family:
    """A model, its installed variants (ranked, itself among them), those to be made, and the way out."""

    subject: Variant
    installed: tuple[Variant, ...]
    could_make: tuple[Variant, ...]
    way_out: WayOut
    files: dict[Variant, ModelFile]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-safe details; ``best`` is the best quality that fits, maybe the model itself."""
        sure = [variant for variant in self.installed if variant.fits and variant.link.sure]
        return {
            "subject": self.subject.to_dict(),
            "list": [variant.to_dict() for variant in self.installed],
            "best": sure[0].to_dict() if sure else None,
            "could_make": [variant.to_dict() for variant in self.could_make],
            "way_out": {
                name: variant.to_dict() if variant else None
                for name, variant in (
                    ("best", self.way_out.best),
                    ("make", self.way_out.make),
                    ("maybe", self.way_out.maybe),
                )
            }
            | {"helps": self.way_out.helps},
        }


class Variants:
    """The variants of a model that are installed or could be made; an advisor of a check.

    Args:
        host: the machine.
        library: knows the files and what they are.
        registry: knows the names that people gave.
        vram_reserve: bytes of video memory to leave to others; the host's when it gives None.
        footprints: what models take in memory; asked of the host when None.
    """

    key = "variants"

    def __init__(
        self,
        host: Host,
        library: Library,
        registry: Registry,
        vram_reserve: Callable[[], int | None] = lambda: None,
        footprints: Footprints | None = None,
    ) -> None:
        self._host = host
        self._library = library
        self._registry = registry
        self._vram_reserve = vram_reserve
        self._footprints = footprints or Footprints(host)
        self._facts: dict[FileIdentity, _Facts] = {}
        self._lock = threading.Lock()

    def advise(self, asked: Asked) -> Advice | None:
        """Return the variants of a diffusion model or checkpoint, and the way out where it is needed."""
        if not asked.identity.is_diffusion or asked.path is None:
            return None
        try:
            family = self.family(
                asked.name, asked.path, asked.identity, asked.system, asked.options.weight_dtype
            )
        except ManagedModelsError:  # the file went while it was looked at
            return None
        details = family.to_dict()
        words = way_out_words(details)
        findings = (Finding("way_out", Severity.NOTE, *words),) if words else ()
        return Advice(details, findings)

    def family(
        self,
        name: str,
        path: Path,
        identity: ModelIdentity,
        system: SystemSnapshot,
        weight_dtype: str = DEFAULT,
        releasable: Releasable = lambda paths: 0,
        on_cpu: bool = False,
        making: bool = True,
    ) -> Family:
        """Return what there is of this model.

        Args:
            making: also plan what could be made, which reads the header again.
            releasable: bytes of RAM that come back when they are asked for, models in these files included.
            on_cpu: the CPU is to compute, whatever GPUs there are.

        Raises:
            ManagedModelsError: the file cannot be read.
        """
        own, others = self._files(path, identity)
        subject_file = dataclasses.replace(own, name=name) if not own.folder else own
        facts = self._facts_of(path)
        found = [file for file in others if self._is_same(facts, identity, file.path)]
        shared = releasable([path, *(file.path for file in found)])
        reserve = self._vram_reserve()
        view = _View(
            system,
            weight_dtype,
            self._host.vram_reserve() if reserve is None else reserve,
            shared,
            on_cpu,
        )
        named = self._names_by_path() if found else {}
        kin = [self._kin(file.path, named) for file in (subject_file, *found)]
        subject = self._variant(subject_file, Link.SUBJECT, view)
        files = {subject: subject_file}
        for file, link in zip(found, links(kin[0], kin[1:]), strict=True):
            try:
                files[self._variant(file, link, view)] = file
            except ManagedModelsError:
                continue
        installed = rank(files)
        made = self._could_make(subject, installed, files, view) if making else ()
        return Family(subject, installed, made, way_out(subject, _without(installed, subject), made), files)

    # Finding

    def _files(self, path: Path, identity: ModelIdentity) -> tuple[ModelFile, list[ModelFile]]:
        """Return the file as the host lists it, and the others of its folders that may be variants."""
        kinds = [kind for kind in self._host.folder_types() if FOLDER_TYPES.get(kind) in _DIFFUSION]
        listed = self._library.files(kinds)
        mine = [file for file in listed if file.path == path]
        if not mine:  # a file of somebody's own: what lies beside it
            beside = [ModelFile("", other.name, other) for other in _beside(path) if other != path]
            return ModelFile("", path.name, path), [file for file in beside if _plausible(file, identity)]
        own = mine[0]
        return own, [
            file
            for file in listed
            if file.folder == own.folder and file.path != path and _plausible(file, identity)
        ]

    def _is_same(self, subject: _Facts, identity: ModelIdentity, path: Path) -> bool:
        try:
            facts = self._facts_of(path)
        except ManagedModelsError:
            return False
        if not subject.fingerprint or facts.fingerprint != subject.fingerprint:
            return False
        other, _ = try_identity(self._library, path)
        return other is not None and _same_model(identity, other)

    def _facts_of(self, path: Path) -> _Facts:
        file = FileIdentity.of(path)
        with self._lock:
            known = self._facts.get(file)
        if known is None:
            header = read_header(path)
            errors = tuple(recorded_errors(header.metadata))
            known = _Facts(layout_fingerprint(header), made_from(header.metadata), errors)
            with self._lock:
                self._facts[file] = known
        return known

    def _kin(self, path: Path, named: dict[str, frozenset[tuple[str, str]]]) -> Kin:
        file = FileIdentity.of(path)
        registered = named.get(str(path.absolute()), frozenset())
        return Kin(path, file.size, file.mtime_ns, self._facts_of(path).source, registered)

    def _names_by_path(self) -> dict[str, frozenset[tuple[str, str]]]:
        found: dict[str, frozenset[tuple[str, str]]] = {}
        for name in self._registry.names():
            for version in self._registry.versions(name):
                info = self._registry.get(name, version)
                if info is not None:
                    path = str(info.file_path.absolute())
                    found[path] = found.get(path, frozenset()) | {(name, version)}
        return found

    # Judging

    def _variant(self, file: ModelFile, link: Link, view: _View) -> Variant:
        identity = self._library.identity(file.path)
        facts = self._facts_of(file.path)
        size = FileIdentity.of(file.path).size
        expected = FOLDER_TYPES.get(file.folder)
        info = self._library.info_of(file.path)
        report = assess(Subject(file.name, info, expected, identity, size), view.system)
        error, measured = _error_of(identity, facts)
        return Variant(
            name=file.name,
            option=self._option(file),
            folder=file.folder,
            precision=identity.precision,
            size_bytes=size,
            weight_bytes=identity.weight_bytes,
            room=view.room(self._sizes(file.path, identity, view)),
            link=link,
            error=error,
            measured=measured,
            blockers=tuple(f.code for f in report.findings if f.severity is Severity.BLOCKER),
            reason=_first_blocker(report),
        )

    def _option(self, file: ModelFile) -> str:
        """Return how our nodes list the file."""
        kinds = [kind for kind in self._host.folder_types() if FOLDER_TYPES.get(kind) in _DIFFUSION]
        clash = sum(name == file.name for _, name in self._library.names(kinds)) > 1
        return os.path.join(file.folder, file.name) if file.folder and clash else file.name

    def _sizes(self, path: Path, identity: ModelIdentity, view: _View) -> WeightSizes:
        """Return what the weights take: as the host counts them where it can, else as a table says."""
        sizes = weight_sizes(identity, identity.weight_bytes, view.weight_dtype)
        if view.on_cpu and view.system.gpus:
            return sizes  # the host counts for the device that it computes on by itself
        # A quantized file keeps its own precision, whatever is asked for.
        dtype = DEFAULT if identity.quantized_layers else view.weight_dtype
        found = self._footprints.of(path, dtype)
        if found is None or found.confidence is not Confidence.EXACT:
            return sizes
        return WeightSizes(found.weight_bytes, found.weight_bytes, sizes.stored)

    # Making

    def _could_make(
        self,
        subject: Variant,
        installed: Sequence[Variant],
        files: dict[Variant, ModelFile],
        view: _View,
    ) -> tuple[Variant, ...]:
        """Return what Quantize Model makes of the best original that is here, but is not here yet."""
        sure = [variant for variant in installed if variant.link.sure]
        for source in sorted(sure, key=lambda v: (v != subject, v.error, v.size_bytes, v.name)):
            path = files[source].path
            identity = self._library.identity(path)
            if not identity.quantized_layers and identity.quantization in _ORIGINALS:
                here = {self._library.identity(files[variant].path).quantization for variant in sure}
                return rank(_makeable(source, read_header(path), identity, here, view))
        return ()


_ORIGINALS = (QuantizationType.NONE, QuantizationType.BF16, QuantizationType.FP16)
_CASTS = {"bf16": QuantizationType.BF16, "fp16": QuantizationType.FP16}


@dataclass(frozen=True)
class _View:
    """The machine as a load would find it."""

    system: SystemSnapshot
    weight_dtype: str
    vram_reserve: int
    releasable_ram: int
    on_cpu: bool

    def room(self, sizes: WeightSizes) -> Any:
        return room_for(sizes, self.system, self.vram_reserve, self.releasable_ram, self.on_cpu)


def _beside(path: Path) -> list[Path]:
    try:
        return sorted(other for other in path.parent.iterdir() if other.suffix.lower() in _SAFETENSORS)
    except OSError:
        return []


def _plausible(file: ModelFile, identity: ModelIdentity) -> bool:
    """Tell from its size alone whether a file may hold as many weights."""
    if file.path.suffix.lower() not in _SAFETENSORS:
        return False
    try:
        size = file.path.stat().st_size
    except OSError:
        return False
    least, most = identity.parameters * _LEAST, identity.parameters * _MOST
    return size >= least and (identity.role is ModelType.CHECKPOINT or size <= most + (64 << 20))


def _same_model(a: ModelIdentity, b: ModelIdentity) -> bool:
    """Compare what a file is for; parameters within 1 %, for formats count their scales differently."""
    near = abs(a.parameters - b.parameters) <= _PARAMETERS_TOLERANCE * max(a.parameters, b.parameters)
    return (a.role, a.architecture, set(a.parts)) == (b.role, b.architecture, set(b.parts)) and near


def _error_of(identity: ModelIdentity, facts: _Facts) -> tuple[float, bool]:
    """Return a file's error: what our quantizer measured, else what its format leads one to expect."""
    scaled = identity.quantized_layers > 0
    if scaled and facts.source and facts.errors:
        return (sum(error * error for error in facts.errors) / len(facts.errors)) ** 0.5, True
    return expected_error(identity.quantization, scaled), False


def _first_blocker(report: CompatibilityReport) -> str:
    return next((f.message for f in report.findings if f.severity is Severity.BLOCKER), "")


def _without(variants: Iterable[Variant], one: Variant) -> tuple[Variant, ...]:
    return tuple(variant for variant in variants if variant != one)


def _kind_of(target: TargetFormat) -> QuantizationType:
    if target.kind == "cast":
        return _CASTS[target.name]
    kind = COMFY_FORMATS[target.comfy_format]
    rotated = kind is QuantizationType.INT8 and dict(target.options).get("convrot")
    return QuantizationType.INT8_CONVROT if rotated else kind


def _makeable(
    source: Variant, header: Header, identity: ModelIdentity, here: set[QuantizationType], view: _View
) -> list[Variant]:
    """Plan every format that this host loads and nobody made yet, from the header alone."""
    found = []
    for target in FORMATS.values():
        kind = _kind_of(target)
        if kind in here or (view.system.device in WITHOUT_FP8 and holds_fp8(target)):
            continue
        try:
            plans = plan_tensors(header, identity, target)
        except ManagedModelsError:
            continue
        made = planned_identity(identity, plans, target, kind)
        if not loads_layers(made, view.system):
            continue
        data = sum(spec.nbytes for plan in plans for spec in plan.outputs())
        found.append(
            Variant(
                name=source.name,
                option=source.option,
                folder=source.folder,
                precision=target.words,
                size_bytes=data + header.data_start,
                weight_bytes=made.weight_bytes,
                room=view.room(weight_sizes(made, made.weight_bytes, view.weight_dtype)),
                link=Link.LINEAGE,
                error=max(source.error, expected_error(kind, target.kind != "cast")),
                format=target.name,
            )
        )
    return found


def planned_identity(
    identity: ModelIdentity, plans: Sequence[TensorPlan], target: TargetFormat, kind: QuantizationType
) -> ModelIdentity:
    """Return what the file will be that these plans make, as far as its memory and format go."""
    own = [plan for plan in plans if plan.name.startswith(identity.prefix)]
    dtypes: Counter[str] = Counter()
    for plan in own:
        dtypes[dtype_name(plan.outputs()[0].dtype)] += plan.info.elements
    layers = sum(plan.action is Action.QUANTIZE for plan in own)
    return dataclasses.replace(
        identity,
        weight_bytes=sum(spec.nbytes for plan in own for spec in plan.outputs()),
        dtypes=dict(dtypes.most_common()),
        precision=target.words,
        quantization=kind,
        quantized_layers=layers,
        quantization_layout=COMFY_QUANT if layers else "",
        layer_types=(kind,) if layers else (),
    )
