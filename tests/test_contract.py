"""The names, defaults and shapes that other people's scripts rely on."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from managed_models import manager as package
from managed_models.manager import (
    AdvancedModelManager,
    ModelCompatibilityChecker,
    ModelInfo,
    ModelManagerConfig,
    ModelType,
    ModelVersionManager,
    QuantizationType,
)

ROOT = Path(__file__).resolve().parents[1]
PUBLIC = [
    "AdvancedModelManager",
    "ModelCompatibilityChecker",
    "ModelInfo",
    "ModelManagerConfig",
    "ModelType",
    "ModelVersionManager",
    "QuantizationType",
]


def test_public_names() -> None:
    assert package.__all__ == PUBLIC
    assert all(inspect.isclass(getattr(package, name)) for name in PUBLIC)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        package.Nothing  # noqa: B018


def test_config_defaults() -> None:
    found = {f.name: getattr(ModelManagerConfig(), f.name) for f in dataclasses.fields(ModelManagerConfig)}
    assert found == {
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


def test_model_info_fields_in_order_with_defaults() -> None:
    info = ModelInfo("name", ModelType.VAE, Path("a.safetensors"))
    assert [f.name for f in dataclasses.fields(ModelInfo)] == [
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
    assert info.version == "1.0.0"
    assert info.compatible_frameworks == ["pytorch"]
    assert info.required_extensions == []
    assert info.tags == []
    assert info.quantization is QuantizationType.NONE
    assert (info.size_gb, info.min_vram_gb, info.min_ram_gb, info.url, info.sha256) == (None,) * 5


def test_enumerations() -> None:
    assert [m.name for m in ModelType] == [
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
    assert list(QuantizationType.__members__) == [
        "NONE",
        "FP16",
        "BF16",
        "FP8_E4M3",
        "FP8",
        "FP8_E5M2",
        "INT8",
        "INT8_CONVROT",
        "MXFP8",
        "NVFP4",
        "W4A4",
        "W4A8",
        "GGUF",
    ]
    assert QuantizationType.FP8 is QuantizationType.FP8_E4M3


@pytest.mark.parametrize(
    ("cls", "methods"),
    [
        (
            AdvancedModelManager,
            [
                "register_model",
                "get_model_version",
                "set_active_version",
                "upgrade",
                "get_latest_model_version",
                "get_all_model_versions",
                "suggest_model_upgrade",
                "upgrade_details",
                "set_alias",
                "aliases",
                "check_model_compatibility",
                "get_system_info",
                "load_model",
                "enable_gradient_checkpointing",
                "unload_model",
                "download_model",
                "validate_model",
                "quantize_model",
                "get_memory_report",
                "list_models",
                "get_model",
                "unregister_model",
                "start_cleanup_task",
                "stop_cleanup_task",
            ],
        ),
        (ModelCompatibilityChecker, ["check_model_compatibility", "compare_versions", "get_system_info"]),
        (
            ModelVersionManager,
            [
                "register_version",
                "get_latest_version",
                "get_all_versions",
                "is_version_compatible",
                "suggest_upgrade",
            ],
        ),
    ],
)
def test_methods_are_plain_functions_with_a_docstring(cls: type, methods: list[str]) -> None:
    for name in methods:
        method = getattr(cls, name)
        assert callable(method), name
        assert not inspect.iscoroutinefunction(method), name
        assert method.__doc__, name


def test_api_and_help_need_neither_comfyui_nor_torch() -> None:
    script = f"""
import importlib.util, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "comfy", "comfy_api", "folder_paths", "server", "safetensors"):
            raise ImportError(f"{{name}} was imported")

sys.meta_path.insert(0, Refuse())
spec = importlib.util.spec_from_file_location("managed_models", {str(ROOT / "__init__.py")!r})
module = importlib.util.module_from_spec(spec)
sys.modules["managed_models"] = module
spec.loader.exec_module(module)
from managed_models.manager import *
manager = AdvancedModelManager()
from managed_models.manager.cli.app import app
from typer.testing import CliRunner
result = CliRunner().invoke(app, ["--help"])
assert result.exit_code == 0, result.output
print("fine", len(result.output) > 500)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "fine True", done.stderr
