"""Gathering the facts for a decision, judging what is here, and asking or fetching what is not."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..catalogue.entry import Entry, Origin, Refusal, is_pickle, plain_folder, read_entry
from ..catalogue.service import Catalogue
from ..catalogue.workflow import Use, Workflow, read_workflow
from ..compatibility import CompatibilityReport, Severity
from ..errors import ManagedModelsError
from ..files import FileIdentity
from ..host import Host, ModelFile
from ..library import HASH_PREFIX, Library, is_storable
from ..model import FOLDER_TYPES, ModelInfo
from ..registry import Registry
from ..remote.reach import Reach
from .decide import Decision, Facts, Here, Need, Registered, Status, decide, digest_of, to_dict

if TYPE_CHECKING:
    from ..download.model import DownloadRequest

_ASK_AT_ONCE = 4
Judge = Callable[[ModelFile], CompatibilityReport]
Ask = Callable[[str], CompatibilityReport]


class Plan(NamedTuple):
    """Downloads to begin, and ``{"name", "folder", "error"}`` of those that have no place."""

    requests: list[DownloadRequest]
    failed: list[dict[str, Any]]


class Needs:
    """What a workflow needs on this machine.

    Args:
        host: the machine.
        library, registry: know the files and what people said.
        catalogue: knows addresses.
        judge: says whether a file of the model folders suits this machine.
        ask: the same for a model behind an address, whose header it fetches.
        hosts: names of the hosts that may be asked, unless a person at this machine asks.
    """

    def __init__(
        self,
        host: Host,
        library: Library,
        registry: Registry,
        catalogue: Catalogue,
        judge: Judge,
        ask: Ask,
        hosts: Callable[[], Sequence[str]],
    ) -> None:
        self._host = host
        self._library = library
        self._registry = registry
        self._catalogue = catalogue
        self._judge = judge
        self._ask = ask
        self._hosts = hosts

    def report(
        self, document: Any, judge: bool = True, ask: bool = False, any_host: bool = False
    ) -> dict[str, Any]:
        """Return JSON-safe facts on everything that a workflow needs; ``words.needs`` says them.

        Args:
            document: a workflow or a prompt, or ``{"workflow": ..., "prompt": ...}``.
            judge: also say whether what is here suits this machine, from the headers.
            ask: also fetch the headers of what is missing.
            any_host: a person at this machine asks, who may reach every public host.

        Raises:
            BadInput: it is no workflow.
        """
        decision = self.decide(document, any_host)
        rows = [to_dict(need) for need in decision.needs]
        for need, row in zip(decision.needs, rows, strict=True):
            row["file"] = self._file_facts(need.file, judge) if need.file else None
            for alternative, facts in zip(need.alternatives, row["alternatives"], strict=True):
                facts.update(self._file_facts(alternative.file, judge))
            row["remote"] = None
        if ask:
            self._add_answers(decision.needs, rows)
        missing = [row for row in rows if row["active"] and row["status"] != Status.HERE.value]
        fetchable = [row for row in rows if row["fetchable"]]
        sizes = [size_of(row) for row in fetchable]
        return {
            "models": rows,
            "refused": [{"name": r.name, "folder": r.folder, "reason": r.reason} for r in decision.refused],
            "problems": self._catalogue.problems(),
            "ready": decision.ready,
            "missing": len(missing),
            "fetchable": len(fetchable),
            "fetch_bytes": None if None in sizes else sum(size for size in sizes if size is not None),
            "asked": ask,
        }

    def decide(self, document: Any, any_host: bool = False) -> Decision:
        """Return how each model of a workflow stands.

        Args:
            any_host: see :meth:`report`.

        Raises:
            BadInput: it is no workflow.
        """
        workflow = read_workflow(document)
        return decide(workflow, self._facts(workflow, any_host))

    def requests(
        self, document: Any, wanted: Collection[tuple[str, str]] | None = None, any_host: bool = False
    ) -> Plan:
        """Return the downloads that would bring what is missing and has an address.

        Args:
            wanted: (folder, name) of those to bring; None is all.
            any_host: a person at this machine asked, who may reach every public host.

        Raises:
            BadInput: it is no workflow.
        """
        requests: list[DownloadRequest] = []
        failed: list[dict[str, Any]] = []
        for need in self.decide(document, any_host).needs:
            if not need.fetchable or (wanted is not None and (need.folder, need.name) not in wanted):
                continue
            try:
                requests.append(self.request(need.folder, need.addresses[0], any_host))
            except ManagedModelsError as error:  # what has no place does not keep the others from coming
                failed.append({"name": need.name, "folder": need.folder, "error": error.to_dict()})
        return Plan(requests, failed)

    def request(self, folder: str, entry: Entry, any_host: bool = False) -> DownloadRequest:
        """Return the download of one address into its model folder.

        Raises:
            BadInput: there is no folder of that type.
        """
        # With requests, which the start need not wait for.
        from ..download.model import DownloadRequest
        from ..download.target import target_path

        *below, last = entry.name.split("/")  # checked: no part of it leads anywhere else
        target = target_path(self._host, folder, last)
        target = target.parent.joinpath(*below, last)
        return DownloadRequest(
            url=entry.url,
            target=target,
            folder=folder,
            sha256=entry.sha256 or None,
            size_bytes=entry.size_bytes,
            any_host=any_host,
        )

    def addresses(self, name: str, folders: Sequence[str]) -> tuple[str, str, list[Entry]]:
        """Return (folder, file name, addresses) of a model that is not here, from what people registered
        and the catalogue; a workflow's own lists are strangers' and do not count here.

        Args:
            name: as a loader of ours takes it: a file name, ``folder/name``, ``sha256:`` or registered.
            folders: folder types in which it would be looked for.
        """
        workflow = Workflow((Use(name, tuple(folders), (), True, True),))
        need = decide(workflow, self._facts(workflow)).needs[0]
        if need.status is not Status.MISSING or need.address is None or is_pickle(need.address.name):
            return need.folder, need.name, []
        return need.folder, need.address.name, list(need.addresses)

    def _facts(self, workflow: Workflow, any_host: bool = False) -> Facts:
        listed = self._library.names()
        here = [Here(folder, name) for folder, name in listed]
        entries = [*self._catalogue.entries(), *self._registered_entries()]
        digests = {e.sha256 for e in entries if e.sha256} | set(_stated_hashes(workflow))
        return Facts(
            here=here,
            catalogue=entries,
            by_hash=self._by_hash(workflow, digests),
            hashes=self._hashes(workflow, here),
            registered=self._registered(workflow),
            folders=self.folder_types(),
            reach=self._reach(any_host=True),
            allowed=self._reach(any_host),
        )

    def _reach(self, any_host: bool) -> Reach:
        return Reach.from_environment(os.environ, None if any_host else self._hosts())

    def folder_types(self) -> Collection[str]:
        """Return the folder types that there are: the host's, and those that every ComfyUI has."""
        return {plain_folder(kind) for kind in (*self._host.folder_types(), *FOLDER_TYPES)}

    def _registered(self, workflow: Workflow) -> dict[str, Registered]:
        """Return what people registered under names that loaders of ours use."""
        found = {}
        for name in {use.name for use in workflow.uses if use.ours}:
            info = self._registry.get(name) if is_storable(name) else None
            if info is not None:
                folder, file = self._place_of(info)
                found[name] = Registered(folder, file, info.file_path.is_file())
        return found

    def _registered_entries(self) -> list[Entry]:
        """Return the addresses of registered files."""
        known = [info for info in self._registry.active_by_path().values() if info.url]
        entries = (_entry_of(info, *self._place_of(info)) for info in known)
        return [entry for entry in entries if entry is not None]

    def _place_of(self, info: ModelInfo) -> tuple[str, str]:
        """Return the folder type and the name of a registered file; no folder for one outside them."""
        path = info.file_path.absolute()
        for folder, root in self._host.folders():
            if root in path.parents:
                return folder, path.relative_to(root).as_posix()
        return "", path.name

    def _by_hash(self, workflow: Workflow, digests: Iterable[str]) -> dict[str, list[Here]]:
        places = [(f.type, f.path) for f in self._host.folders()]
        found: dict[str, list[Here]] = {}
        for digest in digests:
            for path in map(Path, self._registry.find_by_sha256(digest)):
                folder, root = next((p for p in places if p[1] in path.parents), ("", path))
                if folder and path.is_file():
                    found.setdefault(digest, []).append(Here(folder, str(path.relative_to(root))))
        for use in workflow.uses:
            if use.ours and use.name.lower().startswith(HASH_PREFIX):
                with suppress(ManagedModelsError):  # not here, or not known to be
                    file = self._library.find(use.name, use.folders)
                    found[digest_of(use.name)] = [Here(file.folder, file.name)]
        return found

    def _hashes(self, workflow: Workflow, here: Sequence[Here]) -> dict[tuple[str, str], str]:
        """Return the known hashes of the files that a stated hash is about."""
        stated = {
            item.get("name") for item in workflow.stated if isinstance(item, Mapping) and item.get("hash")
        }
        found = {}
        for file in here:
            if file.plain in stated:
                digest = self._known_hash(file)
                if digest:
                    found[file.folder, file.plain] = digest
        return found

    def _known_hash(self, file: Here) -> str | None:
        path = self._host.locate(file.folder, file.name)
        try:
            return self._registry.sha256(FileIdentity.of(path)) if path else None
        except ManagedModelsError:
            return None

    def _file_facts(self, file: Here, judge: bool) -> dict[str, Any]:
        """Return where a file that is here is listed, its size, and whether it suits this machine."""
        folder, name = file.folder, file.name
        facts: dict[str, Any] = {"folder": folder, "name": name, "size_bytes": None, "verdict": None}
        path = self._host.locate(folder, name) if folder else None
        if path is None:
            return facts
        try:
            facts["size_bytes"] = path.stat().st_size
            if judge:
                facts["verdict"] = _verdict(self._judge(ModelFile(folder, name, path)))
        except OSError:
            pass
        except ManagedModelsError as error:
            facts["verdict"] = {
                "compatible": False,
                "what": "",
                "message": error.message,
                "remedy": error.remedy,
            }
        return facts

    def _add_answers(self, needs: Sequence[Need], rows: Sequence[dict[str, Any]]) -> None:
        """Ask the addresses of what is missing, a few at a time."""
        wanted = [
            (need, row)
            for need, row in zip(needs, rows, strict=True)
            if need.address is not None and need.status is not Status.HERE and not need.blocked
        ]
        with ThreadPoolExecutor(_ASK_AT_ONCE) as threads:
            answers = threads.map(lambda pair: self._answer(pair[0].addresses[0].url), wanted)
            for (_, row), answer in zip(wanted, answers, strict=True):
                row["remote"] = answer

    def _answer(self, url: str) -> dict[str, Any]:
        try:
            report = self._ask(url)
        except ManagedModelsError as error:
            return {"size_bytes": None, "verdict": None, "error": error.to_dict()}
        size = report.advice.get("remote", {}).get("size_bytes")
        return {"size_bytes": size, "verdict": _verdict(report), "error": None}


