"""A model's identity: role, architecture, size, precision. Pure but for a few marker bytes."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..formats.dtypes import DTYPE_BITS, dtype_name
from ..formats.safetensors import Header, TensorInfo
from ..model import ModelType, QuantizationType
from .architectures import architecture_of_class, find_architecture
from .quantization import find_quantization, is_side_tensor, read_layer_formats
from .roles import checkpoint_parts, find_role


class Detection(NamedTuple):
    """What a host recognised: the class that would load the model, and where its tensors start."""

    comfy_class: str
    prefix: str
    source: str


Detect = Callable[[Header], Detection | None]
OUR_TABLE = "our table"


@dataclass(frozen=True)
class ModelIdentity:
    """What a file is.

    Attributes:
        role: the file's job; OTHER when nothing was recognised.
        architecture: our id, or None when the role needs none or nobody recognised it.
        title: the name that people know.
        detected_by: ``ComfyUI 0.33.0``, ``our table``, or empty.
        prefix: what the names of the diffusion part start with.
        parts: what a checkpoint holds besides the diffusion model.
        parameters: weights of the model's part.
        weight_bytes: bytes of the model's part in the file, side tensors included.
        tensor_count: tensors in the file.
        dtypes: name of each element type -> weights of the model's part stored in it.
        precision: the dominant storage in words.
        quantization: the same as a type.
        quantized_layers: layers that carry a quantization marker.
        quantization_layout: whose marker it is, ``comfy_quant`` or ``scaled_fp8``; empty without one.
        layer_types: of the marked layers, the most frequent first.
        seen: a few tensor names, for a file that nobody recognised.
    """

    role: ModelType
    architecture: str | None
    title: str
    detected_by: str
    prefix: str
    parts: tuple[str, ...]
    parameters: int
    weight_bytes: int
    tensor_count: int
    dtypes: dict[str, int]
    precision: str
    quantization: QuantizationType
    quantized_layers: int
    seen: tuple[str, ...] = ()
    quantization_layout: str = ""
    layer_types: tuple[QuantizationType, ...] = ()

    @property
    def recognised(self) -> bool:
        return self.role is not ModelType.OTHER

    @property
    def is_diffusion(self) -> bool:
        return self.role in (ModelType.DIFFUSION, ModelType.CHECKPOINT)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary that :meth:`from_dict` reads back."""
        facts = dataclasses.asdict(self)
        facts["role"] = self.role.value
        facts["quantization"] = self.quantization.value
        facts["parts"] = list(self.parts)
        facts["seen"] = list(self.seen)
        facts["layer_types"] = [kind.value for kind in self.layer_types]
        return facts

    @classmethod
    def from_dict(cls, facts: dict[str, Any]) -> ModelIdentity:
        """Read what :meth:`to_dict` wrote."""
        facts = dict(facts)
        facts["role"] = ModelType(facts["role"])
        facts["quantization"] = QuantizationType(facts["quantization"])
        facts["parts"] = tuple(facts["parts"])
        facts["seen"] = tuple(facts["seen"])
        facts["layer_types"] = tuple(QuantizationType(kind) for kind in facts.get("layer_types", ()))
        return cls(**facts)


class Kind(NamedTuple):
    """What a file's tensors say that it is; see :class:`ModelIdentity`."""

    role: ModelType
    architecture: str | None
    title: str
    detected_by: str
    prefix: str


def identify(header: Header, detect: Detect | None = None) -> ModelIdentity:
    """Say what the file is.

    Args:
        header: of the file.
        detect: a host's own detection; our table is asked when it is None or finds nothing.
    """
    kind = kind_of(header, detect)
    parts: tuple[str, ...] = ()
    if kind.role is ModelType.DIFFUSION:
        parts = checkpoint_parts(header.tensors)
        if parts:
            kind = kind._replace(role=ModelType.CHECKPOINT)
    own = {n: i for n, i in header.tensors.items() if n.startswith(kind.prefix)}
    weights = {n: i for n, i in own.items() if not is_side_tensor(n)}
    formats = {n: f for n, f in read_layer_formats(header).items() if n.startswith(kind.prefix)}
    quantization = find_quantization(header, weights, formats)
    stored: dict[str, int] = {}
    for info in weights.values():
        stored[info.dtype] = stored.get(info.dtype, 0) + info.end - info.start
    dtypes: Counter[str] = Counter()
    for dtype, size in stored.items():
        dtypes[dtype_name(dtype)] += size * 8 // DTYPE_BITS[dtype]
    return ModelIdentity(
        role=kind.role,
        architecture=kind.architecture,
        title=kind.title,
        detected_by=kind.detected_by,
        prefix=kind.prefix,
        parts=parts,
        parameters=_parameters(weights, formats) if formats else dtypes.total(),
        weight_bytes=sum(info.end - info.start for info in own.values()),
        tensor_count=len(header.tensors),
        dtypes=dict(dtypes.most_common()),
        precision=quantization.precision,
        quantization=quantization.type,
        quantized_layers=quantization.layers,
        quantization_layout=quantization.layout,
        layer_types=tuple(kind for kind, _ in Counter(formats.values()).most_common()),
        seen=() if kind.role is not ModelType.OTHER else tuple(list(header.tensors)[:5]),
    )


def kind_of(header: Header, detect: Detect | None) -> Kind:
    """Return what the tensors' names and shapes show."""
    # An adapter's tensors are named after the layers that it changes, so adapters come first.
    rule = find_role(header.tensors)
    if rule and rule.role in (ModelType.LORA, ModelType.CONTROLNET):
        return Kind(rule.role, None, rule.title, OUR_TABLE, "")
    found = detect(header) if detect else None
    if found:
        row = architecture_of_class(found.comfy_class, header.tensors, found.prefix)
        architecture = row.id if row else found.comfy_class.lower()
        title = row.title if row else found.comfy_class
        return Kind(ModelType.DIFFUSION, architecture, title, found.source, found.prefix)
    match = find_architecture(header.tensors)
    if match:
        return Kind(ModelType.DIFFUSION, match[0].id, match[0].title, OUR_TABLE, match[1])
    if rule:
        return Kind(rule.role, None, rule.title, OUR_TABLE, "")
    return Kind(ModelType.OTHER, None, "unknown", "", "")


def _parameters(weights: dict[str, TensorInfo], formats: dict[str, QuantizationType]) -> int:
    """Count weights; two 4-bit ones share a stored byte."""
    packed = {QuantizationType.NVFP4, QuantizationType.W4A4, QuantizationType.W4A8}
    count = 0
    for name, info in weights.items():
        layer = name.removesuffix(".weight")
        double = layer != name and formats.get(layer) in packed and info.dtype in ("U8", "I8")
        count += info.elements * (2 if double else 1)
    return count
