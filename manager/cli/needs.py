"""The command ``needs``: what a workflow uses, what of it is missing, and getting that."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import BadInput, DownloadPaused, FileError, ManagedModelsError, ModelNotFound
from .context import ComfyOption, JsonOption, ServerOption, app, open_manager
from .output import progress_bar, reports_errors, show

if TYPE_CHECKING:
    from ..manager import AdvancedModelManager

_MOST_BYTES = 64 << 20
_PAUSE_SECONDS = 0.5
_ENDED = frozenset({"paused", "done", "failed", "cancelled"})


@app.command()
@reports_errors
def needs(
    workflow: Annotated[
        Path, typer.Argument(metavar="WORKFLOW.json", help="As ComfyUI saves or exports it.")
    ],
    ask: Annotated[
        bool,
        typer.Option("--ask", help="Also fetch the headers of what is missing: size, and whether it fits."),
    ] = False,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Download what is missing and has an address.")
    ] = False,
    comfyui: ComfyOption = None,
    server: ServerOption = None,
    json_output: JsonOption = False,
) -> None:
    """Say which models a workflow uses, which are missing and where they can be had; exit 1 if any is."""
    document = read_document(workflow)
    details = _at_server(server, document, ask, fetch) if server else _here(comfyui, document, ask, fetch)
    words = details.pop("report")
    show(details, words, json_output)
    if not details["ready"]:
        raise typer.Exit(1)


def read_document(path: Path) -> Any:
    """Return a workflow file's contents.

    Raises:
        ModelNotFound, FileError, BadInput: it is not there, cannot be read, or is no JSON.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise BadInput(f"{path} is larger than {_MOST_BYTES >> 20} MB.", "Give a workflow of ComfyUI.")
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ModelNotFound(f"There is no file {path}.", "Check the path.") from None
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}.", "Check the path.") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path.name} is no JSON: {error}.", "Give a workflow that ComfyUI saved.") from error


def _here(comfyui: Path | None, document: Any, ask: bool, fetch: bool) -> dict[str, Any]:
    from ..words.needs import render_needs

    manager = open_manager(comfyui)
    details = manager.needs.report(document, ask=ask, any_host=True)
    if fetch and details["fetchable"]:
        fetched = fetch_missing(manager, document)
        details = manager.needs.report(document, ask=ask, any_host=True) | {"fetched": fetched}
    return details | {"report": render_needs(details)}


def fetch_missing(manager: AdvancedModelManager, document: Any) -> list[dict[str, Any]]:
    """Download what is missing and has an address, one after the other, showing progress.

    Returns:
        For each ``{name, folder, error}``; what fails does not keep the others from coming.
    """
    requests, done = manager.needs.requests(document, any_host=True)
    for row in done:
        sys.stderr.write(f"{row['name']}: {row['error']['message']}\n")
    for request in requests:
        with progress_bar(request.target.name) as progress:
            error = None
            try:
                manager.downloads.fetch(request, _Watch(progress))
            except KeyboardInterrupt:
                raise DownloadPaused(
                    f"{request.target.name} is paused; what has come of it is kept.",
                    "Give the same command again to go on.",
                ) from None
            except ManagedModelsError as failure:
                error = failure.to_dict()
                sys.stderr.write(f"{request.target.name}: {failure}\n")
        done.append({"name": request.target.name, "folder": request.folder, "error": error})
    return done


class _Watch:
    """Moves a progress bar; Ctrl-C stops a download by itself."""

    def __init__(self, progress: Callable[[int, int], None]) -> None:
        self.progress = progress

    def throw_if_cancelled(self) -> None:
        """Never stops."""


# At a running ComfyUI


def _at_server(server: str, document: Any, ask: bool, fetch: bool) -> dict[str, Any]:
    body = {"workflow": document, "ask": ask}
    from .server import ask as ask_server

    details = _asked(server, body)
    if fetch and details["fetchable"]:
        answer = ask_server(server, "/managed-models/needs/fetch", body, ("downloads", list))
        ids = [row["id"] for row in answer["downloads"]]
        fetched = _wait_at(server, ids) + answer["failed"]
        details = _asked(server, body) | {"fetched": fetched}
    return details


def _asked(server: str, body: dict[str, Any]) -> dict[str, Any]:
    from .server import ask as ask_server  # with the routes' libraries, which nothing else here needs

    answer = ask_server(server, "/managed-models/needs", body)
    return {**answer["details"], "report": answer["report"]}


def _wait_at(server: str, ids: list[str]) -> list[dict[str, Any]]:
    """Show the server's downloads until they have ended, and return how they did."""
    from .server import ask as ask_server

    with progress_bar(f"{server}: {len(ids)} downloads") as progress:
        while True:
            rows = ask_server(server, "/managed-models/downloads", expected=("downloads", list))["downloads"]
            mine = [row for row in rows if row["id"] in ids]
            progress(
                sum(row["done_bytes"] for row in mine), sum(row["total_bytes"] or 0 for row in mine) or 1
            )
            if all(row["state"] in _ENDED for row in mine):
                break
            time.sleep(_PAUSE_SECONDS)
    for row in mine:
        if row["error"]:
            sys.stderr.write(f"{row['name']}: {row['error']['message']} {row['error']['remedy']}\n")
    return [{"name": row["name"], "folder": row["folder"], "error": row["error"]} for row in mine]
