"""What commands share: the application, their common options, and the manager of one command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ModelNotFound
from .output import close_after_command

if TYPE_CHECKING:
    from ..manager import AdvancedModelManager

app = typer.Typer(
    name="managed-models",
    help="Know every model on this machine: what it is, whether it can be used, and how to make it smaller.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
ComfyOption = Annotated[
    Path | None,
    typer.Option("--comfyui", metavar="DIR", help="Use this ComfyUI installation's folders and registry."),
]
ServerOption = Annotated[
    str | None,
    typer.Option("--server", metavar="URL", help="Ask a running ComfyUI, such as http://127.0.0.1:8188."),
]
ModelArgument = Annotated[
    str, typer.Argument(help="A registered name, a file name of the model folders, or a path.")
]


def open_manager(
    comfyui: Path | None,
    roots: list[Path] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> AdvancedModelManager:
    """Make the manager for one command: its folders, its registry, and who hears of progress."""
    from ..config import ModelManagerConfig, registry_url
    from ..host import ModelFolder
    from ..local_host import LocalHost
    from ..manager import AdvancedModelManager
    from .installation import catalogue_places, comfyui_registry, comfyui_roots, default_registry

    for root in roots or []:
        if not root.is_dir():
            raise ModelNotFound(f"There is no folder {root}.", "Check the path.")
    folders: list[Path | ModelFolder] = [root.absolute() for root in roots or []]
    if comfyui:
        folders += comfyui_roots(comfyui)
    url = registry_url(comfyui_registry(comfyui) if comfyui else default_registry())
    manager = AdvancedModelManager(ModelManagerConfig(database_url=url), LocalHost(folders, on_progress))
    manager.find_places = lambda: catalogue_places(comfyui)
    close_after_command(manager.close)
    return manager
