"""What a GGUF file is."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Kind
from managed_models.manager.compatibility import Finding, ModelCompatibilityChecker, Severity, Subject, assess
from managed_models.manager.demo import layouts
from managed_models.manager.errors import InvalidGguf
from managed_models.manager.identify import ModelIdentity, read_identity
from managed_models.manager.identify.gguf import has_unnamed_types
from managed_models.manager.model import ModelType, QuantizationType
from managed_models.manager.report import identity_lines
from support.files import shapes_file
from support.gguf_files import gguf_file
from support.machines import CPU_ONLY

WAN = layouts.wan21_t2v(width=256, ffn=512, layers=2)
TEXT = {"token_embd.weight": (32, 256), "enc.blk.0.attn_q.weight": (256, 256)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


@pytest.mark.parametrize("architecture", ["wan", "", "pig"])
@pytest.mark.parametrize("flatten", [False, True])
def test_a_diffusion_model_is_recognised_by_its_tensors(path: Path, architecture: str, flatten: bool) -> None:
    found = read_identity(gguf_file(path, WAN, architecture, flatten=flatten))
    assert (found.role, found.architecture) == (ModelType.DIFFUSION, "wan-t2v")
    assert found.quantization is QuantizationType.GGUF
    assert found.precision == "GGUF Q4_K"


def test_it_counts_as_the_same_model_in_safetensors(path: Path, tmp_path: Path) -> None:
    found = read_identity(gguf_file(path, WAN, "wan", Kind.F16))
    same = read_identity(shapes_file(tmp_path / "a.safetensors", WAN, "F16"))
    assert found.parameters == same.parameters
    assert found.tensor_count == same.tensor_count


def test_types_are_counted(path: Path) -> None:
    found = read_identity(gguf_file(path, {"blocks.0.a.weight": (4, 512), "head.bias": (7,)}, "wan"))
    assert found.dtypes == {"Q4_K": 2048, "F32": 7}
    assert found.quantized_layers == 1
    assert found.weight_bytes == 2048 // 256 * 144 + 28
    assert found.quantization_layout == "gguf"


def test_what_only_the_file_says_is_said_to_be_its_word(path: Path) -> None:
    found = read_identity(gguf_file(path, {"x.weight": (4, 256)}, "hidream"))
    assert (found.role, found.architecture) == (ModelType.DIFFUSION, None)
    assert found.title == "HiDream I1"
    assert found.detected_by == "the file itself"


@pytest.mark.parametrize(("architecture", "title"), [("t5encoder", "T5 text encoder"), ("", "text encoder")])
def test_text_encoders(path: Path, architecture: str, title: str) -> None:
    found = read_identity(gguf_file(path, TEXT, architecture))
    assert (found.role, found.title) == (ModelType.TEXT_ENCODER, title)


def test_what_nobody_knows_is_unknown(path: Path) -> None:
    found = read_identity(gguf_file(path, {"x.weight": (4, 256)}, "mamba"))
    assert found.role is ModelType.OTHER
    assert found.title == "unknown (mamba)"
    assert found.seen == ("x.weight",)
    assert not judge(found)[0]


def test_it_survives_the_registry(path: Path) -> None:
    found = read_identity(gguf_file(path, WAN, "wan"))
    assert ModelIdentity.from_dict(found.to_dict()) == found


def test_a_broken_one_is_refused(path: Path) -> None:
    path.write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(InvalidGguf, match="version is 0"):
        read_identity(path)


def judge(
    identity: ModelIdentity, extensions: tuple[str, ...] = (), knows: bool = True
) -> tuple[bool, dict[str, Finding]]:
    system = replace(CPU_ONLY, extensions=extensions, knows_comfyui=knows)
    report = assess(Subject("m.gguf", None, None, identity, 1), system)
    return report.compatible, {finding.code: finding for finding in report.findings}


@pytest.mark.parametrize(
    ("extensions", "knows", "severity", "words"),
    [
        (("ComfyUI-GGUF",), True, Severity.NOTE, "ComfyUI-GGUF, which is installed"),
        (("comfyui-gguf-main",), True, Severity.NOTE, "comfyui-gguf-main, which is installed"),
        (("Other",), True, Severity.BLOCKER, "which is not installed"),
        ((), False, Severity.NOTE, "not known here"),
    ],
)
def test_the_extension_that_loads_it_is_named(
    path: Path, extensions: tuple[str, ...], knows: bool, severity: Severity, words: str
) -> None:
    compatible, findings = judge(read_identity(gguf_file(path, WAN, "wan")), extensions, knows)
    assert findings["gguf"].severity is severity
    assert words in findings["gguf"].message
    assert "Unet Loader (GGUF)" in findings["gguf"].remedy
    assert compatible == (severity is Severity.NOTE)
    assert "gguf_package" not in findings


def test_a_text_encoder_is_sent_to_its_own_loader(path: Path) -> None:
    _, findings = judge(read_identity(gguf_file(path, TEXT, "t5")))
    assert "CLIPLoader (GGUF)" in findings["gguf"].remedy


def test_without_the_package_it_says_how_to_get_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf_file(path, WAN, "wan")
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.setitem(sys.modules, "gguf.constants", None)
    found = read_identity(path)
    assert (found.architecture, found.quantization) == ("wan-t2v", QuantizationType.GGUF)
    assert has_unnamed_types(found)
    assert 0 < found.weight_bytes < path.stat().st_size
    assert "pip install --upgrade gguf" in judge(found)[1]["gguf_package"].remedy
    assert ", GGUF," in identity_lines(found.to_dict(), 1)[0]


def test_the_checker_reads_it_without_a_library(path: Path) -> None:
    gguf_file(path, WAN, "wan")
    report = ModelCompatibilityChecker().report_file("m", path, ModelType.DIFFUSION)
    assert report.subject.identity is not None
    assert report.subject.identity.quantization is QuantizationType.GGUF
