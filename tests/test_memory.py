"""What memory holds, as one snapshot."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from managed_models.manager.host import (
    DeviceUse,
    Gpu,
    LoadRequest,
    ProcessMemory,
    ResidentModel,
    SystemSnapshot,
)
from managed_models.manager.local_host import LocalHost
from managed_models.manager.memory import memory_report, unload
from managed_models.manager.model import ModelType
from managed_models.manager.monitor import Monitor
from managed_models.manager.pool import ModelPool
from managed_models.manager.registry import Registry
from managed_models.manager.report import render_memory
from managed_models.manager.units import GB
from support.files import shapes_file
from support.machines import APPLE, CPU_ONLY, ROCM, nvidia


class Machine(LocalHost):
    """The bare machine with another's cards, holding these models."""

    def __init__(
        self,
        snapshot: SystemSnapshot,
        models: Sequence[ResidentModel] = (),
        process: ProcessMemory = ProcessMemory(3 * GB, GB),  # noqa: B008
    ) -> None:
        super().__init__()
        self._snapshot, self._models, self._process = snapshot, models, process
        self.uses = [
            DeviceUse(f"cuda:{i}", gpu.name, gpu.total_bytes, gpu.free_bytes, (3 + i) * GB, GB)
            for i, gpu in enumerate(snapshot.gpus)
        ]

    def system(self) -> SystemSnapshot:
        return self._snapshot

    def resident(self) -> Sequence[ResidentModel]:
        return self._models

    def device_use(self) -> Sequence[DeviceUse]:
        return self.uses

    def ram_headroom(self) -> int:
        return 6 * GB

    def memory(self) -> ProcessMemory:
        return self._process


def resident(device: str, loaded_gb: int = 2, ram_gb: int = 1) -> ResidentModel:
    return ResidentModel(
        "7", "wan", Path("/models/wan.safetensors"), device, 4 * GB, loaded_gb * GB, ram_gb * GB
    )


def test_the_report_has_every_figure_in_bytes() -> None:
    details = memory_report(Machine(nvidia(24.0, free_gb=20.0, ram_gb=64.0), [resident("cuda:0")]))
    assert json.loads(json.dumps(details)) == details
    assert details == {
        "host": "ComfyUI 0.33.0",
        "devices": [
            {
                "device": "cuda:0",
                "name": "NVIDIA GeForce",
                "backend": "cuda",
                "total_bytes": 24 * GB,
                "free_bytes": 20 * GB,
                "models_bytes": 2 * GB,
                "torch_bytes": 3 * GB,
                "others_bytes": GB,
            }
        ],
        "ram": {
            "total_bytes": 64 * GB,
            "available_bytes": int(57.6 * GB),
            "headroom_bytes": 6 * GB,
            "process_bytes": 3 * GB,
            "mapped_bytes": GB,
            "anonymous_bytes": 2 * GB,
        },
        "models": [
            {
                "id": "7",
                "title": "wan",
                "path": str(Path("/models/wan.safetensors")),
                "device": "cuda:0",
                "size_bytes": 4 * GB,
                "loaded_bytes": 2 * GB,
                "ram_bytes": GB,
                "kind": "static",
                "file_bytes": 0,
                "pooled": False,
                "pinned": False,
                "busy": False,
                "held": None,
                "idle_seconds": None,
                "expires_in": None,
            }
        ],
        "history": None,
        "warning": None,
        "post_mortem": None,
    }


def test_what_a_dynamic_model_has_nowhere_else_is_in_its_file() -> None:
    models = [replace(resident("cuda:0", 2, 1), kind=kind) for kind in ("dynamic", "static", "GGUF")]
    details = memory_report(Machine(nvidia(), models))
    assert [m["file_bytes"] for m in details["models"]] == [GB, 0, 0]
    assert "wan: 2.0 GB on cuda:0, 1.0 GB in RAM, 1.0 GB read from its file when needed (dynamic)" in (
        render_memory(details)
    )


def test_the_use_of_several_cards_is_told_apart() -> None:
    details = memory_report(Machine(nvidia(cards=3)))
    assert [(d["device"], d["torch_bytes"]) for d in details["devices"]] == [
        ("cuda:0", 3 * GB),
        ("cuda:1", 4 * GB),
        ("cuda:2", 5 * GB),
    ]


def test_a_card_that_the_host_does_not_describe() -> None:
    machine = Machine(nvidia())
    machine.uses = []
    (device,) = memory_report(machine)["devices"]
    assert (device["device"], device["torch_bytes"], device["others_bytes"]) == (None, None, None)


