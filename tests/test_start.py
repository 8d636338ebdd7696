"""What is imported while ComfyUI starts, as far as that can be seen without ComfyUI."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from managed_models.manager import AdvancedModelManager
from managed_models.manager.catalogue import Places
from managed_models.manager.cli.context import open_manager
from support.start import LATER, too_early

ROOT = Path(__file__).resolve().parents[1]
# The manager over a host that knows nothing yet, and the routes: what each start makes.
START = f"""
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("managed_models", {str(ROOT / "__init__.py")!r})
module = sys.modules["managed_models"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from aiohttp import web
from managed_models.manager import AdvancedModelManager
from managed_models.manager.routes import add_routes

class Nowhere:
    pass

manager = AdvancedModelManager(host=Nowhere())
table = web.RouteTableDef()
add_routes(table, lambda: manager)
print(json.dumps([sorted(sys.modules), len(table)]))
"""


def test_the_start_imports_only_what_it_needs() -> None:
    done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, check=True)
    modules, routes = json.loads(done.stdout)
    start = "managed_models.manager."
    ours = [name.removeprefix(start) for name in modules if name.startswith(start)]
    assert routes > 15
    assert {"manager", "registry.store", "routes.files"} <= set(ours)
    assert too_early(ours) == []
    assert {"torch", "numpy", "requests", "alembic", "safetensors"}.isdisjoint(modules)


def test_the_list_of_what_comes_later_names_what_there_is() -> None:
    for name in LATER:
        path = ROOT / "manager" / Path(*name.split("."))
        assert path.is_dir() or path.with_suffix(".py").is_file(), name


def test_a_module_that_comes_too_early_is_named() -> None:
    assert too_early(["manager", "versions.order", "quantize.engine", "quantize.request", "scan"]) == [
        "quantize.engine",
        "scan",
        "versions.order",
    ]


def test_the_catalogue_looks_where_its_door_says_when_it_is_first_asked_for(tmp_path: Path) -> None:
    manager = AdvancedModelManager()
    assert manager.catalogue.places == Places()
    told = AdvancedModelManager()
    told.find_places = lambda: Places(own=(tmp_path / "catalogue.json",))
    assert told.catalogue.places.own == (tmp_path / "catalogue.json",)
    (tmp_path / "models").mkdir()
    command = open_manager(tmp_path)
    try:
        assert tmp_path / "user" / "__managed_models" / "catalogue.json" in command.catalogue.places.own
    finally:
        command.close()
