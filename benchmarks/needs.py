"""What ComfyUI's templates name: read once and from the cache; and a workflow's needs among many files.

.venv/bin/python benchmarks/needs.py COMFYUI [--files 10000]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from common import claim, load_checkout, median_seconds

load_checkout()

from managed_models.manager import AdvancedModelManager, ModelManagerConfig  # noqa: E402
from managed_models.manager.catalogue import Catalogue, Places  # noqa: E402
from managed_models.manager.catalogue.templates import find_packages, site_packages  # noqa: E402
from managed_models.manager.local_host import LocalHost  # noqa: E402


def main() -> int:
    """Print each figure beside a floor measured in the same run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("comfyui", type=Path)
    parser.add_argument("--files", type=int, default=10_000)
    options = parser.parse_args()
    packages = find_packages(site_packages(options.comfyui))
    paths = [path for package in packages for path in sorted(package.folder.glob("*.json"))]
    if not paths:
        print("SKIP  this ComfyUI has no template packages")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        good = [templates(paths, options.comfyui, Path(folder)), needs(paths, options, Path(folder))]
    return 0 if all(good) else 1


def templates(paths: list[Path], comfyui: Path, folder: Path) -> bool:
    """Compare reading the catalogue with parsing the same files."""
    parse = median_seconds(lambda: [json.loads(path.read_bytes()) for path in paths], 3)
    places = Places(tuple(site_packages(comfyui)))
    first = median_seconds(lambda: Catalogue(places=places).entries(), 3)
    cached = Places(places.search_path, cache=folder / "templates.json")
    again = median_seconds(lambda: Catalogue(places=cached).entries(), 5)
    count = len(Catalogue(places=cached).entries())
    print(f"{len(paths)} files name {count} addresses; parsing them takes {parse * 1000:.0f} ms")
    return all(
        [
            claim("templates, first read / parsing alone", first / parse, 1.5, "x"),
            claim("templates, from the cache / parsing", again / parse, 0.2, "x"),
        ]
    )


def needs(paths: list[Path], options: argparse.Namespace, folder: Path) -> bool:
    """Compare the needs of a large workflow with listing the model folders."""
    models = folder / "models"
    for kind in ("diffusion_models", "loras"):
        (models / kind).mkdir(parents=True)
        for i in range(options.files // 2):
            (models / kind / f"model_{i:05}.safetensors").touch()
    manager = AdvancedModelManager(ModelManagerConfig(), LocalHost([models]))
    manager.catalogue.places = Places(tuple(site_packages(options.comfyui)))
    documents = [json.loads(path.read_bytes()) for path in paths]
    document = max((d for d in documents if isinstance(d, dict) and "nodes" in d), key=lambda d: len(str(d)))
    try:
        listing = median_seconds(manager.library.names, 5)
        begin = time.perf_counter()
        count = len(manager.needs.report(document)["models"])
        print(f"a workflow of {count} models: {(time.perf_counter() - begin) * 1000:.0f} ms the first time")
        whole = median_seconds(lambda: manager.needs.report(document), 5)
    finally:
        manager.close()
    return claim(f"needs among {options.files} files / listing them", whole / listing, 4, "x")


if __name__ == "__main__":
    sys.exit(main())
