"""What becomes of every tensor of a file, decided purely from its header."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from ..errors import AlreadyQuantized, BadInput, NothingToQuantize
from ..formats.safetensors import Header, TensorInfo
from ..formats.writer import TensorSpec
from ..identify import ModelIdentity
from ..identify.quantization import OLD_SCALE, is_old_marker, is_side_tensor
from ..model import QuantizationType
from .choices import EVERYTHING, RECOMMENDED
from .formats import TargetFormat
from .keep_rules import KeepRule, keep_rule, matches
from .packing import WIDTH_IS_READ, width_is_read
from .stored import StoredLayer, plain_layer

FLOATS = ("F64", "F32", "F16", "BF16")
PLAIN_FLOATS = ("F8_E4M3", "F8_E5M2")
KEPT_BY_PATTERN = "kept by keep_patterns"
KEPT_BY_RULE = "kept by the recommended policy"


class Action(str, Enum):
    """What is done: QUANTIZE with a scale, CAST to the new element type, COPY byte for byte, DROP
    (a side tensor of a layer that is converted anew), or ADD (a tensor that the source has not)."""

    QUANTIZE = "quantize"
    CAST = "cast"
    COPY = "copy"
    DROP = "drop"
    ADD = "add"


@dataclass(frozen=True)
class TensorPlan:
    """What becomes of one tensor.

    Attributes:
        name: in the source and in the result.
        info: how the source stores it.
        reason: why a linear weight is copied, else empty.
        checked: it belongs to the model and must be finite.
        linear: it is the weight of a linear layer.
        target: what it becomes; None where it is copied.
        source: how it is quantized in the source; None where it is not, or where it is copied.
        content: of a tensor to ADD.
    """

    name: str
    info: TensorInfo
    action: Action
    reason: str = ""
    checked: bool = False
    linear: bool = False
    target: TargetFormat | None = None
    source: StoredLayer | None = None
    content: bytes = b""

    @property
    def layer(self) -> str:
        return self.name.removesuffix(".weight")

    @property
    def changes(self) -> bool:
        """Whether its weights are rounded anew."""
        return self.action in (Action.QUANTIZE, Action.CAST)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weights, which may be packed in the source."""
        return self.source.shape if self.source else self.info.shape

    @property
    def elements(self) -> int:
        count = 1
        for dimension in self.shape:
            count *= dimension
        return count

    @property
    def row_multiple(self) -> int:
        """Blocks of its rows start at multiples of this."""
        wanted = [self.target.row_multiple if self.target else 1]
        wanted.append(self.source.row_multiple if self.source else 1)
        return max(wanted)

    def outputs(self) -> list[TensorSpec]:
        """Return the tensors that this one becomes, in file order."""
        if self.action is Action.DROP:
            return []
        if self.target is None or not self.changes:
            return [TensorSpec(self.name, self.info.dtype, self.info.shape)]
        if self.action is Action.CAST:
            return [TensorSpec(self.name, self.target.dtype, self.shape)]
        return self.target.outputs(self.layer, self.shape)

    def copied(self, reason: str = "") -> TensorPlan:
        """Return a plan that leaves this tensor as it is."""
        checked = self.checked and self.source is None  # what is quantized is not looked into
        return replace(self, action=Action.COPY, reason=reason, target=None, source=None, checked=checked)


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


@dataclass(frozen=True)
class Scope:
    """What a plan goes by.

    Attributes:
        policy: of ``POLICIES``.
        rule: the layers that published quantized models of this architecture keep.
        keep_patterns: more layers to keep.
        stored: the source's quantized layers by name; empty when they are not to be converted again.
        requantize: 8-bit floats without a scale are converted, too.
    """

    policy: str
    rule: KeepRule
    keep_patterns: tuple[str, ...] = ()
    stored: Mapping[str, StoredLayer] = field(default_factory=dict)
    requantize: bool = False

    @property
    def patterns(self) -> tuple[str, ...]:
        """The rule's patterns, where the policy goes by them."""
        return () if self.policy == EVERYTHING else self.rule.patterns


def plan_tensors(
    header: Header,
    identity: ModelIdentity,
    target: TargetFormat,
    policy: str = RECOMMENDED,
    keep_patterns: Sequence[str] = (),
    scope: Scope | None = None,
) -> list[TensorPlan]:
    """Decide what becomes of every tensor of the file, in file order; then what it gets besides.

    Args:
        scope: what to go by; by default the policy and the rule for the architecture.

    Raises:
        AlreadyQuantized: the model's weights are quantized, and may not be converted again.
        NothingToQuantize: no tensor would change.
    """
    scope = scope or Scope(policy, keep_rule(identity.architecture), tuple(keep_patterns))
    check_original(header, identity, scope)
    plans = finished(plan_all(header, identity, target, scope))
    if not any(plan.changes for plan in plans):
        raise nothing_to_do(header, identity, target.name, plans)
    content = target.file_tensors(identity.prefix)
    added = [_added(spec, data) for spec, data in content if spec.name not in header.tensors]
    return [*plans, *added]


def check_original(header: Header, identity: ModelIdentity, scope: Scope) -> None:
    """Refuse weights that are quantized, unless they may be converted again.

    Raises:
        AlreadyQuantized: they are.
    """
    originals = (QuantizationType.NONE, QuantizationType.BF16, QuantizationType.FP16)
    original = not identity.quantized_layers and identity.quantization in originals
    if original or scope.requantize:
        return
    raise AlreadyQuantized(
        f"{header.path.name} is quantized already ({identity.precision}).",
        "Quantize the original in bf16, fp16 or fp32: a second rounding only adds errors. Where there is "
        "no original, allow requantizing.",
        precision=identity.precision,
    )


