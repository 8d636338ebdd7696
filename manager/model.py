"""What a model is to a person: the names that the registry, the nodes and the command line share."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any


class ModelType(str, Enum):
    """The job a model file does in a workflow."""

    DIFFUSION = "diffusion"
    CHECKPOINT = "checkpoint"
    TEXT_ENCODER = "text_encoder"
    VAE = "vae"
    LORA = "lora"
    CONTROLNET = "controlnet"
    UPSCALER = "upscaler"
    LATENT_UPSCALER = "latent_upscaler"
    CLIP_VISION = "clip_vision"
    AUDIO_ENCODER = "audio_encoder"
    OTHER = "other"


class QuantizationType(str, Enum):
    """How a model's weights are stored. ``FP8`` is another name of ``FP8_E4M3``."""

    NONE = "none"
    FP16 = "fp16"
    BF16 = "bf16"
    FP8_E4M3 = "fp8_e4m3"
    FP8 = "fp8_e4m3"  # noqa: PIE796  # another name of the one above, on purpose
    FP8_E5M2 = "fp8_e5m2"
    INT8 = "int8"
    INT8_CONVROT = "int8_convrot"
    MXFP8 = "mxfp8"
    NVFP4 = "nvfp4"
    W4A4 = "w4a4"
    W4A8 = "w4a8"
    GGUF = "gguf"

    @classmethod
    def _missing_(cls, value: object) -> QuantizationType | None:
        aliases = {"fp8": cls.FP8_E4M3, "fp8_e4m3fn": cls.FP8_E4M3, "": cls.NONE, "fp32": cls.NONE}
        return aliases.get(str(value).lower())


# ComfyUI's folder under models/ -> what its files are. Both spellings of the renamed folders.
FOLDER_TYPES: dict[str, ModelType] = {
    "checkpoints": ModelType.CHECKPOINT,
    "diffusion_models": ModelType.DIFFUSION,
    "unet": ModelType.DIFFUSION,
    "text_encoders": ModelType.TEXT_ENCODER,
    "clip": ModelType.TEXT_ENCODER,
    "vae": ModelType.VAE,
    "vae_approx": ModelType.VAE,
    "loras": ModelType.LORA,
    "controlnet": ModelType.CONTROLNET,
    "t2i_adapter": ModelType.CONTROLNET,
    "model_patches": ModelType.OTHER,
    "upscale_models": ModelType.UPSCALER,
    "latent_upscale_models": ModelType.LATENT_UPSCALER,
    "clip_vision": ModelType.CLIP_VISION,
    "audio_encoders": ModelType.AUDIO_ENCODER,
    "style_models": ModelType.OTHER,
    "gligen": ModelType.OTHER,
    "photomaker": ModelType.OTHER,
    "background_removal": ModelType.OTHER,
    "detection": ModelType.OTHER,
    "embeddings": ModelType.OTHER,
    "frame_interpolation": ModelType.OTHER,
    "geometry_estimation": ModelType.OTHER,
    "hypernetworks": ModelType.OTHER,
    "optical_flow": ModelType.OTHER,
}
# Renamed folders -> the name ComfyUI uses today.
FOLDER_ALIASES: dict[str, str] = {
    "unet": "diffusion_models",
    "clip": "text_encoders",
    "t2i_adapter": "controlnet",
}
# What ComfyUI lists in its model folders.
MODEL_SUFFIXES = frozenset({".safetensors", ".sft", ".ckpt", ".pt", ".pt2", ".bin", ".pth", ".pkl", ".gguf"})


@dataclass
class ModelInfo:
    """What a person says about one version of a model.

    Nothing here is checked against the file, which may not exist yet. ``size_gb``,
    ``min_vram_gb`` and ``min_ram_gb`` are in GB of 1024^3 bytes.
    """

    name: str
    model_type: ModelType
    file_path: Path
    size_gb: float | None = None
    version: str = "1.0.0"
    min_vram_gb: float | None = None
    min_ram_gb: float | None = None
    compatible_frameworks: list[str] = field(default_factory=lambda: ["pytorch"])
    required_extensions: list[str] = field(default_factory=list)
    quantization: QuantizationType = QuantizationType.NONE
    min_torch_version: str | None = None
    url: str | None = None
    sha256: str | None = None
    license: str | None = None
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model_type = ModelType(self.model_type)
        self.quantization = QuantizationType(self.quantization)
        self.file_path = Path(self.file_path)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary that :meth:`from_dict` reads back."""
        facts = dataclasses.asdict(self)
        facts["model_type"] = self.model_type.value
        facts["quantization"] = self.quantization.value
        facts["file_path"] = str(self.file_path)
        return facts

    @classmethod
    def from_dict(cls, facts: dict[str, Any]) -> ModelInfo:
        """Read what :meth:`to_dict` wrote; keys of a newer version are ignored."""
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in facts.items() if key in known})
