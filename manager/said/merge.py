"""Merging what a document says with what is said here. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..model import ModelInfo
from ..registry import Additions, Said, SaidModel


@dataclass(frozen=True)
class Conflict:
    """Something that is said differently here and in the document."""

    what: str
    here: str
    there: str

    def to_dict(self) -> dict[str, str]:
        return {"what": self.what, "here": self.here, "there": self.there}


@dataclass
class Merge(Additions):
    """What the document adds, and what it says differently.

    Attributes:
        conflicts: what is said differently here; ``replaced`` tells whether the document's is kept.
        known: how many things were here already.
    """

    conflicts: list[Conflict] = field(default_factory=list)
    replaced: bool = False
    known: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-safe details; ``words.said.import_lines`` gives words."""
        return {
            "versions": [f"{info.name} {info.version}" for info in self.infos],
            "active": self.active,
            "aliases": [
                {"name": name, "alias": alias, "version": version} for name, alias, version in self.aliases
            ],
            "pins": self.pins,
            "sources": [str(file.path) for file, _ in self.sources],
            "conflicts": [conflict.to_dict() for conflict in self.conflicts],
            "replaced": self.replaced,
            "known": self.known,
        }


def merge(here: Said, there: Said, replace: bool = False) -> Merge:
    """Return what has to be kept so that ``there`` is said here too.

    Args:
        replace: where the two differ, believe ``there``.
    """
    result = Merge(replaced=replace)

    def settle(what: str, ours: object, theirs: object, keep: Callable[[], None]) -> None:
        if ours == theirs:
            result.known += 1
            return
        result.conflicts.append(Conflict(what, _brief(ours, theirs), _brief(theirs, ours)))
        if replace:
            keep()

    ours = {model.name: model for model in here.models}
    for model in there.models:
        _merge_model(ours.get(model.name), model, result, settle)
    pins = set(here.pins)
    result.pins = [path for path in there.pins if path not in pins]
    result.known += len(there.pins) - len(result.pins)
    sources = {str(file.path): (file, source) for file, source in here.sources}
    for theirs in there.sources:
        known = sources.get(str(theirs[0].path))
        if known is None:
            result.sources.append(theirs)
        else:
            settle(f"source of {theirs[0].path}", known, theirs, lambda t=theirs: result.sources.append(t))  # type: ignore[misc]
    return result


def _merge_model(
    ours: SaidModel | None, model: SaidModel, result: Merge, settle: Callable[..., None]
) -> None:
    name = model.name
    if ours is None:
        result.infos += model.versions
        result.active[name] = model.active_version
        result.aliases += [(name, alias, version) for alias, version in model.aliases.items()]
        return
    versions = {info.version: info for info in ours.versions}
    for info in model.versions:
        if info.version not in versions:
            result.infos.append(info)
        else:
            what = f"{name} {info.version}"
            settle(what, versions[info.version], info, lambda i=info: result.infos.append(i))
    settle(
        f"active version of {name}",
        ours.active_version,
        model.active_version,
        lambda: result.active.update({name: model.active_version}),
    )
    for alias, version in model.aliases.items():
        if alias not in ours.aliases:
            result.aliases.append((name, alias, version))
        else:
            what = f"alias {alias} of {name}"
            row = (name, alias, version)
            settle(what, ours.aliases[alias], version, lambda r=row: result.aliases.append(r))


def _brief(value: Any, other: Any) -> str:
    """Return what a value says that the other does not."""
    if isinstance(value, ModelInfo):
        facts, others = value.to_dict(), other.to_dict()
        return ", ".join(f"{key} {facts[key]!r}" for key in facts if facts[key] != others[key])
    if isinstance(value, tuple):
        file, source = value
        return f"{source.url} ({source.sha256 or 'no hash'}, {file.size} bytes)"
    return str(value)
