"""What a file of ours says of itself, in its metadata: its source, how it was made, and its checksums."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from . import __version__
from .files import FileIdentity
from .formats.safetensors import Header

OUR_KEYS = "managed_models."
_SOURCE = "managed_models.source"
_RECIPE = "managed_models.recipe"
_SHA256 = "managed_models.source_sha256"
_CHECKSUMS = "managed_models.crc32"
_ERRORS = "managed_models.layer_errors"
_TOTAL = "managed_models.total_error"
_MADE_WITH = "managed_models.made_with"


def origin_metadata(source: Header, file: FileIdentity, recipe: Mapping[str, Any]) -> dict[str, str]:
    """Return what is known before a file is made: the source's own metadata, its name, and the recipe.

    Args:
        file: the source as one file: of a model in parts, all of them.
    """
    about = {"name": file.path.name, "size": file.size, "mtime_ns": file.mtime_ns}
    kept = {key: value for key, value in source.metadata.items() if not key.startswith(OUR_KEYS)}
    ours = {_SOURCE: about, _RECIPE: recipe, _MADE_WITH: versions()}
    return {"format": "pt", **kept, **{key: json.dumps(value) for key, value in ours.items()}}


def versions() -> dict[str, str]:
    """Return the versions that a file is made with: ours, and PyTorch's, which is not imported for it."""
    found = {"managed_models": __version__}
    try:
        found["torch"] = version("torch")
    except PackageNotFoundError:
        pass
    return found


def result_metadata(
    sha256: str, checksums: Sequence[int], errors: Sequence[float], total: float
) -> dict[str, str]:
    """Return what is known once it is made.

    Args:
        sha256: of the source.
        checksums: CRC-32 of each tensor, in file order.
        errors: relative L2 error of each changed linear layer, in the order of the source.
        total: the same of everything that changed, taken together.
    """
    return {
        _SHA256: sha256,
        _CHECKSUMS: ",".join(f"{number:x}" for number in checksums),
        _ERRORS: ",".join(f"{error:.3e}" for error in errors),
        _TOTAL: f"{total:.3e}",
    }


def result_metadata_room(tensors: int, layers: int) -> int:
    """Return the bytes of header that :func:`result_metadata` takes at most."""
    return 320 + 10 * tensors + 12 * layers


def made_from(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """Return source and recipe of a file of ours: name, size, mtime_ns, format, recipe; else None."""
    try:
        source = json.loads(metadata[_SOURCE])
        recipe = json.loads(metadata[_RECIPE])
        return {
            "name": str(source["name"]),
            "size": int(source["size"]),
            "mtime_ns": int(source["mtime_ns"]),
            "format": str(recipe["format"]),
            "recipe": recipe,
        }
    except (KeyError, ValueError, TypeError, RecursionError):
        return None


def source_sha256(metadata: Mapping[str, str]) -> str | None:
    """Return the hash of the source of a file of ours, None for any other."""
    return metadata.get(_SHA256)


def recorded_checksums(header: Header) -> dict[str, int]:
    """Return the CRC-32 that a file of ours carries for each tensor; empty for any other file."""
    numbers = header.metadata.get(_CHECKSUMS, "").split(",")
    if len(numbers) != len(header.tensors) or not all(numbers):
        return {}
    try:
        return {name: int(number, 16) for name, number in zip(header.tensors, numbers, strict=True)}
    except ValueError:
        return {}


def recorded_total(metadata: Mapping[str, str]) -> float | None:
    """Return the relative L2 error of all that changed in a file of ours; None where it is not told."""
    try:
        return float(metadata[_TOTAL])
    except (KeyError, ValueError):
        return None


def made_with(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the versions that a file of ours was made with; empty where it is not told."""
    try:
        return {str(key): str(value) for key, value in json.loads(metadata[_MADE_WITH]).items()}
    except (KeyError, ValueError, AttributeError, RecursionError):
        return {}


def recorded_errors(metadata: Mapping[str, str]) -> list[float]:
    """Return the relative L2 errors that a file of ours carries, in its source's order; else empty."""
    try:
        return [float(number) for number in metadata.get(_ERRORS, "").split(",") if number]
    except ValueError:
        return []
