"""What people said, written out and read back."""

from .document import read_document, to_document, write_document
from .merge import Conflict, Merge, merge

__all__ = ["Conflict", "Merge", "merge", "read_document", "to_document", "write_document"]