def test_what_the_pool_knows_of_its_models(tmp_path: Path) -> None:
    path = shapes_file(tmp_path / "model.safetensors", {"a.weight": (16, 16)}, "F32")
    host, seconds = LocalHost(), [0.0]
    pool = ModelPool(host, keep_alive=300, clock=lambda: seconds[0])
    handle = pool.get(LoadRequest(path, ModelType.DIFFUSION))
    seconds[0] = 20.0

    def facts() -> dict[str, Any]:
        (model,) = memory_report(host, pool)["models"]
        keys = ("pooled", "pinned", "busy", "held", "idle_seconds", "expires_in")
        return {key: model[key] for key in keys}

    known = {"pooled": True, "pinned": False, "busy": False, "held": True}
    assert facts() == known | {"idle_seconds": 20.0, "expires_in": 280.0}
    del handle
    pool.pin(path)
    assert facts() == known | {"pinned": True, "held": False, "idle_seconds": 20.0, "expires_in": None}


def test_the_monitor_adds_the_time_until_now(tmp_path: Path) -> None:
    host, registry = LocalHost(), Registry()
    pool = ModelPool(host)
    monitor = Monitor(host, pool, registry)
    assert memory_report(host, pool, monitor)["history"] is None
    monitor.look()
    details = memory_report(host, pool, monitor, 60)
    assert json.loads(json.dumps(details)) == details
    assert (details["history"]["seconds"], details["history"]["samples"]) == (60, 1)
    assert details["history"]["ram_peak_bytes"] == details["history"]["points"]["ram_bytes"][0] > 0
    registry.close()


@pytest.mark.parametrize(
    ("system", "device", "on"),
    [
        (nvidia(cards=2), "cuda:0", [2, 0]),
        (nvidia(cards=2), "cuda:1", [0, 2]),
        (nvidia(cards=2), "cuda", [2, 0]),  # torch's name of the first card
        (nvidia(cards=2), "cpu", [0, 0]),
        (ROCM, "cuda:0", [2]),  # torch calls AMD's cards cuda too
        (APPLE, "mps", [2]),
        (APPLE, "mps:0", [2]),
        (replace(ROCM, gpus=(Gpu("Arc", "xpu", 16 * GB, None),)), "xpu:0", [2]),
        (CPU_ONLY, "cpu", []),
    ],
)
def test_models_are_counted_on_the_device_that_holds_them(
    system: SystemSnapshot, device: str, on: list[int]
) -> None:
    details = memory_report(Machine(system, [resident(device)]))
    assert [d["models_bytes"] for d in details["devices"]] == [gb * GB for gb in on]


def test_models_on_one_device_add_up() -> None:
    models = [resident("cuda:0", 2), resident("cuda:0", 3), resident("cpu", 5)]
    assert memory_report(Machine(nvidia(), models))["devices"][0]["models_bytes"] == 5 * GB


def test_where_the_mapped_part_is_unknown_so_is_the_rest() -> None:
    ram = memory_report(Machine(CPU_ONLY, process=ProcessMemory(3 * GB, None)))["ram"]
    assert (ram["process_bytes"], ram["mapped_bytes"], ram["anonymous_bytes"]) == (3 * GB, None, None)


def test_a_model_of_unknown_origin_has_no_path() -> None:
    model = replace(resident("cpu"), path=None)
    assert memory_report(Machine(CPU_ONLY, [model]))["models"][0]["path"] is None


def test_this_machine_right_now(tmp_path: Path) -> None:
    path = shapes_file(tmp_path / "model.safetensors", {"a.weight": (1024, 1024)}, "F32")
    host = LocalHost()
    parts = host.load(LoadRequest(path, ModelType.DIFFUSION))
    details = memory_report(host)
    assert details["host"] == "this machine"
    assert details["ram"]["total_bytes"] == psutil.virtual_memory().total
    assert 0 < details["ram"]["process_bytes"] < details["ram"]["total_bytes"]
    if os.name == "posix" and psutil.LINUX:
        assert (
            details["ram"]["anonymous_bytes"] + details["ram"]["mapped_bytes"]
            == (details["ram"]["process_bytes"])
        )
    (model,) = details["models"]
    assert (model["title"], model["device"], model["ram_bytes"]) == ("model", "cpu", 4 * 1024**2)
    assert "model: 4.0 MB in RAM" in render_memory(details)
    del parts
    assert memory_report(host)["models"] == []


def test_the_pool_lets_go_of_a_model_before_its_device_does(tmp_path: Path) -> None:
    """What nobody has by then need not be copied to RAM."""
    pytest.importorskip("torch")

    class Card(LocalHost):
        seen: tuple[str, ...] = ()

        def unload(self, ids: Sequence[str]) -> Mapping[str, int]:
            self.seen = tuple(model.id for model in self.resident())
            return {}

    host = Card()
    pool = ModelPool(host)
    path = shapes_file(tmp_path / "wan.safetensors", {"weight": (8, 8)})
    pool.get(LoadRequest(path, ModelType.DIFFUSION))
    (model,) = host.resident()
    assert unload(host, pool, [model.id], vram_only=True).still_in_ram_bytes == model.ram_bytes
    assert host.seen == (model.id,)
    assert unload(host, pool, [model.id], vram_only=False).ram_bytes == model.ram_bytes
    assert host.seen == ()
