"""Where things are: the platform's data folder, and a ComfyUI installation's folders and registry."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FileError, ModelNotFound
from ..host import ModelFolder

if TYPE_CHECKING:
    from ..catalogue import Places

REGISTRY = "registry.sqlite"
_NO_MODELS = ("custom_nodes", "configs")


def default_registry() -> Path:
    """Return the registry file of the command line in the platform's data folder."""
    import platformdirs

    return Path(platformdirs.user_data_dir("managed-models", appauthor=False), REGISTRY)


def comfyui_registry(installation: Path) -> Path:
    """Return the registry file that the extension uses inside this ComfyUI."""
    return installation.expanduser().absolute() / "user" / "__managed_models" / REGISTRY


def catalogue_places(installation: Path | None) -> Places:
    """Return where to look for addresses: ComfyUI's templates, its catalogue file, and a person's own."""
    from ..catalogue import Places
    from ..catalogue.own import FILE_NAME
    from ..catalogue.templates import site_packages

    data = default_registry().parent
    if installation is None:
        return Places((), (data / FILE_NAME,), None)
    installation = installation.expanduser().absolute()
    own = comfyui_registry(installation).parent
    return Places(
        tuple(site_packages(installation)), (own / FILE_NAME, data / FILE_NAME), data / "templates.json"
    )


def comfyui_roots(installation: Path) -> list[Path | ModelFolder]:
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


def _extra_roots(path: Path) -> list[ModelFolder]:
    if not path.is_file():
        return []
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        sections: list[dict[str, Any]] = [dict(section) for section in document.values() if section]
    except (OSError, yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
        raise FileError(f"{path} cannot be read: {error}.", "Mend it, or move it away.") from error
    return [folder for section in sections for folder in _section_folders(section, path.parent)]


def _section_folders(section: dict[str, Any], beside: Path) -> list[ModelFolder]:
    """Return a section's folders: each line of each entry, below its base path."""
    base = Path(os.path.expandvars(str(section.pop("base_path", "") or ""))).expanduser()
    section.pop("is_default", None)
    root = base if base.is_absolute() else beside / base
    return [
        ModelFolder(kind, folder)
        for kind, value in section.items()
        if kind not in _NO_MODELS
        for line in map(str.strip, str(value).split("\n"))
        if line and (folder := root / line).is_dir()
    ]
