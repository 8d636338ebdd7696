"""LoadManagedTextEncoder."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..manager.comfy_host import get_manager, stock
from ..manager.errors import BadInput
from ..manager.host import DEFAULT, ModelFile
from ..manager.report import render_load
from .common import MODELS_KEY, NONE, make_input, make_schema, report_ui
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

FOLDERS = ("text_encoders",)
_MORE = ("clip_name2", "clip_name3", "clip_name4")


class LoadManagedTextEncoder(io.ComfyNode):
    """Load a text encoder of one to four files, or share the one that is loaded."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        names = get_manager().library.options(FOLDERS)
        types = stock.encoder_types()
        return make_schema(
            node_id="LoadManagedTextEncoder",
            display_name="Load Managed Text Encoder",
            description="Loads a text encoder of one to four files. Workflows that use the same files share "
            "one copy, ComfyUI's own loaders included.",
            search_aliases=["load clip", "dual clip loader", "triple clip loader", "t5", "managed models"],
            inputs=[
                make_input(
                    io.Combo,
                    "clip_name",
                    options=names,
                    tooltip="The file. Over a link it may also be a registered name or sha256:...",
                ),
                *(
                    make_input(
                        io.Combo,
                        name,
                        options=[NONE, *names],
                        default=NONE,
                        optional=True,
                        tooltip="A further file of the same encoder, for architectures that use several.",
                    )
                    for name in _MORE
                ),
                make_input(
                    io.Combo,
                    "type",
                    options=types,
                    default=types[0],
                    optional=True,
                    tooltip="What the encoder is for. Three or four files say that by themselves.",
                ),
                device_input(),
                keep_alive_input(),
            ],
            outputs=[io.Clip.Output(display_name="CLIP")],
        )

    @classmethod
    def validate_inputs(
        cls,
        clip_name: str | None,
        clip_name2: str | None = NONE,
        clip_name3: str | None = NONE,
        clip_name4: str | None = NONE,
        keep_alive: str | None = KEEP_ALIVE,
        device: str | None = DEFAULT,
    ) -> bool | str:
        names = [clip_name, *(name for name in (clip_name2, clip_name3, clip_name4) if name != NONE)]
        return refusal(names, FOLDERS, keep_alive) or True

    @classmethod
    def fingerprint_inputs(
        cls,
        clip_name: str | None,
        clip_name2: str | None = NONE,
        clip_name3: str | None = NONE,
        clip_name4: str | None = NONE,
        **_: Any,
    ) -> Any:
        names = (clip_name, clip_name2, clip_name3, clip_name4)
        if None in names:
            return fingerprint(None)
        return fingerprint_of(lambda: _files(*(str(name) for name in names)))

    @classmethod
    def execute(  # type: ignore[override]
        cls,
        clip_name: str,
        clip_name2: str = NONE,
        clip_name3: str = NONE,
        clip_name4: str = NONE,
        type: str = "",
        device: str = DEFAULT,
        keep_alive: str = KEEP_ALIVE,
    ) -> io.NodeOutput:
        files = _files(clip_name, clip_name2, clip_name3, clip_name4, find=find_or_fetch)
        watch(files)
        loaded = get_manager().loader.load_text_encoder(files, _checked(type), keep_alive, device)
        text = render_load(loaded.details)
        return io.NodeOutput(loaded.parts.clip, ui=report_ui(text) | {MODELS_KEY: links(files)})


def _files(*names: str, find: Find = find_here) -> list[ModelFile]:
    """Return the files of these names."""
    return [find(name, FOLDERS) for name in names if name != NONE]


def _checked(word: str) -> str:
    """Return the type, of the words that ComfyUI knows: it takes any other for Stable Diffusion."""
    known = stock.encoder_types()
    if word and word not in known:
        raise BadInput(f"type is {word!r}.", f"Use one of {', '.join(known)}.")
    return word or known[0]
