"""The monitor in a real ComfyUI: what a prompt leaves in the report, the registry and the log."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.comfy_client import SURROUNDINGS, Client, node, sampler

pytestmark = pytest.mark.comfyui

WAN = "tiny_wan21_t2v_bf16.safetensors"


def sampling(name: str, seed: int) -> dict[str, Any]:
    prompt = {
        "model": node("LoadManagedModel", model_name=WAN),
        **SURROUNDINGS["wan"],
        **sampler(["model", 0], name),
    }
    prompt[name]["inputs"]["seed"] = seed
    return prompt


def report(client: Client, **inputs: Any) -> tuple[dict[str, Any], str]:
    """Run a MemoryReport and return its details and its words."""
    outputs = client.run(
        {
            "memory": node("MemoryReport", **inputs),
            "details": node("PreviewAny", source=["memory", 2]),
        }
    )
    assert outputs["memory"]["images"], "the chart is shown on the node"
    return json.loads(outputs["details"]["text"][0]), outputs["memory"]["managed_models_report"][0]


def test_a_prompt_that_sampled_shows_in_the_report(client: Client) -> None:
    client.run(sampling("monitored", seed=11))
    details, words = report(client, history_seconds=600)
    history = details["history"]
    assert history["seconds"] == 600
    assert history["samples"] >= 3  # at its start, while it sampled, at its end
    assert any(history["points"]["busy"])
    assert 0 < history["ram_peak_bytes"] <= details["ram"]["total_bytes"]
    assert history["anonymous_peak_bytes"] > 0
    assert "At most in the last 10 min" in words
    model = next(m for m in details["models"] if m["title"] == Path(WAN).stem and m["pooled"])
    assert (model["kind"], model["device"], model["pinned"]) == ("static", "cpu", False)
    assert model["held"] in (True, False)
    assert model["idle_seconds"] >= 0
    assert "Last used" in words or "In use by the running prompt" in words
    assert (details["warning"], details["post_mortem"]) == (None, None)


@pytest.mark.parametrize("seconds", [10, 3600])
def test_how_far_back_is_a_choice(client: Client, seconds: int) -> None:
    assert report(client, history_seconds=seconds)[0]["history"]["seconds"] == seconds


def test_the_peak_of_a_prompt_is_kept(client: Client) -> None:
    client.run(sampling("peaks", seed=12))
    deadline = time.monotonic() + 30
    found: list[tuple[Any, ...]] = []
    while not found and time.monotonic() < deadline:
        with sqlite3.connect(f"file:{client.base / 'registry.sqlite'}?mode=ro", uri=True) as database:
            query = "SELECT path, shape, device, comfyui_version, vram_bytes, ram_bytes FROM peaks"
            found = [row for row in database.execute(query) if row[0].endswith(WAN)]
        database.close()
        time.sleep(0.05)
    assert found, "nothing was kept of a prompt that sampled"
    path, shape, device, version, vram, ram = found[0]
    assert Path(path).name == WAN
    assert shape == "1x16x2x16x16"
    assert (device, vram) == ("cpu", None)
    assert version.startswith("0.")
    assert ram is None or ram >= 0


def test_memory_that_ran_out_is_explained(client: Client) -> None:
    try:
        np.empty(4 << 40, np.uint8)
    except MemoryError:
        pass
    else:
        pytest.skip("this system hands out memory that it does not have")
    huge = {
        "image": node("EmptyImage", width=16384, height=16384, batch_size=4096, color=0),
        "shown": node("SaveImage", images=["image", 0], filename_prefix="never"),
    }
    error = client.fails(huge)
    assert "memory" in error["exception_message"]
    details, words = _eventually(client, "post_mortem")
    found = details["post_mortem"]
    assert (found["memory"], found["node"], found["node_type"]) == ("RAM", "image", "EmptyImage")
    assert "RAM ran out" in words
    assert "at EmptyImage (node image). Just before:" in words
    log = (client.base / "comfyui.log").read_text(errors="replace")
    assert log.count("RAM ran out at EmptyImage") == 1


def _eventually(client: Client, key: str) -> tuple[dict[str, Any], str]:
    deadline = time.monotonic() + 30
    while True:
        details, words = report(client)
        if details[key] is not None or time.monotonic() > deadline:
            assert details[key] is not None
            return details, words
