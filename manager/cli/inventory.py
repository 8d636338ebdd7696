"""The commands about the files that are here: scan, list, show, verify, duplicates, pin."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import BadInput, ModelNotFound
from ..report import one_line
from ..words.versions import listed_words, version_words
from .context import ComfyOption, JsonOption, ModelArgument, ServerOption, app, open_manager
from .output import progress_bar, reports_errors, show, table

_FoldersArgument = Annotated[list[Path] | None, typer.Argument(help="Folders with models.")]


@app.command()
@reports_errors
def scan(
    folders: _FoldersArgument = None,
    forget_missing: Annotated[
        bool, typer.Option("--forget-missing", help="Drop what is known of files that are gone.")
    ] = False,
    comfyui: ComfyOption = None,
    json_output: JsonOption = False,
) -> None:
    """Look at every model file below FOLDERS, and remember what is new, changed, moved or missing."""
    from ..words.scan import scan_lines, scan_summary
    from .catalogue import scan_files

    with progress_bar("reading headers", counts=True) as on_progress:
        manager = open_manager(comfyui, folders or [], on_progress=on_progress)
        if not manager.host.folders():
            raise BadInput("No folder was named.", "Give one or more folders, or --comfyui DIR.")
        result = scan_files(manager, forget_missing)
    new = {*result["added"], *result["changed"], *result["back"], *(move["to"] for move in result["moved"])}
    rows = [row for row in result["files"] if row["path"] in new]
    words = [_file_table(rows)] if rows else []
    words += [one_line(line) for line in scan_lines(result) if not line.startswith("Added: ")]
    words.append(
        f"\n{len(result['files'])} models, {len(result['unreadable'])} unreadable: {scan_summary(result)}"
    )
    words += [one_line(f"Cannot be used: {row['message']}") for row in result["unreadable"]]
    show(result, "\n".join(words).lstrip("\n"), json_output)


@app.command(name="list")
@reports_errors
def list_command(
    text: Annotated[str, typer.Argument(help="Only what these words fit: names, kinds, tags.")] = "",
    folder: Annotated[
        str | None, typer.Option(help="Only files of this type of folder, such as loras.")
    ] = None,
    comfyui: ComfyOption = None,
    json_output: JsonOption = False,
) -> None:
    """List the registered models, and the files that earlier scans found."""
    from .catalogue import known_models

    result = known_models(open_manager(comfyui), text, folder)
    if not result["models"] and not result["files"]:
        words = "Nothing is known yet. Run: managed-models scan FOLDER"
        if text or folder:
            words = "Nothing that is known fits."
    else:
        rows = [
            (m["name"], "registered", listed_words(m["version"], m["revision"]), "", m["file_path"])
            for m in result["models"]
        ]
        rows += [
            (
                f["name"],
                f["what"],
                version_words(f["version"], f["version_hint"]),
                f["health"] or "",
                f["path"],
            )
            for f in result["files"]
        ]
        words = table(("Name", "What it is", "Version", "Verified", "File"), rows)
    show(result, words, json_output)


@app.command(name="show")
@reports_errors
def show_command(model: ModelArgument, comfyui: ComfyOption = None, json_output: JsonOption = False) -> None:
    """Say what MODEL is, from its header alone, and what is known of it."""
    from ..report import render_identity
    from .catalogue import describe

    details = describe(open_manager(comfyui), model)
    show(details, render_identity(details), json_output)


@app.command()
@reports_errors
def verify(
    models: Annotated[
        list[str] | None, typer.Argument(help="Names or paths; every known file when none is given.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Look at header and size alone, and do not hash.")
    ] = False,
    server: ServerOption = None,
    comfyui: ComfyOption = None,
    json_output: JsonOption = False,
) -> None:
    """Check that model files are whole, and remember it. Exit code 1 when one is not.

    With --server, ComfyUI does it in the background: the command starts that, and says how far it is.
    """
    if server:
        return _verify_there(server, models, json_output)
    from ..words.integrity import verify_lines

    with progress_bar("verifying") as on_progress:
        manager = open_manager(comfyui, on_progress=on_progress)
        paths = [manager.library.find_path(name) for name in models or []]
        if not models:
            paths = [file.path for file in manager.library.files()] or manager.registry.paths()
        if not paths:
            raise ModelNotFound("There is nothing to verify.", "Name a file, or scan a folder first.")
        found = manager.integrity.verify_all(paths, manager.host, quick)
    results = [{"path": str(path), **details} for path, details in found]
    good = all(result["ok"] for result in results)
    show({"ok": good, "results": results}, "\n".join(map(one_line, verify_lines(results))), json_output)
    if not good:
        raise typer.Exit(1)
    return None


def _verify_there(server: str, models: list[str] | None, json_output: bool) -> None:
    from .server import ask

    body: dict[str, Any] = {"models": models} if models else {"all": True}
    details = ask(server, "/managed-models/verify", body, expected=("report", str))
    words = details.pop("report")
    show(details, words, json_output)


@app.command()
@reports_errors
def duplicates(
    folders: _FoldersArgument = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Read a few samples of each file, and say what may be the same.")
    ] = False,
    comfyui: ComfyOption = None,
    json_output: JsonOption = False,
) -> None:
    """Find files that are the same, byte for byte, and say how much room they waste."""
    from ..words.integrity import duplicate_lines

    with progress_bar("comparing") as on_progress:
        manager = open_manager(comfyui, folders or [], on_progress=on_progress)
        if manager.host.folders():
            details = manager.find_duplicates(quick)
        else:
            details = manager.duplicates.find(manager.registry.paths(), quick, manager.host)
    show(details, "\n".join(map(one_line, duplicate_lines(details))), json_output)


@app.command()
@reports_errors
def pin(
    model: Annotated[
        str, typer.Argument(help="A file name as the loaders list it, a title, or a registered name.")
    ],
    off: Annotated[bool, typer.Option("--off", help="Let it go again when it has rested.")] = False,
    server: ServerOption = None,
    comfyui: ComfyOption = None,
    json_output: JsonOption = False,
) -> None:
    """Keep MODEL in ComfyUI's memory, once it is loaded: a running one's with --server, else the next's."""
    if server:
        from .server import ask

        body = {"model": model, "pinned": not off}
        details = ask(server, "/managed-models/pin", body, expected=("report", str))
        words = details.pop("report")
    else:
        from ..report import render_pin

        manager = open_manager(comfyui)
        path = manager.library.find_path(model)
        if not off and not path.is_file():
            raise ModelNotFound(f"There is no file {path}.", "Check the name, or scan its folder first.")
        manager.marks.pin(path, not off)
        details = {"title": path.stem, "pinned": not off, "in_memory": False}
        words = render_pin(details)
    show(details, words, json_output)


def _file_table(rows: list[dict[str, Any]]) -> str:
    return table(
        ("Name", "Folder", "What it is", "Precision", "Size", "Version"),
        [
            (
                row["name"],
                row["folder"],
                row["what"],
                row["precision"],
                row["size"],
                version_words(row["version"], row["version_hint"]),
            )
            for row in rows
        ],
    )
