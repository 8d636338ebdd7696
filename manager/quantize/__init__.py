"""Making a model smaller: what to do with each tensor is decided purely, then carried out in a stream."""

from .record import Record
from .request import QuantizeRequest
from .service import Quantizer

__all__ = ["QuantizeRequest", "Quantizer", "Record"]
