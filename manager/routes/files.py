"""Model files over HTTP: the list, and verdicts on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from ..check_options import options_from
from ..errors import BadInput
from ..library import is_storable
from ..listing import MAX_LIMIT, list_models
from ..manager import AdvancedModelManager
from ..remote.address import is_address, shown
from ..report import render_check, render_pair
from ..route_guard import guard_read, guard_write
from ..words.integrity import health_line, health_word
from .answers import PREFIX, answer, opaque_id


class FileRoutes:
    """The handlers of model files."""

    def __init__(self, get_manager: Callable[[], AdvancedModelManager]) -> None:
        self._get_manager = get_manager

    def add_to(self, table: web.RouteTableDef) -> None:
        """Add every route to ``table``."""
        table.get(f"{PREFIX}/models")(guard_read(self.models))
        table.post(f"{PREFIX}/check")(guard_write(self.check))
        table.post(f"{PREFIX}/pair")(guard_write(self.pair))

    async def models(self, request: web.Request) -> web.Response:
        """Model files, a page at a time: ``q`` (words), ``folder``, ``offset``, ``limit`` (at most 200).

        Each has its version, a newer one that is registered, and what verifying it found.
        """
        return await answer(lambda: self._models(request.query))

    async def check(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        """The verdict on one model of the model folders, never on an address: ``{"model": name}``.

        What it is wanted for goes beside it: width, height, length, batch_size, weight_dtype, and the
        names of second_model, clip, vae and lora.
        """
        return await answer(lambda: self._check(body))

    async def pair(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        """Whether files of the model folders belong together: ``{"model": name, "others": [name, ...]}``."""
        return await answer(lambda: self._pair(body))

    def _models(self, query: Mapping[str, str]) -> dict[str, Any]:
        manager = self._get_manager()
        page = list_models(
            manager.library,
            manager.registry,
            query.get("q", ""),
            query.get("folder") or None,
            _number(query, "offset", 0),
            _number(query, "limit", MAX_LIMIT),
        )
        infos = manager.registry.active_of(filter(is_storable, (str(row.file.path) for row in page.rows)))
        rows = []
        for row in page.rows:
            file, known = row.file, row.known
            rows.append(
                {
                    "id": opaque_id(file.path),
                    "name": file.name,
                    "folder": file.folder,
                    "size_bytes": _size(file.path),
                    **manager.versioning.row(file.name, infos.get(str(file.path))),
                    "what": known.identity["title"] if known and known.identity else None,
                    "precision": known.identity["precision"] if known and known.identity else None,
                    "health": health_word(row.health),
                    "health_words": health_line(row.health) if row.health else None,
                }
            )
        return {"models": rows, "total": page.total}

    def _check(self, body: Mapping[str, Any]) -> dict[str, Any]:
        name = body.get("model")
        if not isinstance(name, str):
            raise BadInput(f"model is {name!r}.", "Send the name of a model file as text.")
        if is_address(name):
            raise BadInput(
                f"{shown(name)} is an address, and this route takes names of files that ComfyUI has.",
                "Check it on the command line, or with the url of the CheckCompatibility node.",
            )
        manager = self._get_manager()
        options = options_from(body, lambda wanted, folders: manager.library.find(wanted, folders).path)
        details = manager.check_file(manager.library.find(name), options).to_dict()
        return {"details": details, "report": render_check(details)}

    def _pair(self, body: Mapping[str, Any]) -> dict[str, Any]:
        model, others = body.get("model"), body.get("others")
        if not isinstance(others, list) or not others:
            raise BadInput(f"others is {others!r}.", "Send a list of the names of model files.")
        for name in (model, *others):
            if not isinstance(name, str):
                raise BadInput(f"{name!r} is no name.", "Send the names of model files as text.")
        manager = self._get_manager()
        model_path, *paths = (manager.library.find(name).path for name in (model, *others))
        details = manager.pairing.pair(model_path, paths)
        return {"details": details, "report": render_pair(details)}


def _number(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name, str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise BadInput(f"{name} is {text[:20]!r}.", "Send a whole number.")
    return int(text)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
