"""Unloading in a real ComfyUI: nothing is copied on the way that nobody needs, and nobody is forgotten."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from comfyui.test_server_routes import OTHER, OWN
from managed_models.manager.demo import layouts
from managed_models.manager.demo.tiny import write_random_model
from managed_models.manager.formats.safetensors import read_header
from managed_models.manager.identify import identify
from managed_models.manager.quantize.request import QuantizeRequest
from managed_models.manager.quantize.service import Quantizer
from support.comfy_client import SURROUNDINGS, Client, node, sampler
from support.comfyui import ComfyUIServer

pytestmark = pytest.mark.comfyui

WAN = "tiny_wan21_t2v_bf16.safetensors"
SD15 = "tiny_sd15_checkpoint_bf16.safetensors"
ALL = {"all": True}
LARGE = layouts.wan21_t2v(width=1536, ffn=6144, layers=4)


@pytest.fixture(scope="module")
def quantized(comfy_server: ComfyUIServer) -> Iterator[Path]:
    """A quantized model of some 200 MB, large beside what a server allocates by the way."""
    folder = comfy_server.base / "models" / "diffusion_models"
    source, target = folder / "large.safetensors", folder / "large_fp8.safetensors"
    write_random_model(source, LARGE)
    Quantizer(lambda path: identify(read_header(path))).quantize(source, target, QuantizeRequest())
    source.unlink()
    yield target
    target.unlink()


@pytest.fixture
def empty(client: Client) -> Iterator[None]:
    client.free()
    client.run(OTHER)  # a worker that was clearing up hears of it only after a prompt
    yield
    client.free()


def sampled(kind: str, model: dict[str, Any], name: str) -> dict[str, Any]:
    return {"model": model, **SURROUNDINGS[kind], **sampler(["model", 0], name)}


def managed(name: str) -> dict[str, Any]:
    return node("LoadManagedModel", model_name=name)


def loaded(client: Client) -> list[str]:
    found = client.get("/managed-models/status").json()["memory"]["loaded"]
    return sorted(model["title"] for model in found)


def unload(client: Client, wanted: dict[str, Any]) -> dict[str, Any]:
    answers: list[requests.Response] = []

    def answered() -> bool:
        answers.append(client.post("/managed-models/unload", wanted, **OWN))
        return answers[-1].status_code != 409  # ComfyUI still clears up after a prompt

    wait_for(answered)
    assert answers[-1].status_code == 200, answers[-1].text
    return dict(answers[-1].json())


# Copies


class Peak:
    """How much a process grew at most since this was made, kept by the system: no sampling misses it."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        (self._folder / "clear_refs").write_text("5")  # the peak begins anew
        self._start = self._bytes("VmRSS")

    def growth(self) -> int:
        return self._bytes("VmHWM") - self._start

    def _bytes(self, name: str) -> int:
        lines = (self._folder / "status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the system keeps no such peak")
@pytest.mark.parametrize(("loader", "what"), [("managed", "all"), ("stock", "all"), ("managed", "one")])
def test_a_quantized_model_is_let_go_of_without_a_copy(
    client: Client, comfy_server: ComfyUIServer, quantized: Path, empty: None, loader: str, what: str
) -> None:
    """ComfyUI by itself copies every quantized weight of a CPU's model out of its mapped file first."""
    size = quantized.stat().st_size
    stock = node("UNETLoader", unet_name=quantized.name, weight_dtype="default")
    model = stock if loader == "stock" else managed(quantized.name)
    prompt = sampled("wan", model, "quantized")
    prompt["quantized"]["inputs"]["steps"] = 1
    client.run(prompt)
    peak = Peak(comfy_server.pid)
    found = unload(client, ALL if what == "all" else {"model": quantized.name})
    if what == "all":
        assert (found["still_in_ram_bytes"], found["scheduled"]) == (0, False)
        assert loaded(client) == []
    else:
        assert found["still_in_ram_bytes"] > 0.9 * size, "ComfyUI's cache of results has it"
    assert peak.growth() < 0.2 * size


# Everything


def test_a_model_that_somebody_keeps_is_unloaded_all_the_same(client: Client, empty: None) -> None:
    keep = {"keep": node("KeepModel", model=["model", 0], keep=True)}
    client.run(sampled("wan", managed(WAN), "kept") | keep)
    try:
        unload(client, ALL)
        seen = client.run({"count": node("CountModels")})["count"]
        assert (seen["alive"], seen["loaded"]) == (["WAN21"], [])
    finally:
        client.run({"keep": node("KeepModel", keep=False)})


def test_everything_goes_after_the_prompt_that_runs(client: Client, empty: None) -> None:
    with slow_loads(client):
        running = client.queue(sampled("wan", managed(WAN), "running"))
        wait_for(lambda: client.get("/queue").json()["queue_running"])
        unload(client, ALL)
        client.wait(running)
    wait_for(lambda: loaded(client) == [])
    seen = client.run({"count": node("CountModels")})["count"]
    assert (seen["alive"], seen["loaded"]) == ([], [])


@pytest.mark.parametrize("share_stock_loaders", ["auto", "off"])  # off: nobody tells when a prompt starts
def test_the_prompt_after_the_one_that_runs_keeps_its_models(
    client: Client, empty: None, share_stock_loaders: str
) -> None:
    with setting(client, share_stock_loaders=share_stock_loaders), slow_loads(client):
        running = client.queue(sampled("sd15", managed(SD15), "first"))
        following = client.queue(sampled("wan", managed(WAN), "second"))
        wait_for(lambda: client.get("/queue").json()["queue_running"])
        unload(client, ALL)
        client.wait(running)
        client.wait(following)
    time.sleep(1.5)  # for a thread that would have tried again
    found = client.get("/managed-models/status").json()["memory"]["loaded"]
    assert [(model["title"], model["pooled"]) for model in found] == [(Path(WAN).stem, True)]


@contextmanager
def setting(client: Client, **settings: str) -> Iterator[None]:
    """Change settings that are ``auto`` otherwise."""
    assert client.post("/managed-models/settings", settings, **OWN).status_code == 200
    try:
        yield
    finally:
        client.post("/managed-models/settings", dict.fromkeys(settings, "auto"), **OWN)


@contextmanager
def slow_loads(client: Client) -> Iterator[None]:
    """Make every load take a second (see the probe)."""
    delay = client.base / "probe.jsonl.delay"
    delay.write_text("1")
    try:
        yield
    finally:
        delay.unlink()


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
