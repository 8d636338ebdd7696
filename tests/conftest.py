"""Tests run on this checkout, uninstalled, from any folder, whatever wheel is installed beside it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def _load_package(name: str, folder: Path) -> None:
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


_load_package("managed_models", ROOT)
_load_package("support", ROOT / "tests" / "support")
sys.path.append(str(ROOT / "tests"))  # host_contract, which also runs in ComfyUI's Python


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep every test away from the registry of the person who runs it."""
    monkeypatch.setenv("MANAGED_MODELS_DB", str(tmp_path_factory.mktemp("registry") / "registry.sqlite"))


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder, laid out like ComfyUI's, with one demo model of each kind. Read only."""
    from managed_models.manager.demo import DEMO_MODELS, make_demo_model

    folder = tmp_path_factory.mktemp("tiny") / "models"
    for kind in DEMO_MODELS:
        make_demo_model(kind, folder)
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests met a real ComfyUI: a green run without one shows little."""
    from support.comfyui import describe_comfyui

    ran = skipped = 0
    for outcome, reports in terminalreporter.stats.items():
        for report in reports:
            if "comfyui" not in getattr(report, "keywords", {}):
                continue
            if outcome == "skipped":
                skipped += 1
            elif getattr(report, "when", "") == "call":
                ran += 1
    terminalreporter.section("ComfyUI")
    terminalreporter.write_line(describe_comfyui())
    terminalreporter.write_line(f"ComfyUI tests: {ran} ran, {skipped} skipped")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail a whole run that had a ComfyUI and used it for nothing (set by the CI script)."""
    import os

    from support.comfyui import find_comfyui

    if os.environ.get("MANAGED_MODELS_REQUIRE_COMFYUI_TESTS") != "1" or find_comfyui() is None:
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    reports = [r for group in reporter.stats.values() for r in group]
    if not any("comfyui" in getattr(r, "keywords", {}) and getattr(r, "when", "") == "call" for r in reports):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
