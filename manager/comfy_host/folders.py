"""ComfyUI's model folders, extra_model_paths included."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import folder_paths

from ..host import ModelFolder
from ..model import MODEL_SUFFIXES

if TYPE_CHECKING:
    from ..catalogue import Places

# Folders of files that are no models, or that are no single files.
_OTHER_FOLDERS = frozenset({"custom_nodes", "configs", "datasets", "diffusers", "classifiers", "embeddings"})

# ComfyUI lists no GGUF files. ComfyUI-GGUF adds these types; without it we look where it would.
_GGUF_FOLDERS = {"unet_gguf": "diffusion_models", "clip_gguf": "text_encoders"}


class _Seen(NamedTuple):
    """GGUF files below a folder, and when each folder there had last changed."""

    names: tuple[str, ...]
    folders: Mapping[str, float]


_seen: dict[str, _Seen] = {}


def folder_types() -> Sequence[str]:
    """Return the folder types that hold model files, also those that extensions added, and those of GGUF."""
    found = [
        kind
        for kind, (_, suffixes) in folder_paths.folder_names_and_paths.items()
        if kind not in _OTHER_FOLDERS and (not suffixes or MODEL_SUFFIXES.intersection(suffixes))
    ]
    return [*found, *(kind for kind in _GGUF_FOLDERS if kind not in found)]


def folders() -> Sequence[ModelFolder]:
    """Return every folder, in ComfyUI's order of preference."""
    return [
        ModelFolder(kind, Path(path))
        for kind in folder_types()
        for path in folder_paths.get_folder_paths(_known_type(kind))
    ]


def names(folder: str) -> Sequence[str]:
    """Return the model files of one type as ComfyUI lists them; empty for an unknown type."""
    if folder not in folder_paths.folder_names_and_paths:
        return _gguf_names(_GGUF_FOLDERS[folder]) if folder in _GGUF_FOLDERS else []
    found = folder_paths.get_filename_list(folder)
    return [name for name in found if Path(name).suffix.lower() in MODEL_SUFFIXES]


def _known_type(kind: str) -> str:
    """Return the type under which ComfyUI has these folders."""
    return kind if kind in folder_paths.folder_names_and_paths else _GGUF_FOLDERS.get(kind, kind)


def _gguf_names(folder: str) -> list[str]:
    """Return the GGUF files of one type, looking anew only where a folder has changed."""
    found: list[str] = []
    for root in folder_paths.get_folder_paths(folder):
        known = _seen.get(root)
        if (
            known is None
            or not known.folders
            or any(_changed(path, time) for path, time in known.folders.items())
        ):
            files, folders = folder_paths.recursive_search(root, excluded_dir_names=[".git"])
            names = tuple(name for name in files if Path(name).suffix.lower() == ".gguf")
            known = _seen[root] = _Seen(names, folders)
        found += known.names
    return sorted(set(found))


def _changed(folder: str, time: float) -> bool:
    try:
        return os.path.getmtime(folder) != time
    except OSError:
        return True


def locate(folder: str, name: str) -> Path | None:
    """Return where ComfyUI would load this file from."""
    path = folder_paths.get_full_path(_known_type(folder), name)
    return Path(path) if path else None


def user_folder() -> Path:
    """Return the folder for our own files: one that ComfyUI does not serve over HTTP."""
    return Path(folder_paths.get_user_directory(), "__managed_models")


def catalogue_places() -> Places:
    """Return where to look for addresses: the template packages of this Python, and the catalogue file."""
    from ..catalogue import Places
    from ..catalogue.own import FILE_NAME

    return Places(
        tuple(Path(place) for place in sys.path if place),
        (user_folder() / FILE_NAME,),
        user_folder() / "templates.json",
    )


def embeddings() -> list[str]:
    """Return the folders of textual-inversion embeddings, which checkpoint loads ask for."""
    return list(folder_paths.get_folder_paths("embeddings"))
