"""ComfyUI's model folders, extra_model_paths included."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import folder_paths

from ..host import ModelFolder
from ..model import MODEL_SUFFIXES

# Folders of files that are no models, or that are no single files.
_OTHER_FOLDERS = frozenset({"custom_nodes", "configs", "datasets", "diffusers", "classifiers", "embeddings"})


def folder_types() -> Sequence[str]:
    """Return the folder types that hold model files, also those that extensions added."""
    return [
        kind
        for kind, (_, suffixes) in folder_paths.folder_names_and_paths.items()
        if kind not in _OTHER_FOLDERS and (not suffixes or MODEL_SUFFIXES.intersection(suffixes))
    ]


def folders() -> Sequence[ModelFolder]:
    """Return every folder, in ComfyUI's order of preference."""
    return [
        ModelFolder(kind, Path(path))
        for kind in folder_types()
        for path in folder_paths.get_folder_paths(kind)
    ]


def names(folder: str) -> Sequence[str]:
    """Return the model files of one type as ComfyUI lists them; empty for an unknown type."""
    if folder not in folder_paths.folder_names_and_paths:
        return []
    found = folder_paths.get_filename_list(folder)
    return [name for name in found if Path(name).suffix.lower() in MODEL_SUFFIXES]


def locate(folder: str, name: str) -> Path | None:
    """Return where ComfyUI would load this file from."""
    path = folder_paths.get_full_path(folder, name)
    return Path(path) if path else None


def user_folder() -> Path:
    """Return the folder for our own files: one that ComfyUI does not serve over HTTP."""
    return Path(folder_paths.get_user_directory(), "__managed_models")


def embeddings() -> list[str]:
    """Return the folders of textual-inversion embeddings, which checkpoint loads ask for."""
    return list(folder_paths.get_folder_paths("embeddings"))
