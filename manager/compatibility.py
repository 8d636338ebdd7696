"""Can this machine use this model? Findings decided purely from frozen facts; a thin checker on top."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from .errors import ManagedModelsError, ModelNotFound
from .forecast.facts import Kernel, KernelStatus
from .host import Host, SystemSnapshot
from .identify import ModelIdentity
from .identify.gguf import has_unnamed_types
from .identify.quantization import COMFY_FORMATS, COMFY_QUANT
from .model import ModelInfo, ModelType, QuantizationType
from .units import GB, format_bytes
from .versions import compare_versions, parse_version

# A "12 GB" card reports less than 12 GB, and so does RAM: this much may be missing.
TOLERANCE = 0.08
FRAMEWORKS = frozenset({"pytorch", "torch", "comfyui"})
FIRST_TORCH_WITH_FP8 = "2.1"
FORMAT_UNSUPPORTED = "format_unsupported"
GGUF_EXTENSION = "ComfyUI-GGUF"

_FP8 = (QuantizationType.FP8_E4M3, QuantizationType.FP8_E5M2, QuantizationType.MXFP8)
_LOADERS = {
    ModelType.LORA: "Load LoRA",
    ModelType.VAE: "Load VAE",
    ModelType.TEXT_ENCODER: "Load CLIP",
    ModelType.CONTROLNET: "Load ControlNet Model",
    ModelType.CLIP_VISION: "Load CLIP Vision",
    ModelType.UPSCALER: "Load Upscale Model",
    ModelType.AUDIO_ENCODER: "Load Audio Encoder",
    ModelType.LATENT_UPSCALER: "Load Latent Upscale Model",
}
_DIFFUSION = (ModelType.DIFFUSION, ModelType.CHECKPOINT)


class Severity(str, Enum):
    """BLOCKER: it will not run. SLOW: it runs, and worse than it could. NOTE: good to know."""

    BLOCKER = "blocker"
    SLOW = "slow"
    NOTE = "note"


@dataclass(frozen=True)
class Finding:
    """One result: a stable code, what was needed and found (with units), and what to do."""

    code: str
    severity: Severity
    message: str
    remedy: str = ""
    needed: str = ""
    found: str = ""

    def to_dict(self) -> dict[str, str]:
        facts = dataclasses.asdict(self)
        facts["severity"] = self.severity.value
        return facts


@dataclass(frozen=True)
class Subject:
    """What is judged: a person's words, and what the file says for itself.

    ``file_error`` is why there is no identity although the file is there; a model whose file does
    not exist yet has neither. ``remote`` says that the header came from an address.
    """

    name: str
    info: ModelInfo | None
    expected: ModelType | None
    identity: ModelIdentity | None
    size_bytes: int | None
    file_error: ManagedModelsError | None = None
    remote: bool = False


@dataclass(frozen=True)
class CompatibilityReport:
    """The verdict with its reasons; ``advice`` has what else was asked, by question."""

    subject: Subject
    system: SystemSnapshot
    findings: tuple[Finding, ...]
    advice: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def compatible(self) -> bool:
        return not any(f.severity is Severity.BLOCKER for f in self.findings)

    @property
    def issues(self) -> list[str]:
        """The findings in words, blockers first."""
        order = list(Severity)
        ranked = sorted(self.findings, key=lambda f: order.index(f.severity))
        return [f"{f.message} {f.remedy}".strip() for f in ranked]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-safe details that the renderer and scripts read."""
        subject = self.subject
        identity = subject.identity
        here = "remote" if subject.remote else "present"
        state = here if identity else "broken" if subject.file_error else "absent"
        return {
            "model": subject.name,
            "version": subject.info.version if subject.info else None,
            "version_hint": self.advice.get("versions", {}).get("version_hint"),
            "compatible": self.compatible,
            "file": state,
            "size_bytes": subject.size_bytes,
            "identity": identity.to_dict() if identity else None,
            "system": self.system.to_dict(),
            "knows_comfyui": self.system.knows_comfyui,
            "findings": [finding.to_dict() for finding in self.findings],
            **self.advice,
        }


def assess(subject: Subject, system: SystemSnapshot) -> CompatibilityReport:
    """Judge ``subject`` on ``system``. Pure: the same facts give the same report."""
    findings = (
        *_file_findings(subject),
        *_declared_findings(subject.info, system),
        *_format_findings(subject, system),
        *_memory_notes(subject, system),
    )
    return CompatibilityReport(subject, system, findings)


