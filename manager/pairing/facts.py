"""What a file's header says of the files that it belongs with. Pure: tensors in, frozen facts out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..formats.safetensors import TensorInfo
from ..identify import ModelIdentity
from ..identify.architectures import first_match
from ..model import ModelType
from .lora import LoraLayers, find_base, read_layers
from .lora_names import Target, layer_names
from .table import (
    FAMILY_OF_ARCHITECTURE,
    SPACES,
    TEXT_ENCODERS,
    VAES,
    Family,
    TextEncoder,
    VaeKind,
    families_of_encoder,
    families_of_spaces,
)

Tensors = Mapping[str, TensorInfo]

_VAE_PREFIXES = ("", "first_stage_model.", "vae.")
_EMBEDDINGS = (
    "shared.weight",
    "model.embed_tokens.weight",
    "model.language_model.embed_tokens.weight",
    "text_model.embeddings.token_embedding.weight",
)
PACKED = ("U8", "I8")  # types in which two 4-bit weights may share a byte: half as long as the layer
# Tensors that give the latent channels of a VAE that no row knows, for what was seen.
_VAE_INPUTS = ("decoder.conv_in.weight", "decoder.conv_in.conv.weight", "decoder.conv1.weight")


@dataclass(frozen=True)
class DiffusionFacts:
    """A diffusion model.

    Attributes:
        title: its architecture's name.
        family: its row of the table, None when the table has none.
        latent_in: channels that its first layer takes, masks and pictures among them; None if unknown.
        latent_out: channels of the latent that it gives.
        text_width: numbers per token that it expects of its text encoders.
        tensors: its own tensors, without their prefix.
        parts: what the file holds besides: ``vae``, ``text_encoder``.
    """

    name: str
    title: str
    family: Family | None
    latent_in: int | None
    latent_out: int | None
    text_width: int | None
    tensors: Tensors = field(repr=False)
    parts: tuple[str, ...] = ()
    architecture: str | None = None
    role: ModelType = ModelType.DIFFUSION

    @property
    def families(self) -> frozenset[str]:
        return frozenset([self.family.id]) if self.family else frozenset()

    @cached_property
    def layer_names(self) -> Mapping[str, Target]:
        """What a LoRA may call this model's layers."""
        return layer_names(self.tensors, self.family.lora_names if self.family else ())

    def to_dict(self) -> dict[str, Any]:
        return _facts(
            self,
            architecture=self.architecture,
            latent_channels=self.latent_out,
            input_channels=self.latent_in,
            text_width=self.text_width,
        )


@dataclass(frozen=True)
class VaeFacts:
    """A VAE; ``kind`` is None for one that the table does not know."""

    name: str
    title: str
    kind: VaeKind | None
    latent_channels: int | None
    spatial: int | None
    temporal: int | None
    seen: tuple[str, ...] = ()
    role: ModelType = ModelType.VAE

    @property
    def families(self) -> frozenset[str]:
        return families_of_spaces(self.kind.spaces) if self.kind else frozenset()

    def to_dict(self) -> dict[str, Any]:
        return _facts(
            self,
            kind=self.kind.id if self.kind else None,
            latent_channels=self.latent_channels,
            spatial_factor=self.spatial,
            temporal_factor=self.temporal,
        )


@dataclass(frozen=True)
class TextEncoderFacts:
    """A text encoder; ``kind`` is None for one that the table does not know."""

    name: str
    title: str
    kind: TextEncoder | None
    width: int | None
    seen: tuple[str, ...] = ()
    role: ModelType = ModelType.TEXT_ENCODER

    @property
    def families(self) -> frozenset[str]:
        return families_of_encoder(self.kind.id) if self.kind else frozenset()

    def to_dict(self) -> dict[str, Any]:
        return _facts(self, kind=self.kind.id if self.kind else None, text_width=self.width)


@dataclass(frozen=True)
class LoraFacts:
    """A LoRA: what it changes, and the models that its names of layers can be of."""

    name: str
    title: str
    layers: LoraLayers
    base: str
    families: frozenset[str]
    seen: tuple[str, ...] = ()
    role: ModelType = ModelType.LORA

    def to_dict(self) -> dict[str, Any]:
        ranks = self.layers.ranks
        return _facts(
            self,
            rank=ranks[1] if ranks else None,
            smallest_rank=ranks[0] if ranks else None,
            base=self.base or None,
            layers=len(self.layers.layers),
            text_encoder_layers=self.layers.text_layers,
        )


@dataclass(frozen=True)
class ControlNetFacts:
    """A ControlNet: the models that it steers, none when nobody can tell."""

    name: str
    title: str
    base: str
    families: frozenset[str]
    seen: tuple[str, ...] = ()
    role: ModelType = ModelType.CONTROLNET

    def to_dict(self) -> dict[str, Any]:
        return _facts(self, base=self.base or None)


@dataclass(frozen=True)
class OtherFacts:
    """A file of another role, or one that nobody recognises."""

    name: str
    title: str
    role: ModelType
    seen: tuple[str, ...] = ()
    families: frozenset[str] = frozenset()

    def to_dict(self) -> dict[str, Any]:
        return _facts(self)


Facts = DiffusionFacts | VaeFacts | TextEncoderFacts | LoraFacts | ControlNetFacts | OtherFacts


