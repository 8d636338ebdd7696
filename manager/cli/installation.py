"""Where things are: the platform's data folder, and a ComfyUI installation's folders and registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import FileError, ModelNotFound

REGISTRY = "registry.sqlite"


def default_registry() -> Path:
    """Return the registry file of the command line in the platform's data folder."""
    import platformdirs

    return Path(platformdirs.user_data_dir("managed-models", appauthor=False), REGISTRY)


def comfyui_registry(installation: Path) -> Path:
    """Return the registry file that the extension uses inside this ComfyUI."""
    return installation.absolute() / "user" / "__managed_models" / REGISTRY


def comfyui_roots(installation: Path) -> list[Path]:
    """Return the folders that hold this ComfyUI's models, ``extra_model_paths.yaml`` included.

    Raises:
        ModelNotFound: it is no ComfyUI installation.
        FileError: its ``extra_model_paths.yaml`` cannot be read.
    """
    installation = installation.expanduser().absolute()
    if not (installation / "models").is_dir():
        raise ModelNotFound(
            f"{installation} is not a ComfyUI installation: it has no models folder.",
            "Give the folder that holds ComfyUI's main.py.",
        )
    return [installation / "models", *_extra_roots(installation / "extra_model_paths.yaml")]


def _extra_roots(path: Path) -> list[Path]:
    if not path.is_file():
        return []
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        sections: list[dict[str, Any]] = [dict(section) for section in document.values() if section]
    except (OSError, yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
        raise FileError(f"{path} cannot be read: {error}.", "Mend it, or move it away.") from error
    return [folder for section in sections for folder in _section_folders(section, path.parent)]


def _section_folders(section: dict[str, Any], beside: Path) -> list[Path]:
    """Return a section's folders: each line of each entry, below its base path."""
    base = Path(str(section.pop("base_path", "") or "")).expanduser()
    section.pop("is_default", None)
    root = base if base.is_absolute() else beside / base
    lines = [line.strip() for value in section.values() for line in str(value).split("\n")]
    return [folder for line in lines if line and (folder := root / line).is_dir()]