def _file_findings(subject: Subject) -> Iterator[Finding]:
    error, identity = subject.file_error, subject.identity
    if error is not None:
        yield Finding(error.code, Severity.BLOCKER, error.message, error.remedy)
    if identity is None:
        return
    if not identity.recognised:
        seen = ", ".join(identity.seen) or "no tensors at all"
        yield Finding(
            "unknown",
            Severity.BLOCKER,
            f"Nobody here recognises this model: neither its architecture nor its role is known. "
            f"It holds {identity.tensor_count} tensors, such as {seen}.",
            "Check that it is the file you meant; a newer ComfyUI, or an extension, may know it.",
        )
    elif subject.expected and not _same_kind(identity.role, subject.expected):
        loader = _LOADERS.get(identity.role)
        yield Finding(
            "wrong_role",
            Severity.BLOCKER,
            f"This file is {with_article(identity.title)}, and {with_article(_role_words(subject.expected))} "
            "is expected here.",
            f"Load it with ComfyUI's {loader!r} node." if loader else "Choose another file.",
            needed=_role_words(subject.expected),
            found=_role_words(identity.role),
        )


def _same_kind(role: ModelType, expected: ModelType) -> bool:
    if expected is ModelType.OTHER or role is expected:
        return True
    return role in _DIFFUSION and expected in _DIFFUSION


def with_article(words: str) -> str:
    """Return ``a VAE``, ``an upscaler``."""
    return f"{'an' if words[:1].lower() in 'aeiou' else 'a'} {words}"


def _role_words(role: ModelType) -> str:
    words = {ModelType.DIFFUSION: "diffusion model", ModelType.LORA: "LoRA", ModelType.VAE: "VAE"}
    return words.get(role, role.value.replace("_", " "))


def _declared_findings(info: ModelInfo | None, system: SystemSnapshot) -> Iterator[Finding]:
    if info is None:
        return
    yield from _vram_findings(info, system)
    yield from _ram_findings(info, system)
    frameworks = [name.lower() for name in info.compatible_frameworks]
    if frameworks and not FRAMEWORKS.intersection(frameworks):
        names = ", ".join(info.compatible_frameworks)
        yield Finding(
            "framework",
            Severity.BLOCKER,
            f"It is made for {names}, and ComfyUI runs PyTorch models.",
            "Look for a PyTorch version of this model.",
            needed=names,
            found="pytorch",
        )
    yield from _torch_findings(info, system)
    yield from _extension_findings(info, system)


def _vram_findings(info: ModelInfo, system: SystemSnapshot) -> Iterator[Finding]:
    if not info.min_vram_gb:
        return
    needed = f"{info.min_vram_gb:.1f} GB"
    best = max(system.gpus, key=lambda gpu: gpu.total_bytes, default=None)
    if best is None:
        yield Finding(
            "vram",
            Severity.BLOCKER,
            f"It needs {needed} of VRAM, and this machine has no GPU that can be used.",
            "Use a machine with a larger GPU, or a smaller variant of the model.",
            needed=needed,
            found="no GPU",
        )
        return
    found = f"{best.total_bytes / GB:.1f} GB"
    if best.total_bytes < info.min_vram_gb * GB * (1 - TOLERANCE):
        yield Finding(
            "vram",
            Severity.BLOCKER,
            f"It needs {needed} of VRAM, and {best.name} has {found}.",
            "Use a smaller variant of the model, for example a quantized one.",
            needed=needed,
            found=found,
        )
    elif best.free_bytes is not None and best.free_bytes < info.min_vram_gb * GB * (1 - TOLERANCE):
        yield Finding(
            "vram_busy",
            Severity.NOTE,
            f"It needs {needed} of VRAM, and {best.free_bytes / GB:.1f} GB of {found} are free now.",
            "Unload other models or close programs that use the GPU.",
            needed=needed,
            found=f"{best.free_bytes / GB:.1f} GB free",
        )


