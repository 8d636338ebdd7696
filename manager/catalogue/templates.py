"""The models that ComfyUI's installed template packages name: read from their files, nothing imported."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .entry import Entry, Origin, Refusal, merged, read_entry
from .workflow import read_workflow

# One package held everything once; since 2025 the workflows are in one of their own, the media in others.
_PACKAGES = "comfyui_workflow_templates*"
_TEMPLATES = "templates"


@dataclass(frozen=True)
class Package:
    """An installed package: its name, its version (or what changes with it), and its workflows."""

    name: str
    version: str
    folder: Path


def find_packages(search_path: Iterable[Path]) -> list[Package]:
    """Return the template packages in these folders (``site-packages``), the first of each name."""
    found: dict[str, Package] = {}
    for place in search_path:
        try:
            folders = sorted(place.glob(_PACKAGES))
        except OSError:
            continue
        for folder in folders:
            templates = folder / _TEMPLATES
            if folder.name not in found and templates.is_dir() and any(templates.glob("*.json")):
                found[folder.name] = Package(folder.name, _version(folder), templates)
    return list(found.values())


def site_packages(installation: Path) -> list[Path]:
    """Return where a ComfyUI installation's own Python has its packages: in a venv, or the portable one."""
    patterns = (
        (installation, ".venv/lib/python*/site-packages"),
        (installation, "venv/lib/python*/site-packages"),
        (installation, ".venv/Lib/site-packages"),
        (installation, "venv/Lib/site-packages"),
        (installation.parent, "python_embeded/Lib/site-packages"),
    )
    return [found for base, pattern in patterns for found in sorted(base.glob(pattern))]


def read_packages(packages: Sequence[Package]) -> list[Entry]:
    """Return every address that their workflows name, once each; what cannot be used is left out."""
    found: list[Entry] = []
    for package in packages:
        for path in sorted(package.folder.glob("*.json")):
            found += _entries_of(path)
    return merged(found)


def _entries_of(path: Path) -> Iterator[Entry]:
    try:
        data = path.read_bytes()
        if b'"directory"' not in data:  # the indexes, and workflows without models
            return
        document: Any = json.loads(data)
    except (OSError, ValueError, RecursionError):
        return
    if not isinstance(document, dict) or not isinstance(document.get("nodes"), list):
        return
    for item in read_workflow(document).stated:
        entry = read_entry(item, Origin.TEMPLATES, None)
        if not isinstance(entry, Refusal):
            yield entry


def _version(folder: Path) -> str:
    pattern = re.compile(re.escape(folder.name) + r"-(.+)\.(?:dist|egg)-info", re.IGNORECASE)
    said = [
        match[1]
        for other in folder.parent.glob(f"{folder.name}-*")
        if (match := pattern.fullmatch(other.name))
    ]
    if said:
        return sorted(said)[-1]
    return f"changed {(folder / _TEMPLATES).stat().st_mtime_ns}"  # a checkout
