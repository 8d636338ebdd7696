"""Quantizing in a real ComfyUI: what its page hears meanwhile, and what a kill of the server leaves."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from managed_models.manager.demo import layouts
from managed_models.manager.demo.tiny import write_random_model
from managed_models.manager.formats.temporary import unfinished_paths
from support.comfy_client import Client, node, reports
from support.comfyui import ComfyUI, ComfyUIServer

pytestmark = pytest.mark.comfyui

ROOT = Path(__file__).resolve().parents[2]
LARGE = layouts.wan21_t2v(width=1024, ffn=4096, layers=10)
TEXT_EVENT = 3


def quantizing(name: str, **inputs: Any) -> dict[str, Any]:
    return {"quantize": node("QuantizeModel", model_name=name, **inputs)}


async def listen(client: Client, prompt: dict[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """Run a prompt as the page does, and return the progress events and the texts for the node."""
    events: list[dict[str, Any]] = []
    texts: list[str] = []
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{client.url}/ws?clientId=listener", max_msg_size=0) as socket,
    ):
        body = {"prompt": prompt, "client_id": "listener"}
        async with session.post(f"{client.url}/prompt", json=body) as answer:
            prompt_id = (await answer.json())["prompt_id"]
        async for message in socket:
            if message.type == aiohttp.WSMsgType.BINARY:
                if int.from_bytes(message.data[:4], "big") == TEXT_EVENT:
                    length = int.from_bytes(message.data[4:8], "big")
                    assert message.data[8 : 8 + length] == b"quantize"
                    texts.append(message.data[8 + length :].decode())
                continue
            if message.type != aiohttp.WSMsgType.TEXT:
                continue
            event = json.loads(message.data)
            if event["type"] == "managed_models.progress":
                events.append(event["data"])
            elif event["type"] in ("execution_success", "execution_error"):
                assert event["data"]["prompt_id"] == prompt_id
                assert event["type"] == "execution_success", event
                break
    return events, texts


def test_the_page_hears_bytes_layer_speed_and_stage(client: Client, diffusion_models: Path) -> None:
    source = diffusion_models / "large_bf16.safetensors"
    write_random_model(source, layouts.wan21_t2v(width=1024, ffn=4096, layers=2))
    try:
        events, texts = asyncio.run(listen(client, quantizing(source.name, output_name="heard")))
    finally:
        source.unlink()
        (diffusion_models / "heard.safetensors").unlink(missing_ok=True)
    assert {event["node"] for event in events} == {"quantize"}
    assert [event["text"] for event in events] == texts
    assert [event["done"] for event in events] == sorted(event["done"] for event in events)
    assert events[0]["stage"] == "converting"
    assert events[-1]["stage"] == "verifying"
    assert events[-1]["done"] == events[-1]["total"] > 50 << 20
    assert events[-1]["item"]
    assert events[-1]["bytes_per_second"] > 0
    assert texts[-1].startswith("Reading back what was written: ")


def test_a_killed_server_leaves_a_run_that_the_next_one_goes_on_with(
    comfyui: ComfyUI, tmp_path: Path
) -> None:
    models = tmp_path / "models" / "diffusion_models"
    models.mkdir(parents=True)
    source = models / "large_bf16.safetensors"
    write_random_model(source, LARGE)
    prompt = quantizing(source.name, output_name="out", format="int8", policy="everything")
    output = models / "out.safetensors"
    data, journal, _ = unfinished_paths(output)
    server = _server(comfyui, tmp_path)
    with server:
        client = Client(server.url, server.base)
        client.queue(prompt)
        deadline = time.monotonic() + 60
        while not journal.exists() or journal.stat().st_size < 20_000:
            assert not output.exists(), "it was too quick to be killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        os.kill(server.pid, signal.SIGKILL)
    assert data.exists()
    undisturbed = quantizing(source.name, output_name="undisturbed", format="int8", policy="everything")
    server = _server(comfyui, tmp_path)
    with server:
        client = Client(server.url, server.base)
        outputs = client.run(prompt)
        client.run(undisturbed)
    assert "done by an earlier run" in reports(outputs, "quantize")
    expected = output.with_name("undisturbed.safetensors")
    assert output.read_bytes() == expected.read_bytes()
    assert sorted(models.iterdir()) == sorted([source, output, expected])


def _server(comfyui: ComfyUI, base: Path) -> ComfyUIServer:
    environment = {"MANAGED_MODELS_DB": str(base / "registry.sqlite")}
    server = ComfyUIServer(comfyui, base, arguments=["--cpu"], environment=environment)
    shutil.rmtree(base / "custom_nodes", ignore_errors=True)
    server.install_extension(ROOT, "managed_models")
    return server