def _ram_findings(info: ModelInfo, system: SystemSnapshot) -> Iterator[Finding]:
    if not info.min_ram_gb:
        return
    needed = f"{info.min_ram_gb:.1f} GB"
    found = f"{system.total_ram_bytes / GB:.1f} GB"
    if system.total_ram_bytes < info.min_ram_gb * GB * (1 - TOLERANCE):
        yield Finding(
            "ram",
            Severity.BLOCKER,
            f"It needs {needed} of RAM, and this machine has {found}.",
            "Use a smaller variant of the model, or a machine with more RAM.",
            needed=needed,
            found=found,
        )
    elif system.available_ram_bytes < info.min_ram_gb * GB * (1 - TOLERANCE):
        available = f"{system.available_ram_bytes / GB:.1f} GB"
        yield Finding(
            "ram_busy",
            Severity.NOTE,
            f"It needs {needed} of RAM, and {available} of {found} are available now.",
            "Unload other models or close other programs.",
            needed=needed,
            found=f"{available} available",
        )


def _torch_findings(info: ModelInfo, system: SystemSnapshot) -> Iterator[Finding]:
    needed = info.min_torch_version
    if not needed:
        return
    if parse_version(needed) is None:
        yield Finding(
            "torch_version_unreadable",
            Severity.NOTE,
            f"Its minimum PyTorch version is given as {needed!r}, which is no version.",
            "Register it again with a version such as 2.4.0.",
        )
    elif system.torch_version is None:
        yield Finding(
            "torch_unknown",
            Severity.NOTE,
            f"It needs PyTorch {needed}, and none is installed where this check ran.",
            "Run the check inside ComfyUI, which has its own PyTorch.",
            needed=needed,
            found="none",
        )
    elif _older(system.torch_version, needed):
        yield Finding(
            "torch_version",
            Severity.BLOCKER,
            f"It needs PyTorch {needed}, and {system.torch_version} is installed.",
            f"Update PyTorch to {needed} or newer.",
            needed=needed,
            found=system.torch_version,
        )


def _extension_findings(info: ModelInfo, system: SystemSnapshot) -> Iterator[Finding]:
    if not info.required_extensions:
        return
    if not system.knows_comfyui:
        names = ", ".join(info.required_extensions)
        yield Finding(
            "extension_unknown",
            Severity.NOTE,
            f"It needs the ComfyUI extensions {names}; which are installed is not known here.",
            "Run the check inside ComfyUI.",
            needed=names,
            found="unknown",
        )
        return
    installed = {_plain(name) for name in system.extensions}
    for name in info.required_extensions:
        if _plain(name) not in installed:
            yield Finding(
                "extension",
                Severity.BLOCKER,
                f"It needs the ComfyUI extension {name}, which is not installed.",
                f"Install {name} with ComfyUI-Manager and restart ComfyUI.",
                needed=name,
                found="not installed",
            )


def _plain(name: str) -> str:
    return name.lower().replace("_", "-").replace(" ", "-")


def _format_findings(subject: Subject, system: SystemSnapshot) -> Iterator[Finding]:
    kind = QuantizationType.NONE
    if subject.identity is not None:
        kind = subject.identity.quantization
    elif subject.info is not None:
        kind = subject.info.quantization
    if kind is QuantizationType.GGUF:
        yield from _gguf_findings(subject.identity, system)
    if _plain_kind(kind) not in COMFY_FORMATS.values():
        return
    unknown = unknown_layers(subject.identity, system) if subject.identity is not None else None
    if unknown is not None:
        result = "loading it fails"
        if not system.layer_formats:
            result = "it would read the numbers as if they were plain weights, and make noise"
        yield Finding(
            FORMAT_UNSUPPORTED,
            Severity.BLOCKER,
            f"{system.host} does not know {unknown.value} layers: {result}.",
            "Update ComfyUI, or use the original of this model.",
            needed=f"{unknown.value} layers",
            found=", ".join(sorted(system.layer_formats or ())) or "none",
        )
        return
    torch = system.torch_version
    if kind in _FP8 and torch and _older(torch, FIRST_TORCH_WITH_FP8):
        yield Finding(
            "torch_version",
            Severity.BLOCKER,
            f"Its weights are {kind.value}, which PyTorch knows since {FIRST_TORCH_WITH_FP8}; "
            f"{torch} is installed.",
            "Update PyTorch.",
            needed=FIRST_TORCH_WITH_FP8,
            found=torch,
        )
        return
    yield from _kernel_findings(kind, subject.identity, system)


