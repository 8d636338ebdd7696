"""The panel's downloads and the question on first use, in a real browser on a real ComfyUI."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from managed_models.manager.route_guard import OWN_HEADER
from support.comfy_client import Client
from support.comfyui import ComfyUIServer
from support.page import find_chromium, open_page, open_panel
from support.range_server import Server, send_range

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page, Route

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.browser,
    # Playwright leaves its own sockets to the collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
GUARD = {OWN_HEADER: "1"}
WAN = "tiny_wan21_t2v_bf16.safetensors"
FLUX = "tiny_flux_bf16.safetensors"
HF = "https://huggingface.co"


@pytest.fixture(scope="module")
def complaints() -> list[str]:
    return []


@pytest.fixture(scope="module")
def page(mirrored_server: ComfyUIServer, complaints: list[str]) -> Iterator[Page]:
    if find_chromium() is None:
        pytest.skip("NO Chromium was found: the page was not looked at")
    pytest.importorskip("playwright")
    with open_page(mirrored_server.url, complaints) as opened:
        yield opened


@pytest.fixture
def client(mirrored_server: ComfyUIServer) -> Iterator[Client]:
    client = Client(mirrored_server.url, mirrored_server.base)
    yield client
    for row in client.get("/managed-models/downloads").json()["downloads"]:
        client.post("/managed-models/download/cancel", {"id": row["id"]}, **GUARD)
    for path in (mirrored_server.base / "models").rglob("*.safetensors"):
        path.unlink()
    catalogue(client).unlink(missing_ok=True)


def catalogue(client: Client) -> Path:
    return client.base / "user" / "__managed_models" / "catalogue.json"


def offer(mirror: Server, file: Path, name: str) -> dict[str, str]:
    path = f"/owner/repo/resolve/main/{name}"
    mirror.special.pop(path, None)
    mirror.add(path, file)
    return {"name": name, "directory": "diffusion_models", "url": f"{HF}{path}"}


def show_workflow(page: Page, *nodes: dict[str, Any]) -> None:
    """Load a workflow of these nodes, and close what ComfyUI says about it by itself."""
    document = {
        "last_node_id": len(nodes),
        "last_link_id": 1,
        "nodes": [
            {
                "id": i + 1,
                "pos": [60 + 420 * i, 120],
                "size": [380, 120],
                "flags": {},
                "order": i,
                "mode": 0,
                "inputs": [],
                "outputs": [],
                "properties": {},
                **node,
            }
            for i, node in enumerate(nodes)
        ],
        "links": [],
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }
    page.evaluate("async w => { await app.loadGraphData(w, true, true, 'needs') }", document)
    page.wait_for_function("n => app.rootGraph.nodes.length === n", arg=len(nodes))


def loader(item: dict[str, str]) -> dict[str, Any]:
    return {
        "type": "UNETLoader",
        "widgets_values": [item["name"], "default"],
        "properties": {"models": [item]},
        "outputs": [{"name": "MODEL", "type": "MODEL", "links": None}],
    }


def panel_of(page: Page) -> Locator:
    open_panel(page)
    return page.locator("managed-models-panel")


def confirm(page: Page, yes: bool) -> str:
    """Answer the one question, and return what it said."""
    dialog = page.get_by_role("dialog")
    dialog.wait_for(timeout=15_000)
    words = str(dialog.inner_text())
    if yes:
        dialog.get_by_role("button", name="Confirm").click()
    else:
        page.keyboard.press("Escape")
    dialog.wait_for(state="detached", timeout=5000)
    return words


def test_a_workflow_is_completed_in_the_panel(
    page: Page, client: Client, mirror: Server, tiny_models: Path
) -> None:
    models = client.base / "models" / "diffusion_models"
    shutil.copy(tiny_models / "diffusion_models" / FLUX, models / FLUX)
    wan = offer(mirror, tiny_models / "diffusion_models" / WAN, WAN)
    show_workflow(page, loader(wan), loader({**wan, "name": FLUX}))
    panel = panel_of(page)
    before = len(mirror.seen)
    panel.get_by_role("button", name="What does it need?").click()
    panel.get_by_text("1 of 2 models missing; all can be fetched (size not known yet).").wait_for(
        timeout=10_000
    )
    rows = panel.locator("#mm-needs li").all_inner_texts()
    assert rows[0].startswith(f"{WAN} (diffusion_models)")
    assert "Missing" in rows[0]
    assert "from huggingface.co/owner/repo (named by the workflow)" in rows[0]
    assert rows[1].startswith(f"{FLUX} (diffusion_models, ")
    assert "suits this machine" in rows[1]
    assert len(mirror.seen) == before
    panel.get_by_role("button", name="Ask for sizes").click()
    fetch = panel.get_by_role("button", name="Fetch 1 missing (39 MB)")
    fetch.wait_for(timeout=10_000)

    fetch.click()
    words = confirm(page, yes=False)
    assert f"diffusion_models/{WAN}: 39 MB, from {wan['url']}, named by the workflow" in words
    assert not (models / WAN).exists()
    fetch.click()
    confirm(page, yes=True)
    panel.get_by_role("status").get_by_text(f"{WAN} is here.").wait_for(timeout=30_000)
    panel.get_by_text("Everything is here: 2 models.").wait_for(timeout=10_000)
    assert (models / WAN).read_bytes() == (tiny_models / "diffusion_models" / WAN).read_bytes()
    assert fetch.is_hidden()
    row = panel.locator("#mm-downloads li", has_text=WAN)
    assert "39 MB, done" in row.inner_text()
    # The node's own list has it without a reload of the page.
    page.wait_for_function(
        "name => app.rootGraph.nodes[0].widgets[0].options.values.includes(name)", arg=WAN, timeout=10_000
    )
    assert WAN in panel.locator("#mm-files").inner_text()


def test_a_download_is_paused_resumed_and_cancelled(
    page: Page, client: Client, mirror: Server, tiny_models: Path
) -> None:
    file = tiny_models / "diffusion_models" / WAN
    item = offer(mirror, file, "slow.safetensors")
    path = item["url"].removeprefix(HF)
    open_end = {"slow": True}

    def slowly(handler: BaseHTTPRequestHandler) -> None:
        match = handler.headers.get("Range", "")
        total = file.stat().st_size
        if not match.endswith("-"):
            send_range(handler, file, mirror)
            return
        first = int(match.removeprefix("bytes=").removesuffix("-"))
        handler.send_response(206)
        handler.send_header("ETag", '"one"')
        handler.send_header("Content-Range", f"bytes {first}-{total - 1}/{total}")
        handler.send_header("Content-Length", str(total - first))
        handler.end_headers()
        with open(file, "rb") as source:
            source.seek(first)
            while block := source.read(1 << 16):
                handler.wfile.write(block)
                if open_end["slow"]:
                    time.sleep(0.25)

    mirror.answer(path, slowly)
    show_workflow(page, loader(item))
    panel = panel_of(page)
    panel.get_by_role("button", name="What does it need?").click()
    panel.get_by_role("button", name="Fetch 1 missing").click()
    confirm(page, yes=True)
    row = panel.locator("#mm-downloads li", has_text="slow.safetensors")
    row.get_by_text("MB/s").or_(row.get_by_text("KB/s")).wait_for(timeout=15_000)
    bar = row.get_by_role("progressbar", name="Download of slow.safetensors")
    assert 0 < float(bar.get_attribute("value") or 0) < 1
    row.get_by_role("button", name="Pause slow.safetensors").focus()
    page.keyboard.press("Enter")
    row.get_by_text(", paused").wait_for(timeout=10_000)
    # The button that had the focus is gone; its counterpart has it.
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Resume slow.safetensors"
    open_end["slow"] = False
    page.keyboard.press("Enter")
    panel.get_by_role("status").get_by_text("slow.safetensors is here.").wait_for(timeout=30_000)
    open_end["slow"] = True
    (client.base / "models" / "diffusion_models" / "slow.safetensors").unlink()

    panel.get_by_role("button", name="What does it need?").click()
    panel.get_by_role("button", name="Fetch 1 missing").click()
    confirm(page, yes=True)
    row.get_by_role("button", name="Cancel slow.safetensors").click()
    row.wait_for(state="detached", timeout=10_000)
    assert list((client.base / "models").rglob("slow*")) == []


def test_a_failed_download_says_what_to_do(
    page: Page, client: Client, mirror: Server, tiny_models: Path
) -> None:
    item = {
        "name": "gone.safetensors",
        "directory": "diffusion_models",
        "url": f"{HF}/o/r/resolve/main/gone.safetensors",
    }
    show_workflow(page, loader(item))
    panel = panel_of(page)
    panel.get_by_role("button", name="What does it need?").click()
    panel.get_by_role("button", name="Fetch 1 missing").click()
    confirm(page, yes=True)
    row = panel.locator("#mm-downloads li", has_text="gone.safetensors")
    row.get_by_text("does not exist (404). Check its path").wait_for(timeout=30_000)
    mirror.add("/o/r/resolve/main/gone.safetensors", tiny_models / "diffusion_models" / WAN)
    row.get_by_role("button", name="Try again gone.safetensors").click()
    panel.get_by_role("status").get_by_text("gone.safetensors is here.").wait_for(timeout=30_000)


def test_a_file_that_is_there_at_once_is_noticed_too(
    page: Page, client: Client, mirror: Server, tiny_models: Path
) -> None:
    item = offer(mirror, tiny_models / "diffusion_models" / WAN, WAN)
    show_workflow(page, loader(item))
    panel = panel_of(page)
    panel.get_by_role("button", name="What does it need?").click()

    def answer_when_done(route: Route) -> None:
        response = route.fetch()
        deadline = time.monotonic() + 30
        while not (client.base / "models" / "diffusion_models" / WAN).exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.3)
        route.fulfill(response=response)

    page.route("**/managed-models/needs/fetch", answer_when_done)
    try:
        panel.get_by_role("button", name="Fetch 1 missing").click()
        confirm(page, yes=True)
        panel.get_by_text("Everything is here: 1 model.").wait_for(timeout=30_000)
        assert "done" in panel.locator("#mm-downloads li", has_text=WAN).inner_text()
    finally:
        page.unroute("**/managed-models/needs/fetch")


def use_ours(page: Page, name: str) -> None:
    """Show a workflow that runs with one of our loaders, of a model that may not be here."""
    show_workflow(
        page,
        {
            "type": "LoadManagedModel",
            "widgets_values": [name],
            "outputs": [
                {"name": "MODEL", "type": "MODEL", "links": None},
                {"name": "CLIP", "type": "CLIP", "links": None},
                {"name": "VAE", "type": "VAE", "links": None},
                {"name": "report", "type": "STRING", "links": None},
            ],
        },
        {"type": "PreviewAny", "inputs": [{"name": "source", "type": "*", "link": None}]},
    )
    page.evaluate("() => { const [a, b] = app.rootGraph.nodes; a.connect(3, b, 0); }")


def test_one_question_on_first_use_fetches_and_runs_the_workflow(
    page: Page, client: Client, mirror: Server, tiny_models: Path
) -> None:
    item = offer(mirror, tiny_models / "diffusion_models" / WAN, WAN)
    catalogue(client).parent.mkdir(parents=True, exist_ok=True)
    catalogue(client).write_text(json.dumps({"models": [item]}))
    use_ours(page, WAN)
    before = len(client.get("/history").json())
    page.evaluate("() => { void app.queuePrompt(0, 1) }")
    assert "The workflow then runs." in confirm(page, yes=False)
    assert not (client.base / "models" / "diffusion_models" / WAN).exists()
    assert len(client.get("/history").json()) == before
    page.evaluate("() => { void app.queuePrompt(0, 1) }")
    assert WAN in confirm(page, yes=True)
    deadline = time.monotonic() + 60
    while len(client.get("/history").json()) == before:
        assert time.monotonic() < deadline, "the workflow was not queued again"
        page.wait_for_timeout(100)  # lets the page's requests through, unlike sleep
    entry = list(client.get("/history").json().values())[-1]
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"]


def test_the_question_also_comes_when_a_node_finds_out_as_it_runs(
    page: Page, client: Client, mirror: Server, tiny_models: Path
) -> None:
    item = offer(mirror, tiny_models / "diffusion_models" / WAN, WAN)
    catalogue(client).parent.mkdir(parents=True, exist_ok=True)
    catalogue(client).write_text(json.dumps({"models": [item]}))
    use_ours(page, WAN)
    linked = {
        "1": {"class_type": "NameModel", "inputs": {"name": WAN}},
        "2": {"class_type": "LoadManagedModel", "inputs": {"model_name": ["1", 0]}},
        "3": {"class_type": "PreviewAny", "inputs": {"source": ["2", 3]}},
    }
    page.evaluate(
        "async output => { await app.api.queuePrompt(0, { output, workflow: app.rootGraph.serialize() }) }",
        linked,
    )
    assert WAN in confirm(page, yes=False)


def test_another_clients_refusal_asks_nobody_here(
    page: Page, client: Client, mirror: Server, tiny_models: Path
) -> None:
    item = offer(mirror, tiny_models / "diffusion_models" / WAN, WAN)
    catalogue(client).parent.mkdir(parents=True, exist_ok=True)
    catalogue(client).write_text(json.dumps({"models": [item]}))
    page.wait_for_function(
        "async () => { await new Promise(r => setTimeout(r, 300)); return true }", timeout=5000
    )
    page.evaluate("() => { performance.now = () => 1e9 }")  # long after the last click on Run
    prompt = {
        "1": {"class_type": "LoadManagedModel", "inputs": {"model_name": WAN}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 3]}},
    }
    assert "is not here" in client.refused(prompt)
    page.wait_for_timeout(800)
    assert page.get_by_role("dialog").count() == 0
    page.evaluate("() => { delete performance.now }")


def damaged(route: Route) -> None:
    answer = route.fetch().json()
    for row in answer["models"]:
        row.update(health="damaged", health_words="Verified: damaged")
    route.fulfill(json=answer)


def test_a_damaged_file_is_fetched_again(
    page: Page, client: Client, mirror: Server, tiny_models: Path
) -> None:
    item = offer(mirror, tiny_models / "diffusion_models" / WAN, WAN)
    catalogue(client).parent.mkdir(parents=True, exist_ok=True)
    catalogue(client).write_text(json.dumps({"models": [item]}))
    path = client.base / "models" / "diffusion_models" / WAN
    path.write_bytes((tiny_models / "diffusion_models" / WAN).read_bytes()[:-100] + b"\0" * 100)
    panel = panel_of(page)
    page.route("**/managed-models/models?*", damaged)
    try:
        panel.get_by_role("button", name="Refresh model files").click()
        row = panel.locator("#mm-files li", has_text=WAN)
        row.get_by_text("Verified: damaged").wait_for(timeout=5000)
        row.get_by_role("button", name=f"Fetch {WAN} again").click()
        panel.get_by_text("the damaged file stays until the new one is whole").wait_for(timeout=10_000)
    finally:
        page.unroute("**/managed-models/models?*")
    deadline = time.monotonic() + 30
    while path.read_bytes() != (tiny_models / "diffusion_models" / WAN).read_bytes():
        assert time.monotonic() < deadline, "the file was not replaced"
        page.wait_for_timeout(100)
    assert sorted(p.name for p in path.parent.iterdir() if p.suffix == ".safetensors") == [WAN]


def test_files_are_searched_by_the_server_and_shown_a_page_at_a_time(page: Page, client: Client) -> None:
    folder = client.base / "models" / "loras"
    for i in range(120):
        (folder / f"style_{i:03}.safetensors").write_bytes(b"")
    panel = panel_of(page)
    panel.get_by_role("button", name="Refresh model files").click()
    rows = panel.locator("#mm-files li")
    panel.get_by_text("50 of 120 files").wait_for(timeout=10_000)
    assert rows.count() == 50
    panel.get_by_role("button", name="Show more").click()
    panel.get_by_text("100 of 120 files").wait_for(timeout=10_000)
    assert len(set(rows.all_inner_texts())) == 100
    search = panel.get_by_label("Search model files")
    search.fill("style_11")
    page.wait_for_function("() => document.querySelectorAll('#mm-files li').length === 10", timeout=10_000)
    assert panel.get_by_role("button", name="Show more").is_hidden()
    search.fill("nothing like it")
    panel.get_by_text("No file fits.").wait_for(timeout=10_000)
    search.fill("")


def test_what_is_here_is_chosen_in_place_of_what_is_not(
    page: Page, client: Client, mirror: Server, tiny_models: Path
) -> None:
    folder = client.base / "models" / "diffusion_models" / "mine"
    folder.mkdir(exist_ok=True)
    shutil.copy(tiny_models / "diffusion_models" / WAN, folder / WAN)
    show_workflow(page, loader(offer(mirror, folder / WAN, WAN)))
    panel = panel_of(page)
    panel.get_by_role("button", name="What does it need?").click()
    row = panel.locator("#mm-needs li", has_text=WAN)
    row.get_by_text("in another sub-folder: diffusion_models/mine/").wait_for(timeout=10_000)
    row.get_by_role("button", name=f"Use mine/{WAN} instead of {WAN}").click()
    panel.get_by_text("Everything is here: 1 model.").wait_for(timeout=10_000)
    assert page.evaluate("() => app.rootGraph.nodes[0].widgets[0].value") == f"mine/{WAN}"
    told = panel.get_by_role("status").inner_text()
    assert told.startswith(f"Now mine/{WAN}: unet_name of ")


def test_what_the_panel_said_of_a_workflow_outlives_the_panel(page: Page, client: Client) -> None:
    show_workflow(page, {"type": "VAELoader", "widgets_values": ["nowhere.safetensors"]})
    panel = panel_of(page)
    panel.get_by_role("button", name="What does it need?").click()
    panel.get_by_text("1 of 1 model missing; no address is known.").wait_for(timeout=10_000)
    page.locator(".managed-models-tab-button").click()
    panel.wait_for(state="detached")
    panel_of(page).get_by_text("1 of 1 model missing; no address is known.").wait_for(timeout=5000)


def test_the_page_had_nothing_to_complain_about(page: Page, complaints: list[str]) -> None:
    assert page.locator("managed-models-panel").count() == 1
    assert complaints == []
