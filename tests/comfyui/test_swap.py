"""The button on a check's report that puts a variant in place of the model, in a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from managed_models.manager import AdvancedModelManager, ModelInfo, ModelManagerConfig, ModelType
from support.comfy_client import Client, node
from support.comfyui import ComfyUIServer
from support.page import find_chromium, open_page, queue, use_renderer

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SOURCE = "tiny_wan21_t2v_bf16.safetensors"
LARGE, SMALL = "swapped_bf16.safetensors", "swapped_int8.safetensors"
_BUILD = """nodes => {
  nodes.forEach(([type, values], i) => {
    const made = LiteGraph.createNode(type);
    app.graph.add(made);
    made.pos = [40 + (i % 3) * 440, 60 + Math.floor(i / 3) * 700];
    for (const [name, value] of Object.entries(values))
      made.widgets.find(w => w.name === name).value = value;
  });
}"""
# In the order in which they were made: a click brings a node to the front.
_CHOICES = """() => [...app.graph.nodes].sort((a, b) => a.id - b.id).map(n =>
  n.widgets.find(w => ["model_name", "unet_name"].includes(w.name)).value)"""


@pytest.fixture(scope="module")
def complaints() -> list[str]:
    return []


@pytest.fixture(scope="module")
def page(comfy_server: ComfyUIServer, client: Client, complaints: list[str]) -> Iterator[Page]:
    if find_chromium() is None:
        pytest.skip("NO Chromium was found: the page was not looked at")
    pytest.importorskip("playwright")
    folder = comfy_server.base / "models" / "diffusion_models"
    shutil.copy(folder / SOURCE, folder / LARGE)
    config = ModelManagerConfig(database_url=f"sqlite:///{comfy_server.base / 'registry.sqlite'}")
    manager = AdvancedModelManager(config)
    manager.register_model(ModelInfo("swapped", ModelType.DIFFUSION, folder / LARGE, min_ram_gb=9000.0))
    client.run({"small": node("QuantizeModel", model_name=LARGE, format="int8")})
    with open_page(comfy_server.url, complaints) as opened:
        yield opened
    manager.unregister_model("swapped")
    manager.close()
    for name in (LARGE, SMALL):
        (folder / name).unlink()


def build(page: Page, checked: str) -> None:
    page.evaluate("async () => { await app.extensionManager.command.execute('Comfy.NewBlankWorkflow') }")
    page.wait_for_function("() => app.graph.nodes.length === 0")
    page.evaluate(
        _BUILD,
        [
            ["CheckCompatibility", {"model_name": checked}],
            ["LoadManagedModel", {"model_name": LARGE}],
            ["UNETLoader", {"unet_name": LARGE}],
            ["UNETLoader", {"unet_name": SOURCE}],
        ],
    )
    page.wait_for_function("() => app.graph.nodes.length === 4")


def check(page: Page, client: Client) -> Any:
    """Run the check and wait until its report is on the node."""
    entry = client.wait(queue(page)["prompt_id"])
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"]
    page.wait_for_function(
        "() => [...document.querySelectorAll('.managed-models-report')]"
        ".some(e => e.textContent.includes('What it is'))",
        timeout=15_000,
    )
    return page.locator(".managed-models-action")


@pytest.mark.parametrize("nodes_2", [False, True], ids=["canvas", "nodes-2.0"])
def test_the_button_swaps_the_choice_in_the_graph(
    page: Page, client: Client, nodes_2: bool, tmp_path: Path
) -> None:
    use_renderer(page, nodes_2)
    build(page, LARGE)
    button = check(page, client)
    button.get_by_text(f"Use {SMALL}").wait_for(timeout=5000)
    assert button.count() == 1
    box = button.bounding_box()
    assert box is not None
    page.screenshot(path=tmp_path / "before.png")
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_function(f"() => ({_CHOICES})()[0] === '{SMALL}'", timeout=5000)
    assert page.evaluate(_CHOICES) == [SMALL, SMALL, SMALL, SOURCE]
    page.get_by_text("Ctrl+Z undoes it").wait_for(timeout=5000)
    asked = page.evaluate("async () => (await app.graphToPrompt()).output")
    assert [n["inputs"].get("model_name") for n in asked.values()][:2] == [SMALL, SMALL]
    if nodes_2:
        page.locator(".lg-node").get_by_text(SMALL).first.wait_for(timeout=5000)
    page.screenshot(path=tmp_path / "after.png")

    page.evaluate("async () => { await app.extensionManager.command.execute('Comfy.Undo') }")
    page.wait_for_function(f"() => ({_CHOICES})()[0] === '{LARGE}'", timeout=5000)
    assert page.evaluate(_CHOICES) == [LARGE, LARGE, LARGE, SOURCE]


def test_a_model_that_fits_has_no_button(page: Page, client: Client) -> None:
    use_renderer(page, False)
    build(page, SOURCE)
    assert check(page, client).count() == 0


def test_the_button_goes_with_the_reason_for_it(page: Page, client: Client) -> None:
    use_renderer(page, False)
    build(page, LARGE)
    button = check(page, client)
    button.get_by_text(f"Use {SMALL}").wait_for(timeout=5000)
    button.focus()
    page.keyboard.press("Enter")
    page.wait_for_function(f"() => ({_CHOICES})()[0] === '{SMALL}'", timeout=5000)
    client.wait(queue(page)["prompt_id"])
    button.wait_for(state="detached", timeout=10_000)


def test_a_node_inside_a_subgraph_is_swapped_too(page: Page, client: Client) -> None:
    use_renderer(page, False)
    build(page, LARGE)
    page.evaluate("""() => {
      const loader = app.graph.nodes.find(n => n.comfyClass === "UNETLoader");
      app.graph.convertToSubgraph(new Set([loader]));
    }""")
    check(page, client).get_by_text(f"Use {SMALL}").wait_for(timeout=5000)
    page.locator(".managed-models-action").focus()
    page.keyboard.press("Enter")
    inner = "() => [...app.rootGraph.subgraphs.values()][0].nodes[0].widgets[0].value"
    page.wait_for_function(f"() => ({inner})() === '{SMALL}'", timeout=5000)


def test_a_choice_that_comes_over_a_link_is_left_alone(page: Page, client: Client) -> None:
    use_renderer(page, False)
    build(page, LARGE)
    page.evaluate("""() => {
      const [check, loader] = app.graph.nodes;
      const slot = loader.inputs.findIndex(i => i.name === "model_name");
      check.connect(0, loader, slot);
    }""")
    check(page, client).get_by_text(f"Use {SMALL}").wait_for(timeout=5000)
    page.locator(".managed-models-action").focus()
    page.keyboard.press("Enter")
    page.wait_for_function(f"() => ({_CHOICES})()[0] === '{SMALL}'", timeout=5000)
    assert page.evaluate(_CHOICES) == [SMALL, LARGE, SMALL, SOURCE]


def test_the_page_had_nothing_to_complain_about(page: Page, complaints: list[str]) -> None:
    assert page.locator(".managed-models-report").count() > 0
    assert complaints == []
