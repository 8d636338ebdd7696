"""What has to be seen from inside ComfyUI's process: our adapter, and whether both detections agree."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from host_contract import CHECKS
from managed_models.manager.identify.architectures import ARCHITECTURES
from support.comfyui import ComfyUI

pytestmark = pytest.mark.comfyui
RUNNER = Path(__file__).with_name("inside") / "runner.py"


def run_inside(comfyui: ComfyUI, module: str, base: Path) -> dict[str, Any]:
    """Run one module of ``inside`` over ``base`` and return its result."""
    (base / "custom_nodes").mkdir(exist_ok=True)
    done = subprocess.run(
        [str(comfyui.python), str(RUNNER), str(comfyui.path), module, str(base)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, done.stdout[-2000:] + done.stderr[-4000:]
    return dict(json.loads(lines[-1].removeprefix("RESULT ")))


@pytest.fixture(scope="module")
def contract(comfyui: ComfyUI, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    base = tmp_path_factory.mktemp("inside")
    shutil.copytree(tiny_models, base / "models")
    return run_inside(comfyui, "host", base)


@pytest.mark.parametrize("check", CHECKS)
def test_comfy_host_keeps_the_contract(contract: dict[str, Any], check: str) -> None:
    assert contract[check] == ""


@pytest.fixture(scope="module")
def verdicts(comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_inside(comfyui, "architectures", tmp_path_factory.mktemp("architectures"))


@pytest.mark.parametrize("architecture", [row.id for row in ARCHITECTURES])
def test_our_table_agrees_with_comfyui(verdicts: dict[str, Any], architecture: str) -> None:
    verdict = verdicts[architecture]
    assert "error" not in verdict, verdict
    row = next(row for row in ARCHITECTURES if row.id == architecture)
    assert row.comfy_class == verdict["expected"]
    for form, role in (("bare", "diffusion"), ("checkpoint", "checkpoint")):
        found = verdict[form]
        assert found["comfyui"] == verdict["expected"], form
        assert found["ours"] == found["with_host"] == architecture, form
        assert found["our_prefix"] == found["prefix"], form
        assert found["role"] == role
