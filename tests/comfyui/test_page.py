"""The panel and the reports on nodes, in a real browser on a real ComfyUI."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from managed_models.manager import AdvancedModelManager, ModelInfo, ModelManagerConfig, ModelType
from managed_models.manager.units import format_bytes
from support.comfy_client import Client, api_prompt, reports
from support.comfyui import ComfyUIServer
from support.page import find_chromium, open_page, open_panel, open_workflow, queue, use_renderer

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.browser,
    # Playwright leaves its own sockets to the collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "example_workflows" / "managed_models_demo.json"
WAN = "tiny_wan21_t2v_bf16.safetensors"


@pytest.fixture(scope="module")
def complaints() -> list[str]:
    return []


@pytest.fixture(scope="module")
def page(comfy_server: ComfyUIServer, complaints: list[str]) -> Iterator[Page]:
    if find_chromium() is None:
        pytest.skip("NO Chromium was found: the page was not looked at")
    pytest.importorskip("playwright")
    with open_page(comfy_server.url, complaints) as opened:
        yield opened


def test_the_panel_shows_what_the_route_says(page: Page, client: Client) -> None:
    open_panel(page)
    panel = page.locator("managed-models-panel")
    with page.expect_response(lambda answer: "/managed-models/status" in answer.url) as caught:
        pass
    status = caught.value.json()
    ram = status["memory"]["ram"]
    used = format_bytes(ram["total_bytes"] - ram["available_bytes"])
    panel.get_by_text(f"{used} of {format_bytes(ram['total_bytes'])}", exact=True).wait_for(timeout=1500)
    for words in (
        f"ComfyUI {status['system']['comfyui_version']}",
        f"PyTorch {status['system']['pytorch_version']}",
        f"Managed Models {status['version']}",
    ):
        assert words in panel.locator("#mm-versions").inner_text()


def test_the_panel_lists_every_file_with_its_version_and_a_newer_one(
    page: Page, client: Client, comfy_server: ComfyUIServer
) -> None:
    models = comfy_server.base / "models" / "diffusion_models"
    config = ModelManagerConfig(database_url=f"sqlite:///{comfy_server.base / 'registry.sqlite'}")
    manager = AdvancedModelManager(config)
    for version, file in (("1.0.0", "tiny_flux_bf16.safetensors"), ("1.10.0", "newer_flux.safetensors")):
        manager.register_model(ModelInfo("flux", ModelType.DIFFUSION, models / file, version=version))
    manager.close()
    open_panel(page)
    panel = page.locator("managed-models-panel")
    panel.get_by_role("button", name="Refresh model files").click()
    row = panel.locator("#mm-files li", has_text="tiny_flux_bf16.safetensors")
    row.get_by_text("Version 1.0.0, newer: 1.10.0").wait_for(timeout=5000)
    others = panel.locator("#mm-files li", has_text=WAN)
    assert "Version unknown" in others.first.inner_text()
    listed = {row["name"] for row in client.get("/managed-models/models").json()["models"]}
    assert panel.locator("#mm-files li").count() == len(listed)
    panel.get_by_label("Filter model files").fill("tiny_wan21_t2v_bf16")
    assert panel.locator("#mm-files li").count() == 1
    panel.get_by_label("Filter model files").fill("")


def test_the_page_queues_the_shipped_workflow_as_the_api_test_does(page: Page, client: Client) -> None:
    open_workflow(page, DEMO)
    asked = page.evaluate("async () => (await app.graphToPrompt()).output")
    by_page = {number: {"class_type": n["class_type"], "inputs": n["inputs"]} for number, n in asked.items()}
    assert by_page == api_prompt(json.loads(DEMO.read_text()), client)


@pytest.mark.parametrize("nodes_2", [False, True], ids=["canvas", "nodes-2.0"])
def test_each_node_shows_its_report(page: Page, client: Client, nodes_2: bool) -> None:
    use_renderer(page, nodes_2)
    open_workflow(page, DEMO)
    queued = queue(page)
    entry = client.wait(queued["prompt_id"])
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"]
    ours = [
        n for n, item in queued["output"].items() if "managed_models_report" in entry["outputs"].get(n, {})
    ]
    assert len(ours) == 6
    page.wait_for_function(
        "n => [...document.querySelectorAll('.managed-models-report')]"
        ".filter(e => !e.textContent.startsWith('The report appears')).length === n",
        arg=len(ours),
        timeout=15_000,
    )
    shown = page.locator(".managed-models-report").all_inner_texts()
    for number in ours:
        assert any(_same(reports(entry["outputs"], number), text) for text in shown), number
    box = page.locator(".managed-models-report").first.bounding_box()
    assert box is not None
    assert box["height"] >= 40
    assert box["width"] >= 100


def test_a_report_survives_a_switch_between_workflows(page: Page) -> None:
    use_renderer(page, False)
    boxes = page.locator(".managed-models-report")
    before = sorted(boxes.all_inner_texts())
    assert len(before) == 6
    page.evaluate("async () => { await app.extensionManager.command.execute('Comfy.NewBlankWorkflow') }")
    page.wait_for_function("() => app.rootGraph.nodes.length === 0")
    page.locator(".workflow-label", has_text=DEMO.stem).last.click()
    page.wait_for_function(
        "() => [...document.querySelectorAll('.managed-models-report')]"
        ".filter(e => !e.textContent.startsWith('The report appears')).length === 6",
        timeout=15_000,
    )
    assert sorted(boxes.all_inner_texts()) == before


def test_unload_answers_and_the_list_follows(page: Page, client: Client) -> None:
    open_panel(page)
    panel = page.locator("managed-models-panel")
    panel.locator("#mm-loaded li").first.wait_for(timeout=10_000)
    title = panel.locator("#mm-loaded li .mm-name").first.inner_text()
    panel.get_by_label(f"Unload {title}").first.click()
    panel.get_by_role("status").get_by_text(title).wait_for(timeout=5000)
    panel.get_by_role("button", name="Free everything").click()
    panel.get_by_text("None. Models appear here when a workflow has used them.").wait_for(timeout=15_000)
    assert client.get("/managed-models/status").json()["memory"]["models"] == []


def test_keys_typed_in_the_panel_do_not_reach_comfyuis_shortcuts(page: Page) -> None:
    open_panel(page)
    page.locator("managed-models-panel").get_by_role("button", name="Refresh model files").focus()
    page.keyboard.press("n")  # ComfyUI: open the node library
    page.wait_for_timeout(300)
    assert page.locator("managed-models-panel").is_visible()


def test_the_page_had_nothing_to_complain_about(page: Page, complaints: list[str]) -> None:
    assert page.locator("managed-models-panel").count() == 1
    assert complaints == []


def _same(report: str, shown: str) -> bool:
    """Compare the words; the browser folds the indentation."""
    return report.split() == shown.split()
