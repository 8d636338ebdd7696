"""Addresses and GGUF files in a real ComfyUI."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from managed_models.manager.demo import layouts
from managed_models.manager.report import render_check
from support.comfy_client import Client, node
from support.gguf_files import gguf_file

pytestmark = pytest.mark.comfyui

WAN = "tiny_wan21_t2v_bf16.safetensors"
LAYOUT = layouts.wan21_t2v(width=256, ffn=512, layers=2)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://127.0.0.1/a.safetensors", "one of its own network"),
        ("https://localhost:8188/a.safetensors", "one of its own network"),
        ("https://[::ffff:192.168.1.1]/a.safetensors", "one of its own network"),
        ("http://example.com/a.safetensors", "not encrypted"),
        ("/etc/passwd", "is no address"),
        ("hf:owner/repository", "is no file on Hugging Face"),
        ("https://me:secret@example.com/a", "name or password"),
    ],
)
def test_an_address_that_may_not_be_asked_is_refused_before_anything_runs(
    client: Client, url: str, words: str
) -> None:
    refusal = client.refused({"check": node("CheckCompatibility", model_name=WAN, url=url)})
    assert words in refusal
    assert "secret" not in refusal


def test_an_address_over_a_link_is_looked_at_when_the_node_runs(client: Client) -> None:
    """Validation does not see what comes over a link."""
    prompt = {
        "url": node("PrimitiveString", value="https://127.0.0.1:9/a.safetensors"),
        "check": node("CheckCompatibility", model_name=WAN, url=["url", 0]),
    }
    message = client.fails(prompt)["exception_message"]
    assert "one of its own network" in message
    assert "Give a public https:// address" in message


def test_the_route_takes_no_address(client: Client) -> None:
    answer = client.post(
        "/managed-models/check",
        {"model": "https://example.com/a.safetensors?token=secret"},
        **{"X-Managed-Models": "1"},
    )
    assert answer.status_code == 400, answer.text
    assert "is an address" in answer.json()["error"]["message"]
    assert "secret" not in answer.text


def test_a_gguf_file_is_judged_in_the_node(client: Client, diffusion_models: Path) -> None:
    file = gguf_file(diffusion_models / "tiny_wan-Q4_K.gguf", LAYOUT, "wan")
    try:
        options = client.object_info("CheckCompatibility")["input"]["required"]["model_name"]
        assert "tiny_wan-Q4_K.gguf" in json.dumps(options)
        assert "gguf" not in json.dumps(client.object_info("LoadManagedModel")["input"]["required"])
        prompt = {
            "check": node("CheckCompatibility", model_name=file.name),
            "compatible": node("PreviewAny", source=["check", 1]),
            "details": node("PreviewAny", source=["check", 3]),
        }
        outputs = client.run(prompt)
    finally:
        file.unlink()
    details: dict[str, Any] = json.loads(outputs["details"]["text"][0])
    assert details["identity"]["architecture"] == "wan-t2v"
    assert details["identity"]["detected_by"].startswith("ComfyUI")
    assert details["identity"]["quantization"] == "gguf"
    assert outputs["compatible"]["text"] == ["False"]  # nothing here loads it
    report = outputs["check"]["managed_models_report"][0]
    assert "ComfyUI-GGUF, which is not installed" in report
    assert report == render_check(details)
