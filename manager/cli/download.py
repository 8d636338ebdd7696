"""The command that gets a model: here, or in a running ComfyUI."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import BadInput, DownloadError, DownloadPaused, ServerError
from .context import ComfyOption, JsonOption, ServerOption, app, open_manager
from .output import progress_bar, reports_errors, show

if TYPE_CHECKING:
    from ..download.model import DownloadRequest
    from ..manager import AdvancedModelManager

_POLL_SECONDS = 0.5
_GO_ON = "Give the same command again to go on: what has arrived is kept."


@app.command()
@reports_errors
def download(
    url: Annotated[
        str,
        typer.Argument(
            help="An address: https://..., or hf:owner/repository/path with @revision after it if need be."
        ),
    ],
    output: Annotated[Path | None, typer.Option(metavar="PATH", help="The file to make.")] = None,
    folder: Annotated[
        str | None,
        typer.Option(metavar="TYPE", help="The model folder it goes into, such as diffusion_models or vae."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What the file is to be called there.")] = None,
    sha256: Annotated[str | None, typer.Option(metavar="HEX", help="What it has to be.")] = None,
    connections: Annotated[
        int, typer.Option(help="How many at once; 0 adds some while that makes it faster.")
    ] = 0,
    allow_local_network: Annotated[
        bool,
        typer.Option(
            "--allow-local-network", help="Also ask addresses of plain http and of this machine's network."
        ),
    ] = False,
    server: ServerOption = None,
    comfyui: ComfyOption = None,
    json_output: JsonOption = False,
) -> None:
    """Get the file at URL, whole, in one piece however bad the line is. Ctrl-C pauses it."""
    from ..words.download import render_downloaded

    if output is not None and (folder is not None or name is not None):
        raise BadInput("--output and --folder (or --name) were given.", "Give one of the two.")
    if server:
        if output is not None or folder is None:
            raise BadInput(
                "A running ComfyUI puts models into its own folders.", "Say which: --folder diffusion_models."
            )
        details = _by_server(server, url, folder, name, sha256)
    else:
        manager = open_manager(comfyui)
        request = _request(manager, url, output, folder, name, sha256, connections, allow_local_network)
        details = _here(manager, request)
    show(details, render_downloaded(details), json_output)


def _request(
    manager: AdvancedModelManager,
    url: str,
    output: Path | None,
    folder: str | None,
    name: str | None,
    sha256: str | None,
    connections: int,
    allow_local: bool,
) -> DownloadRequest:
    """Return what was asked for, with the place where it goes."""
    from ..download.model import DownloadRequest
    from ..download.naming import name_at
    from ..download.target import target_path

    def request(target: Path) -> DownloadRequest:
        return DownloadRequest(
            url, target, folder or "", sha256, None, connections, allow_local, any_host=True
        )

    if output is not None:
        return request(output.expanduser())
    name = name or name_at(url, manager.downloads.reach(request(Path("unnamed"))))
    if folder is None:
        return request(Path.cwd() / name)
    return request(target_path(manager.host, folder, name))


def _here(manager: AdvancedModelManager, request: DownloadRequest) -> dict[str, Any]:
    with progress_bar(request.target.name) as on_progress:
        try:
            path = manager.downloads.fetch(request, _Bar(on_progress))
        except KeyboardInterrupt:
            raise DownloadPaused(_stopped(manager.downloads.get(request.id).to_dict()), _GO_ON) from None
    outcome = manager.downloads.outcome(request.id)
    return {
        "path": str(path),
        "size_bytes": outcome.size_bytes,
        "sha256": outcome.sha256,
        "fetched": outcome.fetched,
    }


class _Bar:
    """A watch that draws."""

    def __init__(self, draw: Callable[[int, int], None]) -> None:
        self.progress = draw

    def throw_if_cancelled(self) -> None:
        """Ctrl-C raises by itself."""


def _by_server(server: str, url: str, folder: str, name: str | None, sha256: str | None) -> dict[str, Any]:
    """Let a running ComfyUI get it, and wait for that."""
    from .server import ask

    body = {"url": url, "folder": folder, "name": name or "", "sha256": sha256 or ""}
    state = ask(server, "/managed-models/download", body, ("download", dict))["download"]
    try:
        with progress_bar(str(state["name"])) as on_progress:
            while state["state"] in ("queued", "running", "checking"):
                time.sleep(_POLL_SECONDS)
                state = _find(ask(server, "/managed-models/downloads", None, ("downloads", list)), state)
                if state["total_bytes"]:
                    on_progress(state["done_bytes"], state["total_bytes"])
    except KeyboardInterrupt:
        paused = ask(server, "/managed-models/download/pause", {"id": state["id"]}, ("download", dict))
        raise DownloadPaused(_stopped(paused["download"]), _GO_ON) from None
    if state["state"] == "done":
        place = f"{folder}/{state['name']}"
        return {"path": place, "size_bytes": state["done_bytes"], "sha256": state["sha256"], "fetched": True}
    if state["state"] == "failed" and state["error"]:
        raise DownloadError(state["error"]["message"], state["error"]["remedy"], code=state["error"]["code"])
    raise DownloadPaused(_stopped(state), _GO_ON)


def _find(answer: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    for found in answer["downloads"]:
        if found["id"] == state["id"]:
            return dict(found)
    raise ServerError("ComfyUI knows nothing of the download any more.", "Was it started again?")


def _stopped(state: dict[str, Any]) -> str:
    from ..words.download import download_line

    return f"Stopped. {download_line(state)}."
