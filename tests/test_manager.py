"""The Python API as a script uses it."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from managed_models.manager import (
    AdvancedModelManager,
    ModelCompatibilityChecker,
    ModelInfo,
    ModelManagerConfig,
    ModelType,
    ModelVersionManager,
    QuantizationType,
)
from managed_models.manager.demo import layouts
from managed_models.manager.demo.tiny import write_random_model
from managed_models.manager.errors import (
    AlreadyQuantized,
    BadInput,
    Incompatible,
    InvalidOutputName,
    ManagedModelsError,
    ModelNotFound,
    NotAvailable,
    NotPublic,
)
from managed_models.manager.host import ModelFile, SystemSnapshot
from managed_models.manager.local_host import LocalHost
from managed_models.manager.report import render_memory
from managed_models.manager.sharing import Sharing
from support.files import shapes_file
from support.machines import CPU_ONLY, nvidia

WAN = layouts.wan21_t2v(width=64, ffn=128, layers=1)


class Machine(LocalHost):
    """The bare machine, but with the memory and cards of another."""

    def __init__(self, snapshot: SystemSnapshot, roots: tuple[Path, ...] = ()) -> None:
        super().__init__(roots)
        self._snapshot = snapshot

    def system(self) -> SystemSnapshot:
        return self._snapshot


def info(name: str = "wan", version: str = "1.0.0", **facts: Any) -> ModelInfo:
    facts.setdefault("file_path", Path(f"/models/{name}-{version}.safetensors"))
    return ModelInfo(name, ModelType.DIFFUSION, version=version, **facts)


@pytest.fixture
def manager() -> AdvancedModelManager:
    return AdvancedModelManager()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A models folder, laid out like ComfyUI's, with one small model."""
    path = tmp_path / "models" / "diffusion_models" / "wan_bf16.safetensors"
    path.parent.mkdir(parents=True)
    write_random_model(path, WAN)
    return tmp_path / "models"


@pytest.fixture
def stocked(models: Path) -> AdvancedModelManager:
    return AdvancedModelManager(ModelManagerConfig(model_roots=[models]))


def until(condition: Callable[[], bool]) -> bool:
    """Wait for something that another thread does, with patience for a slow machine."""
    for _ in range(400):
        if condition():
            return True
        time.sleep(0.025)
    return condition()


# What the contract promises of the names


def test_the_settings_have_the_promised_defaults() -> None:
    config = ModelManagerConfig()
    assert {f.name: getattr(config, f.name) for f in fields(config)} == {
        "database_url": "sqlite:///:memory:",
        "model_roots": [],
        "max_ram_gb": None,
        "vram_reserve_gb": None,
        "keep_alive": "5m",
        "cleanup_interval_seconds": 60,
        "monitor_interval_seconds": 2.0,
        "share_stock_loaders": "auto",
        "auto_download": False,
        "allowed_hosts": ("huggingface.co", "civitai.com", "github.com"),
        "max_parallel_downloads": 2,
    }


def test_a_model_info_has_the_promised_fields_in_their_order() -> None:
    assert [f.name for f in fields(ModelInfo)] == [
        "name",
        "model_type",
        "file_path",
        "size_gb",
        "version",
        "min_vram_gb",
        "min_ram_gb",
        "compatible_frameworks",
        "required_extensions",
        "quantization",
        "min_torch_version",
        "url",
        "sha256",
        "license",
        "tags",
    ]
    plain = ModelInfo("wan", ModelType.DIFFUSION, Path("wan.safetensors"))
    assert (plain.version, plain.compatible_frameworks, plain.quantization) == (
        "1.0.0",
        ["pytorch"],
        QuantizationType.NONE,
    )
    assert (plain.size_gb, plain.min_vram_gb, plain.min_torch_version, plain.tags) == (None, None, None, [])


