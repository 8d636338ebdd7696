"""What a person can get wrong at a node: each is told what to do, and nothing is left half-written."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from support.comfy_client import Client, node
from support.files import raw_file, shapes_file

pytestmark = pytest.mark.comfyui

WAN = "tiny_wan21_t2v_bf16.safetensors"


@pytest.fixture(autouse=True)
def _nothing_half_written(diffusion_models: Path) -> Any:
    before = set(diffusion_models.iterdir())
    yield
    left = [path for path in set(diffusion_models.iterdir()) - before if ".mmpart" in path.name]
    assert not left


@pytest.mark.parametrize("name", ["LoadManagedModel", "CheckCompatibility", "QuantizeModel"])
def test_an_unknown_model_is_refused_before_anything_runs(client: Client, name: str) -> None:
    words = client.refused({"node": node(name, model_name="tiny_wan21.safetensors"), **_end("node")})
    assert "There is no model 'tiny_wan21.safetensors'" in words
    assert "Did you mean" in words
    assert WAN in words


@pytest.mark.parametrize(
    "model_name",
    ["/etc/passwd", "../../../etc/passwd", "C:\\models\\a.safetensors", "https://host/a.safetensors"],
)
def test_a_name_that_leaves_the_model_folders_is_refused(client: Client, model_name: str) -> None:
    for name in ("LoadManagedModel", "CheckCompatibility", "QuantizeModel"):
        words = client.refused({"node": node(name, model_name=model_name), **_end("node")})
        assert "outside the model folders" in words or "network" in words


@pytest.mark.parametrize("name", ["LoadManagedModel", "QuantizeModel"])
@pytest.mark.parametrize(
    ("file", "make", "words"),
    [
        ("page.safetensors", lambda path: path.write_bytes(b"<!DOCTYPE html><html>"), "web page"),
        ("model.ckpt", lambda path: path.write_bytes(b"PK\x03\x04" + bytes(64)), "pickle"),
        ("cut.safetensors", lambda path: path.write_bytes(b"\x40\0\0\0\0\0\0\0{"), "not complete"),
        ("hostile.safetensors", lambda path: raw_file(path, '{"a":1,"a":2}'), "twice"),
        ("empty.safetensors", lambda path: path.write_bytes(b""), "empty file"),
    ],
)
def test_a_bad_file_is_explained(
    client: Client, diffusion_models: Path, name: str, file: str, make: Any, words: str
) -> None:
    make(diffusion_models / file)
    error = client.fails({"node": node(name, model_name=file), **_end("node")})
    assert file in error["exception_message"]
    assert words in error["exception_message"]


def test_a_check_of_a_bad_file_is_a_verdict_and_no_error(client: Client, diffusion_models: Path) -> None:
    (diffusion_models / "page2.safetensors").write_bytes(b"<!DOCTYPE html><html>")
    prompt = {
        "check": node("CheckCompatibility", model_name="page2.safetensors"),
        "compatible": node("PreviewAny", source=["check", 1]),
    }
    outputs = client.run(prompt)
    assert outputs["compatible"]["text"] == ["False"]
    assert "web page" in outputs["check"]["managed_models_report"][0]


def test_a_file_that_vanished_after_queueing(client: Client, diffusion_models: Path) -> None:
    path = diffusion_models / "vanishing.safetensors"
    shutil.copy(diffusion_models / WAN, path)
    prompt = {
        "gone": node("PrimitiveString", value="vanishing.safetensors"),
        "name": node("MemoryReport", value=["gone", 0]),
        "model": node("LoadManagedModel", model_name=["name", 0]),
        **_end("model"),
    }
    path.unlink()
    assert "There is no model 'vanishing.safetensors'" in client.fails(prompt)["exception_message"]


@pytest.mark.parametrize("name", ["LoadManagedModel", "QuantizeModel"])
def test_a_lora_is_told_apart(client: Client, diffusion_models: Path, name: str) -> None:
    shapes_file(
        diffusion_models / "lora.safetensors",
        {"diffusion_model.blocks.0.self_attn.q.lora_A.weight": (8, 256)},
    )
    error = client.fails({"node": node(name, model_name="lora.safetensors"), **_end("node")})
    assert "LoRA" in error["exception_message"]


@pytest.mark.parametrize("output_name", ["../escaped", "sub/name", "sub\\name", "C:name", "a.ckpt", "a\nb"])
def test_an_output_name_with_a_path_is_refused(
    client: Client, diffusion_models: Path, output_name: str
) -> None:
    before = set(diffusion_models.parent.rglob("*"))
    error = client.fails({"small": node("QuantizeModel", model_name=WAN, output_name=output_name)})
    assert "output_name" in error["exception_message"]
    assert set(diffusion_models.parent.rglob("*")) == before


def test_another_file_of_that_name_is_left_alone(client: Client, diffusion_models: Path) -> None:
    other = shapes_file(diffusion_models / "mine.safetensors", {"x.weight": (4, 4)})
    content = other.read_bytes()
    prompt = {"small": node("QuantizeModel", model_name=WAN, format="int8", output_name="mine")}
    assert "exists already" in client.fails(prompt)["exception_message"]
    assert other.read_bytes() == content
    prompt["small"]["inputs"]["overwrite"] = True
    client.run(prompt)
    assert other.read_bytes() != content


def test_a_quantized_file_is_not_quantized_again(client: Client) -> None:
    client.run({"small": node("QuantizeModel", model_name=WAN, format="int8", output_name="once")})
    error = client.fails({"again": node("QuantizeModel", model_name="once.safetensors")})
    assert "quantized already" in error["exception_message"]
    assert "allow requantizing" in error["exception_message"]


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"target_size_gb": 6.0}, "the policy is recommended"),
        ({"policy": "size_budget"}, "no GPU is known here"),
        ({"policy": "size_budget", "target_size_gb": 0.01}, "smallest possible file"),
        ({"policy": "size_budget", "target_size_gb": 900.0}, "small enough"),
        ({"policy": "size_budget", "target_size_gb": 1.0, "layout": "scaled_fp8"}, "mixes formats"),
        ({"format": "nvfp4", "layout": "scaled_fp8"}, "older form of fp8"),
        ({"keep_patterns": "*"}, "keeps every layer"),
        ({"keep_patterns": "blocks"}, "would change"),
        ({"max_memory_gb": 0.0001, "output_name": "not_made_before"}, "max_memory_gb allows"),
    ],
)
def test_what_does_not_go_together_is_explained(client: Client, inputs: dict[str, Any], words: str) -> None:
    error = client.fails({"node": node("QuantizeModel", model_name=WAN, **inputs), **_end("node")})
    assert words in error["exception_message"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("target_size_gb", -1.0), ("max_memory_gb", 5000.0), ("format", "fp9"), ("quality", "x")],
)
def test_what_no_list_or_range_holds_is_refused_before_anything_runs(
    client: Client, key: str, value: Any
) -> None:
    prompt = {"node": node("QuantizeModel", model_name=WAN, **{key: value}), **_end("node")}
    answer = client.post("/prompt", {"prompt": prompt})
    assert answer.status_code == 400
    assert key in answer.text


def test_pressing_stop_leaves_nothing_behind(client: Client, diffusion_models: Path) -> None:
    big = diffusion_models / "big.safetensors"
    shapes = {f"blocks.{i}.ffn.0.weight": (4096, 8192) for i in range(40)}
    shapes |= {"head.modulation": (1, 2, 4096), "patch_embedding.weight": (4096, 16, 1, 2, 2)}
    shapes_file(big, shapes)
    prompt_id = client.queue({"small": node("QuantizeModel", model_name="big.safetensors", format="int8")})
    deadline = time.monotonic() + 30
    while not list(diffusion_models.glob("*.mmpart")):
        assert time.monotonic() < deadline, "the job never began to write"
        time.sleep(0.02)
    client.post("/interrupt", {})
    entry = client.wait(prompt_id)
    big.unlink()
    assert entry["status"]["status_str"] == "error"
    assert "execution_interrupted" in dict(entry["status"]["messages"])
    assert not list(diffusion_models.glob("big_int8*"))


def _end(name: str) -> dict[str, Any]:
    """An output node, so that the graph has one."""
    return {"end": node("PreviewAny", source=[name, 0])}