def _gguf_findings(identity: ModelIdentity | None, system: SystemSnapshot) -> Iterator[Finding]:
    """Name the extension that loads GGUF files, whether it is there, and what could not be read."""
    text = identity is not None and identity.role is ModelType.TEXT_ENCODER
    node = "CLIPLoader (GGUF)" if text else "Unet Loader (GGUF)"
    known = system.knows_comfyui
    installed = next((name for name in system.extensions if "gguf" in name.lower()), None)
    if installed is not None:
        yield Finding(
            "gguf",
            Severity.NOTE,
            f"It is a GGUF file: the extension {installed}, which is installed, loads it.",
            f"Use its {node!r} node; ComfyUI's own loaders and LoadManagedModel do not read it.",
            needed=GGUF_EXTENSION,
            found=installed,
        )
    else:
        there = "which is not installed" if known else "and whether it is there is not known here"
        yield Finding(
            "gguf",
            Severity.BLOCKER if known else Severity.NOTE,
            "It is a GGUF file, which ComfyUI itself does not load: "
            f"that takes the extension {GGUF_EXTENSION}, {there}.",
            f"Install {GGUF_EXTENSION} with ComfyUI-Manager, restart ComfyUI and use its {node!r} node; "
            "or take the .safetensors file of this model.",
            needed=GGUF_EXTENSION,
            found="not installed" if known else "unknown",
        )
    if identity is not None and has_unnamed_types(identity):
        yield Finding(
            "gguf_package",
            Severity.NOTE,
            "How its weights are packed has no name here, because the gguf package is missing or older "
            "than the file.",
            "Install it with: pip install --upgrade gguf",
            needed="gguf",
            found="not installed, or older",
        )


def _kernel_findings(
    kind: QuantizationType, identity: ModelIdentity | None, system: SystemSnapshot
) -> Iterator[Finding]:
    saves = "It runs all the same, and saves memory: ComfyUI widens each layer when it computes."
    if identity is not None and kind in _FP8 and not identity.quantization_layout:
        yield Finding(
            "emulated",
            Severity.NOTE,
            f"Its weights are plain {kind.value}, which ComfyUI widens when it computes, on every card.",
            "It runs, and saves memory. weight_dtype fp8_e4m3fn_fast, or ComfyUI's --fast, computes in fp8 "
            "where the card can.",
        )
        return
    kernel = _kernel_for(kind, system)
    if kernel is None:
        yield Finding(
            "kernel_unknown",
            Severity.NOTE,
            f"Whether its {kind.value} weights are computed as they are, or widened first, is not known: "
            f"{'this ComfyUI does not say' if system.knows_comfyui else 'host unknown'}.",
            "It loads either way. A running ComfyUI knows: use the node CheckCompatibility, or --server.",
            needed=f"{kind.value} kernels",
            found="unknown",
        )
    elif kernel.status is KernelStatus.UNSUPPORTED:
        yield Finding(
            FORMAT_UNSUPPORTED,
            Severity.BLOCKER,
            f"Its {kind.value} weights cannot be computed here: {kernel.reason}.",
            "Use the original of this model, or another format.",
            needed=f"{kind.value} kernels",
            found=kernel.reason,
        )
    elif kernel.status is KernelStatus.EMULATED:
        yield Finding(
            "emulated",
            Severity.NOTE,
            f"Its {kind.value} weights are not computed as they are here: {kernel.reason}.",
            saves,
            needed=f"{kind.value} kernels",
            found=kernel.reason,
        )


def kernel_of(identity: ModelIdentity, system: SystemSnapshot) -> Kernel | None:
    """Return how this host computes the file's quantized layers; None without any, or if nobody knows."""
    if not identity.quantization_layout:
        return None
    return _kernel_for(identity.quantization, system)


def _kernel_for(kind: QuantizationType, system: SystemSnapshot) -> Kernel | None:
    names = {name for name, known in COMFY_FORMATS.items() if known is _plain_kind(kind)}
    return next((kernel for kernel in system.kernels or () if kernel.format in names), None)


def loads_layers(identity: ModelIdentity, system: SystemSnapshot) -> bool:
    """Tell whether this host loads the file's quantized layers; True where nobody knows."""
    return unknown_layers(identity, system) is None


def unknown_layers(identity: ModelIdentity, system: SystemSnapshot) -> QuantizationType | None:
    """Return the first type of the file's layers that this host does not load; None if it loads them all."""
    if identity.quantization_layout != COMFY_QUANT or system.layer_formats is None:
        return None
    for kind in identity.layer_types or (identity.quantization,):
        names = [name for name, known in COMFY_FORMATS.items() if known is _plain_kind(kind)]
        if names and not system.layer_formats.intersection(names):
            return kind
    return None


