"""The model files of this machine: listed as the host offers them, found by name, identified once."""

from __future__ import annotations

import difflib
import logging
import ntpath
import os
import posixpath
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from .by_hash import PREFIX, HashFinder
from .errors import AmbiguousModel, BadInput, ManagedModelsError, ModelNotFound, NotAvailable
from .files import FileIdentity
from .host import Host, ModelFile
from .model import ModelInfo
from .registry import Registry, Source
from .remote.address import is_address, shown
from .watch import Watch

if TYPE_CHECKING:
    from .identify import ModelIdentity

log = logging.getLogger("managed_models.library")

HASH_PREFIX = PREFIX


class ModelName(str):
    """A stock relative name that also knows its folder type, for files of one name in two folders.

    Stock loaders see a plain text; :meth:`Library.find` looks in that folder first.
    """

    folder: str

    def __new__(cls, name: str, folder: str) -> ModelName:
        text = super().__new__(cls, name)
        text.folder = folder
        return text

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]
        return str(self), self.folder  # ComfyUI copies what nodes give, in depth


class Library:
    """Find model files and say what they are.

    Args:
        host: lists the files and may recognise them.
        registry: names that people gave, and identities from earlier.
        defer: runs a write that nobody waits for; at once by default.
    """

    def __init__(
        self,
        host: Host,
        registry: Registry,
        defer: Callable[[Callable[[], None]], None] = lambda write: write(),
    ) -> None:
        self._host = host
        self._registry = registry
        self._defer = defer
        self._hashes = HashFinder(registry, defer)
        self._identities: dict[FileIdentity, ModelIdentity] = {}
        self._lock = threading.Lock()

    def names(self, folders: Iterable[str] | None = None) -> list[tuple[str, str]]:
        """Return (folder type, relative name) of every file in these folder types, all by default."""
        kinds = self._host.folder_types() if folders is None else folders
        return [(kind, name) for kind in kinds for name in self._host.names(kind)]

    def files(self, folders: Iterable[str] | None = None) -> list[ModelFile]:
        """Return the same files with where they are."""
        return self.located(self.names(folders))

    def located(self, names: Iterable[tuple[str, str]]) -> list[ModelFile]:
        """Return the files of some of :meth:`names`; those that are not there any more are left out."""
        found = (self._locate(kind, name) for kind, name in names)
        return [file for file in found if file is not None]

    def options(self, folders: Sequence[str]) -> list[str]:
        """Return the names to choose from: the stock relative name, ``folder/name`` where two clash."""
        names = self.names(folders)
        count = Counter(name for _, name in names)
        return [name if count[name] == 1 else os.path.join(kind, name) for kind, name in names]

    def find(
        self,
        reference: str,
        folders: Sequence[str] | None = None,
        version: str = "",
        watch: Watch | None = None,
    ) -> ModelFile:
        """Return the file that a name means.

        Args:
            reference: a stock relative name with either separator, ``folder/name``,
                ``sha256:<hex>`` (12 digits at least), or a registered name.
            folders: folder types to look in, all by default.
            version: of a registered name: a version, a specifier, ``latest``, or an alias.
            watch: sees files hashed that may be the one with a hash; without one nothing is hashed.

        Raises:
            ModelNotFound, AmbiguousModel, BadInput: with the nearest names.
            HashUnverified: a file may be the one with that hash, and there is no ``watch``.
        """
        known_folder = reference.folder if isinstance(reference, ModelName) else None
        given = reference
        reference = _checked(reference)
        if reference.lower().startswith(HASH_PREFIX):
            digest = reference[len(HASH_PREFIX) :].strip().lower()
            return self._hashes.find(digest, self.files(folders), watch, anywhere=folders is None)
        names = self.names(folders)
        found = _matches(names, given, reference)
        if known_folder:
            found = [match for match in found if match[0] == known_folder] or found
        if len(found) > 1 and not version:
            clash = ", ".join(f"{kind}/{_posix(name)}" for kind, name in found)
            raise AmbiguousModel(f"{reference!r} fits several files: {clash}.", "Name the folder too.")
        file = self._locate(*found[0]) if found and not version else None
        if file:
            return file
        info = self.registered(reference, version)
        if info:
            return self._file_of(info, folders)
        if found and not version:
            raise ModelNotFound(
                f"{reference} is listed, but its file is not there: it was just removed, "
                "or is a link that leads nowhere.",
                "Get it again, or choose another.",
            )
        if found:
            raise BadInput(
                f"version is {version!r}, but {reference} is a file without registered versions.",
                "Leave version empty, or register the model's versions first.",
            )
        raise self._not_found(reference, [name for _, name in names])

    def find_path(self, reference: str, version: str = "", watch: Watch | None = None) -> Path:
        """Return the file that a name or a path means: for a person's own command line and scripts.

        Raises:
            ModelNotFound, AmbiguousModel, BadInput: see :meth:`find`.
            NotAvailable: it is an address.
        """
        if is_address(reference):
            raise NotAvailable(
                f"{shown(reference)} is an address: that can be checked, and nothing else yet.",
                "Download the file, and give its path.",
            )
        try:
            path = Path(reference).expanduser()
            there = path.exists() or path.is_absolute()
        except (OSError, RuntimeError, ValueError):  # no path of this system
            path, there = Path(reference), False
        if not version and there and reference.strip():
            return path.absolute()
        try:
            return self.find(reference, version=version, watch=watch).path
        except ModelNotFound:
            if self._host.folder_types():
                raise
            raise ModelNotFound(
                f"There is no file {reference!r} here, and no model is registered under that name.",
                "Check the path, or name the folder that holds your models.",
            ) from None
        except BadInput as error:
            if isinstance(error, NotAvailable) or version:
                raise
            return path  # a path such as ../models/x, which does not exist: reading it will say so

    def identity(self, path: Path) -> ModelIdentity:
        """Return what the file is: from memory, the registry, or its header.

        Raises:
            ModelNotFound, FileError: the file is not there, or no good.
        """
        from .identify import read_identity  # here and below: not while ComfyUI starts
        from .identify.gguf import has_unnamed_types

        file = FileIdentity.of(path)
        with self._lock:
            known = self._identities.get(file)
        if known:
            return known
        known = self._recorded(file)
        if known is None:
            known = read_identity(path, self._host.detect)
            facts = known.to_dict()
            if is_storable(str(path)) and not has_unnamed_types(known):
                self._defer(lambda: self._registry.put_facts(file, facts))
        with self._lock:
            self._identities[file] = known
        return known

    def info_of(self, path: Path) -> ModelInfo | None:
        """Return what a person said about the file, None when nobody did."""
        return self._registry.active_by_path().get(str(path.absolute()))

    def source_of(self, path: Path) -> Source | None:
        """Return where the file as it is was fetched from, None when nobody knows."""
        try:
            return self._registry.source(FileIdentity.of(path)) if is_storable(str(path)) else None
        except ModelNotFound:  # it has just gone
            return None

    def version_of(self, path: Path) -> str | None:
        """Return the version that a person gave the file, None when nobody did."""
        info = self.info_of(path)
        return info.version if info else None

    def _recorded(self, file: FileIdentity) -> ModelIdentity | None:
        facts = self._registry.facts(file) if is_storable(str(file.path)) else None
        if facts is None:
            return None
        from .identify import ModelIdentity

        try:
            return ModelIdentity.from_dict(facts)
        except (KeyError, TypeError, ValueError):  # written by another version: read the header again
            return None

    def registered(self, name: str, version: str = "") -> ModelInfo | None:
        """Return what a person registered under a name: the active version, or the one that is meant.

        Raises:
            ModelNotFound: the name is registered, but no such version.
        """
        from .versions import select_version

        known = self._registry.versions(name)
        if not known:
            return None
        if not version:
            return self._registry.get(name)
        chosen = select_version(known, version, self._registry.aliases(name))
        if chosen is None:
            raise ModelNotFound(
                f"{name} has no version that satisfies {version!r}; it has {', '.join(known)}.",
                "Choose one of these, or register the one you mean.",
            )
        return self._registry.get(name, chosen)

    def _locate(self, kind: str, name: str) -> ModelFile | None:
        path = self._host.locate(kind, name)
        return ModelFile(kind, name, path) if path else None

    def _file_of(self, info: ModelInfo, folders: Sequence[str] | None) -> ModelFile:
        words = f"{info.name} {info.version} is registered, and its file {info.file_path.name}"
        if not info.file_path.is_file():
            raise ModelNotFound(f"{words} is not there.", "Download it, or register where it is now.")
        file = next((f for f in self.files() if f.path == info.file_path.absolute()), None)
        if file is None:  # outside the model folders, where the person who registered it keeps it
            return ModelFile("", info.file_path.name, info.file_path)
        if folders is not None and file.folder not in folders:
            raise ModelNotFound(
                f"{words} is a model of another kind.", "Choose it where that kind is loaded."
            )
        return file

    def _not_found(self, reference: str, names: Sequence[str]) -> ModelNotFound:
        suffix = PurePosixPath(reference).suffix.lower()
        near = difflib.get_close_matches(reference, [*names, *self._registry.names()], n=3, cutoff=0.5)
        remedy = f"Did you mean {', '.join(near)}?" if near else "Check the name."
        if not names:
            remedy = "There are no models here yet: put one into ComfyUI's models folder."
        elif not suffix and not near:
            remedy = "Give the file's name with its ending, or a registered name."
        return ModelNotFound(f"There is no model {reference!r}.", remedy, near=near)


