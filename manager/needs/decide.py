"""What a workflow needs, decided from facts. Pure: nothing is read, asked or changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import Any

from ..catalogue.entry import (
    PUBLIC,
    Entry,
    Origin,
    Refusal,
    is_pickle,
    name_problem,
    plain_folder,
    read_entry,
)
from ..catalogue.service import ranked
from ..catalogue.workflow import Use, Workflow, is_model_name
from ..errors import ManagedModelsError
from ..library import HASH_PREFIX
from ..remote.reach import Reach
from ..variants.kinship import base_name

# As many as the library takes for a hash that is not written out.
_LEAST_DIGITS = 12


class Status(str, Enum):
    """How a model of a workflow stands.

    HERE: its node finds it. SAME_FILE: the very file (by its hash) is here under another name, or in
    another folder. MISSING: it is not here; it can be fetched if it has an address. UNKNOWN: nobody knows
    the folder that its node looks in, and no list names it. REFUSED: its name cannot be used.
    """

    HERE = "here"
    SAME_FILE = "same_file"
    MISSING = "missing"
    UNKNOWN = "unknown"
    REFUSED = "refused"


class Why(str, Enum):
    """Why a file that is here may do instead: the surest first."""

    SAME_HASH = "same_hash"
    OTHER_SUBFOLDER = "other_subfolder"
    OTHER_FOLDER = "other_folder"
    OTHER_PRECISION = "other_precision"


@dataclass(frozen=True)
class Here:
    """A file that is here: its folder type and its name as loaders list it."""

    folder: str
    name: str

    @property
    def plain(self) -> str:
        return self.name.replace("\\", "/")


@dataclass(frozen=True)
class Registered:
    """A registered name: where its file belongs, and whether it is there."""

    folder: str
    name: str
    here: bool = False


@dataclass(frozen=True)
class Alternative:
    """A file that is here in place of one that is not."""

    file: Here
    why: Why


@dataclass(frozen=True)
class Facts:
    """Everything that the decision rests on.

    Attributes:
        here: the files of the model folders.
        catalogue: addresses that this machine knows of.
        by_hash: SHA-256 -> files that are known to have it.
        hashes: (folder, name with forward slashes) -> SHA-256 of a file that is here, where it is known.
        registered: name -> what a person registered.
        folders: the folder types that there are; None takes any plain word.
        reach: the addresses that may be asked at all.
        allowed: the same, with the hosts that may be downloaded from.
    """

    here: Collection[Here] = ()
    catalogue: Sequence[Entry] = ()
    by_hash: Mapping[str, Sequence[Here]] = field(default_factory=dict)
    hashes: Mapping[tuple[str, str], str] = field(default_factory=dict)
    registered: Mapping[str, Registered] = field(default_factory=dict)
    folders: Collection[str] | None = None
    reach: Reach = PUBLIC
    allowed: Reach = PUBLIC


@dataclass(frozen=True)
class Need:
    """One model of a workflow.

    Attributes:
        name, folder: what its node asks for; where it would go if it is missing, empty if nobody knows.
        file: what is here under that name.
        alternatives: what else is here, surest first.
        addresses: where it can be had, the one to take first; the rest names other addresses.
        reason: why it is refused.
        blocked: why its first address may not be asked from here.
        hash_differs: the file that is here is known to be another one than the workflow states.
    """

    name: str
    folder: str
    status: Status
    nodes: tuple[str, ...] = ()
    active: bool = True
    file: Here | None = None
    alternatives: tuple[Alternative, ...] = ()
    addresses: tuple[Entry, ...] = ()
    reason: str = ""
    blocked: str = ""
    hash_differs: bool = False

    @property
    def address(self) -> Entry | None:
        return self.addresses[0] if self.addresses else None

    @property
    def fetchable(self) -> bool:
        return self.active and self.status is Status.MISSING and bool(self.addresses) and not self.blocked


@dataclass(frozen=True)
class Decision:
    """What a workflow needs, and the items of its model lists that are not used."""

    needs: tuple[Need, ...]
    refused: tuple[Refusal, ...]

    @property
    def ready(self) -> bool:
        """Whether every model that would run is found by its node."""
        return all(need.status is Status.HERE for need in self.needs if need.active)


def decide(workflow: Workflow, facts: Facts) -> Decision:
    """Return how each model of a workflow stands."""
    stated: list[Entry] = []
    refused: list[Refusal] = []
    for item in workflow.stated:
        entry = read_entry(item, Origin.WORKFLOW, facts.folders, facts.reach)
        (refused if isinstance(entry, Refusal) else stated).append(entry)  # type: ignore[arg-type]
    view = _View(facts, stated)
    needs = tuple(_allowed_first(view.need(use), facts.allowed) for use in workflow.uses)
    return Decision(_once(needs), tuple(dict.fromkeys(refused)))


def _allowed_first(need: Need, reach: Reach) -> Need:
    """Return the need with the addresses first that may be asked."""
    blocked = {entry: _refusal(entry, reach) for entry in need.addresses}
    addresses = tuple(sorted(need.addresses, key=lambda entry: bool(blocked[entry])))
    reason = blocked[addresses[0]] if addresses else ""
    return dataclasses.replace(need, addresses=addresses, blocked=reason)


def _refusal(entry: Entry, reach: Reach) -> str:
    try:
        reach.check(reach.at_mirror(entry.url))
    except ManagedModelsError as error:
        return str(error)
    if is_pickle(entry.name) and reach.hosts is not None:
        return (
            "It is of a kind that can run code when it is loaded, which no workflow may bring here. "
            "Look for it as .safetensors, or fetch it with the command line."
        )
    return ""


def _once(needs: Sequence[Need]) -> tuple[Need, ...]:
    """Return each model once, where two spellings or two kinds of loader mean one."""
    found: dict[tuple[str, str], Need] = {}
    for need in needs:
        key = (need.folder, (need.file.plain if need.file else need.name.replace("\\", "/")))
        before = found.get(key)
        if before is None:
            found[key] = need
            continue
        nodes = tuple(dict.fromkeys((*before.nodes, *need.nodes)))
        found[key] = dataclasses.replace(before, nodes=nodes, active=before.active or need.active)
    return tuple(found.values())


class _View:
    """The facts, looked up by name."""

    def __init__(self, facts: Facts, stated: Sequence[Entry]) -> None:
        self._facts = facts
        self._by_place = {(here.folder, here.plain): here for here in facts.here}
        self._by_last: dict[str, list[Here]] = {}
        self._by_base: dict[tuple[str, str], list[Here]] = {}
        for here in facts.here:
            self._by_last.setdefault(_last(here.plain), []).append(here)
            self._by_base.setdefault((here.folder, _base(here.plain)), []).append(here)
        self._entries: dict[str, list[Entry]] = {}
        for entry in (*facts.catalogue, *stated):
            self._entries.setdefault(entry.name, []).append(entry)

    def need(self, use: Use) -> Need:
        """Return how one model stands."""
        if use.ours and use.name.lower().startswith(HASH_PREFIX):
            return self._by_digest(use)
        registered = self._facts.registered.get(use.name) if use.ours else None
        name, folders = self._split(use)
        if use.ours and registered is None and not is_model_name(name):
            return self._no_file(use, name, folders)
        reason = name_problem(name) if registered is None else ""
        if reason:
            return Need(use.name[:200], "", Status.REFUSED, use.nodes, use.active, reason=reason)
        file = self._find(name, folders)
        if file is None and registered is not None:
            return self._registered(use, registered)
        addresses = self._addresses(name, folders)
        if file is not None:
            return self._here(use, file, addresses)
        if not folders:
            folders = tuple(dict.fromkeys(entry.folder for entry in addresses[:1]))
        return self._absent(use, name, folders, [e for e in addresses if not folders or e.folder in folders])

    def _split(self, use: Use) -> tuple[str, tuple[str, ...]]:
        """Return the name below its folder, and the folders: ours may name the folder too."""
        name = use.name.replace("\\", "/")
        folders = tuple(dict.fromkeys(plain_folder(folder) for folder in use.folders))
        first, _, rest = name.partition("/")
        if use.ours and rest and plain_folder(first) in folders and self._find(name, folders) is None:
            return rest, (plain_folder(first),)
        return name, folders

    def _find(self, name: str, folders: Sequence[str]) -> Here | None:
        if folders:
            return next((h for f in folders if (h := self._by_place.get((f, name)))), None)
        return next((h for h in self._by_last.get(_last(name), []) if h.plain == name), None)

    def _addresses(self, name: str, folders: Sequence[str]) -> list[Entry]:
        """Return where a file of this name can be had, one entry for each address."""
        found = [e for e in self._entries.get(name, []) if not folders or e.folder in folders]
        if not found and "/" in name:  # lists name files without a person's own sub-folders
            found = [
                dataclasses.replace(e, name=name)
                for e in self._entries.get(_last(name), [])
                if not folders or e.folder in folders
            ]
        once: dict[tuple[str, str], Entry] = {}
        for entry in ranked(found):
            key = (entry.url, entry.folder)
            if key not in once:
                once[key] = entry
            elif entry.sha256 and not once[key].sha256:
                once[key] = dataclasses.replace(once[key], sha256=entry.sha256)
        return list(once.values())

    def _here(self, use: Use, file: Here, addresses: Sequence[Entry]) -> Need:
        known = self._facts.hashes.get((file.folder, file.plain))
        stated = {e.sha256 for e in addresses if e.sha256 and e.origin is not Origin.TEMPLATES}
        return Need(
            use.name,
            file.folder,
            Status.HERE,
            use.nodes,
            use.active,
            file=file,
            addresses=tuple(addresses),
            hash_differs=bool(known and stated and known not in stated),
        )

    def _absent(self, use: Use, name: str, folders: Sequence[str], addresses: Sequence[Entry]) -> Need:
        same = [
            Alternative(here, Why.SAME_HASH)
            for digest in dict.fromkeys(e.sha256 for e in addresses if e.sha256)
            for here in self._facts.by_hash.get(digest, ())
        ]
        folder = addresses[0].folder if addresses else folders[0] if folders else ""
        status = Status.SAME_FILE if same else Status.MISSING if folder else Status.UNKNOWN
        return Need(
            name,
            folder,
            status,
            use.nodes,
            use.active,
            alternatives=(*same, *self._instead(name, folders, {a.file for a in same})),
            addresses=tuple(addresses),
        )

    def _instead(self, name: str, folders: Sequence[str], known: Collection[Here]) -> list[Alternative]:
        """Return files whose names say that they may be the model, or the model in another precision."""
        found: dict[Here, Why] = {}
        for here in self._by_last.get(_last(name), []):
            found[here] = Why.OTHER_SUBFOLDER if here.folder in folders else Why.OTHER_FOLDER
        for folder in folders:
            for here in self._by_base.get((folder, _base(name)), []):
                found.setdefault(here, Why.OTHER_PRECISION)
        order = list(Why)
        left = [Alternative(here, why) for here, why in found.items() if here not in known]
        return sorted(left, key=lambda a: (order.index(a.why), a.file.folder, a.file.name))

    def _by_digest(self, use: Use) -> Need:
        digest = digest_of(use.name)
        for here in self._facts.by_hash.get(digest, ()):
            if here.folder in {plain_folder(folder) for folder in use.folders}:
                return Need(use.name, here.folder, Status.HERE, use.nodes, use.active, file=here)
        told = len(digest) >= _LEAST_DIGITS
        every = (e for entries in self._entries.values() for e in entries)
        wanted = [e for e in every if told and e.sha256.startswith(digest)]
        addresses = [e for e in ranked(wanted) if e.folder in {plain_folder(f) for f in use.folders}]
        if not addresses:
            return Need(use.name, "", Status.MISSING, use.nodes, use.active)
        return Need(
            use.name, addresses[0].folder, Status.MISSING, use.nodes, use.active, addresses=tuple(addresses)
        )

    def _no_file(self, use: Use, name: str, folders: Sequence[str]) -> Need:
        """Return how a name without an ending stands: a VAE's encoder and decoder, or nothing."""
        if "vae_approx" in folders:
            halves = (f"{name}_encoder.", f"{name}_decoder.")
            found = [h for half in halves for h in self._facts.here if h.name.startswith(half)]
            if len({h.name.partition(".")[0] for h in found if h.folder == "vae_approx"}) == len(halves):
                return Need(use.name, "vae_approx", Status.HERE, use.nodes, use.active, file=found[-1])
        reason = "no model is registered under that name"
        return Need(use.name[:200], "", Status.UNKNOWN, use.nodes, use.active, reason=reason)

    def _registered(self, use: Use, known: Registered) -> Need:
        if known.here:
            file = Here(known.folder, known.name)
            return Need(use.name, known.folder, Status.HERE, use.nodes, use.active, file=file)
        addresses = self._addresses(known.name, [known.folder])
        return Need(use.name, known.folder, Status.MISSING, use.nodes, use.active, addresses=tuple(addresses))


