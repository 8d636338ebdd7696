"""The tree as a package: by path under any name, as a wheel, and as an editable install."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CODE = ("__init__.py", "manager", "nodes")


def test_every_package_is_listed() -> None:
    folders = {path.parent for top in CODE for path in (ROOT / top).rglob("__init__.py")} | {ROOT}
    names = {".".join(("managed_models", *folder.relative_to(ROOT).parts)) for folder in folders}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == names


def test_every_folder_with_code_is_a_package() -> None:
    for top in ("manager", "nodes"):
        for path in (ROOT / top).rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), path


def test_one_version_everywhere() -> None:
    from managed_models.manager import __version__

    assert PROJECT["project"]["version"] == __version__
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_root_imports_nothing() -> None:
    text = (ROOT / "__init__.py").read_text(encoding="utf-8")
    assert not [line for line in text.splitlines() if line.startswith(("import ", "from "))]


@pytest.mark.parametrize("folder", ["managed-models", "managed.models-0.1", "my managed models (copy)"])
def test_it_imports_by_path_under_any_folder_name(tmp_path: Path, folder: str) -> None:
    copy = _copy(tmp_path / folder)
    script = (
        "import asyncio, importlib.util, sys\n"
        "path = sys.argv[1]\n"
        "name = path.replace('.', '_x_')\n"  # what ComfyUI does
        "spec = importlib.util.spec_from_file_location(name, path + '/__init__.py')\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "sys.modules[name] = module\n"
        "spec.loader.exec_module(module)\n"
        "assert asyncio.iscoroutinefunction(module.comfy_entrypoint)\n"
        "import importlib\n"
        "api = importlib.import_module('.manager', name)\n"
        "manager = api.AdvancedModelManager()\n"
        "print(manager.get_model('none'), module.WEB_DIRECTORY)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(copy)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.stdout.split() == ["None", "./web"], done.stderr


def test_a_wheel_holds_everything_and_works(tmp_path: Path) -> None:
    copy = _copy(tmp_path / "tree")
    for name in ("README.md", "LICENSE", "pyproject.toml"):
        shutil.copy(ROOT / name, copy / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    built = subprocess.run(
        [*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path / "dist"), str(copy)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    here = {
        "/".join(("managed_models", *path.relative_to(copy).parts))
        for path in [copy / "__init__.py", *(copy / "manager").rglob("*.py"), *(copy / "nodes").rglob("*.py")]
    }
    assert inside == here
    target = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    done = subprocess.run(
        [sys.executable, "-c", "from managed_models.manager.cli import main; main()", "list", "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(target)},
    )
    assert json.loads(done.stdout) == {"models": [], "files": []}, done.stderr


def test_the_command_is_installed(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("managed-models")
    if importlib.util.find_spec("managed_models") is None or not command.exists():
        pytest.skip("this Python has no installed managed-models; scripts/test makes one that has")
    done = subprocess.run(
        [str(command), "--version"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout == f"managed-models {PROJECT['project']['version']}\n"


def test_requirements_name_only_what_comfyui_lacks() -> None:
    lines = [line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    names = {line.partition(">")[0] for line in lines if line}
    assert names == {"nvidia-ml-py", "packaging"}
    needed = {entry.partition(">")[0] for entry in PROJECT["project"]["dependencies"]}
    assert names <= needed


def test_comfy_registry_facts() -> None:
    assert PROJECT["tool"]["comfy"]["DisplayName"] == "Managed Models"
    assert PROJECT["project"]["name"] == "managed-models"
    assert "web" not in PROJECT["tool"]["comfy"], "the page's files would be loaded twice"


def _copy(target: Path) -> Path:
    target.mkdir(parents=True)
    ignore = shutil.ignore_patterns("__pycache__", ".git", ".venv")
    for name in ("manager", "nodes", "web"):
        shutil.copytree(ROOT / name, target / name, ignore=ignore)
    shutil.copy(ROOT / "__init__.py", target / "__init__.py")
    return target
