"""What a model file is, from its header alone."""

from .identity import Detect, Detection, ModelIdentity, identify

__all__ = ["Detect", "Detection", "ModelIdentity", "identify"]
