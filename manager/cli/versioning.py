"""The commands about versions: list them, take a newer one, and give one another name."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import BadInput
from .context import ComfyOption, JsonOption, app, open_manager
from .output import reports_errors, show

_NameArgument = Annotated[str, typer.Argument(help="A registered name.")]


@app.command()
@reports_errors
def versions(name: _NameArgument, comfyui: ComfyOption = None, json_output: JsonOption = False) -> None:
    """List the versions of a registered model, their aliases, and a newer one that this machine can run."""
    from ..words.versions import versions_words

    details = open_manager(comfyui).versioning.details(name)
    show(details, versions_words(details), json_output)


@app.command()
@reports_errors
def upgrade(name: _NameArgument, comfyui: ComfyOption = None, json_output: JsonOption = False) -> None:
    """Make the newest version that fits this machine the active one. Aliases stay where they are."""
    from ..words.versions import upgraded_words

    manager = open_manager(comfyui)
    details = manager.upgrade_details(name)
    after = manager.upgrade(name)
    result = {
        "name": name,
        "before": details["active"],
        "after": after or details["active"],
        "aliases": manager.aliases(name),
        "upgrade_details": details,
    }
    show(result, upgraded_words(result), json_output)


@app.command()
@reports_errors
def alias(
    name: _NameArgument,
    alias: Annotated[str, typer.Argument(help="Any word that is no version, such as stable.")],
    version: Annotated[
        str | None,
        typer.Argument(help="What it means from now on, older or newer; the active version when left out."),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Forget the alias; its version stays.")] = False,
    comfyui: ComfyOption = None,
    json_output: JsonOption = False,
) -> None:
    """Let ALIAS mean one version of a registered model."""
    from ..words.versions import alias_words

    manager = open_manager(comfyui)
    if remove and version is not None:
        raise BadInput(f"--remove and {version!r} were given.", "Leave one of them out.")
    if remove:
        manager.versioning.remove_alias(name, alias)
        meant = None
    else:
        meant = manager.set_alias(name, alias, version)
    result = {"name": name, "alias": alias.strip(), "version": meant}
    show(result, alias_words(result), json_output)
