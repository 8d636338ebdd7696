"""MemoryReport."""

from __future__ import annotations

import json
from typing import Any

from comfy_api.latest import io

from ..manager.chart import memory_chart
from ..manager.comfy_host import get_manager
from ..manager.report import render_memory
from .common import make_input, make_schema, never_the_same, report_ui, to_image

HISTORY_SECONDS = 300


class MemoryReport(io.ComfyNode):
    """Say what VRAM and RAM hold at this point of the workflow."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="MemoryReport",
            display_name="Memory Report",
            description="Says what VRAM and RAM hold when this node runs, model by model, and how they "
            "filled until then. Connect value anywhere to choose the moment: it is passed through.",
            search_aliases=["vram", "ram", "loaded models", "managed models"],
            is_output_node=True,
            inputs=[
                make_input(
                    io.AnyType,
                    "value",
                    optional=True,
                    tooltip="Passed through; the report is made when it arrives.",
                ),
                make_input(
                    io.Int,
                    "history_seconds",
                    default=HISTORY_SECONDS,
                    min=10,
                    max=3600,
                    optional=True,
                    advanced=True,
                    tooltip="How far back the chart and the highest figures go, in seconds. "
                    "An hour is kept, in memory.",
                ),
            ],
            outputs=[
                io.AnyType.Output(display_name="value"),
                io.String.Output(display_name="report"),
                io.String.Output(display_name="details"),
                io.Image.Output(display_name="chart"),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> int:
        return never_the_same()

    @classmethod
    def execute(cls, value: Any = None, history_seconds: int = HISTORY_SECONDS) -> io.NodeOutput:  # type: ignore[override]
        details = get_manager().get_memory_report(history_seconds)
        text = render_memory(details)
        chart = to_image(memory_chart(details))
        return io.NodeOutput(value, text, json.dumps(details), chart, ui=report_ui(text, chart))
