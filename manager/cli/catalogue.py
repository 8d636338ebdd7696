"""What ``scan``, ``list`` and ``show`` put together from the library and the registry."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import FileIdentity
from ..formats.gguf import read_gguf
from ..formats.safetensors import read_header
from ..identify import ModelIdentity
from ..library import is_storable
from ..lineage import OUR_KEYS, made_from, source_sha256
from ..manager import AdvancedModelManager
from ..model import QuantizationType
from ..registry import FileRow, Scanned
from ..units import format_bytes
from ..versions.hints import hint_dict, version_hint
from ..words.integrity import health_word


def scan_files(manager: AdvancedModelManager, forget_missing: bool = False) -> dict[str, Any]:
    """Scan the host's folders; return what changed, and every model file in the folders' order."""
    result = manager.scan(forget_missing)
    paths = result.paths
    known = manager.registry.rows_of(path for path in paths if is_storable(path))
    known |= {str(row.file.path): _unrecorded(row) for row in result.unrecorded}
    versions = {path: info.version for path, info in manager.registry.active_by_path().items()}
    found = [known[path] for path in paths if path in known]
    return {
        "files": [file_row(row, versions.get(str(row.path))) for row in found if row.problem is None],
        "unreadable": [
            {"name": row.name, "path": str(row.path), **row.problem} for row in found if row.problem
        ],
        **result.to_dict(),
    }


def known_models(manager: AdvancedModelManager, text: str, folder: str | None) -> dict[str, Any]:
    """Return the registered models, and the files that scans have seen and that are still there.

    Args:
        text: words that each of them has to fit.
        folder: a type of model folder, for the files alone.
    """
    registry = manager.registry
    words = text.casefold().split()
    models = [
        {**info.to_dict(), "revision": manager.versioning.revision(info)} for info in manager.list_models()
    ]
    fitting = [
        info
        for info in models
        if all(word in " ".join([info["name"], info["version"], *info["tags"]]).casefold() for word in words)
    ]
    versions = {path: info.version for path, info in registry.active_by_path().items()}
    files = [
        file_row(row, versions.get(str(row.path)))
        for row in registry.find(text, folder)
        if row.identity is not None and row.path.exists()
    ]
    return {"models": [] if folder else fitting, "files": files}


def describe(manager: AdvancedModelManager, reference: str) -> dict[str, Any]:
    """Return what a model file is, with the metadata of its header, and what is known of it."""
    path = manager.library.find_path(reference)
    identity = manager.library.identity(path)
    metadata = _metadata(path, identity)
    version = manager.library.version_of(path.absolute())
    return {
        "model": path.name,
        "path": str(path.absolute()),
        "version": version,
        "version_hint": None if version else hint_dict(version_hint(path.name, metadata)),
        "size_bytes": path.stat().st_size,
        "identity": identity.to_dict(),
        "made_from": made_from(metadata),
        "source_sha256": source_sha256(metadata),
        "kin": _kin(manager, path),
        "metadata": {key: value for key, value in metadata.items() if not key.startswith(OUR_KEYS)},
        **manager.integrity.known(path.absolute()),
    }


def _kin(manager: AdvancedModelManager, path: Path) -> list[dict[str, str]]:
    """Return the other files that were made from the same source, and the source."""
    found = manager.registry.variants_of(FileIdentity.of(path.absolute()))
    return [
        {
            "name": other.path.name,
            "path": str(other.path),
            "precision": other.precision,
            "format": other.format,
        }
        for other in found
        if other.path != path.absolute()
    ]


def file_row(row: FileRow, version: str | None) -> dict[str, Any]:
    """Return a recorded file as the commands show it."""
    assert row.identity is not None
    identity = ModelIdentity.from_dict(row.identity)
    return {
        "name": row.name,
        "folder": row.folder,
        "path": str(row.path),
        "what": identity.title,
        "role": identity.role.value,
        "architecture": identity.architecture,
        "precision": identity.precision,
        "parameters": identity.parameters,
        "size_bytes": row.size,
        "size": format_bytes(row.size),
        "version": version,
        "version_hint": None if version else hint_dict(version_hint(row.name)),
        "health": health_word(row.health),
    }


def _unrecorded(row: Scanned) -> FileRow:
    file = row.file
    return FileRow(
        path=file.path,
        folder=row.folder,
        name=row.name,
        size=file.size,
        mtime_ns=file.mtime_ns,
        identity=row.identity,
        problem=row.problem,
        sha256=None,
        health=None,
        missing=False,
    )


def _metadata(path: Path, identity: ModelIdentity) -> Mapping[str, str]:
    if identity.quantization is not QuantizationType.GGUF:
        return read_header(path).metadata
    fields = read_gguf(path).fields
    return {key: str(value) for key, value in fields.items() if not key.startswith("comfy.gguf.orig_shape.")}
