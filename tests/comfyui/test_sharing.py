"""One copy of each model, shared by managed and stock loaders, in a real ComfyUI."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.comfy_client import SURROUNDINGS, Client, node, relative_l2, sampler
from support.comfyui import ComfyUI, ComfyUIServer

pytestmark = pytest.mark.comfyui

ROOT = Path(__file__).resolve().parents[2]
PROBE = ROOT / "tests" / "comfyui" / "probe"

WAN = "tiny_wan21_t2v_bf16.safetensors"
FLUX = "tiny_flux_bf16.safetensors"
CHECKPOINT = "tiny_sd15_checkpoint_bf16.safetensors"
OWN = {"X-Managed-Models": "1"}


class Reads:
    """Which files ComfyUI has read since this was made, or since its start (0)."""

    def __init__(self, base: Path, start: int | None = None) -> None:
        self._log = base / "probe.jsonl"
        self._start = len(self._lines()) if start is None else start

    def count(self) -> Counter[str]:
        notes = [json.loads(line) for line in self._lines()[self._start :]]
        return Counter(Path(note["path"]).name for note in notes if note["kind"] == "read")

    def _lines(self) -> list[str]:
        return self._log.read_text().splitlines() if self._log.exists() else []


@pytest.fixture
def reads(client: Client) -> Reads:
    client.free()
    return Reads(client.base)


@pytest.fixture
def own_wan(client: Client) -> Iterator[str]:
    """A Wan model of this test's own."""
    folder = client.base / "models" / "diffusion_models"
    name = "own_wan.safetensors"
    shutil.copy(folder / WAN, folder / name)
    yield name
    (folder / name).unlink(missing_ok=True)


def models(client: Client) -> list[dict[str, Any]]:
    return list(client.get("/managed-models/status").json()["memory"]["models"])


def titles(client: Client) -> list[str]:
    return sorted(model["title"] for model in models(client))


def until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return condition()


def workflow(kind: str, loader: dict[str, Any], seed: int = 1, name: str = "shared") -> dict[str, Any]:
    prompt = {"model": loader, **SURROUNDINGS[kind], **sampler(["model", 0], name)}
    prompt[name]["inputs"]["seed"] = seed
    return prompt


def stock(name: str, weight_dtype: str = "default") -> dict[str, Any]:
    return node("UNETLoader", unet_name=name, weight_dtype=weight_dtype)


def managed(name: str, **inputs: Any) -> dict[str, Any]:
    return node("LoadManagedModel", model_name=name, **inputs)


# Sharing


@pytest.mark.parametrize("loader", [stock, managed])
def test_switching_between_workflows_reads_each_file_once(
    client: Client, reads: Reads, loader: Callable[[str], dict[str, Any]]
) -> None:
    for seed in range(2):
        client.run(workflow("wan", loader(WAN), seed))
        client.run(workflow("flux", loader(FLUX), seed))
    assert reads.count() == {WAN: 1, FLUX: 1}


def test_what_a_stock_loader_loaded_lives_on_in_comfyuis_own_list(client: Client, reads: Reads) -> None:
    """ComfyUI calls a model dead when a patcher of its list is gone and has no parent."""
    log = client.base / "comfyui.log"
    start = len(log.read_bytes())
    for seed in range(2):
        client.run(workflow("wan", stock(WAN), seed))
        client.run(workflow("flux", stock(FLUX), seed))  # ComfyUI lets go of the other one's output here
    assert reads.count() == {WAN: 1, FLUX: 1}
    assert "memory leak" not in log.read_bytes()[start:].decode(errors="replace")


@pytest.mark.parametrize("first", [stock, managed])
def test_a_managed_and_a_stock_loader_of_one_file_share_one_copy(
    client: Client, reads: Reads, first: Callable[[str], dict[str, Any]]
) -> None:
    second = managed if first is stock else stock
    client.run(workflow("wan", first(WAN), name="first"))
    client.run(workflow("wan", second(WAN), name="second"))
    assert reads.count() == {WAN: 1}
    assert relative_l2(client.latent("second"), client.latent("first")) == 0
    assert [model["title"] for model in models(client)] == [Path(WAN).stem]
    alive = client.run({"count": node("CountModels")})["count"]["alive"]
    assert alive == ["WAN21"]


def test_other_options_are_another_copy(client: Client, reads: Reads) -> None:
    client.run(workflow("wan", stock(WAN)))
    client.run(workflow("wan", stock(WAN, "fp8_e4m3fn")))
    client.run(workflow("wan", managed(WAN, weight_dtype="fp8_e4m3fn")))
    assert reads.count() == {WAN: 2}


def test_a_checkpoint_is_shared_with_all_its_parts(client: Client, reads: Reads) -> None:
    for seed, loader in enumerate(
        (node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT), managed(CHECKPOINT))
    ):
        prompt = workflow("sd15", loader, seed)
        prompt["decode"] = node("VAEDecode", samples=["shared", 0], vae=["model", 2])
        prompt["picture"] = node("PreviewImage", images=["decode", 0])
        client.run(prompt)
        client.run(workflow("flux", managed(FLUX), seed))
    assert reads.count() == {CHECKPOINT: 1, FLUX: 1}