def test_the_promised_kinds_exist() -> None:
    assert [kind.name for kind in ModelType] == [
        "DIFFUSION",
        "CHECKPOINT",
        "TEXT_ENCODER",
        "VAE",
        "LORA",
        "CONTROLNET",
        "UPSCALER",
        "LATENT_UPSCALER",
        "CLIP_VISION",
        "AUDIO_ENCODER",
        "OTHER",
    ]
    assert QuantizationType.FP8 is QuantizationType.FP8_E4M3
    assert set(QuantizationType.__members__) == {
        "NONE",
        "FP16",
        "BF16",
        "FP8",
        "FP8_E4M3",
        "FP8_E5M2",
        "INT8",
        "INT8_CONVROT",
        "MXFP8",
        "NVFP4",
        "W4A4",
        "W4A8",
        "GGUF",
    }


@pytest.mark.parametrize(
    "cls", [AdvancedModelManager, ModelCompatibilityChecker, ModelVersionManager], ids=lambda c: c.__name__
)
def test_every_method_is_plain(cls: type) -> None:
    methods = dict(inspect.getmembers(cls, inspect.isfunction))
    assert len(methods) > 3
    assert [name for name, method in methods.items() if inspect.iscoroutinefunction(method)] == []


def test_importing_the_package_imports_no_torch() -> None:
    root = Path(__file__).resolve().parents[1]
    code = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("managed_models", {str(root / "__init__.py")!r})
