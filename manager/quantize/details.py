"""What is said of a result: JSON-safe facts, from its plan and from its file."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..formats.safetensors import Header
from ..formats.writer import planned_file_size
from ..lineage import made_with, recorded_errors, recorded_total, source_sha256
from .choices import EVERYTHING, FAST
from .formats import FORMATS, TargetFormat, measured_one_of
from .planner import Planned, Task
from .policy import Action, TensorPlan, finished, plan_all
from .size_budget import candidates, find_alternatives
from .stored import StoredLayer, read_source_layers, read_stored_layers

UNCONVERTED = "it could not be converted"
_WORST = 10


def describe(task: Task, planned: Planned, output: Path | None, written: Header | None) -> dict[str, Any]:
    """Return the facts about a result, or about a plan when nothing is written."""
    plans, header = planned.plans, task.header
    linear = [plan for plan in plans if plan.linear]
    changed = [plan for plan in linear if plan.changes]
    kept = [plan for plan in linear if not plan.changes]
    weights = sum(plan.elements for plan in linear)
    numbers = recorded_errors(written.metadata) if written else []
    errors = dict(zip((plan.layer for plan in changed), numbers, strict=False))
    target = task.wanted.target
    return {
        "source": task.source.path.name,
        "output": output.name if output else None,
        "path": str(output) if output else None,
        "format": task.wanted.name,
        "format_words": target.words if target else _mixed_words(changed),
        "architecture": task.identity.title,
        "policy": task.request.policy,
        "quality": task.request.quality,
        "layout": task.request.layout,
        "rule": _rule(task),
        "policy_rule": task.scope.rule.name,
        "stored_as": task.identity.precision,
        "requantized_layers": sum(plan.source is not None for plan in changed),
        "source_bytes": header.file_size,
        "output_bytes": written.file_size if written else _planned_bytes(planned),
        "linear_layers": len(linear),
        "changed_layers": len(changed),
        "changed_share": sum(p.elements for p in changed) / weights if weights else 0.0,
        "kept": _kept(kept),
        "kept_layers": dict(Counter(p.reason for p in kept)),
        "kept_names": [p.layer for p in kept],
        "layers": [_layer(plan, errors.get(plan.layer)) for plan in changed],
        "formats": _formats(changed),
        "layer_formats": sorted({p.target.requires for p in changed if p.target and p.target.requires}),
        "layer_errors": errors,
        "worst": sorted(errors, key=lambda name: -errors[name])[:_WORST],
        "sampled_layers": _sampled(changed, task.request.quality),
        "mean_error": _total(changed, errors),
        "total_error": recorded_total(written.metadata) if written else None,
        "made_with": made_with(written.metadata) if written else {},
        "budget": planned.budget or None,
        "source_sha256": source_sha256(written.metadata) if written else None,
        "seconds": None,
    }


def _sampled(changed: Sequence[TensorPlan], quality: str) -> int:
    """Return of how many layers the error is measured on a part of the rows."""
    if quality != FAST:
        return 0
    return sum(p.target is not None and measured_one_of(p.target.kind, p.elements) > 1 for p in changed)


def sqnr(error: float) -> float | None:
    """Return the signal-to-quantization-noise ratio in dB of a relative L2 error; None without an error."""
    return round(-20 * math.log10(error), 2) if error > 0 else None


def _planned_bytes(planned: Planned) -> int:
    return int(planned.budget.get("planned_bytes") or planned_file_size(_specs(planned.plans)))


def _specs(plans: Sequence[TensorPlan]) -> list[Any]:
    return [spec for plan in plans for spec in plan.outputs()]


def _rule(task: Task) -> dict[str, Any]:
    rule = task.scope.rule
    return {
        "name": rule.name,
        "known": rule.known,
        "used": task.request.policy != EVERYTHING,
        "source": rule.source,
        "patterns": list(task.scope.patterns),
        "keep_patterns": list(task.scope.keep_patterns),
    }


def _mixed_words(changed: Sequence[TensorPlan]) -> str:
    names = Counter(plan.target.name for plan in changed if plan.target)
    return "mixed: " + ", ".join(name for name, _ in names.most_common())


def _kept(kept: Sequence[TensorPlan]) -> list[dict[str, Any]]:
    """Return why linear layers stay as they are, the reason of most bytes first."""
    groups: defaultdict[str, list[TensorPlan]] = defaultdict(list)
    for plan in kept:
        groups[plan.reason].append(plan)
    found = [
        {
            "reason": reason,
            "bytes": sum(plan.info.nbytes for plan in plans),
            "layers": [{"name": p.layer, "shape": list(p.info.shape)} for p in plans],
        }
        for reason, plans in groups.items()
    ]
    return sorted(found, key=lambda group: -group["bytes"])


def _layer(plan: TensorPlan, error: float | None) -> dict[str, Any]:
    assert plan.target is not None
    return {
        "name": plan.layer,
        "format": plan.target.name,
        "was": plan.source.format if plan.source else plan.info.dtype,
        "shape": list(plan.shape),
        "bytes": sum(spec.nbytes for spec in plan.outputs()),
        "error": error,
        "sqnr_db": None if error is None else sqnr(error),
    }


def _formats(changed: Sequence[TensorPlan]) -> list[dict[str, Any]]:
    """Return how many layers and weights became what, the format of most weights first."""
    groups: defaultdict[str, list[TensorPlan]] = defaultdict(list)
    for plan in changed:
        if plan.target is not None:
            groups[plan.target.name].append(plan)
    found = [
        {
            "format": name,
            "layers": len(plans),
            "weights": sum(plan.elements for plan in plans),
            "bytes": planned_file_size(_specs(plans)),
        }
        for name, plans in groups.items()
    ]
    return sorted(found, key=lambda group: -int(group["weights"]))


def _total(changed: Sequence[TensorPlan], errors: Mapping[str, float]) -> float:
    """Return the mean relative error, by weights."""
    pairs = [(errors[plan.layer], plan.elements) for plan in changed if plan.layer in errors]
    squares = sum(error * error * count for error, count in pairs)
    return math.sqrt(squares / sum(count for _, count in pairs)) if squares else 0.0


def as_written(task: Task, written: Header) -> Planned:
    """Return the plan that led to a file: what its layers are stored as now, and why others stayed.

    Needs no measuring: a size budget's choice is read from the file.
    """
    target = task.wanted.target
    if target is not None:
        plans = plan_all(task.header, task.identity, target, task.scope)
    else:
        found = find_alternatives(task.header, task.identity, candidates(None), task.scope)
        plans = [alternatives[0] for alternatives in found.plans]
    before, after = read_source_layers(task.source), read_stored_layers(written)
    found_plans = [_as_written(plan, task, written, before, after) for plan in plans]
    facts = {}
    if task.limit is not None:
        facts = {"limit_bytes": task.limit, "planned_bytes": written.file_size, "exact": None}
    return Planned(finished(found_plans), facts)


def _as_written(
    plan: TensorPlan,
    task: Task,
    written: Header,
    before: Mapping[str, StoredLayer],
    after: Mapping[str, StoredLayer],
) -> TensorPlan:
    info = written.tensors.get(plan.name)
    if info is None:
        return plan
    now, was = after.get(plan.layer), before.get(plan.layer)
    source = plan.source or task.scope.stored.get(plan.layer)
    if now is not None and (was is None or (now.format, now.options) != (was.format, was.options)):
        target = _format_of(now, task.wanted.target)
        return replace(plan, action=Action.QUANTIZE, reason="", target=target, source=source)
    if now is None and info.dtype != plan.info.dtype:
        cast = next((f for f in FORMATS.values() if f.kind == "cast" and f.dtype == info.dtype), None)
        return replace(plan, action=Action.CAST, reason="", target=cast, source=source)
    return plan.copied(UNCONVERTED) if plan.changes else plan


def _format_of(layer: StoredLayer, wanted: TargetFormat | None) -> TargetFormat | None:
    """Return which of our formats a layer has."""
    formats = [wanted] if wanted else list(FORMATS.values())
    rotated = bool(layer.options.get("convrot"))
    fitting = (f for f in formats if f.comfy_format == layer.format)
    return next((f for f in fitting if bool(dict(f.options).get("convrot")) == rotated), wanted)
