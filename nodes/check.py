"""CheckCompatibility."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..manager.check_options import (
    COMPANION_FOLDERS,
    MAX_BATCH,
    MAX_LENGTH,
    MAX_SIDE,
    CheckOptions,
    options_from,
    resolve_companions,
)
from ..manager.comfy_host import get_manager, stock
from ..manager.comfy_host.linked import note_model_name
from ..manager.errors import ManagedModelsError
from ..manager.host import DEFAULT, WEIGHT_DTYPES
from ..manager.library import ModelName
from ..manager.remote.address import parse_address
from ..manager.report import render_check
from .common import NONE, make_input, make_schema, never_the_same, report_ui, swap_ui
from .loader_inputs import check_name

if TYPE_CHECKING:
    from ..manager.compatibility import CompatibilityReport

_NUMBERS = (
    ("width", 0, MAX_SIDE, "Of the picture, in pixels; 0 is the model's usual."),
    ("height", 0, MAX_SIDE, "Of the picture, in pixels; 0 is the model's usual."),
    ("length", 0, MAX_LENGTH, "Frames of the video; 0 is the model's usual."),
    ("batch_size", 1, MAX_BATCH, "Pictures or videos at once."),
)
# Input -> (what it is among the companions, its tooltip).
_COMPANIONS = {
    "second_model_name": (
        "second_model",
        "The other half of a pair such as Wan 2.2's high noise and low noise: says whether both fit in RAM, "
        "and when to let the first go.",
    ),
    "clip_name": (
        "clip",
        "The text encoder that goes with it: says whether it belongs to the model, and what it takes.",
    ),
    "vae_name": (
        "vae",
        "The VAE that goes with it: says whether it belongs to the model, what decoding takes, and whether "
        "it needs tiles.",
    ),
    "lora_name": (
        "lora",
        "A LoRA for it: says whether it was made for this model, and how many of its layers would be used.",
    ),
}


class CheckCompatibility(io.ComfyNode):
    """Say whether a model can be used here, before anything is loaded."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="CheckCompatibility",
            display_name="Check Compatibility",
            description="Says what a model file is and whether this machine can use it, from its header "
            "alone: nothing is loaded.",
            search_aliases=["will it run", "model info", "managed models"],
            is_output_node=True,
            inputs=[
                make_input(
                    io.Combo,
                    "model_name",
                    options=get_manager().library.options(get_manager().host.folder_types()),
                    tooltip="The model file. Over a link it may also be a registered name or sha256:...",
                ),
                *(
                    make_input(
                        io.Int,
                        name,
                        default=least,
                        min=least,
                        max=most,
                        optional=True,
                        advanced=True,
                        tooltip=tooltip,
                    )
                    for name, least, most, tooltip in _NUMBERS
                ),
                make_input(
                    io.Combo,
                    "weight_dtype",
                    options=list(WEIGHT_DTYPES),
                    default=DEFAULT,
                    optional=True,
                    advanced=True,
                    tooltip="How the weights would be kept in memory: as in LoadManagedModel.",
                ),
                *(
                    make_input(
                        io.Combo,
                        name,
                        options=_companions(what),
                        default=NONE,
                        optional=True,
                        advanced=True,
                        tooltip=tooltip,
                    )
                    for name, (what, tooltip) in _COMPANIONS.items()
                ),
                make_input(
                    io.String,
                    "url",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="Judge the model at this address instead, before it is downloaded: https://... "
                    "or hf:owner/repository/path/file.safetensors[@revision]. Only its header is fetched. "
                    "While this is empty, nothing is asked of the network; addresses of this machine and "
                    "its own network are never asked.",
                ),
            ],
            outputs=[
                io.AnyType.Output(display_name="model_name"),
                io.Boolean.Output(display_name="compatible"),
                io.String.Output(display_name="report"),
                io.String.Output(display_name="details"),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        model_name: str | None,
        url: str | None = "",
        second_model_name: str | None = NONE,
        clip_name: str | None = NONE,
        vae_name: str | None = NONE,
        lora_name: str | None = NONE,
    ) -> bool | str:
        companions = (second_model_name, clip_name, vae_name, lora_name)
        given = {what: name for (what, _), name in zip(_COMPANIONS.values(), companions, strict=True) if name}
        try:
            resolve_companions(given, _find)
            if url is None or url.strip():  # the address is judged, whether that file is here or not
                if url is not None:
                    parse_address(url)
            elif model_name is not None:
                check_name(model_name)
        except ManagedModelsError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> int:
        return never_the_same()  # memory and files change: a verdict is never taken from the cache

    @classmethod
    def execute(  # type: ignore[override]
        cls,
        model_name: str,
        width: int = 0,
        height: int = 0,
        length: int = 0,
        batch_size: int = 1,
        weight_dtype: str = DEFAULT,
        second_model_name: str = NONE,
        clip_name: str = NONE,
        vae_name: str = NONE,
        lora_name: str = NONE,
        url: str = "",
    ) -> io.NodeOutput:
        options = options_from(
            {
                "width": width,
                "height": height,
                "length": length,
                "batch_size": batch_size,
                "weight_dtype": weight_dtype,
                "second_model": second_model_name,
                "clip": clip_name,
                "vae": vae_name,
                "lora": lora_name,
            },
            _find,
        )
        name, report = _judge(model_name, url.strip(), options)
        details = report.to_dict()
        text = render_check(details)
        if isinstance(name, ModelName):
            note_model_name(name)
        ui = report_ui(text) | swap_ui(None if url.strip() else details.get("variants"))
        return io.NodeOutput(name, report.compatible, text, json.dumps(details), ui=ui)


def _companions(what: str) -> list[str]:
    """Return what the stock loaders list: among VAEs pairs such as ``taesd``, but not what is no file."""
    if what == "vae":
        return [NONE, *(name for name in stock.vae_names() if stock.vae_paths(name))]
    return [NONE, *get_manager().library.options(COMPANION_FOLDERS[what])]


def _find(name: str, folders: Sequence[str]) -> Path:
    """Return the file that a companion's name means; of a pair of encoder and decoder the decoder."""
    paths = stock.vae_paths(name) if folders == COMPANION_FOLDERS["vae"] else None
    return paths[-1] if paths else get_manager().library.find(name, folders).path


def _judge(model_name: str, url: str, options: CheckOptions | None = None) -> tuple[str, CompatibilityReport]:
    """Return the name to pass on, and the verdict: on the file, or on what is at the address."""
    manager = get_manager()
    if url:
        return _name_of(model_name), manager.addresses.check(url, options)
    file = manager.library.find(model_name, watch=manager.host)
    return ModelName(file.name, file.folder), manager.check_file(file, options)


def _name_of(model_name: str) -> str:
    """Return the name of a file that need not be here."""
    try:
        file = get_manager().library.find(model_name)
    except ManagedModelsError:
        return model_name
    return ModelName(file.name, file.folder)
