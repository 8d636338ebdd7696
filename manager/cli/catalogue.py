"""What ``scan``, ``list`` and ``show`` put together from the library and the registry."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..formats.gguf import read_gguf
from ..formats.safetensors import read_header
from ..host import ModelFile
from ..identify import ModelIdentity
from ..library import try_identity
from ..lineage import OUR_KEYS, made_from
from ..manager import AdvancedModelManager
from ..model import QuantizationType
from ..units import format_bytes

_THREADS = 4


def scan_files(manager: AdvancedModelManager) -> dict[str, Any]:
    """Identify every model file of the host's folders; forget files that are gone."""
    files = manager.library.files()
    known = manager.registry.active_by_path()
    with ThreadPoolExecutor(_THREADS) as threads:
        found = list(threads.map(lambda f: try_identity(manager.library, f.path), files))
    rows: list[dict[str, Any]] = []
    unreadable: list[dict[str, Any]] = []
    for file, (identity, error) in zip(files, found, strict=True):
        if identity is None:
            assert error is not None
            unreadable.append({"name": file.name, "path": str(file.path), **error.to_dict()})
        else:
            info = known.get(str(file.path))
            rows.append(_row(file, identity, info.version if info else None))
    _forget_vanished(manager)
    return {"files": rows, "unreadable": unreadable}


def known_models(manager: AdvancedModelManager) -> dict[str, Any]:
    """Return the registered models, and the files that scans have seen and that are still there."""
    versions = {path: info.version for path, info in manager.registry.active_by_path().items()}
    files = []
    for file, facts in manager.registry.known_files():
        if file.path.exists():
            identity = ModelIdentity.from_dict(facts)
            row = _row(ModelFile("", file.path.name, file.path), identity, versions.get(str(file.path)))
            files.append(row)
    return {"models": [info.to_dict() for info in manager.list_models()], "files": files}


def describe(manager: AdvancedModelManager, reference: str) -> dict[str, Any]:
    """Return what a model file is, with the metadata of its header."""
    path = manager.library.find_path(reference)
    identity = manager.library.identity(path)
    metadata = _metadata(path, identity)
    return {
        "model": path.name,
        "path": str(path.absolute()),
        "version": manager.library.version_of(path.absolute()),
        "size_bytes": path.stat().st_size,
        "identity": identity.to_dict(),
        "made_from": made_from(metadata),
        "metadata": {key: value for key, value in metadata.items() if not key.startswith(OUR_KEYS)},
    }


def _metadata(path: Path, identity: ModelIdentity) -> Mapping[str, str]:
    if identity.quantization is not QuantizationType.GGUF:
        return read_header(path).metadata
    fields = read_gguf(path).fields
    return {key: str(value) for key, value in fields.items() if not key.startswith("comfy.gguf.orig_shape.")}


def _row(file: ModelFile, identity: ModelIdentity, version: str | None) -> dict[str, Any]:
    size = file.path.stat().st_size
    return {
        "name": file.name,
        "folder": file.folder,
        "path": str(file.path),
        "what": identity.title,
        "role": identity.role.value,
        "architecture": identity.architecture,
        "precision": identity.precision,
        "parameters": identity.parameters,
        "size_bytes": size,
        "size": format_bytes(size),
        "version": version,
    }


def _forget_vanished(manager: AdvancedModelManager) -> None:
    roots = [folder.path for folder in manager.host.folders()]
    gone = [
        str(file.path)
        for file, _ in manager.registry.known_files()
        if _below(file.path, roots) and not file.path.exists()
    ]
    manager.registry.forget_files(gone)


def _below(path: Path, roots: list[Path]) -> bool:
    return any(root in path.parents for root in roots)
