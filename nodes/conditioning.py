"""EmptyTextConditioning."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from .common import make_input, make_schema


class EmptyTextConditioning(io.ComfyNode):
    """Zeros in place of an encoded text, to try a diffusion model without its text encoder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="EmptyTextConditioning",
            display_name="Empty Text Conditioning",
            description="Conditioning of zeros, to try or compare diffusion models without loading a text "
            "encoder. Pictures made with it follow no prompt.",
            search_aliases=["zero conditioning", "no prompt", "managed models"],
            inputs=[
                make_input(
                    io.Int,
                    "width",
                    default=4096,
                    min=1,
                    max=65536,
                    tooltip="Width of the text encoder's output: 4096 for Wan and Flux, 768 for SD 1.5.",
                ),
                make_input(io.Int, "tokens", default=77, min=1, max=4096, tooltip="Length of the text."),
                make_input(
                    io.Int,
                    "pooled_width",
                    default=0,
                    min=0,
                    max=65536,
                    tooltip="Width of the pooled output, 0 for none: 768 for Flux.",
                ),
            ],
            outputs=[io.Conditioning.Output(display_name="CONDITIONING")],
        )

    @classmethod
    def execute(cls, width: int, tokens: int, pooled_width: int) -> io.NodeOutput:  # type: ignore[override]
        extras = {"pooled_output": torch.zeros(1, pooled_width)} if pooled_width else {}
        return io.NodeOutput([[torch.zeros(1, tokens, width), extras]])