module = sys.modules["managed_models"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from managed_models.manager import (AdvancedModelManager, ModelManagerConfig, ModelInfo, ModelType,
    QuantizationType, ModelCompatibilityChecker, ModelVersionManager)
manager = AdvancedModelManager()
manager.register_model(ModelInfo("a", ModelType.VAE, "a.safetensors"))
print(sorted({{"torch", "comfy", "safetensors"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    import managed_models.manager

    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        managed_models.manager.Nothing  # noqa: B018


# Versions


def test_a_script_registers_versions_and_reads_them_back(manager: AdvancedModelManager) -> None:
    for version in ("1.5.0", "1.10.0", "1.0.0", "2.0.0"):
        assert manager.register_model(info(version=version)) == []
    assert manager.get_model_version("wan") == "1.5.0"  # the first registered
    assert manager.get_latest_model_version("wan") == "2.0.0"
    assert manager.get_all_model_versions("wan") == ["1.0.0", "1.5.0", "1.10.0", "2.0.0"]
    assert manager.suggest_model_upgrade("wan") == "2.0.0"
    manager.set_active_version("wan", "1.10.0")
    assert manager.get_model_version("wan") == "1.10.0"
    active = manager.get_model("wan")
    assert active is not None
    assert (active.version, active.file_path) == ("1.10.0", Path("/models/wan-1.10.0.safetensors"))
    assert manager.upgrade("wan") == "2.0.0"
    assert manager.get_model_version("wan") == "2.0.0"
    assert manager.suggest_model_upgrade("wan") is None
    assert manager.upgrade("wan") is None


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (AdvancedModelManager.get_model_version, None),
        (AdvancedModelManager.get_latest_model_version, None),
        (AdvancedModelManager.get_all_model_versions, []),
        (AdvancedModelManager.suggest_model_upgrade, None),
        (AdvancedModelManager.upgrade, None),
        (AdvancedModelManager.get_model, None),
        (AdvancedModelManager.unregister_model, False),
    ],
)
def test_what_is_known_of_an_unknown_name(
    manager: AdvancedModelManager, ask: Callable[[AdvancedModelManager, str], Any], answer: Any
) -> None:
    assert ask(manager, "x") == answer


def test_a_prerelease_is_the_latest_only_when_there_is_nothing_else(manager: AdvancedModelManager) -> None:
    manager.register_model(info(version="2.0.0rc1"))
    assert manager.get_latest_model_version("wan") == "2.0.0rc1"
    manager.register_model(info(version="1.0.0"))
    assert manager.get_latest_model_version("wan") == "1.0.0"


def test_a_newer_version_that_this_machine_cannot_use_is_not_suggested() -> None:
    manager = AdvancedModelManager(host=Machine(nvidia(8.0)))
    manager.register_model(info(version="1.0.0"))
    manager.register_model(info(version="2.0.0", min_vram_gb=24.0))
    assert manager.suggest_model_upgrade("wan") is None
    assert manager.upgrade("wan") is None
    assert manager.get_model_version("wan") == "1.0.0"


def test_the_newest_version_that_fits_is_suggested_when_a_newer_one_does_not() -> None:
    manager = AdvancedModelManager(host=Machine(nvidia(8.0)))
    manager.register_model(info(version="1.0.0"))
    manager.register_model(info(version="1.5.0"))
    manager.register_model(info(version="2.0.0", min_vram_gb=24.0))
    assert manager.suggest_model_upgrade("wan") == "1.5.0"


def test_a_version_that_is_not_registered_cannot_be_active(manager: AdvancedModelManager) -> None:
    manager.register_model(info(version="1.0.0"))
    with pytest.raises(ModelNotFound, match=r"no version '3\.0\.0'; registered are 1\.0\.0"):
        manager.set_active_version("wan", "3.0.0")
    with pytest.raises(ModelNotFound, match="registered are none"):
        manager.set_active_version("flux", "1.0.0")
    assert manager.get_model_version("wan") == "1.0.0"


# Registering


def test_registering_never_raises_and_logs_every_issue(caplog: pytest.LogCaptureFixture) -> None:
    manager = AdvancedModelManager(host=Machine(CPU_ONLY))
    with caplog.at_level(logging.WARNING, logger="managed_models.manager"):
        issues = manager.register_model(
            info(version="the best", min_vram_gb=12.0, compatible_frameworks=["onnx"])
        )
    assert len(issues) == 3
    assert "PEP 440" in issues[0]
    assert "VRAM" in issues[1]
    assert "onnx" in issues[2]
    assert [record.getMessage() for record in caplog.records] == [f"wan the best: {i}" for i in issues]
    assert manager.get_model_version("wan") == "the best"


def test_a_model_may_be_registered_before_its_file_exists(
    models: Path, stocked: AdvancedModelManager
) -> None:
    later = models / "diffusion_models" / "later.safetensors"
    assert stocked.register_model(info("later", file_path=later)) == []
    with pytest.raises(ModelNotFound, match="is registered, and its file"):
        stocked.load_model("later")
    write_random_model(later, WAN)
    assert stocked.check("later").subject.size_bytes == later.stat().st_size
    assert set(stocked.load_model("later").model) == set(WAN)


def test_a_broken_file_is_an_issue_and_no_exception(models: Path, stocked: AdvancedModelManager) -> None:
    broken = models / "diffusion_models" / "broken.safetensors"
    broken.write_bytes(b"\x00" * 100)
    issues = stocked.register_model(info("broken", file_path=broken))
    assert len(issues) == 1
    assert "broken.safetensors is not a safetensors file" in issues[0]


def test_registering_a_version_again_replaces_what_was_said(manager: AdvancedModelManager) -> None:
    manager.register_model(info(tags=["old"], min_ram_gb=0.5))
    manager.register_model(info(tags=["new"]))
    assert manager.get_all_model_versions("wan") == ["1.0.0"]
    assert manager.get_model("wan") == info(tags=["new"])


def test_models_are_listed_by_name_with_their_active_version(manager: AdvancedModelManager) -> None:
    for model in (info("wan"), info("flux", "2.0.0"), info("flux", "3.0.0"), info("sd")):
        manager.register_model(model)
    assert [(m.name, m.version) for m in manager.list_models()] == [
        ("flux", "2.0.0"),
        ("sd", "1.0.0"),
        ("wan", "1.0.0"),
    ]


def test_unregistering_forgets_all_versions_and_keeps_the_files(
    models: Path, stocked: AdvancedModelManager
) -> None:
    path = models / "diffusion_models" / "wan_bf16.safetensors"
    stocked.register_model(info(version="1.0.0", file_path=path))
    stocked.register_model(info(version="2.0.0", file_path=path))
    assert stocked.unregister_model("wan") is True
    assert stocked.unregister_model("wan") is False
    assert stocked.get_all_model_versions("wan") == []
    assert stocked.list_models() == []
    assert path.exists()


def test_every_fact_survives_the_registry(manager: AdvancedModelManager) -> None:
    model = info(
        size_gb=28.6,
        min_vram_gb=12.0,
        min_ram_gb=0.5,
        compatible_frameworks=["pytorch", "comfyui"],
        required_extensions=["ComfyUI-GGUF"],
        quantization=QuantizationType.FP8,
        min_torch_version="2.1",
        url="https://huggingface.co/x",
        sha256="AB" * 32,
        license="apache-2.0",
        tags=["视频", "video"],
    )
    manager.register_model(model)
    assert manager.get_model("wan") == model


def test_a_registry_in_a_file_outlives_the_manager(tmp_path: Path) -> None:
    config = ModelManagerConfig(database_url=f"sqlite:///{tmp_path / 'registry.sqlite'}")
    first = AdvancedModelManager(config)
    first.register_model(info())
    first.close()
    second = AdvancedModelManager(config)
    assert second.get_model_version("wan") == "1.0.0"
    second.close()


def test_a_registry_in_memory_is_nobody_elses(manager: AdvancedModelManager) -> None:
    manager.register_model(info())
    assert AdvancedModelManager().get_model("wan") is None


# Judging


def test_a_model_that_needs_a_card_memory_and_fp8() -> None:
    model = info(min_vram_gb=12.0, min_ram_gb=16.0, quantization=QuantizationType.FP8)

    def verdict(snapshot: SystemSnapshot) -> tuple[bool, list[str]]:
        manager = AdvancedModelManager(host=Machine(snapshot))
        manager.register_model(model)
        return manager.check_model_compatibility("wan")

    assert verdict(nvidia(11.6, "8.9", free_gb=11.5, ram_gb=31.0)) == (True, [])
    compatible, issues = verdict(nvidia(11.6, "8.6", free_gb=11.5, ram_gb=31.0))
    assert compatible
    assert len(issues) == 1
    assert "fp8_e4m3 weights are not computed as they are here" in issues[0]
    compatible, issues = verdict(nvidia(8.0, "8.9", ram_gb=7.7))
    assert not compatible
    assert [words in issue for words, issue in zip(("VRAM", "RAM"), issues, strict=True)] == [True, True]
    compatible, issues = verdict(replace(CPU_ONLY, torch_version="2.0.0"))
    assert not compatible
    assert len(issues) == 2


def test_a_model_of_another_framework_is_not_compatible(manager: AdvancedModelManager) -> None:
    manager.register_model(info(compatible_frameworks=["tensorflow"]))
    compatible, issues = manager.check_model_compatibility("wan")
    assert not compatible
    assert "tensorflow" in issues[0]


@pytest.mark.parametrize(
    "name",
    [
        "x",
        "",
        "../no such model beside here",
        "no/such.safetensors",
        "https://huggingface.co/x",
        "a'b",
        pytest.param("n" * 300, id="longer than a file name may be"),
        pytest.param("~nobody-of-that-name/x", id="home of nobody"),
        pytest.param("nul\0byte", id="zero byte"),
        pytest.param("half a pair \ud800", id="half a surrogate pair"),
    ],
)
def test_an_unknown_name_is_not_registered(manager: AdvancedModelManager, name: str) -> None:
    assert manager.check_model_compatibility(name) == (False, [f"Model {name!r} is not registered"])


def test_a_file_of_the_model_folders_is_judged_without_being_registered(
    models: Path, stocked: AdvancedModelManager
) -> None:
    assert stocked.check_model_compatibility("wan_bf16.safetensors") == (True, [])
    assert stocked.check_model_compatibility(str(models / "diffusion_models" / "wan_bf16.safetensors")) == (
        True,
        [],
    )
    shapes_file(models / "diffusion_models" / "lora.safetensors", {"a.lora_down.weight": (4, 4)})
    assert [f.code for f in stocked.check("lora.safetensors").findings] == ["wrong_role"]


def test_what_was_registered_for_a_file_counts_under_its_file_name_too(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = models / "diffusion_models" / "wan_bf16.safetensors"
    manager = AdvancedModelManager(host=Machine(CPU_ONLY, (models,)))
    manager.register_model(info(file_path=path, min_vram_gb=12.0, version="2.1.0"))
    for reference in ("wan", "wan_bf16.safetensors", str(path)):
        details = manager.check(reference).to_dict()
        blockers = [f["code"] for f in details["findings"] if f["severity"] == "blocker"]
        assert (details["version"], blockers) == ("2.1.0", ["vram"])


def test_a_relative_path_means_the_same_file_as_its_full_path(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = models / "diffusion_models" / "wan_bf16.safetensors"
    manager = AdvancedModelManager(host=Machine(CPU_ONLY, (models,)))
    manager.register_model(info(file_path=path, min_vram_gb=12.0, version="2.1.0"))
    monkeypatch.chdir(models)
    details = manager.check(os.path.join("diffusion_models", path.name)).to_dict()
    blockers = [f["code"] for f in details["findings"] if f["severity"] == "blocker"]
    assert (details["version"], blockers) == ("2.1.0", ["vram"])


def test_a_check_of_a_file_object(models: Path, stocked: AdvancedModelManager) -> None:
    path = models / "diffusion_models" / "wan_bf16.safetensors"
    report = stocked.check_file(ModelFile("vae", "wan_bf16.safetensors", path))
    assert [f.code for f in report.findings] == ["wrong_role"]


def test_the_system_info_is_json(manager: AdvancedModelManager) -> None:
    facts = manager.get_system_info()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["total_ram_gb"] > 0
    assert isinstance(facts["gpu_devices"], list)


# Whole files


def test_a_whole_file_is_valid(models: Path, stocked: AdvancedModelManager) -> None:
    path = models / "diffusion_models" / "wan_bf16.safetensors"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    stocked.register_model(info(file_path=path, sha256=digest.upper()))
    assert stocked.validate_model("wan") == (True, [])
    details = stocked.verify(path)
    assert (details["checked"], details["sha256"]) == (["header", "SHA-256"], digest)


def test_a_file_with_another_hash_is_not_valid(models: Path, stocked: AdvancedModelManager) -> None:
    path = models / "diffusion_models" / "wan_bf16.safetensors"
    stocked.register_model(info(file_path=path, sha256="0" * 64))
    valid, problems = stocked.validate_model("wan")
    assert not valid
    assert "0" * 64 in problems[0]
    assert stocked.validate_model("wan_bf16.safetensors") == (valid, problems)


def test_a_file_that_was_cut_short_is_not_valid(models: Path, stocked: AdvancedModelManager) -> None:
    path = models / "diffusion_models" / "wan_bf16.safetensors"
    os.truncate(path, path.stat().st_size - 1)
    valid, problems = stocked.validate_model("wan_bf16.safetensors")
    assert not valid
    assert "missing" in problems[0]


def test_a_file_that_is_not_there_is_not_valid(manager: AdvancedModelManager) -> None:
    manager.register_model(info())
    valid, problems = manager.validate_model("wan")
    assert not valid
    assert "no file at" in problems[0]


# Memory


def test_a_model_is_loaded_listed_and_unloaded(models: Path, stocked: AdvancedModelManager) -> None:
    path = models / "diffusion_models" / "wan_bf16.safetensors"
    stocked.register_model(info(file_path=path))
    parts = stocked.load_model("wan", weight_dtype="fp16")
    assert {str(t.dtype) for t in parts.model.values()} == {"torch.float16"}
    report = stocked.get_memory_report()
    assert [m["title"] for m in report["models"]] == ["wan_bf16"]
    assert "wan_bf16" in render_memory(report)
    assert stocked.unload_model("wan") is True
    (kept,) = stocked.get_memory_report()["models"]  # by this test, which still has it
    assert kept["pooled"] is False
    del parts
    assert stocked.unload_model("wan") is False
    assert stocked.get_memory_report()["models"] == []


def test_a_model_unloaded_from_vram_only_stays_in_ram(stocked: AdvancedModelManager) -> None:
    stocked.load_model("wan_bf16.safetensors")
    before = stocked.get_memory_report()["models"]
    assert stocked.unload_model("wan_bf16.safetensors", vram_only=True) is True
    after = stocked.get_memory_report()["models"]
    assert [m["id"] for m in after] == [m["id"] for m in before]
    assert after[0]["pooled"] is True


def test_unloading_everything_needs_nobody_else(stocked: AdvancedModelManager) -> None:
    stocked.load_model("wan_bf16.safetensors")
    stocked.pin_model("wan_bf16.safetensors")
    stocked.unload_all()
    assert stocked.get_memory_report()["models"] == []
    stocked.load_model("wan_bf16.safetensors")
    (again,) = stocked.get_memory_report()["models"]
    assert again["pinned"] is True  # what a person said stays said
    stocked.pin_model("wan_bf16.safetensors", False)
    assert stocked.get_memory_report()["models"][0]["pinned"] is False


def test_a_version_of_a_registered_model_is_loaded(models: Path, stocked: AdvancedModelManager) -> None:
    folder = models / "diffusion_models"
    for version, seed in (("1.0.0", 1), ("1.5.0", 2)):
        write_random_model(folder / f"{version}.safetensors", WAN, seed)
        stocked.register_model(info(version=version, file_path=folder / f"{version}.safetensors"))

    def first_weight(version: str) -> float:
        return float(stocked.load_model("wan", version=version).model["head.head.weight"][0, 0])

    assert first_weight("") == first_weight("1.0.0") != first_weight("latest")
    assert first_weight("~=1.5") == first_weight("latest") == first_weight("1.5.0")
    with pytest.raises(ModelNotFound, match="no version that satisfies"):
        stocked.load_model("wan", version="9.0")


def test_loading_an_unknown_model(manager: AdvancedModelManager) -> None:
    with pytest.raises(ModelNotFound):
        manager.load_model("x")
    with pytest.raises(ModelNotFound):
        manager.unload_model("x")


def test_a_registered_model_that_does_not_fit_is_not_loaded_when_told_so(models: Path) -> None:
    manager = AdvancedModelManager(host=Machine(CPU_ONLY, (models,)))
    path = models / "diffusion_models" / "wan_bf16.safetensors"
    manager.register_model(info(file_path=path, min_vram_gb=80.0))
    assert manager.check_model_compatibility("wan")[0] is False
    with pytest.raises(Incompatible):
        manager.load_model("wan", on_misfit="error")


# Making and getting files


def test_a_model_is_quantized_beside_itself(models: Path, stocked: AdvancedModelManager) -> None:
    path = models / "diffusion_models" / "wan_bf16.safetensors"
    stocked.register_model(info(file_path=path))
    details = stocked.quantize_model("wan", format="int8")
    assert details["path"] == str(path.with_name("wan_int8.safetensors"))
    assert "wan_int8.safetensors" in stocked.library.options(["diffusion_models"])
    named = stocked.quantize_model("wan_bf16.safetensors", "mine", format="int8", policy="everything")
    assert named["output"] == "mine.safetensors"
    assert stocked.quantize_model("wan", format="int8")["reused"]
    with pytest.raises(AlreadyQuantized):
        stocked.quantize_model("mine.safetensors")
    with pytest.raises(InvalidOutputName):
        stocked.quantize_model("wan", "../mine")
    hashed = stocked.library.find(f"sha256:{details['source_sha256']}")
    assert hashed.path == path


def test_an_address_is_checked_and_nothing_else(manager: AdvancedModelManager) -> None:
    with pytest.raises(NotPublic):
        manager.check("https://localhost/model.safetensors")
    with pytest.raises(NotAvailable):
        manager.load_model("hf:owner/repo/model.safetensors")


# Folders


def test_model_roots_are_laid_out_like_comfyuis_or_in_any_way(models: Path, tmp_path: Path) -> None:
    other = tmp_path / "loras"
    shapes_file(_made(other) / "style.safetensors", {"a.lora_down.weight": (4, 4)})
    plain = tmp_path / "stuff"
    shapes_file(_made(plain / "deep") / "thing.safetensors", {"a": (4, 4)})
    manager = AdvancedModelManager(ModelManagerConfig(model_roots=[models, str(other), plain]))
    assert manager.library.names() == [
        ("diffusion_models", "wan_bf16.safetensors"),
        ("loras", "style.safetensors"),
        ("stuff", os.path.join("deep", "thing.safetensors")),
    ]
    assert manager.check_model_compatibility("style.safetensors") == (True, [])


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def test_model_roots_may_start_at_home(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(models.parent))
    monkeypatch.setenv("USERPROFILE", str(models.parent))
    manager = AdvancedModelManager(ModelManagerConfig(model_roots=["~/models"]))
    assert manager.library.names() == [("diffusion_models", "wan_bf16.safetensors")]


@pytest.mark.parametrize(
    "settings",
    [
        {"database_url": "postgresql://localhost/x"},
        {"keep_alive": "a while"},
        {"cleanup_interval_seconds": 0},
        {"max_ram_gb": -1},
        {"max_parallel_downloads": 0},
    ],
)
def test_a_wrong_setting_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(BadInput) as caught:
        ModelManagerConfig(**settings)
    assert next(iter(settings)) in str(caught.value)


# Threads and loops


def test_one_manager_serves_several_threads(stocked: AdvancedModelManager) -> None:
    def work(number: int) -> tuple[str | None, bool]:
        name = f"model {number % 5}"
        stocked.register_model(info(name, f"1.{number}.0"))
        stocked.get_memory_report()
        return stocked.get_model_version(name), stocked.check_model_compatibility("wan_bf16.safetensors")[0]

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(work, range(40)))
    assert all(version is not None and compatible for version, compatible in answers)
    assert {name: len(stocked.get_all_model_versions(name)) for name in stocked.registry.names()} == {
        f"model {number}": 8 for number in range(5)
    }


def test_the_same_manager_works_inside_a_running_loop(stocked: AdvancedModelManager) -> None:
    async def script() -> tuple[bool, list[str]]:
        stocked.register_model(info())
        assert stocked.get_model_version("wan") == "1.0.0"
        stocked.load_model("wan_bf16.safetensors")
        stocked.get_memory_report()
        return await asyncio.to_thread(stocked.check_model_compatibility, "wan_bf16.safetensors")

    assert asyncio.run(script()) == (True, [])
    assert stocked.get_model_version("wan") == "1.0.0"


def _leave_behind(folder: Path, pid: int, hours_old: float) -> Path:
    path = folder / f"wan.safetensors.{pid}-0a1b2c3d.mmpart"
    path.write_bytes(b"half a model")
    then = time.time() - hours_old * 3600
    os.utime(path, (then, then))
    return path


def _dead_process() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_the_cleanup_task_removes_what_a_killed_run_left(
    models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = models / "diffusion_models"
    stale = _leave_behind(folder, _dead_process(), 2)
    busy = _leave_behind(folder, os.getpid(), 2)
    fresh = _leave_behind(folder / "..", _dead_process(), 0)
    manager = AdvancedModelManager(ModelManagerConfig(model_roots=[models], cleanup_interval_seconds=0.02))
    with caplog.at_level(logging.INFO, logger="managed_models.manager"):
        manager.start_cleanup_task()
        manager.start_cleanup_task()  # idempotent
        threads = [t for t in threading.enumerate() if t.name == "managed-models-cleanup"]
        assert len(threads) == 1
        assert threads[0].daemon
        assert until(lambda: not stale.exists())
    manager.stop_cleanup_task()
    manager.stop_cleanup_task()
    assert until(lambda: not threads[0].is_alive())
    assert busy.exists()
    assert fresh.exists()
    assert (folder / "wan_bf16.safetensors").exists()
    assert until(lambda: any("left behind" in record.getMessage() for record in caplog.records))


def test_the_cleanup_task_of_a_running_loop_is_a_task_of_it(models: Path) -> None:
    stale = _leave_behind(models / "diffusion_models", _dead_process(), 2)
    manager = AdvancedModelManager(ModelManagerConfig(model_roots=[models], cleanup_interval_seconds=0.02))

    async def script() -> int:
        before = asyncio.all_tasks()
        manager.start_cleanup_task()
        manager.start_cleanup_task()
        started = len(asyncio.all_tasks() - before)
        for _ in range(400):
            if not stale.exists():
                break
            await asyncio.sleep(0.025)
        manager.stop_cleanup_task()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before
        return started

    assert asyncio.run(script()) == 1
    assert not stale.exists()


def test_the_cleanup_task_can_start_again_after_its_loop_is_gone(models: Path) -> None:
    manager = AdvancedModelManager(ModelManagerConfig(model_roots=[models], cleanup_interval_seconds=0.02))

    async def script() -> None:
        manager.start_cleanup_task()
        await asyncio.sleep(0)

    asyncio.run(script())
    manager.start_cleanup_task()  # outside any loop now: a thread
    assert any(t.name == "managed-models-cleanup" for t in threading.enumerate())
    manager.close()
    assert until(lambda: all(t.name != "managed-models-cleanup" for t in threading.enumerate()))


def test_stopping_what_never_started_does_nothing(manager: AdvancedModelManager) -> None:
    manager.stop_cleanup_task()
    manager.close()
    assert manager.list_models() == []


def test_every_refusal_is_one_of_ours(manager: AdvancedModelManager) -> None:
    """A script can catch one class."""
    refused = 0
    for ask in (manager.load_model, manager.unload_model, manager.quantize_model, manager.validate_model):
        with pytest.raises(ManagedModelsError):
            ask("nothing like it")
        refused += 1
    assert refused == 4


# Settings


def test_settings_of_memory_can_be_changed_while_running(manager: AdvancedModelManager) -> None:
    asked: list[str] = []

    def apply(setting: str) -> Sharing:
        asked.append(setting)
        return Sharing(True, "It is on.")

    manager.apply_sharing = apply
    manager.change_settings(keep_alive="30s", max_ram_gb=2, share_stock_loaders="on")
    assert (manager.config.keep_alive, manager.config.max_ram_gb) == ("30s", 2)
    assert asked == ["on"]
    assert manager.sharing.active


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"database_url": "sqlite:///x"}, "database_url cannot be changed"),
        ({"no_such": 1}, "no_such cannot be changed"),
        ({"keep_alive": "soon"}, "not a length of time"),
        ({"keep_alive": "1s", "max_ram_gb": -1}, "max_ram_gb is -1"),
        ({"share_stock_loaders": "maybe"}, "share_stock_loaders is 'maybe'"),
    ],
)
def test_a_setting_that_is_no_good_changes_nothing(
    manager: AdvancedModelManager, changes: dict[str, Any], words: str
) -> None:
    before = manager.config
    with pytest.raises(BadInput, match=words):
        manager.change_settings(**changes)
    assert manager.config is before
