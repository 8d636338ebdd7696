"""The thin actor: gathers the facts for a forecast, and puts the answer into details."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ..check_options import CheckOptions
from ..checking import Advice, Asked
from ..compatibility import Finding, Severity, kernel_of
from ..errors import ManagedModelsError, ModelNotFound
from ..files import FileIdentity
from ..formats.dtypes import DTYPE_BITS
from ..formats.safetensors import Header, read_header
from ..host import AS_STORED, DEFAULT, Host, SystemSnapshot
from ..identify import ModelIdentity
from ..registry import Peak, Registry
from .decide import SAMPLING, Machine, Measured, Placement, Question, forecast, weight_room
from .facts import Footprint, VaeFootprint
from .findings import REPLACED, Wanted, find
from .footprints import Footprints
from .table import usual_size

_VAE_PREFIXES = ("first_stage_model.", "vae.")


class Size(NamedTuple):
    """What is to be made, in pixels and frames; ``usual`` when nobody asked for another."""

    width: int
    height: int
    length: int
    batch_size: int
    usual: bool

    @property
    def words(self) -> str:
        frames = f" with {self.length} frames" if self.length > 1 else ""
        batch = f", {self.batch_size} at once" if self.batch_size > 1 else ""
        return f"{self.width} x {self.height}{frames}{batch}"


class Forecaster:
    """Answers whether a diffusion model fits, with what goes with it.

    Args:
        host: knows its casts, its memory and its VAE.
        registry: has what earlier runs took.
        vram_reserve: bytes of video memory that a person wants left; None for the host's own.
        footprints: what models take in memory; asked of the host when None.
    """

    key = "forecast"

    def __init__(
        self,
        host: Host,
        registry: Registry,
        vram_reserve: Callable[[], int | None],
        footprints: Footprints | None = None,
    ) -> None:
        self._host = host
        self._registry = registry
        self._vram_reserve = vram_reserve
        self._footprints = footprints or Footprints(host)

    def advise(self, asked: Asked) -> Advice | None:
        """Return the forecast; None for what is no diffusion model, and for GGUF, which ComfyUI leaves alone.

        Raises:
            ManagedModelsError: the model's header cannot be read any more.
        """
        if not asked.identity.is_diffusion:
            return None
        header = asked.read_header()
        if header is None:
            return None
        options = asked.options
        model = self._footprint(asked.path, header, options.weight_dtype)
        size = size_of(options, asked.identity.architecture, model)
        shape = latent_shape(size, asked.identity.architecture, model)
        machine = self._machine(asked.system)
        second, troubles = self._second(options)
        question = Question(
            machine=machine,
            model=model,
            shape=shape,
            encoder_bytes=_encoder_bytes(asked.identity, header, options.companions.get("clip")),
            vae=self._vae(asked.identity, header, options.companions.get("vae"), shape),
            second=second,
            measured=self._measured(asked, model, shape),
        )
        answer = forecast(question)
        stored = _as_stored(asked.identity, model, answer.phase(SAMPLING).placement)
        wanted = Wanted(size.words if size else "", stored)
        details = {
            "size": size._asdict() if size else None,
            "latent": list(shape) if shape else None,
            "weight_dtype": options.weight_dtype,
            "model": _model_details(model, asked.identity),
            "machine": _machine_details(machine),
            "phases": [phase.to_dict() for phase in answer.phases],
            "timeline": answer.timeline.to_dict() if answer.timeline else None,
            "kernel": _kernel_details(asked),
            "load_anyway": True,
        }
        return Advice(details, (*find(answer, machine, wanted), *troubles), replaces=REPLACED)

    def file_room(self, path: Path, identity: ModelIdentity) -> int | None:
        """Return how large a variant of this file may be whose weights the largest GPU holds; None without.

        At the architecture's usual size. A checkpoint's other parts are allowed for on top.

        Raises:
            ManagedModelsError: the file cannot be read.
        """
        header = read_header(path)
        model = self._footprint(path, header, DEFAULT) if identity.is_diffusion else None
        size = size_of(CheckOptions(), identity.architecture, model)
        shape = latent_shape(size, identity.architecture, model)
        working = model.inference_bytes(shape) if model and shape else None
        room = weight_room(self._machine(self._host.system()), working)
        return None if room is None else room + header.file_size - identity.weight_bytes

    def _machine(self, system: SystemSnapshot) -> Machine:
        reserve = self._vram_reserve()
        if reserve is None:
            reserve = self._host.vram_reserve()
        return machine_of(system, reserve, self._host.ram_headroom())

    def _footprint(self, path: Path | None, header: Header, dtype: str) -> Footprint | None:
        """Ask the host once for each file and type of weights."""
        if path is None:
            return self._host.footprint(header, dtype)
        return self._footprints.of(path, dtype, header)

    def _second(self, options: CheckOptions) -> tuple[Footprint | None, tuple[Finding, ...]]:
        path = options.companions.get("second_model")
        if path is None:
            return None, ()
        try:
            found = self._footprint(path, read_header(path), options.weight_dtype)
        except ManagedModelsError as error:
            trouble = Finding("second_model_unreadable", Severity.BLOCKER, error.message, error.remedy)
            return None, (trouble,)
        if found is not None:
            return found, ()
        words = f"{path.name} is not recognised as a diffusion model, so nothing is said about the pair."
        remedy = "Choose the other half of the pair as the second model."
        return None, (Finding("second_model_unknown", Severity.NOTE, words, remedy),)

    def _vae(
        self,
        identity: ModelIdentity,
        header: Header,
        path: Path | None,
        shape: tuple[int, ...] | None,
    ) -> VaeFootprint | None:
        if path is not None:
            try:
                return self._host.vae_footprint(read_header(path), shape)
            except ManagedModelsError:  # the pairing says so
                return None
        if "vae" not in identity.parts:
            return None
        prefix = next((p for p in _VAE_PREFIXES if any(n.startswith(p) for n in header.tensors)), None)
        return None if prefix is None else self._host.vae_footprint(header, shape, prefix)

    def _measured(
        self, asked: Asked, model: Footprint | None, shape: tuple[int, ...] | None
    ) -> Measured | None:
        if asked.path is None or model is None or shape is None:
            return None
        try:
            peaks = self._registry.peaks(FileIdentity.of(asked.path))
        except ModelNotFound:
            return None
        if not peaks:
            return None
        devices = {use.name for use in self._host.device_use()} or {"cpu"}
        return measured_of(peaks, asked, model, shape, devices)


def _as_stored(identity: ModelIdentity, model: Footprint | None, placement: Placement) -> int | None:
    """Return what the weights would take without the host's casts, if that is less and would help."""
    if model is None or placement not in (Placement.DISK, Placement.NOT) or identity.quantized_layers:
        return None
    return identity.weight_bytes if identity.weight_bytes < model.weight_bytes else None