def nothing_to_do(
    header: Header, identity: ModelIdentity, wanted: str, plans: Sequence[TensorPlan] = ()
) -> NothingToQuantize:
    """Return the error for a plan in which no tensor changes."""
    kept = max((p for p in plans if p.reason), key=lambda plan: plan.info.nbytes, default=None)
    why = f" Of its largest layer, {kept.layer}: {kept.reason}." if kept else ""
    return NothingToQuantize(
        f"Nothing in {header.path.name} would change: it holds no weights for {wanted}.{why}",
        f"It is stored as {identity.precision}; choose another format, or fewer keep_patterns.",
    )


def _added(spec: TensorSpec, data: bytes) -> TensorPlan:
    return TensorPlan(spec.name, TensorInfo(spec.dtype, spec.shape, 0, 0), Action.ADD, content=data)


def plan_all(header: Header, identity: ModelIdentity, target: TargetFormat, scope: Scope) -> list[TensorPlan]:
    """Decide for each tensor on its own; see :func:`finished`."""
    decide = _cast_decider(target, scope) if target.kind == "cast" else _scale_decider(target, scope)
    return [
        _plan(name, info, identity.prefix, decide, target, scope) for name, info in header.tensors.items()
    ]


def finished(plans: Sequence[TensorPlan]) -> list[TensorPlan]:
    """Drop what belonged to layers that are converted anew: their side tensors, and a marker of theirs."""
    converted = {plan.layer for plan in plans if plan.source and plan.changes}
    if not converted:
        return list(plans)
    gone = {plan.name for plan in plans if side_of(plan.name) in converted}
    left = any(plan.name.endswith(OLD_SCALE) and plan.name not in gone for plan in plans)
    gone |= {plan.name for plan in plans if is_old_marker(plan.name) and not left}
    return [replace(plan, action=Action.DROP) if plan.name in gone else plan for plan in plans]


def side_of(name: str) -> str | None:
    """Return the layer whose side tensor this is; None for any other tensor."""
    return name[: name.rindex(".")] if is_side_tensor(name) and "." in name else None


_Decide = Callable[[str, TensorInfo, "StoredLayer | None"], tuple[Action, str]]


def _plan(
    name: str, info: TensorInfo, prefix: str, decide: _Decide, target: TargetFormat, scope: Scope
) -> TensorPlan:
    if not name.startswith(prefix) or is_side_tensor(name):
        return TensorPlan(name, info, Action.COPY)
    stored = _stored(name, info, scope)
    if info.dtype not in FLOATS and stored is None:
        return TensorPlan(name, info, Action.COPY)
    linear = is_linear(name, info)
    if stored is not None and stored.problem:
        return TensorPlan(name, info, Action.COPY, stored.problem if linear else "", linear=linear)
    action, reason = decide(name[len(prefix) :], info, stored)
    changes = action is not Action.COPY
    return TensorPlan(
        name,
        info,
        action,
        reason if linear else "",
        checked=changes or stored is None,
        linear=linear,
        target=target if changes else None,
        source=stored if changes else None,
    )


def _stored(name: str, info: TensorInfo, scope: Scope) -> StoredLayer | None:
    layer = name.removesuffix(".weight")
    if layer != name and layer in scope.stored:
        return scope.stored[layer]
    return plain_layer(info) if scope.requantize and info.dtype in PLAIN_FLOATS else None


def is_linear(name: str, info: TensorInfo) -> bool:
    """Tell whether a tensor is the weight of a linear layer, as far as a header can tell."""
    return name.endswith(".weight") and len(info.shape) == 2


def _cast_decider(target: TargetFormat, scope: Scope) -> _Decide:
    def decide(name: str, info: TensorInfo, stored: StoredLayer | None) -> tuple[Action, str]:
        if info.dtype == target.dtype:
            return Action.COPY, f"stored in {target.name} already"
        if matches(name, scope.keep_patterns):
            return Action.COPY, KEPT_BY_PATTERN
        if scope.policy != EVERYTHING and len(info.shape) < 2 and stored is None:
            return Action.COPY, ""  # norms and biases: no room to win, and they carry precision
        return Action.CAST, ""

    return decide


def _is_like(stored: StoredLayer, target: TargetFormat) -> bool:
    rotated = bool(dict(target.options).get("convrot"))
    return stored.format == target.comfy_format and bool(stored.options.get("convrot")) == rotated


def _scale_decider(target: TargetFormat, scope: Scope) -> _Decide:
    def decide(name: str, info: TensorInfo, stored: StoredLayer | None) -> tuple[Action, str]:
        if not is_linear(name, info):
            return Action.COPY, ""
        if matches(name, scope.keep_patterns):
            return Action.COPY, KEPT_BY_PATTERN
        if matches(name, scope.patterns):
            return Action.COPY, KEPT_BY_RULE
        if stored is not None and _is_like(stored, target):
            return Action.COPY, f"stored in {target.name} already"
        problem = target.fits(stored.shape if stored else info.shape)
        if not problem and target.packed > 1 and width_is_read(name):
            problem = WIDTH_IS_READ
        return (Action.COPY, problem) if problem else (Action.QUANTIZE, "")

    return decide
