"""What a file is, whichever of the formats it has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..errors import NotSafetensors
from ..formats.gguf import read_gguf
from ..formats.safetensors import read_header
from ..formats.shards import is_index, read_shards
from ..formats.sniff import GGUF_FILE
from .gguf import identify_gguf
from .identity import Detect, ModelIdentity, identify


def read_identity(path: Path, detect: Detect | None = None) -> ModelIdentity:
    """Say what the file is from its header, safetensors or GGUF.

    Raises:
        ModelNotFound, FileError: the file is not there, or no good.
    """
    return read_facts(path, detect)[0]


def read_facts(path: Path, detect: Detect | None = None) -> tuple[ModelIdentity, Mapping[str, str]]:
    """Return the same with what the header says of itself: its metadata, empty for GGUF.

    Raises:
        ModelNotFound, FileError: the file is not there, or no good.
    """
    try:
        header = read_shards(path)[0] if is_index(path) else read_header(path)
    except NotSafetensors as error:
        if error.details.get("looks_like") != GGUF_FILE:
            raise
        return identify_gguf(read_gguf(path), detect), {}
    return identify(header, detect), header.metadata
