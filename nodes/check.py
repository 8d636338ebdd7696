"""CheckCompatibility."""

from __future__ import annotations

import json
from typing import Any

from comfy_api.latest import io

from ..manager.comfy_host import get_manager
from ..manager.errors import ManagedModelsError
from ..manager.host import DEFAULT
from ..manager.library import ModelName
from ..manager.report import render_check
from .common import NONE, make_input, make_schema, refuse_unbuilt, report_ui

_LATER = "Not built yet: leave it as it is."


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
                        default=default,
                        min=default,
                        max=default,
                        optional=True,
                        advanced=True,
                        tooltip=_LATER,
                    )
                    for name, default in (("width", 0), ("height", 0), ("length", 0), ("batch_size", 1))
                ),
                make_input(
                    io.Combo,
                    "weight_dtype",
                    options=[DEFAULT],
                    default=DEFAULT,
                    optional=True,
                    advanced=True,
                    tooltip=_LATER,
                ),
                *(
                    make_input(
                        io.Combo,
                        name,
                        options=[NONE],
                        default=NONE,
                        optional=True,
                        advanced=True,
                        tooltip=_LATER,
                    )
                    for name in ("second_model_name", "clip_name", "vae_name", "lora_name")
                ),
                make_input(io.String, "url", default="", optional=True, advanced=True, tooltip=_LATER),
            ],
            outputs=[
                io.AnyType.Output(display_name="model_name"),
                io.Boolean.Output(display_name="compatible"),
                io.String.Output(display_name="report"),
                io.String.Output(display_name="details"),
            ],
        )

    @classmethod
    def validate_inputs(cls, model_name: str | None) -> bool | str:
        if model_name is None:
            return True
        try:
            get_manager().library.find(model_name)
        except ManagedModelsError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> float:
        return float("nan")  # memory and files change: a verdict is never taken from the cache

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
        refuse_unbuilt(
            {
                "width": (width, 0),
                "height": (height, 0),
                "length": (length, 0),
                "batch_size": (batch_size, 1),
                "weight_dtype": (weight_dtype, DEFAULT),
                "second_model_name": (second_model_name, NONE),
                "clip_name": (clip_name, NONE),
                "vae_name": (vae_name, NONE),
                "lora_name": (lora_name, NONE),
                "url": (url, ""),
            }
        )
        manager = get_manager()
        file = manager.library.find(model_name)
        report = manager.check_file(file)
        details = report.to_dict()
        text = render_check(details)
        name = ModelName(file.name, file.folder)
        return io.NodeOutput(name, report.compatible, text, json.dumps(details), ui=report_ui(text))
