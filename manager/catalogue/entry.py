"""One address of one model, and which entries of strangers' lists are refused. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from ..errors import ManagedModelsError
from ..model import FOLDER_ALIASES, MODEL_SUFFIXES
from ..remote.address import HUGGING_FACE, parse_address
from ..remote.reach import Reach

PUBLIC = Reach()
_PLAIN_SUFFIXES = frozenset({".safetensors", ".sft", ".gguf"})
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MOST = 255
# Windows keeps these names for devices, whatever ending they have.
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_FORBIDDEN = frozenset('<>:"|?*')


class Origin(str, Enum):
    """Who says where a model is; a person's own word counts first, a stranger's after that."""

    OWN = "own"
    REGISTERED = "registered"
    WORKFLOW = "workflow"
    TEMPLATES = "templates"


@dataclass(frozen=True)
class Entry:
    """One address of one model.

    Attributes:
        name: relative to its folder, with forward slashes.
        folder: the folder type.
        url: to ask; its query may hold a secret, so people see :attr:`shown`.
        sha256: lower-case hex, empty when nobody said.
        times: how many nodes of the templates name this address.
        size_bytes: what the list says, None when it does not.
    """

    name: str
    folder: str
    url: str
    sha256: str = ""
    origin: Origin = Origin.TEMPLATES
    times: int = 1
    size_bytes: int | None = None
    shown: str = ""

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""


@dataclass(frozen=True)
class Refusal:
    """An entry that is not used: its name and folder for people, and why."""

    name: str
    folder: str
    reason: str


def read_entry(
    facts: Any, origin: Origin, folders: Collection[str] | None, reach: Reach = PUBLIC
) -> Entry | Refusal:
    """Return what one item of a model list says: ``{name, directory, url, hash, hash_type, size}``.

    ``folder`` and ``sha256`` are taken for ``directory`` and ``hash`` too.

    Args:
        folders: the folder types that there are; None takes any plain word.
        reach: the addresses that may be asked at all.
    """
    if not isinstance(facts, Mapping):
        return Refusal("", "", "it is no object with name, directory and url")
    name, folder, url = (facts.get(key) for key in ("name", "directory", "url"))
    folder = facts.get("folder") if folder is None else folder
    said = Refusal(_text(name), _text(folder), "")
    reason = name_problem(name) or folder_problem(folder, folders)
    if reason:
        return replace(said, reason=reason)
    if not isinstance(url, str) or not url.strip():
        return replace(said, reason="it has no address")
    try:
        address = parse_address(_plain(url.strip()), allow_local=True)
        reach.check(address.url)
    except ManagedModelsError as error:
        return replace(said, reason=error.message)
    digest, reason = _hash_of(facts)
    if reason:
        return replace(said, reason=reason)
    size = facts.get("size")
    return Entry(
        name=str(name).replace("\\", "/"),
        folder=plain_folder(str(folder)),
        url=address.url,
        sha256=digest,
        origin=origin,
        size_bytes=size if isinstance(size, int) and not isinstance(size, bool) and size > 0 else None,
        shown=address.shown,
    )


def plain_folder(folder: str) -> str:
    """Return a folder type by the name that ComfyUI uses today."""
    return FOLDER_ALIASES.get(folder, folder)


def folder_problem(folder: Any, folders: Collection[str] | None) -> str:
    """Return why this is no folder type, empty when it is one."""
    if not isinstance(folder, str) or not folder:
        return "it names no folder"
    known = plain_folder(folder) in folders if folders is not None else re.fullmatch(r"\w[\w-]*", folder)
    return "" if known else f"there is no model folder {_text(folder)!r}"


def name_problem(name: Any) -> str:
    """Return why this cannot be the name of a model file below a model folder, empty when it can."""
    if not isinstance(name, str) or not name.strip():
        return "it has no name"
    parts = name.replace("\\", "/").split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "its name leads out of the model folder"
    for part in parts:
        if part[0] == ".":
            return "its name begins with a dot"
        if not part.isprintable() or _FORBIDDEN.intersection(part) or part != part.strip() or part[-1] == ".":
            return "its name has characters that file names must not have"
        if len(part.encode("utf-8", "surrogatepass")) > _MOST or _RESERVED.fullmatch(part):
            return "its name is none that every system can store"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is no text"
    suffix = PurePosixPath(parts[-1]).suffix.lower()
    if suffix not in MODEL_SUFFIXES:
        return f"{suffix or 'a name without an ending'} is no ending of a model file"
    return ""


def is_pickle(name: str) -> bool:
    """Tell whether a file of this name may run code when it is loaded."""
    return PurePosixPath(name).suffix.lower() not in _PLAIN_SUFFIXES


def merged(entries: Collection[Entry]) -> list[Entry]:
    """Return each address of each model once, with how often it was named; the first mention gives the rest.

    A hash that only one mention has counts for all; two different hashes stay two entries.
    """
    found: dict[tuple[str, str, str, str], Entry] = {}
    hashes: dict[tuple[str, str, str], set[str]] = {}
    for entry in entries:
        hashes.setdefault((entry.name, entry.folder, entry.url), set()).add(entry.sha256)
    for entry in entries:
        known = hashes[entry.name, entry.folder, entry.url] - {""}
        digest = entry.sha256 or (next(iter(known)) if len(known) == 1 else "")
        key = (entry.name, entry.folder, entry.url, digest)
        before = found.get(key)
        times = entry.times + (before.times if before else 0)
        found[key] = replace(before or entry, sha256=digest, times=times)
    return list(found.values())


def _hash_of(facts: Mapping[str, Any]) -> tuple[str, str]:
    """Return the SHA-256 that an item states, and what is wrong with it."""
    said = facts.get("sha256") or facts.get("hash")
    kind = facts.get("hash_type", "SHA256")
    if not said or not isinstance(kind, str) or kind.upper().replace("-", "") != "SHA256":
        return "", ""
    digest = said.strip().lower() if isinstance(said, str) else ""
    if not _SHA256.fullmatch(digest):
        return "", "its SHA-256 is not 64 hexadecimal digits"
    return digest, ""


def _plain(url: str) -> str:
    """Return a Hugging Face address without ``?download=true``, which changes nothing."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    if parts.hostname == HUGGING_FACE and parts.query in ("download=true", ""):
        return urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
    return url


def _text(value: Any) -> str:
    """Return what a stranger wrote, short and without what moves a cursor."""
    text = value if isinstance(value, str) else "" if value is None else type(value).__name__
    return "".join(c for c in text if c.isprintable())[:200]
