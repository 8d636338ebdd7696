"""The commands. Each gathers its arguments, asks the manager, and shows what came back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .. import __version__
from ..errors import BadInput, ModelNotFound
from ..remote.address import is_address, shown
from .context import ComfyOption, JsonOption, ModelArgument, ServerOption, app, open_manager
from .output import progress_bar, reports_errors, show, table


def main() -> None:
    """Run the command line."""
    app()


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"managed-models {__version__}")
        raise typer.Exit


@app.command()
@reports_errors
def scan(
    folders: Annotated[list[Path] | None, typer.Argument(help="Folders with models.")] = None,
    comfyui: ComfyOption = None,
    json_output: JsonOption = False,
) -> None:
    """Look at every model file below FOLDERS, read its header, and remember what it is."""
    from .catalogue import scan_files

    manager = open_manager(comfyui, folders or [])
    if not manager.host.folders():
        raise BadInput("No folder was named.", "Give one or more folders, or --comfyui DIR.")
    result = scan_files(manager)
    words = table(
        ("Name", "Folder", "What it is", "Precision", "Size", "Version"),
        [
            (
                row["name"],
                row["folder"],
                row["what"],
                row["precision"],
                row["size"],
                row["version"] or "unknown",
            )
            for row in result["files"]
        ],
    )
    broken = "".join(f"\nCannot be used: {row['message']}" for row in result["unreadable"])
    show(
        result,
        f"{words}\n\n{len(result['files'])} models, {len(result['unreadable'])} unreadable{broken}",
        json_output,
    )


@app.command(name="list")
@reports_errors
def list_command(comfyui: ComfyOption = None, json_output: JsonOption = False) -> None:
    """List the registered models, and the files that earlier scans found."""
    from .catalogue import known_models

    result = known_models(open_manager(comfyui))
    if not result["models"] and not result["files"]:
        words = "Nothing is known yet. Run: managed-models scan FOLDER"
    else:
        rows = [(m["name"], "registered", m["version"], m["file_path"]) for m in result["models"]]
        rows += [(f["name"], f["what"], f["version"] or "unknown", f["path"]) for f in result["files"]]
        words = table(("Name", "What it is", "Version", "File"), rows)
    show(result, words, json_output)


@app.command(name="show")
@reports_errors
def show_command(model: ModelArgument, comfyui: ComfyOption = None, json_output: JsonOption = False) -> None:
    """Say what MODEL is, from its header alone."""
    from ..report import render_identity
    from .catalogue import describe

    details = describe(open_manager(comfyui), model)
    show(details, render_identity(details), json_output)


@app.command()
@reports_errors
def check(
    model: Annotated[
        str,
        typer.Argument(
            help="A registered name, a file name of the model folders, a path, or an address: https://... or "
            "hf:owner/repository/path[@revision]. Of an address only the header is fetched."
        ),
    ],
    width: Annotated[int, typer.Option(help="Of the picture, in pixels; 0 is the model's usual.")] = 0,
    height: Annotated[int, typer.Option(help="Of the picture, in pixels; 0 is the model's usual.")] = 0,
    length: Annotated[int, typer.Option(help="Frames of the video; 0 is the model's usual.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Pictures or videos at once.")] = 1,
    weight_dtype: Annotated[
        str, typer.Option(help="How the weights would be kept: default, as_stored, fp8_e4m3fn, bf16, ...")
    ] = "default",
    second_model: Annotated[
        str | None, typer.Option(help="The other half of a pair such as Wan 2.2's.")
    ] = None,
    clip: Annotated[str | None, typer.Option(help="The text encoder that goes with it.")] = None,
    vae: Annotated[str | None, typer.Option(help="The VAE that goes with it.")] = None,
    lora: Annotated[str | None, typer.Option(help="A LoRA that is to be applied to it.")] = None,
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
    """Say whether MODEL can be used on this machine, and why not. Exit code 1 when it cannot."""
    from ..checking import options_from
    from ..report import render_check

    asked: dict[str, Any] = {
        "width": width,
        "height": height,
        "length": length,
        "batch_size": batch_size,
        "weight_dtype": weight_dtype,
        "second_model": second_model,
        "clip": clip,
        "vae": vae,
        "lora": lora,
    }
    if server:
        from .server import ask

        _refuse_address(model)
        details = ask(server, "/managed-models/check", {"model": model, **asked})["details"]
    else:
        manager = open_manager(comfyui)
        options = options_from(asked, lambda name, _: manager.library.find_path(name))
        details = manager.check(model, options, allow_local_network).to_dict()
    show(details, render_check(details), json_output)
    if not details["compatible"]:
        raise typer.Exit(1)


@app.command()
@reports_errors
def pair(
    model: ModelArgument,
    others: Annotated[
        list[str], typer.Argument(help="VAEs, text encoders, LoRAs, ControlNets, or its second half.")
    ],
    server: ServerOption = None,
    comfyui: ComfyOption = None,
    json_output: JsonOption = False,
) -> None:
    """Say whether MODEL and OTHERS belong together, and which file to take instead. Exit code 1 when not."""
    from ..report import render_pair

    if server:
        from .server import ask

        body = {"model": model, "others": others}
        details = ask(server, "/managed-models/pair", body)["details"]
    else:
        details = open_manager(comfyui).pair(model, others)
    show(details, render_pair(details), json_output)
    if details["together"] is False:
        raise typer.Exit(1)


@app.command()
@reports_errors
def quantize(
    source: ModelArgument,
    target: Annotated[Path, typer.Argument(help="The file to write, ending with .safetensors.")],
    format: Annotated[str, typer.Option(help="fp8_e4m3fn_scaled, int8, bf16 or fp16.")] = "fp8_e4m3fn_scaled",
    policy: Annotated[str, typer.Option(help="recommended or everything.")] = "recommended",
    target_size_gb: Annotated[float, typer.Option(help="Not built yet.")] = 0.0,
    quality: Annotated[str, typer.Option(help="fast.")] = "fast",
    keep_patterns: Annotated[str, typer.Option(help="More layers to leave as they are.")] = "",
    max_memory_gb: Annotated[float, typer.Option(help="Not built yet.")] = 0.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another file.")] = False,
    requantize: Annotated[bool, typer.Option("--requantize", help="Not built yet.")] = False,
    allow_nonfinite: Annotated[
        bool, typer.Option("--allow-nonfinite", help="Keep tensors with NaN or infinite weights as they are.")
    ] = False,
    comfyui: ComfyOption = None,
    json_output: JsonOption = False,
) -> None:
    """Write a smaller variant of SOURCE to TARGET. Ctrl-C leaves nothing behind."""
    from ..quantize import QuantizeRequest
    from ..report import render_quantize

    request = QuantizeRequest(
        format=format,
        policy=policy,
        target_size_gb=target_size_gb,
        quality=quality,
        keep_patterns=keep_patterns,
        overwrite=overwrite,
        allow_requantize=requantize,
        allow_nonfinite=allow_nonfinite,
        max_memory_gb=max_memory_gb,
    )
    with progress_bar(f"{format} {target.name}") as on_progress:
        manager = open_manager(comfyui, on_progress=on_progress)
        path = manager.library.find_path(source)
        details = manager.quantizer.quantize(path, target.expanduser().absolute(), request)
    show(details, render_quantize(details), json_output)


@app.command()
@reports_errors
def verify(
    models: Annotated[
        list[str] | None, typer.Argument(help="Names or paths; every known file when none is given.")
    ] = None,
    comfyui: ComfyOption = None,
    json_output: JsonOption = False,
) -> None:
    """Check that model files are whole. Exit code 1 when one is not."""
    with progress_bar("verifying") as on_progress:
        manager = open_manager(comfyui, on_progress=on_progress)
        paths = [manager.library.find_path(name) for name in models or []]
        if not models:
            paths = [file.path for file in manager.library.files()] or [
                file.path for file, _ in manager.registry.known_files()
            ]
        results = [{"path": str(path), **manager.verify(path)} for path in paths]
    if not results:
        raise ModelNotFound("There is nothing to verify.", "Name a file, or scan a folder first.")
    good = all(result["ok"] for result in results)
    lines = [
        f"{result['model']}: "
        + ("whole" if result["ok"] else result["problem"])
        + (f" (checked: {', '.join(result['checked'])})" if result["ok"] else "")
        for result in results
    ]
    show({"ok": good, "results": results}, "\n".join(lines), json_output)
    if not good:
        raise typer.Exit(1)


@app.command()
@reports_errors
def versions(
    name: Annotated[str, typer.Argument(help="A registered name.")],
    comfyui: ComfyOption = None,
    json_output: JsonOption = False,
) -> None:
    """List the versions of a registered model, the active one, and a newer one that fits this machine."""
    manager = open_manager(comfyui)
    known = manager.get_all_model_versions(name)
    if not known:
        raise ModelNotFound(f"Model {name!r} is not registered.", "Look at: managed-models list")
    result = {
        "name": name,
        "versions": known,
        "active": manager.get_model_version(name),
        "latest": manager.get_latest_model_version(name),
        "upgrade": manager.suggest_model_upgrade(name),
    }
    lines = [f"{version}{' (active)' if version == result['active'] else ''}" for version in known]
    lines.append(f"Upgrade: {result['upgrade'] or 'none'}")
    show(result, "\n".join(lines), json_output)


@app.command()
@reports_errors
def upgrade(
    name: Annotated[str, typer.Argument(help="A registered name.")],
    comfyui: ComfyOption = None,
    json_output: JsonOption = False,
) -> None:
    """Make the newest version that fits this machine the active one."""
    manager = open_manager(comfyui)
    before = manager.get_model_version(name)
    if before is None:
        raise ModelNotFound(f"Model {name!r} is not registered.", "Look at: managed-models list")
    after = manager.upgrade(name)
    words = f"{name}: {before} is the newest that fits" if after is None else f"{name}: {before} to {after}"
    show({"name": name, "before": before, "after": after or before}, words, json_output)


@app.command()
@reports_errors
def report(server: ServerOption = None, comfyui: ComfyOption = None, json_output: JsonOption = False) -> None:
    """Say what VRAM and RAM hold, here or in a running ComfyUI."""
    from ..report import render_memory

    if server:
        from .server import ask

        details = ask(server, "/managed-models/memory")["details"]
    else:
        details = open_manager(comfyui).get_memory_report()
    show(details, render_memory(details), json_output)


@app.command()
@reports_errors
def unload(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A file name as the loaders list it, a title of the report, or a registered name; "
            "everything when none is given."
        ),
    ] = None,
    vram_only: Annotated[
        bool, typer.Option("--vram-only", help="Leave it in RAM, from where it comes back quickly.")
    ] = False,
    server: ServerOption = None,
    json_output: JsonOption = False,
) -> None:
    """Take MODEL, or every model, out of a running ComfyUI's memory. Exit code 1 when it is not there."""
    from .server import ask

    wanted = {"all": True} if model is None else {"model": model}
    details = ask(
        server, "/managed-models/unload", {**wanted, "vram_only": vram_only}, expected=("report", str)
    )
    words = details.pop("report")
    show(details, words, json_output)


