"""The command line: ``managed-models COMMAND``. Needs neither ComfyUI nor, but for quantizing, torch."""

from .app import main

__all__ = ["main"]
