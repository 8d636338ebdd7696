"""What the manager asks of the machine it runs on, and the frozen snapshots that it gets back.

Two hosts obey this protocol: ``comfy_host`` inside ComfyUI, ``local_host`` everywhere else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from .units import to_gb

if TYPE_CHECKING:
    from .forecast.facts import Footprint, Kernel, VaeFootprint
    from .formats.safetensors import Header
    from .identify import Detection
    from .model import ModelType

DEFAULT = "default"
AS_STORED = "as_stored"
WEIGHT_DTYPES = (
    DEFAULT,
    AS_STORED,
    "fp8_e4m3fn",
    "fp8_e4m3fn_fast",
    "fp8_e5m2",
    "bf16",
    "fp16",
    "fp32",
)


@dataclass(frozen=True)
class Gpu:
    """One accelerator. Bytes; ``compute_capability`` such as ``8.9`` on NVIDIA, None elsewhere."""

    name: str
    backend: str
    total_bytes: int
    free_bytes: int | None
    compute_capability: str | None = None

    def to_dict(self) -> dict[str, Any]:
        free = None if self.free_bytes is None else to_gb(self.free_bytes)
        return {
            "name": self.name,
            "total_memory_gb": to_gb(self.total_bytes),
            "free_memory_gb": free,
            "compute_capability": self.compute_capability,
            "backend": self.backend,
        }


@dataclass(frozen=True)
class SystemSnapshot:
    """The machine at one moment. Versions are None when the software is not there.

    Attributes:
        host: ``ComfyUI 0.33.0``, or ``this machine`` outside ComfyUI.
        knows_comfyui: whether ComfyUI's own torch, kernels and flags were asked.
        device: the backend that models run on: cuda, rocm, xpu, mps or cpu.
        layer_formats: ComfyUI's names of the quantized layers that it loads; None if nobody knows.
        kernels: how each of these is computed here; None if nobody knows.
        swap_bytes: of the disk that the system uses as RAM; None if it is not known or grows.
    """

    host: str
    knows_comfyui: bool
    platform: str
    python_version: str
    torch_version: str | None
    cuda_version: str | None
    device: str
    gpus: tuple[Gpu, ...]
    total_ram_bytes: int
    available_ram_bytes: int
    cpu_count: int
    comfyui_version: str | None = None
    extensions: tuple[str, ...] = ()
    layer_formats: frozenset[str] | None = None
    kernels: tuple[Kernel, ...] | None = None
    swap_bytes: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the shape that ``get_system_info`` promises, figures in GB."""
        return {
            "host": self.host,
            "platform": self.platform,
            "python_version": self.python_version,
            "pytorch_version": self.torch_version,
            "cuda_available": self.device == "cuda" and self.cuda_version is not None,
            "cuda_version": self.cuda_version,
            "device": self.device,
            "comfyui_version": self.comfyui_version,
            "total_ram_gb": to_gb(self.total_ram_bytes),
            "available_ram_gb": to_gb(self.available_ram_bytes),
            "cpu_count": self.cpu_count,
            "gpu_devices": [gpu.to_dict() for gpu in self.gpus],
        }


class ModelFolder(NamedTuple):
    """A folder with models: its type (``diffusion_models``) and where it is."""

    type: str
    path: Path


@dataclass(frozen=True)
class ModelFile:
    """A file that a host offers: ``name`` is relative to its folder, as stock loaders write it."""

    folder: str
    name: str
    path: Path


@dataclass(frozen=True)
class LoadRequest:
    """One load: which files, as what, and with which options.

    Attributes:
        path: the file; the first one where a text encoder has several.
        kind: DIFFUSION; CHECKPOINT, which may also hold VAE and text encoders; TEXT_ENCODER; VAE.
        weight_dtype: one of ``WEIGHT_DTYPES``; concerns the diffusion part.
        stored_dtype: the type that most weights are stored in, for ``as_stored``.
        device: ``default``, or one of :meth:`Host.devices`.
        more_paths: further files of the same model, in order.
        encoder_type: what a text encoder is for, in the stock loader's words; empty for the rest.
        name: what a person chose, for a VAE that is no single file (``taesd``).
    """

    path: Path
    kind: ModelType
    weight_dtype: str = DEFAULT
    stored_dtype: str = ""
    device: str = DEFAULT
    more_paths: tuple[Path, ...] = ()
    encoder_type: str = ""
    name: str = ""

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path, *self.more_paths)


