"""The documents say what is there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from managed_models.manager.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
NODES = [
    "LoadManagedModel",
    "LoadManagedTextEncoder",
    "LoadManagedVAE",
    "CheckCompatibility",
    "QuantizeModel",
    "MemoryReport",
    "EmptyTextConditioning",
]


def _commands() -> list[str]:
    return [c.name or (c.callback.__name__ if c.callback else "") for c in app.registered_commands]


@pytest.mark.parametrize("command", _commands())
def test_every_command_is_in_the_readme(command: str) -> None:
    assert f"managed-models {command}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_names_no_command_that_is_not_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\s*managed-models ([a-z][a-z-]*)", text, re.MULTILINE))
    assert named <= set(_commands())


@pytest.mark.parametrize("node", NODES)
def test_every_node_has_its_page_and_is_in_the_readme(node: str) -> None:
    assert (ROOT / "web" / "docs" / f"{node}.md").is_file()
    assert node in (ROOT / "README.md").read_text(encoding="utf-8")


def test_links_between_documents_lead_somewhere() -> None:
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_the_architecture_page_names_what_exists() -> None:
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    for name in re.findall(r"`((?:manager|nodes|web|tests)/[\w/.]*)`", text):
        assert (ROOT / name).exists(), name


def test_the_shipped_workflow_names_only_our_nodes_and_stock_ones() -> None:
    workflow = json.loads((ROOT / "example_workflows" / "managed_models_demo.json").read_text())
    types = {node["type"] for node in workflow["nodes"]}
    stock = {"KSampler", "SaveLatent", "UNETLoader", "EmptyHunyuanLatentVideo", "MarkdownNote"}
    assert types - set(NODES) == stock
    assert {"CheckCompatibility", "QuantizeModel", "LoadManagedModel", "MemoryReport"} <= types


def test_only_the_entry_of_the_page_has_side_effects() -> None:
    # ComfyUI imports every file of web/ by itself.
    for path in (ROOT / "web").glob("*.js"):
        lines = path.read_text(encoding="utf-8").splitlines()
        acts = [line for line in lines if re.match(r"(app|api|document|window|customElements)\.", line)]
        assert bool(acts) == (path.name == "managed_models.js"), path.name
