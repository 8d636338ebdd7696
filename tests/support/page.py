"""ComfyUI's page in a real browser."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Page

_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_QUEUE = """async () => {
  const { output, workflow } = await app.graphToPrompt();
  const { prompt_id, node_errors } = await app.api.queuePrompt(0, { output, workflow });
  return { prompt_id, node_errors, output };
}"""


def find_chromium() -> str | None:
    """Return the browser of this machine, None when there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


@contextmanager
def open_page(url: str, complaints: list[str]) -> Iterator[Page]:
    """Open ComfyUI's page with every other host blocked; errors that name us go to ``complaints``."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=_ARGUMENTS)
        context = browser.new_context(viewport={"width": 1700, "height": 1000}, reduced_motion="reduce")
        context.route(
            lambda address: not address.startswith((url, "data:", "blob:")), lambda route: route.abort()
        )
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda message: (
                complaints.append(message.text)
                if message.type in ("error", "warning") and "managed" in message.text.lower()
                else None
            ),
        )
        page.goto(url, wait_until="domcontentloaded")
        page.wait_for_function("() => window.app?.vueAppReady && window.app.api?.clientId", timeout=90_000)
        page.wait_for_selector("#splash-loader", state="detached", timeout=30_000)
        yield page
        browser.close()


def open_workflow(page: Page, path: Path) -> None:
    """Load a workflow file into the page."""
    workflow = json.loads(path.read_text(encoding="utf-8"))
    page.evaluate(
        "async ([wf, name]) => { await app.loadGraphData(wf, true, true, name) }", [workflow, path.stem]
    )
    page.wait_for_function("n => app.rootGraph.nodes.length === n", arg=len(workflow["nodes"]))


def use_renderer(page: Page, nodes_2: bool) -> None:
    """Draw nodes on the canvas, or as elements of the page (Nodes 2.0)."""
    page.evaluate(
        "async on => { await app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on) }", nodes_2
    )


def queue(page: Page) -> dict[str, Any]:
    """Queue what the page shows, as its Run button does."""
    found: dict[str, Any] = page.evaluate(_QUEUE)
    assert not found["node_errors"], found["node_errors"]
    return found


def open_panel(page: Page) -> None:
    """Open our sidebar tab, unless it is open."""
    if page.locator("managed-models-panel").count() == 0:
        page.locator(".managed-models-tab-button").click()
    page.locator("managed-models-panel").wait_for(state="visible")
