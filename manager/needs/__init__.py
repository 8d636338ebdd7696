"""What a workflow needs: which of its models are here, which are missing, and where those can be had."""

from __future__ import annotations

from .decide import Facts, Need, Status, decide
from .service import Needs

__all__ = ["Facts", "Need", "Needs", "Status", "decide"]
