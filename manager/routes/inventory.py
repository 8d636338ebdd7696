"""What is on the disk over HTTP: scans, verifying in the background, equal files. No path is said."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from aiohttp import web

from ..errors import BadInput
from ..host import ModelFile
from ..manager import AdvancedModelManager
from ..report import one_line
from ..route_guard import guard_read, guard_write
from ..words.integrity import duplicate_lines, job_line
from ..words.scan import scan_summary
from .answers import PREFIX, answer


class InventoryRoutes:
    """The handlers of what is on the disk."""

    def __init__(self, get_manager: Callable[[], AdvancedModelManager]) -> None:
        self._get_manager = get_manager

    def add_to(self, table: web.RouteTableDef) -> None:
        """Add every route to ``table``."""
        table.post(f"{PREFIX}/scan")(guard_write(self.scan))
        table.get(f"{PREFIX}/verify")(guard_read(self.verifying))
        table.post(f"{PREFIX}/verify")(guard_write(self.verify))
        table.post(f"{PREFIX}/verify/cancel")(guard_write(self.cancel))
        table.get(f"{PREFIX}/duplicates")(guard_read(self.duplicates))

    async def scan(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        """Look at every model folder, and say how many files are new, changed, moved, missing or back."""
        return await answer(self._scan)

    async def verifying(self, request: web.Request) -> web.Response:
        """How far the verification in the background is, and what it found."""
        return await answer(self._state)

    async def verify(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        """Begin to verify ``{"models": [name, ...]}``, or every file with ``{"all": true}``."""
        return await answer(lambda: self._verify(body))

    async def cancel(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        """Stop verifying."""
        return await answer(self._cancel)

    async def duplicates(self, request: web.Request) -> web.Response:
        """Files that may be the same from a few samples, and that are where their hashes are known."""
        return await answer(self._duplicates)

    def _scan(self) -> dict[str, Any]:
        details = self._get_manager().scan().to_dict()
        counts = {key: len(value) if isinstance(value, list) else value for key, value in details.items()}
        return {"details": counts, "report": scan_summary(details)}

    def _state(self) -> dict[str, Any]:
        state = self._get_manager().verifier.state()
        return {"details": state, "report": job_line(state)}

    def _verify(self, body: dict[str, Any]) -> dict[str, Any]:
        manager = self._get_manager()
        names = body.get("models")
        if body.get("all") is True:
            files = _once(manager.library.files())
        elif isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            files = _once(manager.library.find(name) for name in names)
        else:
            raise BadInput("No model was named.", 'Send {"models": [name, ...]}, or {"all": true}.')
        manager.verifier.start(files)
        return self._state()

    def _cancel(self) -> dict[str, Any]:
        self._get_manager().verifier.cancel()
        return self._state()

    def _duplicates(self) -> dict[str, Any]:
        manager = self._get_manager()
        files = _once(manager.library.files())
        names = {str(file.path): f"{file.folder}/{file.name}" for file in files}
        details = manager.duplicates.find([file.path for file in files], quick=True)
        for group in details["groups"]:
            group["models"] = [names[path] for path in group.pop("paths")]
            group["links"] = [names[path] for path in group["links"]]
        details["unreadable"] = [{**row, "path": names[row["path"]]} for row in details["unreadable"]]
        shown = {**details, "groups": [{**group, "paths": group["models"]} for group in details["groups"]]}
        return {"details": details, "report": "\n".join(map(one_line, duplicate_lines(shown)))}


def _once(files: Iterable[ModelFile]) -> list[ModelFile]:
    """Return each file once, where several folder types list it."""
    found: dict[Path, ModelFile] = {}
    for file in files:
        found.setdefault(file.path, file)
    return list(found.values())
