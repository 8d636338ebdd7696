"""What a load may be asked for, and what stands for an output that a file cannot fill. Light: node schemas
and the bridge to the stock loaders need it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from .errors import UnfilledOutputError
from .host import LoadRequest
from .model import ModelType

WARN = "warn"
ERROR = "error"
USE_SMALLER = "use_smaller"
ON_MISFIT = (WARN, ERROR, USE_SMALLER)
# What fills an output that the file itself cannot.
OTHER_LOADERS = {"CLIP": "Load CLIP", "VAE": "Load VAE"}


def text_encoder_request(
    paths: Sequence[Path], encoder_type: str, device: str, name: str = ""
) -> LoadRequest:
    """Return the load of a text encoder, the same for every way to ask for one copy.

    Args:
        encoder_type: what it is for; ComfyUI does not ask from the third file on.
    """
    first, *more = paths
    return LoadRequest(
        first,
        ModelType.TEXT_ENCODER,
        device=device,
        more_paths=tuple(more),
        encoder_type=encoder_type if len(paths) < 3 else "",
        name=name or " + ".join(path.name for path in paths),
    )


class UnfilledOutput:
    """Stands for the CLIP or VAE that a file does not hold; using it says which loader to take.

    None would fail later with words about ``NoneType``, and ComfyUI's ExecutionBlocker would end
    the run in silence.
    """

    def __init__(self, what: str, file: str, loader: str) -> None:
        self._words = (
            f"{file} holds no {what}, so LoadManagedModel's {what} output is empty.",
            f"Connect ComfyUI's {loader!r} node instead.",
        )

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise UnfilledOutputError(*self._words)


def unfilled_output(output: str, name: str) -> UnfilledOutput:
    """Return what stands for an output (``CLIP`` or ``VAE``) that the file ``name`` does not hold."""
    return UnfilledOutput(output, name, OTHER_LOADERS[output])
