"""The verdict on a model behind an address, before it is downloaded."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..check_options import CheckOptions
from ..checking import Checking
from ..compatibility import CompatibilityReport, Finding, ModelCompatibilityChecker, Severity
from ..errors import FileError
from ..formats.gguf import GgufHeader
from ..host import Host
from ..identify import ModelIdentity, identify
from ..identify.gguf import identify_gguf
from ..model import ModelType
from ..units import format_bytes
from .address import parse_address
from .reach import Reach

if TYPE_CHECKING:
    from .model import RemoteModel

# What it is -> the folder type that its loader reads.
_FOLDERS = {
    ModelType.DIFFUSION: "diffusion_models",
    ModelType.CHECKPOINT: "checkpoints",
    ModelType.TEXT_ENCODER: "text_encoders",
    ModelType.VAE: "vae",
    ModelType.LORA: "loras",
    ModelType.CONTROLNET: "controlnet",
    ModelType.UPSCALER: "upscale_models",
    ModelType.LATENT_UPSCALER: "latent_upscale_models",
    ModelType.CLIP_VISION: "clip_vision",
    ModelType.AUDIO_ENCODER: "audio_encoders",
}
KEY = "remote"


class AddressChecker:
    """Judges models behind addresses.

    Args:
        host: says where the model would go, and recognises it.
        checker, checking: judge it like a file.
    """

    def __init__(self, host: Host, checker: ModelCompatibilityChecker, checking: Checking) -> None:
        self._host = host
        self._checker = checker
        self._checking = checking

    def check(
        self, address: str, options: CheckOptions | None = None, allow_local: bool = False
    ) -> CompatibilityReport:
        """Return the verdict on a model from its header, which alone is fetched.

        Args:
            address: ``https://...`` or ``hf:owner/repository/path[@revision]``.
            allow_local: also ask hosts that are no public ones, and plain http.

        Raises:
            BadInput, RemoteError: the address cannot be read, and what to do.
        """
        from .fetch import Fetcher  # with requests, which the start need not wait for
        from .model import read_remote

        reach = Reach.from_environment(os.environ, allow_local=allow_local)
        place = parse_address(address, allow_local=True)
        reach.check(reach.at_mirror(place.url))
        found = read_remote(place, Fetcher(reach=reach))
        identity, error = self._identity(found)
        report = self._checker.report_remote(found.name, identity, found.size_bytes, error)
        folder = _FOLDERS.get(identity.role, "") if identity else ""
        details = remote_details(found, folder, self._free_bytes(folder))
        report = dataclasses.replace(
            report, findings=(*report.findings, *remote_findings(details)), advice={KEY: details}
        )
        header = None if isinstance(found.header, GgufHeader) else found.header
        return self._checking.extend(report, None, options or CheckOptions(), header)

    def _identity(self, found: RemoteModel) -> tuple[ModelIdentity | None, FileError | None]:
        if found.header is None:
            return None, found.error
        try:
            if isinstance(found.header, GgufHeader):
                return identify_gguf(found.header, self._host.detect), None
            return identify(found.header, self._host.detect), None
        except FileError as error:  # a marker of quantized layers that cannot be read
            return None, error

    def _free_bytes(self, folder: str) -> int | None:
        return free_bytes(place.path for place in self._host.folders() if place.type == folder)


def free_bytes(folders: Iterable[Path]) -> int | None:
    """Return what is free where the first of these folders is, None when there is none."""
    for folder in folders:
        for place in (folder, *folder.parents):
            try:
                return shutil.disk_usage(place).free
            except OSError:  # not made yet
                continue
    return None


def remote_findings(details: dict[str, Any]) -> Iterator[Finding]:
    """Return what speaks against downloading it as it is. Pure.

    Args:
        details: see :func:`remote_details`.
    """
    size, free = details["size_bytes"], details["free_bytes"]
    if details["files"] > 1:
        yield Finding(
            "sharded",
            Severity.BLOCKER,
            f"It is in {details['files']} files with an index, which ComfyUI's loaders do not read.",
            "Look for the same model in one file, such as in the repositories of Comfy-Org on Hugging Face.",
            needed="one file",
            found=f"{details['files']} files",
        )
    if size is not None and free is not None and size > free:
        yield Finding(
            "disk",
            Severity.BLOCKER,
            f"Its download takes {format_bytes(size)}, and {format_bytes(free)} are free on the disk of the "
            f"folder {details['folder']}.",
            "Delete what is not needed, or keep models on another disk (extra_model_paths.yaml).",
            needed=format_bytes(size),
            found=f"{format_bytes(free)} free",
        )


def remote_details(model: RemoteModel, folder: str, free_bytes: int | None) -> dict[str, Any]:
    """Return what the report says about the address, JSON-safe and without secrets.

    Args:
        folder: the type of the model folder that it would go into, empty where none is known.
        free_bytes: on that folder's disk, None where nobody knows.
    """
    size = model.size_bytes
    return {
        "url": model.shown,
        "size_bytes": size,
        "files": model.files,
        "requests": model.requests,
        "bytes_read": model.bytes_read,
        "folder": folder,
        "free_bytes": free_bytes,
        "enough_room": None if size is None or free_bytes is None else size <= free_bytes,
    }
