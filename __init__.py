"""Managed Models, a ComfyUI extension.

ComfyUI imports this folder by path, under a name of its own choosing; ``pip``
installs it as ``managed_models``. Both get this file, so it imports nothing.
"""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():  # type: ignore[no-untyped-def]
    """Return the extension object; called once by ComfyUI while it starts."""
    from .nodes import ManagedModelsExtension

    return ManagedModelsExtension()