def machine_of(system: SystemSnapshot, vram_reserve: int, ram_headroom: int) -> Machine:
    """Return the memory that counts: ComfyUI computes on one card, and the largest can be chosen."""
    card = max(system.gpus, key=lambda gpu: gpu.total_bytes, default=None)
    return Machine(
        device=card.backend if card else "cpu",
        ram=system.total_ram_bytes,
        ram_free=system.available_ram_bytes,
        vram=card.total_bytes if card else 0,
        vram_free=card.free_bytes if card else None,
        vram_reserve=vram_reserve if card else 0,
        ram_headroom=ram_headroom,
        swap=system.swap_bytes,
    )


def size_of(options: CheckOptions, architecture: str | None, model: Footprint | None) -> Size | None:
    """Return what is asked for, filled up with the architecture's usual; None where there is no usual."""
    usual = usual_size(architecture)
    width, height = options.width or options.height, options.height or options.width
    length = options.length
    if usual is not None:
        width, height = options.width or usual.width, options.height or usual.height
        length = length or usual.length
    latent = model.latent if model and model.latent else usual.latent if usual else None
    if not width or not height or latent is None:
        return None
    if latent.dimensions != 3:
        length = 1
    asked_for = options.width or options.height or options.length
    return Size(width, height, max(1, length), options.batch_size, usual=not asked_for)


