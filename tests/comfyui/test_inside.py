"""What has to be seen from inside ComfyUI's process: our adapter, and whether both detections agree."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from host_contract import CHECKS
from managed_models.manager.demo import layouts
from managed_models.manager.identify.architectures import ARCHITECTURES
from support.comfyui import ComfyUI
from support.files import shapes_file
from support.gguf_files import gguf_file

pytestmark = pytest.mark.comfyui
GGUF_LAYOUT = layouts.wan21_t2v(width=256, ffn=512, layers=2)
RUNNER = Path(__file__).with_name("inside") / "runner.py"


def run_inside(comfyui: ComfyUI, module: str, base: Path) -> dict[str, Any]:
    """Run one module of ``inside`` over ``base`` and return its result."""
    (base / "custom_nodes").mkdir(exist_ok=True)
    done = subprocess.run(
        [str(comfyui.python), str(RUNNER), str(comfyui.path), module, str(base)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, done.stdout[-2000:] + done.stderr[-4000:]
    return dict(json.loads(lines[-1].removeprefix("RESULT ")))


@pytest.fixture(scope="module")
def contract(comfyui: ComfyUI, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    base = tmp_path_factory.mktemp("inside")
    shutil.copytree(tiny_models, base / "models")
    return run_inside(comfyui, "host", base)


@pytest.mark.parametrize("check", CHECKS)
def test_comfy_host_keeps_the_contract(contract: dict[str, Any], check: str) -> None:
    assert contract[check] == ""


@pytest.fixture(scope="module")
def verdicts(comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_inside(comfyui, "architectures", tmp_path_factory.mktemp("architectures"))


@pytest.mark.parametrize("architecture", [row.id for row in ARCHITECTURES])
def test_our_table_agrees_with_comfyui(verdicts: dict[str, Any], architecture: str) -> None:
    verdict = verdicts[architecture]
    assert "error" not in verdict, verdict
    row = next(row for row in ARCHITECTURES if row.id == architecture)
    assert row.comfy_class == verdict["expected"]
    for form, role in (("bare", "diffusion"), ("checkpoint", "checkpoint")):
        found = verdict[form]
        assert found["comfyui"] == verdict["expected"], form
        assert found["ours"] == found["with_host"] == architecture, form
        assert found["our_prefix"] == found["prefix"], form
        assert found["role"] == role


def test_comfyui_reads_the_same_dimensions_from_packed_layers(verdicts: dict[str, Any]) -> None:
    packed = {name: verdict.get("packed") for name, verdict in verdicts.items()}
    assert not {name for name, same in packed.items() if same is False}
    assert sum(same is True for same in packed.values()) > len(packed) / 2


@pytest.fixture(scope="module")
def judged(comfyui: ComfyUI, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    base = tmp_path_factory.mktemp("remote")
    (base / "models" / "diffusion_models" / "sub").mkdir(parents=True)
    (base / "models" / "text_encoders").mkdir()
    files = [
        *sorted((tiny_models / "diffusion_models").glob("*.safetensors")),
        *sorted((tiny_models / "checkpoints").glob("*.safetensors")),
        gguf_file(base / "models" / "diffusion_models" / "sub" / "w.gguf", GGUF_LAYOUT, "wan", flatten=True),
        gguf_file(base / "models" / "text_encoders" / "t.gguf", {"token_embd.weight": (4, 256)}, "t5"),
        shapes_file(
            base / "fp8.safetensors",
            GGUF_LAYOUT | {"blocks.0.ffn.0.weight_scale": (), "blocks.0.ffn.0.comfy_quant": (30,)},
            {"blocks.0.ffn.0.weight": "F8_E4M3", "blocks.0.ffn.0.comfy_quant": "U8"},
        ),
    ]
    (base / "files.json").write_text(json.dumps([str(file) for file in files]))
    return run_inside(comfyui, "remote", base)


def test_detection_sees_the_same_from_afar(judged: dict[str, Any]) -> None:
    both = {name: found for name, found in judged.items() if name.endswith((".safetensors", ".gguf"))}
    assert len(both) >= 5
    for name, found in both.items():
        if name == "fp8.safetensors":  # its marker's bytes are zeros here, and unread from afar
            assert found["here"]["file"] == "broken"
            assert found["remote"]["identity"]["architecture"] == "wan-t2v"
            assert found["remote"]["identity"]["precision"] == "fp8_e4m3fn, scaled"
            continue
        assert found["remote"]["identity"] == found["here"]["identity"], name
        assert found["remote"]["remote"]["requests"] == 1


def test_gguf_files_are_listed_where_their_extension_would_look(judged: dict[str, Any]) -> None:
    names = [(kind, name.replace("\\", "/")) for kind, name in judged["listed"]]
    assert names == [("unet_gguf", "sub/w.gguf"), ("clip_gguf", "t.gguf")]
    assert judged["located"] == ["w.gguf", "t.gguf"]
