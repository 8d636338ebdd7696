"""Where models can be had: ComfyUI's installed templates, workflows' own lists, and a person's own file."""

from __future__ import annotations

from .entry import Entry, Origin, Refusal
from .service import Catalogue, Places

__all__ = ["Catalogue", "Entry", "Origin", "Places", "Refusal"]
