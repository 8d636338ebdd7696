"""Getting files whole: a queue of downloads that pause, resume, and survive being killed."""

from .model import DownloadRequest, DownloadState
from .service import Downloads
from .target import target_path

__all__ = ["DownloadRequest", "DownloadState", "Downloads", "target_path"]
