"""What a model file is, from its header alone."""

from .identity import Detect, Detection, ModelIdentity, identify
from .reading import read_identity

__all__ = ["Detect", "Detection", "ModelIdentity", "identify", "read_identity"]
