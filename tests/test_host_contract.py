"""The host contract, kept by the host without ComfyUI; tests/comfyui asks the other one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from host_contract import CHECKS
from managed_models.manager.local_host import LocalHost


@pytest.fixture(scope="module")
def models(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(tiny_models, tmp_path_factory.mktemp("contract") / "models"))


@pytest.mark.parametrize("check", CHECKS)
def test_local_host(check: str, models: Path) -> None:
    pytest.importorskip("torch")
    CHECKS[check](LocalHost([models]), models)
