"""What people and reports ask of versions: upgrades for this machine, aliases, replaced files, hints.

As an advisor of a check it says which version the model is, and whether a newer one is there.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..checking import Advice, Asked
from ..compatibility import CompatibilityReport, ModelCompatibilityChecker
from ..errors import ManagedModelsError, ModelNotFound
from ..files import FileIdentity
from ..formats.gguf import read_gguf
from ..formats.safetensors import read_header
from ..host import ModelFile
from ..identify import ModelIdentity
from ..library import Library, try_identity
from ..model import ModelInfo, QuantizationType
from ..registry import Registry
from ..words.versions import upgrade_lines, version_words
from .facts import VersionFacts, file_facts, registered_facts
from .hints import VersionHint, hint_dict, version_hint
from .naming import read_name
from .order import latest_of, version_key
from .revision import Revision, revision_of
from .specifiers import check_alias, select_version
from .upgrade import PassedOver, choose, newer_files, plan_upgrade

UNSUITABLE = "unsuitable"


class Versioning:
    """Versions as this machine sees them.

    Args:
        registry: what people said.
        library: the files, and what they are.
        checker: says whether this machine can run one.
    """

    key = "versions"

    def __init__(self, registry: Registry, library: Library, checker: ModelCompatibilityChecker) -> None:
        self._registry = registry
        self._library = library
        self._checker = checker
        self._hints: dict[FileIdentity, VersionHint | None] = {}
        self._lock = threading.Lock()

    def advise(self, asked: Asked) -> Advice | None:
        """Return what :meth:`about` says; of a model that is not here, what its header and name say."""
        if asked.path is not None:
            return Advice(self.about(asked.path))
        metadata = asked.header.metadata if asked.header else None
        return Advice(nothing_known() | {"version_hint": hint_dict(version_hint(asked.name, metadata))})

    # Upgrades

    def upgrade_details(self, name: str) -> dict[str, Any]:
        """Return the newest version that one may upgrade to, and why others are none; JSON-safe.

        Returns:
            ``active``, ``latest``, ``upgrade`` (the version to take, None without one), ``candidate``
            (that one, or the newest that this machine cannot run: ``version``, ``compatible``, ``file``,
            ``issues``; None without a newer one of the same base model and variant), ``passed_over``
            (newer versions: ``version``, ``code``, ``ours``, ``theirs``, ``issue``).

        Raises:
            ModelNotFound: nothing of that name is registered.
        """
        infos = {info.version: info for info, _ in self._registered(name)}
        active = self._registry.active_version(name)
        facts = [self._facts(info) for info in infos.values()]
        current = next((known for known in facts if known.version == active), VersionFacts(active))
        plan = plan_upgrade(current, facts)
        reports = {version: self._checker.report(infos[version]) for version in plan.candidates}
        chosen = choose(plan, {version: report.compatible for version, report in reports.items()})
        passed = [
            *(_unsuited(version, reports[version]) for version in chosen.unsuited),
            *map(_passed, plan.passed_over),
        ]
        return {
            "name": name,
            "active": active,
            "latest": latest_of(infos),
            "upgrade": chosen.upgrade,
            "candidate": _candidate(chosen.shown, reports[chosen.shown]) if chosen.shown else None,
            "passed_over": sorted(passed, key=lambda item: version_key(item["version"]), reverse=True),
        }

    def suggest(self, name: str) -> str | None:
        """Return the version of :meth:`upgrade_details`, None for an unknown name, too."""
        details = self._upgrade_of(name)
        return details["upgrade"] if details else None

    def details(self, name: str) -> dict[str, Any]:
        """Return everything about the versions of a model, JSON-safe.

        Returns:
            ``versions`` (ascending), ``active``, ``latest``, ``upgrade``, ``aliases``, ``upgrade_details``,
            and ``files``: by version, the file's name and whether it is still the one that was registered.

        Raises:
            ModelNotFound: nothing of that name is registered.
        """
        found = self._registered(name)
        upgrade = self.upgrade_details(name)
        files = {
            info.version: {"file": info.file_path.name, "revision": self._revision(info, recorded).value}
            for info, recorded in found
        }
        return {
            "name": name,
            "versions": sorted(files, key=version_key),
            "active": upgrade["active"],
            "latest": upgrade["latest"],
            "upgrade": upgrade["upgrade"],
            "aliases": self._registry.aliases(name),
            "files": files,
            "upgrade_details": upgrade,
        }

    # Aliases

    def set_alias(self, name: str, alias: str, version: str | None = None) -> str:
        """Let ``alias`` mean a version, the active one when None, and return that version.

        Raises:
            BadInput: ``alias`` could be taken for something else.
            ModelNotFound: there is no such model or version.
        """
        known = [info.version for info, _ in self._registered(name)]
        text = check_alias(alias, known)
        if version is None:
            chosen = self._registry.active_version(name)
        else:
            chosen = select_version(known, version, self._registry.aliases(name))
        if chosen is None:
            raise no_such_version(name, str(version), known)
        self._registry.put_alias(name, text, chosen)
        return chosen

    def remove_alias(self, name: str, alias: str) -> None:
        """Forget an alias; its version stays.

        Raises:
            ModelNotFound: there is none.
        """
        if not self._registry.remove_alias(name, alias.strip()):
            known = ", ".join(self.aliases(name)) or "none"
            raise ModelNotFound(f"{name} has no alias {alias!r}; it has {known}.", "Look at its versions.")

    def set_active(self, name: str, version: str) -> None:
        """Make ``version``, or the one that an alias means, the one that is meant when none is named.

        Raises:
            ModelNotFound: there is no such version.
        """
        chosen = self.aliases(name).get(version, version)
        if not self._registry.set_active_version(name, chosen):
            raise no_such_version(name, chosen, sorted(self._registry.versions(name), key=version_key))

    def aliases(self, name: str) -> dict[str, str]:
        """Return alias -> version; empty for an unknown name."""
        return self._registry.aliases(name)

    def resolve(self, name: str, requirement: str) -> str:
        """Return the registered version that a version, an alias, ``latest`` or a specifier means.

        Raises:
            BadInput: it is none of these.
            ModelNotFound: there is no such version.
        """
        known = self._registry.versions(name)
        chosen = select_version(known, requirement, self._registry.aliases(name)) if known else None
        if chosen is None:
            raise no_such_version(name, requirement, known)
        return chosen

    # Files

    def about(self, path: Path) -> dict[str, Any]:
        """Return what there is to say of a file's version, JSON-safe; ``words.versions`` says it.

        Returns:
            ``version`` (what a person gave it, else None), ``version_hint``, ``registered`` (its name),
            ``revision``, ``upgrade`` (of an active version, see :meth:`upgrade_details`) and
            ``newer_files`` (of a file that nobody registered: names of newer ones beside it, newest first).
        """
        info = self._library.info_of(path)
        if info is None:
            hint = hint_dict(self.hint(path))
            return nothing_known() | {"version_hint": hint, "newer_files": self._newer_files(path)}
        active = self._registry.active_version(info.name) == info.version
        return nothing_known() | {
            "version": info.version,
            "registered": info.name,
            "revision": self.revision(info),
            "upgrade": self._upgrade_of(info.name) if active else None,
        }

    def revision(self, info: ModelInfo) -> str:
        """Return whether a registered version's file is still the one that was registered, as a word."""
        known = {i.version: recorded for i, recorded in self._registry.registered(info.name)}
        return self._revision(info, known.get(info.version)).value

    def row(self, name: str, info: ModelInfo | None) -> dict[str, Any]:
        """Return what a list says of one file's version, JSON-safe; nothing is read from the file.

        Args:
            name: of the file.
            info: what a person said about it, None when nobody did.
        """
        hint = None if info else hint_dict(version_hint(name))
        upgrade = self._upgrade_of(info.name) if info else None
        version = info.version if info else None
        return {
            "version": version,
            "version_hint": hint,
            "version_words": version_words(version, hint),
            "upgrade": upgrade["upgrade"] if upgrade else None,
            "upgrade_words": "\n".join(upgrade_lines(upgrade)) if upgrade else "",
        }

    def hint(self, path: Path) -> VersionHint | None:
        """Return what a file's metadata, else its name, says of its version."""
        try:
            file = FileIdentity.of(path)
            with self._lock:
                if file in self._hints:
                    return self._hints[file]
            found = version_hint(path.name, self._metadata(path))
        except ManagedModelsError:
            return version_hint(path.name)
        with self._lock:
            self._hints[file] = found
        return found

    def _metadata(self, path: Path) -> Mapping[str, object]:
        identity = self._library.identity(path)
        if identity.quantization is QuantizationType.GGUF:
            return read_gguf(path).fields
        return read_header(path).metadata

    def _newer_files(self, path: Path) -> list[str]:
        """Return newer files of the same line in the same kind of folder, the newest first."""
        said = read_name(path.name)
        if said.version is None and not said.dated:
            return []
        listed = self._library.files()
        own = next((file for file in listed if file.path == path), None)
        if own is None:
            return []
        others = [file for file in listed if file.folder == own.folder and file.path != path]
        named = [_named(file, None) for file in others]
        likely = [others[i] for i in newer_files(_named(own, None), named)]
        if not likely:
            return []
        # Names are enough to leave most out; the headers of the rest can still say that they differ.
        facts = [_named(file, self._identity(file.path)) for file in likely]
        return [likely[i].name for i in newer_files(_named(own, self._identity(path)), facts)]

    # Reading

    def _upgrade_of(self, name: str) -> dict[str, Any] | None:
        try:
            return self.upgrade_details(name)
        except ModelNotFound:  # somebody has just forgotten it
            return None

    def _registered(self, name: str) -> list[tuple[ModelInfo, FileIdentity | None]]:
        found = self._registry.registered(name)
        if not found:
            raise ModelNotFound(f"Model {name!r} is not registered.", "Look at: managed-models list")
        return found

    def _facts(self, info: ModelInfo) -> VersionFacts:
        return registered_facts(info, self._identity(info.file_path))

    def _identity(self, path: Path) -> ModelIdentity | None:
        return None if path == Path() else try_identity(self._library, path)[0]

    def _revision(self, info: ModelInfo, recorded: FileIdentity | None) -> Revision:
        try:
            now = None if info.file_path == Path() else FileIdentity.of(info.file_path)
        except ModelNotFound:
            now = None
        measured = self._registry.sha256(now) if now and info.sha256 else None
        return revision_of(recorded, now, info.sha256, measured)


def nothing_known() -> dict[str, Any]:
    """Return :meth:`Versioning.about` of a file of which nothing is known."""
    return {
        "version": None,
        "version_hint": None,
        "registered": None,
        "revision": None,
        "upgrade": None,
        "newer_files": [],
    }


def no_such_version(name: str, version: str, known: Iterable[str]) -> ModelNotFound:
    """Return the error that says which versions there are."""
    words = ", ".join(known) or "none"
    return ModelNotFound(f"{name} has no version {version!r}; registered are {words}.", "Register it first.")


def _named(file: ModelFile, identity: ModelIdentity | None) -> VersionFacts:
    return file_facts(None, read_name(file.name), identity)


def _candidate(version: str, report: CompatibilityReport) -> dict[str, Any]:
    return {
        "version": version,
        "compatible": report.compatible,
        "file": report.to_dict()["file"],
        "issues": report.issues,
    }


def _passed(item: PassedOver) -> dict[str, Any]:
    return {"version": item.version, **item.difference._asdict(), "issue": ""}


def _unsuited(version: str, report: CompatibilityReport) -> dict[str, Any]:
    return {
        "version": version,
        "code": UNSUITABLE,
        "ours": "",
        "theirs": "",
        "issue": next(iter(report.issues), ""),
    }
