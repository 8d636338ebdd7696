"""What a file is, whichever of the formats it has."""

from __future__ import annotations

from pathlib import Path

from ..errors import NotSafetensors
from ..formats.gguf import read_gguf
from ..formats.safetensors import read_header
from ..formats.sniff import GGUF_FILE
from .gguf import identify_gguf
from .identity import Detect, ModelIdentity, identify


def read_identity(path: Path, detect: Detect | None = None) -> ModelIdentity:
    """Say what the file is from its header, safetensors or GGUF.

    Raises:
        ModelNotFound, FileError: the file is not there, or no good.
    """
    try:
        header = read_header(path)
    except NotSafetensors as error:
        if error.details.get("looks_like") != GGUF_FILE:
            raise
        return identify_gguf(read_gguf(path), detect)
    return identify(header, detect)
