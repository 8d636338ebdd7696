"""The variants of a model: which files are the same weights in another precision, and which to take."""

from .ranking import Variant, WayOut, rank, way_out
from .service import Family, Variants
from .swap import swap_facts

__all__ = ["Family", "Variant", "Variants", "WayOut", "rank", "swap_facts", "way_out"]
