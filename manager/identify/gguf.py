"""A GGUF file's identity: its own word for the architecture, else the names of its tensors."""

from __future__ import annotations

from collections import Counter

from ..formats.gguf import GgufHeader
from ..formats.safetensors import Header, TensorInfo
from ..model import ModelType, QuantizationType
from .identity import OUR_TABLE, Detect, Kind, ModelIdentity, kind_of

LAYOUT = "gguf"
UNNAMED = "ggml type"
_PLAIN = ("F32", "F16", "BF16", "F64")
_FLOATS = {0: "F32", 1: "F16", 30: "BF16"}
# ``general.architecture`` -> title. Sources: ComfyUI-GGUF's list of what its loaders take, llama.cpp's names.
_DIFFUSION = {
    "flux": "Flux",
    "sd1": "Stable Diffusion 1.5",
    "sdxl": "Stable Diffusion XL",
    "sd3": "Stable Diffusion 3",
    "aura": "AuraFlow",
    "hidream": "HiDream I1",
    "cosmos": "Cosmos",
    "ltxv": "LTX-Video",
    "hyvid": "HunyuanVideo",
    "wan": "Wan",
    "lumina2": "Lumina Image 2.0",
    "qwen_image": "Qwen-Image",
}
_TEXT = {
    "t5": "T5",
    "t5encoder": "T5",
    "llama": "Llama",
    "qwen2vl": "Qwen2-VL",
    "qwen3": "Qwen3",
    "qwen3vl": "Qwen3-VL",
    "gemma3": "Gemma 3",
}
_TEXT_MARKERS = ("token_embd.weight", "enc.blk.0.attn_q.weight", "blk.0.attn_q.weight")


def identify_gguf(header: GgufHeader, detect: Detect | None = None) -> ModelIdentity:
    """Say what a GGUF file is; see :func:`identify`."""
    kind = _kind(header, detect)
    own = {name: t for name, t in header.tensors.items() if name.startswith(kind.prefix)}
    counts: Counter[str] = Counter()
    for tensor in own.values():
        counts[_type_name(header, tensor.type)] += tensor.elements
    packed = [t for t in own.values() if _type_name(header, t.type) not in _PLAIN]
    known = [t.nbytes for t in own.values() if t.nbytes is not None]
    whole = len(known) == len(own)
    return ModelIdentity(
        role=kind.role,
        architecture=kind.architecture,
        title=kind.title,
        detected_by=kind.detected_by,
        prefix=kind.prefix,
        parts=(),
        parameters=sum(t.elements for t in own.values()),
        weight_bytes=sum(known) if whole else header.file_size - header.data_start,
        tensor_count=len(header.tensors),
        dtypes=dict(counts.most_common()),
        precision=f"GGUF {_dominant(counts)}".rstrip(),
        quantization=QuantizationType.GGUF,
        quantized_layers=len(packed),
        quantization_layout=LAYOUT,
        seen=() if kind.role is not ModelType.OTHER else tuple(list(header.tensors)[:5]),
    )


def has_unnamed_types(identity: ModelIdentity) -> bool:
    """Tell whether element types have no name, because the ``gguf`` package is not there or too old."""
    return any(name.startswith(UNNAMED) for name in identity.dtypes)


def _kind(header: GgufHeader, detect: Detect | None) -> Kind:
    said = header.architecture
    if said in _TEXT:
        return Kind(ModelType.TEXT_ENCODER, None, f"{_TEXT[said]} text encoder", "the file itself", "")
    found = kind_of(_as_header(header), detect)
    if found.role is not ModelType.OTHER:
        return found
    if said in _DIFFUSION:
        return Kind(ModelType.DIFFUSION, None, _DIFFUSION[said], "the file itself", "")
    if any(marker in header.tensors for marker in _TEXT_MARKERS):
        return Kind(ModelType.TEXT_ENCODER, None, "text encoder", OUR_TABLE, "")
    return _with_own_word(found, said)


def _with_own_word(kind: Kind, said: str) -> Kind:
    """Keep what the file says of itself for a person to read, though nobody here knows it."""
    return kind._replace(title=f"unknown ({said})") if said and said.isprintable() else kind


def _as_header(header: GgufHeader) -> Header:
    """Return names and shapes in the form that detection reads; no tensor can be read through it."""
    tensors = {
        name: TensorInfo(_FLOATS.get(t.type, "U8"), t.shape, t.offset, t.offset + (t.nbytes or 0))
        for name, t in header.tensors.items()
    }
    return Header(header.path, header.file_size, header.data_start, {}, tensors, in_file=False)


def _type_name(header: GgufHeader, kind: int) -> str:
    return header.types.get(kind) or _FLOATS.get(kind) or f"{UNNAMED} {kind}"


def _dominant(counts: Counter[str]) -> str:
    """Return the type that most weights are stored in, if it has a name."""
    name = next((name for name, _ in counts.most_common()), "")
    return "" if name.startswith(UNNAMED) else name
