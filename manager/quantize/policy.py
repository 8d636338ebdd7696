"""Which layers stay in high precision, as data, and what becomes of every tensor, decided purely.

A pattern is matched with a layer's name, without the model's prefix: a glob when it holds ``*`` or
``?``, else any part of the name. What is kept follows the quantized files that ComfyUI's makers and
the community publish for these architectures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase

from ..errors import AlreadyQuantized, BadInput, NothingToQuantize
from ..formats.safetensors import Header, TensorInfo
from ..formats.writer import TensorSpec
from ..identify import ModelIdentity
from ..identify.quantization import is_side_tensor
from ..model import QuantizationType
from .formats import TargetFormat

RECOMMENDED = "recommended"
EVERYTHING = "everything"
POLICIES = (RECOMMENDED, EVERYTHING)
FLOATS = ("F64", "F32", "F16", "BF16")
# Matrix units take dimensions in blocks of 16; a tiny layer saves nothing.
_BLOCK = 16
_SMALLEST = 32

_GENERIC = ("norm", "embed", "time_", "timestep", "final_layer", "proj_out", "modulation", "head.")
# The start of an architecture's id -> the layers to keep. The longest start that fits is taken.
KEEP: dict[str, tuple[str, ...]] = {
    "wan": (
        "patch_embedding",
        "text_embedding",
        "time_embedding",
        "time_projection",
        "head.",
        "img_emb",
        "ref_conv",
        "control_adapter",
        "motion_encoder",
        "face_encoder",
        "casual_audio_encoder",
        "cond_encoder",
        "norm",
    ),
    "flux": ("img_in", "txt_in", "time_in", "vector_in", "guidance_in", "final_layer", "norm"),
    "flux2": ("img_in", "txt_in", "time_in", "guidance_in", "final_layer", "stream_modulation", "norm"),
    "longcat": ("img_in", "txt_in", "time_in", "vector_in", "final_layer", "norm"),
    "chroma": ("distilled_guidance_layer", "nerf_", "img_in", "txt_in", "final_layer", "norm"),
    "hunyuan": (
        "img_in",
        "txt_in",
        "time_in",
        "time_r_in",
        "vector_in",
        "guidance_in",
        "vision_in",
        "byt5_in",
        "cond_type_embedding",
        "final_layer",
        "norm",
    ),
    "skyreels": ("img_in", "txt_in", "time_in", "vector_in", "guidance_in", "final_layer", "norm"),
    "qwen-image": (
        "time_text_embed",
        "img_in",
        "txt_in",
        "norm",
        "proj_out",
        "transformer_blocks.0.img_mod.1",
    ),
    "z-image": ("x_embedder", "cap_embedder", "t_embedder", "adaLN_modulation", "final_layer", "norm"),
    "lumina": ("x_embedder", "cap_embedder", "t_embedder", "adaLN_modulation", "final_layer", "norm"),
    "sd3": ("x_embedder", "context_embedder", "y_embedder", "t_embedder", "final_layer", "norm"),
    "ltx": ("patchify_proj", "adaln_single", "caption_projection", "proj_out", "scale_shift_table", "norm"),
    "sd1": ("time_embed", "label_emb", "norm"),
    "sd2": ("time_embed", "label_emb", "norm"),
    "sdxl": ("time_embed", "label_emb", "norm"),
}


class Action(str, Enum):
    """QUANTIZE with a scale, CAST to the new element type, or COPY byte for byte."""

    QUANTIZE = "quantize"
    CAST = "cast"
    COPY = "copy"


@dataclass(frozen=True)
class TensorPlan:
    """What becomes of one tensor. ``reason`` says why a linear weight is copied, else empty.

    ``checked`` tensors belong to the model and must be finite.
    """

    name: str
    info: TensorInfo
    action: Action
    reason: str = ""
    checked: bool = False
    linear: bool = False

    @property
    def layer(self) -> str:
        return self.name.removesuffix(".weight")

    def outputs(self, target: TargetFormat) -> list[TensorSpec]:
        """Return the tensors that this one becomes, in file order."""
        dtype = self.info.dtype if self.action is Action.COPY else target.dtype
        specs = [TensorSpec(self.name, dtype, self.info.shape)]
        if self.action is Action.QUANTIZE:
            specs += target.side_tensors(self.layer, self.info.shape[0])
        return specs


def keep_rule(architecture: str | None) -> tuple[tuple[str, ...], str]:
    """Return the patterns to keep for an architecture, and which rule they are."""
    fitting = [start for start in KEEP if architecture and architecture.startswith(start)]
    if not fitting:
        return _GENERIC, "generic"
    start = max(fitting, key=len)
    return KEEP[start], start


def parse_patterns(text: str) -> tuple[str, ...]:
    """Read patterns separated by commas, blanks or new lines.

    Raises:
        BadInput: a pattern would keep everything.
    """
    patterns = tuple(text.replace(",", " ").split())
    for pattern in patterns:
        if not pattern.strip("*?."):
            raise BadInput(
                f"keep_patterns holds {pattern!r}, which keeps every layer.",
                "Name a part of the layers to keep, such as blocks.0. or *.ffn.2",
            )
    return patterns


def plan_tensors(
    header: Header,
    identity: ModelIdentity,
    target: TargetFormat,
    policy: str = RECOMMENDED,
    keep_patterns: Sequence[str] = (),
) -> list[TensorPlan]:
    """Decide what becomes of every tensor of the file, in file order.

    Raises:
        AlreadyQuantized: the model's weights are quantized.
        NothingToQuantize: no tensor would change.
    """
    if identity.quantized_layers or identity.quantization not in (
        QuantizationType.NONE,
        QuantizationType.BF16,
        QuantizationType.FP16,
    ):
        raise AlreadyQuantized(
            f"{header.path.name} is quantized already ({identity.precision}).",
            "Quantize the original in bf16, fp16 or fp32: a second rounding only adds errors.",
            precision=identity.precision,
        )
    rule = keep_rule(identity.architecture)[0] if policy == RECOMMENDED else ()
    decide = _cast_decider(target, policy) if target.kind == "cast" else _scale_decider(rule, keep_patterns)
    plans = [_plan(name, info, identity.prefix, decide) for name, info in header.tensors.items()]
    if all(plan.action is Action.COPY for plan in plans):
        raise NothingToQuantize(
            f"Nothing in {header.path.name} would change: it holds no weights for {target.name}.",
            f"It is stored as {identity.precision}; choose another format, or fewer keep_patterns.",
        )
    return plans


_Decide = Callable[[str, TensorInfo], tuple[Action, str]]


def _plan(name: str, info: TensorInfo, prefix: str, decide: _Decide) -> TensorPlan:
    own = name.startswith(prefix) and info.dtype in FLOATS and not is_side_tensor(name)
    if not own:
        return TensorPlan(name, info, Action.COPY)
    linear = is_linear(name, info)
    action, reason = decide(name[len(prefix) :], info)
    return TensorPlan(name, info, action, reason if linear else "", checked=True, linear=linear)


def is_linear(name: str, info: TensorInfo) -> bool:
    """Tell whether a tensor is the weight of a linear layer, as far as a header can tell."""
    return name.endswith(".weight") and len(info.shape) == 2


def _cast_decider(target: TargetFormat, policy: str) -> _Decide:
    def decide(name: str, info: TensorInfo) -> tuple[Action, str]:
        if info.dtype == target.dtype:
            return Action.COPY, f"stored in {target.name} already"
        if policy == RECOMMENDED and len(info.shape) < 2:
            return Action.COPY, ""  # norms and biases: no room to win, and they carry precision
        return Action.CAST, ""

    return decide


def _scale_decider(rule: Sequence[str], keep_patterns: Sequence[str]) -> _Decide:
    def decide(name: str, info: TensorInfo) -> tuple[Action, str]:
        if not is_linear(name, info):
            return Action.COPY, ""
        if _matches(name, keep_patterns):
            return Action.COPY, "kept by keep_patterns"
        if _matches(name, rule):
            return Action.COPY, "kept by the recommended policy"
        if min(info.shape) < _SMALLEST or any(d % _BLOCK for d in info.shape):
            return Action.COPY, f"its shape does not divide into blocks of {_BLOCK}"
        return Action.QUANTIZE, ""

    return decide


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(
        fnmatchcase(name, pattern) if "*" in pattern or "?" in pattern else pattern in name
        for pattern in patterns
    )