def facts_of(name: str, identity: ModelIdentity, tensors: Tensors) -> Facts:
    """Return what a file's header says of the files that it belongs with.

    Args:
        name: how to call the file in words.
        identity: what it is.
        tensors: of its header.
    """
    seen = tuple(tensors)[:3]
    if identity.is_diffusion:
        return _diffusion(name, identity, tensors)
    if identity.role is ModelType.VAE:
        return _vae(name, tensors, seen)
    if identity.role is ModelType.TEXT_ENCODER:
        return _text_encoder(name, tensors, seen)
    if identity.role is ModelType.LORA:
        layers = read_layers(tensors)
        base = find_base(layers.layers)
        families = frozenset(base.families) if base else frozenset()
        return LoraFacts(name, "LoRA", layers, base.title if base else "", families, seen)
    if identity.role is ModelType.CONTROLNET:
        title, controlled = _controlled(tensors)
        return ControlNetFacts(name, "ControlNet", title, frozenset(controlled), seen)
    return OtherFacts(name, identity.title, identity.role, seen)


def _diffusion(name: str, identity: ModelIdentity, tensors: Tensors) -> DiffusionFacts:
    prefix = identity.prefix
    own = {key[len(prefix) :]: info for key, info in tensors.items() if key.startswith(prefix)}
    family = FAMILY_OF_ARCHITECTURE.get(identity.architecture or "")
    latent_in = latent_out = text = None
    if family:
        rows, cells = _length(own, family.output[0], 0), family.output[1]
        latent_out = rows // cells if rows else None
        latent_in = _input_channels(own, cells)
        text = _inputs(own, family.text)
    return DiffusionFacts(
        name=name,
        title=identity.title,
        family=family,
        latent_in=latent_in,
        latent_out=latent_out,
        text_width=text,
        tensors=own,
        parts=identity.parts,
        architecture=identity.architecture,
    )


def _vae(name: str, tensors: Tensors, seen: tuple[str, ...]) -> VaeFacts:
    for prefix in _VAE_PREFIXES:
        kind = first_match(tensors, prefix, VAES)
        if kind:
            spaces = [SPACES[space] for space in kind.spaces]
            spatial = {space.spatial for space in spaces}
            temporal = {space.temporal for space in spaces}
            return VaeFacts(
                name,
                kind.title,
                kind,
                spaces[0].channels,
                spatial.pop() if len(spatial) == 1 else None,
                temporal.pop() if len(temporal) == 1 else None,
                seen,
            )
    channels = next((found for key in _VAE_INPUTS if (found := _length(tensors, key, 1))), None)
    return VaeFacts(name, "VAE of a kind that is not known here", None, channels, None, None, seen)


def _text_encoder(name: str, tensors: Tensors, seen: tuple[str, ...]) -> TextEncoderFacts:
    kind = first_match(tensors, "", TEXT_ENCODERS)
    width = next((found for key in _EMBEDDINGS if (found := _length(tensors, key, 1))), None)
    if kind is None:
        return TextEncoderFacts(name, "text encoder of a kind that is not known here", None, width, seen)
    return TextEncoderFacts(name, kind.title, kind, kind.width, seen)


# As comfy.controlnet.load_controlnet_state_dict tells them apart: a tensor, and what it is made for.
_CONTROL_RULES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("double_blocks.0.img_attn.norm.key_norm.scale", "Flux.1", ("flux",)),
    ("pos_embed_input.proj.weight", "Stable Diffusion 3", ("sd3.5",)),
    ("transformer_blocks.0.img_mlp.net.0.proj.weight", "Qwen-Image", ("qwen-image",)),
    ("control_img_in.weight", "Qwen-Image", ("qwen-image",)),
    ("controlnet_x_embedder.weight", "Flux.1", ("flux",)),
    ("controlnet_blocks.0.linear.weight", "Flux.1", ("flux",)),
)
_CONTROL_WIDTHS = {
    768: ("Stable Diffusion 1.5", ("sd1.5",)),
    1024: ("Stable Diffusion 2", ("sd2",)),
    2048: ("Stable Diffusion XL", ("sdxl",)),
}


def _controlled(tensors: Tensors) -> tuple[str, tuple[str, ...]]:
    for key, title, families in _CONTROL_RULES:
        if key in tensors:
            return title, families
    width = _length(tensors, "*attn2.to_k.weight", 1)
    return _CONTROL_WIDTHS.get(width or 0, ("", ()))


def _length(tensors: Tensors, key: str, axis: int) -> int | None:
    """Return how long a tensor is along an axis; ``*end`` is the first tensor with that end."""
    if key.startswith("*"):
        key = next((name for name in tensors if name.endswith(key[1:])), "")
    info = tensors.get(key)
    return info.shape[axis] if info is not None and len(info.shape) > axis else None


def _inputs(tensors: Tensors, key: str) -> int | None:
    """Return how many numbers a layer takes; None where two of its weights may share a stored byte."""
    if key.startswith("*"):
        key = next((name for name in tensors if name.endswith(key[1:])), "")
    info = tensors.get(key)
    return None if info is None or info.dtype in PACKED else _length(tensors, key, 1)


def _input_channels(tensors: Tensors, cells: int) -> int | None:
    for key in (
        "patch_embedding.weight",
        "img_in.proj.weight",
        "x_embedder.proj.weight",
        "input_blocks.0.0.weight",
        "patchify_proj.weight",
    ):
        found = _length(tensors, key, 1)
        if found:
            return found
    for key in ("img_in.weight", "x_embedder.weight", "x_embedder.proj.1.weight"):
        found = _length(tensors, key, 1)
        if found:
            return found // cells
    return None


def _facts(facts: Any, **more: Any) -> dict[str, Any]:
    return {"name": facts.name, "role": facts.role.value, "title": facts.title, **more}