def latent_shape(
    size: Size | None, architecture: str | None, model: Footprint | None
) -> tuple[int, ...] | None:
    """Return the shape of the latent that is sampled; None if unknown, and for sound."""
    usual = usual_size(architecture)
    latent = model.latent if model and model.latent else usual.latent if usual else None
    if size is None or latent is None or latent.dimensions not in (2, 3):
        return None
    return latent.shape(size.width, size.height, size.length, size.batch_size)


def measured_of(
    peaks: Iterable[Peak], asked: Asked, model: Footprint, shape: tuple[int, ...], devices: set[str]
) -> Measured | None:
    """Return what runs took that were the same in file, options, shape, device and versions."""
    words, system = "x".join(str(size) for size in shape), asked.system
    dtype = asked.options.weight_dtype
    if dtype == AS_STORED:
        dtype = next(iter(asked.identity.dtypes), "")
    same = [
        peak
        for peak in peaks
        if peak.key.shape == words
        and peak.key.device in devices
        and peak.key.comfyui_version == (system.comfyui_version or "")
        and peak.key.torch_version == (system.torch_version or "")
        and _same_options(peak.key.options, dtype, model.weight_bytes)
    ]
    if not same:
        return None
    return Measured(
        max((peak.vram_bytes for peak in same if peak.vram_bytes is not None), default=None),
        max((peak.ram_bytes for peak in same if peak.ram_bytes is not None), default=None),
        sum(peak.count for peak in same),
    )


def _same_options(options: str, dtype: str, weight_bytes: int) -> bool:
    """Tell whether a peak's words mean these weights: the pool names the type, others the bytes."""
    said = options.split(", ")
    return said[1:2] in ([dtype], [f"{weight_bytes} bytes"])


def _encoder_bytes(identity: ModelIdentity, header: Header, path: Path | None) -> int | None:
    """Return what the text encoder's weights take: ComfyUI keeps them in 16 bits, or in fewer."""
    if path is not None:
        try:
            return _in_16_bits(read_header(path), ())
        except ManagedModelsError:  # the pairing says so
            return None
    if "text_encoder" not in identity.parts or not identity.prefix:
        return None
    return _in_16_bits(header, (identity.prefix, *_VAE_PREFIXES))


def _in_16_bits(header: Header, without: tuple[str, ...]) -> int:
    own = (info for name, info in header.tensors.items() if not name.startswith(without or "\0"))
    return int(sum(info.elements * min(DTYPE_BITS[info.dtype], 16) / 8 for info in own))


def _model_details(model: Footprint | None, identity: ModelIdentity) -> dict[str, Any] | None:
    if model is None:
        return None
    kept = identity.precision if identity.quantized_layers else model.weight_dtype
    return {
        "weight_bytes": model.weight_bytes,
        "confidence": model.confidence.value,
        "weight_dtype": kept,
        "compute_dtype": model.compute_dtype,
        "mapped": model.mapped,
        "source": model.source,
    }


def _machine_details(machine: Machine) -> dict[str, Any]:
    return {
        "device": machine.device,
        "shared_memory": machine.shared,
        "vram_bytes": machine.vram,
        "vram_usable_bytes": machine.vram_room,
        "vram_free_bytes": machine.vram_free,
        "ram_bytes": machine.ram,
        "ram_usable_bytes": machine.ram_room,
        "ram_free_bytes": machine.ram_free,
        "swap_bytes": machine.swap,
    }


def _kernel_details(asked: Asked) -> dict[str, Any] | None:
    kernel = kernel_of(asked.identity, asked.system)
    if kernel is None:
        return None
    return {"format": kernel.format, "status": kernel.status.value, "reason": kernel.reason}
