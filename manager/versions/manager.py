"""The manager of versions that scripts use: it answers from the registry alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..config import IN_MEMORY
from ..model import ModelInfo, ModelType
from .facts import VersionFacts, registered_facts
from .order import latest_of, version_key
from .specifiers import select_version
from .upgrade import plan_upgrade

if TYPE_CHECKING:
    from ..registry import Registry


class ModelVersionManager:
    """Versions of models by name, kept in the registry.

    Args:
        registry: where to keep them; a new one in memory when None.
    """

    def __init__(self, registry: Registry | None = None) -> None:
        if registry is None:
            from ..registry import Registry

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
            BadInput: ``requirement`` is neither a version, a specifier nor an alias.
        """
        known, aliases = self._registry.versions(name), self._registry.aliases(name)
        return select_version(known, requirement, aliases) is not None

    def suggest_upgrade(self, name: str, current_version: str | None = None) -> str | None:
        """Return the newest version of the same base model and variant that is newer, else None.

        ``current_version`` is the active one when not given. A pre-release is suggested only to
        someone who has nothing but pre-releases.
        """
        current = current_version or self._registry.active_version(name)
        if not current:
            return None
        facts = [registered_facts(info) for info, _ in self._registry.registered(name)]
        plan = plan_upgrade(facts_of_version(current, facts), facts)
        return plan.candidates[0] if plan.candidates else None


def facts_of_version(current: str, facts: list[VersionFacts]) -> VersionFacts:
    """Return the facts of a version, of one that is not registered its number alone."""
    return next((known for known in facts if known.version == current), VersionFacts(current))
