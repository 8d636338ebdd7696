"""Reading one file for the registry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import FileError, ManagedModelsError
from ..files import FileIdentity, sample_digest
from ..identify import Detect, ModelIdentity
from ..identify.gguf import has_unnamed_types
from ..identify.reading import read_facts
from ..lineage import made_from, source_sha256
from ..registry import MadeFrom, Scanned
from .walk import Seen

# Another version may know more of what it reads.
READER = __version__


def read_file(seen: Seen, detect: Detect | None) -> Scanned:
    """Return what there is to know of a file: from its header, or why that cannot be read."""
    path = Path(seen.path)
    identity: ModelIdentity | None = None
    origin: MadeFrom | None = None
    problem: dict[str, Any] | None = None
    digest: str | None = None
    try:
        digest = sample_digest(path, seen.size)
        identity, metadata = read_facts(path, detect)
        made = made_from(metadata)
        if made:
            origin = MadeFrom(made["format"], made["name"], source_sha256(metadata))
    except ManagedModelsError as error:
        problem = error.to_dict()
    except OSError as error:
        problem = _unreadable(path, error)
    unnamed = identity is not None and has_unnamed_types(identity)
    return Scanned(
        file=FileIdentity(path, seen.size, seen.mtime_ns),
        folder=seen.folder,
        name=seen.name,
        node=seen.node,
        digest=digest,
        identity=identity.to_dict() if identity else None,
        problem=problem,
        reader="" if unnamed else READER,
        made_from=origin,
    )


def _unreadable(path: Path, error: OSError) -> dict[str, Any]:
    return FileError(f"{path} cannot be read: {error.strerror}.", "Check who may read it.").to_dict()


def try_digest(seen: Seen) -> str | None:
    """Return the digest of a file's samples, None when it cannot be read."""
    try:
        return sample_digest(seen.path, seen.size)
    except OSError:
        return None


Read = Callable[[Seen], Scanned]