@app.command()
@reports_errors
def pin(
    model: Annotated[
        str, typer.Argument(help="A file name as the loaders list it, a title, or a registered name.")
    ],
    off: Annotated[bool, typer.Option("--off", help="Let it go again when it has rested.")] = False,
    server: ServerOption = None,
    json_output: JsonOption = False,
) -> None:
    """Keep MODEL in a running ComfyUI's memory, once it is loaded."""
    from .server import ask

    details = ask(
        server, "/managed-models/pin", {"model": model, "pinned": not off}, expected=("report", str)
    )
    words = details.pop("report")
    show(details, words, json_output)


@app.command(name="demo-model")
@reports_errors
def demo_model(
    folder: Annotated[Path, typer.Argument(help="Where to put it, in ComfyUI's sub-folder for its kind.")],
    kind: Annotated[str, typer.Option(help="wan21_t2v, flux or sd15_checkpoint.")] = "wan21_t2v",
    json_output: JsonOption = False,
) -> None:
    """Write a tiny model with random weights in a real layout, to try things with."""
    from ..demo import make_demo_model

    path = make_demo_model(kind, folder)
    show({"path": str(path), "size_bytes": path.stat().st_size}, str(path), json_output)


def _refuse_address(model: str) -> None:
    """A ComfyUI judges the files that it has; what it asks of the network is asked by its own nodes."""
    if is_address(model):
        raise BadInput(
            f"{shown(model)} is an address, and --server asks about a file that ComfyUI has.",
            "Leave --server out, or use the url of the CheckCompatibility node.",
        )
