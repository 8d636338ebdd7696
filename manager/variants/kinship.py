"""Which files hold the same model: layouts compared without precision, and what links two files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from ..formats.safetensors import Header, TensorInfo
from ..identify.architectures import PREFIXES
from ..identify.quantization import is_side_tensor, read_layer_formats
from ..model import QuantizationType
from ..versions import version_key

_PACKED = (QuantizationType.NVFP4, QuantizationType.W4A4, QuantizationType.W4A8)
_PRECISION_WORDS = frozenset(
    {"bf16", "fp16", "f16", "fp32", "f32", "fp8", "fp4", "e4m3fn", "e4m3", "e5m2", "fn", "scaled", "fast"}
    | {"mixed", "int8", "int4", "rowwise", "convrot", "mxfp8", "nvfp4", "w4a4", "w4a8"}
)
# Names that makers give to any model.
_ANY_MODEL = frozenset({"", "model", "diffusion-pytorch-model", "pytorch-model", "unet", "transformer"})


class Link(str, Enum):
    """Why two files are one model, surest first. SAME_LAYOUT alone may be another fine-tune."""

    SUBJECT = "subject"
    LINEAGE = "lineage"
    REGISTERED = "registered"
    NAMED_ALIKE = "named_alike"
    SAME_LAYOUT = "same_layout"

    @property
    def sure(self) -> bool:
        return self is not Link.SAME_LAYOUT


_SUREST_FIRST = list(Link)


@dataclass(frozen=True)
class Kin:
    """What may link a file to others.

    Attributes:
        size, mtime_ns: of the file.
        source: name, size and mtime_ns of the file that ours was made from; None for any other.
        registered: the names that people gave it, each with its version.
    """

    path: Path
    size: int
    mtime_ns: int
    source: Mapping[str, Any] | None = None
    registered: frozenset[tuple[str, str]] = frozenset()


def layout_fingerprint(header: Header) -> str:
    """Return a hash of the names and shapes of a model's weights, whatever their precision.

    Biases, norms and what describes a quantization are left out: they come and go with precisions.
    """
    prefix = _prefix(header.tensors)
    own = {
        name: info
        for name, info in header.tensors.items()
        if name.startswith(prefix) and name.endswith(".weight") and not is_side_tensor(name)
    }
    # Markers cost a read for each layer, so they are asked only where two weights may share a byte.
    bytes_only = any(info.dtype in ("U8", "I8") and len(info.shape) == 2 for info in own.values())
    formats = read_layer_formats(header) if bytes_only else {}
    lines = sorted(
        f"{name[len(prefix) :]} {_shape(info, formats.get(name.removesuffix('.weight')))}"
        for name, info in own.items()
        if len(info.shape) >= 2
    )
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest() if lines else ""


def _prefix(names: Collection[str]) -> str:
    longest_first = sorted(PREFIXES, key=len, reverse=True)
    return next((prefix for prefix in longest_first if any(n.startswith(prefix) for n in names)), "")


def _shape(info: TensorInfo, kind: QuantizationType | None) -> tuple[int, ...]:
    if kind in _PACKED and info.dtype in ("U8", "I8"):
        return (*info.shape[:-1], info.shape[-1] * 2)
    return info.shape


def base_name(path: Path) -> str:
    """Return a file's name without what says its precision: ``wan-t2v`` for ``wan_t2v_fp8_scaled``."""
    words = re.split(r"[-_. ]+", path.stem.lower())
    return "-".join(word for word in words if word and word not in _PRECISION_WORDS)


def links(subject: Kin, others: Sequence[Kin]) -> list[Link]:
    """Return why each of the others, all of one layout with the subject, is the same model.

    A link may lead over another file; it is then as sure as the least sure step on the way.
    """
    found: dict[int, Link] = {}
    frontier: list[tuple[Kin, Link]] = [(subject, Link.SUBJECT)]
    while frontier:
        frontier.sort(key=lambda item: -_SUREST_FIRST.index(item[1]))
        kin, until = frontier.pop()  # the surest first, so that the first way to a file is the surest
        for i, other in enumerate(others):
            if i in found:
                continue
            step = link_between(kin, other)
            if step is not None:
                found[i] = max(until, step, key=_SUREST_FIRST.index)
                frontier.append((other, found[i]))
    return [found.get(i, Link.SAME_LAYOUT) for i in range(len(others))]


def link_between(a: Kin, b: Kin) -> Link | None:
    """Return what links two files of one layout, None when nothing does."""
    if _made_from(a, b) or _made_from(b, a) or (a.source and b.source and _one_source(a, b)):
        return Link.LINEAGE
    if _same_version(a.registered, b.registered):
        return Link.REGISTERED
    alike = base_name(a.path)
    if alike == base_name(b.path) and (alike not in _ANY_MODEL or a.path.parent == b.path.parent):
        return Link.NAMED_ALIKE
    return None


def _made_from(result: Kin, source: Kin) -> bool:
    """Compare size and time, or size and name where our quantizer writes: beside the source."""
    said = result.source
    if said is None or said["size"] != source.size:
        return False
    beside = result.path.parent == source.path.parent and said["name"] == source.path.name
    return beside or bool(said["mtime_ns"] == source.mtime_ns)


def _one_source(a: Kin, b: Kin) -> bool:
    assert a.source is not None
    assert b.source is not None
    return all(a.source[key] == b.source[key] for key in ("name", "size", "mtime_ns"))


def _same_version(a: Iterable[tuple[str, str]], b: Iterable[tuple[str, str]]) -> bool:
    """Tell whether one name holds both as one version; ``2.1+fp8`` is 2.1 in another precision."""
    return any(name == other and version_key(v) == version_key(w) for name, v in a for other, w in b)
