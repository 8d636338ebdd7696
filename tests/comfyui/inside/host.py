"""Runs the host contract against the adapter, in ComfyUI's own Python."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path

from managed_models.manager.comfy_host import ComfyHost

TESTS = Path(__file__).resolve().parents[2]


def main(base: str) -> dict[str, str]:
    """Return, for each check, an empty text or what went wrong."""
    spec = importlib.util.spec_from_file_location("host_contract", TESTS / "host_contract.py")
    assert spec is not None
    assert spec.loader is not None
    contract = importlib.util.module_from_spec(spec)
    sys.modules["host_contract"] = contract
    spec.loader.exec_module(contract)
    models = Path(base) / "models"
    found: dict[str, str] = {}
    for name, check in contract.CHECKS.items():
        try:
            check(ComfyHost(), models)
            found[name] = ""
        except Exception:  # each check is a test of its own, which shows this
            found[name] = traceback.format_exc()
    return found
