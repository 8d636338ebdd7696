"""The words about versions, from the details of :class:`versions.service.Versioning`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..units import format_count

_INDENT = "  "
_SHOWN = 5
_SOURCES = {"name": "its name says", "modelspec.title": "its title says", "general.name": "its title says"}
_REVISIONS = {
    "replaced": "the file was replaced since it was registered",
    "rewritten": "the file was written again since it was registered, as large as before: "
    "verify tells whether it is the same",
    "absent": "its file is not here",
}


def version_words(version: str | None, hint: Mapping[str, str] | None = None) -> str:
    """Return a version, or ``unknown`` with what the file itself says beside it."""
    if version is not None:
        return version
    if hint is None:
        return "unknown"
    return f"unknown ({_SOURCES.get(hint['source'], 'its metadata says')} {hint['version']})"


def listed_words(version: str, revision: str) -> str:
    """Return a registered version as a list shows it, with what became of its file."""
    state = _REVISIONS.get(revision)
    return f"{version} ({state})" if state else version


def versions_words(details: Mapping[str, Any]) -> str:
    """Return the versions of a model, one a line, and what there is to upgrade to."""
    lines = [_version_line(version, details) for version in details["versions"]]
    return "\n".join([*lines, *upgrade_lines(details["upgrade_details"])])


def _version_line(version: str, details: Mapping[str, Any]) -> str:
    names = [alias for alias, meant in details["aliases"].items() if meant == version]
    marks = (["active"] if version == details["active"] else []) + names
    line = f"{version} ({', '.join(marks)})" if marks else version
    state = _REVISIONS.get(details["files"][version]["revision"])
    return f"{line}: {state}" if state else line


def upgrade_lines(details: Mapping[str, Any]) -> list[str]:
    """Return what one may upgrade to, whether this machine can run it, and what was passed over."""
    candidate = details["candidate"]
    if candidate is None:
        lines = ["Upgrade: none"]
    elif candidate["compatible"]:
        lines = [f"Upgrade: {candidate['version']}, {_fit_words(candidate)}"]
    else:
        lines = [
            f"Upgrade: none that suits this machine; {candidate['version']}: {_first(candidate['issues'])}"
        ]
    passed = details["passed_over"]
    lines += [f"{_INDENT}Passed over: {passed_over_words(item)}" for item in passed[:_SHOWN]]
    if len(passed) > _SHOWN:
        lines.append(f"{_INDENT}and {len(passed) - _SHOWN} more")
    return lines


def _fit_words(candidate: Mapping[str, Any]) -> str:
    if candidate["file"] == "present":
        return "which can be used on this machine"
    return "which nothing known speaks against on this machine; its file is not here yet"


def passed_over_words(item: Mapping[str, Any]) -> str:
    """Say why a newer version is not suggested."""
    return f"{item['version']}, {_why(item)}"


def _why(item: Mapping[str, Any]) -> str:
    code, ours, theirs = item["code"], item["ours"], item["theirs"]
    if code == "prerelease":
        return "a pre-release"
    if code == "unsuitable":
        return f"which does not suit this machine: {_first([item['issue']])}"
    if code == "parameters":
        return f"another size ({format_count(int(theirs))} parameters instead of {format_count(int(ours))})"
    if code in ("architecture", "family"):
        return f"another base model ({theirs} instead of {ours})"
    if code == "base":
        return f"made for another base model ({theirs} instead of {ours})"
    if code == "precision":
        return f"another precision ({theirs} instead of {ours})"
    if code == "role":
        return f"another kind of model ({theirs.replace('_', ' ')} instead of {ours.replace('_', ' ')})"
    if not ours:
        return f"another variant ({theirs}, which the active one is not)"
    if not theirs:
        return f"another variant (not {ours}, as the active one is)"
    return f"another variant ({theirs} instead of {ours})"


def upgraded_words(result: Mapping[str, Any]) -> str:
    """Return what an upgrade did; see the command ``upgrade``."""
    name, before, after = result["name"], result["before"], result["after"]
    first = f"{name}: {before} to {after}" if after != before else f"{name}: {before} is the newest that fits"
    aliases = [alias for alias, meant in result["aliases"].items() if meant == before]
    lines = [first]
    if after != before and aliases:
        lines.append(f"{_INDENT}{', '.join(aliases)} still mean{'s' if len(aliases) == 1 else ''} {before}")
    passed = result["upgrade_details"]["passed_over"]
    return "\n".join(lines + [f"{_INDENT}Passed over: {passed_over_words(item)}" for item in passed[:_SHOWN]])


def alias_words(result: Mapping[str, Any]) -> str:
    """Return what became of an alias; see the command ``alias``."""
    if result["version"] is None:
        return f"{result['name']}: {result['alias']} is no alias any more"
    return f"{result['name']}: {result['alias']} means {result['version']}"


def about_lines(about: Mapping[str, Any]) -> list[str]:
    """Return what a report says of a file's version besides the version itself."""
    lines = []
    if about["revision"] in ("replaced", "rewritten"):
        words = _REVISIONS[about["revision"]]
        lines.append(f"Note: {words[:1].upper()}{words[1:]}")
    upgrade = about["upgrade"]
    if upgrade and upgrade["candidate"]:
        lines.append(upgrade_lines(upgrade)[0])
    if about["newer_files"]:
        lines.append(_newer_words(about["newer_files"]))
    return lines


def _newer_words(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"Newer, as its name says, and here: {names[0]}{more}"


def _first(issues: Sequence[str]) -> str:
    """Return the first issue to stand inside a sentence."""
    text = issues[0] if issues else "nobody says why"
    return text[:1].lower() + text[1:].rstrip(".")
