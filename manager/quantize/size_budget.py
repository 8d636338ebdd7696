"""The policy ``size_budget``: what may become of each layer, and the choice among it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import BudgetTooSmall
from ..formats.safetensors import Header
from ..formats.writer import PAGE, TensorSpec
from ..identify import ModelIdentity
from ..units import GB, format_bytes
from .budget import Budget, Choice
from .formats import FORMATS, TargetFormat
from .policy import Action, Scope, TensorPlan, finished, plan_all, side_of

# Not w4a4: it rounds what a layer is given to four bits as well, which weights do not show.
CANDIDATES = ("int8_convrot", "int8", "fp8_e4m3fn_scaled", "mxfp8", "nvfp4", "w4a8")
# Devices for which PyTorch has no 8-bit floats at all.
WITHOUT_FP8 = ("mps",)
FITTED = "kept within the budget"
# Offsets in a header take at most so many digits; the file is never larger than planned.
_OFFSET_DIGITS = 13
_CAST_TO = "bf16"
_WIDE = ("F64", "F32")


def candidates(known: frozenset[str] | None, device: str = "") -> list[TargetFormat]:
    """Return the formats to choose from.

    Args:
        known: the layer formats that the host loads; None where nobody knows.
        device: that it computes on, in the host's words.
    """
    formats = [FORMATS[name] for name in CANDIDATES if name in FORMATS]
    loaded = [f for f in formats if known is None or f.comfy_format in known]
    return [f for f in loaded if device not in WITHOUT_FP8 or not holds_fp8(f)]


def holds_fp8(target: TargetFormat) -> bool:
    """Tell whether weights or scales are 8-bit floats."""
    return any(spec.dtype.startswith("F8") for spec in target.outputs("", (4096, 4096)))


@dataclass(frozen=True)
class Alternatives:
    """What may become of every tensor of a file.

    Attributes:
        plans: for each tensor in file order, its alternatives; the first leaves it as it is.
        sides: layer -> bytes of the tensors beside its weight in the source, which stay with it.
    """

    plans: tuple[tuple[TensorPlan, ...], ...]
    sides: Mapping[str, int]

    @property
    def open(self) -> list[tuple[TensorPlan, ...]]:
        """The tensors with a choice."""
        return [plans for plans in self.plans if len(plans) > 1]


def find_alternatives(
    header: Header, identity: ModelIdentity, formats: Sequence[TargetFormat], scope: Scope
) -> Alternatives:
    """Return what may become of each tensor. What the rule keeps of a wide source may become bf16."""
    planned = [plan_all(header, identity, target, scope) for target in formats]
    casts = plan_all(header, identity, FORMATS[_CAST_TO], scope)
    found: list[tuple[TensorPlan, ...]] = []
    for i, cast in enumerate(casts):
        stay = _stay([plans[i] for plans in planned] or [cast])  # an old ComfyUI knows no format
        choices = [stay]
        if not cast.elements:
            found.append((stay,))
            continue
        if cast.action is Action.CAST and (cast.info.dtype in _WIDE or cast.source):
            choices.append(cast)
        choices += [plans[i] for plans in planned if plans[i].action is Action.QUANTIZE]
        found.append(tuple(choices))
    sides: Counter[str] = Counter()
    for name, info in header.tensors.items():
        layer = side_of(name)
        if layer is not None and f"{layer}.weight" in header.tensors:
            sides[layer] += _spec_cost(TensorSpec(name, info.dtype, info.shape))
    return Alternatives(tuple(found), sides)


def _stay(plans: Sequence[TensorPlan]) -> TensorPlan:
    """Return the tensor as it is, with the reason where no format takes it."""
    if any(plan.changes for plan in plans):
        return plans[0].copied(FITTED)
    return plans[0].copied(next((plan.reason for plan in plans if plan.reason), ""))


def without(alternatives: Alternatives, names: Iterable[str]) -> Alternatives:
    """Leave tensors as they are that cannot be converted."""
    fixed = set(names)
    plans = tuple(p[:1] if p[0].name in fixed else p for p in alternatives.plans)
    return Alternatives(plans, alternatives.sides)


@dataclass(frozen=True)
class Chosen:
    """The plan that was chosen, and facts about the choice for reports."""

    plans: list[TensorPlan]
    facts: dict[str, Any]


def choose(
    alternatives: Alternatives,
    noises: Sequence[Sequence[float]],
    limit: int,
    metadata: Mapping[str, str],
    spare: int,
) -> Chosen:
    """Return the alternatives with the least noise whose file takes at most ``limit`` bytes.

    Args:
        noises: for each tensor with a choice, what each alternative changes (a sum of squares).
        limit: bytes of the whole file.
        metadata: of the file.
        spare: bytes of its header that are kept free.

    Raises:
        BudgetTooSmall: no choice is that small.
    """
    fixed = sum(_cost(plans[0], alternatives) for plans in alternatives.plans if len(plans) == 1)
    fixed += len(json.dumps(dict(metadata), ensure_ascii=False).encode()) + spare + 256 + PAGE
    layers = [
        [Choice(_cost(plan, alternatives), noise) for plan, noise in zip(plans, values, strict=True)]
        for plans, values in zip(alternatives.open, noises, strict=True)
    ]
    budget = Budget(layers)
    picked = budget.pick(limit - fixed)
    if picked is None:
        # The recipe in the file's metadata grows with the digits of the limit.
        raise _too_small(limit, fixed + budget.smallest + _OFFSET_DIGITS)
    plans = _picked(alternatives, picked)
    smallest = fixed + budget.smallest
    return Chosen(plans, {"limit_bytes": limit, "exact": budget.exact, "smallest_bytes": smallest})


def _picked(alternatives: Alternatives, picked: Sequence[int]) -> list[TensorPlan]:
    numbers = iter(picked)
    return finished([p[next(numbers)] if len(p) > 1 else p[0] for p in alternatives.plans])


def _cost(plan: TensorPlan, alternatives: Alternatives) -> int:
    """Return the bytes of a tensor with its entries in the header; a stored layer's sides stay with it."""
    if side_of(plan.name) in alternatives.sides:
        return 0  # counted with its weight
    kept = alternatives.sides.get(plan.layer, 0) if not (plan.source and plan.changes) else 0
    return kept + sum(map(_spec_cost, plan.outputs()))


def _spec_cost(spec: TensorSpec) -> int:
    entry = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [0, 0]}
    text = json.dumps({spec.name: entry}, separators=(",", ":"), ensure_ascii=False)
    return spec.nbytes + len(text.encode()) + 2 * _OFFSET_DIGITS


def _too_small(limit: int, smallest: int) -> BudgetTooSmall:
    return BudgetTooSmall(
        f"target_size_gb allows {format_bytes(limit)}, and the smallest possible file takes "
        f"{format_bytes(smallest)}.",
        f"Ask for at least {_rounded_up(smallest):.2f} GB, or let more layers change: fewer "
        "keep_patterns, or formats that a newer ComfyUI loads.",
        limit_bytes=limit,
        smallest_bytes=smallest,
    )


def _rounded_up(nbytes: int) -> float:
    return -(-nbytes * 100 // GB) / 100
