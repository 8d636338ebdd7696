"""QuantizeModel."""

from __future__ import annotations

import os
from typing import Any

from comfy_api.latest import io

from ..manager.chart import quantization_chart
from ..manager.comfy_host import get_manager
from ..manager.comfy_host.linked import note_model_name
from ..manager.errors import HashUnverified, ManagedModelsError
from ..manager.files import FileIdentity
from ..manager.library import ModelName
from ..manager.quantize.choices import FORMAT_NAMES, LAYOUTS, POLICIES, QUALITIES, RECOMMENDED
from ..manager.quantize.request import QuantizeRequest
from ..manager.replaced import ReplacedFiles
from ..manager.report import render_quantize
from .common import DIFFUSION_FOLDERS, make_input, make_schema, report_ui, to_image
from .loader_inputs import check_name

FOLDERS = (*DIFFUSION_FOLDERS, "text_encoders")
_replaced = ReplacedFiles()


class QuantizeModel(io.ComfyNode):
    """Write a smaller variant of a model beside it, or find the one that was made earlier."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        defaults = QuantizeRequest()
        return make_schema(
            node_id="QuantizeModel",
            display_name="Quantize Model",
            description="Writes a smaller variant of a diffusion model, checkpoint or text encoder beside "
            "the original. Connect model_name to Load Managed Model or to ComfyUI's own loaders. The same "
            "request finds the file that it made before.",
            search_aliases=["fp8", "int8", "make smaller", "compress model", "managed models"],
            is_output_node=True,
            inputs=[
                make_input(
                    io.Combo,
                    "model_name",
                    options=get_manager().library.options(FOLDERS),
                    tooltip="The original, in fp32, fp16 or bf16.",
                ),
                make_input(
                    io.Combo,
                    "format",
                    options=list(FORMAT_NAMES),
                    default=defaults.format,
                    optional=True,
                    tooltip="fp8, int8 and mxfp8 halve a bf16 model; nvfp4, w4a4 and w4a8 make it a quarter "
                    "to a third. int8_convrot changes its weights least. size_budget leaves this aside.",
                ),
                make_input(
                    io.Combo,
                    "policy",
                    options=list(POLICIES),
                    default=RECOMMENDED,
                    optional=True,
                    tooltip="recommended keeps the layers that published quantized models keep; everything "
                    "converts every layer that can be; size_budget measures every layer and chooses its "
                    "format, so that the file is no larger than target_size_gb and changes least.",
                ),
                make_input(
                    io.Float,
                    "target_size_gb",
                    default=defaults.target_size_gb,
                    min=0.0,
                    max=1024.0,
                    step=0.01,
                    optional=True,
                    tooltip="For size_budget: the largest file that may come of it, in GB of 1024^3 bytes. "
                    "0 is what fits this machine's GPU.",
                ),
                make_input(
                    io.Combo,
                    "quality",
                    options=list(QUALITIES),
                    default=defaults.quality,
                    optional=True,
                    advanced=True,
                    tooltip="How scales are found: fast takes them from the largest weights, best looks for "
                    "those of the least squared error, which takes longer.",
                ),
                make_input(
                    io.String,
                    "keep_patterns",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="More layers to leave as they are: parts of their names, or globs such as "
                    "blocks.0.*, separated by commas.",
                ),
                make_input(
                    io.Combo,
                    "layout",
                    options=list(LAYOUTS),
                    default=defaults.layout,
                    optional=True,
                    advanced=True,
                    tooltip="How layers are marked in the file. scaled_fp8 is the older way, of fp8 alone, "
                    "which ComfyUI before 0.8 loads, too.",
                ),
                make_input(
                    io.String,
                    "output_name",
                    default="",
                    optional=True,
                    tooltip="A file name without folders; empty for one derived from the model and format.",
                ),
                make_input(
                    io.Boolean,
                    "overwrite",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Replace another file of that name.",
                ),
                make_input(
                    io.Boolean,
                    "allow_requantize",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Take a model that is quantized already. Its weights are rounded a second time, "
                    "so use the original where there is one.",
                ),
                make_input(
                    io.Boolean,
                    "allow_nonfinite",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Keep tensors with NaN or infinite weights as they are instead of refusing.",
                ),
                make_input(
                    io.Float,
                    "max_memory_gb",
                    default=defaults.max_memory_gb,
                    min=0.0,
                    max=1024.0,
                    step=0.1,
                    optional=True,
                    advanced=True,
                    tooltip="How much memory the job may take, in GB; 0 is automatic. Pages of mapped files "
                    "do not count.",
                ),
            ],
            outputs=[
                io.AnyType.Output(display_name="model_name"),
                io.String.Output(display_name="report"),
                io.Image.Output(display_name="chart"),
            ],
        )

    @classmethod
    def validate_inputs(cls, model_name: str | None) -> bool | str:
        if model_name is None:
            return True
        try:
            check_name(model_name, FOLDERS)
        except ManagedModelsError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, model_name: str | None, **_: Any) -> Any:
        if model_name is None:
            return _replaced.generation()
        try:
            source = get_manager().library.find(model_name, FOLDERS).path
        except HashUnverified:  # measured when the node runs
            return _replaced.generation()
        return FileIdentity.of(source).key, _replaced.generation()

    @classmethod
    def execute(cls, model_name: str, output_name: str = "", **options: Any) -> io.NodeOutput:  # type: ignore[override]
        manager = get_manager()
        source = manager.library.find(model_name, FOLDERS, watch=manager.host)
        request = QuantizeRequest(**options)
        output = manager.quantizer.output_path(source.path, request, output_name)
        details = manager.quantizer.quantize(source.path, output, request)
        _replaced.remember(source.path)
        _replaced.remember(output)
        text = render_quantize(details)
        chart = to_image(quantization_chart(details))
        name = ModelName(os.path.join(os.path.dirname(source.name), output.name), source.folder)
        note_model_name(name)
        return io.NodeOutput(name, text, chart, ui=report_ui(text, chart))
