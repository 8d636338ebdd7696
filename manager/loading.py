"""Loading models through the pool, with a judgement first and words after."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .compatibility import (
    FORMAT_UNSUPPORTED,
    CompatibilityReport,
    Finding,
    ModelCompatibilityChecker,
    with_article,
)
from .config import parse_duration
from .errors import BadInput, Incompatible, NotAvailable, NotSafetensors
from .files import FileIdentity
from .formats.sniff import GGUF_FILE
from .host import AS_STORED, DEFAULT, WEIGHT_DTYPES, Host, LoadedParts, LoadRequest, ModelFile
from .identify import ModelIdentity
from .library import Library, try_identity
from .load_options import ERROR, ON_MISFIT, OTHER_LOADERS, USE_SMALLER, WARN, text_encoder_request
from .model import ModelType, QuantizationType
from .placement import CPU, WeightSizes, Wish, place, weight_sizes
from .pool import ModelPool, PoolKey
from .registry import Registry
from .variants.service import Family, Variants
from .versions.service import nothing_known
from .words import variants as words


@dataclass(frozen=True)
class Choice:
    """The file that a load takes; ``instead`` says why it is another one than was chosen, else None."""

    file: ModelFile
    instead: dict[str, Any] | None = None


@dataclass(frozen=True)
class Loaded:
    """The parts of a loaded model, and JSON-safe details for ``report.render_load``."""

    parts: LoadedParts
    details: dict[str, Any]


class Loader:
    """Load models of every kind through the pool.

    Args:
        host: the machine.
        library: knows the files.
        checker: judges before anything is read.
        pool: has what is loaded already, and does the loading.
        variants: knows what to take instead of a model that does not fit.
        about: says what is known of a file's version, see :meth:`Versioning.about`.
        damage: says what was found wrong with a file, see :meth:`Integrity.problem`.
        used: hears of the files of every load.
    """

    def __init__(
        self,
        host: Host,
        library: Library,
        checker: ModelCompatibilityChecker,
        pool: ModelPool,
        variants: Variants | None = None,
        about: Callable[[Path], dict[str, Any]] | None = None,
        damage: Callable[[Path], Finding | None] = lambda path: None,
        used: Callable[[Sequence[Path]], None] = lambda paths: None,
    ) -> None:
        self._host = host
        self._library = library
        self._checker = checker
        self._pool = pool
        self._variants = variants or Variants(host, library, Registry())
        self._about = about or (lambda path: nothing_known() | {"version": library.version_of(path)})
        self._damage = damage
        self._used = used

    def choose(self, file: ModelFile, weight_dtype: str = DEFAULT, device: str = DEFAULT) -> Choice:
        """Return what ``use_smaller`` loads: the file, or where it does not fit its best variant that does.

        Raises:
            Incompatible: no installed variant fits that is surely the same model.
            FileError, ModelNotFound: the file is not there, or no good.
        """
        identity = self._library.identity(file.path)
        if not identity.is_diffusion:
            return Choice(file)  # loading says what is wrong with it
        family = self._family(file, identity, weight_dtype, device, making=False)
        best = family.way_out.best
        if family.subject.fits:
            return Choice(file)
        if best is None:
            details = self._family(file, identity, weight_dtype, device, making=True).to_dict()
            raise Incompatible(*words.no_variant_words(file.name, details))
        return Choice(family.files[best], words.instead_details(file.name, family.to_dict()))

    def _family(
        self, file: ModelFile, identity: ModelIdentity, weight_dtype: str, device: str, making: bool
    ) -> Family:
        return self._variants.family(
            file.name,
            file.path,
            identity,
            self._host.system(),
            weight_dtype,
            self._releasable,
            device == CPU,
            making,
        )

    def load(
        self,
        name: str,
        path: Path,
        weight_dtype: str = DEFAULT,
        on_misfit: str = WARN,
        folder: str = "",
        keep_alive: str | None = None,
        device: str = DEFAULT,
        attention: str = DEFAULT,
    ) -> Loaded:
        """Load the diffusion model or checkpoint at ``path``, called ``name`` in words.

        Args:
            weight_dtype: one of ``WEIGHT_DTYPES``; concerns the diffusion part.
            on_misfit: ``warn`` reports problems, ``error`` refuses to load with them, ``use_smaller``
                takes the best installed variant that fits.
            folder: the folder type it came from, if any.
            keep_alive: how long it stays after its last use; the setting's when None.
            device: ``default``, or one of the host's.
            attention: ``default``, or one of the host's backends; this handle alone uses it.

        Raises:
            BadInput: an unknown value, or a file of another role.
            Incompatible: something blocks it and ``on_misfit`` is ``error``, or nothing fits instead.
            FileError, ModelNotFound, LoadFailed: the file is not there, no good, or refused.
        """
        _check_choice("weight_dtype", weight_dtype, WEIGHT_DTYPES)
        _check_choice("on_misfit", on_misfit, ON_MISFIT)
        instead = None
        if on_misfit == USE_SMALLER:
            choice = self.choose(ModelFile(folder, name, path), weight_dtype, device)
            name, path, folder = choice.file.name, choice.file.path, choice.file.folder or folder
            instead = choice.instead
        identity = self._library.identity(path)
        expected = ModelType.CHECKPOINT if folder == "checkpoints" else ModelType.DIFFUSION
        report = self._checker.report_file(name, path, expected, self._library.info_of(path))
        damage = self._damage(path)
        if damage is not None:
            report = dataclasses.replace(report, findings=(damage, *report.findings))
        _refuse_gguf(name, identity)
        _refuse_wrong_role(name, identity)
        _refuse_noise(name, report)
        if on_misfit == ERROR and not report.compatible:
            raise Incompatible(
                f"{name} does not fit this machine: {report.issues[0]}",
                "Set on_misfit to warn to load it anyway.",
            )
        dtype, notes = _effective_dtype(weight_dtype, identity)
        whole = identity.role is ModelType.CHECKPOINT or folder == "checkpoints"
        kind = ModelType.CHECKPOINT if whole else ModelType.DIFFUSION
        request = LoadRequest(path, kind, dtype, _dominant(identity), device)
        loaded = self._get(name, request, "LoadManagedModel", keep_alive, notes, identity)
        loaded = self._with_attention(loaded, attention)
        unfilled = _fill(loaded.parts, name)
        precision = identity.precision if identity.quantized_layers else loaded.parts.dtype
        loaded.details.update(
            identity=identity.to_dict(),
            dtype=precision,
            weight_dtype=weight_dtype,
            instead=instead,
            unfilled={output: f"use {loader!r}" for output, loader in unfilled.items()},
            findings=[finding.to_dict() for finding in report.findings],
        )
        return loaded

    def load_text_encoder(
        self,
        files: Sequence[ModelFile],
        encoder_type: str,
        keep_alive: str | None = None,
        device: str = DEFAULT,
    ) -> Loaded:
        """Load a text encoder of one to four files.

        Args:
            encoder_type: what it is for, in the stock loaders' words.

        Raises:
            BadInput: a file is of another role.
            FileError, ModelNotFound, LoadFailed: a file is not there, no good, or refused.
        """
        for file in files:
            self._refuse_other_role(file, ModelType.TEXT_ENCODER, "a text encoder")
        name = " + ".join(file.name for file in files)
        paths = [file.path for file in files]
        request = text_encoder_request(paths, encoder_type, device, name)
        return self._get(name, request, "LoadManagedTextEncoder", keep_alive, self._damage_notes(paths))

    def load_vae(
        self, name: str, paths: Sequence[Path], keep_alive: str | None = None, device: str = DEFAULT
    ) -> Loaded:
        """Load a VAE: what the stock loader offers under ``name``, which is in these files.

        Args:
            paths: one file, the encoder and the decoder of a pair, or none for what has no weights.

        Raises:
            BadInput: a file is of another role.
            FileError, ModelNotFound, LoadFailed: a file is not there, no good, or refused.
        """
        if not paths:
            parts = self._host.load(LoadRequest(Path(name), ModelType.VAE, name=name))
            return Loaded(parts, _details(name, parts))
        first, *more = paths
        if not more:
            self._refuse_other_role(ModelFile("vae", name, first), ModelType.VAE, "a VAE")
        request = LoadRequest(first, ModelType.VAE, device=device, more_paths=tuple(more), name=name)
        return self._get(name, request, "LoadManagedVAE", keep_alive, self._damage_notes(paths))

    def _damage_notes(self, paths: Sequence[Path]) -> list[str]:
        found = (self._damage(path) for path in paths)
        return [f"{damage.message} {damage.remedy}" for damage in found if damage is not None]

    def _get(
        self,
        name: str,
        request: LoadRequest,
        loader: str,
        keep_alive: str | None,
        notes: list[str],
        identity: ModelIdentity | None = None,
    ) -> Loaded:
        started = time.monotonic()
        seconds = None if keep_alive is None else parse_duration(keep_alive)
        size = sum(FileIdentity.of(path).size for path in request.paths)
        sizes = weight_sizes(identity, size, request.weight_dtype)
        placed, place_notes = self._place(request, sizes)
        parts = self._pooled(request, placed, loader, seconds)
        shared = parts is not None
        if parts is None:
            needed = sizes.on_cpu if self._is_cpu(placed) else sizes.on_gpu
            parts, shared = self._pool.get(placed, loader, seconds, needed)
        self._used(request.paths)
        about = self._about(request.path)
        details = _details(name, parts) | {
            "version": about["version"],
            "version_hint": about["version_hint"],
            "versions": about,
            "size_bytes": size,
            "shared": shared,
            "keep_alive": keep_alive,
            "notes": [*notes, *place_notes],
            "seconds": round(time.monotonic() - started, 2),
        }
        return Loaded(parts, details)

    def _place(self, request: LoadRequest, sizes: WeightSizes) -> tuple[LoadRequest, tuple[str, ...]]:
        wish = Wish(
            device=request.device,
            kind=request.kind,
            sizes=sizes,
            devices=tuple(self._host.devices()),
            uses=tuple(self._host.device_use()),
            available_ram=self._host.ram().available_bytes + self._releasable(),
            obeyed=self._host.places(request.kind),
        )
        device, notes = place(wish)
        return dataclasses.replace(request, device=device), notes

    def _pooled(
        self, request: LoadRequest, placed: LoadRequest, loader: str, keep_alive: float | None
    ) -> LoadedParts | None:
        """Return a model that is loaded already on any card, where nobody asked for a certain one.

        Cards fill and empty: choosing anew each time would load a second copy beside the first.
        """
        cards = [device for device in self._host.devices() if device != CPU]
        if request.device != DEFAULT or len(cards) < 2:
            return None
        for device in (placed.device, DEFAULT, *cards):
            key = PoolKey.of(dataclasses.replace(request, device=device))
            found = self._pool.find(key, loader, keep_alive)
            if found is not None:
                return found
        return None

    def _releasable(self, own: Collection[Path] = ()) -> int:
        """Return the bytes of RAM that the pool gives back when a load needs them.

        Args:
            own: files whose models count as well, in use or not: the load is of one of them.
        """
        return sum(
            m.ram_bytes
            for m in self._pool.models()
            if not (m.held or m.busy or m.pinned) or not set(own).isdisjoint(m.paths)
        )

    def _is_cpu(self, request: LoadRequest) -> bool:
        return CPU in (request.device, *self._host.devices()[:1])

    def _with_attention(self, loaded: Loaded, name: str) -> Loaded:
        """Return the same weights with another way to compute attention, or say why not."""
        if name == DEFAULT:
            return loaded
        try:
            parts = self._host.with_attention(loaded.parts, name)
        except NotAvailable as error:
            loaded.details["notes"].append(f"{error} ComfyUI's own choice is used.")
            return loaded
        return Loaded(parts, loaded.details | {"attention": name})

    def _refuse_other_role(self, file: ModelFile, role: ModelType, words: str) -> None:
        identity, error = try_identity(self._library, file.path)
        if identity is not None:
            _refuse_gguf(file.name, identity)
        if isinstance(error, NotSafetensors) or identity is None:
            return  # ComfyUI reads pickles of these kinds, and says itself what is wrong with others
        if identity.recognised and identity.role not in (role, ModelType.CHECKPOINT):
            raise BadInput(
                f"{file.name} is {with_article(identity.title)}, and {words} is expected.",
                "Choose another file, or the loader for this kind.",
            )


def _details(name: str, parts: LoadedParts) -> dict[str, Any]:
    """Return what every load says; of something that no file holds, all there is to say."""
    return {
        "model": name,
        "version": None,
        "version_hint": None,
        "size_bytes": 0,
        "loaded_bytes": parts.size_bytes,
        "dtype": parts.dtype,
        "device": parts.device,
        "attention": DEFAULT,
        "shared": False,
        "keep_alive": None,
        "notes": [],
        "findings": [],
        "seconds": 0.0,
    }


def _check_choice(option: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a value that does not exist."""
    if value not in choices:
        raise BadInput(f"{option} is {value!r}.", f"Use one of {', '.join(choices)}.")


