"""LoadManagedModel."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..manager.comfy_host import get_manager
from ..manager.errors import Incompatible
from ..manager.host import DEFAULT, WEIGHT_DTYPES, ModelFile
from ..manager.load_options import ON_MISFIT, USE_SMALLER, WARN, unfilled_output
from ..manager.report import render_load
from .common import DIFFUSION_FOLDERS, MODELS_KEY, make_input, make_schema, report_ui
from .loader_inputs import (
    KEEP_ALIVE,
    device_input,
    find_or_fetch,
    fingerprint,
    fingerprint_of,
    keep_alive_input,
    links,
    refusal,
    watch,
)


class LoadManagedModel(io.ComfyNode):
    """Load a diffusion model or a checkpoint, with a judgement first and a report after."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="LoadManagedModel",
            display_name="Load Managed Model",
            description="Loads a diffusion model or a checkpoint, and says what it is, in which version, "
            "and what it costs. A checkpoint fills MODEL, CLIP and VAE, a diffusion model MODEL alone.",
            search_aliases=["load diffusion model", "load checkpoint", "unet loader", "managed models"],
            inputs=[
                make_input(
                    io.Combo,
                    "model_name",
                    options=get_manager().library.options(DIFFUSION_FOLDERS),
                    tooltip="The model file. Over a link it may also be a registered name or sha256:...",
                ),
                make_input(
                    io.Combo,
                    "weight_dtype",
                    options=list(WEIGHT_DTYPES),
                    default=DEFAULT,
                    optional=True,
                    tooltip="default: as ComfyUI's own loader does. as_stored: keep the file's precision, "
                    "also on a CPU. Concerns the diffusion part.",
                ),
                device_input(),
                keep_alive_input(),
                make_input(
                    io.Combo,
                    "on_misfit",
                    options=list(ON_MISFIT),
                    default=WARN,
                    optional=True,
                    tooltip="When the model does not suit this machine. warn: load it all the same and say "
                    "so. error: stop. use_smaller: take the best variant of it here that fits, and stop when "
                    "there is none.",
                ),
                make_input(
                    io.String,
                    "version",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="For a registered name: a version, latest, a specifier such as ~=2.1, or an "
                    "alias.",
                ),
                make_input(
                    io.Combo,
                    "attention",
                    options=[DEFAULT, *get_manager().host.attentions()],
                    default=DEFAULT,
                    optional=True,
                    advanced=True,
                    tooltip="How this model computes attention. default: ComfyUI's choice.",
                ),
                make_input(
                    io.AnyType,
                    "after",
                    optional=True,
                    tooltip="Connect anything here to load the model only once that is done.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL"),
                io.Clip.Output(display_name="CLIP"),
                io.Vae.Output(display_name="VAE"),
                io.String.Output(display_name="report"),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        model_name: str | None,
        keep_alive: str | None = KEEP_ALIVE,
        device: str | None = DEFAULT,
        attention: str | None = DEFAULT,
    ) -> bool | str:
        """Accept every ``device`` and ``attention``: what this machine lacks falls back, with a warning."""
        return refusal([model_name], DIFFUSION_FOLDERS, keep_alive) or True

    @classmethod
    def fingerprint_inputs(
        cls,
        model_name: str | None,
        version: str = "",
        on_misfit: str | None = WARN,
        weight_dtype: str | None = DEFAULT,
        device: str | None = DEFAULT,
        **_: Any,
    ) -> Any:
        if model_name is None:
            return fingerprint(None)
        return fingerprint_of(lambda: _files(model_name, version, on_misfit, weight_dtype, device))

    @classmethod
    def execute(  # type: ignore[override]
        cls,
        model_name: str,
        weight_dtype: str = DEFAULT,
        device: str = DEFAULT,
        keep_alive: str = KEEP_ALIVE,
        on_misfit: str = WARN,
        version: str = "",
        attention: str = DEFAULT,
        after: Any = None,
    ) -> io.NodeOutput:
        manager = get_manager()
        file = find_or_fetch(model_name, DIFFUSION_FOLDERS, version)
        watch([file])
        loaded = manager.loader.load(
            file.name, file.path, weight_dtype, on_misfit, file.folder, keep_alive, device, attention
        )
        text = render_load(loaded.details)
        parts, taken = loaded.parts, loaded.details["model"]
        return io.NodeOutput(
            parts.model,
            parts.clip if parts.clip is not None else unfilled_output("CLIP", taken),
            parts.vae if parts.vae is not None else unfilled_output("VAE", taken),
            text,
            ui=report_ui(text) | {MODELS_KEY: links([file])},
        )


def _files(
    model_name: str, version: str, on_misfit: str | None, weight_dtype: str | None, device: str | None
) -> list[ModelFile]:
    """Return the files that decide what a load gives: the chosen one, and what is taken in its place."""
    file = get_manager().library.find(model_name, DIFFUSION_FOLDERS, version)
    if on_misfit != USE_SMALLER:
        return [file]
    try:
        return [file, get_manager().loader.choose(file, weight_dtype or DEFAULT, device or DEFAULT).file]
    except Incompatible:  # said when the node runs
        return [file]
