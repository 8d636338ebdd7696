"""LoadManagedModel."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..manager.comfy_host import get_manager
from ..manager.errors import ManagedModelsError
from ..manager.files import FileIdentity
from ..manager.host import DEFAULT, WEIGHT_DTYPES
from ..manager.library import model_links
from ..manager.loading import ON_MISFIT, WARN, unfilled_output
from ..manager.replaced import ReplacedFiles
from ..manager.report import render_load
from .common import DIFFUSION_FOLDERS, MODELS_KEY, make_input, make_schema, refuse_unbuilt, report_ui

KEEP_ALIVE = "5m"
_replaced = ReplacedFiles()


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
                make_input(
                    io.Combo,
                    "device",
                    options=[DEFAULT],
                    default=DEFAULT,
                    optional=True,
                    advanced=True,
                    tooltip="Where the model runs: ComfyUI's choice.",
                ),
                make_input(
                    io.String,
                    "keep_alive",
                    default=KEEP_ALIVE,
                    optional=True,
                    advanced=True,
                    tooltip="How long an idle model stays in memory. Not built yet: leave it at 5m.",
                ),
                make_input(
                    io.Combo,
                    "on_misfit",
                    options=list(ON_MISFIT),
                    default=WARN,
                    optional=True,
                    tooltip="When the model does not suit this machine: load it all the same and say so, "
                    "or stop.",
                ),
                make_input(
                    io.String,
                    "version",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="For a registered name: a version, latest, or a specifier such as ~=2.1.",
                ),
                make_input(
                    io.Combo,
                    "attention",
                    options=[DEFAULT],
                    default=DEFAULT,
                    optional=True,
                    advanced=True,
                    tooltip="How attention is computed: ComfyUI's choice.",
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
    def validate_inputs(cls, model_name: str | None) -> bool | str:
        if model_name is None:  # it comes over a link
            return True
        try:
            get_manager().library.find(model_name, DIFFUSION_FOLDERS)
        except ManagedModelsError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, model_name: str | None, version: str = "", **_: Any) -> Any:
        if model_name is None:
            return _replaced.generation()
        return FileIdentity.of(get_manager().library.find(model_name, DIFFUSION_FOLDERS, version).path).key

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
        refuse_unbuilt(
            {
                "device": (device, DEFAULT),
                "keep_alive": (keep_alive, KEEP_ALIVE),
                "attention": (attention, DEFAULT),
            }
        )
        manager = get_manager()
        file = manager.library.find(model_name, DIFFUSION_FOLDERS, version)
        _replaced.remember(file.path)
        loaded = manager.loader.load(file.name, file.path, weight_dtype, on_misfit, file.folder)
        text = render_load(loaded.details)
        parts = loaded.parts
        links = model_links(file, manager.registry.active_by_path().get(str(file.path)))
        return io.NodeOutput(
            parts.model,
            parts.clip if parts.clip is not None else unfilled_output("CLIP", file.name),
            parts.vae if parts.vae is not None else unfilled_output("VAE", file.name),
            text,
            ui=report_ui(text) | {MODELS_KEY: links},
        )
