"""Runs in ComfyUI's own Python: ``runner.py COMFYUI MODULE BASE`` prints MODULE.main(BASE) as JSON."""

import asyncio
import importlib.util
import json
import logging
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]


def load_package(name: str, folder: Path) -> None:
    """Load the checkout as a package, as tests/conftest.py does."""
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def start_comfyui(path: str, base: str) -> None:
    """Import ComfyUI over ``base`` with a prompt server that does not listen."""
    sys.path.insert(0, path)
    sys.argv = ["main.py", "--cpu", "--base-directory", base]
    import comfy.options

    comfy.options.enable_args_parsing()
    import utils.extra_config  # noqa: F401  as main.py does: later that name may be comfy's utils.py

    logging.disable(logging.CRITICAL)
    import execution
    import server

    prompt_server = server.PromptServer(asyncio.new_event_loop())
    prompt_server.prompt_queue = execution.PromptQueue(prompt_server)


if __name__ == "__main__":
    comfyui, module_name, argument = sys.argv[1:4]
    start_comfyui(comfyui, argument)
    load_package("managed_models", ROOT)
    load_package("support", ROOT / "tests" / "support")
    load_package("inside", HERE)
    module = __import__(f"inside.{module_name}", fromlist=["main"])
    print("RESULT " + json.dumps(module.main(argument)))