@dataclass(frozen=True)
class LoadedParts:
    """What a load gave: ComfyUI's MODEL, CLIP and VAE, or tensors by name outside ComfyUI.

    ``model`` is None for a text encoder or a VAE of its own.
    """

    model: Any
    clip: Any = None
    vae: Any = None
    dtype: str = ""
    device: str = "cpu"
    size_bytes: int = 0


@dataclass(frozen=True)
class ResidentModel:
    """A model in memory. Bytes; ``path`` is None when nobody recorded its file."""

    id: str
    title: str
    path: Path | None
    device: str
    size_bytes: int
    loaded_bytes: int
    ram_bytes: int
    kind: str = "static"

    @property
    def file_bytes(self) -> int:
        """What a dynamic model has neither on its device nor in RAM: it is read from the file when used."""
        elsewhere = self.size_bytes - self.loaded_bytes - self.ram_bytes
        return max(0, elsewhere) if self.kind == "dynamic" else 0

    def to_dict(self) -> dict[str, Any]:
        facts = dataclasses.asdict(self)
        facts["path"] = None if self.path is None else str(self.path)
        return facts


@dataclass(frozen=True)
class ProcessMemory:
    """Memory of this process in bytes: resident, and the part that maps files (None if unknown)."""

    rss_bytes: int
    mapped_bytes: int | None


class Ram(NamedTuple):
    """The machine's RAM in bytes: all of it, and what can be handed out now."""

    total_bytes: int
    available_bytes: int


@dataclass(frozen=True)
class DeviceUse:
    """Who uses one accelerator, in bytes; None where the platform does not tell.

    Attributes:
        device: torch's name of it, ``cuda:0``.
        torch_bytes: what torch has taken in this process, models and working memory together.
        others_bytes: what other processes hold.
    """

    device: str
    name: str
    total_bytes: int
    free_bytes: int | None
    torch_bytes: int | None
    others_bytes: int | None


@dataclass(frozen=True)
class RunningPrompt:
    """The prompt that is being carried out, and the node it is at (None between nodes)."""

    id: str
    node: str | None
    node_type: str | None


@dataclass(frozen=True)
class PromptError:
    """What stopped a prompt, and at which node; ``exception_type`` with its module's name."""

    node: str | None
    node_type: str | None
    exception_type: str
    message: str


@dataclass(frozen=True)
class PromptOutcome:
    """How a prompt ended: completed, with an error, or (neither) stopped by a person."""

    completed: bool
    error: PromptError | None = None