def size_of(row: Mapping[str, Any]) -> int | None:
    """Return what is known of the size of a model that is missing, in bytes."""
    remote, address = row.get("remote"), row.get("address")
    if remote and remote["size_bytes"] is not None:
        return int(remote["size_bytes"])
    return int(address["size_bytes"]) if address and address["size_bytes"] is not None else None


def _verdict(report: CompatibilityReport) -> dict[str, Any]:
    """Return a verdict in short: what the model is, and the first thing that speaks against it."""
    first = next((f for f in report.findings if f.severity is Severity.BLOCKER), None)
    identity = report.subject.identity
    return {
        "compatible": report.compatible,
        "what": f"{identity.title}, {identity.precision}" if identity else "",
        "message": first.message if first else "",
        "remedy": first.remedy if first else "",
    }


def _stated_hashes(workflow: Workflow) -> Iterable[str]:
    for item in workflow.stated:
        entry = read_entry(item, Origin.WORKFLOW, None)
        if not isinstance(entry, Refusal) and entry.sha256:
            yield entry.sha256


def _entry_of(info: ModelInfo, folder: str, name: str) -> Entry | None:
    if not info.url or not folder:
        return None
    facts = {"name": name, "directory": folder, "url": info.url}
    if info.sha256:
        facts["sha256"] = info.sha256
    entry = read_entry(facts, Origin.REGISTERED, None)
    return None if isinstance(entry, Refusal) else entry
