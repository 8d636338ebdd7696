"""The extension as ComfyUI sees it: its nodes, and what happens once when it loads."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from ..manager.comfy_host import startup
from .check import CheckCompatibility
from .conditioning import EmptyTextConditioning
from .load import LoadManagedModel
from .memory import MemoryReport
from .quantize import QuantizeModel

NODES: list[type[io.ComfyNode]] = [
    LoadManagedModel,
    CheckCompatibility,
    QuantizeModel,
    MemoryReport,
    EmptyTextConditioning,
]


class ManagedModelsExtension(ComfyExtension):
    """Registers routes and page, and gives ComfyUI the nodes."""

    async def on_load(self) -> None:
        startup.add_routes()
        startup.serve_page_from_any_folder()
        startup.warn_about_taken_names(NODES)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return list(NODES)
