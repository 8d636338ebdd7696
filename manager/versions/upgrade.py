"""Which version one may upgrade to: pure, over frozen facts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..model import ModelType
from .facts import VersionFacts
from .families import Axis
from .order import version_key

PRERELEASE = "prerelease"
# Below, two counts are of one size: formats count their scales differently, and a layer may come or go.
_SAME_SIZE = 1.25
# A word on one of these makes another model, and so does its absence.
_MARKED = (Axis.KIND, Axis.NOISE, Axis.SPEED)
# On these a name that says nothing contradicts nothing.
_STATED = (Axis.INPUT, Axis.ROLE, Axis.EDITION, Axis.SIZE, Axis.RESOLUTION, Axis.RANK)
# These belong to one base model, whose generation is not their version.
_ADDED = (ModelType.LORA, ModelType.CONTROLNET)


class Difference(NamedTuple):
    """Why two files are not versions of one model: what differs, and both values in words."""

    code: str
    ours: str
    theirs: str


@dataclass(frozen=True)
class PassedOver:
    """A newer version that is not suggested, and why not."""

    version: str
    difference: Difference


@dataclass(frozen=True)
class UpgradePlan:
    """Newer versions of the same base model and variant, the newest first, and those passed over."""

    candidates: tuple[str, ...] = ()
    passed_over: tuple[PassedOver, ...] = ()


def plan_upgrade(current: VersionFacts, known: Iterable[VersionFacts]) -> UpgradePlan:
    """Decide which of the ``known`` versions one may upgrade to from ``current``.

    Nothing that is another base model or variant; a pre-release only where there is nothing else.
    """
    ordered = sorted(known, key=lambda facts: (facts.key, facts.version or ""), reverse=True)
    differences = {facts.version: difference(current, facts) for facts in ordered}
    alike = [facts for facts in ordered if differences[facts.version] is None]
    only_prereleases = not any(facts.is_release for facts in alike)
    candidates, passed = [], []
    for facts in ordered:
        if facts.version is None or facts.key <= current.key:
            continue
        found = differences[facts.version]
        if found is None and not only_prereleases and not facts.is_release:
            found = Difference(PRERELEASE, "", "")
        if found is None:
            candidates.append(facts.version)
        else:
            passed.append(PassedOver(facts.version, found))
    return UpgradePlan(tuple(candidates), tuple(passed))


class Choice(NamedTuple):
    """What to do: the version to take (None without one), the one to speak of, and what was left out.

    Attributes:
        upgrade: the newest candidate that suits this machine.
        shown: that one, else the newest that does not; None without any candidate.
        unsuited: newer candidates than ``shown`` that do not suit, the newest first.
    """

    upgrade: str | None
    shown: str | None
    unsuited: tuple[str, ...]


def choose(plan: UpgradePlan, suits: Mapping[str, bool]) -> Choice:
    """Decide which candidate to take, knowing of each whether it suits this machine."""
    upgrade = next((version for version in plan.candidates if suits[version]), None)
    if upgrade is None:
        return Choice(None, next(iter(plan.candidates), None), ())
    return Choice(upgrade, upgrade, plan.candidates[: plan.candidates.index(upgrade)])


def difference(a: VersionFacts, b: VersionFacts) -> Difference | None:
    """Return what makes two versions of one name another model, None when nothing known does."""
    return next(_differences(a, b), None)


def _differences(a: VersionFacts, b: VersionFacts) -> Iterator[Difference]:
    if a.role and b.role and a.role is not b.role:
        yield Difference("role", a.role.value, b.role.value)
    if a.architecture and b.architecture and a.architecture != b.architecture:
        yield Difference("architecture", a.title, b.title)
    if a.name.family and b.name.family and a.name.family != b.name.family:
        yield Difference("family", a.name.title, b.name.title)
    if _is_added(a) and _is_added(b) and _differ(a.name.generation, b.name.generation):
        yield Difference("base", _base(a), _base(b))
    if a.parameters and b.parameters and not _same_size(a.parameters, b.parameters):
        yield Difference("parameters", str(a.parameters), str(b.parameters))
    for axis in _MARKED:
        if a.name.on(axis) != b.name.on(axis):
            yield _words_differ(axis, a, b)
    for axis in _STATED:
        if a.name.on(axis) and b.name.on(axis) and a.name.on(axis) != b.name.on(axis):
            yield _words_differ(axis, a, b)
    if a.precision and b.precision and a.precision != b.precision:
        yield Difference("precision", a.precision, b.precision)


def same_line(a: VersionFacts, b: VersionFacts) -> bool:
    """Tell whether two files that nobody registered are one family and variant, as far as their names go.

    Stricter than :func:`difference`, for nobody said that they belong together: every word counts.
    """
    first, second = a.name, b.name
    named = first.family is not None or bool(first.rest)
    if not named or first.family != second.family or difference(a, b) is not None:
        return False
    if (first.own or second.own) and first.generation != second.generation:
        return False
    axes = (*_MARKED, *_STATED)
    said_alike = all(first.on(axis) == second.on(axis) for axis in axes)
    return said_alike and first.rest == second.rest and first.precision == second.precision


def newer_files(subject: VersionFacts, others: Sequence[VersionFacts]) -> list[int]:
    """Return which of the others are newer files of the same line, the newest first; no pre-release.

    A file whose name says no version is older than dated ones only where its family began so.
    """
    start = _line_position(subject)
    if start is None:
        return []
    found = []
    for i, other in enumerate(others):
        position = _line_position(other)
        if position is None or position <= start or not same_line(subject, other):
            continue
        if not other.is_prerelease or subject.is_prerelease:
            found.append((position, i))
    return [i for _, i in sorted(found, reverse=True)]


def _line_position(facts: VersionFacts) -> tuple[int, object] | None:
    """Return what files of one line are ordered by; None when the name says too little."""
    said = facts.name.version
    if said is not None:
        key = version_key(said)
        return (1, key) if key.readable else None
    if facts.name.dated and not facts.name.own:
        return 0, version_key("0")
    return None


def _is_added(facts: VersionFacts) -> bool:
    """Tell whether the family's number is that of a base model, and not the version."""
    return facts.role in _ADDED or bool(facts.name.own)


def _base(facts: VersionFacts) -> str:
    return f"{facts.name.title} {facts.name.generation}".strip()


def _differ(a: str | None, b: str | None) -> bool:
    return a is not None and b is not None and version_key(a) != version_key(b)


def _same_size(a: int, b: int) -> bool:
    return max(a, b) <= _SAME_SIZE * min(a, b)


def _words_differ(axis: Axis, a: VersionFacts, b: VersionFacts) -> Difference:
    return Difference(axis.value, ", ".join(sorted(a.name.on(axis))), ", ".join(sorted(b.name.on(axis))))
