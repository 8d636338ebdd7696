"""Every error that Managed Models raises on purpose, as one tree.

ManagedModelsError
├── BadInput             an argument, option or input that cannot be used
│   ├── NotAvailable     an ability that this version does not have
│   └── InvalidOutputName
├── ModelNotFound        no file, name or version like that
│   └── ModelMissing     it is not here, and it is known where it can be had
│   └── HashUnverified   a file may be the one with that hash: nobody has measured it
├── AmbiguousModel       the name fits several files
├── FileError            the file cannot be read or written
│   ├── NotSafetensors   another kind of file: says which
│   ├── InvalidHeader    a safetensors file, but broken: says where
│   └── InvalidGguf      a GGUF file, but broken: says where
├── Incompatible         the model cannot be used on this machine
├── LoadFailed           the host refused the file
├── UnfilledOutputError  an output was used that the loaded file could not fill
├── QuantizeError
│   ├── NothingToQuantize
│   ├── AlreadyQuantized
│   ├── BudgetTooSmall   nothing that the model can be made into is that small
│   ├── NonFiniteWeights
│   ├── OutputExists
│   ├── AlreadyRunning   another run writes that output
│   └── NotEnoughDisk
├── Cancelled            a person stopped the job; nothing was left behind
├── HostBusy             a prompt is running: try again when it is done
├── HostRequired         needs a running ComfyUI
├── DownloadError        a download did not get to its end; what good bytes came are kept
│   ├── DownloadPaused
│   ├── AlreadyDownloading
│   ├── TargetExists     another file has that name
│   ├── HashMismatch
│   └── NoRoom
├── ServerError          a running ComfyUI could not be asked, or said no
└── RemoteError          an address could not be read: ``details["problem"]`` says why
    ├── HostNotAllowed   its host is none that this ComfyUI may download from
    ├── NotPublic        it leads into this machine or its network
    └── AccessDenied     it asks for a login, a licence, or a token

Each carries ``code`` (stable, for scripts), ``message`` (what was given and
what was expected), ``remedy`` (what to do) and ``details`` (JSON-safe facts).
"""

from __future__ import annotations

from typing import Any, ClassVar


class ManagedModelsError(Exception):
    """Base of the tree. ``str(error)`` is the message followed by the remedy."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str, remedy: str = "", **details: Any) -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy
        self.details = details

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()

    def to_dict(self) -> dict[str, Any]:
        """Return the ``{"code", "message", "details"}`` shape that the command line prints."""
        return {"code": self.code, "message": str(self), "details": self.details}


class BadInput(ManagedModelsError):
    code = "bad_input"


class NotAvailable(BadInput):
    code = "not_available"


class InvalidOutputName(BadInput):
    code = "invalid_output_name"


class ModelNotFound(ManagedModelsError):
    code = "model_not_found"


class HashUnverified(ModelNotFound):
    code = "hash_unverified"


class ModelMissing(ModelNotFound):
    code = "model_missing"


class AmbiguousModel(ManagedModelsError):
    code = "ambiguous_model"


class FileError(ManagedModelsError):
    code = "file_error"


class NotSafetensors(FileError):
    code = "not_safetensors"


class InvalidHeader(FileError):
    code = "invalid_header"


class InvalidGguf(FileError):
    code = "invalid_gguf"


class Incompatible(ManagedModelsError):
    code = "incompatible"


class LoadFailed(ManagedModelsError):
    code = "load_failed"


class UnfilledOutputError(ManagedModelsError, AttributeError):
    """Also an AttributeError, so that ``hasattr`` on an empty output stays False."""

    code = "unfilled_output"


class QuantizeError(ManagedModelsError):
    code = "quantize_failed"


class NothingToQuantize(QuantizeError):
    code = "nothing_to_quantize"


class AlreadyQuantized(QuantizeError):
    code = "already_quantized"


class BudgetTooSmall(QuantizeError):
    code = "budget_too_small"


class NonFiniteWeights(QuantizeError):
    code = "nonfinite_weights"


class OutputExists(QuantizeError):
    code = "output_exists"


class AlreadyRunning(QuantizeError):
    code = "already_running"


class NotEnoughDisk(QuantizeError):
    code = "not_enough_disk"


class Cancelled(ManagedModelsError):
    code = "cancelled"


class HostBusy(ManagedModelsError):
    code = "host_busy"


class HostRequired(ManagedModelsError):
    code = "host_required"


class DownloadError(ManagedModelsError):
    code = "download_failed"


class DownloadPaused(DownloadError):
    code = "download_paused"


class AlreadyDownloading(DownloadError):
    code = "already_downloading"


class TargetExists(DownloadError):
    code = "target_exists"


class HashMismatch(DownloadError):
    code = "hash_mismatch"


class NoRoom(DownloadError):
    code = "no_room"


class ServerError(ManagedModelsError):
    code = "server_error"


class RemoteError(ManagedModelsError):
    code = "remote_error"


class HostNotAllowed(RemoteError):
    code = "host_not_allowed"


class NotPublic(RemoteError):
    code = "not_public"


class AccessDenied(RemoteError):
    code = "access_denied"