class Host(Protocol):
    """The machine. Implementations are safe to call from any thread."""

    @property
    def name(self) -> str:
        """``ComfyUI 0.33.0``, or ``this machine``."""

    def system(self) -> SystemSnapshot:
        """Look at the machine now."""

    def folders(self) -> Sequence[ModelFolder]:
        """Return where models are, in the host's order of preference."""

    def folder_types(self) -> Sequence[str]:
        """Return the folder types that hold models."""

    def names(self, folder: str) -> Sequence[str]:
        """Return the model files of one folder type, sorted, relative, as stock loaders list them."""

    def locate(self, folder: str, name: str) -> Path | None:
        """Return where the file is that :meth:`names` gave, the first of two; None if it is gone."""

    def detect(self, header: Header) -> Detection | None:
        """Recognise a diffusion model from its header, or return None."""

    def footprint(self, header: Header, weight_dtype: str) -> Footprint | None:
        """Return what the file's diffusion model takes once it is loaded, or None.

        Args:
            weight_dtype: one of ``WEIGHT_DTYPES``; ``as_stored`` means the type of most weights.
        """

    def vae_footprint(
        self, header: Header, latent: tuple[int, ...] | None, prefix: str = ""
    ) -> VaeFootprint | None:
        """Return what a VAE takes to decode a latent of this shape, or None.

        Args:
            latent: None asks for the weights alone.
            prefix: what the names of its tensors start with, in a checkpoint.
        """

    def kernels(self) -> Mapping[str, Kernel] | None:
        """Return how each quantized layer format is computed here, by format; None if nobody knows."""

    def load(self, request: LoadRequest) -> LoadedParts:
        """Load the file.

        Raises:
            LoadFailed: the host refused it.
        """

    def resident(self) -> Sequence[ResidentModel]:
        """Return the models in memory, most recently used first."""

    def unload(self, ids: Sequence[str]) -> Mapping[str, int]:
        """Take the models with these ids out of the device's memory.

        Returns:
            Bytes of device memory given back, by id; ids that are not in memory are left out.

        Raises:
            HostBusy: a prompt is running.
        """

    def share(self, parts: LoadedParts) -> LoadedParts:
        """Return other handles on the same weights: patching one leaves the rest as they are."""

    def handles(self, parts: LoadedParts) -> Sequence[object]:
        """Return what lives exactly as long as somebody uses ``parts``, for weak references."""

    def ids(self, parts: LoadedParts) -> Sequence[str]:
        """Return the ids under which :meth:`resident` lists the models in ``parts``."""

    def quiet(self) -> AbstractContextManager[None]:
        """Hold off every prompt while models are let go of; enter it for one model at a time.

        Raises:
            HostBusy: on entering, when a prompt is running elsewhere than on this thread.
        """

    def give_back(self) -> None:
        """Return to the system what was freed and is only kept for the next allocation."""

    def running(self) -> RunningPrompt | None:
        """Return the prompt that is running, None when nothing runs."""

    def outcome(self, prompt_id: str) -> PromptOutcome | None:
        """Return how a prompt ended, None while it runs and for one that nobody remembers."""

    def ram(self) -> Ram:
        """Look at the machine's RAM now."""

    def ram_headroom(self) -> int:
        """Return the bytes of RAM below which the host itself begins to let go of things in use."""

    def vram_reserve(self) -> int:
        """Return the bytes of video memory that the host leaves to other programs."""

    def devices(self) -> Sequence[str]:
        """Return the devices that a model may be sent to, in torch's names; ``cpu`` is one."""

    def places(self, kind: ModelType) -> bool:
        """Tell whether :meth:`load` obeys ``request.device`` for this kind; old hosts choose themselves."""

    def attentions(self) -> Sequence[str]:
        """Return the backends that can compute a model's attention, sorted; the default has no name."""

    def with_attention(self, parts: LoadedParts, name: str) -> LoadedParts:
        """Return other handles, whose model computes attention with this backend.

        Raises:
            NotAvailable: there is no such backend, or no diffusion model in ``parts``.
        """

    def checkpoint_gradients(self, model: Any, enabled: bool) -> int:
        """Compute a model's blocks twice while it trains instead of keeping what they computed, or stop.

        Concerns the weights, and so every handle on them; what the model computes stays the same.

        Returns:
            How many blocks were changed.

        Raises:
            HostRequired, NotAvailable: the host cannot do that, or not for this object.
        """

    def device_use(self) -> Sequence[DeviceUse]:
        """Look at every accelerator now; nothing for the CPU."""

    def forget_results(self) -> None:
        """Let go of every cached result, once the running prompt is done; models that nobody has go too."""

    def unload_all(self) -> None:
        """Take every model that is left out of the device's memory; after :meth:`forget_results`.

        Raises:
            HostBusy: a prompt is running, or results are not forgotten yet.
        """

    def memory(self) -> ProcessMemory:
        """Return the memory of this process."""

    def throw_if_cancelled(self) -> None:
        """Raise the host's own interrupt when a person asked to stop."""

    def progress(self, done: int, total: int) -> None:
        """Show how far a long job is, in bytes."""
