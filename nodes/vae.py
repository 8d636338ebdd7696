"""LoadManagedVAE."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..manager.comfy_host import get_manager, stock
from ..manager.host import DEFAULT, ModelFile
from ..manager.report import render_load
from .common import MODELS_KEY, make_input, make_schema, report_ui
from .loader_inputs import (
    KEEP_ALIVE,
    Find,
    device_input,
    find_here,
    find_or_fetch,
    fingerprint,
    fingerprint_of,
    keep_alive_input,
    links,
    refusal,
    watch,
)

FOLDERS = ("vae", "vae_approx")


class LoadManagedVAE(io.ComfyNode):
    """Load a VAE, or share the one that is loaded."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="LoadManagedVAE",
            display_name="Load Managed VAE",
            description="Loads a VAE. Workflows that use the same file share one copy, ComfyUI's own loader "
            "included.",
            search_aliases=["load vae", "vae loader", "taesd", "managed models"],
            inputs=[
                make_input(
                    io.Combo,
                    "vae_name",
                    options=stock.vae_names(),
                    tooltip="What ComfyUI's own loader offers. Over a link it may also be a registered name "
                    "or sha256:...",
                ),
                device_input(),
                keep_alive_input(),
            ],
            outputs=[io.Vae.Output(display_name="VAE")],
        )

    @classmethod
    def validate_inputs(
        cls,
        vae_name: str | None,
        keep_alive: str | None = KEEP_ALIVE,
        device: str | None = DEFAULT,
    ) -> bool | str:
        offered = isinstance(vae_name, str) and stock.vae_paths(vae_name) is not None
        return refusal([None if offered else vae_name], FOLDERS, keep_alive) or True

    @classmethod
    def fingerprint_inputs(cls, vae_name: str | None, **_: Any) -> Any:
        return fingerprint(None) if vae_name is None else fingerprint_of(lambda: _files(vae_name))

    @classmethod
    def execute(  # type: ignore[override]
        cls, vae_name: str, device: str = DEFAULT, keep_alive: str = KEEP_ALIVE
    ) -> io.NodeOutput:
        files = _files(vae_name, find_or_fetch)
        watch(files)
        name = files[0].name if len(files) == 1 else vae_name
        paths = [file.path for file in files]
        loaded = get_manager().loader.load_vae(name, paths, keep_alive, device)
        text = render_load(loaded.details)
        return io.NodeOutput(loaded.parts.vae, ui=report_ui(text) | {MODELS_KEY: links(files)})


def _files(vae_name: str, find: Find = find_here) -> list[ModelFile]:
    """Return the files of what the stock loader offers under this name, else of what it means to us."""
    paths = stock.vae_paths(vae_name)
    if paths is None:
        return [find(vae_name, FOLDERS)]
    return [ModelFile("vae" if len(paths) == 1 else "vae_approx", path.name, path) for path in paths]
