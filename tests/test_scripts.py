"""The two commands of the README, as far as they go without making an environment anew."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "scripts"


@pytest.mark.parametrize("name", ["run", "test", "environment.py", "comfyui_server.py"])
def test_scripts_use_the_standard_library_alone(name: str) -> None:
    tree = ast.parse((SCRIPTS / name).read_text(encoding="utf-8"))
    own = {"environment", "comfyui_server"}
    for node in ast.walk(tree):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        for module in modules:
            top = module.partition(".")[0]
            assert top in sys.stdlib_module_names | own, module


@pytest.mark.parametrize("name", ["run", "test"])
def test_scripts_can_be_called_directly(name: str) -> None:
    path = SCRIPTS / name
    assert path.read_text(encoding="utf-8").startswith("#!/usr/bin/env python3\n")
    assert os.name == "nt" or os.access(path, os.X_OK)


def test_run_does_the_main_job_in_words(tmp_path: Path) -> None:
    if not (ROOT / ".venv").is_dir():
        pytest.skip("scripts/test makes the environment that this needs")
    environment = {**os.environ, "TMPDIR": str(tmp_path), "COMFYUI_PATH": str(tmp_path / "none")}
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "run"), "--no-server"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for words in (
        "can be used on this machine",
        "Made tiny_wan21_t2v_fp8_e4m3fn_scaled.safetensors",
        "whole (checked: header,",
        "Memory on this machine",
        "comfy install",
    ):
        assert words in done.stdout
    assert list(tmp_path.iterdir()) == [], "the temporary folder was left behind"
