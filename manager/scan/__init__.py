"""Holding the registry against the disk: what is new, changed, moved, missing, or back."""

from .service import Scanner

__all__ = ["Scanner"]