def model_links(
    file: ModelFile, info: ModelInfo | None, source: Source | None = None
) -> list[dict[str, str]]:
    """Return what ComfyUI's missing-models dialog needs to name this file, if its address is known.

    Args:
        info: what a person said about the file, which counts first.
        source: where it was fetched from.
    """
    url = (info.url if info else None) or (source.url if source else None)
    sha256 = (info.sha256 if info else None) or (source.sha256 if source else None)
    if not url:
        return []
    link = {"name": file.name, "url": url, "directory": file.folder}
    if sha256:
        link.update(hash=sha256, hash_type="SHA256")
    return [link]


def is_storable(text: str) -> bool:
    """Tell whether a text can go into the registry: the name of a file that is no UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _checked(reference: object) -> str:
    if not isinstance(reference, str) or not reference.strip():
        raise BadInput(f"model_name is {reference!r}.", "Give the name of a model file.")
    text = reference.strip()
    if not is_storable(text):
        raise BadInput(f"model_name is {text!r}, which is no text.", "Give the name of a model file.")
    parts = text.replace("\\", "/").split("/")
    if is_address(text):
        raise NotAvailable(
            f"{shown(text)} is an address; models are chosen by name, and nothing is asked of the network.",
            "Download the file into a model folder, and choose it by name; before that, CheckCompatibility "
            "judges it by its url.",
        )
    if (
        posixpath.isabs(text)
        or ntpath.isabs(text)
        or ntpath.splitdrive(text)[0]
        or ".." in parts
        or "\0" in text
    ):
        raise BadInput(
            f"model_name is {text!r}, which points outside the model folders.",
            "Use the file's name as the loaders list it.",
        )
    return text


def _matches(names: Sequence[tuple[str, str]], given: str, reference: str) -> list[tuple[str, str]]:
    """Return what is meant: a listed name as it stands, else with either separator, else with its folder."""
    wanted = reference.replace("\\", "/")
    return (
        [(kind, name) for kind, name in names if name == given]
        or [(kind, name) for kind, name in names if _posix(name) == wanted]
        or [(kind, name) for kind, name in names if os.path.join(kind, name) == given]
        or [(kind, name) for kind, name in names if f"{kind}/{_posix(name)}" == wanted]
    )


def _posix(name: str) -> str:
    return name.replace(os.sep, "/")


def try_identity(library: Library, path: Path) -> tuple[ModelIdentity | None, ManagedModelsError | None]:
    """Return a file's identity, or the reason why there is none."""
    try:
        return library.identity(path), None
    except ManagedModelsError as error:
        return None, error
