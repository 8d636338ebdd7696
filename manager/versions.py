"""Versions: one order for all of them, and the manager that answers questions about a model's.

PEP 440 decides (https://peps.python.org/pep-0440/), which also reads semantic versions such as
``1.0.0-beta.1``. Local parts (``+cu118``) are ignored. What is no version at all sorts below every
version, by its text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from .config import IN_MEMORY
from .errors import BadInput
from .model import ModelInfo, ModelType

if TYPE_CHECKING:
    from .registry import Registry

LATEST = "latest"
_LOCAL_PART = re.compile(r"\+[a-z0-9]+(?:[-_.][a-z0-9]+)*", re.IGNORECASE)


def parse_version(text: str) -> Version | None:
    """Return the version without its local part, or None when ``text`` is no version."""
    try:
        return Version(Version(text).public)
    except (ValueError, TypeError):  # InvalidVersion, or more digits than Python reads
        return None


def version_key(text: str) -> tuple[bool, Version, str]:
    """Return a key that sorts every text: what is no version first, then by version."""
    version = parse_version(text)
    if version is None:
        return False, Version("0"), text
    return True, version, ""


def compare_versions(a: str, b: str) -> int:
    """Return -1, 0 or 1 as ``a`` is older than, the same as or newer than ``b``."""
    first, second = version_key(a), version_key(b)
    return (first > second) - (first < second)


def parse_requirement(requirement: str) -> SpecifierSet:
    """Read ``>=1.2``, ``~=2.1`` or a bare ``1.5.0``, which means ``==1.5.0``.

    Raises:
        BadInput: it is neither a version nor a specifier.
    """
    text = _LOCAL_PART.sub("", requirement.strip())
    version = parse_version(text)
    if version is not None:
        return SpecifierSet(f"=={version}", prereleases=True)
    try:
        return SpecifierSet(text)
    except ValueError:  # InvalidSpecifier, or more digits than Python reads
        raise BadInput(
            f"{requirement!r} is not a version requirement.",
            "Use a version such as 1.5.0, a specifier such as >=1.2 or ~=2.1, or latest.",
        ) from None


def latest_of(versions: Iterable[str]) -> str | None:
    """Return the newest; a pre-release only when there is nothing else. None for an empty list."""
    ordered = sorted(versions, key=version_key)
    final = [v for v in ordered if (p := parse_version(v)) is not None and not p.is_prerelease]
    return (final or ordered)[-1] if ordered else None


def newer_versions(versions: Iterable[str], current: str) -> list[str]:
    """Return what one may upgrade to, in ascending order; pre-releases only when there is nothing else."""
    known = sorted(versions, key=version_key)
    final = [v for v in known if (p := parse_version(v)) is not None and not p.is_prerelease]
    return [version for version in final or known if compare_versions(version, current) > 0]


def select_version(versions: Iterable[str], requirement: str) -> str | None:
    """Return the newest version that ``requirement`` (or ``latest``) admits, or None."""
    versions = list(versions)
    if requirement.strip().lower() == LATEST:
        return latest_of(versions)
    if requirement.strip() in versions:
        return requirement.strip()
    specifier = parse_requirement(requirement)
    fitting = [v for v in versions if (p := parse_version(v)) is not None and specifier.contains(p)]
    return latest_of(fitting)


class ModelVersionManager:
    """Versions of models by name, kept in the registry.

    Args:
        registry: where to keep them; a new one in memory when None.
    """

    def __init__(self, registry: Registry | None = None) -> None:
        if registry is None:
            from .registry import Registry

            registry = Registry(IN_MEMORY)
        self._registry = registry

    def register_version(self, name: str, version: str, **facts: Any) -> None:
        """Record one version; ``facts`` are further fields of :class:`ModelInfo`.

        A version that is known already gets the new facts.
        """
        facts.setdefault("model_type", ModelType.OTHER)
        facts.setdefault("file_path", "")
        self._registry.put(ModelInfo(name=name, version=version, **facts))

    def get_latest_version(self, name: str) -> str | None:
        """Return the newest version, a pre-release only when there is nothing else, or None."""
        return latest_of(self._registry.versions(name))

    def get_all_versions(self, name: str) -> list[str]:
        """Return every version in ascending order; empty for an unknown name."""
        return sorted(self._registry.versions(name), key=version_key)

    def is_version_compatible(self, name: str, requirement: str) -> bool:
        """Tell whether any version of ``name`` satisfies ``requirement``.

        Raises:
            BadInput: ``requirement`` is neither a version nor a specifier.
        """
        return select_version(self._registry.versions(name), requirement) is not None

    def suggest_upgrade(self, name: str, current_version: str | None = None) -> str | None:
        """Return the newest version if it is newer than ``current_version``, else None.

        ``current_version`` is the active one when not given. A pre-release is suggested only to
        someone who has nothing but pre-releases.
        """
        current = current_version or self._registry.active_version(name)
        newer = newer_versions(self._registry.versions(name), current) if current else []
        return newer[-1] if newer else None
