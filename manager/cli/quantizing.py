"""The command that makes smaller variants of models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .context import ComfyOption, JsonOption, ModelArgument, app, open_manager
from .output import progress_bar, reports_errors, show


@app.command()
@reports_errors
def quantize(
    source: ModelArgument,
    target: Annotated[Path, typer.Argument(help="The file to write, ending with .safetensors.")],
    format: Annotated[
        str,
        typer.Option(
            help="fp8_e4m3fn_scaled, fp8_e5m2_scaled, int8, int8_convrot, mxfp8, nvfp4, w4a4, w4a8, bf16 "
            "or fp16."
        ),
    ] = "fp8_e4m3fn_scaled",
    policy: Annotated[
        str,
        typer.Option(
            help="recommended keeps the layers that published quantized models keep; everything converts all "
            "that a format takes; size_budget chooses a format for each layer within --target-size-gb."
        ),
    ] = "recommended",
    target_size_gb: Annotated[
        float, typer.Option(help="The largest file that size_budget may make; 0 is what fits the GPU.")
    ] = 0.0,
    quality: Annotated[
        str,
        typer.Option(help="fast: scales from the largest weights. best: scales of the least squared error."),
    ] = "fast",
    keep_patterns: Annotated[
        str, typer.Option(help="More layers to leave as they are: parts of their names, or globs.")
    ] = "",
    layout: Annotated[
        str, typer.Option(help="comfy_quant, or scaled_fp8: fp8 for versions of ComfyUI before 0.8.")
    ] = "comfy_quant",
    max_memory_gb: Annotated[
        float, typer.Option(help="How much memory the run may take; 0 is automatic.")
    ] = 0.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another file.")] = False,
    requantize: Annotated[
        bool,
        typer.Option(
            "--requantize", help="Take a source that is quantized already; its weights are rounded twice."
        ),
    ] = False,
    allow_nonfinite: Annotated[
        bool, typer.Option("--allow-nonfinite", help="Keep tensors with NaN or infinite weights as they are.")
    ] = False,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Only say what would become of each layer, and by which rule."),
    ] = False,
    comfyui: ComfyOption = None,
    json_output: JsonOption = False,
) -> None:
    """Write a smaller variant of SOURCE to TARGET.

    Ctrl-C leaves nothing behind; a run that was killed goes on when the same command is given again.
    """
    from ..quantize.request import QuantizeRequest
    from ..report import render_quantize

    request = QuantizeRequest(
        format=format,
        policy=policy,
        target_size_gb=target_size_gb,
        quality=quality,
        keep_patterns=keep_patterns,
        layout=layout,
        overwrite=overwrite,
        allow_requantize=requantize,
        allow_nonfinite=allow_nonfinite,
        max_memory_gb=max_memory_gb,
    )
    label = policy if policy == "size_budget" else format
    with progress_bar(f"{label} {target.name}") as on_progress:
        manager = open_manager(comfyui, on_progress=on_progress)
        path = manager.library.find_path(source)
        if plan:
            details = manager.quantizer.plan(path, request)
        else:
            details = manager.quantizer.quantize(path, target.expanduser().absolute(), request)
    show(details, render_quantize(details), json_output)