def test_a_name_over_a_link_is_shared_from_the_second_time_on(client: Client, reads: Reads) -> None:
    for seed in range(2):
        prompt = workflow("wan", node("UNETLoader", unet_name=["small", 0], weight_dtype="default"), seed)
        prompt["small"] = node("QuantizeModel", model_name=WAN, format="int8", output_name="linked_int8")
        client.run(prompt)
        client.run(workflow("flux", managed(FLUX), seed))
    assert reads.count()["linked_int8.safetensors"] == 1
    client.run(workflow("wan", managed("linked_int8.safetensors"), 3))
    assert reads.count()["linked_int8.safetensors"] == 1


def test_a_stock_loader_behind_a_check_shares_though_the_check_runs_each_time(
    client: Client, reads: Reads
) -> None:
    for seed in range(3):
        prompt = workflow("wan", node("UNETLoader", unet_name=["small", 0], weight_dtype="default"), seed)
        prompt["check"] = node("CheckCompatibility", model_name=WAN)
        prompt["small"] = node(
            "QuantizeModel", model_name=["check", 0], format="int8", output_name="checked_int8"
        )
        assert {"check", "small"} <= client.executed(prompt)
    assert reads.count()["checked_int8.safetensors"] == 1
    assert all(model["pooled"] for model in models(client))


def test_a_patch_in_one_workflow_does_not_reach_another(client: Client, reads: Reads) -> None:
    plain = workflow("wan", managed(WAN), name="plain")
    client.run(plain)
    write_lora(client.base / "models" / "loras" / "strong.safetensors")
    patched = workflow("wan", managed(WAN), name="patched")
    patched["lora"] = node(
        "LoraLoaderModelOnly", model=["model", 0], lora_name="strong.safetensors", strength_model=1.0
    )
    patched["patched"]["inputs"]["model"] = ["lora", 0]
    client.run(patched)
    client.run(workflow("flux", managed(FLUX)))
    client.run(workflow("wan", stock(WAN), name="plain_again"))
    assert reads.count()[WAN] == 1
    assert relative_l2(client.latent("patched"), client.latent("plain")) > 0.01
    assert relative_l2(client.latent("plain_again"), client.latent("plain")) == 0


def write_lora(path: Path) -> None:
    """A LoRA of rank 1 that changes one layer of the tiny Wan model a lot."""
    import torch
    from safetensors.torch import save_file

    layer = "diffusion_model.blocks.0.self_attn.o"
    path.parent.mkdir(exist_ok=True)
    torch.manual_seed(0)
    save_file(
        {f"{layer}.lora_A.weight": torch.randn(1, 256), f"{layer}.lora_B.weight": torch.randn(256, 1)}, path
    )


# Files and faults


def test_a_replaced_file_is_a_new_model_and_the_old_one_goes(
    client: Client, reads: Reads, own_wan: str
) -> None:
    client.run(workflow("wan", managed(own_wan), name="before"))
    folder = client.base / "models" / "diffusion_models"
    shutil.copy(folder / WAN, folder / "next")
    with open(folder / "next", "r+b") as file:
        file.seek(-4096, 2)
        file.write(bytes(4096))
    (folder / "next").replace(folder / own_wan)
    client.run(workflow("wan", managed(own_wan), name="after"))
    assert reads.count() == {own_wan: 2}
    assert relative_l2(client.latent("after"), client.latent("before")) > 0
    client.run(workflow("flux", managed(FLUX)))
    assert until(lambda: titles(client) == ["own_wan", Path(FLUX).stem])


def test_a_model_whose_file_is_deleted_stays_until_it_is_let_go_of(
    client: Client, reads: Reads, own_wan: str
) -> None:
    client.run(workflow("wan", managed(own_wan)))
    (client.base / "models" / "diffusion_models" / own_wan).unlink()
    words = client.refused(workflow("wan", managed(own_wan), 2))
    assert own_wan in words
    client.run(workflow("flux", managed(FLUX)))
    assert "own_wan" in titles(client)
    client.free()


def test_a_load_that_fails_leaves_the_books_true(client: Client, reads: Reads, own_wan: str) -> None:
    path = client.base / "models" / "diffusion_models" / own_wan
    path.write_bytes(path.read_bytes()[:-100])
    error = client.fails(workflow("wan", managed(own_wan)))
    assert own_wan in error["exception_message"]
    assert models(client) == []
    client.run(workflow("wan", managed(WAN)))
    assert titles(client) == [Path(WAN).stem]