def _plain_kind(kind: QuantizationType) -> QuantizationType:
    """Rotated int8 layers carry the name of plain ones."""
    return QuantizationType.INT8 if kind is QuantizationType.INT8_CONVROT else kind


def _older(found: str, needed: str) -> bool:
    """Tell whether an installed version is older; one that nobody can read gets the benefit of the doubt."""
    return parse_version(found) is not None and compare_versions(found, needed) < 0


def _memory_notes(subject: Subject, system: SystemSnapshot) -> Iterator[Finding]:
    identity = subject.identity
    if identity is None or not identity.is_diffusion:
        return
    weights = identity.weight_bytes
    video = max((gpu.total_bytes for gpu in system.gpus), default=0)
    shared = any(gpu.backend == "mps" for gpu in system.gpus)
    everything = max(system.total_ram_bytes, video) if shared else system.total_ram_bytes + video
    if weights > everything:
        yield Finding(
            "larger_than_memory",
            Severity.SLOW,
            f"Its weights take {format_bytes(weights)}, more than all memory here together "
            f"({format_bytes(everything)}).",
            "ComfyUI would have to read them from the disk at every step: quantize the model first.",
            needed=format_bytes(weights),
            found=format_bytes(everything),
        )
    elif system.gpus and weights > video:
        yield Finding(
            "offloaded",
            Severity.SLOW,
            f"Its weights take {format_bytes(weights)}, more than the {format_bytes(video)} of VRAM.",
            "ComfyUI will keep a part in RAM and move it for every step; a quantized variant moves less.",
            needed=format_bytes(weights),
            found=format_bytes(video),
        )


class ModelCompatibilityChecker:
    """Judge models on this machine.

    Args:
        host: the machine; a :class:`LocalHost` when None.
        identity: reads a file's identity; straight from its header when None.
    """

    def __init__(
        self,
        host: Host | None = None,
        identity: Callable[[Path], ModelIdentity] | None = None,
    ) -> None:
        if host is None:
            from .local_host import LocalHost

            host = LocalHost()
        self._host = host
        self._identity = identity or self._read_identity

    def check_model_compatibility(self, info: ModelInfo) -> tuple[bool, list[str]]:
        """Return whether nothing blocks the model, and every finding in words."""
        report = self.report(info)
        return report.compatible, report.issues

    def report(self, info: ModelInfo) -> CompatibilityReport:
        """Return the verdict on what a person registered; the file may not exist yet."""
        return assess(self._subject(info.name, info, info.model_type, info.file_path), self._host.system())

    def report_file(
        self, name: str, path: Path, expected: ModelType | None, info: ModelInfo | None = None
    ) -> CompatibilityReport:
        """Return the verdict on a file.

        Raises:
            ModelNotFound: it is not there.
        """
        subject = self._subject(name, info, expected, path)
        if subject.identity is None and subject.file_error is None:
            raise ModelNotFound(
                f"There is no file at {path}.", "Check the path, or download the model first."
            )
        return assess(subject, self._host.system())

    def report_remote(
        self, name: str, identity: ModelIdentity | None, size: int | None, error: ManagedModelsError | None
    ) -> CompatibilityReport:
        """Return the verdict on a model that is not here, whose header was read or is broken (``error``)."""
        return assess(Subject(name, None, None, identity, size, error, remote=True), self._host.system())

    @staticmethod
    def compare_versions(a: str, b: str) -> int:
        """Return -1, 0 or 1 as ``a`` is older than, the same as or newer than ``b`` (PEP 440)."""
        return compare_versions(a, b)

    def get_system_info(self) -> dict[str, Any]:
        """Return versions, memory and GPUs; figures in GB of 1024^3 bytes."""
        return self._host.system().to_dict()

    def _read_identity(self, path: Path) -> ModelIdentity:
        from .identify import read_identity

        return read_identity(path, self._host.detect)

    def _subject(self, name: str, info: ModelInfo | None, expected: ModelType | None, path: Path) -> Subject:
        absent = Subject(name, info, expected, None, None)
        if path == Path():  # registered without a file
            return absent
        try:
            identity = self._identity(path)
            size = path.stat().st_size
        except ModelNotFound:
            return absent
        except ManagedModelsError as error:
            return Subject(name, info, expected, None, None, error)
        return Subject(name, info, expected, identity, size)
