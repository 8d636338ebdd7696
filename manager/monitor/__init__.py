"""Memory over time: samples, what prompts took at most, warnings, and what was there when it ran out."""

from .monitor import Monitor, loaded_as
from .sample import Sample

__all__ = ["Monitor", "Sample", "loaded_as"]
