"""The panel and the reports on nodes, in a real browser on a real ComfyUI."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from managed_models.manager import AdvancedModelManager, ModelInfo, ModelManagerConfig, ModelType
from managed_models.manager.units import GB, format_bytes
from support.comfy_client import SURROUNDINGS, Client, api_prompt, node, reports, sampler
from support.comfyui import ComfyUIServer
from support.page import find_chromium, open_page, open_panel, open_workflow, queue, use_renderer

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

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
FLUX = "tiny_flux_bf16.safetensors"


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
    panel.get_by_label("Search model files").fill("tiny_wan21_t2v_bf16")
    page.wait_for_function("() => document.querySelectorAll('#mm-files li').length === 1")
    panel.get_by_label("Search model files").fill("")


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
    panel.get_by_label(f"Unload {title}", exact=True).first.click()
    panel.get_by_role("status").get_by_text(title).wait_for(timeout=5000)
    panel.get_by_role("button", name="Free everything").click()
    panel.get_by_text("None. Models appear here when a workflow has used them.").wait_for(timeout=15_000)
    assert client.get("/managed-models/status").json()["memory"]["models"] == []


def load_wan(client: Client) -> str:
    """Load a model that nothing but the pool has afterwards, and return its title."""
    text = {"text": node("PrimitiveString", value="x"), "end": node("PreviewAny", source=["text", 0])}
    client.free()
    client.run(text)  # ComfyUI frees before or after this prompt, and before the next
    client.run(
        {"model": node("LoadManagedModel", model_name=WAN), "end": node("PreviewAny", source=["model", 3])}
    )
    client.run(text)  # the cache keeps the results of the last prompt only
    (model,) = loaded(client)
    assert (model["title"], model["pooled"], model["held"]) == (Path(WAN).stem, True, False)
    return Path(WAN).stem


def loaded(client: Client) -> list[dict[str, Any]]:
    return list(client.get("/managed-models/status").json()["memory"]["loaded"])


def test_a_model_is_pinned_and_unloaded_in_the_panel(page: Page, client: Client) -> None:
    title = load_wan(client)
    open_panel(page)
    panel = page.locator("managed-models-panel")
    row = panel.locator("#mm-loaded li", has_text=title)
    row.wait_for(timeout=10_000)
    (model,) = loaded(client)
    size = format_bytes(model["ram_bytes"])
    assert row.locator(".mm-place").inner_text() == f"{size} in RAM ({model['kind']})"
    assert ", stays " in row.locator(".mm-stay").inner_text()
    assert row.get_by_role("button", name="VRAM only").count() == 0  # nothing is on a device

    pin = row.get_by_role("button", name=f"Pin {title}")
    assert pin.get_attribute("aria-pressed") == "false"
    pin.focus()
    page.keyboard.press("Enter")
    panel.get_by_role("status").get_by_text(f"{title} is pinned").wait_for(timeout=5000)
    assert pin.get_attribute("aria-pressed") == "true"
    assert ", pinned" in row.locator(".mm-stay").inner_text()
    assert [m["pinned"] for m in loaded(client)] == [True]
    for _ in range(2):  # the focus outlives what is shown anew
        with page.expect_response(lambda answer: "/managed-models/status" in answer.url):
            pass
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == f"Pin {title}"
    page.keyboard.press("Enter")
    panel.get_by_role("status").get_by_text(f"{title} is not pinned any more").wait_for(timeout=5000)
    assert [m["pinned"] for m in loaded(client)] == [False]

    panel.get_by_label(f"Unload {title}", exact=True).focus()
    page.keyboard.press("Enter")
    given = panel.get_by_role("status").get_by_text(f"{title}: {size} of RAM given back.", exact=True)
    given.wait_for(timeout=5000)
    panel.get_by_text("None. Models appear here when a workflow has used them.").wait_for(timeout=5000)
    assert loaded(client) == []
    assert page.evaluate("document.activeElement.textContent") == "Free everything"


def test_an_unload_that_a_prompt_prevents_is_told_and_stays_told(page: Page, client: Client) -> None:
    title = load_wan(client)
    open_panel(page)
    panel = page.locator("managed-models-panel")
    refusal = {"error": {"code": "host_busy", "message": "A prompt is running.", "details": {}}}
    page.route("**/managed-models/unload", lambda route: route.fulfill(status=409, json=refusal))
    try:
        panel.get_by_label(f"Unload {title}", exact=True).click()
        told = panel.get_by_role("status").get_by_text("A prompt is running.")
        told.wait_for(timeout=5000)
        with page.expect_response(lambda answer: "/managed-models/status" in answer.url):
            pass
        page.wait_for_timeout(200)
        assert told.is_visible()
    finally:
        page.unroute("**/managed-models/unload")


def on_a_card(route: Route) -> None:
    """Answer as a machine does that has a card with most of the first model on it, and a warning."""
    answer = route.fetch().json()
    answer["memory"]["devices"] = [
        {
            "name": "Card",
            "backend": "cuda",
            "total_bytes": 24 * GB,
            "free_bytes": 4 * GB,
            "models_bytes": 2 * GB,
        }
    ]
    answer["memory"]["loaded"][0].update(kind="dynamic", device="cuda:0", loaded_bytes=2 * GB, busy=True)
    answer["memory"]["notices"] = ["VRAM is nearly used up."]
    route.fulfill(json=answer)


def test_what_is_on_a_card_can_leave_it_alone(page: Page, client: Client) -> None:
    title = load_wan(client)
    open_panel(page)
    panel = page.locator("managed-models-panel")
    asked: list[Any] = []

    def keep(route: Route) -> None:
        asked.append(route.request.post_data_json)
        route.continue_()

    page.route("**/managed-models/status", on_a_card)
    page.route("**/managed-models/unload", keep)
    try:
        row = panel.locator("#mm-loaded li", has_text=title)
        row.get_by_text("2.0 GB in VRAM (cuda:0)").wait_for(timeout=10_000)
        assert row.locator(".mm-stay").inner_text() == "In use"
        panel.locator(".mm-notice").get_by_text("VRAM is nearly used up.").wait_for(timeout=5000)
        (model,) = loaded(client)
        row.get_by_role("button", name=f"Unload {title} from VRAM only").focus()
        page.keyboard.press("Enter")
        panel.get_by_role("status").get_by_text("Nothing was in VRAM.").wait_for(timeout=5000)
        panel.get_by_role("button", name="Free VRAM").click()
        panel.get_by_role("status").get_by_text("1 model: Nothing was in VRAM.").wait_for(timeout=5000)
        assert asked == [{"id": model["id"], "vram_only": True}, {"all": True, "vram_only": True}]
        row.get_by_role("button", name=f"Unload {title} from VRAM only").focus()
    finally:
        page.unroute("**/managed-models/status")
        page.unroute("**/managed-models/unload")
    # The button that had the focus goes; the focus stays in the row.
    row.get_by_role("button", name="VRAM only").wait_for(state="hidden", timeout=10_000)
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == f"Unload {title}"
    assert panel.get_by_text("VRAM is nearly used up.").count() == 0


@pytest.mark.parametrize("nodes_2", [False, True], ids=["canvas", "nodes-2.0"])
def test_the_memory_report_frees_memory(page: Page, client: Client, nodes_2: bool) -> None:
    use_renderer(page, nodes_2)
    open_workflow(page, DEMO)
    load_wan(client)
    free = page.locator(".managed-models-action")
    assert free.all_inner_texts() == ["Free memory"]
    free.focus()
    page.keyboard.press("Enter")
    page.wait_for_function(
        "() => [...document.querySelectorAll('.managed-models-report')]"
        ".some(e => e.textContent.includes('of RAM given back.'))",
        timeout=15_000,
    )
    assert loaded(client) == []
    workflow = page.evaluate("async () => JSON.stringify((await app.graphToPrompt()).workflow)")
    assert "given back" not in workflow
    assert "Free memory" not in workflow


def test_a_setting_of_the_dialog_reaches_the_running_server(page: Page, client: Client) -> None:
    def sharing() -> str:
        return str(client.get("/managed-models/status").json()["sharing"])

    choose = "value => app.extensionManager.setting.set('managed_models.share_stock_loaders', value)"
    assert "measured to hold" in sharing()
    try:
        page.evaluate(choose, "off")
        page.locator("#mm-sharing").get_by_text("set to off").wait_for()
        assert "set to off" in sharing()
        before = len((client.base / "probe.jsonl").read_text().splitlines())
        for seed in range(2):
            for kind, name in (("wan", WAN), ("flux", FLUX)):
                loader = node("UNETLoader", unet_name=name, weight_dtype="fp8_e5m2")
                client.run({"model": loader, **SURROUNDINGS[kind], **sampler(["model", 0], f"off{seed}")})
        notes = (client.base / "probe.jsonl").read_text().splitlines()[before:]
        assert sum('"read"' in note for note in notes) == 4, "every switch reads, as without us"
    finally:
        page.evaluate(choose, "auto")
    page.locator("#mm-sharing").get_by_text("measured to hold").wait_for()


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
