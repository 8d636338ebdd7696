"""The commands. Each gathers its arguments, asks the manager, and shows what came back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .. import __version__
from ..errors import BadInput
from ..remote.address import is_address, shown
from . import download, inventory, needs, quantizing, said, versioning  # noqa: F401  # add their commands
from .context import ComfyOption, JsonOption, ModelArgument, ServerOption, app, open_manager
from .output import reports_errors, show


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
    from ..check_options import options_from
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
