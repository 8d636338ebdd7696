"""What people said, as one JSON document. Reading checks all of it before anything is kept."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import BadInput, FileError
from ..files import FileIdentity
from ..formats.temporary import temporary_path
from ..formats.writer import publish
from ..library import is_storable
from ..model import ModelInfo, ModelType, QuantizationType
from ..registry import Said, SaidModel, Source
from ..remote.address import shown

FORMAT = "managed-models"
FORMAT_VERSION = 1
MAX_BYTES = 256 << 20


def to_document(said: Said) -> dict[str, Any]:
    """Return the JSON document; equal for equal input."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "models": [
            {
                "name": model.name,
                "active_version": model.active_version,
                "aliases": dict(sorted(model.aliases.items())),
                "versions": [info.to_dict() for info in model.versions],
            }
            for model in said.models
        ],
        "pins": list(said.pins),
        "sources": [
            {
                "path": str(file.path),
                "size": file.size,
                "mtime_ns": file.mtime_ns,
                "url": source.url,
                "sha256": source.sha256,
                "etag": source.etag,
                "fetched_at": source.fetched_at,
                "license": source.license,
            }
            for file, source in said.sources
        ],
    }


def write_document(said: Said, path: Path, overwrite: bool = False) -> None:
    """Write the document, which appears whole or not at all.

    Raises:
        FileError: it cannot be written there.
        OutputExists: there is a file already, and ``overwrite`` is False.
    """
    temporary = temporary_path(path)
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            json.dump(to_document(said), file, ensure_ascii=False, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        publish(temporary, path, overwrite)
    except OSError as error:
        raise FileError(
            f"{path} cannot be written: {error.strerror}.", "Check the folder, and who may write there."
        ) from error
    finally:
        with suppress(OSError):  # published by now, or never made
            temporary.unlink()


def read_document(path: Path) -> Said:
    """Read a document that :func:`write_document` wrote, and check all of it.

    Raises:
        FileError: it cannot be read.
        BadInput: it is none, is from a newer version, or says something that cannot be kept: what and where.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadInput(f"{path.name} is larger than any export.", "Name a file that export wrote.")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}.", "Check the path.") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path.name} is no text.", "Name a file that export wrote.") from error
    try:
        document = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path.name} is no JSON: {error}.", "Name a file that export wrote.") from error
    return from_document(document)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def from_document(document: Any) -> Said:
    """Check a document in full and return what it says.

    Raises:
        BadInput: see :func:`read_document`.
    """
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise BadInput("That is no export of Managed Models.", "Name a file that export wrote.")
    version = document.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise _bad("format_version", version, "a whole number")
    if version > FORMAT_VERSION:
        raise BadInput(
            f"This export has format {version}, and this version of Managed Models reads up to "
            f"{FORMAT_VERSION}.",
            "Update Managed Models first.",
        )
    models = tuple(_model(entry, where) for where, entry in _entries(document, "models"))
    _once("models", [model.name for model in models])
    pins = tuple(_text(entry, where) for where, entry in _entries(document, "pins"))
    sources = tuple(_source(entry, where) for where, entry in _entries(document, "sources"))
    return Said(models, pins, sources)


def _entries(document: Mapping[str, Any], key: str, where: str = "") -> Iterator[tuple[str, Any]]:
    found = document.get(key, [])
    if not isinstance(found, list):
        raise _bad(f"{where}{key}", found, "a list")
    for number, entry in enumerate(found):
        yield f"{where}{key}[{number}]", entry


def _model(entry: Any, where: str) -> SaidModel:
    entry = _object(entry, where)
    name = _text(entry.get("name"), f"{where}.name")
    infos = tuple(_info(info, at, name) for at, info in _entries(entry, "versions", f"{where}."))
    versions = [info.version for info in infos]
    _once(f"{where}.versions", versions)
    active = _text(entry.get("active_version"), f"{where}.active_version")
    if active not in versions:
        raise _bad(f"{where}.active_version", active, "one of its versions")
    aliases = _object(entry.get("aliases", {}), f"{where}.aliases")
    return SaidModel(
        name,
        active,
        infos,
        {
            _text(alias, f"{where}.aliases"): _text(version, f"{where}.aliases.{alias}")
            for alias, version in aliases.items()
        },
    )


def _info(entry: Any, where: str, name: str) -> ModelInfo:
    entry = _object(entry, where)
    for key in ("version", "name"):
        _text(entry.get(key), f"{where}.{key}")
    if entry["name"] != name:
        raise _bad(f"{where}.name", entry["name"], f"{name!r} like its model")
    for key, kind in (("model_type", ModelType), ("quantization", QuantizationType)):
        if key in entry and entry[key] not in {member.value for member in kind}:
            raise _bad(f"{where}.{key}", entry[key], "one of " + ", ".join(member.value for member in kind))
    for key in ("size_gb", "min_vram_gb", "min_ram_gb"):
        _number(entry.get(key), f"{where}.{key}")
    for key in ("compatible_frameworks", "required_extensions", "tags"):
        for at, text in _entries(entry, key, f"{where}."):
            _text(text, at, empty=True)
    for key in ("min_torch_version", "url", "sha256", "license"):
        if entry.get(key) is not None:
            _text(entry[key], f"{where}.{key}", empty=True)
    _text(entry.get("file_path"), f"{where}.file_path", empty=True)
    if "model_type" not in entry:
        raise _bad(f"{where}.model_type", None, "the kind of the model")
    return ModelInfo.from_dict(dict(entry))


def _source(entry: Any, where: str) -> tuple[FileIdentity, Source]:
    entry = _object(entry, where)
    numbers = {}
    for key in ("size", "mtime_ns"):
        value = entry.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
            raise _bad(f"{where}.{key}", value, "a whole number")
        numbers[key] = value
    fetched_at = entry.get("fetched_at")
    _number(fetched_at, f"{where}.fetched_at")
    texts = {}
    for key in ("sha256", "etag", "license"):
        value = entry.get(key)
        texts[key] = None if value is None else _text(value, f"{where}.{key}", empty=True)
    path = _text(entry.get("path"), f"{where}.path")
    url = shown(_text(entry.get("url"), f"{where}.url"))  # an address that someone wrote by hand has secrets
    source = Source(url=url, fetched_at=float(fetched_at or 0.0), **texts)
    return FileIdentity.recorded(path, **numbers), source


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _bad(where, value, "an object")
    return value


def _text(value: Any, where: str, empty: bool = False) -> str:
    if not isinstance(value, str) or not (value or empty) or not is_storable(value) or "\0" in value:
        raise _bad(where, value, "a text")
    return value


def _number(value: Any, where: str) -> None:
    if value is None:
        return
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise _bad(where, value, "a number")


def _once(where: str, names: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise _bad(where, name, "each one once")
        seen.add(name)


def _bad(where: str, value: Any, expected: str) -> BadInput:
    given = repr(value)
    return BadInput(
        f"{where} is {given[:80]}{'...' if len(given) > 80 else ''}, and it has to be {expected}.",
        "Nothing was read in. Correct it, or export anew.",
    )