def test_an_interrupt_during_a_load_leaves_the_books_true(client: Client, reads: Reads) -> None:
    delay = client.base / "probe.jsonl.delay"
    delay.write_text("1.5")
    try:
        prompt_id = client.queue(workflow("wan", managed(WAN), 11))
        assert until(lambda: reads.count()[WAN] == 1)
        client.post("/interrupt", {})
        entry = client.wait(prompt_id)
    finally:
        delay.unlink()
    assert "execution_interrupted" in dict(entry["status"]["messages"])
    client.run(workflow("wan", managed(WAN), 12))
    assert titles(client) == [Path(WAN).stem]
    assert client.run({"count": node("CountModels")})["count"]["alive"] == ["WAN21"]


def test_a_clone_that_another_extension_keeps(client: Client, reads: Reads) -> None:
    prompt = {"model": managed(WAN), "keep": node("KeepModel", model=["model", 0], keep=True)}
    client.run(prompt)
    client.post("/free", {"unload_models": True, "free_memory": True})
    try:
        client.run(workflow("flux", managed(FLUX)))
        assert Path(WAN).stem in titles(client), "its memory is in use, whoever has it"
        alive = client.run({"count": node("CountModels")})["count"]["alive"]
        assert alive == ["Flux", "WAN21"]
    finally:
        client.run({"keep": node("KeepModel", keep=False)})
    client.free()
    assert client.run({"count": node("CountModels")})["count"]["alive"] == []


# How long models stay


def test_free_model_and_node_cache_empties_the_pool(client: Client, reads: Reads) -> None:
    client.run(workflow("wan", managed(WAN, keep_alive="forever")))
    client.run(workflow("flux", stock(FLUX)))
    assert len(models(client)) == 2
    client.post("/api/free", {"unload_models": True, "free_memory": True})
    assert until(lambda: models(client) == [])
    assert client.run({"count": node("CountModels")})["count"]["alive"] == []


def test_an_idle_model_goes_when_its_time_is_up(client: Client, reads: Reads) -> None:
    client.run(workflow("wan", managed(WAN, keep_alive="1s")))
    time.sleep(1.5)
    assert titles(client) == [Path(WAN).stem], "ComfyUI's cache of outputs has it still"
    client.run(workflow("flux", managed(FLUX)))
    assert until(lambda: titles(client) == [Path(FLUX).stem], 5)


def test_a_pinned_model_outstays_its_time(client: Client, reads: Reads) -> None:
    client.run(workflow("wan", managed(WAN, keep_alive="0")))
    (wan,) = models(client)
    answer = client.post("/managed-models/pin", {"id": wan["id"], "pinned": True}, **OWN)
    assert answer.status_code == 200, answer.text
    client.run(workflow("flux", managed(FLUX)))
    time.sleep(3)
    assert Path(WAN).stem in titles(client)
    client.post("/managed-models/pin", {"id": wan["id"], "pinned": False}, **OWN)
    assert until(lambda: titles(client) == [Path(FLUX).stem], 5)


# Other servers


def another_server(
    comfyui: ComfyUI, client: Client, base: Path, arguments: Sequence[str] = (), **settings: object
) -> ComfyUIServer:
    """A second ComfyUI over the same models and the same registry."""
    base.mkdir()
    (base / "models").symlink_to(client.base / "models", target_is_directory=True)
    server = ComfyUIServer(
        comfyui,
        base,
        arguments=["--cpu", *arguments],
        environment={
            "MANAGED_MODELS_DB": str(client.base / "registry.sqlite"),
            "MANAGED_MODELS_PROBE": str(base / "probe.jsonl"),
        },
    )
    server.install_extension(ROOT)
    server.install_extension(PROBE, "probe")
    server.write_settings(**{f"managed_models.{name}": value for name, value in settings.items()})
    return server


def test_a_second_server_has_a_pool_of_its_own_and_a_small_budget_stops_nothing(
    comfyui: ComfyUI, client: Client, reads: Reads, tmp_path: Path
) -> None:
    client.run(workflow("wan", managed(WAN)))
    with another_server(comfyui, client, tmp_path / "second", max_ram_gb=0.001) as server:
        second = Client(server.url, server.base)
        for seed in range(2):
            second.run(workflow("wan", managed(WAN), seed))
            second.run(workflow("flux", managed(FLUX), seed))
        assert until(lambda: titles(second) == [Path(FLUX).stem]), "one model alone is over the budget"
        assert Reads(server.base, 0).count() == {WAN: 2, FLUX: 2}
        assert titles(client) == [Path(WAN).stem]
    assert reads.count() == {WAN: 1}


def test_without_a_cache_of_outputs_managed_loaders_share_alone(
    comfyui: ComfyUI, client: Client, tmp_path: Path
) -> None:
    with another_server(comfyui, client, tmp_path / "second", ["--cache-none"]) as server:
        second = Client(server.url, server.base)
        for seed in range(2):
            second.run(workflow("wan", managed(WAN), seed))
            second.run(workflow("flux", stock(FLUX), seed))
        assert Reads(server.base, 0).count() == {WAN: 1, FLUX: 2}
        assert server.log.read_text().count("--cache-none, which asks no provider") == 1
