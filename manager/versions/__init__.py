"""Versions of models: one order, what a text asks for, what names say, and upgrades."""

from .manager import ModelVersionManager
from .order import (
    compare_versions,
    is_version,
    latest_of,
    newer_versions,
    parse_version,
    version_key,
)
from .specifiers import LATEST, check_alias, parse_requirement, select_version

__all__ = [
    "LATEST",
    "ModelVersionManager",
    "check_alias",
    "compare_versions",
    "is_version",
    "latest_of",
    "newer_versions",
    "parse_requirement",
    "parse_version",
    "select_version",
    "version_key",
]
