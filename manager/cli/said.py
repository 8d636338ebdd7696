"""The commands that write out and read back what people said."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..report import one_line
from .context import ComfyOption, JsonOption, app, open_manager
from .output import reports_errors, show


@app.command(name="export")
@reports_errors
def export_command(
    file: Annotated[Path, typer.Argument(help="The JSON file to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another file.")] = False,
    comfyui: ComfyOption = None,
    json_output: JsonOption = False,
) -> None:
    """Write what people said to FILE: registrations, versions, aliases, tags, pins and sources."""
    from ..said import write_document
    from ..words.said import export_words

    said = open_manager(comfyui).registry.said()
    path = file.expanduser().absolute()
    write_document(said, path, overwrite)
    details = {
        "path": str(path),
        "models": len(said.models),
        "versions": sum(len(model.versions) for model in said.models),
        "pins": len(said.pins),
        "sources": len(said.sources),
    }
    show(details, export_words(details), json_output)


@app.command(name="import")
@reports_errors
def import_command(
    file: Annotated[Path, typer.Argument(help="A file that export wrote.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Where FILE says something else than is said here, believe it.")
    ] = False,
    comfyui: ComfyOption = None,
    json_output: JsonOption = False,
) -> None:
    """Add what FILE says to what is said here; what differs is named, and kept as it is here."""
    from ..said import merge, read_document
    from ..words.said import import_lines

    there = read_document(file.expanduser().absolute())
    details = open_manager(comfyui).registry.say(lambda here: merge(here, there, replace)).to_dict()
    show(details, "\n".join(map(one_line, import_lines(details))), json_output)
