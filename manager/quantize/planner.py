"""From a request and a file to a plan: by the policy's rule, or by measuring for a size budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..compatibility import with_article
from ..errors import BadInput
from ..formats.safetensors import Header
from ..formats.writer import FileLayout
from ..identify import ModelIdentity
from ..identify.architectures import first_match
from ..identify.quantization import FILE_MARKER
from ..lineage import result_metadata_room
from ..model import ModelType
from ..pairing.table import TEXT_ENCODERS
from ..units import GB
from ..watch import Watch
from ..workers import available_cores
from .formats import TargetFormat
from .keep_rules import KeepRule, keep_rule, text_rule
from .policy import (
    Action,
    Scope,
    TensorPlan,
    check_original,
    finished,
    nothing_to_do,
    plan_tensors,
)
from .request import QuantizeRequest, Wanted
from .size_budget import Alternatives, choose, find_alternatives, without
from .source import Source
from .stored import left_marker, read_source_layers


@dataclass(frozen=True)
class Task:
    """One request for one model.

    Attributes:
        scope: what its plan goes by.
        limit: bytes that the whole result may take, of a size budget; else None.
    """

    source: Source
    identity: ModelIdentity
    request: QuantizeRequest
    wanted: Wanted
    scope: Scope
    limit: int | None

    @property
    def header(self) -> Header:
        return self.source.header

    @property
    def recipe(self) -> dict[str, Any]:
        """Everything that changes the bytes of the result."""
        return self.request.recipe(self.wanted, self.limit)


@dataclass(frozen=True)
class Planned:
    """A plan, and JSON-safe facts about how it came about.

    Attributes:
        budget: of a size budget: limit, planned size, the formats to choose from; else empty.
        not_finite: tensors with NaN or infinite weights that were found while measuring.
    """

    plans: list[TensorPlan]
    budget: dict[str, Any] = field(default_factory=dict)
    not_finite: tuple[str, ...] = ()

    def copying(self, reasons: Mapping[str, str]) -> Planned:
        """Leave these tensors as they are."""
        plans = [p.copied(reasons[p.name]) if p.name in reasons else p for p in self.plans]
        undropped = [replace(p, action=Action.COPY) if p.action is Action.DROP else p for p in plans]
        return replace(self, plans=finished(undropped))


def rule_for(header: Header, identity: ModelIdentity) -> KeepRule:
    """Return which layers published quantized models of this kind keep."""
    if identity.role is not ModelType.TEXT_ENCODER:
        return keep_rule(identity.architecture)
    row = first_match(header.tensors, "", TEXT_ENCODERS)
    return text_rule(row.id if row else None, header.tensors)


def scope_for(source: Source, identity: ModelIdentity, request: QuantizeRequest, wanted: Wanted) -> Scope:
    """Return what a plan goes by.

    Raises:
        BadInput: ComfyUI does not load quantized layers of this kind of model.
        AlreadyQuantized: the model is quantized, and may not be converted again.
    """
    rule = rule_for(source.header, identity)
    stored = read_source_layers(source) if request.allow_requantize else {}
    scope = Scope(request.policy, rule, wanted.patterns, stored, request.allow_requantize)
    check_original(source.header, identity, scope)
    if not rule.loads_quantized and (wanted.target is None or wanted.target.kind != "cast"):
        row = first_match(source.header.tensors, "", TEXT_ENCODERS)
        raise BadInput(
            f"{source.path.name} is {row.title if row else with_article(identity.title)}, a text encoder "
            "whose quantized layers ComfyUI's loader does not read.",
            "Use bf16 or fp16 for it.",
        )
    return scope


def plan_request(task: Task) -> Planned:
    """Return the plan of a policy that needs the header alone.

    Raises:
        NothingToQuantize: no tensor would change.
    """
    assert task.wanted.target is not None
    return Planned(plan_tensors(task.header, task.identity, task.wanted.target, scope=task.scope))


def plan_budget(
    task: Task, formats: Sequence[TargetFormat], metadata: Mapping[str, str], watch: Watch
) -> Planned:
    """Return the plan with the least error whose file takes at most ``task.limit`` bytes.

    Args:
        formats: to choose from.
        metadata: of the result, as far as it is known before.

    Raises:
        BudgetTooSmall: nothing is that small.
        NothingToQuantize: it is small enough as it is.
    """
    from .measure import measure  # needs PyTorch

    assert task.limit is not None
    alternatives = find_alternatives(task.header, task.identity, formats, task.scope)
    if task.header.file_size <= task.limit:
        raise nothing_to_do(task.header, task.identity, "a smaller format, and it is small enough")
    choices = alternatives.open
    measured = measure(task.source, choices, task.request.quality, watch, workers=_workers(task.request))
    pairs = zip(measured.noises, choices, strict=True)
    noises = [noise for noise, plans in pairs if plans[0].name not in measured.largest]
    alternatives = without(alternatives, measured.largest)
    chosen = choose(alternatives, noises, task.limit, metadata, _spare(alternatives))
    specs = [spec for plan in chosen.plans for spec in plan.outputs()]
    layout = FileLayout(specs, metadata, result_metadata_room(len(specs), len(chosen.plans)))
    facts = chosen.facts | {
        "planned_bytes": layout.file_size,
        "formats": [target.name for target in formats],
    }
    return Planned(chosen.plans, facts, tuple(measured.largest))


def _workers(request: QuantizeRequest) -> int:
    """Return how many threads may measure within the request's memory; 0 for the usual number."""
    from .measure import WORKER_BYTES

    if not request.max_memory_gb:
        return 0
    return min(available_cores(), max(1, round(request.max_memory_gb * GB) // WORKER_BYTES))


def _spare(alternatives: Alternatives) -> int:
    tensors = sum(max(len(plan.outputs()) for plan in plans) for plans in alternatives.plans)
    return result_metadata_room(tensors, len(alternatives.plans))


def with_markers(metadata: dict[str, str], header: Header, plans: list[TensorPlan]) -> dict[str, str]:
    """Return the result's metadata with the source's own list of quantized layers cut to those that stay."""
    if not any(plan.source and plan.changes for plan in plans):
        return metadata
    left = left_marker(header, frozenset(p.layer for p in plans if not p.changes))
    if left is None:
        return metadata
    rest = {key: value for key, value in metadata.items() if key != FILE_MARKER}
    return rest | ({FILE_MARKER: left} if left else {})