def digest_of(name: str) -> str:
    """Return the hash in ``sha256:...``, lower case."""
    return name[len(HASH_PREFIX) :].strip().lower()


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _base(name: str) -> str:
    """Return a name without its precision; itself where nothing else is left, which fits nothing else."""
    return base_name(Path(PurePosixPath(name).name)) or name


def to_dict(need: Need) -> dict[str, Any]:
    """Return a need as JSON-safe facts; addresses are shown without their queries."""
    address = need.address
    return {
        "name": need.name,
        "folder": need.folder,
        "status": need.status.value,
        "nodes": list(need.nodes),
        "active": need.active,
        "fetchable": need.fetchable,
        "file": {"folder": need.file.folder, "name": need.file.name} if need.file else None,
        "hash_differs": need.hash_differs,
        "alternatives": [
            {"folder": a.file.folder, "name": a.file.name, "why": a.why.value} for a in need.alternatives
        ],
        "address": _address_dict(address) if address else None,
        "other_addresses": [_address_dict(entry) for entry in need.addresses[1:]],
        "reason": need.reason,
        "blocked": need.blocked,
    }


def _address_dict(entry: Entry) -> dict[str, Any]:
    return {
        "url": entry.shown,
        "host": entry.host,
        "name": entry.name,
        "folder": entry.folder,
        "origin": entry.origin.value,
        "sha256": entry.sha256 or None,
        "size_bytes": entry.size_bytes,
    }