def _fill(parts: LoadedParts, name: str) -> dict[str, str]:
    """Return the outputs that the file cannot fill and the loader for each."""
    found = {"CLIP": parts.clip, "VAE": parts.vae}
    return {output: OTHER_LOADERS[output] for output, part in found.items() if part is None}


def _refuse_gguf(name: str, identity: ModelIdentity) -> None:
    if identity.quantization is QuantizationType.GGUF:
        raise NotSafetensors(
            f"{name} is a GGUF file, which this node does not load.",
            "Use the loader of the ComfyUI-GGUF extension for it.",
            looks_like=GGUF_FILE,
        )


def _refuse_wrong_role(name: str, identity: ModelIdentity) -> None:
    if identity.is_diffusion or not identity.recognised:
        return
    raise BadInput(
        f"{name} is {with_article(identity.title)}, and a diffusion model or checkpoint is expected.",
        "Choose another file, or ComfyUI's own loader for this kind.",
    )


def _refuse_noise(name: str, report: CompatibilityReport) -> None:
    """Refuse what loads without an error and gives noise, whatever ``on_misfit`` says."""
    for finding in report.findings:
        if finding.code == FORMAT_UNSUPPORTED:
            raise Incompatible(f"{name} cannot be used here: {finding.message}", finding.remedy)


def _effective_dtype(weight_dtype: str, identity: ModelIdentity) -> tuple[str, list[str]]:
    """Return the option to load with, and what a person should know about it."""
    quantized = identity.quantized_layers > 0
    if quantized and weight_dtype not in (DEFAULT, AS_STORED):
        return DEFAULT, [
            f"weight_dtype {weight_dtype} is left aside: the file is quantized ({identity.precision}) "
            "and keeps its own precision."
        ]
    if quantized:
        return DEFAULT, []
    if weight_dtype == "fp8_e4m3fn_fast" and identity.role is ModelType.CHECKPOINT:
        return "fp8_e4m3fn", [
            "ComfyUI has no fast fp8 arithmetic for checkpoints: this one is stored as fp8_e4m3fn "
            "and computed in higher precision."
        ]
    if weight_dtype == AS_STORED and identity.quantization is QuantizationType.INT8:
        return DEFAULT, []
    return weight_dtype, []


def _dominant(identity: ModelIdentity) -> str:
    """Return the name of the type that most weights are stored in, ``bf16`` for example."""
    return next(iter(identity.dtypes), "")
