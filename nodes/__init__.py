"""The extension as ComfyUI sees it: its nodes, and what happens once when it loads."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from ..manager.comfy_host import startup
from .check import CheckCompatibility
from .conditioning import EmptyTextConditioning
from .load import LoadManagedModel
from .memory import MemoryReport
from .quantize import QuantizeModel
from .text_encoder import LoadManagedTextEncoder
from .vae import LoadManagedVAE

NODES: list[type[io.ComfyNode]] = [
    LoadManagedModel,
    LoadManagedTextEncoder,
    LoadManagedVAE,
    CheckCompatibility,
    QuantizeModel,
    MemoryReport,
    EmptyTextConditioning,
]


class ManagedModelsExtension(ComfyExtension):
    """Gives ComfyUI the nodes; registers routes and page as it is made.

    Not in ``on_load``, which ComfyUI calls only since a version after 0.8.
    """

    def __init__(self) -> None:
        startup.add_routes()
        startup.begin_with_the_server()
        startup.serve_page_from_any_folder()
        startup.warn_about_taken_names(NODES)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return list(NODES)
